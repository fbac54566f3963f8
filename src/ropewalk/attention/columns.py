"""The columns of a cache: tensors that grow by a few tokens at a time, and which tokens stand where.

Letters: B batch, T tokens, A axes, G key heads, D head channels, V value channels, N views.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import require
from ropewalk.tokens import PADDING, Tokens, whole

FAR = 2**52  # beyond all positions, and exact in float64


class Growing:
    """A tensor that grows along T, its dimension 1 (2 of four); room doubles, so that what is held is seldom copied."""

    def __init__(self, x: Tensor) -> None:
        self.dim, self.length = x.dim() // 2, x.shape[x.dim() // 2]
        # what is made in inference mode cannot be written to outside
        with torch.inference_mode(False):
            self.room = x.detach().clone()

    @property
    def held(self) -> Tensor:
        """What has been appended so far: a view."""
        return self.room.narrow(self.dim, 0, self.length)

    def append(self, x: Tensor) -> None:
        """Add the columns of x, of the same other sizes."""
        start, count, shape = self.length, x.shape[self.dim], list(self.room.shape)
        if start + count > shape[self.dim]:
            shape[self.dim] = max(start + count, 2 * start)
            with torch.inference_mode(False):
                room = self.room.new_empty(shape)
            room.narrow(self.dim, 0, start).copy_(self.held)
            self.room = room
        self.room.narrow(self.dim, start, count).copy_(x.detach())
        self.length = start + count

    def take(self, index: Tensor) -> None:
        """Keep the columns `index` (Int[B, C]) of each row; the room stays."""
        rows = zip(self.held, index, strict=True)
        taken = torch.stack([row.index_select(self.dim - 1, mine) for row, mine in rows])
        self.length = index.shape[1]
        self.held.copy_(taken)

    def pick(self, index: Tensor) -> None:
        """Keep the rows `index` (Int[R]) of the batch."""
        with torch.inference_mode(False):
            self.room = self.held.index_select(0, index)


class Columns(NamedTuple):
    """What is known of the tokens, once for all layers."""

    position: Growing  # [B, T, A]: where they stand now
    order: Growing  # [B, T]
    document: Growing  # [B, T]
    was: Growing  # [B, T, A]: where they stood when they were written
    epoch: Growing  # [B, T]: which of the cache's encodings mapped them then


class Layer(NamedTuple):
    """What is held of one layer."""

    keys: Growing  # [B, G, T, N D] as they were written
    values: Growing  # [B, G, T, V]


def form(x: Tensor) -> str:
    """Rows, heads, channels and dtype of keys or values [B, G, T, C]."""
    return f"[{x.shape[0]}, {x.shape[1]}, T, {x.shape[3]}] in {x.dtype}"


def lowest(at: Tokens, mine: Tensor) -> Tensor:
    """[B, 1, 1]: the smallest coordinate of the tokens `mine` (Bool[B, T]); FAR where there are none."""
    return at.position.masked_fill(~mine[..., None], FAR).amin(dim=(1, 2), keepdim=True)


def highest(at: Tokens, mine: Tensor) -> Tensor:
    """[B, 1, 1]: the largest coordinate of the tokens `mine` (Bool[B, T]); -FAR where there are none."""
    return at.position.masked_fill(~mine[..., None], -FAR).amax(dim=(1, 2), keepdim=True)


def text(at: Tokens, owner: str) -> Tensor:
    """Bool[B, T]: which tokens are no padding. Raises ConfigError unless those of a row are of one document."""
    own = at.document != PADDING
    single = not at.order.numel() or bool((~own | (at.document == at.document.amax(dim=1, keepdim=True))).all())
    require(single, f"a row of the cache to {owner}", "a single document", at.document.unique().tolist())
    return own


def by_row(name: str, value: int | Tensor, at: Tokens) -> Tensor:
    """Int[B, 1, 1]: one number for all rows, or Int[B]."""
    rows = at.order.shape[0]
    each = whole(torch.as_tensor(value, device=at.order.device), name)
    require(each.shape in ((), (rows,)), name, f"one number, or one for each of {rows} rows", tuple(each.shape))
    return each.expand(rows)[:, None, None]


def span(at: Tokens, owner: str, start: int | Tensor, end: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bool[B, T]: the tokens at positions from `start` up to `end`; and these two for each row, Int[B, 1, 1].

    Raises ConfigError where a row has no token at one of them, or one with some of its coordinates there.
    """
    own, low, high = text(at, owner), by_row(f"{owner}.start", start, at), by_row(f"{owner}.end", end, at)
    where = whole(at.position, owner)
    inside = (where >= low) & (where < high) & own[..., None]
    for row, (here, found, first, last) in enumerate(zip(where, inside, low.flatten(), high.flatten(), strict=True)):
        begin, stop = int(first), int(last)
        require(begin <= stop, f"{owner}.end", f"at least its start, {begin}", stop)
        held = here[found].unique().tolist()
        if len(held) < stop - begin:
            missing = next((p for p, q in enumerate(held, begin) if p != q), begin + len(held))
            rule = f"all held by row {row} of the cache"
            require(False, f"the positions from {begin} up to {stop} to {owner}", rule, f"none at {missing}")
    cut = bool((inside.any(dim=-1) ^ inside.all(dim=-1)).any())
    require(not cut, f"the positions to {owner}", "all coordinates of a token, or none", "a part of a grid")
    return inside.all(dim=-1), low, high


def one_text(texts: Sequence[Tokens]) -> list[Tokens]:
    """Documents set one after the other, row by row: each begins after the last position of the one before it."""
    out: list[Tokens] = []
    for at in texts:
        own, where, when = text(at, "join"), at.position, at.order
        if out:
            before = out[-1]
            start = (highest(before, before.document != PADDING) + 1).clamp(min=0)
            where = torch.where(own[..., None], where + start - lowest(at, own), where)
            when = when - when.amin(dim=1, keepdim=True) + before.order.amax(dim=1, keepdim=True) + 1
        out.append(Tokens(where, when, torch.where(own, 0, PADDING)))
    return out
