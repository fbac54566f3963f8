"""How the cost of rotating and of attending grows with the length, the heads and the channels of a head: one figure.

Rotation is divided by a copy into memory that is there, attention by torch's causal product without positions; both
sides run in turn.  `rotate.py` and `attend.py` check what is timed here.

    python benchmarks/growth.py --out benchmarks/growth.png
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

import attend
import ropewalk as rw
import rotate
from common import in_turn

LENGTHS = tuple(2**n for n in range(9, 17))
HEADS = (1, 2, 4, 8, 16, 32, 64)
DIMS = (16, 32, 64, 128, 256)
# what stays while something else grows: rotation of q and k, attention of q, k and v
ROTATED, ATTENDED = (32, 4096, 128), (2, 4096, 64)
BIASES = (rw.Alibi, rw.T5, rw.KerpleLog)
LONG = 16384  # tokens from which on attention is timed once

Sides = tuple[Callable[[], object], Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("growth.png"), help="the figure [growth.png]")
    parser.add_argument("--runs", type=int, default=9, help="times that each side is timed [9]")
    parser.add_argument("--most", type=int, default=LENGTHS[-1], help="tokens of the longest text [65536]")
    args = parser.parse_args()
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3, sharey="row")
    lengths = [n for n in LENGTHS if n <= args.most]
    for column, (what, values) in enumerate((("tokens", lengths), ("heads", HEADS), ("channels of a head", DIMS))):
        for row, (goal, measured) in enumerate(((1.15, rotations), (1.3, attentions))):
            panel = axes[row, column]
            for name, ratios in measured(column, values, args.runs).items():
                panel.plot(values[: len(ratios)], ratios, marker="o", label=name)
            panel.axhline(1, color="black", linewidth=0.8)
            panel.axhline(goal, color="black", linewidth=0.8, linestyle=":")
            panel.set_xscale("log", base=2)
            panel.set_xlabel(what)
            panel.grid(alpha=0.3)
            panel.legend(fontsize="small")
    axes[0, 0].set_ylabel("rotation / copy")
    axes[1, 0].set_ylabel("attention / causal product")
    for panel in axes.flat:
        panel.set_ylim(bottom=0)
    figure.suptitle(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; dotted: the goal")
    figure.savefig(args.out, dpi=130)
    print(f"drawn: {args.out}")


def varied(sizes: tuple[int, int, int], column: int, value: int) -> tuple[int, int, int]:
    """Heads, tokens and channels, where the column of the figure says which one has another value."""
    place = (1, 0, 2)[column]
    return (*sizes[:place], value, *sizes[place + 1 :])


def rotations(column: int, values: tuple[int, ...], runs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name in ("out of place", "in place"):
            key = f"{str(dtype).removeprefix('torch.')}, {name}"
            for value in values:
                ours, copy = rotation(*varied(ROTATED, column, value), dtype, name == "in place")
                found.setdefault(key, []).append(told(f"rotation, {key}, {value}", ours, copy, runs))
    return found


def rotation(heads: int, length: int, dim: int, dtype: torch.dtype, in_place: bool) -> Sides:
    """Turning x [1, heads, length, dim] and copying it, as often as makes 4 million elements or more."""
    x = torch.randn(1, heads, length, dim).to(dtype)
    out, angle = torch.zeros_like(x), torch.rand(1, length, dim // 2)
    job = (x, x if in_place else out, angle.cos(), angle.sin())
    times = range(max(1, 2**22 // x.numel()))

    def ours() -> None:
        for _ in times:
            rotate.launch([job], "half")

    def copy() -> None:
        for _ in times:
            out.copy_(x)

    return ours, copy


def attentions(column: int, values: tuple[int, ...], runs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for value in values:
        heads, length, dim = varied(ATTENDED, column, value)
        shape = (1, heads, length, dim)
        for kind in BIASES:
            sides = (attend.side(e, shape, torch.float32, False) for e in (kind(heads), None))
            ratio = told(f"attention, {kind.__name__}, {value}", *sides, 1 if length >= LONG else max(3, runs // 3))
            found.setdefault(kind.__name__, []).append(ratio)
    return found


def told(name: str, ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> float:
    if runs > 1:
        ours(), theirs()
    ratio = in_turn(ours, theirs, runs)[2]
    print(f"{name}: {ratio:.2f}", flush=True)
    return ratio


if __name__ == "__main__":
    main()
