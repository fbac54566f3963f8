"""What is counted and in which order; nothing here depends on how fast the machine is."""

from itertools import pairwise

import pytest
import torch

from ropewalk.bench import measure
from ropewalk.bench.measure import MOST, SHORTEST, Work, in_turns, once, peak


def test_every_round_runs_everybody_and_nobody_always_follows_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    told: list[str] = []
    works = {name: Work(lambda: None, lambda _, name=name: ran.append(name)) for name in "abcd"}
    monkeypatch.setattr(measure, "SHORTEST", 0.0)
    found = in_turns(works, 12, "cpu", told.append)
    assert ran[:4] == list("abcd")
    assert ran[4:] == told
    assert all(set(told[i : i + 4]) == set("abcd") for i in range(0, 48, 4))
    followers = {name: {b for a, b in pairwise(told) if a == name} - {name} for name in "abcd"}
    assert all(len(after) == 3 for after in followers.values())
    assert all(timing.low <= timing.seconds <= timing.high for timing in found.values())


@pytest.mark.parametrize(("fastest", "calls"), [(SHORTEST, 1), (SHORTEST / 4, 4), (1e-12, MOST), (1.0, 1)])
def test_all_make_as_many_calls_as_the_fastest_needs(
    fastest: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def timed(work: Work, calls: int, device: str) -> float:
        given.append(calls)
        return fastest if work is works["fast"] else 2.0

    works = {name: Work(lambda: None, lambda _: None) for name in ("slow", "fast")}
    monkeypatch.setattr(measure, "once", timed)
    found = in_turns(works, 2, "cpu", lambda name: None)
    assert given == [1, 1] + [calls] * 4
    assert {timing.calls for timing in found.values()} == {calls}


def test_what_is_made_ready_is_handed_over_outside_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    made = iter(range(9))

    def ready() -> int:
        clock[0] += 100.0
        return next(made)

    seen: list[int] = []

    def run(each: int) -> None:
        clock[0] += 1.0
        seen.append(each)

    assert once(Work(ready, run), 3, "cpu") == 1.0
    assert seen == [0, 1, 2]


def test_nobody_to_be_timed() -> None:
    assert in_turns({}, 3, "cpu", lambda name: None) == {}


def test_the_peak_counts_what_is_freed_before_the_end_and_not_what_was_there() -> None:
    size = 48 << 20
    before = torch.ones(size // 4)
    small = peak(Work(lambda: None, lambda _: before.sum()), "cpu")
    if small is None:
        pytest.skip("this system does not say how much memory a process took")

    def twice(_: None) -> float:
        first = torch.ones(size // 4)
        return float((first + 1).sum())

    large = peak(Work(lambda: None, twice), "cpu")
    assert large is not None
    # two blocks side by side; a process has other things to do, but none of this size
    assert 1.75 * size < large < 2.25 * size
    assert small < 0.25 * size


def test_a_system_that_does_not_count_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(measure, "REFERENCED", tmp_path_factory.mktemp("none") / "no" / "such")
    assert peak(Work(lambda: None, lambda _: None), "cpu") is None
