import math
import random
from collections import Counter
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import ConfigError
from ropewalk.reason.vote import TIES, Tie, agreement, settled, vote, weights

answers = st.lists(st.sampled_from(["7", "8", "9", None]), max_size=12)


@given(answers)
def test_the_winner_has_most_votes_and_was_first_among_equals(given_answers: list[str | None]) -> None:
    winner, votes = vote(given_answers)
    counts = {a: given_answers.count(a) for a in given_answers if a is not None}
    assert votes == max(counts.values(), default=0)
    assert winner == next((a for a in given_answers if a is not None and counts[a] == votes), None)


@given(answers)
def test_a_sample_without_an_answer_changes_nothing(given_answers: list[str | None]) -> None:
    assert vote([None, *given_answers, None]) == vote(given_answers)


def closed_form(n: int, p: Fraction) -> Fraction:
    """P(the vote is right): the binomial tail, and half of a tie, for the first answer is either with equal chance."""
    tail = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n // 2 + 1, n + 1))
    half = n // 2
    return tail + (Fraction(math.comb(n, half), 2) * p**half * (1 - p) ** half if n % 2 == 0 else 0)


@pytest.mark.parametrize("p", [Fraction(3, 5), Fraction(1, 2), Fraction(2, 7)])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_with_one_rival_answer_the_vote_follows_the_closed_form_exactly(n: int, p: Fraction) -> None:
    """Every sequence of n samples with its probability, in fractions."""
    right = Fraction(0)
    for cast in product(("yes", "no"), repeat=n):
        if vote(cast).winner == "yes":
            right += p ** cast.count("yes") * (1 - p) ** cast.count("no")
    assert right == closed_form(n, p)


def test_voting_makes_it_worse_for_who_is_wrong_more_often_than_not() -> None:
    better, worse = ([closed_form(n, p) for n in (1, 3, 9, 41)] for p in (Fraction(3, 5), Fraction(2, 5)))
    assert better == sorted(better)
    assert worse == sorted(worse, reverse=True)


def test_with_wrong_answers_that_all_differ_two_right_ones_are_enough() -> None:
    assert vote(["1", "2", "right", "3", "right", "4"]).winner == "right"


@given(answers)
def test_a_random_tie_is_among_the_most_frequent_and_the_same_for_a_seed(cast: list[str | None]) -> None:
    counts = Counter(a for a in cast if a is not None)
    most = {a for a, n in counts.items() if n == max(counts.values())}
    found = {vote(cast, tie=Tie("random", seed)).winner for seed in range(40)}
    assert found == (most or {None})
    assert vote(cast, tie=Tie("random", 3)) == vote(cast, tie=Tie("random", 3))


def test_the_likeliest_sample_breaks_a_tie_and_nothing_else() -> None:
    assert vote(["7", "8", "8", "7"], tie=Tie("max_logprob", logprobs=[-2.0, -0.5, -3.0, -1.0])).winner == "8"
    assert vote(["7", "8", "8", "7"], tie=Tie("max_logprob", logprobs=[-2.0, -2.5, -3.0, -0.1])).winner == "7"
    assert vote(["7", "8", "7"], tie=Tie("max_logprob", logprobs=[-2.0, 0.0, -2.0])).winner == "7"


def test_weights_count_as_probabilities_and_their_common_factor_not() -> None:
    logs = [math.log(0.2), math.log(0.5), math.log(0.2)]
    assert vote(["7", "8", "7"], weights(logs)).winner == "8"
    assert vote(["7", "8", "7"], weights([math.log(0.3), *logs[1:]])).winner == "8"
    assert vote(["7", "8", "7"], weights([math.log(0.31), *logs[1:]])).winner == "7"
    # so unlikely that probabilities themselves are zero
    assert vote(["7", "8", "7"], weights([x - 2000 for x in logs])).winner == "8"
    assert weights([]) == []


def test_weights_do_not_depend_on_the_order_of_the_samples() -> None:
    cast, each = ["7", "8"] * 3, [0.1, 0.3, 0.2, 0.2, 0.3, 0.1]
    shuffled = list(zip(cast, each, strict=True))
    random.Random(0).shuffle(shuffled)
    again = vote([a for a, _ in shuffled], [w for _, w in shuffled])
    assert again.votes == vote(cast, each).votes


def test_agreement_is_of_those_who_answered() -> None:
    assert agreement(["7", None, "8", "7", None]) == 2 / 3
    assert agreement([None]) is None


@pytest.mark.parametrize("rule", TIES)
def test_a_vote_is_settled_exactly_when_no_further_samples_can_turn_it(rule: str) -> None:
    """Every short vote, against every way in which the samples that are left may answer, also as nobody did yet."""
    outcomes = set[bool]()
    for cast in (list(c) for n in range(5) for c in product(("7", "8", None), repeat=n)):
        for left in (1, 2, 3):
            ends = product(("7", "8", "new", None), repeat=left)
            if rule == "first":
                winners = {vote([*cast, *end]).winner for end in ends}
            else:
                # among equals any may win
                winners = {a for end in ends for a in leaders([*cast, *end])}
            assert settled(cast, left, rule) == (len(winners) == 1), (cast, left)
            outcomes.add(settled(cast, left, rule))
        assert settled(cast, 0, rule)
    assert outcomes == {True, False}


def leaders(cast: list[str | None]) -> set[str | None]:
    counts = Counter(a for a in cast if a is not None)
    return {a for a, n in counts.items() if n == max(counts.values())} or {None}


@pytest.mark.parametrize("rule", TIES)
def test_a_vote_that_was_stopped_has_the_winner_of_the_whole(rule: str) -> None:
    stops, draw = 0, random.Random(1)
    for trial in range(400):
        cast = [draw.choice(["7", "7", "7", "8", "9", None]) for _ in range(12)]
        scores = [-draw.random() for _ in cast]
        seen = next(n for n in range(13) if settled(cast[:n], 12 - n, rule))
        stops += seen < 12
        short, whole = (vote(cast[:n], tie=Tie(rule, trial, scores[:n])).winner for n in (seen, 12))
        assert short == whole
    assert stops > 100


def test_an_unknown_tie_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Tie\.rule must be 'first' or 'random' or 'max_logprob', got 'last'"):
        vote(["7"], tie=Tie("last"))
