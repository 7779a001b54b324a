"""The DKFZ setting: the published rule, what is measured beside it, and the table."""

import csv
import html
import io
import json
from dataclasses import replace

import pytest
import torch
from running import run_program

from medbreach.assembly import assemble
from medbreach.attacks.imprint_readout import ImprintReadout
from medbreach.case import draw
from medbreach.config import load
from medbreach.errors import DataError, NotApplicable, RecordError
from medbreach.randomness import Seeds
from medbreach.recovery import psnr_table, recovery
from medbreach.reproductions import dkfz, run
from medbreach.reproductions.dkfz import METHODS, lines_of, measure, plan_of, records_each
from medbreach.reproductions.dkfz_rule import rule_score
from medbreach.reproductions.dkfz_setting import Setting
from medbreach.reproductions.line import Line
from medbreach.reproductions.run import reproduce
from medbreach.reproductions.tables import COLUMNS, as_csv, as_html, as_text
from medbreach.servers import room
from medbreach.servers.secrets import ImprintSecret
from medbreach.testing.examples import CPU, tiny_collection
from medbreach.types import ImageSpec

SPEC = ImageSpec(1, (4, 4), bounds=(-10.0, 30.0))


def images(*levels):
    """Return an image of one intensity each, from 0 (black) to 1."""
    return torch.stack([torch.full(SPEC.shape, -10 + 40 * level) for level in levels])


# The published rule.


def test_the_rule_gives_a_claim_to_the_record_that_it_is_nearest_to():
    truth, public = images(0.0, 0.9), images(1.0)
    assert rule_score(images(0.05, 0.1), truth, public, SPEC).claims == 1
    assert rule_score(images(0.05, 0.8), truth, public, SPEC).claims == 2
    assert rule_score(images(0.45), truth, public, SPEC).claims == 0


def test_the_rule_accepts_a_black_image_for_dark_records():
    truth, public = images(0.0, 0.31, 0.32, 1.0), images(0.2, 0.6)
    score = rule_score(images(0.5), truth, public, SPEC)
    assert score.black == 2  # 0.31 squared is below 0.1, 0.32 squared is not
    assert score.mean == 2  # 0.4 is within 0.316 of the two in the middle


# What is measured beside it.


def test_psnr_of_every_claim_to_every_record():
    found = psnr_table(images(0.0, 0.5), images(0.1, 0.5), SPEC)
    assert found.shape == (2, 2)
    assert found[0].tolist() == pytest.approx([20.0, 6.0206], abs=1e-3)
    assert found[1, 1] > 100


def test_a_claim_shows_one_record_and_a_record_needs_a_claim_of_its_own():
    near = torch.tensor([[50.0, 45.0, 10.0], [50.0, 10.0, 10.0], [12.0, 13.0, 14.0]])
    assert recovery(near, 40.0) == (3, 3, 2, 1)
    assert recovery(near[:1], 40.0) == (3, 1, 1, 0)
    assert recovery(near[:0], 40.0) == (3, 0, 0, 0)


def test_as_many_records_as_there_are_patients_for():
    collection = tiny_collection((16, 16), 1)
    assert records_each(collection, 2) == (40 - 13 - dkfz.DECOYS) // 2
    assert records_each(collection, 1) == 15
    with pytest.raises(DataError, match="40 patients are too few for 20 clients"):
        records_each(collection, 20)


@pytest.mark.parametrize("bounds", [(0.0, 1000.0), (-1000.0, 1000.0)])
def test_the_forks_network_sees_intensities_from_0_to_1(bounds):
    base = ("case=brain_mr_2d", "case.model=small_cnn")
    collection = assemble(load(base)).case.dataset.open()
    collection = replace(collection, spec=replace(collection.spec, bounds=bounds))
    plan = plan_of(
        Setting("dkfz_2d"), Line("images", "fork", 2, each=4, rows=24), base, collection.spec
    )
    sample = draw(plan.case, collection, Seeds(0), decoys=4, public=8)
    ends = torch.tensor(bounds).reshape(2, 1, 1, 1).expand(2, *collection.spec.shape)
    assert sample.spec.normalise(ends)[:, 0, 0, 0].tolist() == pytest.approx([0, 1])


# The table.


@pytest.fixture
def short(monkeypatch):
    """Two methods, one seed, two clients, a small network."""
    kept = {name: dkfz.METHODS[name] for name in ("fork", "peeling")}
    monkeypatch.setattr(dkfz, "METHODS", kept)
    monkeypatch.setattr(Setting, "clients", (2,))
    monkeypatch.setattr(Setting, "rows", 24)
    images = ("case=dermoscopy_2d", "case.model=small_cnn")
    monkeypatch.setattr(Setting, "forms", {"images": images})
    monkeypatch.setattr(dkfz, "RECORDS", 5)
    return Setting("dkfz_2d", seeds=1)


def test_peeling_beats_the_fork_and_the_table_says_so(short):
    fork, peeling = measure(short, lines_of(short), CPU)
    assert fork.records == peeling.records == 10
    assert peeling.shown >= 9
    assert peeling.false == 0
    assert peeling.shown > fork.shown
    assert peeling.controls == ""
    assert len(peeling.pictures) == 4
    text = as_text(short, [fork, peeling])
    best = f"peeling shows the most, {10 * peeling.shown} % of the records at 30 dB or more"
    assert best in " ".join(text.split())
    assert "cannot be reproduced" in text
    table = list(csv.reader(io.StringIO(as_csv(short, [fork, peeling]))))
    assert table[0][: len(COLUMNS)] == list(COLUMNS)
    assert table[2][COLUMNS.index("false claims")] == f"0 of {peeling.claims}"
    assert dict(zip(*table[:2], strict=True))["image size"] == "32 x 32 pixels in 3 channels"
    page = as_html(short, [fork, peeling])
    assert page.count("data:image/png") == 16
    assert "<script" not in page


def written(setting, line):
    """Return the table as text and as a page, each as one line of words."""
    tables = as_text(setting, [line]), html.unescape(as_html(setting, [line]))
    return [" ".join(table.split()) for table in tables]


def test_tables_say_what_they_were_measured_on(short):
    setting = replace(short, name="dkfz_3d", quick=True)
    base = ("case=brain_mr_3d", "case.model=small_cnn")
    collection = assemble(load(base)).case.dataset.open()
    plan = plan_of(setting, Line("volumes", "fork", 2, each=4, rows=24), base, collection.spec)
    line = dkfz._described(Line("volumes", "fork", 2, each=4, rows=24), plan, collection)
    for table in written(setting, line):
        for word in ("brain_mr", "8 x 16 x 16 voxels", "small_cnn", "2 x 4", "24", "one person's"):
            assert word in table
    assert "brain_mr" in as_csv(setting, [line])


def test_tables_say_what_differs_from_the_notebooks():
    quick = Setting("dkfz_2d", quick=True)
    line = Line("images", "fork", 6, size="32 x 32 pixels in 3 channels", each=9, network="mlp")
    for table in written(quick, line):
        assert "instead of Kaggle's brain-tumour MRI" in table
        assert "32 x 32 pixels in 3 channels instead of 224 x 224" in table
        assert "9 records a client instead of 16" in table
        assert "mlp beside ResNet18" in table
        assert "no setting with 12 clients" in table
    full = Setting("dkfz_2d", "mri")
    line = Line(
        "images", "fork", 6, size="224 x 224 pixels", each=16, network="torchvision_resnet18"
    )
    for table in written(full, line):
        assert "instead of" not in table
        assert "beside ResNet18" not in table
        assert "no setting with" not in table


def test_tables_say_what_differs_from_each_publication():
    lines = lines_of(Setting("dkfz_3d"))
    text = " ".join(as_text(Setting("dkfz_3d"), lines).split())
    assert "10.1007/978-3-031-79103-1_24" in text
    for method, words in dkfz.METHODS.items():
        assert f"{method}: {words.words}" in text
        assert words.words in as_csv(Setting("dkfz_3d"), lines)


def rows_in(folder):
    """Return the table in a folder, a list of cells for each row."""
    return list(csv.reader(io.StringIO((folder / "table.csv").read_text())))


def test_a_run_goes_on_where_it_was_cut_off(short, tmp_path):
    told = []
    folder = tmp_path / "run"
    reproduce(short, folder, CPU, told.append)
    first = rows_in(folder)
    assert len(told) == 2
    file = folder / "lines.json"
    kept = json.loads(file.read_text())
    kept["lines"] = kept["lines"][:1]
    file.write_text(json.dumps(kept))
    reproduce(short, folder, CPU, told.append)
    assert len(told) == 3
    assert "peeling" in told[-1]
    measured = COLUMNS.index("seconds")
    for before, after in zip(first, rows_in(folder), strict=True):
        assert before[:measured] == after[:measured]
    assert [row[COLUMNS.index("planted")] for row in first] == ["planted", "fork", "peeling"]
    assert first[1] == rows_in(folder)[1]
    assert {p.name for p in folder.iterdir()} == {
        "lines.json", "table.txt", "table.csv", "table.html",
    }  # fmt: skip


def test_a_folder_with_something_else(short, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RecordError, match="holds something else"):
        reproduce(short, tmp_path, CPU, print)
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.txt"}


@pytest.mark.parametrize("content", ["", "[]", '{"lines": [{"form": 1}], "setting": {}}'])
def test_damaged_rows(short, tmp_path, content):
    (tmp_path / "lines.json").write_text(content)
    with pytest.raises(RecordError, match="is damaged"):
        reproduce(short, tmp_path, CPU, print)


def test_lines_of_another_setting(short, tmp_path):
    row = {"setting": {"name": "dkfz_3d"}, "lines": []}
    (tmp_path / "lines.json").write_text(json.dumps(row))
    with pytest.raises(RecordError, match="results of another setting"):
        reproduce(short, tmp_path, CPU, print)


def test_lines_on_other_images(short, tmp_path, monkeypatch):
    reproduce(short, tmp_path, CPU, str)
    monkeypatch.setattr(Setting, "forms", {"images": ("case=brain_mr_2d", "case.model=small_cnn")})
    with pytest.raises(RecordError, match="results of another setting"):
        reproduce(short, tmp_path, CPU, str)


def test_a_row_without_a_result_says_why():
    row = Line("volumes", "peeling", 12, notes=("clients refuse",), controls="blind: leak")
    text = as_text(Setting("dkfz_3d"), [row])
    assert "0 of 3  no result: clients refuse\n" in text
    assert "not as they should be: volumes, 12 clients, peeling: blind: leak." in text


def test_seeds_that_failed_are_counted_and_say_why(short, monkeypatch):
    works, calls = ImprintReadout.run, []

    def run_once(attack, exchange, rng):
        if isinstance(exchange.secret, ImprintSecret):
            calls.append(1)
            if len(calls) > 2:  # the control and one seed
                raise NotApplicable(f"failure {min(len(calls), 4)}")
        return works(attack, exchange, rng)

    monkeypatch.setattr(ImprintReadout, "run", run_once)
    setting = replace(short, seeds=4)
    monkeypatch.setattr(dkfz, "METHODS", {"fork": dkfz.METHODS["fork"]})
    (line,) = measure(setting, lines_of(setting), CPU)
    assert (line.seeds, line.records) == (1, 10)
    assert line.notes == ("failure 3", "failure 4")
    for shown in (as_text(setting, [line]), as_html(setting, [line])):
        assert "1 of 4" in shown
        assert "failure 3; failure 4" in shown


def test_a_method_that_does_not_fit_into_memory_says_so_and_the_table_goes_on(
    short, tmp_path, monkeypatch
):
    monkeypatch.setattr(dkfz, "METHODS", {name: METHODS[name] for name in ("LOKI", "peeling")})
    monkeypatch.setattr(room, "available_memory", lambda: 2_000_000)
    text = reproduce(short, tmp_path / "run", CPU, str)
    loki, peeling = rows_in(tmp_path / "run")[1:]
    assert loki[COLUMNS.index("seeds")] == "0 of 1"
    assert peeling[COLUMNS.index("seeds")] == "1 of 1"
    assert "no result: LOKI with 20 rows for 2 clients has 0.0 GiB of weights" in text
    assert "LOKI with 20 rows" in loki[-1]
    assert "Controls that were not" not in text


def test_too_few_patients_for_some_clients_only(short, monkeypatch):
    monkeypatch.setattr(dkfz, "METHODS", {"fork": METHODS["fork"]})
    monkeypatch.setattr(Setting, "clients", (2, 500))
    few, many = measure(short, lines_of(short), CPU)
    assert few.seeds == 1
    assert many.notes[0].endswith(
        "are too few for 500 clients, 12 decoys and public images: it takes at least 769"
    )
    text = " ".join(as_text(short, [few, many]).split())
    assert "fork: 0 of 1 seeds gave a result; 199 patients are too few" in text
    assert "500 x" not in text
    monkeypatch.setattr(Setting, "clients", (500,))
    with pytest.raises(DataError, match="too few for 500 clients"):
        list(measure(short, lines_of(short), CPU))


def test_every_row_of_both_settings_is_listed():
    for name, forms in (("dkfz_2d", ["images"]), ("dkfz_3d", ["slices", "volumes"])):
        rows = lines_of(Setting(name))
        assert list(dict.fromkeys(row.form for row in rows)) == forms
        assert len(rows) == len(forms) * 2 * len(dkfz.METHODS)
        assert all(row.published == "" for row in rows if row.method != "fork")
    assert replace(Setting("dkfz_2d"), quick=True).clients == (6,)


def test_every_setting_has_a_folder_of_its_own(tmp_path):
    settings = [
        Setting("dkfz_2d", folder, seeds, quick)
        for folder in (None, str(tmp_path / "mr"), str(tmp_path / "of CT"), "/")
        for seeds in (3, 5)
        for quick in (False, True)
    ]
    titles = [setting.title for setting in settings]
    assert len(set(titles)) == len(settings)
    assert titles[:2] == ["dkfz_2d", "dkfz_2d-quick"]
    assert Setting("dkfz_3d", str(tmp_path / "of CT")).title == "dkfz_3d-of_CT"


def test_quick_and_then_a_folder_need_no_out(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    written = []

    def note(setting, folder, *_):
        written.append(folder.as_posix())
        return ""

    monkeypatch.setattr(run, "reproduce", note)
    for options in (["--quick"], [], ["--data", "./mr"], ["--data", "mr", "--out", "here"]):
        run_program("reproduce", "dkfz_2d", *options)
    assert written == ["runs/dkfz_2d-quick", "runs/dkfz_2d", "runs/dkfz_2d-mr", "here"]


def test_help_names_the_publication():
    assert "10.1007/978-3-031-79103-1_24" in run_program("reproduce", "dkfz_2d", "--help").out


def test_images_that_are_not_there(tmp_path):
    ran = run_program(
        "reproduce", "dkfz_2d", "--quick", "--data", tmp_path / "none", "--out", tmp_path / "out"
    )
    assert ran.code == 2
    assert str(tmp_path / "none") in ran.err
    assert not (tmp_path / "out").exists()
