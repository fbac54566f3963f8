"""Contestants made up for the purpose, so that it is known who is right and who is to be refused."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from ropewalk.bench import measure, run
from ropewalk.bench.attentions import ATTEND
from ropewalk.bench.case import BACKWARD, BOTH, FORWARD, Case, Problem, problem
from ropewalk.bench.contestants import ROTATE, Absent, Contestant, Op, clone, copy
from ropewalk.bench.formula import angles, rotated
from ropewalk.bench.run import FRESH, GIVEN, READY, Row, compare, ours_fails

SIZES = (4, 2, 9, 8)
COPY = Contestant("copy", clone, pairing="", limit=True)
INTO = Contestant("into", copy, pairing="", limit=True, ready=True)


def rotating(dtype: str = "float32", stage: str = FORWARD) -> Problem:
    return problem(Case("rotate", stage, "", *SIZES, dtype, "bthd", "cpu"))


def attending(bias: str, dtype: str = "float32", stage: str = FORWARD) -> Problem:
    return problem(Case("attend", stage, bias, *SIZES, dtype, "bhtd", "cpu"))


def right(x: Tensor, given: Problem) -> Tensor:
    return rotated(x, angles(given.case), "half").to(x.dtype)


def contestant(turn: Callable[[Tensor, Problem], Any], name: str = "made up") -> tuple[Contestant, list[int]]:
    """A rotation, and how many times it was called."""
    calls: list[int] = []

    def prepare(given: Problem) -> Op:
        def op(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
            calls.append(1)
            return turn(q, given), turn(k, given)

        return op

    return Contestant(name, prepare), calls


def rows(given: Problem, *contestants: Contestant, repeats: int = 2) -> dict[str, Row]:
    return {row.contestant: row for row in compare(given, contestants, repeats, lambda share, text: None)}


def quarter_off(x: Tensor, given: Problem) -> Tensor:
    out = right(x, given)
    out[0, 1, 8, 7] += 0.25
    return out


def infinite(x: Tensor, given: Problem) -> Tensor:
    return right(x, given) / torch.where(torch.zeros_like(x).cumsum(2) == 0, 0.0, 1.0)


WRONG: dict[str, tuple[Callable[[Tensor, Problem], Any], str]] = {
    "one element": (quarter_off, ""),
    "the other way": (lambda x, given: rotated(x, -angles(given.case), "half").to(x.dtype), ""),
    "the other pairing": (lambda x, given: rotated(x, angles(given.case), "interleaved").to(x.dtype), ""),
    "not turned": (lambda x, given: x.clone(), ""),
    "infinite": (infinite, "not finite"),
    "shape": (lambda x, given: right(x, given)[:, :1], "of shape (1, 4, 9, 8), got (1, 1, 9, 8)"),
    "dtype": (lambda x, given: right(x, given).double(), "of dtype torch.float32, got torch.float64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_called_so_and_never_timed(case: str) -> None:
    turn, words = WRONG[case]
    wrong, calls = contestant(turn)
    fine, often = contestant(right, "fine")
    found = rows(rotating(), COPY, wrong, fine)
    row = found["made up"]
    assert row.status == "wrong"
    assert words in row.note
    # once for the queries and once for the keys is one call, the one that was checked
    assert len(calls) == 1
    assert (row.seconds, row.ratio, row.gb_per_s, row.peak_bytes) == (None, None, None, None)
    if not words:
        assert row.error is not None
        assert row.allowed is not None
        assert row.error > 0.04 > row.allowed
    assert found["fine"].status == "timed"
    assert len(often) > 2


def test_bfloat16_where_positions_merge_is_wrong_and_rounding_is_not() -> None:
    def merged(x: Tensor, given: Problem) -> Tensor:
        return rotated(x, angles(given.case).bfloat16().double(), "half").to(x.dtype)

    given = problem(Case("rotate", FORWARD, "", 2, 1, 600, 8, "bfloat16", "bthd", "cpu"))
    found = rows(given, contestant(merged)[0], contestant(right, "fine")[0])
    assert [found[name].status for name in ("made up", "fine")] == ["wrong", "timed"]


def test_who_cannot_take_part_is_listed_with_the_reason() -> None:
    def nobody(given: Problem) -> Op:
        raise Absent("cannot be imported: no such thing")

    def broken(x: Tensor, given: Problem) -> Tensor:
        raise RuntimeError("first line\nsecond line")

    missing = Contestant("missing", nobody, package="no-such-distribution")
    found = rows(
        rotating(),
        Contestant("nobody", nobody),
        contestant(broken, "broken")[0],
        missing,
        Contestant("g", clone, gpu=True),
    )
    assert {name: (row.status, row.note) for name, row in found.items()} == {
        "nobody": ("absent", "cannot be imported: no such thing"),
        "broken": ("failed", "RuntimeError: first line"),
        "missing": ("absent", "not installed"),
        "g": ("absent", "needs a GPU"),
    }
    assert all(row.seconds is None for row in found.values())


def test_who_writes_to_inputs_is_told_and_spoils_nobody_elses() -> None:
    given = rotating()
    before = [x.clone() for x in given.inputs]

    def in_place(x: Tensor, given: Problem) -> Tensor:
        return x.copy_(right(x, given))

    found = rows(given, contestant(in_place, "first")[0], contestant(right, "second")[0])
    assert [(row.status, row.writes) for row in found.values()] == [("timed", GIVEN), ("timed", FRESH)]
    assert all(torch.equal(x, was) for x, was in zip(given.inputs, before, strict=True))


def test_ratios_are_those_of_the_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    # a first run of each, then three rounds: the copy's median is 0.002, the other's 0.005
    scripts = {"copy": iter([9.0, 0.001, 0.002, 0.009]), "fine": iter([9.0, 0.004, 0.03, 0.005])}
    given = rotating()
    # whoever is asked first is the copy
    names: dict[int, str] = {}

    def once(work: measure.Work, calls: int, device: str) -> float:
        return next(scripts[names.setdefault(id(work), ["copy", "fine"][len(names) % 2])])

    monkeypatch.setattr(measure, "once", once)
    found = rows(given, COPY, contestant(right, "fine")[0], repeats=3)
    assert (found["copy"].seconds, found["copy"].low, found["copy"].high) == (0.002, 0.001, 0.009)
    assert (found["fine"].seconds, found["fine"].low, found["fine"].high) == (0.005, 0.004, 0.03)
    assert (found["copy"].ratio, found["fine"].ratio) == (1.0, 0.005 / 0.002)
    assert found["fine"].ratios == {"copy": 0.005 / 0.002}
    moved = 2 * 4 * (4 + 2) * 9 * 8  # bytes read and written: float32, 4 + 2 heads of 9 tokens of 8 channels
    assert found["fine"].gb_per_s == pytest.approx(moved / 0.005 / 1e9)


def test_each_is_held_against_the_copy_that_writes_to_the_same_kind_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(x: Tensor, given: Problem) -> Tensor:
        return x.copy_(right(x, given))

    ready, _ = contestant(right, "ready")
    both = [COPY, INTO, contestant(right, "fresh")[0], ready._replace(ready=True), contestant(in_place, "place")[0]]
    # a first run of each is in this order, and as fast as its place in it
    names: dict[int, int] = {}
    monkeypatch.setattr(measure, "once", lambda work, calls, device: float(names.setdefault(id(work), len(names) + 1)))
    found = rows(rotating(), *both)
    assert {name: (row.seconds, row.against, row.ratio, row.writes) for name, row in found.items()} == {
        "copy": (1.0, "copy", 1.0, FRESH),
        "into": (2.0, "into", 1.0, READY),
        "fresh": (3.0, "copy", 3.0, FRESH),
        "ready": (4.0, "into", 2.0, READY),
        "place": (5.0, "into", 2.5, GIVEN),
    }
    assert found["place"].ratios == {"copy": 5.0, "into": 2.5}
    alone = rows(rotating(), COPY, both[-1])["place"]
    assert (alone.against, alone.ratio) == (None, None)


def test_without_a_limit_there_is_no_ratio() -> None:
    row = rows(rotating(), contestant(right)[0])["made up"]
    assert row.seconds is not None
    assert row.ratio is None


def test_backward_of_a_rotation_is_checked_on_its_own() -> None:
    class Lazy(torch.autograd.Function):
        """Turns there, and passes gradients back as they are."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, angle: Tensor) -> Tensor:
            return rotated(x, angle, "half").to(x.dtype)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return grads[0], None

    lazy, _ = contestant(lambda x, given: Lazy.apply(x, angles(given.case)), "lazy")
    assert rows(rotating(), lazy)["lazy"].status == "timed"
    found = rows(rotating(stage=BACKWARD), COPY, lazy, contestant(right, "fine")[0])
    assert [found[name].status for name in ("copy", "lazy", "fine")] == ["timed", "wrong", "timed"]


QUICK = [c for c in ATTEND if c.name != "FlexAttention"]


@pytest.mark.parametrize("stage", [FORWARD, BOTH])
@pytest.mark.parametrize("bias", ["alibi", "t5", "kerple"])
def test_ways_to_attend_are_right_in_both_dtypes(bias: str, stage: str) -> None:
    for dtype in ("float32", "bfloat16"):
        found = rows(attending(bias, dtype, stage), *QUICK, repeats=1)
        kept = "absent" if stage == BOTH and bias != "alibi" else "timed"
        assert {name: row.status for name, row in found.items()} == {
            "causal SDPA": "timed",
            "ropewalk": "timed",
            "dense mask per call": "timed",
            "dense mask cached": kept,
        }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [FORWARD, BOTH])
@pytest.mark.parametrize("bias", ["alibi", "t5", "kerple"])
def test_attention_with_another_bias_is_wrong(bias: str, stage: str, dtype: str) -> None:
    """Without the bias, and with what another bias adds."""
    other = {"alibi": "kerple", "t5": "alibi", "kerple": "t5"}[bias]
    ours = next(c for c in ATTEND if c.name == "ropewalk")

    def swapped(given: Problem) -> Op:
        return ours.prepare(attending(other, dtype))

    def without(given: Problem) -> Op:
        op, extra = ATTEND[0].prepare(given), sum(w.sum() for w in given.weights.values()) * 0
        return lambda q, k, v: (op(q, k, v)[0] + extra.to(q.dtype) if given.weights else op(q, k, v)[0],)

    found = rows(attending(bias, dtype, stage), Contestant("without", without))
    assert found["without"].status == "wrong"
    if stage == FORWARD:
        assert rows(attending(bias, dtype), Contestant("swapped", swapped))["swapped"].status == "wrong"


def test_a_mask_beyond_half_of_the_memory_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2000}[name])
    found = rows(attending("alibi"), *(c for c in ATTEND if c.name.startswith("dense")))
    assert {row.status for row in found.values()} == {"absent"}
    assert all(row.note.startswith("would take ") for row in found.values())


def test_the_command_fails_where_ours_is_wrong_and_only_there() -> None:
    wrong, fine = (contestant(turn)[0] for turn in (quarter_off, right))
    for name, failing in (("ropewalk", True), ("ropewalk interleaved", True), ("transformers", False)):
        assert ours_fails(list(rows(rotating(), wrong._replace(name=name)).values())) is failing
        assert not ours_fails(list(rows(rotating(), fine._replace(name=name)).values()))


def test_ours_are_right_at_every_stage() -> None:
    ours = [c for c in ROTATE if c.name.startswith("ropewalk")]
    for dtype in ("float32", "bfloat16", "float16"):
        found = rows(rotating(dtype), COPY, *ours)
        assert {row.status for row in found.values()} == {"timed"}
        assert {name: row.writes for name, row in found.items() if row.writes != FRESH} == {
            "ropewalk into ready memory": READY,
            "ropewalk in place": GIVEN,
        }
        back = rows(rotating(dtype, BACKWARD), COPY, *ours)
        gone = {name: row.status for name, row in back.items() if row.status != "timed"}
        assert gone == {"ropewalk into ready memory": "absent", "ropewalk in place": "absent"}


def test_names_and_limits_are_clear() -> None:
    for contestants in (ROTATE, ATTEND):
        assert len({c.name for c in contestants}) == len(contestants)
        assert contestants[0].limit
        # no two limits for the same kind of memory
        ready = [c.ready for c in contestants if c.limit]
        assert len(set(ready)) == len(ready)
    # the list of --only is separated by commas
    assert not any("," in c.name for c in (*ROTATE, *ATTEND))


def test_progress_only_grows_and_ends_at_one() -> None:
    numbers = count()
    told: list[float] = []

    def tell(share: float, text: str) -> None:
        next(numbers)
        told.append(share)

    request = run.BenchRequest(lengths=(3, 5), heads=2, kv_heads=1, dims=(4,), dtypes=("float32",), only=("ropewalk",))
    assert {row.contestant for row in run.bench(request, tell)} == {"clone", "copy_", "ropewalk"}
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == pytest.approx(1)


def test_copies_are_the_way_there_at_every_stage() -> None:
    copies = [c for c in ROTATE if not c.pairing]
    assert len(copies) == 2
    for stage in (FORWARD, BACKWARD):
        found = rows(rotating(stage=stage), *copies)
        assert {(row.status, row.error) for row in found.values()} == {("timed", 0.0)}
