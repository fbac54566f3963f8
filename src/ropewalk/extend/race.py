"""Candidates read the search document in turn; one that is clearly out stops where it stands."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ropewalk.evaluate.document import attached
from ropewalk.evaluate.forward import Trunk, token_losses
from ropewalk.evaluate.metrics.perplexity import RUN, Losses, Mean, mean, paired
from ropewalk.extend.candidates import Candidate
from ropewalk.spectrum import for_length

CLEAR = 3.0  # standard errors of a paired difference
EVEN = math.log1p(0.01)  # nats: less is no reason to prefer one scaling to another
LEAST = 4 * RUN  # tokens before a difference can be judged


@dataclass(frozen=True)
class Track:
    """What is read: where the trained window ends, where the document ends, and what a candidate may cost."""

    window: int
    target: int
    price: float  # the largest accepted rise of perplexity inside the window, as a share: 0.04 is 4 %

    @property
    def tail(self) -> int:
        """The first token that the truncated reading is scored on: half a window or more lies before it."""
        return self.target - self.window // 2


class Reading(NamedTuple):
    """Losses of the tokens from position `first` on, and how the reading ended: "" at the end of the document."""

    losses: Losses
    first: int = 1
    outcome: str = ""
    reason: str = ""

    def between(self, start: int, end: int) -> Losses:
        """The losses of the tokens at positions start to end - 1, as far as they were read."""
        return self.losses[max(start - self.first, 0) : max(end - self.first, 0)]


class Standing(NamedTuple):
    """What others have shown so far."""

    unmodified: Reading | None = None
    leader: Reading | None = None


def price_of(reading: Reading, unmodified: Reading, track: Track) -> Mean | None:
    """The paired difference inside the window, in nats; None while too little was read."""
    ours, theirs = (r.between(1, track.window) for r in (reading, unmodified))
    return paired(ours, theirs) if min(len(ours), len(theirs)) >= LEAST else None


def gap_to(reading: Reading, leader: Reading, track: Track) -> Mean | None:
    """The paired difference to the leader beyond the window, in nats; None while too little was read."""
    first = max(track.window, reading.first)
    ours, theirs = (r.between(first, track.target) for r in (reading, leader))
    return paired(ours, theirs) if min(len(ours), len(theirs)) >= LEAST else None


def judge(reading: Reading, standing: Standing, track: Track, role: str) -> Reading | None:
    """The reading with its outcome if it should stop, or None to go on.

    A candidate is out inside the window if it is clearly dearer than the price limit against the unmodified model;
    anything is out beyond the window if it is clearly behind the leader on the same tokens, and a candidate also if it
    clearly cannot be better by more than one percent.
    """
    if standing.unmodified is not None and role == "candidate":
        price = price_of(reading, standing.unmodified, track)
        if price and price.loss - CLEAR * price.se > math.log1p(track.price):
            return reading._replace(outcome="priced out", reason=f"{percent(price.loss)} dearer inside the window")
    if standing.leader is not None:
        gap = gap_to(reading, standing.leader, track)
        if gap and gap.loss - CLEAR * gap.se > 0:
            return reading._replace(outcome="behind", reason=f"{percent(gap.loss)} behind the leader beyond the window")
        if gap and role == "candidate" and gap.loss - CLEAR * gap.se > -EVEN:
            return reading._replace(outcome="no better", reason=f"cannot beat the leader by {percent(EVEN)}")
    return None


def percent(nats: float) -> str:
    """A difference of losses as a change of perplexity: "2.7 %"."""
    return f"{100 * math.expm1(nats):.1f} %"


def ranking(finished: Mapping[str, Reading], unmodified: Reading | None, track: Track) -> list[str]:
    """The affordable among readings of the whole document, lowest loss beyond the window first."""
    prices = {name: price_of(r, unmodified, track) if unmodified else None for name, r in finished.items()}
    able = [n for n, price in prices.items() if price is None or price.loss <= math.log1p(track.price)]
    return sorted(able, key=lambda n: mean(finished[n].between(track.window, track.target)).loss)


class Reader:
    """One model that reads documents under one candidate after another."""

    def __init__(self, model: Any, track: Track, note: Callable[[str], None], chunk: int) -> None:
        self.model, self.track, self.note, self.chunk = model, track, note, chunk

    def read(
        self, entrant: Candidate, ids: Tensor, stop: Callable[[Reading], Reading | None], seen: Callable[[int], None]
    ) -> Reading:
        """Read ids (Int[target]) until `stop` says how it ended; `seen` is told the tokens read.

        The truncated reading takes the last window alone, at positions from 0, and is scored on its second half.
        """
        truncated = entrant.role == "truncated"
        start = self.track.target - self.track.window if truncated else 0
        first = self.track.tail if truncated else 1
        trunk = Trunk(self.model, self.chunk, self.note)
        losses = np.empty(0, dtype=np.float32)
        reading = Reading(losses, first)
        with attached(self.model, for_length(entrant.encodings, len(ids) - start)):
            for part in token_losses(trunk, ids[start:]):
                losses = np.concatenate((losses, part.numpy()))
                seen(trunk.length)
                self.chunk = trunk.chunk
                reading = Reading(losses[first - start - 1 :], first)
                if (ended := stop(reading)) is not None:
                    return ended
        return reading
