"""Jobs carried out in processes of one thread each; the outcome does not depend on how many there are.

A worker tells its parent of every step it has done, so it ends by itself soon after a parent that was killed.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from ropewalk.errors import RopewalkError
from ropewalk.evaluate.run import Row
from ropewalk.lab.jobs import Job

TICK, DONE, RAISED = "tick", "done", "raised"
TRIM, MMAP, MUCH = -1, -3, 2**30  # of mallopt
AGAIN = "run the same command again to go on"


class Pool(Protocol):
    """What carries out jobs, as many at a time as it has room for, from the start of a `with` block to its end."""

    def __enter__(self) -> "Pool": ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def free(self) -> int:
        """How many more jobs may be given."""
        ...

    @property
    def busy(self) -> Mapping[Any, Job]:
        """The jobs that are out."""
        ...

    def give(self, job: Job) -> None:
        """Have a job carried out."""
        ...

    def news(self, tick: Callable[[Job, float], None]) -> Iterator[tuple[Job, Row]]:
        """Wait for something to happen: what was finished, while `tick` hears what was done.

        Raises what a job has raised, and RopewalkError where its process is gone.
        """
        ...


def pool(most: int | None, cluster: str | None, folder: Path) -> Pool:
    """Processes of this machine, or tasks on the Ray cluster `cluster`, whose nodes share `folder`.

    They do at most so many jobs at a time; None: as many as there are cores. Raises RopewalkError, in one line, for a
    cluster that cannot be used: here for an address where nothing answers, in `with` for what nodes lack.
    """
    if cluster is None:
        return Workers(most or len(os.sched_getaffinity(0)))
    from ropewalk.lab.cluster import Cluster

    return Cluster(cluster, folder, most)


class Progress:
    """How much of all planned jobs is done, by their costs; `tell` hears the share and what it was."""

    def __init__(self, tell: Callable[[float, str], None]) -> None:
        self.tell, self.total, self.closed = tell, 0.0, 0.0
        self.open: dict[str, float] = {}

    def plan(self, jobs: Sequence[Job]) -> None:
        """These will be done as well."""
        self.total += sum(job.cost for job in jobs)

    def drop(self, jobs: Sequence[Job]) -> None:
        """These will not."""
        self.total -= sum(job.cost for job in jobs)

    def tick(self, job: Job, done: float) -> None:
        """So much of a job's cost is behind it."""
        self.open[job.name] = min(self.open.get(job.name, 0.0) + done, job.cost)
        self.tell(min((self.closed + sum(self.open.values())) / self.total, 1.0), job.name)

    def close(self, job: Job) -> None:
        """A job is finished."""
        self.open.pop(job.name, None)
        self.closed += job.cost
        self.tell(min(self.closed / self.total, 1.0), job.name)


class Workers:
    """So many processes that take jobs; they end with the `with` block."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.context = get_context("spawn")
        self.idle: list[Connection] = []
        self.busy: dict[Connection, Job] = {}
        self.processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join()

    def give(self, job: Job) -> None:
        """Hand a job to an idle worker, or to a new one."""
        worker = self.idle.pop() if self.idle else self.start()
        worker.send(job)
        self.busy[worker] = job

    @property
    def free(self) -> int:
        """How many more jobs may be given."""
        return self.count - len(self.busy)

    def start(self) -> Connection:
        """A new worker."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self.processes[ours] = process
        return ours

    def news(self, tick: Callable[[Job, float], None]) -> Iterator[tuple[Job, Row]]:
        """Wait for something to happen: what was finished, while `tick` hears what was done."""
        for worker in wait(list(self.busy)):
            assert isinstance(worker, Connection)
            job = self.busy[worker]
            try:
                what, value = worker.recv()
            except EOFError:
                raise self.ended(worker, job) from None
            if what == TICK:
                tick(job, value)
                continue
            del self.busy[worker]
            self.idle.append(worker)
            if what == RAISED:
                raise value
            yield job, value

    def ended(self, worker: Connection, job: Job) -> RopewalkError:
        """What to say of a worker that is gone."""
        process = self.processes[worker]
        process.join()
        code = process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        why = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return RopewalkError(f"the process of {job.name!r} was ended {how}{why}; {AGAIN}")


def work(parent: Connection) -> None:
    """The life of a worker: jobs in, ticks and rows out, until the parent is gone."""
    # control-C is for the parent, which ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_memory()

    def tick(done: float) -> None:
        parent.send((TICK, done))

    try:
        while True:
            job = parent.recv()
            try:
                answer: tuple[str, Any] = DONE, job.run(tick)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                # whatever it is, the parent shows it
                answer = RAISED, error
            parent.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def keep_memory() -> None:
    """Have the allocator keep what is freed: given back and asked for again, it would be cleared in every step."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(TRIM, MUCH)
        libc.mallopt(MMAP, MUCH)
    except (AttributeError, OSError):
        return
