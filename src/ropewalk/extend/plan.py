"""What a run is asked to do, what it will read, and how long that takes on this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.attention.prefix import attend_prefix
from ropewalk.errors import require
from ropewalk.evaluate.forward import CHUNK, Trunk, prefix_attention

RETRIEVAL = ("named-keys", "passkey", "none")
METHODS = ("scalings", "all")
PROBE = 512  # tokens of a timed call
DEPTH = 16  # how many times as long the prefix of a timed attention is


@dataclass(frozen=True)
class ExtendRequest:
    """Everything that `ropewalk extend` can be told."""

    model: str
    to: int
    out: str
    text: str | None = None
    dataset: str | None = None
    method: str | None = None
    methods: str = "scalings"  # what competes; "all" takes distance rules and what follows the length as well
    price: float = 0.04  # the largest accepted rise of perplexity inside the trained window, as a share
    finalists: int = 2  # candidates that go on to held-out text
    retrieval: str = "named-keys"
    dtype: str = "bfloat16"
    chunk: int = CHUNK
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.to > 0, "--to", "a positive number of tokens", self.to)
        require(self.price > 0, "--price", "above 0", self.price)
        require(self.finalists > 0, "--finalists", "at least 1", self.finalists)
        require(self.retrieval in RETRIEVAL, "--retrieval", f"one of {', '.join(RETRIEVAL)}", self.retrieval)
        require(self.methods in METHODS, "--methods", f"one of {', '.join(METHODS)}", self.methods)
        require(self.chunk >= 32, "--chunk", "at least 32", self.chunk)


class Pace(NamedTuple):
    """Seconds of a pass over n tokens: linear * n + square * n ** 2."""

    linear: float
    square: float

    def seconds(self, tokens: float) -> float:
        return self.linear * tokens + self.square * tokens**2


class Item(NamedTuple):
    """One reading of the plan and the tokens it is expected to take."""

    stage: str
    name: str
    tokens: float


@torch.inference_mode()
def measure_pace(model: Any, ids: Tensor) -> Pace:
    """Time one call on an empty cache, and the attention of one layer to a long prefix: what a pass is made of."""
    config, n = model.config.get_text_config(), min(PROBE, len(ids) - 1)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    like = {"dtype": model.dtype, "device": model.device}
    q, k = torch.randn(1, heads, n, width, **like), torch.randn(1, groups, DEPTH * n, width, **like)
    pairs = n * n * (DEPTH - 0.5)
    layers = config.num_hidden_layers
    square = layers * fastest(lambda: attend_prefix(q, k, k, width**-0.5)) / pairs / 2
    with prefix_attention(model):
        call = fastest(lambda: list(Trunk(model, n).read(ids[:n])))
    return Pace(max(call / n - square * n, 0.0), square)


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the faster of two runs after a first one that warms up."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def expected(names: list[str], window: int, target: int, request: ExtendRequest) -> list[Item]:
    """What will be read if the race goes as it usually does; `names` are the entrants in the order of the race."""
    race = [Item("race", names[0], target), Item("race", names[1], 1.25 * window), Item("race", names[2], window)]
    race += [Item("race", name, 0.4 * window) for name in names[3:]]
    rounds = ["finalist 1", *(["finalist 2"] if request.finalists > 1 and not request.method else [])]
    held_out = [Item("held-out text", name, target) for name in [names[1], *rounds]]
    held_out.append(Item("held-out text", names[2], window))
    asked = 0 if request.retrieval == "none" else 2
    cost = 1.06 * target if request.retrieval == "named-keys" else 2.7 * target
    retrieval = [Item("retrieval", name, cost) for name in ("chosen", names[1])[:asked]]
    return [*([] if request.method else race), *held_out, *retrieval]


class Progress:
    """How much of the plan is done, in seconds of the pace; readings that end early shorten what is left."""

    def __init__(self, items: list[Item], pace: Pace) -> None:
        self.items, self.pace = items, pace
        self.left = sum(pace.seconds(i.tokens) for i in items)
        self.done = 0.0
        self.current = 0.0

    def at(self, tokens: int) -> float:
        """The share done when the current reading has reached `tokens`."""
        self.current = self.pace.seconds(tokens)
        return (self.done + self.current) / max(self.done + max(self.left, self.current), 1e-9)

    def close(self, stage: str) -> None:
        """The current reading is over: take the next expected one of its stage off what is left."""
        item = next((i for i in self.items if i.stage == stage), None)
        if item is not None:
            self.items.remove(item)
            self.left -= self.pace.seconds(item.tokens)
        self.done += self.current
        self.current = 0.0
