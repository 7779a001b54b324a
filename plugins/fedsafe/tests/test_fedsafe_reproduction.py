"""The tables of the source: what is tried, and a run from end to end on a plain loop or on Flower.

The plain loop stands in for Flower in all but one test, which is slow.
"""

import csv
import io
from collections import deque

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from medbreach import DataError
from medbreach.errors import RecordError
from medbreach.tradeoff.predictions import Interval
from medbreach_federation import Instruction, RoundLine
from medbreach_fedsafe.measures import estimate
from medbreach_fedsafe.reproduction import run
from medbreach_fedsafe.reproduction.attackers import grid_attackers, main_attackers, some_of
from medbreach_fedsafe.reproduction.claims import claims, percent, privacy, warnings
from medbreach_fedsafe.reproduction.command import reproduce_command
from medbreach_fedsafe.reproduction.gallery import amplified, shown
from medbreach_fedsafe.reproduction.page import as_csv, as_html, as_text, tables
from medbreach_fedsafe.reproduction.published import FIGURES
from medbreach_fedsafe.reproduction.setting import FULL, NORMAL, QUICK, Scale, Setting
from medbreach_fedsafe.shares import Labelled

CPU = torch.device("cpu")
NETWORK = ("case.model=small_cnn", "case.model.width=2")
TINY = Scale(2, 1, 16, (8, 16, 16), NETWORK, 100, 12, (0.01,), (0.05,), (0.02,), (0.05,), 2)


def loop(folder, build, rule, rounds, *, seed=0, cluster=None):
    """Play a federation without Flower."""
    del seed, cluster
    learner = build(folder)
    weights, lines = learner.first(), [RoundLine(0, learner.evaluate(0, learner.first()))]
    for number in range(1, rounds + 1):
        results = {
            k: learner.train(Instruction(k, number, rule.send(k, number, weights)))
            for k in range(learner.clients)
        }
        made = rule.aggregate(number, weights, results)
        weights = made.weights
        of_clients = {k: result.measures for k, result in results.items()}
        lines.append(
            RoundLine(number, learner.evaluate(number, weights), made.measures, of_clients)
        )
    return lines


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every arm at the smallest size, on packaged images of skin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_federation", loop)
        folder = tmp_path_factory.mktemp("fedsafe")
        yield run.compute(Setting(scale=TINY), folder, CPU, lambda _: None)


def test_every_arm_is_tried_once():
    names = [arm.name for arm in Setting(scale=QUICK).arms]
    four = ["plain", "noise", "adversarial", "noise + adversarial"]
    assert names[:8] == [*four, *(f"{name}, uplink noise" for name in four)]
    assert len(names) == len(set(names)) == 8 + 2 + 4 + 1
    of_full = Setting(scale=FULL).arms
    assert {a.fedsafe.retraining.share for a in of_full} == {0, 0.1, 0.2, 0.3, 0.5, 0.7, 1}
    assert len({arm.fedsafe for arm in of_full}) == len(of_full)


def test_full_is_what_was_released():
    arm = Setting(scale=FULL).arms[3]
    safe, retraining = arm.fedsafe, arm.fedsafe.retraining
    assert (safe.sigma, safe.local_epochs, safe.learning_rate) == (0.01, 5, 0.02)
    assert (safe.batch_size, safe.max_grad_norm) == (100, 20)
    assert (retraining.epochs, retraining.learning_rate, retraining.batch_size) == (1, 0.02, 100)
    attack = retraining.attack
    assert (attack.method, attack.eps, attack.step, attack.iterations) == ("pgd", 0.03, 0.005, 6)
    assert (FULL.rounds, FULL.side, FULL.network) == (100, 100, ("case.model=fedsafe_cnn",))
    assert FULL.normalised == NORMAL.normalised == (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)


def test_what_was_read_off_figures():
    assert {name: len(read) for name, read in FIGURES.items()} == {
        "glioma": 5, "meningioma": 5, "pathology": 5,
    }  # fmt: skip
    assert all(one.of_self > one.others for read in FIGURES.values() for one in read)


def test_noise_makes_networks_differ_and_nothing_else_does(made):
    for name, differ in (("plain", False), ("adversarial", False), ("noise", True)):
        held = [dict(network.named_parameters()) for network in made.trained[name].held()]
        same = [torch.equal(held[0][n], held[1][n]) for n in held[0]]
        assert all(same) is not differ
        found = estimate(made.row(name).answers["PGD on the own network"])
        if not differ:
            assert found["asr_self"] == found["asr_others"]
            assert found.get("aatr", Interval(1, 1, 1)) == (1, 1, 1)


def test_networks_around_ones_own_bear_noise_of_both(made):
    """Their deviation from one's own is sqrt(2) sigma: one's own noise, and another's."""
    trained = made.trained["noise"]
    averaged = next(a for a in main_attackers(0.03, TINY) if a.draws)
    held = trained.held()
    around = trained.seen(averaged, held)
    assert [len(networks) for networks in around] == [2, 2, 2]
    own = torch.cat([p.detach().flatten() for p in held[0].parameters()])
    apart = torch.stack(
        [torch.cat([p.detach().flatten() for p in n.parameters()]) - own for n in around[0]]
    )
    assert float(apart.std()) == pytest.approx(2**0.5 * 0.01, rel=0.1)
    assert trained.seen(averaged, held)[0][0] is not held[0]
    plain = made.trained["plain"]
    assert [len(n) for n in plain.seen(averaged, plain.held())] == [1, 1, 1]


def test_answers_are_kept_and_not_made_again(made, monkeypatch):
    trained, attackers = made.trained["noise"], main_attackers(0.03, TINY)
    monkeypatch.setattr(type(trained), "held", lambda _: pytest.fail("attacked again"))
    again = trained.answers(attackers)
    for attacker in attackers:
        kept = made.row("noise").answers[attacker.name][0]
        assert again[attacker.name].sources == kept.sources
        assert np.array_equal(again[attacker.name].attacked, kept.attacked)


def test_evaluation_is_on_one_image_of_each_lesion_in_turn(made):
    test = made.trained["plain"].test
    assert len(test) == 12
    assert len(set(test.patients.tolist())) == 12
    assert set(test.labels.tolist()) == {0, 1}
    many = Labelled(torch.zeros(5, 1, 2, 2), torch.arange(5), torch.tensor([7, 7, 7, 8, 9]))
    assert some_of(many, 4).labels.tolist() == [0, 1, 3, 4]


def test_every_table_is_filled(made):
    found = {table.title: table for table in tables(made)}
    assert [len(t.rows) for t in found.values()] == [9, 32, 2, 4, 4, 15]
    for table in found.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    arms = found["Arms"].rows
    assert [row[-1] for row in arms[:8]] == ["none"] * 8
    assert float(arms[8][-1].replace(",", "")) > 1e4
    assert arms[0][6] == "1.00 (1.00 to 1.00)"
    images = [row[2] for row in found["Retraining over the share p of the pool"].rows]
    assert images == ["0", "15", "0", "15"]


def test_each_claim_has_its_evidence(made):
    told = {one.claimed: one for one in claims(made)}
    assert len(told) == 7
    assert {one.shows for one in told.values()} <= {
        "appears", "does not appear", "not contradicted", "cannot tell",
    }  # fmt: skip
    assert all(one.found.endswith(".") for one in told.values())
    assert any("sensitivity is unbounded" in words for words in privacy(made))
    assert any("One training of each arm" in words for words in warnings(made))


def test_an_attack_that_fails_says_nothing_of_defenses(made):
    """Each image's answers to PGD replaced by those to random signs."""
    main, control = "PGD on the own network", "signs at random (control)"
    rows = [
        row._replace(answers={**row.answers, main: row.answers.get(control, row.answers[main])})
        for row in made.rows
    ]
    failed = made._replace(rows=rows)
    assert [one.shows for one in claims(failed)[:6]] == ["cannot tell"] * 6
    assert any("say nothing of defenses" in words for words in warnings(failed))


def test_csv_has_what_the_tables_show(made):
    lines = list(csv.DictReader(io.StringIO(as_csv(made))))
    attackers = [*main_attackers(0.03, TINY), *grid_attackers(TINY)]
    of_plain = {line["attacker"] for line in lines if line["arm"] == "plain"} - {""}
    assert of_plain == {a.name for a in attackers}
    [line] = [
        line
        for line in lines
        if (line["arm"], line["attacker"], line["measure"])
        == ("noise", "PGD on the own network", "asr_others")
    ]
    found = estimate(made.row("noise").answers["PGD on the own network"])["asr_others"]
    assert float(line["value"]) == pytest.approx(found.value, abs=1e-6)


def test_the_page_stands_alone(made):
    page, text = as_html(made), as_text(made)
    assert page.count("<svg") == 7
    assert page.count("data:image/png;base64,") == 2 * 4 * 3
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")
    for words in (
        "does not appear",
        "One training of each arm",
        "only attributed",
        "normalised, as published",
        "Ours, as",
    ):
        assert words in page
        assert words in " ".join(text.split())


def test_pictures_of_a_difference(made):
    clean = torch.full((1, 2, 2), 0.5)
    moved = amplified(clean, clean + torch.tensor([[[0.03, -0.03], [0.0, 9.0]]]), 0.03, (0.0, 1.0))
    torch.testing.assert_close(moved, torch.tensor([[[1.0, 0.0], [0.5, 1.0]]]))
    gallery = shown(made, "noise")
    assert len(gallery) == 4
    told = [one.words.partition(";")[0] for one in gallery]
    assert sorted(told) == ["common nevus"] * 2 + ["melanoma"] * 2


def test_numbers_in_words():
    assert percent(Interval(0.5, 0.25, 0.755)) == "50.0 (25.0 to 75.5)"
    assert percent(None) == "-"


def test_another_setting_does_not_go_on_in_the_same_folder(made, monkeypatch):
    monkeypatch.setattr(run, "run_federation", loop)
    trained = made.trained["plain"]
    other = Setting(scale=TINY._replace(batch_size=50))
    with pytest.raises(RecordError, match="other settings: choose another --out"):
        run.compute(other, trained.folder.parent.parent, CPU, lambda _: None)
    longer = Setting(scale=TINY._replace(rounds=1))
    monkeypatch.setattr(run, "run_federation", lambda *_, **__: [RoundLine(0)] * 3)
    with pytest.raises(RecordError, match="holds 2 rounds, not 1"):
        run.compute(longer, trained.folder.parent.parent, CPU, lambda _: None)


def folder_of(path, *names, kind="png"):
    rng = np.random.default_rng(0)
    for name in names:
        (path / name).mkdir(parents=True)
        for k in range(16):
            pixels = rng.integers(0, 255, (20, 24), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"p{k}-0.{kind}")
    return path


def test_a_folder_of_pictures(tmp_path):
    folder = folder_of(tmp_path / "brain", "no_tumor", "meningioma_tumor")
    case, shares = run.share_out(Setting(str(folder), r"p(\d+)-", TINY).case, 0, 0.5)
    assert shares.classes == ("meningioma_tumor", "no_tumor")
    assert shares.spec.shape == (1, 16, 16)
    assert shares.collection.entries[0].patient == "0"
    assert case.federation.default_clients == 3


def test_a_folder_of_volumes(tmp_path):
    import nibabel

    for name in ("ct", "mr"):
        (tmp_path / name).mkdir()
        for k in range(8):
            voxels = np.random.default_rng(k).normal(size=(16, 16, 8)).astype("float32")
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / name / f"{k}.nii.gz")
    _, shares = run.share_out(Setting(str(tmp_path), scale=TINY).case, 0, 0.5)
    assert shares.spec.shape == (1, 8, 16, 16)
    assert shares.classes == ("ct", "mr")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "holds no images, neither pictures nor NIfTI volumes"),
        (("only_class",), "has the one class folder only_class"),
    ],
)
def test_folders_that_do_not_do(tmp_path, names, words):
    folder_of(tmp_path / "images", *names).mkdir(exist_ok=True)
    with pytest.raises(DataError, match=words):
        run.compute(Setting(str(tmp_path / "images"), scale=TINY), tmp_path, CPU, print)


def test_the_command_refuses_in_one_sentence(tmp_path):
    runner = CliRunner()
    both = runner.invoke(reproduce_command, ["--quick", "--full"])
    assert both.exit_code == 2
    assert "--quick and --full contradict" in both.output
    gone = runner.invoke(
        reproduce_command, ["--data", str(tmp_path / "none"), "--out", str(tmp_path)]
    )
    assert isinstance(gone.exception, DataError)
    assert "there is no folder" in str(gone.exception)
    alone = runner.invoke(reproduce_command, ["--patients", "(a)", "--out", str(tmp_path)])
    assert "--patients is for a folder" in str(alone.exception)


@pytest.mark.slow
def test_it_runs_on_flower_as_on_a_loop(made, tmp_path):
    """The plain and the noise arm, played on Flower, end with the same weights."""
    setting = Setting(scale=TINY)
    for name in ("plain", "noise"):
        arm = next(arm for arm in setting.arms if arm.name == name)
        trained, lines = run._trained(setting, arm, tmp_path / name, 0, CPU)
        assert len(lines) == 3
        looped = made.trained[name].rule.past[-1]
        assert all(torch.equal(trained.rule.past[-1][n], looped[n]) for n in looped)
        again, _ = run._trained(setting, arm, tmp_path / name, 0, CPU)
        assert isinstance(again.rule.past, deque)
        assert all(torch.equal(again.rule.past[-1][n], looped[n]) for n in looped)
