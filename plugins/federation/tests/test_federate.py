"""The command from end to end: training, a captured round, and its audit."""

import json

import pytest
import torch

from medbreach import Seeds
from medbreach.captured import Captured
from medbreach.case import draw
from medbreach.cli.codes import Exit
from medbreach.config import load
from medbreach.errors import DataError
from medbreach.replay import replay
from medbreach.session import prepare

CPU = torch.device("cpu")
SHORT = (
    "federation.rounds=2", "federation.clients=8", "federation.fraction=0.5",
    "defense=example_sign",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_program):
    folder = tmp_path_factory.mktemp("federation") / "run"
    ran = run_program("federate", *SHORT, "--capture", "2", "--out", folder)
    assert ran.code == 0, ran.err
    return folder, ran


def test_it_tells_each_round_and_keeps_the_weights(trained):
    folder, ran = trained
    assert "8 clients train small_cnn with example_sign by fedavg, 50% of them a round" in ran.out
    assert ran.err.count("round ") >= 3
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert set(weights) == {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias",
                            "7.weight", "7.bias"}  # fmt: skip


def test_the_same_command_goes_on_and_others_need_a_folder(trained, run_program):
    folder, _ = trained
    again = run_program("federate", *SHORT, "--out", folder, "-q")
    assert again.code == 0
    other = run_program("federate", *SHORT, "federation.learning_rate=0.1", "--out", folder)
    assert other.code == 2
    assert "holds a federation of other settings: choose another --out" in other.err


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["federation.rounds=1"], "has played 2 rounds, more than the 1 that are asked for"),
        (["--capture", "all"], "has played without keeping them (1): name later ones"),
    ],
)
def test_what_was_played_stays_as_it_was(trained, run_program, changed, sentence):
    folder, _ = trained
    settings = [s for s in SHORT if not changed[0].startswith(s.partition("=")[0])]
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    ran = run_program("federate", *settings, *changed, "--out", folder)
    assert ran.code == 2
    assert sentence in ran.err
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*")} == before


def test_the_same_round_may_be_captured_again(trained, run_program):
    again = run_program("federate", *SHORT, "--capture", "2", "--out", trained[0], "-q")
    assert again.code == 0


def test_a_captured_round_is_what_the_server_saw(trained):
    """The update is the difference of the files, for the records that the client trained on."""
    folder, _ = trained
    captured = Captured(str(folder / "captured/round-2"))
    client = captured.clients[0]
    settings = load(["case=captured", f"case.captured={captured.folder}",
                     f"case.user.user_idx={client}"])  # fmt: skip
    session = prepare(settings, CPU)
    case = session.plan.case
    sample = draw(case, session.collection, Seeds(0), 9, 50)
    (stack,) = session.plan.stacks.values()
    (exchange,) = replay(case, sample, stack, Seeds(0), CPU)
    before, after = (
        torch.load(folder / f"captured/round-2/{word}-{client}.pt", weights_only=True)
        for word in ("sent", "returned")
    )
    for name, change in exchange.update.change.items():
        assert torch.equal(change, after[name] - before[name])
        assert torch.equal(exchange.model.get_parameter(name), before[name])
    assert [d.name for d in exchange.defenses] == ["example_sign"]
    entries = set(captured.entries(client))
    collection = session.collection
    images = collection.images(sorted(entries))
    for record in sample.truth.images:
        assert (images == record).flatten(1).all(1).any()
    mine = {collection.entries[i].patient for i in entries}
    assert len(sample.truth.labels) == len(mine), "one record of each patient"
    assert exchange.update.recipe.steps == -(-len(entries) // 16)


def test_a_captured_round_is_audited(trained, run_program, tmp_path):
    folder, _ = trained
    captured = Captured(str(folder / "captured/round-2"))
    ran = run_program(
        "audit", "case=captured", f"case.captured={captured.folder}",
        f"case.user.user_idx={captured.clients[-1]}", "attack.optim.max_iterations=2",
        "audit.null_draws=1", "audit.metrics=[psnr]", "--out", tmp_path / "audit",
        "--fail-on", "never",
    )  # fmt: skip
    assert ran.code in (0, Exit.INCONCLUSIVE), ran.err
    header = json.loads((tmp_path / "audit" / "run.json").read_text())
    assert header["settings"]["case"]["captured"] == captured.folder


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["defense=gaussian_noise"], "the clients' defenses were captured: leave defense out"),
        (["case/server=malicious-model-rtf"], "what the server sent was captured"),
        (["case.user.user_idx=99"], "gives clients 0 to 7"),
    ],
)
def test_what_was_captured_cannot_be_set(trained, run_program, more, sentence):
    path = f"case.captured={trained[0] / 'captured/round-2'}"
    ran = run_program("audit", "case=captured", path, *more)
    assert ran.code == 2
    assert sentence in ran.err


def test_other_images_than_the_federations_are_refused(trained):
    captured = Captured(str(trained[0] / "captured/round-2"))
    other = prepare(load(["case=dermoscopy_2d"]), CPU).collection
    with pytest.raises(DataError, match="not those that the federation"):
        captured.check(other)


def test_a_folder_that_holds_no_round(run_program, tmp_path):
    ran = run_program("audit", "case=captured", f"case.captured={tmp_path}")
    assert ran.code == 2
    assert "holds no captured round: give a folder that 'medbreach federate --capture'" in ran.err
