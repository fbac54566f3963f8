"""Attention with one number per head and distance by torch's FlexAttention, which looks it up inside its kernel.

Any mask and any whole positions: both are looked up by token, a mask pair by pair where a tile of pairs needs it.
Gradients reach the table, and through it what was learned. Nothing of the size of a square is ever stored.
Letters: B batch, T tokens, Q queries, K keys, H query heads, G key heads, D head channels, V value channels,
N distances.
"""

import logging
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.attention.call import Call, together
from ropewalk.errors import UnsupportedError
from ropewalk.masks import Mask
from ropewalk.sites import Biases, parts
from ropewalk.tokens import Tokens, contiguous, select

TILE = 128  # queries and keys that are skipped or seen together
HELD = 2**24  # pairs whose mask stands in memory at once, where that leaves it a row of tiles
GAPS = 4  # how many more distances than tokens a table may have
SIGNATURES = 64  # that may be compiled: torch's own limit is 8, and lengths alone take some
refusals: dict[tuple[Any, ...], str] = {}  # why a signature cannot be compiled here


def attend_flex(call: Call) -> Tensor:
    """[B, H, Q, V] for biases that are functions of whole distances, which `compact` finds to be few.

    Raises UnsupportedError where it cannot be compiled: logged, and remembered in `refusals`.
    """
    from torch._dynamo.exc import TorchDynamoException

    c = call.rotated()
    q, k, v = (x.to(c.kept) for x in (c.q, c.k, c.v))
    pairs = tiles(c.q_at, c.k_at, c.mask, (len(q), q.device))
    try:
        options = {"scale": c.factor, "enable_gqa": q.shape[1] != k.shape[1]}
        out = compiled()(q, k, v, score_mod=looked_up(c), block_mask=pairs, **options)
    except (TorchDynamoException, NotImplementedError) as e:
        # no compiler, or a case that torch's own has no code for; what the arguments do wrong is raised otherwise
        why = str(getattr(e, "inner_exception", e)).partition("\n")[0]
        if why not in refusals.values():
            told = "FlexAttention does not compile for %s, another way of attention stands in: %s"
            logging.getLogger("ropewalk").warning(told, q.device, why)
        refusals[signature(call)] = why
        raise UnsupportedError(f"attention under a table of distances is compiled by torch alone: {why}") from e
    return out.to(call.q.dtype)


@cache
def compiled() -> Callable[..., Any]:
    """FlexAttention as a kernel: torch compiles it once per signature and keeps that on disk."""
    from torch._dynamo import config
    from torch.nn.attention.flex_attention import flex_attention

    kernel = torch.compile(flex_attention, fullgraph=True)
    return config.patch(recompile_limit=SIGNATURES)(kernel)


def signature(c: Call) -> tuple[Any, ...]:
    """What a kernel is compiled for, as far as it may fail to."""
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (c.q, c.k, c.v, *c.w.values()))
    return c.q.device, c.kept, c.q.shape[-1], c.v.shape[-1], getattr(c.mask, "__code__", c.mask), learning


def refusal(c: Call) -> str | None:
    """Why it did not compile when it was tried."""
    return refusals.get(signature(c))


def compact(c: Call) -> bool:
    """Whether positions are whole numbers on one axis, with few gaps between them."""
    where = c.q_at.position, c.k_at.position
    if any(at.shape[-1] != 1 or at.is_floating_point() for at in where):
        return False
    low, high = reach(c)
    return high - low <= GAPS * (where[0].shape[1] + where[1].shape[1])


def reach(c: Call) -> tuple[int, int]:
    """The least and the largest distance, of all pairs of queries and keys."""
    (q_low, q_high), (k_low, k_high) = (at.position.aminmax() for at in (c.q_at, c.k_at))
    return int(q_low - k_high), int(q_high - k_low)


def looked_up(c: Call) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """What becomes of a logit: it gains the number of its head and distance."""
    low, high = reach(c)
    d = contiguous(high - low + 1, low).order[0].to(c.q.device)
    table = together(e.of_distance(c.w, d) for e in parts(c.encoding, Biases)).to(c.wide)
    table = table.expand(c.q.shape[1], -1).contiguous()
    row, column = (at.position[..., 0].to(c.q.device).expand(len(c.q), -1).contiguous() for at in (c.q_at, c.k_at))
    row = row - low

    def biased(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return s + table[h, row[b, i] - column[b, j]]

    return biased


@lru_cache(maxsize=4)
def tiles(q_at: Tokens, k_at: Tokens, mask: Mask, place: tuple[int, torch.device]) -> Any:
    """Which tiles of pairs hold one that is seen, and which are seen whole; the layers of a model share them."""
    from torch.nn.attention.flex_attention import BlockMask

    batch, device = place
    q_at, k_at = (Tokens(*(x.to(device) for x in at)) for at in (q_at, k_at))
    queries, keys = q_at.order.shape[1], k_at.order.shape[1]
    rows, found = TILE * max(1, HELD // (TILE * keys)), list[tuple[Tensor, Tensor]]()
    for start in range(0, queries, rows):
        seen = mask(select(q_at, slice(start, start + rows)), k_at)
        # a tile that reaches beyond the end is not seen whole
        seen = F.pad(seen, (0, -keys % TILE, 0, -seen.shape[1] % TILE))
        seen = seen.unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE))
        found.append((seen.any(4).any(2), seen.all(4).all(2)))
    some, whole = (torch.cat(each, dim=1)[:, None] for each in zip(*found, strict=True))
    listed = (*first(some & ~whole), *first(whole))
    pair = visible(q_at, k_at, mask, batch)
    return BlockMask.from_kv_blocks(*listed, BLOCK_SIZE=TILE, mask_mod=pair, seq_lengths=(queries, keys))


def first(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the last axis are chosen, and all of it with those first."""
    return chosen.sum(-1, dtype=torch.int32), chosen.int().argsort(dim=-1, descending=True, stable=True).int()


def visible(q_at: Tokens, k_at: Tokens, mask: Mask, batch: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask of a single pair: any function of two Tokens is one of two Tokens of one token each."""
    fields = [[x.expand(batch, -1).contiguous() for x in (at.position[..., 0], *at[1:])] for at in (q_at, k_at)]
    left, right = fields

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        # one number is read at a time: compiled, a row that is read and then taken apart gave wrong masks on a CPU
        return mask(alone(*(x[b, i] for x in left)), alone(*(x[b, j] for x in right)))[0, 0, 0]

    return seen


def alone(position: Tensor, order: Tensor, document: Tensor) -> Tokens:
    """One token, from three numbers."""
    return Tokens(position[None, None, None], order[None, None], document[None, None])
