"""Attention by torch's fused product: at once where tokens are in order, else in blocks of queries under a mask.

Letters: B batch, Q queries, K keys, H query heads, D head channels.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ropewalk.attention.call import Call, consecutive, together
from ropewalk.attention.prefix import attend_prefix
from ropewalk.attention.strip_gradient import view
from ropewalk.masks import causal
from ropewalk.sites import Biases, OfDistance, Rotates, parts
from ropewalk.tokens import contiguous, select

ROWS = 512  # queries of a block, at most
TILE = 2**22  # numbers in the mask of a block, where that leaves it a row


def in_order(call: Call) -> Tensor:
    """Queries that are the last of one document's keys, under a causal or bidirectional mask, and no bias."""
    c, queries = call.rotated(), call.q.shape[2]
    q, k, v = (x.to(c.kept) for x in (c.q, c.k, c.v))
    if c.accelerated and c.kept == c.wide:
        # there, torch shares keys among queries for narrow numbers alone, and else keeps a square
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    ahead = c.mask is causal and queries > 1
    if ahead and queries < k.shape[2]:
        out = attend_prefix(q, k, v, c.factor)
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=ahead, scale=c.factor, enable_gqa=True)
    return out.to(call.q.dtype)


def in_blocks(call: Call) -> Tensor:
    """Any mask, any positions, any bias: some queries at a time, with the keys that one of them sees."""
    moving = any(hasattr(e, "nearby") for e in parts(call.encoding, Rotates))
    c = call if moving else call.rotated()
    # a bias is not rounded to narrow numbers
    held = c.wide if parts(c.encoding, Biases) else c.kept
    c = c._replace(q=c.q.to(held), k=c.k.to(held), v=c.v.to(held))
    heads = c.q.shape[1] if parts(c.encoding, Biases) else 1
    rows = min(ROWS, max(1, TILE // (c.q.shape[0] * heads * c.k.shape[2])))
    if c.v.shape[-1] != c.q.shape[-1]:
        rows = min(rows, max(1, TILE // (c.q.shape[0] * c.q.shape[1] * c.k.shape[2])))
    blocks = [slice(start, start + rows) for start in range(0, c.q.shape[2], rows)]
    # the logits of a learned bias are made again for the gradient: kept for all blocks, they would be quadratic
    again = len(blocks) > 1 and torch.is_grad_enabled() and any(x.requires_grad for x in c.w.values())
    out = [checkpoint(block, c, b, use_reentrant=False) if again else block(c, b) for b in blocks]
    return torch.cat(out, dim=2).to(call.q.dtype)


def block(c: Call, some: slice) -> Tensor:
    """[B, H, Q, D] of some of the queries; those that see no key get zeros."""
    at = select(c.q_at, some)
    seen = c.mask(at, c.k_at)
    keys = span(seen)
    seen, alone = seen[..., keys], ~seen.any(-1)
    c = c._replace(
        q=c.q[:, :, some], k=c.k[:, :, keys], v=c.v[:, :, keys], q_at=at, k_at=select(c.k_at, keys)
    ).rotated()
    # a row without any number is no distribution: it sees all, and the outcome is thrown away
    hidden = ~(seen | alone[..., None])
    mask: Any = ~hidden[:, None]
    biases = parts(c.encoding, Biases)
    if biases:
        mask = heights(c).masked_fill(hidden[:, None], -math.inf).expand(-1, c.q.shape[1], -1, -1)
    elif not bool(hidden.any()):
        mask = None
    out = F.scaled_dot_product_attention(c.q, c.k, c.v, mask, scale=c.factor, enable_gqa=True)
    return out.masked_fill(alone[:, None, :, None], 0)


def heights(c: Call) -> Tensor:
    """[B, H, Q, K]: what the biases add; where both stand in line, taken from one number per distance."""
    biases, (q_at, k_at) = parts(c.encoding, Biases), (c.q_at.position, c.k_at.position)
    lined = q_at.shape[::2] == k_at.shape[::2] == (1, 1) and not (q_at.is_floating_point() or k_at.is_floating_point())
    lined = lined and all(map(of_distance, biases))
    if not lined or not bool(consecutive(q_at[..., 0]) & consecutive(k_at[..., 0])):
        return together(e.bias(c.w, c.q_at, c.k_at) for e in biases).to(c.wide)
    queries, keys = q_at.shape[1], k_at.shape[1]
    d = q_at[0, -1, 0] - k_at[0, 0, 0] - contiguous(queries + keys - 1).order[0].to(q_at.device)
    table = together(e.of_distance(c.w, d) for e in biases).to(c.wide).contiguous()
    # rows of the view are those of the queries in reverse
    return view(table, 0, queries, keys).flip(1)[None]


def of_distance(e: Any) -> bool:
    """Whether a bias is one number per head and distance."""
    return isinstance(e, OfDistance) and type(e).bias is OfDistance.bias


def span(seen: Tensor) -> slice:
    """From the first key that any query of Bool[B, Q, K] sees to the last; one key where none is seen."""
    found = seen.flatten(0, 1).any(0).nonzero()
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 1)
