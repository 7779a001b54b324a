"""Where clients are played: what cannot be reached is named, and a cluster plays the same."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray
import toy

from medbreach.errors import ConfigError, ContractError
from medbreach_federation import Cluster, Mean, ray_kept, run_federation
from medbreach_federation.backend import EnduringBackend
from medbreach_federation.engine import CRASH, speaking_of_engine

HERE = "127.0.0.1"
PATIENCE = 60


def free_port():
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        return taken.getsockname()[1]


def play(folder, cluster=None, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "toy.json").write_text(json.dumps(settings))
    lines = run_federation(folder, toy.build, Mean(by_records=False), 2, cluster=cluster)
    return [line.evaluation for line in lines]


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (Cluster("nowhere"), "nowhere is no address of a Ray cluster: write host:port, or auto"),
        (Cluster(":6379"), "no address of a Ray cluster"),
        (Cluster(f"{HERE}:99999"), "no address of a Ray cluster"),
        (Cluster("auto", processes=2), "leave processes out"),
        (Cluster(gpus=1000), "each client needs 1000 of a GPU, and this machine has"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(cluster, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        play(tmp_path / "run", cluster)
    assert not (tmp_path / "run" / "rounds.jsonl").exists()


def test_a_cluster_that_does_not_answer_is_named():
    address = f"{HERE}:{free_port()}"
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}"):
        Cluster(address).check()


def crash():
    error = RuntimeError(CRASH)
    error.__cause__ = ConnectionError("no room\nin /dev/shm.")
    raise error


def test_an_engine_that_does_not_run_says_why():
    with pytest.raises(ContractError, match="does not run: no room in /dev/shm"):
        speaking_of_engine()(crash)()
    with pytest.raises(RuntimeError, match="of the program"), speaking_of_engine():
        raise RuntimeError("a fault of the program")


@pytest.mark.slow
def test_ray_that_is_kept_plays_the_same(tmp_path):
    with ray_kept():
        first = play(tmp_path / "first")
        assert ray.is_initialized()
        processes = set(EnduringBackend.kept)
        assert play(tmp_path / "second") == first
        assert processes == set(EnduringBackend.kept)
        play(tmp_path / "faulty", faults={"1/1": "die"})
        assert len(processes & set(EnduringBackend.kept)) == len(processes) - 1
        assert play(tmp_path / "fourth") == first
    assert not ray.is_initialized()
    assert play(tmp_path / "third") == first
    assert not ray.is_initialized()


@pytest.mark.slow
def test_processes_that_are_kept_forget_the_federation_before(tmp_path):
    folder = tmp_path / "run"
    with ray_kept():
        play(folder, faults={"0/1": "nan"})
        shutil.rmtree(folder)
        again = play(folder)
    assert again == play(tmp_path / "fresh")


@pytest.mark.slow
def test_a_cluster_that_runs_already_plays_the_same_and_is_not_taken_unasked(tmp_path):
    port = free_port()
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}"]
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parent)}
    with (
        tempfile.TemporaryDirectory() as short,  # sockets lie in it, and their paths must be short
        subprocess.Popen(
            [*ray, "--num-cpus=1", "--include-dashboard=false", f"--temp-dir={short}", "--block"],
            env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        ) as running,
    ):  # fmt: skip
        try:
            cluster, end = Cluster(f"{HERE}:{port}"), time.monotonic() + PATIENCE
            while time.monotonic() < end:
                try:
                    cluster.check()
                    break
                except ConfigError:
                    time.sleep(0.5)
            there = play(tmp_path / "there", cluster)
            assert running.poll() is None
            assert there == play(tmp_path / "here") == play(tmp_path / "again", Cluster())
        finally:
            os.killpg(running.pid, signal.SIGTERM)
