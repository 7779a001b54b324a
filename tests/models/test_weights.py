"""Weights from a file are loaded without running anything that the file might carry."""

import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medbreach.errors import ModelError
from medbreach.models.weights import load_weights
from medbreach.randomness import Seeds
from medbreach.round import honest_network
from medbreach.testing.examples import tiny_case, tiny_sample


class Malicious:
    """Runs a command where it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def saved(folder, content):
    torch.save(content, folder / "weights.pt")
    return folder / "weights.pt"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model_state_dict", "model"])
def test_a_state_dict_is_loaded(tmp_path, wrapper, prefix):
    source, target = network(), network()
    state = source.state_dict()
    named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    load_weights(target, saved(tmp_path, {"epoch": 3, wrapper: named} if wrapper else named))
    assert all(torch.equal(target.state_dict()[key], value) for key, value in state.items())


def test_a_state_dict_within_two_wrappers_is_loaded(tmp_path):
    source, target = network(), network()
    load_weights(target, saved(tmp_path, {"state_dict": {"model": source.state_dict()}}))
    assert torch.equal(target[0].weight, source[0].weight)


def test_half_precision_is_widened(tmp_path):
    source, target = network().half(), network()
    load_weights(target, saved(tmp_path, source.state_dict()))
    assert target[0].weight.dtype is torch.float32
    assert torch.equal(target[0].weight, source[0].weight.float())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (torch.save, "could run code, so it was not opened"),
        (lambda value, file: file.write_bytes(pickle.dumps(value)), "damaged or no torch file"),
    ],
    ids=["torch", "plain pickle"],
)
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, write, message):
    trace, file = tmp_path / "trace", tmp_path / "weights.pt"
    write({"0.weight": Malicious(f"touch {trace}")}, file)
    with pytest.raises(ModelError, match=message) as error:
        load_weights(network(), file)
    assert not trace.exists()
    assert "\n" not in str(error.value)
    if write is torch.save:
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())
    assert trace.exists()  # it is malicious indeed


def test_a_whole_pickled_network_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"torch\.save\(network\.state_dict\(\), file\)"):
        load_weights(network(), saved(tmp_path, network()))


def test_a_program_of_torchscript_is_refused(tmp_path):
    """It is a zip file of torch's, and holds code."""
    file = tmp_path / "weights.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/constants.pkl", pickle.dumps(()))
        archive.writestr("weights/data.pkl", pickle.dumps(()))
        archive.writestr("weights/version", "3")
    with pytest.raises(ModelError, match="could run code, so it was not opened"):
        load_weights(network(), file)


def truncated(file):
    torch.save(network().state_dict(), file)
    file.write_bytes(file.read_bytes()[:-200])


def zipped(file):
    with file.open("wb") as opened:
        np.savez(opened, a=np.zeros(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "there is no such weights file"),
        (lambda file: file.mkdir(), "is a folder, not a weights file"),
        (lambda file: file.write_text("hello world"), "damaged or no torch file"),
        (lambda file: file.write_text("conv.weight 0.1\n"), "damaged or no torch file"),
        (lambda file: file.write_bytes(b""), "damaged or no torch file"),
        (truncated, "damaged or no torch file"),
        (zipped, "damaged or no torch file"),
        (lambda file: torch.save([1, 2], file), "holds no state dict"),
        (lambda file: torch.save({}, file), "holds an empty state dict"),
        (lambda file: torch.save({"0.weight": 3}, file), "holds no state dict"),
        (lambda file: torch.save({1: torch.zeros(2)}, file), "holds no state dict"),
        (lambda file: torch.save({"a": torch.zeros(2)}, file), "fits another network"),
        (
            lambda file: torch.save({"0.weight": torch.full((2, 3), torch.nan)}, file),
            "weights that are not finite",
        ),
        (
            lambda file: torch.save({"0.weight": torch.tensor([1e300], dtype=torch.double)}, file),
            "weights that are not finite, the first in 0.weight",
        ),
        (
            lambda file: torch.save({"0.weight": torch.eye(3, dtype=torch.cfloat)}, file),
            "sparse, quantized or complex, the first in 0.weight",
        ),
        (
            lambda file: torch.save({"0.weight": torch.eye(3, device="meta")}, file),
            "holds no numbers for 0.weight",
        ),
    ],
)
def test_files_that_hold_no_weights_of_this_network(tmp_path, write, message):
    file = tmp_path / "weights.pt"
    write(file)
    with pytest.raises(ModelError, match=message) as error:
        load_weights(network(), file)
    assert "weights.pt" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_case_starts_from_its_weights(tmp_path):
    case, sample = tiny_case((8, 8), 3), tiny_sample((8, 8), 3)
    fresh, other = (honest_network(case, sample, Seeds(seed)) for seed in (0, 1))
    file = saved(tmp_path, other.state_dict())
    loaded = honest_network(replace(case, weights=str(file)), sample, Seeds(0))
    assert not torch.equal(fresh[0].weight, loaded[0].weight)
    assert all(
        torch.equal(a, b) for a, b in zip(other.parameters(), loaded.parameters(), strict=True)
    )
