"""Attention in several rotations at once: runs of keys that one branch serves are fused products, merged afterwards.

Nothing of the size of a square is kept: of the pairs of tokens only a block of queries is looked at, and where the
border of a branch cuts through it, a mask of the keys there. The merge by log-sum-exp is exact.
Letters: B batch, Q queries, K keys, H query heads, G key heads, D head channels, V value channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.encodings.mix.branches import Branches
from ropewalk.masks import Mask
from ropewalk.tokens import Tokens, select

flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ROWS = 256  # queries of a block


class Run(NamedTuple):
    """Consecutive keys that one branch serves."""

    branch: int
    keys: slice
    seen: Tensor | None = None  # Bool[B or 1, Q, K]: the pairs, where they are not all


class Block(NamedTuple):
    """Consecutive queries, and the runs of keys that they see."""

    queries: slice
    runs: list[Run]


class Partial(NamedTuple):
    """Attention over some of the keys, which further keys may be merged with."""

    out: Tensor  # [B, H, Q, V]
    lse: Tensor  # Float[B, H, Q]: the logarithm of the sum that the weights were divided by; -inf without a key


def plan(rule: Branches | None, q_at: Tokens, k_at: Tokens, mask: Mask) -> list[Block]:
    """Which branch serves which keys, by blocks of queries; without a rule all that `mask` lets through is one branch.

    It hangs on positions alone, so that all layers of one rule share it.
    """
    blocks: list[Block] = []
    for start in range(0, q_at.order.shape[1], ROWS):
        queries = slice(start, min(start + ROWS, q_at.order.shape[1]))
        at = select(q_at, queries)
        seen = mask(at, k_at)
        if rule is not None and hasattr(rule, "visible"):
            seen = seen & rule.visible(at, k_at)  # pyright: ignore[reportAttributeAccessIssue]  # asked one line above
        runs = [run for n, mine in owned(rule, at, k_at, seen) for run in runs_of(n, mine)]
        before = blocks[-1].runs if blocks else []
        blocks.append(Block(queries, [shared(run, before) for run in runs]))
    return blocks


def owned(rule: Branches | None, q_at: Tokens, k_at: Tokens, seen: Tensor) -> list[tuple[int, Tensor]]:
    """For each branch Bool[B, Q, K]: the visible pairs that it serves."""
    if rule is None:
        return [(0, seen)]
    takes, out = rule.takes(q_at, k_at), []
    for n in reversed(range(1, len(takes))):
        out.append((n, seen & takes[n]))
        seen = seen & ~takes[n]
    return [(0, seen), *reversed(out)]


def runs_of(branch: int, mine: Tensor) -> list[Run]:
    """Bool[B, Q, K] as runs of keys that all queries see, or that some do."""
    pairs = mine.flatten(0, 1)
    kind = pairs.any(0).to(torch.int8) + pairs.all(0)
    kinds, counts = torch.unique_consecutive(kind, return_counts=True)
    runs, end = list[Run](), 0
    for what, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        start, end = end, end + count
        if what:
            inside = mine[:, :, start:end]
            alike = len(inside) == 1 or bool((inside[1:] == inside[:1]).all())
            runs.append(Run(branch, slice(start, end), None if what == 2 else inside[:1] if alike else inside))
    return runs


def shared(run: Run, before: Sequence[Run]) -> Run:
    """The run with the mask of one of another block where that is the same."""
    if run.seen is None:
        return run
    same = (r.seen for r in before if r.seen is not None and r.seen.shape == run.seen.shape and r.seen.equal(run.seen))
    return run._replace(seen=next(same, run.seen.clone()))


def attend_runs(
    queries: Sequence[Tensor], keys: Sequence[Tensor], v: Tensor, blocks: Sequence[Block], scale: float
) -> Partial:
    """Softmax attention by a plan: queries [B, H, Q, D] and keys [B, G, K, D] as each branch turns them, values v.

    Arithmetic is that of torch's fused product, or plain torch where gradients are asked for; parts are merged in
    float32, or wider.
    """
    parts = [attend_block(queries, keys, v, block, scale) for block in blocks]
    if len(parts) == 1:
        return parts[0]
    return Partial(torch.cat([p.out for p in parts], dim=2), torch.cat([p.lse for p in parts], dim=2))


def attend_block(queries: Sequence[Tensor], keys: Sequence[Tensor], v: Tensor, block: Block, scale: float) -> Partial:
    """The same of one block; queries that see no key get zeros."""
    some, found = block.queries, list[Partial]()
    for run in block.runs:
        q = queries[run.branch][:, :, some]
        found.append(partial(q, keys[run.branch][:, :, run.keys], v[:, :, run.keys], run.seen, scale))
    if not found:
        q = queries[0][:, :, some]
        wide = torch.promote_types(q.dtype, torch.float32)
        nothing = torch.full(q.shape[:3], -torch.inf, dtype=wide, device=q.device)
        return Partial(q.new_zeros(*q.shape[:3], v.shape[-1]), nothing)
    return merge(found)


def partial(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Partial:
    """Attention over these keys alone, all of them or those that `seen` (Bool[B or 1, Q, K]) lets through."""
    tracked = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if tracked or q.device.type != "cpu" or q.shape[-1] != v.shape[-1]:
        return partial_by_hand(q, k, v, seen, scale)
    if seen is None:
        return Partial(*flash_cpu(q, k, v, 0.0, False, scale=scale))
    bias = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, -torch.inf)[:, None]
    out, lse = flash_cpu(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
    # of a query without a key the kernel says zero
    return Partial(out, lse.masked_fill(~seen.any(-1)[:, None], -torch.inf))


def partial_by_hand(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Partial:
    """The same in plain torch: where the fused product does not tell its sum, or has no gradient of it."""
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    s = (q @ k.mT).to(wide) * scale
    if seen is not None:
        s = s.masked_fill(~seen[:, None], -torch.inf)
    lse = s.logsumexp(-1)
    weights = (s - lse.nan_to_num(neginf=0.0)[..., None]).exp()
    return Partial(weights.to(v.dtype) @ v, lse)


def merge(found: Sequence[Partial]) -> Partial:
    """Attention over all of their keys."""
    if len(found) == 1:
        return found[0]
    sums = torch.stack([p.lse for p in found])
    lse = sums.logsumexp(0)
    shares = (sums - lse.nan_to_num(neginf=0.0)).exp()[..., None]
    out = shares[0] * found[0].out
    for share, p in zip(shares[1:], found[1:], strict=True):
        out.addcmul_(share, p.out.to(out.dtype))
    return Partial(out.to(found[0].out.dtype), lse)
