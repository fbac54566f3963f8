"""Vectors of the evaluation's definitions that are not perplexities of a plan: votes, key tokens and their weights."""

from typing import Any

import numpy as np

from ropewalk.evaluate.metrics import longppl
from ropewalk.evaluate.metrics.perplexity import Losses, mean
from ropewalk.reason.vote import vote
from vectors.reading import FLOAT64, Handlers, Read


def losses(i: Read, name: str) -> Losses:
    """Log probabilities of the file as losses."""
    return -np.array(i[name], dtype=np.float64)


def long_perplexity(p: Read, i: Read) -> list[Any]:
    keys = longppl.key_tokens(losses(i, "logp_long"), losses(i, "logp_short"), p["alpha"], p["beta"])
    evaluated = losses(i, "logp_eval")
    return [longppl.long_perplexity(evaluated, keys), int(keys.sum()), mean(evaluated).perplexity]


def weights(p: Read, i: Read) -> list[float]:
    return longppl.training_weights(losses(i, "logp_long"), losses(i, "logp_short"), p["gamma"]).tolist()


HANDLERS: Handlers = {
    "self_consistency_vote": (lambda p, i: [list(vote(case)) for case in i["cases"]], 0),
    "longppl": (long_perplexity, FLOAT64),
    "longce_weights": (weights, FLOAT64),
}
