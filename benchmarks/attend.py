"""Attention with positions, against torch's causal fused product without any.

First every outcome and gradient must be the reference's in float64 within rounding, on a short text.  Then both sides
are timed in turn on --length tokens, forward and with the gradient of everything that learns (goals: 1.2 for ALiBi,
1.3 forward and 1.5 with gradients for T5 and KERPLE).  Memory is what a process of its own needs at its peak beyond
one that computes the fused product (goal: 64 MiB at 16,384 tokens, forward).

    python benchmarks/attend.py --length 4096 --runs 5
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import ropewalk as rw
from common import apart, demand, in_turn, show
from ropewalk.attention import reference
from ropewalk.extend.outcome import peak_memory

CHECKED = 700  # tokens: several strips and tiles, the last ones short
GOALS = {rw.Alibi: (1.2, 1.2), rw.T5: (1.3, 1.5), rw.KerpleLog: (1.3, 1.5)}
MEMORY = 64.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096, help="tokens [4096]")
    parser.add_argument("--heads", type=int, default=8, help="[8]")
    parser.add_argument("--dim", type=int, default=64, help="channels of a head [64]")
    parser.add_argument("--runs", type=int, default=5, help="times that each side is timed [5]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="[as many as there are cores]")
    args = parser.parse_args()
    shape, dtype = (1, args.heads, args.length, args.dim), getattr(torch, args.dtype)
    torch.set_num_threads(args.threads)
    # a process starts with the peak of the one that starts it, so this comes first
    fused, *ours = (apart(peak, e, shape, dtype, args.threads) for e in (None, *(kind(args.heads) for kind in GOALS)))
    for kind, mine in zip(GOALS, ours, strict=True):
        show(f"{kind.__name__}: MiB beyond the fused product", mine - fused, MEMORY)
    for kind in GOALS:
        demand(*checked(kind(args.heads), (1, args.heads, CHECKED, args.dim)))
    for kind, (forward, both) in GOALS.items():
        encoding = kind(args.heads)
        for goal, learning, what in ((forward, False, "forward"), (both, True, "forward and backward")):
            ours, theirs = side(encoding, shape, dtype, learning), side(None, shape, dtype, learning)
            ours(), theirs()
            ms, base, ratio = in_turn(ours, theirs, args.runs)
            print(f"{encoding}, {what}: {1e3 * ms:.1f} ms, the fused product {1e3 * base:.1f} ms")
            show(f"{kind.__name__} / causal product, {what}", ratio, goal)


def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw).to(dtype) for _ in range(3)]


def weights(encoding: object, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: x.to(dtype).requires_grad_() for name, x in rw.initial(encoding).items()}


def side(encoding: object | None, shape: tuple[int, ...], dtype: torch.dtype, learning: bool) -> Callable[[], object]:
    """A call of ours, or of the fused product where there is no encoding, with gradients where it is learning."""
    at, w, leaves = rw.contiguous(shape[2]), weights(encoding or ()), tensors(shape, dtype)
    seed = leaves[0].flip(2)
    if encoding is None:
        forward = partial(F.scaled_dot_product_attention, *leaves, is_causal=True)
    else:
        forward = partial(rw.attend, *leaves, encoding, w, at, at)
    if not learning:
        return torch.no_grad()(forward)
    wanted = [*(x.requires_grad_() for x in leaves), *w.values()]
    return lambda: torch.autograd.grad(forward(), wanted, seed)


def checked(encoding: object, shape: tuple[int, ...]) -> tuple[bool, str]:
    """Whether outcome and gradients in float32 are those of the reference in float64."""
    at, found = rw.contiguous(shape[2]), list[list[Tensor]]()
    for attend, dtype in ((rw.attend, torch.float32), (reference.attend, torch.float64)):
        w, leaves = weights(encoding, dtype), [x.requires_grad_() for x in tensors(shape, dtype)]
        out = attend(*leaves, encoding, w, at, at)
        found.append([out, *torch.autograd.grad(out.square().sum(), [*leaves, *w.values()])])
    eps = torch.finfo(torch.float32).eps
    # as many roundings add up as there are terms, and each may go either way
    allowed = 4 * eps * (shape[2] * shape[3]) ** 0.5
    off = max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in zip(*found, strict=True))
    return off <= allowed, f"{encoding}: off by {off:.1e} of the largest element at most ({allowed:.1e} may)"


def peak(encoding: object | None, shape: tuple[int, ...], dtype: torch.dtype, threads: int) -> float:
    """MiB that this process has held at its peak after one forward call."""
    torch.set_num_threads(threads)
    side(encoding, shape, dtype, False)()
    return peak_memory() / 2**20


if __name__ == "__main__":
    main()
