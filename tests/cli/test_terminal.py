"""The program as it is started and seen: in a terminal, in a pipe, and how soon it answers."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

PROGRAM = (sys.executable, "-c", "from medbreach.cli import main; main()")
AUDIT = (
    "audit", "case=brain_mr_3d", "case.data.space=[4,8,8]", "case.model.width=4",
    "attack.optim.max_iterations=3000", "audit.null_draws=2", "audit.public=100",
    "audit.metrics=[mse]", "--device", "cpu",
)  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
ENVIRONMENT.pop("COLUMNS", None)


def in_a_terminal(*arguments, interrupt_at=None):
    """Run the program in a terminal; return its exit code and everything that was shown.

    Args:
        interrupt_at: Send Ctrl-C's signal when this has been shown.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=theirs, stderr=theirs, env=ENVIRONMENT
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
            if interrupt_at is not None and interrupt_at in shown:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_progress_with_time_left_and_ctrl_c(tmp_path):
    code, shown = in_a_terminal(
        *AUDIT, "--out", tmp_path / "run", interrupt_at=b"invertinggradients, seed 0"
    )
    assert code == 130, shown
    assert "reading the images and building the network" in shown
    steps = re.findall(r"\(solvable control\), seed 0 \S*\s*\S*\s* +(\d+)/3000", shown)
    assert len(set(steps)) > 5, "the bar moves"
    elapsed_and_left = r"(\d+)/3000 \d:\d\d:\d\d \d:\d\d:\d\d"
    assert re.search(elapsed_and_left, shown), "time left is estimated"
    assert re.search(r"attempts .* \d/4 ", shown)
    assert "blind_guess (blind control), seed 0: 0 of 8 identified, no leak found" in shown
    assert f"medbreach resume {tmp_path}/run" in shown.replace("\r\n", "")
    assert "Traceback" not in shown


def test_nothing_moves_where_there_is_no_terminal(tmp_path):
    ran = subprocess.run(
        [
            *PROGRAM,
            *AUDIT[:4],
            "attack=blind_guess",
            "--device=cpu",
            "--out",
            str(tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert ran.returncode == 3
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "\r" not in ran.stdout + ran.stderr
    opening, first, second = ran.stderr.splitlines()
    assert opening == f"brain_mr_3d: 2 attempts on cpu, recorded in {tmp_path / 'run'}"
    assert first == "blind_guess (blind control), seed 0: 0 of 8 identified, no leak found"
    assert second.startswith("random_public_image (blind control), seed 0: ")


def test_help_answers_at_once():
    """The least of five starts: other processes may take the processor for a while."""

    def seconds():
        start = time.perf_counter()
        subprocess.run([*PROGRAM, "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_help_says_what_exit_codes_mean():
    ran = subprocess.run([*PROGRAM, "--help"], check=True, capture_output=True, text=True)
    text = " ".join(ran.stdout.split())
    assert "0 no leak found, 1 a leak, 2 wrong input, 3 inconclusive" in text


def test_a_reader_that_goes_away():
    """As in ``medbreach list | head -1``: no traceback, and no exit code that means a leak."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*PROGRAM, "show", "case", "dermoscopy_2d"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    os.close(writer)
    os.close(reader)
    _, said = process.communicate()
    assert (process.returncode, said) == (141, "")


def test_list_answers_soon():
    """The processor's time, as other processes may take turns."""
    before = os.times()
    subprocess.run([*PROGRAM, "list"], check=True, capture_output=True, env=ENVIRONMENT)
    after = os.times()
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 4
