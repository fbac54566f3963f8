"""Views on the losses of one pass: prefix perplexity, loss by position, paired differences, windows.

A document of N tokens has N - 1 losses in nats: entry i is the loss of token i + 1, which has i + 1 tokens of context.
The first token has none.  Everything here is arithmetic on that array.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import require
from ropewalk.evaluate.metrics.accuracy import Z95

Losses = NDArray[np.floating[Any]]
RUN = 64  # neighbouring losses are not independent: errors are estimated from means of so many


class Mean(NamedTuple):
    """A mean in nats per token over `tokens`, with its standard error."""

    loss: float
    se: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def low(self) -> float:
        return self.loss - Z95 * self.se

    @property
    def high(self) -> float:
        return self.loss + Z95 * self.se


def span(losses: Losses, start: int, end: int) -> Losses:
    """The losses of the tokens at positions `start` to `end` - 1; token 0 has none."""
    return losses[max(start - 1, 0) : max(end - 1, 0)]


def mean(losses: Losses) -> Mean:
    """Token-weighted mean; the error comes from the spread of means over runs of 64 tokens (batch means)."""
    require(len(losses) > 0, "mean.losses", "at least one loss", len(losses))
    runs = len(losses) // RUN
    if runs < 2:
        return Mean(float(losses.mean()), math.inf, len(losses))
    means = losses[: runs * RUN].reshape(runs, RUN).mean(axis=1, dtype=np.float64)
    return Mean(float(losses.mean(dtype=np.float64)), float(means.std(ddof=1) / math.sqrt(runs)), len(losses))


def paired(losses: Losses, against: Losses) -> Mean:
    """Mean of the per-token difference over the tokens that both have."""
    both = min(len(losses), len(against))
    return mean(losses[:both].astype(np.float64) - against[:both].astype(np.float64))


def by_prefix(losses: Losses, lengths: Sequence[int]) -> list[float]:
    """Mean loss of the first n tokens for each n: what evaluating every prefix on its own would give.

    One array serves all lengths when the encoding does not depend on the served length.
    """
    total = np.concatenate(([0.0], np.cumsum(losses, dtype=np.float64)))
    for n in lengths:
        require(2 <= n <= len(losses) + 1, "by_prefix.length", f"from 2 to {len(losses) + 1}", n)
    return [float(total[n - 1] / (n - 1)) for n in lengths]


def by_position(losses: Losses, edges: Sequence[int]) -> list[Mean | None]:
    """Mean loss of the tokens in [edges[k], edges[k + 1]), by position; None for a block without losses."""
    blocks = [span(losses, a, b) for a, b in pairwise(edges)]
    return [mean(block) if len(block) else None for block in blocks]


class Window(NamedTuple):
    """Tokens [begin, end) are read at positions from 0; those from `scored` on are counted."""

    begin: int
    end: int
    scored: int


def windows(tokens: int, width: int, stride: int) -> Iterator[Window]:
    """The plan that counts every token once, each after the first window with at least width - stride of context.

    stride == width is the non-overlapping evaluation; stride 256 is that of PI (arXiv:2306.15595).
    """
    require(width > 0, "windows.width", "positive", width)
    require(0 < stride <= width, "windows.stride", f"from 1 to width = {width}", stride)
    counted = 0
    for begin in range(0, tokens, stride):
        end = min(begin + width, tokens)
        yield Window(begin, end, counted)
        counted = end
        if end == tokens:
            return
