"""A few Python threads for compiled loops that do not hold the interpreter.

numba's own layers do not do here: one is not safe for several callers, and OpenMP is not after a fork.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache


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
