import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.reason.vote import vote

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


@pytest.mark.parametrize(("right", "expected"), [(0.6, 0.68256), (0.4, 0.31744)])
def test_many_votes_help_only_who_is_right_more_often_than_not(right: float, expected: float) -> None:
    """Five samples with one rival answer: the exact binomial tail; four standard errors of 20,000 draws are 0.0132."""
    draw = random.Random(0)
    trials = [vote("yes" if draw.random() < right else "no" for _ in range(5)).winner for _ in range(20_000)]
    assert trials.count("yes") / len(trials) == pytest.approx(expected, abs=0.0132)
