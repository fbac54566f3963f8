"""Self-consistency: the answer that most chains of thought arrive at. Wang et al. 2022, arXiv:2203.11171."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Vote(NamedTuple):
    """The answer that won, None if nobody answered, and how many samples gave it."""

    winner: str | None
    votes: int


def vote(answers: Iterable[str | None]) -> Vote:
    """The most frequent answer, each already in its normal form; None stands for a sample without one and has no vote.

    Of equally frequent answers the one that was given first wins.
    """
    # most_common keeps the order of first occurrence among equals
    ranking = Counter(answer for answer in answers if answer is not None).most_common(1)
    return Vote(*ranking[0]) if ranking else Vote(None, 0)
