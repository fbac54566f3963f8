"""Rotating q (32 heads) and k (8 heads), against copying the same tensors and against transformers.

First every way is checked against the formula in float64.  "A copy" is `clone`, which takes fresh memory as an out of
place rotation does; most of such a copy is the system handing out pages.  The second figure of each pair therefore
leaves that out: both sides write into memory that is there already.  Caches are emptied before each call, else one
side pays for writing back what the other has left in them.

    python benchmarks/rotate.py --length 4096 --runs 15
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from common import demand, empty_caches, in_turn, show
from ropewalk.kernels import naive
from ropewalk.kernels.cpu.rotate import launch
from ropewalk.kernels.rotate import PAIRINGS, rotate_, rotate_pair

Q_HEADS, K_HEADS, DIM = 32, 8, 128
STEPS = 200  # decoding steps that are timed together
CHECKED = 257  # tokens of the check, an odd number

Pair = tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096, help="tokens [4096]")
    parser.add_argument("--runs", type=int, default=15, help="times that each side is timed [15]")
    parser.add_argument("--compiled", action="store_true", help="also time transformers under torch.compile")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.length} tokens")
    for dtype in (torch.float32, torch.bfloat16):
        for pairing in PAIRINGS:
            check(dtype, pairing)
            measure(dtype, pairing, args.length, args.runs)
        decode(dtype, args.runs)
        peers(dtype, args.length, args.runs, args.compiled)


def operands(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Pair]:
    """Queries, keys and tables."""
    torch.manual_seed(0)
    angle = torch.rand(1, length, DIM // 2, dtype=torch.float64) * length
    q, k = (torch.randn(1, heads, length, DIM).to(dtype) for heads in (Q_HEADS, K_HEADS))
    return q, k, (angle.cos().float(), angle.sin().float())


def right(got: Tensor, x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> bool:
    """Whether each element is the exact one but for the rounding of its terms, their sum and the result."""
    exact = naive.rotate(x.double(), cos.double(), sin.double(), pairing)
    unit = torch.finfo(x.dtype).eps / 2 * exact.abs() + torch.finfo(torch.float32).eps * 4 * x.double().abs().max()
    return bool(((got.double() - exact).abs() <= unit).all())


def check(dtype: torch.dtype, pairing: str) -> None:
    q, k, tables = operands(CHECKED, dtype)
    q.requires_grad_()
    k.requires_grad_()
    outs = rotate_pair(q, k, tables, tables, pairing)
    good = all(right(out, x, *tables, pairing) for out, x in zip(outs, (q, k), strict=True))
    demand(good, f"rotation out of place, {dtype}, {pairing}")
    back = torch.autograd.grad(outs, (q, k), (k.repeat(1, 4, 1, 1), k))
    good = all(
        right(out, x, tables[0], -tables[1], pairing) for out, x in zip(back, (k.repeat(1, 4, 1, 1), k), strict=True)
    )
    demand(good, f"its gradient, {dtype}, {pairing}")
    with torch.no_grad():
        demand(right(rotate_(q.clone(), *tables, pairing), q, *tables, pairing), f"in place, {dtype}, {pairing}")


def measure(dtype: torch.dtype, pairing: str, length: int, runs: int) -> None:
    q, k, tables = operands(length, dtype)
    outs = torch.zeros_like(q), torch.zeros_like(k)

    def copy() -> Pair:
        return q.clone(), k.clone()

    def copy_into() -> None:
        outs[0].copy_(q)
        outs[1].copy_(k)

    def into() -> None:
        launch([(q, outs[0], *tables), (k, outs[1], *tables)], pairing)

    def in_place() -> None:
        rotate_(q, *tables, pairing)
        rotate_(k, *tables, pairing)

    out_of_place = partial(rotate_pair, q, k, tables, tables, pairing)
    name = f"{str(dtype).removeprefix('torch.')}, {pairing}"
    compare(f"{name}: out of place / copy", out_of_place, copy, runs, 1.15)
    compare(f"{name}: out of place / copy, both into memory that is there", into, copy_into, runs, 1.15)
    goal = 0.85 if dtype == torch.float32 else 1.0
    compare(f"{name}: in place / copy", in_place, copy, runs, goal)
    compare(f"{name}: in place / copy into memory that is there", in_place, copy_into, runs, goal)
    leaves = q.detach().requires_grad_(), k.detach().requires_grad_()
    ends = rotate_pair(*leaves, tables, tables, pairing)
    backward = partial(torch.autograd.grad, ends, leaves, (q, k), retain_graph=True)
    compare(f"{name}: backward / copy", backward, copy, runs, 1.3)


def decode(dtype: torch.dtype, runs: int) -> None:
    q, k, tables = operands(1, dtype)
    stock = stock_tables(tables, dtype)

    def ours() -> None:
        for _ in range(STEPS):
            rotate_pair(q, k, tables, tables)

    def theirs() -> None:
        for _ in range(STEPS):
            apply_rotary_pos_emb(q, k, *stock)

    with torch.inference_mode():
        ours(), theirs()
        show(
            f"{str(dtype).removeprefix('torch.')}: one decoding step / transformers",
            in_turn(ours, theirs, runs)[2],
            0.5,
        )


def peers(dtype: torch.dtype, length: int, runs: int, compiled: bool) -> None:
    q, k, tables = operands(length, dtype)
    stock = stock_tables(tables, dtype)
    ways = {"transformers": apply_rotary_pos_emb}
    if compiled:
        ways["transformers, compiled"] = torch.compile(apply_rotary_pos_emb)
    for name, way in ways.items():
        _, _, ratio = in_turn(lambda way=way: way(q, k, *stock), lambda: (q.clone(), k.clone()), max(3, runs // 3))
        print(f"{str(dtype).removeprefix('torch.')}: {name} / copy: {ratio:.2f}", flush=True)


def stock_tables(tables: Pair, dtype: torch.dtype) -> Pair:
    """As transformers makes them: every angle twice, in the dtype of the model."""
    cos, sin = (torch.cat((t, t), -1).to(dtype) for t in tables)
    return cos, sin


def compare(name: str, ours: Callable[[], object], limit: Callable[[], object], runs: int, goal: float) -> None:
    """Print the median of the ratios of neighbouring runs."""
    ours()
    limit()
    show(name, in_turn(ours, limit, runs, empty_caches)[2], goal)


if __name__ == "__main__":
    main()
