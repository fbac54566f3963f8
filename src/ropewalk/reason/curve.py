"""Accuracy against the number of samples that vote: means over random subsets of one pool (spec I2 of the paper)."""

import math
import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from ropewalk.reason.vote import vote

SIZES = (1, 2, 5, 10, 20, 40)
DRAWS = 10  # subsets of a pool


class Pool(NamedTuple):
    """All samples of one problem in the order in which they were drawn, and what is right."""

    answers: Sequence[str | None]
    truth: str


def sizes(samples: int) -> list[int]:
    """How many samples vote at the points of the curve."""
    return sorted({n for n in SIZES if n < samples} | {samples})


def curve(pools: Sequence[Pool], seed: int = 0, draws: int = DRAWS) -> list[dict[str, Any]]:
    """[{n, accuracy, se, problems_se}] up to the smallest pool.

    For every n each pool is voted on in `draws` random subsets without replacement, in the order of its samples, or in
    all subsets where they are few: one sample is the mean over all. `se` is the standard error that comes from the
    choice of subsets, 0 where none was chosen; `problems_se` the one from the problems, None if there is but one.
    """
    samples = min(len(pool.answers) for pool in pools)
    return [point(pools, n, random.Random(f"{seed} {n}"), draws) for n in sizes(samples)]


def point(pools: Sequence[Pool], n: int, rng: random.Random, draws: int) -> dict[str, Any]:
    """The curve at n samples."""
    means, variances = list[float](), list[float]()
    for pool in pools:
        chosen = subsets(len(pool.answers), n, rng, draws)
        right = [vote([pool.answers[i] for i in some]).winner == pool.truth for some in chosen]
        mean = sum(right) / len(right)
        means.append(mean)
        every = len(chosen) == math.comb(len(pool.answers), n)
        variances.append(0.0 if every else mean * (1 - mean) / (len(right) - 1))
    count, mean = len(pools), sum(means) / len(pools)
    spread = math.sqrt(sum((x - mean) ** 2 for x in means) / (count - 1) / count) if count > 1 else None
    return {"n": n, "accuracy": mean, "se": math.sqrt(sum(variances)) / count, "problems_se": spread}


def subsets(size: int, n: int, rng: random.Random, draws: int) -> list[tuple[int, ...]]:
    """All subsets of n of so many, if they are not more than the draws or the pool; else so many random ones."""
    if math.comb(size, n) <= max(draws, size):
        return list(combinations(range(size), n))
    return [tuple(sorted(rng.sample(range(size), n))) for _ in range(draws)]
