"""The program in real processes without the wait: forks of one process that has loaded it.

Run as a script, this reads a job in JSON a line and answers each with what its process left.
"""

import contextlib
import errno
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock


class Ended(NamedTuple):
    """What a process left: its exit code, or minus the signal that ended it, and what it wrote."""

    code: int
    out: str
    err: str
    seconds: float


class Forks:
    """A loaded process that forks for every run of the program."""

    def __init__(self):
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one},
        )

    def run(
        self,
        *arguments,
        kill_after=None,
        kill_once=None,
        signal_number=signal.SIGKILL,
        largest_file=None,
        writes=None,
    ):
        """Run ``medbreach`` with arguments.

        Args:
            kill_after: Send a signal after so many seconds.
            kill_once: Send it as soon as this file is not empty.
            signal_number: Which one.
            largest_file: Bytes that a file may have: the kernel refuses more.
            writes: How often the record may be written to before the disk is full.
        """
        job = {
            "arguments": [str(argument) for argument in arguments],
            "kill_after": kill_after,
            "kill_once": None if kill_once is None else str(kill_once),
            "signal": int(signal_number),
            "largest_file": largest_file,
            "writes": writes,
        }
        self._process.stdin.write(f"{json.dumps(job)}\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))

    def close(self):
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def forks():
    """Return a loaded process, and end it afterwards."""
    process = Forks()
    try:
        yield process
    finally:
        process.close()


def _become_the_program(job, out, err, begins):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job["largest_file"] is not None:
        limit = (job["largest_file"], resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    if job["writes"] is not None:
        _fill_the_disk_after(job["writes"])
    from medbreach.cli import main

    os.close(begins)
    main(job["arguments"])


def _fill_the_disk_after(writes):
    from medbreach import storage

    left = iter(range(writes))

    def fsync(stream):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    storage.os = mock.Mock(wraps=os, fsync=fsync)


def _carry_out(job):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                _become_the_program(job, out, err, begins)
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(begins)
        os.read(begun, 1)  # a busy machine may take its time until then
        os.close(begun)
        start = time.monotonic()
        status = _wait(child, job, start)
        seconds = time.monotonic() - start
        texts = [file.seek(0) or file.read().decode() for file in (out, err)]
    return os.waitstatus_to_exitcode(status), *texts, seconds


def _wait(child, job, start):
    """Wait until a process ends, and send it the job's signal when it is time."""
    after, once = job["kill_after"], job["kill_once"] and Path(job["kill_once"])
    due = after is not None or once is not None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        late = after is not None and time.monotonic() - start >= after
        if due and (late or (once and once.exists() and once.stat().st_size)):
            os.kill(child, job["signal"])
            due = False
        time.sleep(0.002)


def _serve():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in ("breaching_bridge.library", "cli.screen", "config", "report", "session"):
        importlib.import_module(f"medbreach.{module}")
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(_carry_out(json.loads(line)))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    _serve()
