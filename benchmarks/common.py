"""What the benchmarks share: their options, a model with text to read, a stock reading, and times taken in turn."""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.evaluate.text import documents_from, split_text
from ropewalk.models.load import Loaded, load

WARM = 128  # tokens of a first call that is not timed


class Subject(NamedTuple):
    """A model and a text that it reads."""

    loaded: Loaded
    ids: Tensor  # Int[T]
    tokenize: Callable[[str], list[int]]


def options(about: str | None, length: int, runs: int) -> argparse.ArgumentParser:
    """The options that every benchmark has; `about` is its docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="folder, hub name, .gguf file or demo [demo]")
    parser.add_argument("--length", type=int, default=length, help=f"tokens of a pass [{length}]")
    parser.add_argument("--runs", type=int, default=runs, help=f"times that each side is timed [{runs}]")
    return parser


def subject(model: str, dtype: str, length: int) -> Subject:
    """The model and the first `length` tokens of the text that `ropewalk extend` searches by default."""
    loaded = load(model, dtype)

    def tokenize(text: str) -> list[int]:
        return loaded.tokenizer(text, add_special_tokens=False).input_ids

    return Subject(loaded, split_text(*documents_from(None, None), tokenize, length).search, tokenize)


@torch.inference_mode()
def stock_logits(model: Any, ids: Tensor) -> Tensor:
    """Logits [T, V] of one call of the model as it comes."""
    return model(input_ids=ids[None], use_cache=False).logits[0]


def losses_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Losses in nats, Float32[T - 1]: entry i is of token i + 1."""
    return F.cross_entropy(logits[:-1].float(), ids[1:], reduction="none")


def tolerance(logits: Tensor, terms: int) -> float:
    """How far two losses may lie apart: four units in the last place of the largest logit, times the root of the
    number of terms that each logit sums."""
    return 4 * torch.finfo(logits.dtype).eps * float(logits.abs().max()) * terms**0.5


def demand(ok: bool, what: str) -> None:
    """End the benchmark, without figures, unless `ok`."""
    print(f"{'checked' if ok else 'WRONG'}: {what}", flush=True)
    if not ok:
        raise SystemExit(1)


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function run in a process of its own, which leaves no trace in this one's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def in_turn(
    first: Callable[[], object],
    second: Callable[[], object],
    runs: int,
    before: Callable[[], object] = lambda: None,
) -> tuple[float, float, float]:
    """Median seconds of both, run as A B A B ..., and the median of the ratios first / second of neighbours.

    `before` is called before each, and not timed.
    """

    def timed(function: Callable[[], object]) -> float:
        before()
        return seconds(function)

    pairs = [(timed(first), timed(second)) for _ in range(runs)]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)


@cache
def other_memory() -> Tensor:
    """More than the caches of a processor hold."""
    return torch.ones(2**26)


def empty_caches() -> None:
    """Read other memory, so that what is timed next does not pay for writing back what another one left in a cache."""
    other_memory().sum()


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def show(what: str, ratio: float, goal: float) -> None:
    """One figure beside its goal."""
    print(f"{what}: {ratio:.3f} (goal: at most {goal:g})", flush=True)
