"""The gradient of attention with one number per head and distance, by tiles whose logits are made again.

That of the table is summed along the diagonals of a tile, as columns of a view whose rows are shifted by one each.
Letters: B batch, Q queries, K keys, H query heads, G key heads, D head channels, V value channels, N distances,
R queries of a strip, in reverse, C keys of a tile.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

QUERIES, KEYS = 256, 512  # of a tile
LOG2E = math.log2(math.e)


class Slab(NamedTuple):
    """What the gradient of some heads of some rows is made from, all of one dtype."""

    q: Tensor  # [B, H, Q, D]
    grad: Tensor  # [B, H, Q, V]: of the outcome
    k: Tensor  # [B, G, K, D]
    v: Tensor  # [B, G, K, V]
    out: Tensor  # [B, H, Q, V]: the outcome
    lse: Tensor  # [B, H, Q]: the logarithm of what the softmax divides by
    table: Tensor  # [H, N]
    scale: float
    ahead: bool  # whether keys ahead of a query are hidden
    reach: int  # how many keys before and at a query weigh anything


class Strip(NamedTuple):
    """Some queries in reverse; those that share a key head stand below each other, to meet it in one product."""

    q: Tensor  # [B * G, H / G * R, D], scaled for powers of 2, which are faster than powers of e
    grad: Tensor  # [B * G, H / G * R, V]
    delta: Tensor  # [B * G, H / G * R, 1]: grad times outcome, summed over the channels
    lse: Tensor  # [B, H, R, 1], for powers of 2


def gradients(s: Slab, learned: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of q, k, v and the table; the last is zeros unless it is `learned`."""
    queries, k, v = s.q.shape[2], s.k.flatten(0, 1), s.v.flatten(0, 1)
    into_q, into_k, into_v = torch.empty_like(s.q), torch.zeros_like(k), torch.zeros_like(v)
    powers, into_table = s.table * LOG2E, torch.zeros_like(s.table)
    room = s.q.new_empty(3, s.lse[:, :, 0].numel() * QUERIES * (KEYS + QUERIES))
    for start in range(0, queries, QUERIES):
        stop = min(start + QUERIES, queries)
        strip = taken(s, slice(start, stop))
        near = torch.zeros_like(strip.q)
        for keys in tiles(s, start, stop):
            first = queries - stop + keys.start
            bias = view(powers, first, stop - start, keys.stop - keys.start)
            p = weights(strip, k[:, keys], bias, room[0])
            padded = slopes(strip, v[:, keys], p, room[1:])
            ds = padded[..., : p.shape[-1]]
            into_v[:, keys].baddbmm_(p.mT, strip.grad)
            into_k[:, keys].baddbmm_(ds.mT, strip.q)
            near.baddbmm_(ds, k[:, keys])
            if learned:
                sums = diagonals(padded.view(*strip.lse.shape[:3], -1))
                into_table[:, first : first + sums.shape[-1]] += sums
        into_q[:, :, start:stop] = (near * s.scale).view(*strip.lse.shape[:3], -1).flip(2)
    return into_q, (into_k / LOG2E).view(s.k.shape), into_v.view(s.v.shape), into_table


def taken(s: Slab, some: slice) -> Strip:
    """The queries of a strip."""
    q, grad, out, lse = (x[:, :, some].flip(2) for x in (s.q, s.grad, s.out, s.lse[..., None]))
    delta = (grad * out).sum(-1, keepdim=True)
    held = s.k.shape[0] * s.k.shape[1]
    q, grad, delta = (x.reshape(held, -1, x.shape[-1]) for x in (q * (s.scale * LOG2E), grad, delta))
    return Strip(q, grad, delta, lse * LOG2E)


def tiles(s: Slab, start: int, stop: int) -> Iterator[slice]:
    """The keys that queries from `start` to `stop` look at, some at a time."""
    near = within(slice(start, stop), s.q.shape[2], s.k.shape[2], s.reach, s.ahead)
    for first in range(near.start, near.stop, KEYS):
        yield slice(first, min(first + KEYS, near.stop))


def weights(strip: Strip, k: Tensor, bias: Tensor, room: Tensor) -> Tensor:
    """[B * G, H / G * R, C]: what each query makes of each key, in `room`."""
    p = room[: strip.lse.numel() * k.shape[1]].view(*strip.lse.shape[:3], -1)
    torch.sub(bias, strip.lse, out=p)
    p = p.view(*strip.q.shape[:2], -1)
    return p.baddbmm_(strip.q, k.mT).exp2_()


def slopes(strip: Strip, v: Tensor, p: Tensor, room: Tensor) -> Tensor:
    """[B * G, H / G * R, C + R]: the gradient of the logits, and zeros after each row, in `room`."""
    queries, keys = strip.lse.shape[2], p.shape[-1]
    padded = room[0, : strip.lse.numel() * (keys + queries)].view(*p.shape[:2], -1)
    padded[..., keys:] = 0
    into_p = torch.baddbmm(-strip.delta, strip.grad, v.mT, out=room[1, : p.numel()].view(p.shape))
    torch.mul(p, into_p, out=padded[..., :keys])
    return padded


def diagonals(padded: Tensor) -> Tensor:
    """[H, R + C - 1]: sums of the entries (a, b) of [B, H, R, C + R] that have the same a + b, where b is below C."""
    batch, heads, rows, width = padded.shape
    strides = (*padded.stride()[:2], width - 1, 1)
    return padded.as_strided((batch, heads, rows, width - 1), strides, padded.storage_offset()).sum((0, 2))


def view(table: Tensor, start: int, rows: int, keys: int) -> Tensor:
    """[H, rows, keys] of a table [H, N]: entry (a, b) is number start + a + b, and nothing is copied."""
    return table.as_strided((len(table), rows, keys), (table.stride(0), 1, 1), table.storage_offset() + start)


def within(strip: slice, queries: int, keys: int, reach: int, ahead: bool) -> slice:
    """The keys that queries of a strip look at."""
    past = keys - queries
    return slice(max(0, past + strip.start + 1 - reach), past + strip.stop if ahead else keys)
