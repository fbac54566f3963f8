"""Contestants side by side in one process: each is checked against float64, and those that are right are timed."""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ropewalk.bench.case import BACKWARD, FORWARD, Case, Problem, problem
from ropewalk.bench.contestants import Absent, Contestant, Op, installed
from ropewalk.bench.formula import Verdict, judge_attention, judge_rotation
from ropewalk.bench.measure import Timing, Work, in_turns, peaks
from ropewalk.bench.request import EVERYBODY, BenchRequest
from ropewalk.errors import ConfigError

COMPILING = 10.0  # seconds that first calls may take in a case, for the time left alone
OURS = "ropewalk"  # with which the names of our contestants begin
FRESH, READY, GIVEN = "fresh memory", "ready memory", "what it is given"  # where results are written

Tell = Callable[[float, str], None]  # the share that is done, and what is going on


class Row(NamedTuple):
    """One contestant in one case."""

    what: str
    stage: str
    bias: str
    heads: int
    kv_heads: int
    length: int
    dim: int
    dtype: str
    layout: str
    device: str
    contestant: str
    version: str
    limit: bool  # whether others are divided by it
    writes: str  # into FRESH or READY memory, or over what is GIVEN
    status: str  # "timed", "wrong", "failed" or "absent"
    note: str = ""  # why it was not timed
    error: float | None = None  # None where the result is not finite, or there is none
    allowed: float | None = None
    seconds: float | None = None  # the median
    low: float | None = None
    high: float | None = None
    calls: int | None = None  # in each of the repeats
    against: str | None = None  # the limit that writes to the same kind of memory
    ratio: float | None = None  # to that limit
    ratios: dict[str, float] | None = None  # to every limit
    gb_per_s: float | None = None  # of rotations: what is read and written, tables aside
    peak_bytes: int | None = None


class Entry(NamedTuple):
    """A contestant whose result is right."""

    contestant: Contestant
    verdict: Verdict
    work: Work
    writes: str

    @property
    def ready(self) -> bool:
        return self.writes != FRESH


def bench(request: BenchRequest, tell: Tell = lambda share, text: None) -> list[Row]:
    """A row for every contestant in every case, in the order of the cases."""
    cases, done = list(request.cases()), 0.0
    costs = [len(members(c, request.only)) * (request.repeats + 3) * c.guess() + COMPILING for c in cases]
    rows: list[Row] = []
    for case, mine in zip(cases, costs, strict=True):
        before, part = done / sum(costs), mine / sum(costs)

        def inside(share: float, text: str, before: float = before, part: float = part) -> None:
            tell(before + part * share, text)

        rows += compare(problem(case, request.seed), members(case, request.only), request.repeats, inside)
        done += mine
    return rows


def members(case: Case, only: tuple[str, ...]) -> tuple[Contestant, ...]:
    """Who takes part in a case: the limits, and those named, or all."""
    return tuple(c for c in EVERYBODY[case.what] if c.limit or not only or c.name in only)


def compare(given: Problem, contestants: tuple[Contestant, ...], repeats: int, tell: Tell) -> list[Row]:
    """The rows of one case: everybody is checked first, then those that are right are timed in turns."""
    if any(c.compiled for c in contestants):
        # code that was compiled for other sizes counts against a limit beyond which nothing is compiled any more
        torch.compiler.reset()
    found: dict[str, Row | Entry] = {}
    for i, contestant in enumerate(contestants):
        tell(0.5 * i / len(contestants), f"checking {contestant.name}: {given.case.title()}")
        found[contestant.name] = enter(contestant, given)
    right = {name: entry for name, entry in found.items() if isinstance(entry, Entry)}
    told = 0

    def tick(name: str) -> None:
        nonlocal told
        told += 1
        tell(0.5 + 0.5 * told / (repeats * len(right)), f"timed {name}: {given.case.title()}")

    with torch.set_grad_enabled(given.case.stage != FORWARD):
        works = {name: entry.work for name, entry in right.items()}
        most = peaks(works, given.case.device)
        timings = in_turns(works, repeats, given.case.device, tick)
    limits = {e.ready: (name, timings[name].seconds) for name, e in right.items() if e.contestant.limit}
    return [
        timed(given, e, timings[name], limits)._replace(peak_bytes=most[name]) if isinstance(e, Entry) else e
        for name, e in found.items()
    ]


def enter(contestant: Contestant, given: Problem) -> Row | Entry:
    """The contestant checked and ready, or the row that says why it will not be timed."""
    if contestant.version() is None:
        return untimed(given, contestant, "absent", "not installed")
    if contestant.gpu and given.case.device != "cuda":
        return untimed(given, contestant, "absent", "needs a GPU")
    # it works on tensors of its own, for some write to what they are given
    own = given._replace(inputs=tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in given.inputs))
    try:
        with torch.set_grad_enabled(given.case.stage != FORWARD):
            op = contestant.prepare(own)
            work = made(op, contestant, own)
            verdict = judge(contestant, given, work.run(work.ready()))
    except Absent as reason:
        return untimed(given, contestant, "absent", str(reason))
    except ConfigError as error:
        return untimed(given, contestant, "wrong", str(error))
    except Exception as error:
        # somebody else's code may fail in any way, and the others are still to be compared
        return untimed(given, contestant, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
    if not verdict.right:
        return untimed(given, contestant, "wrong", "", verdict)
    if all(torch.equal(x, was) for x, was in zip(own.inputs, given.inputs, strict=True)):
        return Entry(contestant, verdict, made(op, contestant, given), READY if contestant.ready else FRESH)
    return Entry(contestant, verdict, work, GIVEN)


def made(op: Op, contestant: Contestant, given: Problem) -> Work:
    """What is timed: the way there, the way back alone, or both; of copies always the way there."""
    case = given.case
    if case.stage == FORWARD or (case.stage == BACKWARD and not contestant.pairing):
        return Work(lambda: None, lambda _: op(*given.inputs))
    leaves = (*given.inputs, *([] if contestant.plain else given.weights.values()))

    def back(results: Any) -> Any:
        return torch.autograd.grad(results, leaves, given.gradients)

    if case.stage == BACKWARD:
        return Work(lambda: op(*given.inputs), back)
    return Work(lambda: None, lambda _: back(op(*given.inputs)))


def judge(contestant: Contestant, given: Problem, results: Any) -> Verdict:
    """The results against float64."""
    if given.case.what == "rotate":
        return judge_rotation(given, tuple(results), contestant.pairing, contestant.own_angles)
    return judge_attention(given, tuple(results), contestant.plain)


def untimed(given: Problem, who: Contestant, status: str, note: str, verdict: Verdict | None = None) -> Row:
    """The row of a contestant that is not timed."""
    case = given.case
    error, allowed = verdict or (None, None)
    finite = error is not None and abs(error) < float("inf")
    note = note if verdict is None or finite else ", ".join(filter(None, ["not finite", note]))
    writes = READY if who.ready else FRESH
    error = error if finite else None
    return Row(*case, who.name, who.version() or "", who.limit, writes, status, note, error, allowed)


def timed(given: Problem, entry: Entry, timing: Timing, limits: dict[bool, tuple[str, float]]) -> Row:
    """The row of a contestant that is right; the limits are named by whether they write into ready memory."""
    moved = sum(2 * x.numel() * x.element_size() for x in given.inputs)
    against, limit = limits.get(entry.ready, (None, None))
    return untimed(given, entry.contestant, "timed", "", entry.verdict)._replace(
        writes=entry.writes,
        seconds=timing.seconds,
        low=timing.low,
        high=timing.high,
        calls=timing.calls,
        against=against,
        ratio=timing.seconds / limit if limit else None,
        ratios={name: timing.seconds / own for name, own in limits.values()},
        gb_per_s=moved / timing.seconds / 1e9 if given.case.what == "rotate" else None,
    )


def ours_fails(rows: list[Row]) -> bool:
    """Whether ropewalk was wrong or could not do what was asked of it."""
    return any(r.contestant.startswith(OURS) and r.status in ("wrong", "failed") for r in rows)


def machine(request: BenchRequest) -> dict[str, Any]:
    """Where and when this was measured."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if request.device == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "ropewalk": installed("ropewalk"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
