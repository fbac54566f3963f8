"""Attention by rules that turn queries and keys in two or three ways, against torch's causal fused product.

First every outcome must be the dense reference's within rounding, on a short text.  Then both sides are timed in turn
on --length tokens: mapping of queries and keys, the plan and the product, as one layer pays for all of it and as each
of many layers does, which share tables and plan (goal: 2.2).  Memory is what a process of its own needs beyond one that
computes the fused product.

    python benchmarks/rules.py --length 8192
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ropewalk as rw
from common import apart, in_turn, show
from ropewalk.attention.reference import attend
from ropewalk.attention.step import Step
from ropewalk.extend.candidates import told, training_free
from ropewalk.extend.outcome import peak_memory
from ropewalk.masks import causal

CHECKED, GOAL = 700, 2.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192, help="tokens, twice the trained window [8192]")
    parser.add_argument("--heads", type=int, default=9, help="of queries [9]")
    parser.add_argument("--groups", type=int, default=3, help="heads of keys [3]")
    parser.add_argument("--dim", type=int, default=64, help="channels of a head [64]")
    parser.add_argument("--runs", type=int, default=5, help="times that each side is timed [5]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    given = parser.parse_args()
    own, window = rw.Rotary(given.dim, 1e5), given.length // 2
    shape = (given.heads, given.groups, given.length, given.dim)
    dtype = getattr(torch, given.dtype)
    rules = [e for e in training_free(own, window, given.length) if not isinstance(e, tuple | rw.Adaptive)]
    # a process starts with the peak of the one that starts it, so this comes first
    fused, *ours = (apart(peak, e, shape, dtype) for e in (None, *rules))
    for rule in training_free(own, CHECKED // 2, CHECKED):
        check(rule, shape)
    torch.set_grad_enabled(False)
    q, k, v = tensors(shape, dtype)
    at = rw.contiguous(given.length)
    base = partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True)
    for rule, memory in zip(rules, ours, strict=True):
        shared = Step(at, at, [rule])
        for what, make in (
            ("alone", lambda rule=rule: Step(at, at, [rule])),
            ("in a model", lambda shared=shared: shared),
        ):
            run = partial(layer, make, q, k, v)
            run(), base()
            ms, plain, ratio = in_turn(run, base, given.runs)
            print(f"{told(rule, own)}, {what}: {1e3 * ms:.0f} ms, the fused product {1e3 * plain:.0f} ms")
            show(f"{type(rule).__name__} / causal product, {what}", ratio, GOAL)
        print(f"{told(rule, own)}: {memory - fused:.0f} MiB beyond the fused product")


def layer(make: Callable[[], Step], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One layer's attention, from raw queries and keys on."""
    step = make()
    return step.attend(0, *step.mapped(0, q, k), v, causal, q.shape[-1] ** -0.5)


def tensors(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    heads, groups, length, dim = shape
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, length, dim, generator=draw).to(dtype) for n in (heads, groups, groups)]


def check(rule: Any, shape: tuple[int, int, int, int]) -> None:
    """End unless every element is the reference's."""
    q, k, v = (x.double() for x in tensors((*shape[:2], CHECKED, shape[3]), torch.float32))
    at = rw.contiguous(CHECKED)
    got = rw.attend(q, k, v, rule, {}, at, at)
    torch.testing.assert_close(got, attend(q, k, v, rule, {}, at, at), rtol=0, atol=1e-12)


def peak(rule: Any, shape: tuple[int, int, int, int], dtype: torch.dtype) -> float:
    """The largest resident set of a process that attends once, in MiB."""
    torch.set_grad_enabled(False)
    # kernels are loaded on either side
    short = rw.contiguous(CHECKED)
    layer(lambda: Step(short, short, [rule or rw.Rotary(shape[3])]), *tensors((*shape[:2], CHECKED, shape[3]), dtype))
    q, k, v = tensors(shape, dtype)
    if rule is None:
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    else:
        at = rw.contiguous(shape[2])
        layer(lambda: Step(at, at, [rule]), q, k, v)
    return peak_memory() / 2**20


if __name__ == "__main__":
    main()
