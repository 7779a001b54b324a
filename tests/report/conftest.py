"""Records of real audits to render, and copies of them to spoil."""

import json
import shutil
from html.parser import HTMLParser

import pytest
import torch

from medbreach import config
from medbreach.record import FINDINGS, HEADER, RunRecord
from medbreach.session import carry_out, header, prepare

VOID = {"meta", "img", "br", "hr", "input", "link"}


def audited(folder, *settings):
    """Run an audit; return its record."""
    chosen = config.load(settings, None)
    session = prepare(chosen, torch.device("cpu"))
    record = RunRecord.create(folder, header(session, chosen, settings))
    assert list(carry_out(session, record))
    return record


@pytest.fixture
def run_audit():
    """Return a function that runs an audit of some settings into a folder."""
    return audited


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """An audit of four dermoscopy patches against a malicious server, two seeds."""
    return audited(
        tmp_path_factory.mktemp("runs") / "photographs",
        "case=dermoscopy_2d",
        "case/server=malicious-model-rtf",
        "attack=imprint",
        "audit.seeds=2",
        "audit.public=60",
        "audit.null_draws=20",
    )


@pytest.fixture(scope="session")
def volumes(tmp_path_factory):
    """An audit of blocks of a brain MR volume against a malicious server."""
    return audited(
        tmp_path_factory.mktemp("runs") / "volumes",
        "case=brain_mr_3d",
        "case/server=malicious-model-rtf",
        "attack=imprint",
        "case.user.num_data_points=4",
        "audit.null_draws=20",
    )


@pytest.fixture
def edit(tmp_path):
    """Return a function that copies a record and lets others change its header and findings."""

    def edited(record, change_header=None, change_lines=None):
        folder = tmp_path / "edited"
        shutil.copytree(record.folder, folder)
        head = json.loads((folder / HEADER).read_text())
        lines = [json.loads(line) for line in (folder / FINDINGS).read_text().splitlines()]
        if change_header is not None:
            change_header(head)
        if change_lines is not None:
            lines = change_lines(lines)
        (folder / HEADER).write_text(json.dumps(head))
        (folder / FINDINGS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return RunRecord.open(folder)

    return edited


@pytest.fixture
def changed(edit):
    """Return a function that copies a record and changes fields of one kind of its findings."""

    def of_role(record, role, **fields):
        def change(lines):
            return [line | fields if line["role"] == role else line for line in lines]

        return edit(record, change_lines=change)

    return of_role


class Page(HTMLParser):
    """A page read strictly: every element is closed where it should be.

    Attributes:
        elements: Tag, attributes and text of each element, in order of their beginning.
    """

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        opened = self._open.pop()[0]
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, text):
        for element in self._open:
            element[2].append(text)

    def all(self, tag, kind=None):
        """Return attributes and text of every element with this tag and class."""
        return [
            (attributes, " ".join("".join(text).split()))
            for found, attributes, text in self.elements
            if found == tag and (kind is None or kind in attributes.get("class", "").split())
        ]

    def texts(self, tag, kind=None):
        """Return the text of every element with this tag and class."""
        return [text for _, text in self.all(tag, kind)]


@pytest.fixture
def read_page():
    """Return a function that reads a page strictly."""
    return Page
