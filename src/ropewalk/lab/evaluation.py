"""Held-out text read at several lengths, and the protocols that are views of what was read.

Two readings of a stream are stored, one loss in nats per token; a protocol is arithmetic on them.

- "windows": the stream is cut into texts of the length, and each token is predicted from those before it in its text.
  Entry i is the loss of token i + 1, whatever the length: tokens are the same at all lengths, and so is their number.
- "sliding": a stretch of the stream, each run of `stride` tokens predicted at the end of a text of the length.
  Entry i is the loss of token `longest` + i + 1.

Letters: B batch, T tokens.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ropewalk.errors import require
from ropewalk.evaluate.metrics.perplexity import RUN, Losses, Mean, mean
from ropewalk.lab.data import windows
from ropewalk.lab.model import Decoder, losses

BATCH = 8192  # tokens of a call, where a text is not longer
LAST = RUN  # tokens of a fixed target
WINDOWS, SLIDING = "windows", "sliding"
NONOVERLAPPING, FIXED = "nonoverlapping", "fixed target"
PROTOCOLS = (NONOVERLAPPING, SLIDING, FIXED)


class Plan(NamedTuple):
    """What is read."""

    train_length: int
    times: int  # the longest text, in trained lengths: a power of two
    tokens: int  # of the stream that are predicted, a multiple of the longest text

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the texts, from the trained one to the longest, each twice the one before."""
        return tuple(self.train_length * 2**n for n in range(self.times.bit_length()))

    @property
    def longest(self) -> int:
        return self.train_length * self.times

    @property
    def stride(self) -> int:
        """Tokens that a sliding text is moved by: half a trained length."""
        return max(self.train_length // 2, 1)

    @property
    def slid(self) -> int:
        """Tokens that sliding texts predict: a 32nd of the stream, whole strides, at least one."""
        return max(self.tokens // 32 // self.stride, 1) * self.stride

    @property
    def needed(self) -> int:
        """Tokens of the stream that are read at all."""
        return max(self.tokens, self.longest + self.slid) + 1

    def cost(self, reading: str, length: int) -> int:
        """Tokens that a reading takes through the model."""
        return self.tokens if reading == WINDOWS else self.slid // self.stride * length

    def described(self) -> dict[str, str]:
        """Every protocol in words."""
        n, s, last = self.tokens, self.stride, self.last
        slid = f"{self.slid:,} tokens, each in the last {s} of a text that moves by {s}"
        return {
            NONOVERLAPPING: f"{n:,} tokens cut into texts that do not overlap; all tokens of a text count",
            SLIDING: f"{slid}: its context is at least the length less {s}",
            FIXED: f"the same {n // self.longest * last:,} tokens at every length: the last {last} of every "
            f"{self.longest:,}, after ever more context",
        }

    @property
    def last(self) -> int:
        """Tokens of a fixed target: 64, and no more than half a trained length."""
        return min(LAST, self.stride)


@torch.inference_mode()
def read(model: Decoder, stream: Tensor, plan: Plan, reading: str, length: int, tell: Callable[[int], None]) -> Losses:
    """The losses of a reading of `stream` (Int[N]) in texts of `length` tokens; `tell` hears how many tokens are read.

    Raises ConfigError where an encoding has no place for so many tokens.
    """
    require(len(stream) >= plan.needed, "the held-out stream", f"of at least {plan.needed} tokens", len(stream))
    if reading == WINDOWS:
        begin, kept = torch.tensor(range(0, plan.tokens, length)), length
    else:
        ends = range(plan.longest + plan.stride, plan.longest + plan.slid + 1, plan.stride)
        begin, kept = torch.tensor(ends) - length, plan.stride
    found = list[Tensor]()
    for some in begin.split(max(1, BATCH // length)):
        ids, targets = windows(stream, some, length)
        found.append(losses(model, ids, targets[:, -kept:]))
        tell(ids.numel())
    return torch.cat(found).flatten().numpy()


def view(readings: Mapping[str, Losses], protocol: str, plan: Plan) -> Losses | None:
    """The losses that a protocol counts, of the readings at one length; None where that reading is not there."""
    stored = readings.get(SLIDING if protocol == SLIDING else WINDOWS)
    if stored is None or protocol != FIXED:
        return stored
    return stored.reshape(-1, plan.longest)[:, -plan.last :].ravel()


def pooled(losses: Losses, plan: Plan, protocol: str) -> Mean:
    """The mean, its error taken from runs of neighbouring tokens: 64, or those of a fixed target."""
    if protocol == FIXED and plan.last != RUN:
        runs = losses.reshape(-1, plan.last).mean(axis=1, dtype=np.float64)
        se = float(runs.std(ddof=1) / math.sqrt(len(runs))) if len(runs) > 1 else math.inf
        return Mean(float(losses.mean(dtype=np.float64)), se, len(losses))
    return mean(losses)


def edges(plan: Plan) -> list[int]:
    """Where the blocks of a curve by position begin and end: a quarter of the trained length each."""
    size = max(plan.train_length // 4, 1)
    return list(range(0, plan.longest + 1, size))


def by_position(losses: Losses, plan: Plan) -> dict[str, list[Any]]:
    """{edges, loss, se}: the mean loss of each block of positions in the longest texts, and its standard error.

    The error is taken over those texts; None where there is but one.
    """
    texts = losses.reshape(-1, plan.longest).astype(np.float64)
    blocks = [texts[:, a:b].mean(axis=1) for a, b in pairwise(edges(plan))]
    errors = [float(b.std(ddof=1) / math.sqrt(len(b))) if len(b) > 1 else None for b in blocks]
    return {"edges": edges(plan), "loss": [float(b.mean()) for b in blocks], "se": errors}
