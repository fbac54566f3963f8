"""What `ropewalk bench` is asked to compare."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from ropewalk.bench.attentions import ATTEND, ENCODINGS
from ropewalk.bench.case import BACKWARD, BOTH, FORWARD, Case, memory
from ropewalk.bench.contestants import ROTATE
from ropewalk.errors import ConfigError, require

WHAT = ("rotate", "attend", "all")
EVERYBODY = {"rotate": ROTATE, "attend": ATTEND}
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("bthd", "bhtd")
DEVICES = ("cpu", "cuda")
# query heads, key heads and channels where nothing is said: attention over more takes minutes on a few processor cores
SIZES = {"rotate": (32, 8, (128,)), "attend": (8, 8, (64,))}
TIMES = 8  # the size of its inputs that a rotation may take beside them, the float64 check included


@dataclass(frozen=True)
class BenchRequest:
    """Everything that `ropewalk bench` can be told."""

    what: str = "rotate"
    heads: int | None = None  # None for those of SIZES
    kv_heads: int | None = None  # as many as `heads`, where that is given
    lengths: tuple[int, ...] = (4096,)
    dims: tuple[int, ...] | None = None
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
            value = getattr(self, option)
            require(value is None or value > 0, f"--{option.replace('_', '-')}", "at least 1", value)
        for option, some in (("--length", self.lengths), ("--dim", self.dims)):
            told = None if some is None else ",".join(map(str, some))
            require(some is None or (len(some) > 0 and min(some) > 0), option, "at least 1 each", told)
        for what in self.whats():
            heads, kv_heads, dims = self.sizes(what)
            require(heads % kv_heads == 0, "--heads", f"a multiple of --kv-heads {kv_heads}", heads)
            require(all(d % 2 == 0 for d in dims), "--dim", "even", ",".join(map(str, dims)))
        known = {"--dtype": (self.dtypes, DTYPES), "--bias": (self.biases, tuple(ENCODINGS))}
        for option, (given, words) in known.items():
            require(len(given) > 0 and set(given) <= set(words), option, f"among {', '.join(words)}", ",".join(given))
        require(self.layout in LAYOUTS, "--layout", f"one of {', '.join(LAYOUTS)}", self.layout)
        require(self.device in DEVICES, "--device", f"one of {', '.join(DEVICES)}", self.device)
        everybody = dict.fromkeys(c.name for what in self.whats() for c in EVERYBODY[what])
        for name in self.only:
            require(name in everybody, "--only", f"among {', '.join(everybody)}", name)
        there = self.device == "cpu" or torch.cuda.is_available()
        require(there, "--device", "cpu where PyTorch finds no GPU", self.device)
        self.check_memory()

    def check_memory(self) -> None:
        """Raise ConfigError, naming a length, where the largest case does not fit."""
        most = max(self.cases(), key=Case.size)
        size, there = TIMES * most.size() / 1e9, memory(self.device) / 1e9
        rule = f"less: the comparison takes up to {size:,.0f} GB and there are {there:,.0f} GB of memory"
        require(size < there, "--length", rule, most.length)

    def whats(self) -> tuple[str, ...]:
        """What is compared."""
        return WHAT[:2] if self.what == "all" else (self.what,)

    def sizes(self, what: str) -> tuple[int, int, tuple[int, ...]]:
        """Query heads, key heads and channels of a head."""
        heads, kv_heads, dims = SIZES[what]
        if self.heads is not None:
            heads, kv_heads = self.heads, self.heads
        return heads, self.kv_heads or kv_heads, self.dims or dims

    def cases(self) -> Iterator[Case]:
        """Every comparison that is asked for."""
        for what in self.whats():
            heads, kv_heads, dims = self.sizes(what)
            back = BACKWARD if what == "rotate" else BOTH
            stages = (FORWARD, back) if self.gradients else (FORWARD,)
            biases = ("",) if what == "rotate" else self.biases
            for bias, length, dim, dtype, stage in product(biases, self.lengths, dims, self.dtypes, stages):
                yield Case(what, stage, bias, heads, kv_heads, length, dim, dtype, self.layout, self.device)


def listed(option: str, text: str, kind: Callable[[str], Any] = str) -> tuple[Any, ...]:
    """The values of a list like "4096,16384". Raises ConfigError, naming the option, where one is of another kind."""
    try:
        return tuple(kind(word.strip()) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} must be whole numbers separated by commas, got {text!r}") from None
