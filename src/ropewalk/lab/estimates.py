"""Means over tokens and seeds, with the interval that both deserve."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ropewalk.evaluate.metrics.accuracy import Z95, wilson
from ropewalk.evaluate.metrics.perplexity import Losses
from ropewalk.lab.evaluation import Plan, pooled

# two-sided 95 % quantiles of Student's t with 1, 2, ... degrees of freedom
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Estimate(NamedTuple):
    """A mean in nats per token, with its 95 % interval; what is None is not known."""

    loss: float
    se: float | None  # from runs of neighbouring tokens, of the mean over seeds
    seed_se: float | None  # from the spread between seeds
    low: float | None
    high: float | None
    tokens: int
    seeds: int

    def told(self) -> dict[str, Any]:
        return self._asdict()


def estimate(by_seed: Sequence[Losses], plan: Plan, protocol: str) -> Estimate:
    """Of the same tokens under each of some seeds: losses, or differences of losses of two encodings."""
    stacked = np.stack(by_seed).astype(np.float64)
    whole, seeds = pooled(stacked.mean(axis=0), plan, protocol), len(by_seed)
    se = whole.se if math.isfinite(whole.se) else None
    between = float(stacked.mean(axis=1).std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else None
    half = None
    if se is not None:
        half = math.hypot(Z95 * se, student(seeds - 1) * between if between is not None else 0.0)
    low, high = (None, None) if half is None else (whole.loss - half, whole.loss + half)
    return Estimate(whole.loss, se, between, low, high, whole.tokens, seeds)


def described(by_seed: Sequence[Losses], home: Sequence[Losses] | None, plan: Plan, protocol: str) -> dict[str, Any]:
    """An estimate as documents have it, with its perplexity, and the ratio of that to the one at the trained length."""
    found = estimate(by_seed, plan, protocol)
    ratio = None if home is None else math.exp(found.loss - estimate(home, plan, protocol).loss)
    return found.told() | {"perplexity": math.exp(found.loss), "ratio": ratio}


def rate(shares: Sequence[float], n: int) -> dict[str, Any]:
    """{rate, low, high, n, seeds, each}: the mean of what was right of `n` problems, one share per seed, as 95 %.

    The interval is the wider of two: of the n problems, which all seeds are asked (Wilson; for shares of tokens it is
    wider than need be, as tokens of one answer may hang together), and of the seeds (Student).
    """
    seeds, mean = len(shares), sum(shares) / len(shares)
    low, high = wilson(round(mean * n), n)[2:]
    if seeds > 1:
        spread = math.sqrt(sum((x - mean) ** 2 for x in shares) / (seeds - 1) / seeds) * student(seeds - 1)
        low, high = min(low, max(mean - spread, 0.0)), max(high, min(mean + spread, 1.0))
    return {"rate": mean, "low": low, "high": high, "n": n, "seeds": seeds, "each": list(shares)}


def student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t; beyond the table by the expansion of Fisher and Cornish."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The rank correlation of two sequences, equal values sharing their ranks."""
    x, y = (np.array(ranks(s)) for s in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


def ranks(values: Sequence[float]) -> list[float]:
    """From 1 on; equal values share the mean of theirs."""
    return [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]
