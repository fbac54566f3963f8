"""Which coordinate of a token, and which rate, drives each pair of channels.  B batch, T tokens, P pairs."""

from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import require
from ropewalk.spectrum import Spectrum
from ropewalk.tokens import Tokens

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
    if rotary.layout == "interleaved":
        return deal(sections)
    return tuple(axis for axis, count in enumerate(sections) for _ in range(count))


def deal(sections: tuple[int, ...]) -> tuple[int, ...]:
    """The axis of each pair when the axes take pairs in turn; one that has all of its own is passed over."""
    return tuple(axis for turn in range(max(sections)) for axis, count in enumerate(sections) if turn < count)


def places(axes: tuple[int, ...], rates: str) -> list[tuple[int, int]]:
    """The table and the row of it that hold each pair's rate.

    "shared": one table, by the index of the pair (M-RoPE, RoPE-Tie). "own": a table per axis, each over the axis's own
    channels (2-D axial). "dealt": one table, dealt to the axes in turn wherever their pairs stand (Pixtral).
    """
    if rates == "shared":
        return [(0, i) for i in range(len(axes))]
    if rates == "own":
        return [(axis, axes[:i].count(axis)) for i, axis in enumerate(axes)]
    order = deal(tuple(axes.count(axis) for axis in sorted(set(axes))))
    hands = {axis: iter([i for i, a in enumerate(order) if a == axis]) for axis in axes}
    return [(0, next(hands[axis])) for axis in axes]


def coordinates(at: Tokens, axes: tuple[int, ...]) -> Tensor:
    """[B, T, P] or [B, T, 1]: the coordinate that drives each pair; tokens of one axis drive all pairs with it.

    Raises ConfigError where the tokens have neither one axis nor as many as the encoding.
    """
    known, wanted = at.position.shape[-1], max(axes) + 1
    rule = "along one axis" if wanted == 1 else f"along one axis or {wanted}"
    require(known in (1, wanted), "Tokens.position", rule, f"{known} axes")
    return at.position if known == 1 else at.position[..., list(axes)]


def angles(where: Tensor, spectrum: Spectrum) -> Tensor:
    """Float64[B, T, P]: coordinates times rates, in radians."""
    return where.double() * torch.tensor(spectrum.inv_freq, dtype=torch.float64, device=where.device)
