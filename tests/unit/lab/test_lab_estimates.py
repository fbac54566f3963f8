"""Means, intervals and ranks, by hand."""

import math

import numpy as np
import pytest

from ropewalk.lab.estimates import estimate, ranks, spearman, student
from ropewalk.lab.evaluation import FIXED, NONOVERLAPPING, Plan

PLAN = Plan(128, 16, 65_536)


def test_one_seed_has_the_error_of_its_tokens() -> None:
    losses = np.repeat([1.0, 2.0, 6.0], 64)
    found = estimate([losses], PLAN, NONOVERLAPPING)
    assert (found.loss, found.tokens, found.seeds, found.seed_se) == (3.0, 192, 1, None)
    assert found.se == pytest.approx(math.sqrt(7 / 3))
    assert found.low == pytest.approx(3 - 1.959964 * math.sqrt(7 / 3), abs=1e-6)
    assert found.high == pytest.approx(3 + 1.959964 * math.sqrt(7 / 3))


def test_several_seeds_add_their_spread() -> None:
    losses = np.repeat([1.0, 2.0, 6.0], 64)
    found = estimate([losses, losses + 1, losses + 5], PLAN, FIXED)
    assert found.loss == 5.0
    assert found.se == pytest.approx(math.sqrt(7 / 3))
    assert found.seed_se == pytest.approx(math.sqrt(7 / 3))
    assert found.high is not None
    assert found.high - 5 == pytest.approx(math.sqrt(7 / 3) * math.hypot(1.959964, 4.303))


def test_too_few_tokens_have_no_interval() -> None:
    found = estimate([np.ones(100), np.zeros(100)], PLAN, NONOVERLAPPING)
    assert (found.loss, found.se, found.low, found.high) == (0.5, None, None, None)


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.303), (10, 2.228), (11, 2.201), (20, 2.086), (100, 1.984)]
)
def test_quantiles_of_student(freedom: int, value: float) -> None:
    assert student(freedom) == pytest.approx(value, abs=3e-3)


def test_ranks_share_ties() -> None:
    assert ranks([3.0, 1.0, 3.0, 7.0]) == [2.5, 1.0, 2.5, 4.0]
    assert spearman([1, 2, 3, 4], [10.0, 20.0, 30.0, 25.0]) == pytest.approx(0.8)
    assert spearman([1, 1, 2, 3], [5.0, 6.0, 7.0, 8.0]) == pytest.approx(3 / math.sqrt(10))
    assert spearman([1, 2, 3], [3.0, 2.0, 1.0]) == pytest.approx(-1)
