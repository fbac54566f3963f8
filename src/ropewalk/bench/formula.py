"""What every contestant must come to, from the formulas alone in float64, and how far off rounding may leave it.

An error is measured against the largest element of the vector that it stands in, not of the whole tensor: far down a
long row attention returns means of thousands of values, beside which a bound taken from the first tokens hides all.
Letters: H query heads, G key heads, T tokens, N checked queries, D head channels, P pairs.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.bench.case import BACKWARD, BASE, FORWARD, Case, Problem, checked
from ropewalk.errors import require

SLICE = 2048  # tokens that are rotated in float64 at once
UNITS = 4  # in the last place: of the inputs' products, of their sum and of what is stored
SINGLE = torch.finfo(torch.float32).eps


class Verdict(NamedTuple):
    """How far off the worst element is, and how far it may be, as shares of the largest element beside it."""

    error: float
    allowed: float

    @property
    def right(self) -> bool:
        return self.error <= self.allowed  # NaN is not


def angles(case: Case) -> Tensor:
    """Float64[T, P]: position times rate."""
    rates = torch.tensor([BASE ** (-2 * i / case.dim) for i in range(case.dim // 2)], dtype=torch.float64)
    places = range(case.first, case.first + case.length)
    return torch.tensor(places, dtype=torch.float64)[:, None] * rates


def rotated(x: Tensor, angle: Tensor, pairing: str) -> Tensor:
    """Float64, like x [1, H, T, D]: each pair as a complex number, times a number of length one."""
    pairs = (2, -1) if pairing == "half" else (-1, 2)
    apart = x.double().unflatten(-1, pairs)
    first, second = apart.unbind(-2 if pairing == "half" else -1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    return torch.stack((turned.real, turned.imag), dim=-2 if pairing == "half" else -1).flatten(-2)


def bias(name: str, w: Mapping[str, Tensor], d: Tensor) -> Tensor:
    """[H or 1, *d.shape]: what a key `d` tokens back costs, in the dtype of d; keys ahead count as at no distance."""
    far = d.clamp(min=0)
    if name == "alibi":
        return -per_head(w["slopes"].to(d.dtype), d) * far
    if name == "t5":
        # 16 buckets of one distance each, then 16 that widen up to 128
        wide = 16 + ((far / 16).clamp(min=1).log() / math.log(8) * 16).long()
        return w["t5_bias"].to(d.dtype)[torch.where(far < 16, far.long(), wide.clamp(max=31))].movedim(-1, 0)
    if name == "kerple":
        rate, sharpness = (per_head(w[f"kerple_log_{n}"].to(d.dtype).exp(), d) for n in ("rate", "sharpness"))
        return -rate * (sharpness * far).log1p()
    return torch.zeros(1, *d.shape, dtype=d.dtype, device=d.device)


def per_head(x: Tensor, d: Tensor) -> Tensor:
    """[H, 1, ...]: a number of each head, to be multiplied with d."""
    return x.view(-1, *(1 for _ in d.shape))


def slopes(heads: int) -> Tensor:
    """Float64[H]: ALiBi's powers of two; of the power of two above, every other one makes up the number."""
    near = 2 ** (heads.bit_length() - 1)
    every = [2 ** (-8 * i / near) for i in range(1, near + 1)]
    every += [2 ** (-4 * i / near) for i in range(1, 2 * near, 2)]
    return torch.tensor(every[:heads], dtype=torch.float64)


def judge_rotation(given: Problem, found: tuple[Tensor, ...], pairing: str, own_angles: bool) -> Verdict:
    """Rotations, all elements of them: of queries and keys, or backward of the gradients, by minus the angle.

    With `own_angles` a contestant made float32 angles itself, each off by up to a unit of its size. A pairing of ""
    leaves everything as it is.
    """
    case, back = given.case, given.case.stage == BACKWARD and pairing != ""
    angle = angles(case).to(case.device) * (-1 if back else 1)
    worst = torch.zeros((), dtype=torch.float64, device=case.device)
    for x, out in zip(given.gradients if back else given.inputs, found, strict=True):
        same(x, out)
        for start in range(0, case.length, SLICE):
            some = slice(start, start + SLICE)
            x_some = x[:, :, some].detach()
            truth = rotated(x_some, angle[some], pairing) if pairing else x_some.double()
            worst = torch.maximum(worst, off(out[:, :, some], truth))
    eps = torch.finfo(given.dtype).eps
    return Verdict(float(worst), UNITS * eps + ((case.first + case.length) * SINGLE if own_angles else 0))


def judge_attention(given: Problem, found: tuple[Tensor, ...], plain: bool) -> Verdict:
    """Attention at the checked queries, or the gradients that come back from them; `plain` has no bias.

    Weights and values may be off by units of the inputs' dtype. Logits may be off by a float32 unit of their size, and
    so may sums by the root of the number of their terms. Of several gradients the one nearest to its bound is told.
    """
    case, rows = given.case, checked(given.case.length)
    out, grads, largest = attended(given, plain)
    eps = torch.finfo(given.dtype).eps

    def allowed(terms: int) -> float:
        return UNITS * (eps + SINGLE * (largest + terms**0.5)) * (1 if case.stage == FORWARD else 2)

    if case.stage == FORWARD:
        same(given.inputs[0], found[0])
        worst = torch.where(found[0].isfinite().all(), off(found[0][:, :, rows], out), torch.nan)
        return Verdict(float(worst), allowed(case.length))
    verdicts: list[Verdict] = []
    leaves = (*given.inputs, *([] if plain else given.weights.values()))
    for leaf, gradient, truth in zip(leaves, found, grads, strict=True):
        same(leaf, gradient)
        # keys that hardly anyone looks at get differences of larger numbers: a head is the measure
        if leaf.dim() == 4:
            verdicts.append(Verdict(float(off(gradient, truth, (-2, -1))), allowed(case.length)))
        else:
            verdicts.append(Verdict(float(off(gradient, truth, (0,))), allowed(len(rows) * case.length)))
    return max(verdicts, key=lambda v: v.error / v.allowed if math.isfinite(v.error) else math.inf)


def attended(given: Problem, plain: bool) -> tuple[Tensor, list[Tensor], float]:
    """Float64 attention [1, H, N, D] at the checked queries, gradients of inputs and weights, the largest logit."""
    case, rows = given.case, checked(given.case.length)
    learned = {} if plain else given.weights
    back = torch.tensor(rows, device=case.device)[:, None] - given.at.position[0, :, 0]
    sums = [torch.zeros(x.shape, dtype=torch.float64, device=x.device) for x in (*given.inputs, *learned.values())]
    outs, largest = [], 0.0
    for head in range(case.heads):
        group = head * case.kv_heads // case.heads
        mine = [given.inputs[0][0, head, rows], *(x[0, group] for x in given.inputs[1:])]
        q, k, v, *w = (x.detach().double() for x in (*mine, *(t[..., head : head + 1] for t in learned.values())))
        leaves = [x.requires_grad_(case.stage != FORWARD) for x in (q, k, v, *w)]
        costs = {**dict(zip(learned, w, strict=True)), "slopes": slopes(case.heads)[head].to(case.device)}
        cost = bias("" if plain else case.bias, costs, back.double())[0]
        logits = q @ k.mT * case.dim**-0.5 + cost
        largest = max(largest, float(logits.detach().masked_fill(back < 0, 0).abs().amax()))
        out = logits.masked_fill(back < 0, -math.inf).softmax(-1) @ v
        outs.append(out.detach())
        if case.stage != FORWARD:
            parts = torch.autograd.grad(out, leaves, given.gradients[0][0, head, rows].double())
            sums[0][0, head, rows] = parts[0]
            for total, part in zip(sums[1:3], parts[1:3], strict=True):
                total[0, group] += part
            for total, part in zip(sums[3:], parts[3:], strict=True):
                total[..., head : head + 1] = part
    return torch.stack(outs)[None], sums, largest


def off(found: Tensor, truth: Tensor, beside: tuple[int, ...] = (-1,)) -> Tensor:
    """The worst error as a share of the largest element along the dims `beside`; NaN where anything is not finite."""
    largest = truth.abs().amax(beside, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    error = (found.detach().double() - truth).abs() / largest
    return torch.where(found.isfinite().all(), error.amax(), torch.nan) if error.numel() else error.sum()


def same(expected: Tensor, found: Tensor) -> None:
    """Raise ConfigError unless shape and dtype are those expected."""
    require(found.shape == expected.shape, "the result", f"of shape {tuple(expected.shape)}", tuple(found.shape))
    require(found.dtype == expected.dtype, "the result", f"of dtype {expected.dtype}", found.dtype)
