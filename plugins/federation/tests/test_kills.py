"""A federation that is killed or stopped ends with the numbers of one that is not."""

import signal
import subprocess
import sys
import time

import pytest
import torch

ROUNDS = 8


def command(folder):
    start = "from medbreach.cli import main; main()"
    return [sys.executable, "-c", start, "federate", f"federation.rounds={ROUNDS}", "--out", folder]


def begin_and_send(folder, sent, rounds):
    """Begin or go on, and send a signal when so many rounds are done; return the exit code."""
    lines = folder / "rounds.jsonl"
    with subprocess.Popen(
        command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:  # fmt: skip
        end = time.monotonic() + 240
        while not lines.is_file() or len(lines.read_text().splitlines()) <= rounds:
            assert running.poll() is None, "it ended by itself"
            assert time.monotonic() < end
            time.sleep(0.02)
        running.send_signal(sent)
        return running.wait(60)


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert begin_and_send(cut, signal.SIGKILL, 2) == -signal.SIGKILL
    assert begin_and_send(cut, signal.SIGINT, 4) == 130
    for folder in (cut, whole):
        subprocess.run(command(folder), check=True, capture_output=True, timeout=240)
    weights = [torch.load(f / "weights.pt", weights_only=True) for f in (cut, whole)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len((cut / "rounds.jsonl").read_text().splitlines()) == ROUNDS + 1
