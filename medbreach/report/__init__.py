"""Run record to report: html, json, text, junit. Each is a pure function of the record."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from medbreach.errors import ConfigError
from medbreach.record import RunRecord
from medbreach.report.html import render_html
from medbreach.report.junit import render_junit
from medbreach.report.machine import render_json
from medbreach.report.plain import render_text
from medbreach.settings import nearest
from medbreach.storage import speaking_of, write_whole

Renderer = Callable[[RunRecord, bool], str]

FILES: Final = {
    "html": "report.html",
    "json": "report.json",
    "text": "report.txt",
    "junit": "report.xml",
}
_RENDERERS: dict[str, Renderer] = {
    "html": render_html,
    "json": render_json,
    "text": render_text,
    "junit": render_junit,
}


def render(record: RunRecord, form: str, *, redact: bool = False) -> str:
    """Return a run's report.

    Args:
        record: The run.
        form: ``html``, ``json``, ``text`` or ``junit``.
        redact: Leave every image out, and the paths of images and weights.

    Raises:
        ConfigError: There is no such format.
        RecordError: The record is damaged.
    """
    if form not in _RENDERERS:
        raise ConfigError(f"there is no report format {form!r}; {nearest(form, _RENDERERS)}")
    return _RENDERERS[form](record, redact)


def write(text: str, form: str, folder: Path, *, redact: bool = False) -> Path:
    """Write a report; return its file. A redacted one has another name, and replaces no other.

    Raises:
        RecordError: It cannot be written.
    """
    name = Path(FILES[form])
    file = folder / (f"{name.stem}-redacted{name.suffix}" if redact else name)
    with speaking_of(file):
        write_whole(file, text.encode())
    return file


def write_reports(record: RunRecord) -> tuple[Path, ...]:
    """Write the reports that every finished run has: the page and its numbers."""
    return tuple(write(render(record, form), form, record.folder) for form in ("html", "json"))
