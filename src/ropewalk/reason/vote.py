"""Self-consistency: the answer that most chains of thought arrive at. Wang et al. 2022, arXiv:2203.11171."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from ropewalk.errors import require

TIES = ("first", "random", "max_logprob")


class Vote(NamedTuple):
    """The answer that won, None if nobody answered, and how many samples gave it (or the sum of their weights)."""

    winner: str | None
    votes: float


class Tie(NamedTuple):
    """Which of the answers with equally many votes wins."""

    rule: str = "first"  # the one that was given first; "random"; "max_logprob": that of the likeliest sample
    seed: int = 0  # of "random"
    logprobs: Sequence[float] = ()  # of "max_logprob", one for each sample


FIRST = Tie()


def vote(answers: Sequence[str | None], weights: Sequence[float] | None = None, tie: Tie = FIRST) -> Vote:
    """The answer with most votes, each already in its normal form; None is a sample without one and has no vote.

    Every sample counts once, or as `weights` say. Weights have to be finite and not negative.
    """
    require(tie.rule in TIES, "Tie.rule", " or ".join(map(repr, TIES)), tie.rule)
    shares = tally(answers, weights)
    most = max(shares.values(), default=0)
    equals = [answer for answer, votes in shares.items() if votes == most]
    return Vote(chosen(equals, answers, tie), most) if equals else Vote(None, 0)


def tally(answers: Sequence[str | None], weights: Sequence[float] | None) -> dict[str, float]:
    """The votes of every answer, in the order in which they were first given."""
    given: dict[str, list[float]] = {}
    for answer, weight in zip(answers, [1] * len(answers) if weights is None else weights, strict=True):
        if answer is not None:
            given.setdefault(answer, []).append(weight)
    # fsum does not depend on the order of the samples; whole votes stay whole numbers
    return {answer: len(some) if weights is None else math.fsum(some) for answer, some in given.items()}


def chosen(equals: Sequence[str], answers: Sequence[str | None], tie: Tie) -> str:
    """One of the answers with equally many votes."""
    if tie.rule == "random":
        return random.Random(tie.seed).choice(equals)
    if tie.rule == "max_logprob":
        best = {e: max(x for a, x in zip(answers, tie.logprobs, strict=True) if a == e) for e in equals}
        return max(equals, key=lambda e: best[e])
    return equals[0]


def weights(logprobs: Sequence[float]) -> list[float]:
    """Probabilities for the logarithms of them, all divided by the greatest: no vote depends on a common factor.

    Of mean log-probabilities per token this is the paper's normalised weighting, of their sums the unnormalised one.
    """
    most = max(logprobs, default=0.0)
    return [math.exp(x - most) for x in logprobs]


def agreement(answers: Sequence[str | None]) -> float | None:
    """The share of those who answered that gave the winner: an estimate of confidence; None if nobody answered."""
    valid = sum(answer is not None for answer in answers)
    return vote(answers).votes / valid if valid else None


def settled(answers: Sequence[str | None], left: int, rule: str = "first") -> bool:
    """Whether the winner of the vote is certain, whatever `left` further samples answer.

    Under "first" an answer that draws level with the leader loses if it was given later, a new answer always. Under
    the other rules it may win, so that the leader must be out of reach. No vote at all is not a winner.
    """
    if left == 0:
        return True
    shares = tally(answers, None)
    if not shares:
        return False
    order, leader = list(shares), vote(answers).winner
    assert leader is not None
    for answer, votes in [*shares.items(), (None, 0)]:
        if answer == leader:
            continue
        later = answer is None or order.index(answer) > order.index(leader)
        needed = votes + left + (not (rule == "first" and later))
        if shares[leader] < needed:
            return False
    return True
