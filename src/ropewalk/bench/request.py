"""What `ropewalk bench` is asked to compare."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from ropewalk.bench.attentions import ATTEND, ENCODINGS
from ropewalk.bench.case import BACKWARD, BOTH, FORWARD, Case
from ropewalk.bench.contestants import ROTATE
from ropewalk.errors import ConfigError, require

WHAT = ("rotate", "attend", "all")
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("bthd", "bhtd")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class BenchRequest:
    """Everything that `ropewalk bench` can be told."""

    what: str = "rotate"
    heads: int = 32
    kv_heads: int = 8
    lengths: tuple[int, ...] = (4096,)
    dims: tuple[int, ...] = (128,)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    biases: tuple[str, ...] = tuple(ENCODINGS)
    gradients: bool = False  # the way back as well
    layout: str = "bthd"
    device: str = "cpu"
    only: tuple[str, ...] = ()  # the contestants, all if none is named; what they are divided by always runs
    repeats: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.what in WHAT, "what to compare", f"one of {', '.join(WHAT)}", self.what)
        for option in ("heads", "kv_heads", "repeats"):
            require(getattr(self, option) > 0, f"--{option.replace('_', '-')}", "at least 1", getattr(self, option))
        require(self.heads % self.kv_heads == 0, "--heads", f"a multiple of --kv-heads {self.kv_heads}", self.heads)
        for option, kind in (("--length", self.lengths), ("--dim", self.dims)):
            require(len(kind) > 0 and min(kind) > 0, option, "positive numbers, separated by commas", kind)
        require(all(d % 2 == 0 for d in self.dims), "--dim", "even", self.dims)
        known = {"--dtype": (self.dtypes, DTYPES), "--bias": (self.biases, tuple(ENCODINGS))}
        for option, (given, words) in known.items():
            require(len(given) > 0 and set(given) <= set(words), option, f"among {', '.join(words)}", ",".join(given))
        require(self.layout in LAYOUTS, "--layout", f"one of {', '.join(LAYOUTS)}", self.layout)
        require(self.device in DEVICES, "--device", f"one of {', '.join(DEVICES)}", self.device)
        everybody = dict.fromkeys(c.name for c in (*ROTATE, *ATTEND))
        for name in self.only:
            require(name in everybody, "--only", f"among {'; '.join(everybody)}", name)
        there = self.device == "cpu" or torch.cuda.is_available()
        require(there, "--device", "cpu where PyTorch finds no GPU", self.device)

    def cases(self) -> Iterator[Case]:
        """Every comparison that is asked for."""
        sizes = list(product(self.lengths, self.dims, self.dtypes))
        for length, dim, dtype in sizes if self.what in ("rotate", "all") else []:
            for stage in (FORWARD, BACKWARD) if self.gradients else (FORWARD,):
                yield Case("rotate", stage, "", *self.shape(length, dim), dtype, self.layout, self.device)
        for bias, (length, dim, dtype) in product(self.biases, sizes) if self.what in ("attend", "all") else []:
            for stage in (FORWARD, BOTH) if self.gradients else (FORWARD,):
                yield Case("attend", stage, bias, *self.shape(length, dim), dtype, self.layout, self.device)

    def shape(self, length: int, dim: int) -> tuple[int, int, int, int]:
        return self.heads, self.kv_heads, length, dim


def listed(option: str, text: str, kind: Callable[[str], Any] = str) -> tuple[Any, ...]:
    """The values of a list like "4096,16384". Raises ConfigError, naming the option, where one is of another kind."""
    try:
        return tuple(kind(word.strip()) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} must be whole numbers separated by commas, got {text!r}") from None
