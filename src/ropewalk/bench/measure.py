"""Seconds and bytes: every contestant is run in turn, round after round, so that what else the machine does hits all.

A run is timed with what it allocates and frees: a copy does that too, and so does whoever calls it.
"""

import ctypes
import gc
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

SHORTEST = 0.005  # seconds of a timed run; faster calls are repeated inside it
MOST = 1000  # calls in one run
STATUS, REFERENCED = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Work(NamedTuple):
    """Something to be timed: `ready` makes what `run` takes, outside the clock."""

    ready: Callable[[], Any]
    run: Callable[[Any], Any]


class Timing(NamedTuple):
    """Seconds of one call."""

    seconds: float  # the median of all rounds
    low: float
    high: float
    calls: int  # in one round


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def once(work: Work, calls: int, device: str) -> float:
    """Seconds of one of several calls."""
    given = [work.ready() for _ in range(calls)]
    wait(device)
    start = time.perf_counter()
    for each in given:
        work.run(each)
    wait(device)
    return (time.perf_counter() - start) / calls


def in_turns(works: dict[str, Work], rounds: int, device: str, tick: Callable[[str], None]) -> dict[str, Timing]:
    """Every work timed in every round, in an order drawn anew, after a run of each that does not count.

    What ran before leaves its marks on caches and on free memory: nobody shall always follow the same one.
    All make the same number of calls in a round, as many as the fastest needs to be seen by the clock.
    """
    if not works:
        return {}
    first = [once(work, 1, device) for work in works.values()]
    calls = max(1, min(MOST, math.ceil(SHORTEST / max(min(first), 1e-9))))
    names, found = list(works), {name: [] for name in works}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            for name in random.Random(number).sample(names, len(names)):
                found[name].append(once(works[name], calls, device))
                tick(name)
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(median(s), min(s), max(s), calls) for name, s in found.items()}


def peaks(works: dict[str, Work], device: str) -> dict[str, int | None]:
    """The peak of each work, after whatever nobody holds any more is gone."""
    gc.collect()
    return {name: peak(work, device) for name, work in works.items()}


def peak(work: Work, device: str) -> int | None:
    """Bytes that one call takes at its peak beyond those held before, its result included; None where nothing tells.

    On a CPU that is what the kernel counts for the process, so pages that the allocator had kept are given back first.
    """
    given = work.ready()
    if device == "cuda":
        wait(device)
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work.run(given)
        wait(device)
        return torch.cuda.max_memory_allocated() - held
    try:
        ctypes.CDLL(None).malloc_trim(0)
        REFERENCED.write_text("5")
        held = resident("VmRSS")
        work.run(given)
        return max(resident("VmHWM") - held, 0)
    except (OSError, AttributeError):
        return None


def resident(field: str) -> int:
    """Bytes of the process that the kernel counts: VmRSS those now, VmHWM the most since the count was reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
