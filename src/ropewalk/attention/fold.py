"""ALiBi inside the dot product: a few channels more, and causal attention without any mask adds the bias.

A key at place j is to gain slope * j; what that is off by, slope times the query's place, is the same for all keys of a
query and falls out of the softmax. Both factors are split into parts of at most 8 significant bits, which every dtype
holds and whose products are exact in float32:

- the slope, divided by the scale that dot products are multiplied with, into three: off by 2 ** -24 of it at most,
  and so the logit by 2 ** -24 of the bias (float16 holds nothing smaller than 2 ** -24: off by up to 2 ** -25 times
  scale and distance);
- the place, counted from the middle of a block of queries, into digits of base 256 from -128 to 128, without any error.

What is left are the sums in float32. Let R be how far below the highest logit of a query one may lie and still weigh
anything. A key that weighs anything lies at most R / slope before its query, and the query at most half a block from
the middle, so that no number in its sum is above slope * rows / 2 + R + the dot product, and the logit is off by a few
2 ** -24 of that, at any length. `rows_of` takes blocks in which slope * rows / 2 is 64 for float32, and for narrow
numbers so large that the error is a 32nd of half a unit in the last place of a weight.
Letters: B batch, Q queries, K keys, H query heads, G key heads, D head channels, V value channels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ropewalk.attention.call import Call
from ropewalk.encodings.bias.alibi import Alibi
from ropewalk.masks import causal
from ropewalk.sites import Biases, parts
from ropewalk.tokens import contiguous

PIECES = 3  # of a slope, 8 bits each
BASE = 256  # of the digits of a place
NEAR = 64.0  # a bias that float32 adds up exactly enough
FINER = 64  # how much finer than a weight's last place the sums are
ALIGNED = 8  # what kernels want the number of channels to be a multiple of
LEAST = 128  # queries of a block


def folds(call: Call) -> bool:
    """Whether every bias is ALiBi's, the mask is causal, and there are no more keys than digits can tell apart."""
    return (
        all(isinstance(e, Alibi) for e in parts(call.encoding, Biases))
        and call.mask is causal
        and call.k.shape[2] <= BASE**3 // 2
    )


def attend_folded(call: Call) -> Tensor:
    """[B, H, Q, V] for tokens in line under a causal mask, where `folds` says so."""
    c = call.rotated()
    slopes = slopes_of(c)
    queries, keys, values = c.q.shape[2], c.k.shape[2], c.v.shape[-1]
    digits = 2 if keys <= BASE**2 // 2 else 3
    width = max(c.q.shape[-1] + PIECES * digits, values)
    width += -width % ALIGNED
    left = pieces(slopes / c.factor, digits).to(c.q.device, c.kept)
    q = widened(c.q.to(c.kept), left[:, None].expand(-1, queries, -1), width)
    k, v = c.k.to(c.kept), F.pad(c.v.to(c.kept), (0, width - values))
    rows, out = rows_of(float(slopes.max()), c.kept), list[Tensor]()
    for start in range(0, queries, rows):
        stop = min(start + rows, queries)
        seen, middle = keys - queries + stop, keys - queries + (start + stop) // 2
        right = places(seen, middle, digits).to(k.device, k.dtype)[None].expand(k.shape[1], -1, -1)
        out.append(product(q[:, :, start:stop], k[:, :, :seen], right, v[:, :, :seen], c.factor))
    return torch.cat(out, dim=2)[..., :values].to(call.q.dtype)


def product(q: Tensor, k: Tensor, right: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention of queries that are the last of the keys; `right` are channels that the keys lack."""

    # loads torch's compiler
    from torch.nn.attention.bias import causal_lower_right

    def made() -> Tensor:
        with torch.no_grad():
            return widened(k, right, q.shape[-1])

    wide = widened(k, right, q.shape[-1])
    # kept for every block, the widened keys would be quadratic
    with remaking(wide, made):
        mask = causal_lower_right(q.shape[2], k.shape[2])
        return F.scaled_dot_product_attention(q, wide, v, mask, scale=scale, enable_gqa=True)


def remaking(x: Tensor, made: Callable[[], Tensor]) -> saved_tensors_hooks:
    """While this is open, autograd does not keep x but how it is made."""

    # the hooks live as long as what they pack, and must not hold x themselves
    known = x.data_ptr(), x.shape

    def pack(kept: Tensor) -> Any:
        return made if (kept.data_ptr(), kept.shape) == known else kept

    def unpack(kept: Any) -> Tensor:
        return made() if kept is made else kept

    return saved_tensors_hooks(pack, unpack)


def widened(x: Tensor, columns: Tensor, width: int) -> Tensor:
    """[B, H, T, width]: x [B, H, T, D], then the columns [H, T, N], then zeros."""
    rest = width - x.shape[-1] - columns.shape[-1]
    return F.pad(torch.cat((x, columns.expand(len(x), -1, -1, -1)), dim=-1), (0, rest))


def slopes_of(c: Call) -> Tensor:
    """Float64[H]: what all parts together cost per token."""
    each = [torch.tensor(e.slopes(), dtype=torch.float64) for e in parts(c.encoding, Biases)]
    return sum(each, torch.zeros(c.q.shape[1], dtype=torch.float64))


def pieces(slopes: Tensor, digits: int) -> Tensor:
    """Float64[H, PIECES * digits]: every piece of 8 bits, times 16 ** n for digit n."""
    out = list[Tensor]()
    for _ in range(PIECES):
        out.append((slopes - sum(out, torch.zeros_like(slopes))).bfloat16().double())
    return torch.cat([torch.stack(out, dim=1) * 16**n for n in range(digits)], dim=1)


def places(count: int, middle: int, digits: int) -> Tensor:
    """Float64[count, PIECES * digits]: digit n of each place, times 16 ** n, once per piece of the slope."""
    rest, out = contiguous(count, -middle).order[0], list[Tensor]()
    for n in range(digits):
        last = n == digits - 1
        digit = rest if last else (rest + BASE // 2) % BASE - BASE // 2
        rest = (rest - digit) // BASE
        out += [digit.double() * 16**n] * PIECES
    return torch.stack(out, dim=1)


def rows_of(slope: float, dtype: torch.dtype) -> int:
    """How many queries share a middle."""
    coarse = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    rows = int(2 * max(NEAR, coarse / FINER) / slope)
    return max(LEAST, rows - rows % LEAST)
