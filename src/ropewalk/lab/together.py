"""A lab run in the processes of torchrun: all of them make a training of text together, the first does all the rest."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ropewalk.errors import RopewalkError, require
from ropewalk.evaluate.run import Row
from ropewalk.lab.jobs import Job, Training
from ropewalk.lab.workers import Pool, keep_memory

if TYPE_CHECKING:
    from ropewalk.lab.ranks import Ranks

TOLD = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
BAD_INPUT = 2  # the exit code


@contextmanager
def joined(context: int = 1) -> Generator["Ranks | None"]:
    """This process among those that torchrun has started, `context` of which share a text; None where it is alone.

    It reads WORLD_SIZE, LOCAL_RANK and what else torchrun and `accelerate launch` set. With the block of the first
    rank ends `follow` in the others. Raises ConfigError, in one line, for a `context` without other processes, and for
    more processes than GPUs where there are any.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        require(context == 1, "--context", "1 unless torchrun or accelerate launch starts several processes", context)
        yield None
        return
    missing = [name for name in TOLD if name not in os.environ]
    require(not missing, "the environment with WORLD_SIZE", "one of torchrun's", f"one without {', '.join(missing)}")
    from ropewalk.lab.ranks import Ranks

    keep_memory()
    if torch.cuda.is_available():
        here, count = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        require(here <= count, "the number of processes on a machine", f"at most {count}, its GPUs", here)
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    ranks = Ranks(context)
    try:
        yield ranks
    except RopewalkError:
        if ranks.rank == 0:
            ranks.first(lambda: BAD_INPUT)
        raise
    if ranks.rank == 0:
        ranks.first(lambda: 0)
    dist.destroy_process_group()


def follow(ranks: "Ranks") -> int:
    """Take part in every training that the first rank begins; the code to exit with, when it has ended."""
    code = 1
    while code:
        try:
            told: Any = ranks.first(lambda: None)
        except RuntimeError:
            # the first rank is gone; torchrun ends all at the first that fails, and that one has something to say
            return code
        if isinstance(told, int):
            code = told
            continue
        try:
            told.run(lambda _: None, ranks)
        except RopewalkError:
            # raised by all: the first rank shows it, and says how to end
            continue
    return code


class Together:
    """A pool that leaves trainings of text to all ranks, one at a time, and every other job to `pool`."""

    def __init__(self, ranks: "Ranks", pool: Pool) -> None:
        self.ranks, self.pool = ranks, pool
        self.next: Training | None = None

    def __enter__(self) -> "Together":
        self.pool.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self.pool.__exit__(*what)

    @property
    def free(self) -> int:
        """How many more jobs may be given; none before a training that waits."""
        return 0 if self.next else self.pool.free

    @property
    def busy(self) -> Mapping[Any, Job]:
        """The jobs that are out, and the training that waits for their end."""
        return {**self.pool.busy, self: self.next} if self.next else self.pool.busy

    def give(self, job: Job) -> None:
        """Have a job carried out."""
        if isinstance(job, Training):
            self.next = job
        else:
            self.pool.give(job)

    def news(self, tick: Callable[[Job, float], None]) -> Iterator[tuple[Job, Row]]:
        """What was finished: of the jobs that are out, then the training that waits for them."""
        if self.pool.busy or self.next is None:
            yield from self.pool.news(tick)
            return
        job, self.next = self.next, None
        self.ranks.first(lambda: job)
        yield job, job.run(lambda done: tick(job, done), self.ranks)
