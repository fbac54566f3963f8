import math
import random
from itertools import combinations

import pytest

from ropewalk.evaluate.metrics.accuracy import wilson
from ropewalk.reason.curve import Pool, curve, sizes
from ropewalk.reason.paired import difference
from ropewalk.reason.vote import vote

POOLS = [
    Pool(["7", "8", "7", None, "9", "7", "8", "7"], "7"),
    Pool(["1", "2", "2", "3", "2", "1", None, "1"], "1"),
    Pool(["5", "4", "4", "4", "4", "4", "4", "4"], "5"),
]


def whole(pool: Pool, n: int) -> float:
    """The mean over every subset of n."""
    every = list(combinations(pool.answers, n))
    return sum(vote(some).winner == pool.truth for some in every) / len(every)


def test_one_sample_is_the_mean_over_all_and_the_last_point_the_vote_over_all() -> None:
    found = curve(POOLS)
    assert [p["n"] for p in found] == [1, 2, 5, 8]
    assert found[0]["accuracy"] == pytest.approx((4 / 8 + 3 / 8 + 1 / 8) / 3)
    assert found[-1]["accuracy"] == pytest.approx(sum(vote(p.answers).winner == p.truth for p in POOLS) / 3)
    assert found[0]["se"] == found[-1]["se"] == 0


def test_the_standard_error_tells_how_far_random_subsets_are_from_all_subsets() -> None:
    exact = sum(whole(pool, 5) for pool in POOLS) / 3
    drawn = [curve(POOLS, seed)[2] for seed in range(120)]
    gaps = [p["accuracy"] - exact for p in drawn]
    root = math.sqrt(sum(g * g for g in gaps) / len(gaps))
    told = math.sqrt(sum(p["se"] ** 2 for p in drawn) / len(drawn))
    # the root of 120 squares is known to one part in sqrt(240); four of those
    assert told == pytest.approx(root, rel=4 / math.sqrt(240))
    assert told > 0.03


def test_draws_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert curve(POOLS, 3) == curve(POOLS, 3)
    assert len({p["accuracy"] for p in (curve(POOLS, seed)[1] for seed in range(20))}) > 1


def test_the_error_over_problems_is_that_of_their_mean() -> None:
    means = [whole(pool, 8) for pool in POOLS]
    mean = sum(means) / 3
    expected = math.sqrt(sum((x - mean) ** 2 for x in means) / 2 / 3)
    assert curve(POOLS)[-1]["problems_se"] == pytest.approx(expected)
    assert curve(POOLS[:1])[-1]["problems_se"] is None


def test_points_go_up_to_the_pool() -> None:
    assert sizes(40) == [1, 2, 5, 10, 20, 40]
    assert sizes(12) == [1, 2, 5, 10, 12]
    assert sizes(1) == [1]


def test_a_paired_difference_is_that_of_its_table() -> None:
    """Cells 20, 12, 2 and 16 of 50, in plain arithmetic: phi = (20 * 16 - 12 * 2 - 25) / sqrt(32 * 18 * 22 * 28)."""
    first = [True] * 32 + [False] * 18
    second = [True] * 20 + [False] * 12 + [True] * 2 + [False] * 16
    found = difference(first, second)
    assert found[:4] == (12, 2, 50, pytest.approx(0.2))
    phi = 271 / math.sqrt(32 * 18 * 22 * 28)
    one, other = wilson(32, 50), wilson(22, 50)
    below = [0.64 - one.low, other.high - 0.44]
    above = [one.high - 0.64, 0.44 - other.low]
    reach = [math.sqrt(a * a - 2 * phi * a * b + b * b) for a, b in (below, above)]
    assert (found.low, found.high) == (pytest.approx(0.2 - reach[0]), pytest.approx(0.2 + reach[1]))
    # tied together, two shares are known to differ better than apart
    assert found.high - found.low < math.hypot(*below) + math.hypot(*above)


def test_a_paired_difference_covers_the_truth_and_turns_with_its_sign() -> None:
    draw = random.Random(0)
    covered = 0
    for _ in range(400):
        hard = [draw.random() for _ in range(30)]
        first, second = ([h < x for h in hard] for x in (0.6, 0.4))
        found, back = difference(first, second), difference(second, first)
        assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
        covered += found.low <= 0.2 <= found.high
    # 95 % of 400 and four standard errors
    assert covered >= 400 * 0.95 - 4 * math.sqrt(400 * 0.95 * 0.05)


def test_a_difference_of_nothing_is_unknown() -> None:
    assert difference([], [])[3:] == (0.0, -1.0, 1.0)
    same = difference([True] * 10, [True] * 10)
    assert same.low < 0 == same.difference < same.high
