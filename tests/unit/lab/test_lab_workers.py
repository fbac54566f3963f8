"""Jobs in other processes: their rows, what they raise, and what is said of one that is gone."""

import os
import signal
from typing import Any, NamedTuple

import pytest
import torch

from ropewalk import ConfigError, RopewalkError
from ropewalk.lab.workers import Progress, Workers


class Counts(NamedTuple):
    """Says how far it is, and with how many threads."""

    name: str
    cost: float = 4.0

    def run(self, tell: Any) -> Any:
        for _ in range(4):
            tell(1.0)
        return {"name": self.name, "threads": torch.get_num_threads()}


class Refuses(NamedTuple):
    name: str
    cost: float = 1.0

    def run(self, tell: Any) -> Any:
        raise ConfigError("steps must be few")


class Dies(NamedTuple):
    name: str
    cost: float = 1.0

    def run(self, tell: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def rows(workers: Workers, progress: Progress) -> list[Any]:
    found = []
    while workers.busy:
        for job, row in workers.news(progress.tick):
            progress.close(job)
            found.append(row)
    return found


def test_workers_do_jobs_and_say_what_went_wrong() -> None:
    told = list[tuple[float, str]]()
    progress = Progress(lambda share, what: told.append((share, what)))
    jobs: list[Any] = [Counts("one"), Counts("two"), Counts("three")]
    progress.plan(jobs)
    with Workers(2) as workers:
        assert workers.free == 2
        for job in jobs[:2]:
            workers.give(job)
        assert workers.free == 0
        assert sorted(r["name"] for r in rows(workers, progress)) == ["one", "two"]
        workers.give(jobs[2])
        assert rows(workers, progress) == [{"name": "three", "threads": 1}]
        assert len(workers.processes) == 2
        bad: Any = Refuses("four")
        workers.give(bad)
        with pytest.raises(ConfigError, match="steps must be few"):
            rows(workers, progress)
        bad = Dies("five")
        workers.give(bad)
        with pytest.raises(RopewalkError, match="the process of 'five' was ended by SIGKILL, as when memory runs out"):
            rows(workers, progress)
    assert not any(p.is_alive() for p in workers.processes.values())
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(told) == 3 * 5


def test_progress_forgets_what_will_not_be_done() -> None:
    told = list[float]()
    progress = Progress(lambda share, _: told.append(share))
    one: Any = Counts("one")
    two: Any = Counts("two", 12.0)
    progress.plan([one, two])
    progress.tick(one, 2.0)
    progress.drop([two])
    progress.tick(one, 1.0)
    progress.tick(one, 5.0)
    assert told == [2 / 16, 3 / 4, 1.0]
