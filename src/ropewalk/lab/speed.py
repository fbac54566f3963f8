"""Tokens per second and peak memory of trained models, taken in turn in one process, so that load hits all alike."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.bench.measure import Work, in_turns, peaks
from ropewalk.errors import ConfigError
from ropewalk.lab.data import windows
from ropewalk.lab.model import Decoder, losses
from ropewalk.lab.train import DTYPES, Batch, adam, update

TRAIN, EVALUATE = "train", "evaluate"
STAGES = (TRAIN, EVALUATE)


class Pace(NamedTuple):
    """What is timed."""

    stage: str  # "train": a step; "evaluate": the losses of texts
    length: int
    tokens: int  # of a call, whole texts, at least one
    dtype: str  # of the products in training
    rounds: int

    @property
    def texts(self) -> int:
        return max(1, self.tokens // self.length)

    def seconds(self, reading: float, training: Mapping[str, float]) -> float:
        """About how many for one model, from those of a token."""
        each = reading if self.stage == EVALUATE else training[self.dtype] * (1 + self.length / 1024)
        return (self.rounds + 2) * self.texts * self.length * each


class Timed(NamedTuple):
    """The figures of one model."""

    tokens_per_second: float  # the median of all rounds
    low: float
    high: float
    peak_bytes: int | None  # beyond what is held between calls; None where the system does not tell


def time_all(
    models: Mapping[str, Decoder], stream: Tensor, pace: Pace, tell: Callable[[float], None]
) -> dict[str, Timed]:
    """The figures of all models that have a place for texts of the length; `tell` hears the share that is done."""
    begin = torch.tensor(range(0, pace.texts * pace.length, pace.length))
    given = Batch(*windows(stream, begin, pace.length))
    works = {name: work for name, model in models.items() if (work := prepared(model, given, pace)) is not None}
    calls = len(models) / max(len(works), 1) / (pace.rounds + 2)
    with torch.inference_mode(pace.stage == EVALUATE):
        found = in_turns(works, pace.rounds, "cpu", lambda _: tell(calls))
        held = peaks(works, "cpu")
    tokens = pace.texts * pace.length
    return {n: Timed(tokens / t.seconds, tokens / t.high, tokens / t.low, held[n]) for n, t in found.items()}


def prepared(model: Decoder, given: Batch, pace: Pace) -> Work | None:
    """What is timed; None where an encoding has no place for texts of that length."""
    try:
        with torch.inference_mode():
            model(given.ids[:1])
    except ConfigError:
        return None
    if pace.stage == EVALUATE:
        return Work(lambda: None, lambda _: losses(model, given.ids, given.targets))
    model.multiply_in(DTYPES[pace.dtype])
    optimiser = adam(model)
    # nothing is to be learned here
    for group in optimiser.param_groups:
        group["lr"] = 0.0

    def step(_: Any) -> Any:
        return update(model, optimiser, given)

    return Work(lambda: None, step)
