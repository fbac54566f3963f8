"""Which coordinate of a token, and which rate, drives each pair of channels; plain Python, without tensors."""

from typing import Any

from ropewalk.errors import require
from ropewalk.kernels import PAIRINGS as PAIRINGS

LAYOUTS = ("chunked", "interleaved")
RATES = ("shared", "own", "dealt")


def check_sections(owner: Any, pairs: int) -> None:
    """Raise ConfigError unless `owner.sections` is empty (one axis) or counts all the pairs, axis by axis."""
    sections = owner.sections
    ok = isinstance(sections, tuple) and all(type(n) is int and n > 0 for n in sections)
    rule = f"() or the number of pairs of each axis, {pairs} in all"
    require(ok and sum(sections or (pairs,)) == pairs, f"{type(owner).__name__}.sections", rule, sections)


def axis_of_pair(rotary: Any) -> tuple[int, ...]:
    """The axis that each pair follows: every axis takes its pairs in one run, or they take them in turn."""
    sections = rotary.sections or (rotary.dim // 2,)
    if rotary.layout == "chunked":
        return tuple(axis for axis, count in enumerate(sections) for _ in range(count))
    turns = (divmod(i, len(sections)) for i in range(sum(sections)))
    # as Qwen3-VL deals them: the turn of an axis that has all its pairs goes to the first
    return tuple(axis if turn < sections[axis] else 0 for turn, axis in turns)


def places(axes: tuple[int, ...], rates: str) -> list[tuple[int, int]]:
    """The table and the row of it that hold each pair's rate.

    "shared": one table, by the index of the pair (M-RoPE, RoPE-Tie). "own": a table per axis, each over the axis's own
    channels (2-D axial). "dealt": one table, dealt to the axes in turn wherever their pairs stand (Pixtral).
    """
    if rates == "shared":
        return [(0, i) for i in range(len(axes))]
    nth = [axes[:i].count(axis) for i, axis in enumerate(axes)]
    if rates == "own":
        return list(zip(axes, nth, strict=True))
    # pairs by turn, then by axis: an axis that has all of its own is passed over
    order = sorted(range(len(axes)), key=lambda i: (nth[i], axes[i]))
    return [(0, order.index(i)) for i in range(len(axes))]
