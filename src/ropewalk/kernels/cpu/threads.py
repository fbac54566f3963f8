"""Threads for compiled loops that do not hold the interpreter.

torch's own are best: they wait in a loop for a while after each operation, and others beside them would find no
processor free.  Where they cannot be had, some of Python's do.  numba's layers do neither: one is not safe for several
callers, and the others start threads of their own.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

HOME = os.getpid()  # a process that is forked from this one has none of its threads


def torch_threads() -> Callable[[int, int, int, int], None] | None:
    """OpenMP's call for torch's threads: (function, its argument, threads, 0); None where it is not to be had."""
    return openmp() if os.getpid() == HOME else None


@cache
def openmp() -> Callable[[int, int, int, int], None] | None:
    """The same, for the process that loaded this file."""
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        # there may be several of them in a process, and only one is torch's
        near = [name for name in loaded if "libgomp" in name and str(Path(torch.__file__).parent) in name]
        call = ctypes.CDLL(near[0], mode=os.RTLD_NOLOAD).GOMP_parallel if len(near) == 1 else None
    except (OSError, AttributeError):
        return None
    if call:
        call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return call


@cache
def pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of one process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"ropewalk-{process}")


def in_threads(work: Callable[[], None], threads: int) -> None:
    """Run `work` here and in further threads, until all that started it are done.

    `work` shares its parts out by itself, so a thread that does not get to start in time is not waited for.
    """
    started: list[Future[None]] = []
    try:
        while len(started) < threads - 1:
            started.append(pool(os.getpid(), threads - 1).submit(work))
    except RuntimeError:
        pass  # the interpreter is shutting down: what has started is enough
    work()
    for future in started:
        if not future.cancel():
            future.result()
