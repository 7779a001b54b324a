"""The tables of the source: what is tried, and a run from end to end on a plain loop or on Flower.

The plain loop stands in for Flower in all but one test, which is slow.
"""

import csv
import dataclasses
import io
from collections import deque

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from medbreach import DataError
from medbreach.cli import main as program
from medbreach.errors import ContractError, RecordError
from medbreach.tradeoff.predictions import Interval
from medbreach_federation import Instruction, RoundLine
from medbreach_fedsafe import learner, shares
from medbreach_fedsafe.measures import estimate
from medbreach_fedsafe.reproduction import run
from medbreach_fedsafe.reproduction.attackers import (
    CONTROL,
    FGSM,
    MAIN,
    grid_attackers,
    main_attackers,
    some_of,
)
from medbreach_fedsafe.reproduction.claims import (
    claims,
    percent,
    privacy,
    summary,
    warnings,
)
from medbreach_fedsafe.reproduction.command import reproduce_command
from medbreach_fedsafe.reproduction.gallery import amplified, shown
from medbreach_fedsafe.reproduction.page import as_csv, as_html, as_text, tables
from medbreach_fedsafe.reproduction.published import FIGURES
from medbreach_fedsafe.reproduction.setting import (
    FULL,
    NORMAL,
    QUICK,
    Scale,
    Setting,
)
from medbreach_fedsafe.shares import Labelled

CPU = torch.device("cpu")
NETWORK = ("case.model=small_cnn", "case.model.width=2")
TINY = Scale(2, 1, 16, (8, 16, 16), NETWORK, 100, 12, (0.01,), (0.05,), (0.02,), (0.04,), 2)


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
        found = estimate(made.row(name).main)
        assert made.row(name).main[0].sources == ((0, 1, 2) if differ else (0,))
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
    assert [len(n) for n in plain.seen(averaged, plain.held())] == [1]


def test_earlier_networks_are_without_the_last(made):
    trained = made.trained["noise"]
    earlier = next(a for a in main_attackers(0.03, TINY) if a.past == 5)
    seen = []
    attack = type(earlier.evasion).__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(earlier.evasion), "__call__",
            lambda self, *args: seen.extend(args[5]) or attack(self, *args[:5]),
        )  # fmt: skip
        trained.images(earlier, 0, [trained.held()[0]])
    [before] = seen
    names = dict(before.named_parameters())
    assert all(torch.equal(names[n], trained.rule.past[0][n]) for n in names)
    assert not all(torch.equal(names[n], trained.rule.past[1][n]) for n in names)


def test_only_arms_that_are_attacked_from_earlier_networks_remember_them(made):
    for name, past in (("plain", 11), ("noise, uplink noise", 1)):
        arm = made.row(name).arm
        folder = made.trained["plain"].folder.parent.parent / run._slug(name) / "0"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "run_federation", loop)
            setup = Setting(scale=TINY).setup(arm, 0, "cpu", run.checked(Setting(scale=TINY))[0])
            trained, _ = run._trained(Setting(scale=TINY), arm, folder, setup)
        assert trained.rule.past.maxlen == past


def test_all_attackers_take_as_many_steps_as_the_main_one():
    for one in main_attackers(0.03, QUICK):
        assert one.evasion.iterations == 20
        assert one.evasion.eps == 0.03
    grid = grid_attackers(0.03, QUICK)
    for one in grid:
        published = one.evasion.space == "normalised"
        assert one.evasion.iterations == (6 if published else 20)
        assert one.evasion.step == pytest.approx(one.evasion.eps / (6 if published else 4))
    assert [a.name for a in grid if (a.evasion.space, a.evasion.eps) == ("pixels", 0.03)] == [
        MAIN, FGSM,
    ]  # fmt: skip


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
    assert [len(t.rows) for t in found.values()] == [9, 36, 2, 4, 4, 15]
    for table in found.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    arms = found["Arms"].rows
    assert [row[-1] for row in arms[:8]] == ["none"] * 8
    assert float(arms[8][-1].replace(",", "")) > 1e4
    assert arms[0][6] == "1.00 (1.00 to 1.00)"
    of_apgd = [row[2:] for row in found["Attackers"].rows if "APGD" in row[1]]
    assert all(row[0] != "-" and row[1:] == ["-", "-"] for row in of_apgd)
    [read, *_] = [r for r in found["Read off figures, and the same arm on the images here"].rows
                  if r[2] == "0.04"]  # fmt: skip
    here = estimate(made.row("noise, uplink noise").answers["pgd, normalised, 0.04"])
    assert read[-2:] == [percent(here["asr_self"]), percent(here["asr_others"])]
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
    rows = [
        row._replace(answers={**row.answers, MAIN: row.answers.get(CONTROL, row.main)})
        for row in made.rows
    ]
    failed = made._replace(rows=rows)
    assert [one.shows for one in claims(failed)[:6]] == ["cannot tell"] * 6
    assert any("say nothing of defenses" in words for words in warnings(failed))
    assert summary(failed).startswith("In short: nothing can be told")


def test_csv_has_what_the_tables_show(made):
    lines = list(csv.DictReader(io.StringIO(as_csv(made))))
    attackers = [*main_attackers(0.03, TINY), *grid_attackers(0.03, TINY)]
    of_plain = {line["attacker"] for line in lines if line["arm"] == "plain"} - {""}
    assert of_plain == {a.name for a in attackers}
    [line] = [
        line
        for line in lines
        if (line["arm"], line["attacker"], line["measure"])
        == ("noise", "PGD on the own network", "asr_others")
    ]
    assert {line["measure"] for line in lines if "APGD" in line["attacker"]} == {
        "accuracy", "asr_self",
    }  # fmt: skip
    found = estimate(made.row("noise").main)["asr_others"]
    assert float(line["value"]) == pytest.approx(found.value, abs=1e-6)


def test_the_page_stands_alone(made):
    page, text = as_html(made), as_text(made)
    assert page.count("<svg") == 7
    pictures = sum(len(shown(made, name)) for name in ("plain", "noise"))
    assert page.count("data:image/png;base64,") == pictures * 3 > 0
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")
    for words in (
        "cannot tell",
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
    assert 1 <= len(gallery) <= 4
    for one in gallery:  # right before the attack, as the caption says
        true, _, said = one.words.partition("; the network says ")
        assert said.startswith(f"{true}, then ")


def test_a_network_that_has_no_image_right_has_no_gallery(made, monkeypatch):
    held = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3)) for _ in range(3)]
    with torch.no_grad():
        for network in held:
            network[1].weight.zero_()
            network[1].bias.copy_(torch.tensor([0.0, 0.0, 1.0]))  # a class that there is not
    monkeypatch.setattr(type(made.trained["plain"]), "held", lambda _: held)
    assert shown(made, "noise") == []


def test_numbers_in_words():
    assert percent(Interval(0.5, 0.25, 0.755)) == "50.0 (25.0 to 75.5)"
    assert percent(None) == "-"


def test_another_setting_does_not_go_on_in_the_same_folder(made, monkeypatch):
    monkeypatch.setattr(run, "run_federation", loop)
    trained = made.trained["plain"]
    other = Setting(scale=TINY._replace(batch_size=50))
    with pytest.raises(RecordError, match="of other settings or images: choose another --out"):
        run.compute(other, trained.folder.parent.parent, CPU, lambda _: None)
    longer = Setting(scale=TINY._replace(rounds=1))
    monkeypatch.setattr(run, "run_federation", lambda *_, **__: [RoundLine(0)] * 3)
    with pytest.raises(RecordError, match="holds 2 rounds, not 1"):
        run.compute(longer, trained.folder.parent.parent, CPU, lambda _: None)


def test_a_client_that_fails_ends_it(made, monkeypatch):
    """A round that went on without it would be of another federation than the tables say."""
    lines = [RoundLine(0), RoundLine(1, isolated={2: "it failed: no memory"}), RoundLine(2)]
    monkeypatch.setattr(run, "run_federation", lambda *_, **__: lines)
    folder = made.trained["plain"].folder.parent.parent
    with pytest.raises(ContractError, match=r"client 2 .* round 1 .* since it failed: no memory"):
        run.compute(Setting(scale=TINY), folder, CPU, lambda _: None)


def test_changed_attacks_do_not_take_old_answers(made):
    """Another step, another number of images: another file."""
    trained, [main, *_] = made.trained["plain"], main_attackers(0.03, TINY)
    assert trained._file(main).is_file()
    shorter = main._replace(evasion=dataclasses.replace(main.evasion, iterations=6))
    fewer = dataclasses.replace(trained, test=trained.test.first(11))
    assert not trained._file(shorter).exists()
    assert not fewer._file(main).exists()


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


def fresh():
    """Forget what this process has read: images are looked at anew."""
    for known in (shares.case_of, shares.share_out, learner.learner_of):
        known.cache_clear()


def test_other_images_do_not_go_on(tmp_path):
    """The same names with other pixels."""
    folder = folder_of(tmp_path / "brain", "a", "b")
    setting = Setting(str(folder), scale=TINY._replace(shares=(0.5,)))
    before = run.checked(setting)
    fresh()
    assert run.checked(setting) == before
    whole = share_out_of(folder, setting.scale)
    used = folder / whole.collection.entries[whole.roles.clients[0][0]].place
    Image.fromarray(np.full((20, 24), 7, dtype=np.uint8) + np.eye(20, 24, dtype=np.uint8)).save(
        used
    )
    fresh()
    assert run.checked(setting) != before
    arm = setting.arms[0]
    setting.setup(arm, 0, "cpu", before[0]).write(tmp_path / "out")
    with pytest.raises(RecordError, match="of other settings or images"):
        run._trained(
            setting, arm, tmp_path / "out", setting.setup(arm, 0, "cpu", run.checked(setting)[0])
        )


def test_the_path_of_the_images_is_whole(tmp_path, monkeypatch):
    folder_of(tmp_path / "brain", "a", "b")
    monkeypatch.chdir(tmp_path)
    assert f"case.data.path={tmp_path / 'brain'}" in Setting("brain", scale=TINY).case


def test_a_damaged_image_is_found_before_anything_is_trained(tmp_path, capsys):
    """A client's, which the server never reads."""
    folder = folder_of(tmp_path / "brain", "a", "b")
    whole = share_out_of(folder, QUICK)
    place = whole.collection.entries[whole.roles.clients[1][0]].place
    (folder / place).write_bytes((folder / place).read_bytes()[:200])
    fresh()
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        program(["reproduce", "fedsafe", "--quick", "--data", str(folder), "--out", str(out)])
    [told] = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert place in told
    assert not out.exists()


def share_out_of(folder, scale):
    return run.share_out(Setting(str(folder), scale=scale).case, 0, 0.5)[1]


def test_every_share_and_seed_is_checked_before_anything_is_trained(tmp_path):
    folder = folder_of(tmp_path / "brain", "a", "b")
    least = TINY._replace(shares=(0.05, 1.0), seeds=3)
    with pytest.raises(DataError, match=r"a share of 0\.05 of its 8 images is none"):
        run.compute(Setting(str(folder), scale=least), tmp_path / "out", CPU, print)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "share_out", lambda *a: asked.append(a[1]) or shares.share_out(*a))
        run.checked(Setting(str(folder), scale=least._replace(shares=(0.5,))))
    assert asked == [0, 1, 2]
    assert not (tmp_path / "out").exists()


def test_patients_of_two_classes_are_warned_of(tmp_path, made):
    folder = folder_of(tmp_path / "brain", "a", "b")
    whole = share_out_of(folder, TINY)
    assert whole.in_two_classes == []
    setting = Setting(str(folder), r"p(\d+)-", TINY)
    _, merged = run.share_out(setting.case, 0, 0.5)
    assert len(merged.in_two_classes) == 16
    told = made._replace(shares=merged)
    assert any("16 patients have images of more than one class" in w for w in warnings(told))
    _, apart = run.share_out(Setting(str(folder), r"(\w+/p\d+)-", TINY).case, 0, 0.5)
    assert apart.in_two_classes == []


def test_more_trainings_go_on_with_those_that_are_there(tmp_path):
    """What is compared with a folder does not depend on how many there are."""
    folder = folder_of(tmp_path / "brain", "a", "b")
    few, many = (Setting(str(folder), scale=TINY._replace(shares=(0.5,), seeds=n)) for n in (1, 3))
    images = run.checked(many)
    assert len(set(images)) == 3
    assert run.checked(few) == images[:1]
    arm = few.arms[0]
    assert few.setup(arm, 0, "cpu", images[0]) == many.setup(arm, 0, "cpu", images[0])


def test_arrays_in_a_file(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "chest.npz"
    arrays = {}
    for split, count in (("train", 30), ("val", 10), ("test", 10)):
        arrays[f"{split}_images"] = rng.integers(0, 255, (count, 12, 12), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez(file, **arrays)
    whole = share_out_of(file, TINY)
    assert whole.spec.shape == (1, 12, 12)
    roles = whole.roles
    assert len(roles.clients) == 3
    assert sum(map(len, (*roles.clients, roles.pool, roles.test))) >= 49
    with pytest.raises(DataError, match="has no patients: leave --patients out"):
        _ = Setting(str(file), "(x)", TINY).case


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
        setup = setting.setup(arm, 0, "cpu", run.checked(setting)[0])
        trained, lines = run._trained(setting, arm, tmp_path / name, setup)
        assert len(lines) == 3
        looped = made.trained[name].rule.past[-1]
        assert all(torch.equal(trained.rule.past[-1][n], looped[n]) for n in looped)
        again, _ = run._trained(setting, arm, tmp_path / name, setup)
        assert isinstance(again.rule.past, deque)
        assert all(torch.equal(again.rule.past[-1][n], looped[n]) for n in looped)
