"""Perplexity of the tokens that need the far context, and weights for training on them. Fang et al. 2024,
arXiv:2410.23771 (LongPPL, LongCE).

A strong model reads every token twice, with all of its context ("long") and with the nearest few thousand tokens
("short").  Both readings are losses in nats, one per token, in the same order.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import require
from ropewalk.evaluate.metrics.perplexity import Losses, Window, mean

Keys = NDArray[np.bool_]


def short_readings(tokens: int, context: int = 4096, stride: int = 1024) -> Iterator[Window]:
    """The windows of the short reading: `stride` tokens are scored in each, after `context` to context + stride - 1.

    The first `context` tokens are scored in none. The defaults are those of the authors' release.
    """
    require(context > 0, "short_readings.context", "positive", context)
    require(stride > 0, "short_readings.stride", "positive", stride)
    for begin in range(0, tokens - context, stride):
        yield Window(begin, min(begin + context + stride, tokens), begin + context)


def gain(long: Losses, short: Losses) -> NDArray[np.floating[Any]]:
    """Nats that the far context saves on each token. Raises ConfigError unless both readings are equally long."""
    require(long.shape == short.shape, "readings", "equally long", (long.shape, short.shape))
    return short - long


def key_tokens(long: Losses, short: Losses, alpha: float = 2.0, beta: float = -2.0) -> Keys:
    """The tokens that gain more than `alpha` nats and whose log probability in the long reading is above `beta`."""
    return (gain(long, short) > alpha) & (-long > beta)


def long_perplexity(losses: Losses, keys: Keys) -> float | None:
    """Perplexity of the evaluated model, reading all of the context, over the key tokens alone; None without any."""
    require(losses.shape == keys.shape, "losses", "as many as the key tokens' flags", (losses.shape, keys.shape))
    return mean(losses[keys]).perplexity if keys.any() else None


def training_weights(long: Losses, short: Losses, gamma: float = 5.0) -> NDArray[np.floating[Any]]:
    """LongCE's weight of each token's loss: exp(gain), at most `gamma`."""
    require(gamma > 0, "training_weights.gamma", "above 0", gamma)
    # bounded before the exponential, which would overflow
    return np.exp(np.minimum(gain(long, short), math.log(gamma)))
