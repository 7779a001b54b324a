"""Time and peak memory of a piece of work, and the memory that is free for it."""

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

MIB = 2**20
_PROC = Path("/proc/self")


class Cost:
    """What a piece of work took; filled in when it ends.

    Attributes:
        seconds: Wall time.
        peak_memory_mb: Peak memory while it ran, in MiB: of the GPU if it ran there, else of the
            whole process.
    """

    seconds: float = 0.0
    peak_memory_mb: float = 0.0


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure what runs inside.

    Where the operating system cannot reset the process's peak (other than Linux), the peak since
    its start is given.
    """
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            (_PROC / "clear_refs").write_text("5")
    start = time.monotonic()
    try:
        yield cost
    finally:
        synchronise(device)
        if device.type == "cuda":
            cost.peak_memory_mb = torch.cuda.max_memory_allocated(device) / MIB
        else:
            cost.peak_memory_mb = _peak_of_process()
        cost.seconds = time.monotonic() - start


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def available_memory(device: torch.device | None = None) -> int | None:
    """Return how many bytes of memory are free, caches counted in; None if it cannot be told.

    Args:
        device: Where; None for the machine itself, or the container that the process is in.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = [free for free in (_free_of_machine(), _free_of_container()) if free is not None]
    return min(told, default=None)


def _free_of_machine() -> int | None:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvail")).split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_of_container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what a control group's limit (version 2, or 1) leaves; None if there is no limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most, held = int((root / limit).read_text()), int((root / used).read_text())
            counts = dict(line.split() for line in (root / cache).read_text().splitlines())
            return most - held + int(counts.get("inactive_file", 0))
    return None


def _peak_of_process() -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = (_PROC / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
