"""Attention with one number per head and distance, where a distance is a difference of indices.

The numbers of all pairs of a strip of queries with their keys are a view of a table, whose rows overlap: with the
queries of a strip in reverse, both strides are 1.  Nothing of the size of a square is ever stored, but where one strip
is all of a text.
Letters: B batch, Q queries, K keys, H query heads, G key heads, D head channels, V value channels, N distances.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ropewalk.attention.call import Call, together
from ropewalk.attention.prefix import flash_cpu
from ropewalk.attention.strip_gradient import Slab, gradients, view, within
from ropewalk.masks import causal
from ropewalk.sites import Biases, parts
from ropewalk.tokens import contiguous

SHORT, STRIP, LONG = 256, 512, 8192  # queries of a strip: for rows of keys up to a long one, and from there on
HELD = 2**22  # numbers in what is widened at once, or in the logits of a strip that no kernel hides
flash_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
TILED = 16  # query heads, of all rows of the batch, that the gradient works on at once


def attend_strips(call: Call) -> Tensor:
    """[B, H, Q, V] for tokens in line under a causal or bidirectional mask."""
    c = call.rotated()
    costs = table(c)
    if brief(c, costs):
        return at_once(c, costs).to(call.q.dtype)
    out: Any = Strips.apply(c.q, c.k, c.v, costs, c.factor, c.mask is causal)
    return out.to(call.q.dtype)


def brief(c: Call, costs: Tensor) -> bool:
    """Whether a square is so small that what spares it costs more; a learned one is kept for the gradient."""
    learned = torch.is_grad_enabled() and costs.requires_grad
    square = c.q.shape[0] * c.q.shape[1] * c.q.shape[2] * c.k.shape[2]
    return c.q.device.type == "cpu" and c.k.shape[2] <= SHORT and not (learned and square > HELD)


def at_once(c: Call, costs: Tensor) -> Tensor:
    """[B, H, Q, V] with the bias of every pair written out; torch's fused product has no gradient for a bias."""
    (batch, heads, queries, dim), (groups, keys) = c.q.shape, c.k.shape[1:3]
    bias = view(costs, 0, queries, keys).flip(1)
    q, k, v = (x.to(c.wide) for x in (c.q, c.k, c.v))
    if not (torch.is_grad_enabled() and costs.requires_grad):
        return F.scaled_dot_product_attention(q, k, v, bias[None], scale=c.factor, enable_gqa=True)
    # query heads that share a key head stand below each other
    square = bias.expand(batch, -1, -1, -1).reshape(batch * groups, -1, keys)
    rows, k, v = q.reshape(batch * groups, -1, dim), k.flatten(0, 1), v.flatten(0, 1)
    return (torch.baddbmm(square, rows, k.mT, alpha=c.factor).softmax(-1) @ v).view(batch, heads, queries, -1)


def table(c: Call) -> Tensor:
    """[H, N]: the bias of distance K - 1 first, that of 1 - Q last, minus infinity where the mask hides it."""
    queries, keys = c.q.shape[2], c.k.shape[2]
    hidden = queries - 1 if c.mask is causal else 0
    d = keys - 1 - contiguous(keys + queries - 1 - hidden).order[0].to(c.q.device)
    total = together(e.of_distance(c.w, d) for e in parts(c.encoding, Biases)).to(c.wide).expand(c.q.shape[1], -1)
    return torch.cat((total, total.new_full((len(total), hidden), -math.inf)), dim=1)


class Strips(torch.autograd.Function):
    """Softmax attention of q [B, H, Q, D], k [B, G, K, D] and v [B, G, K, V] with a table [H, N] of biases."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, scale: float, ahead: bool) -> Tensor:
        queries, keys = q.shape[2], k.shape[2]
        out, lse = q.new_empty(*q.shape[:3], v.shape[-1]), table.new_empty(q.shape[:3])
        ctx.reaches = reaches(q, k, table, scale)
        for rows, groups, heads, reach in slabs(q, k, widest(k, v, table), ctx.reaches):
            wide = [straight(x[rows, groups].to(table.dtype)) for x in (k, v)]
            for strip in strips(q, k, v):
                near = within(strip, queries, keys, reach, ahead)
                bias = view(table[heads], queries - strip.stop + near.start, length(strip), length(near))
                some = q[rows, heads, strip].to(table.dtype).flip(2)
                made = product(some, wide[0][:, :, near], wide[1][:, :, near], bias, scale)
                out[rows, heads, strip], lse[rows, heads, strip] = (x.flip(2) for x in made)
        ctx.save_for_backward(q, k, v, table, out, lse)
        ctx.scale, ctx.ahead = scale, ahead
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - torch names the first parameter otherwise
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, table, out, lse = ctx.saved_tensors
        learned = ctx.needs_input_grad[3]
        quick = fused(q, v) and not learned
        most = widest(k, v, table) if quick else TILED * k.shape[1] // q.shape[1]
        into, into_table = [torch.empty_like(x) for x in (q, k, v)], torch.zeros_like(table)
        for rows, groups, heads, reach in slabs(q, k, most, ctx.reaches):
            mine, grad, made = (x[rows, heads].to(table.dtype) for x in (q, *grad_outputs, out))
            their, values = (straight(x[rows, groups].to(table.dtype)) for x in (k, v))
            held = made, lse[rows, heads], table[heads]
            slab = Slab(mine, grad, their, values, *held, ctx.scale, ctx.ahead, reach)
            *parts_of, along = kernel_gradients(slab) if quick else gradients(slab, learned)
            for x, part, place in zip(into, parts_of, (heads, groups, groups), strict=True):
                x[rows, place] = part
            into_table[heads] += along
        return (*into, into_table if learned else None, None, None)


def kernel_gradients(s: Slab) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of q, k and v by torch's kernel, which has none for the table: that is zero."""
    queries, keys = s.q.shape[2], s.k.shape[2]
    into_q, into_k, into_v = torch.empty_like(s.q), torch.zeros_like(s.k), torch.zeros_like(s.v)
    for strip in strips(s.q, s.k, s.v):
        near = within(strip, queries, keys, s.reach, s.ahead)
        bias = view(s.table, queries - strip.stop + near.start, length(strip), length(near))[None]
        grad, q, out, lse = (x[:, :, strip].flip(2) for x in (s.grad, s.q, s.out, s.lse))
        k, v = s.k[:, :, near], s.v[:, :, near]
        made = flash_cpu_backward(grad, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=s.scale)
        into_q[:, :, strip] = made[0].flip(2)
        into_k[:, :, near] += made[1]
        into_v[:, :, near] += made[2]
    return into_q, into_k, into_v, s.table.new_zeros(())


def straight(x: Tensor) -> Tensor:
    """The same numbers, with the channels of a token side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def widest(k: Tensor, v: Tensor, table: Tensor) -> int:
    """How many key heads, of all rows of the batch, may be worked on at once: all, where none has to be widened."""
    if k.dtype == v.dtype == table.dtype:
        return k.shape[0] * k.shape[1]
    return HELD // (k.shape[2] * (k.shape[3] + v.shape[3]))


def reaches(q: Tensor, k: Tensor, table: Tensor, scale: float) -> list[int]:
    """For each key head, how many keys before and at a query weigh anything, the largest of its query heads.

    A logit without its bias lies within |scale| |q| |k| of 0, and every query sees the key at distance 0.  So against
    what a query sees, the keys at distance d and beyond weigh at most the sum of exp(bias + twice that bound), less the
    bias at 0.  What is left out is a quarter of the last bit of 1 at most, so it would be lost in rounding.
    """
    keys, eps = k.shape[2], torch.finfo(table.dtype).eps
    longest = [torch.linalg.vector_norm(x, dim=-1, dtype=table.dtype).amax((0, 2)) for x in (q, k)]
    bound = abs(scale) * longest[0] * longest[1].repeat_interleave(q.shape[1] // k.shape[1])
    # the table begins at the largest distance
    beyond = table[:, :keys].detach().logcumsumexp(1) + (2 * bound - table[:, keys - 1].detach())[:, None]
    gone = (beyond <= math.log(eps / 4)).sum(1)
    return (keys - gone).unflatten(0, (k.shape[1], -1)).amax(1).tolist()


def slabs(q: Tensor, k: Tensor, most: int, reaches: list[int]) -> Iterator[tuple[slice, slice, slice, int]]:
    """Rows of the batch, key heads, their query heads and their reach: rows times key heads are at most `most`, or 1.

    Heads go together whose reaches are within a factor of two.
    """
    batch, groups = k.shape[:2]
    each = q.shape[1] // groups
    rows = max(1, most // groups)
    for b in range(0, batch, rows):
        start = 0
        for stop in range(1, groups + 1):
            after = reaches[start : stop + 1]
            if stop == groups or stop - start >= most or max(after) > 2 * min(after):
                reach = max(reaches[start:stop])
                yield slice(b, min(b + rows, batch)), slice(start, stop), slice(start * each, stop * each), reach
                start = stop


def length(some: slice) -> int:
    """How many there are."""
    return some.stop - some.start


def strips(q: Tensor, k: Tensor, v: Tensor) -> Iterator[slice]:
    """Queries that are worked on at once."""
    size = STRIP if k.shape[2] > LONG else SHORT
    if not fused(q, v):
        size = min(size, max(1, HELD // (q.shape[0] * q.shape[1] * k.shape[2])))
    for start in range(0, q.shape[2], size):
        yield slice(start, min(start + size, q.shape[2]))


def fused(q: Tensor, v: Tensor) -> bool:
    """Whether torch has a kernel that takes any view as a bias and tells what it divides by."""
    return q.device.type == "cpu" and q.shape[-1] == v.shape[-1]


def product(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention [B, H, Q, V] under a bias [H, Q, K], and the logarithms [B, H, Q] of what it divides by."""
    if fused(q, v):
        return flash_cpu(q, k, v, 0.0, False, attn_mask=bias[None], scale=scale)
    rows = q.unflatten(1, (k.shape[1], -1)) * scale
    s = (rows @ k.mT[:, :, None]).flatten(1, 2) + bias
    log_sum = s.logsumexp(-1)
    p = (s - log_sum[..., None]).exp().unflatten(1, (k.shape[1], -1))
    return (p @ v[:, :, None]).flatten(1, 2), log_sum
