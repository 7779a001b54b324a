"""The page: what it shows is the record, whatever the record holds."""

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from medbreach.errors import RecordError
from medbreach.record import RunRecord
from medbreach.report import render, write
from medbreach.report.cards import PER_FINDING, PER_PAGE
from medbreach.report.summary import summarise

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def page(read_page, photographs):
    return read_page(render(photographs, "html"))


def pixels(uri):
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def eight_bit(image, spec):
    low, high = spec.bounds
    grey = ((image.numpy() - low) / (high - low)).clip(0, 1) * np.float32(255)
    return np.moveaxis(grey.round().astype(np.uint8), 0, -1)


def attack_lines(record):
    return [line for line in record.lines() if line.finding.role == "attack"]


def test_it_opens_with_the_verdict(page, photographs):
    headings = [tag for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    sentence = summarise(photographs).conclusion.sentence
    assert headings[0] == "h1"
    assert page.texts("h1") == [" ".join(sentence.split())]
    assert sentence.startswith("Leak: imprint identified")


def test_it_needs_nothing_from_elsewhere(page, photographs):
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "action", "xlink:href", "data"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:image/png;base64,")), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
    style = page.texts("style")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for a, _ in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_it_is_a_function_of_the_record(photographs, tmp_path):
    again = tmp_path / "moved"
    shutil.copytree(photographs.folder, again)
    assert render(RunRecord.open(again), "html") == render(photographs, "html")


def test_it_imports_no_attack():
    program = "import sys, medbreach.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert "medbreach.report" in modules
    assert not [m for m in modules if m.startswith(("medbreach.attacks", "breaching"))]


def test_each_picture_shows_what_its_label_says(page, photographs):
    lines = attack_lines(photographs)
    most, least = sorted(lines, key=lambda x: -sum(x.finding.identified))
    shown = [(a["alt"], a["src"]) for a, _ in page.all("img")]
    assert sum(alt.startswith("Private original") for alt, _ in shown) == 8
    originals = 0
    for alt, uri in shown:
        originals += alt.startswith("Private original")
        line = most if originals <= 4 else least
        images, finding = photographs.images(line), line.finding
        record = int(re.search(r"record (\d+)", alt)[1]) - 1
        image = {
            "Private": images.truth[record],
            "Claim": images.claims[finding.matched[record]],
            "Decoy": images.decoys[finding.decoy_index[record]],
        }[alt.split()[0]]
        np.testing.assert_array_equal(pixels(uri), eight_bit(image, images.spec))


def test_identified_records_come_first_then_the_most_alike(changed, photographs, read_page):
    record = changed(
        photographs,
        "attack",
        identified=[False, True, False, True],
        similarity=[0.9, 0.2, None, 0.3],
    )
    titles = read_page(render(record, "html", redact=True)).texts("h4")
    assert [title.split()[1] for title in titles] == ["4", "2", "1", "3"] * 2
    assert ["not identified" in title for title in titles] == [False, False, True, True] * 2


def test_cards_say_what_the_finding_says(page, photographs):
    line = max(attack_lines(photographs), key=lambda x: sum(x.finding.identified))
    best = max(line.finding.similarity)
    record = line.finding.similarity.index(best)
    card = page.texts("article", "card")[0]
    assert card.startswith(f"Record {record + 1} identified")
    assert f"claim and original {best:.3f}" in card
    assert f"claim and nearest decoy {line.finding.nearest_decoy[record]:.3f}" in card
    assert f"PSNR {line.finding.scores['psnr'][record]:.1f} dB" in card


def test_volumes_are_three_planes(read_page, volumes):
    page = read_page(render(volumes, "html"))
    alts = [a["alt"] for a, _ in page.all("img")]
    originals = [alt for alt in alts if alt.startswith("Private original")]
    planes = [alt.rpartition(", ")[2] for alt in originals[:3]]
    assert planes == ["axial plane", "coronal plane", "sagittal plane"]
    assert len(originals) == 3 * 4


def test_it_can_be_read_aloud(page):
    assert page.all("html")[0][0]["lang"] == "en"
    assert all(a["alt"].strip() for a, _ in page.all("img"))
    tables = page.all("table")
    assert len(page.texts("caption")) == len(tables) > 4
    assert all(page.texts("caption"))
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    identities = {a["id"] for _, a, _ in page.elements if "id" in a}
    for _, attributes, _ in page.elements:
        assert attributes.get("aria-labelledby", "threat") in identities
        assert attributes.get("href", "#threat")[1:] in identities


@pytest.mark.parametrize("which", ["photographs", "volumes"])
def test_redacted_it_holds_no_image(which, read_page, request, tmp_path):
    record = request.getfixturevalue(which)
    without_images = tmp_path / "run"
    shutil.copytree(
        record.folder, without_images, ignore=shutil.ignore_patterns("samples", "claims")
    )
    text = render(RunRecord.open(without_images), "html", redact=True)
    page = read_page(text)
    assert "data:image" not in text.replace("img-src data:", "")
    assert not page.all("img")
    assert "Every image was left out" in text
    assert len(page.all("article", "card")) == len(
        read_page(render(record, "html")).all("article", "card")
    )


def test_images_that_are_gone_are_an_error_with_a_file_name(photographs, tmp_path):
    shutil.copytree(photographs.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "claims")
    with pytest.raises(RecordError, match=r"attack--imprint--none--seed\d\.npz is missing"):
        render(RunRecord.open(tmp_path / "run"), "html")


def test_what_comes_from_elsewhere_is_escaped(edit, photographs, read_page):
    def spoil_header(header):
        header["resolved"]["case"]["name"] = EVIL
        header["resolved"]["case"]["data"] = {"name": EVIL, EVIL: EVIL}
        header["resolved"]["case"]["server"] = {
            **header["resolved"]["case"]["server"],
            "name": EVIL,
            "model_modification": {"type": EVIL, "num_bins": EVIL},
        }
        header["resolved"]["stacks"] = {EVIL: [{"name": EVIL}]}
        header["overrides"] = [EVIL]
        header["device"] = header["created"] = EVIL
        header["images"] |= {"note": EVIL, "source": EVIL, "licence": EVIL}
        header["images"]["spec"]["unit"] = EVIL
        header["user_network"] = {"file": EVIL, "factory": EVIL, "sha256": EVIL}
        header["software"]["plugins"] = [[EVIL, EVIL]]

    def spoil_lines(lines):
        return [
            line
            | {
                "case": EVIL,
                "server": EVIL,
                "attack": EVIL + line["attack"],
                "defenses": [EVIL],
                "note": EVIL,
                "device": EVIL,
                "scores": {**line["scores"], EVIL: line["scores"]["psnr"]},
                "baselines": {**line["baselines"], EVIL: line["baselines"]["psnr"]},
                "identified_by": {**line["identified_by"], EVIL: 1},
            }
            for line in lines
        ]

    text = render(edit(photographs, spoil_header, spoil_lines), "html")
    page = read_page(text)
    assert "<script" not in text.lower()
    assert not page.all("script")
    assert text.count("&lt;script&gt;") > 30
    assert EVIL in page.texts("h1")[0]
    assert any(EVIL in label for label in page.texts("text"))


def test_control_characters_and_broken_names_do_no_harm(changed, photographs, read_page, tmp_path):
    record = changed(
        photographs, "attack", verdict="failed", p_value=None, note="a\x1b[2J\x00\udcff\u202eb"
    )
    file = write(render(record, "html"), "html", tmp_path / "out")
    assert "a\ufffd[2J\ufffd\ufffd\ufffdb" in read_page(file.read_text("utf-8")).texts("small")


def test_infinite_psnr_shows(changed, photographs, read_page):
    line = attack_lines(photographs)[0]
    scores = {name: list(values) for name, values in line.finding.scores.items()}
    scores["psnr"] = ["inf"] * line.finding.records
    text = render(changed(photographs, "attack", scores=scores), "html")
    assert "PSNR ∞ dB" in read_page(text).texts("p", "described")[0]
    assert "∞" in read_page(text).texts("text")


def test_an_unfinished_run_says_so(edit, photographs, read_page):
    record = edit(photographs, change_lines=lambda lines: lines[:2])
    text = render(record, "html")
    assert "Unfinished: 5 attempts have no finding yet" in read_page(text).texts("h1")[0]


def test_a_run_without_any_finding_renders(edit, photographs, read_page):
    page = read_page(render(edit(photographs, change_lines=lambda lines: []), "html"))
    assert "There is no finding yet." in page.texts("p")


@pytest.mark.parametrize("verdict", ["not applicable", "refused by a defense", "failed"])
def test_a_finding_that_came_to_nothing_gives_its_reason(changed, photographs, read_page, verdict):
    nothing = {
        "records": 0,
        "claims": 0,
        "p_value": None,
        "identified": [],
        "matched": [],
        "similarity": [],
        "nearest_decoy": [],
        "decoy_index": [],
        "scores": {},
        "baselines": {},
        "identified_by": {},
    }
    record = changed(photographs, "attack", verdict=verdict, note="it cannot", sample="", **nothing)
    page = read_page(render(record, "html"))
    assert [t for t in page.texts("td") if t == f"{verdict}it cannot"]
    assert not page.all("img")
    assert "No attack came to a claim." in page.texts("p")


def test_no_claim_is_shown_as_none(changed, photographs, read_page):
    nothing = [None] * 4
    record = changed(
        photographs,
        "attack",
        claims=0,
        identified=[False] * 4,
        matched=nothing,
        similarity=nothing,
        nearest_decoy=nothing,
        decoy_index=nothing,
        p_value=1.0,
        scores={"psnr": nothing},
        verdict="no leak found",
    )
    page = read_page(render(record, "html"))
    assert page.texts("p", "remark") == ["No claim was left for this record."] * 8
    assert {a["alt"][:16] for a, _ in page.all("img")} == {"Private original"}
    assert page.texts("p", "none") == ["none"] * 16


def test_without_decoys_it_renders(changed, photographs, read_page):
    nothing = [None] * 4
    record = changed(
        photographs,
        "attack",
        decoys=0,
        nearest_decoy=nothing,
        decoy_index=nothing,
        identified=[False] * 4,
        p_value=1.0,
    )
    remarks = read_page(render(record, "html")).texts("p", "remark")
    assert set(remarks) <= {
        "There is no decoy to compare its claim with.",
        "No claim was left for this record.",
    }


def test_a_hundred_findings_stay_one_small_page(edit, photographs, read_page):
    def many(lines):
        attack = next(line for line in lines if line["role"] == "attack")
        others = [line for line in lines if line["role"] != "attack"]
        return others + [
            attack | {"attack": f"attack{a}", "defenses": [f"defense{d}"], "seed": seed}
            for a in range(5)
            for d in range(5)
            for seed in range(4)
        ]

    text = render(edit(photographs, change_lines=many), "html")
    page = read_page(text)
    assert len(page.all("article", "card")) == PER_PAGE
    assert "Of 100 attempts, the 48 with most identified records are shown." in text
    assert "At most 1 records of each attempt" in text
    assert len(text) < 2_000_000


def test_a_large_batch_is_cut_short_and_says_so(changed, photographs, read_page):
    def repeated(values):
        return [value for value in values for _ in range(5)]

    line = json.loads((photographs.folder / "findings.jsonl").read_text().splitlines()[-1])
    assert line["role"] == "attack"
    lists = ("identified", "matched", "similarity", "nearest_decoy", "decoy_index", "clients")
    scores = {name: repeated(values) for name, values in line["scores"].items()}
    fields = {name: repeated(line[name]) for name in lists} | {"records": 20, "scores": scores}
    record = changed(photographs, "attack", **fields)
    text = render(record, "html", redact=True)
    assert len(read_page(text).all("article", "card")) == 2 * PER_FINDING
    assert f"At most {PER_FINDING} records of each attempt are shown" in text


def test_several_clients_are_told_apart(changed, photographs, read_page):
    page = read_page(render(changed(photographs, "attack", clients=[3, 3, 5, 5]), "html"))
    titles = " ".join(page.texts("h4"))
    assert "Record 1 of client 3" in titles
    assert "Record 4 of client 5" in titles


def test_settings_are_there_in_full(page, photographs):
    header = photographs.header()
    heads = page.texts("th")
    assert "audit.whitening" in heads
    assert "case.server.model_modification.num_bins" in heads
    assert "software.packages.torch" in heads
    cells = page.texts("td")
    assert header["software"]["packages"]["torch"] in cells
    for override in header["overrides"]:
        assert override in page.texts("code")


def test_controls_stand_apart_from_attacks(page):
    captions = page.texts("caption")
    assert [c.partition(":")[0] for c in captions[:4]] == [
        "Attacks",
        "Attacks",
        "Blind controls",
        "Solvable controls",
    ]
    assert "What luck alone identifies" in page.texts("h3")
