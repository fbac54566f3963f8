"""Training and evaluation of the lab's decoder, against x-transformers' of the same size and against its own without
positions.

Everything is timed in turn in one process of one thread, on the same texts of 128 tokens, 16 of them a step; goals:
training at least as fast as x-transformers', and against the lab's own NoPE at least 0.95 for RoPE and ALiBi and 0.9
for T5 and KERPLE; evaluation of 2,048 tokens at least 0.85 for ALiBi and 0.6 for T5 and KERPLE.  With --dtype bfloat16
x-transformers runs under autocast.  Of its own attention and torch's fused one the faster counts.

    python benchmarks/lab.py --rounds 25
"""

import argparse
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from x_transformers import Decoder as OtherDecoder
from x_transformers import TransformerWrapper

from ropewalk.lab.model import Decoder, Shape, losses
from ropewalk.lab.presets import HEADS, LAYERS, WIDTH, entrants
from ropewalk.lab.train import CLIP, DTYPES, Batch, adam, update
from ropewalk.lab.workers import keep_memory
from ropewalk.tokens import contiguous

LENGTH, TEXTS, LONG = 128, 16, 2048
NEAR = 1e-4  # logits are about 1, through four layers in float32
TRAINING = {"RoPE": 0.95, "ALiBi": 0.95, "T5": 0.9, "KERPLE": 0.9}
READING = {"ALiBi": 0.85, "T5": 0.6, "KERPLE": 0.6}
# what x-transformers calls them; it has no KERPLE and no FIRE
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sinusoidal": ({"scaled_sinu_pos_emb": True}, {}),
    "learned": ({"use_abs_pos_emb": True}, {}),
    "RoPE": ({}, {"rotary_pos_emb": True}),
    "xPos": ({}, {"rotary_xpos": True}),
    "T5": ({}, {"rel_pos_bias": True}),
    "ALiBi": ({}, {"alibi_pos_bias": True}),
    "NoPE": ({}, {}),
}
Works = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="times that each side is timed [25]")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of products in training [float32]")
    parser.add_argument("--only", default="", help="names from the lab's tables, such as RoPE,NoPE [all]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    names = [e.name for e in entrants(LENGTH) if not args.only or e.name in ("NoPE", *args.only.split(","))]
    encodings = {e.name: e.encoding for e in entrants(LENGTH)}
    ids = torch.randint(256, (TEXTS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    for name in names:
        check(name, encodings[name], ids[:2, :-1])
    steps: Works = {name: ours(encodings[name], ids, args.dtype) for name in names}
    steps |= {f"{way} {name}": theirs(name, ids, args.dtype, way) for name in names for way in ways(name)}
    seconds = in_turn(steps, args.rounds)
    print(f"a step of training in {args.dtype}, {TEXTS} texts of {LENGTH} tokens:")
    for name in names:
        told = f"{name:12s} {ids[:, 1:].numel() / median(seconds[name]):8,.0f} tokens/s"
        told += against("NoPE", seconds[name], seconds["NoPE"], TRAINING.get(name))
        if name in OTHERS:
            way = min(ways(name), key=lambda way: median(seconds[f"{way} {name}"]))
            told += against(f"x-transformers ({way})", seconds[name], seconds[f"{way} {name}"], 1.0)
        print(told, flush=True)
    long = torch.randint(256, (2, LONG + 1), generator=torch.Generator().manual_seed(0))
    readings: Works = {n: reading(encodings[n], long) for n in names if n != "learned"}
    with torch.inference_mode():
        seconds = in_turn(readings, args.rounds)
    print(f"evaluation of texts of {LONG:,} tokens:")
    for name, each in seconds.items():
        told = f"{name:12s} {long[:, 1:].numel() / median(each):8,.0f} tokens/s"
        print(told + against("NoPE", each, seconds["NoPE"], READING.get(name)), flush=True)


def against(who: str, mine: list[float], other: list[float], goal: float | None) -> str:
    """How many times as fast: the ratio of medians, and of the fastest, which other load hits least."""
    wanted = "" if goal is None else f", goal {goal:g}"
    return f"; {median(other) / median(mine):.3f} of {who} (fastest {min(other) / min(mine):.3f}{wanted})"


def in_turn(works: Works, rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, in an order drawn anew, after two runs that do not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-2, rounds):
        for name in random.Random(number).sample(list(works), len(works)):
            start = time.perf_counter()
            works[name]()
            if number >= 0:
                found[name].append(time.perf_counter() - start)
    return found


def ways(name: str) -> tuple[str, ...]:
    """The attentions that x-transformers' decoder may have: its own, and torch's fused one; the faster counts."""
    return () if name not in OTHERS else ("own",) if name == "T5" else ("own", "fused")


def check(name: str, encoding: Any, ids: Tensor) -> None:
    """End unless logits are those of attention that is told of every token where it stands, and looks nothing up."""
    model = Decoder(Shape(), encoding)
    with torch.inference_mode():
        apart = (model(ids) - model(ids, at=contiguous(ids.shape[1]))).abs().max().item()
    if apart > NEAR:
        raise SystemExit(f"{name}: logits differ by {apart:g}, more than {NEAR:g}")


def ours(encoding: Any, ids: Tensor, dtype: str) -> Callable[[], object]:
    """A step of the lab."""
    model = Decoder(Shape(), encoding).multiply_in(DTYPES[dtype])
    return partial(update, model, adam(model), Batch(ids[:, :-1], ids[:, 1:]))


def reading(encoding: Any, ids: Tensor) -> Callable[[], object]:
    """An evaluation of the lab."""
    return partial(losses, Decoder(Shape(), encoding), ids[:, :-1], ids[:, 1:])


def theirs(name: str, ids: Tensor, dtype: str, way: str) -> Callable[[], object]:
    """The same step of x-transformers' decoder."""
    outside, inside = OTHERS[name]
    layers = OtherDecoder(
        dim=WIDTH, depth=LAYERS, heads=HEADS, attn_dim_head=WIDTH // HEADS, attn_flash=way == "fused", **inside
    )
    given = {"use_abs_pos_emb": False} | outside
    model = TransformerWrapper(num_tokens=256, max_seq_len=LENGTH, tie_embedding=True, attn_layers=layers, **given)
    size, mine = (sum(x.numel() for x in m.parameters()) for m in (model, Decoder(Shape(), ())))
    if abs(size - mine) > 0.03 * mine:
        raise SystemExit(f"{name}: x-transformers learns {size:,} numbers, the lab {mine:,}")
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)

    def step() -> None:
        narrow: AbstractContextManager[Any] = nullcontext()
        if dtype != "float32":
            narrow = torch.autocast("cpu", dtype=DTYPES[dtype])
        with narrow:
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP).item()
        optimiser.step()
        optimiser.zero_grad()

    return step


if __name__ == "__main__":
    main()
