"""The rows of a run as one dict: what was found, what it costs, what to deploy. Nothing is measured here."""

import math
from collections.abc import Mapping
from typing import Any

from ropewalk.evaluate.metrics.accuracy import wilson
from ropewalk.evaluate.metrics.perplexity import Losses, Mean, mean, paired
from ropewalk.evaluate.run import Ledger, Row
from ropewalk.evaluate.tasks.passkey import Answer
from ropewalk.extend.candidates import Candidate
from ropewalk.extend.race import CLEAR, Reading, Track, price_of

BLOCK = 1024  # tokens a point of a curve stands for
CLIFF = math.log(1.1)  # nats: another reading of the same block does clearly better by a tenth of the perplexity

Figures = dict[str, Any]


def readings(ledger: Ledger, kind: str) -> dict[str, Reading]:
    """The readings of one stage by name."""
    return {r["name"]: Reading(ledger.losses(r), r["first"], r["outcome"], r["reason"]) for r in ledger.of(kind)}


def figures(m: Mean) -> Figures:
    """A mean loss with its 95 % interval and as a perplexity."""
    return {"loss": m.loss, "low": m.low, "high": m.high, "perplexity": m.perplexity, "tokens": m.tokens}


def difference(m: Mean | None) -> Figures | None:
    """A paired difference with its 95 % interval and as a change of perplexity."""
    if m is None or not math.isfinite(m.se):
        return None
    return {"nats": m.loss, "low": m.low, "high": m.high, "percent": 100 * math.expm1(m.loss), "tokens": m.tokens}


def mean_between(reading: Reading, start: int, end: int) -> Figures | None:
    losses = reading.between(start, end)
    found = mean(losses) if len(losses) else None
    return figures(found) if found and math.isfinite(found.se) else None


def against(reading: Reading, other: Reading | None, start: int, end: int) -> Mean | None:
    """The paired difference over the tokens between start and end that both have."""
    if other is None:
        return None
    first = max(start, reading.first, other.first)
    ours, theirs = reading.between(first, end), other.between(first, end)
    return paired(ours, theirs) if min(len(ours), len(theirs)) else None


def blocks(reading: Reading, track: Track) -> list[Figures]:
    """The loss by position in blocks, as far as the reading went."""
    size = block_size(track)
    out = []
    for start in range(0, track.target, size):
        losses: Losses = reading.between(start, start + size)
        # a block that a reading began or ended in would be compared with whole ones
        if len(losses) >= size - 1:
            m = mean(losses)
            out.append(
                {"start": start, "end": start + size, "loss": m.loss, "se": m.se if math.isfinite(m.se) else 0.0}
            )
    return out


def block_size(track: Track) -> int:
    return min(BLOCK, max(track.target // 16, 1))


def race_figures(reading: Reading, row: Row, track: Track, passes: float, outcome: str) -> Figures:
    return {
        "native": mean_between(reading, 1, track.window),
        "beyond": mean_between(reading, track.window, track.target),
        "tokens": row["tokens"],
        "passes": passes,
        "seconds": row["seconds"],
        "outcome": outcome,
        "reason": reading.reason,
        "blocks": blocks(reading, track),
    }


def held_out_figures(
    all_of: Mapping[str, Reading], name: str, chosen: str | None, names: "Names", track: Track
) -> Figures:
    """One reading of the held-out text, and its differences to the others on the same tokens."""
    reading, w, end = all_of[name], track.window, track.target
    unmodified, truncated = all_of[names.unmodified], all_of.get(names.truncated)
    other = None if name == names.unmodified else unmodified
    best = all_of.get(chosen) if chosen and chosen != name else None
    return {
        "native": mean_between(reading, 1, w),
        "beyond": mean_between(reading, w, end),
        "price": difference(against(reading, other, 1, w)),
        "gain": difference(against(reading, other, w, end)),
        "against_truncated": difference(against(reading, truncated, w, end)) if name != names.truncated else None,
        "against_chosen": difference(against(reading, best, w, end)),
        "blocks": blocks(reading, track),
    }


class Names:
    """How the two baselines of a run are called."""

    def __init__(self, field: list[Candidate]) -> None:
        self.unmodified = next(c.name for c in field if c.role == "unmodified")
        self.truncated = next(c.name for c in field if c.role == "truncated")


def cliff(all_of: Mapping[str, Reading], name: str, track: Track) -> int | None:
    """Where the first block beyond the window begins in which another reading of the same tokens is clearly better by a
    tenth of the perplexity; None if there is none up to the target."""
    size = block_size(track)
    for start in range(track.window, track.target, size):
        for other in all_of:
            gap = against(all_of[name], all_of[other], start, start + size) if other != name else None
            if gap and gap.loss - CLEAR * gap.se > CLIFF:
                return start
    return None


def grids(ledger: Ledger, retrieval: str) -> Figures | None:
    """Found and asked by length and depth for every candidate that was asked."""
    rows = ledger.of(f"retrieval {retrieval}")
    answers = {name: answers_of(ledger, retrieval, name) for name in names_of(rows)}
    every = [a for given in answers.values() for a in given]
    if not every:
        return None
    lengths, depths = sorted({a.length for a in every}), sorted({a.depth for a in every})
    grid = {
        name: [[share([a for a in given if (a.length, a.depth) == (n, d)]) for d in depths] for n in lengths]
        for name, given in answers.items()
    }
    return {"task": retrieval.replace("-", " "), "lengths": lengths, "depths": depths, "grids": grid}


def names_of(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(r["name"] for r in rows))


def share(answers: list[Answer]) -> Figures:
    return wilson(sum(a.found for a in answers), len(answers))._asdict()


def total(ledger: Ledger, retrieval: str, name: str) -> Figures | None:
    given = answers_of(ledger, retrieval, name)
    return share(given) if given else None


def outcome(reading: Reading, role: str, name: str, finalists: list[str], priced_out: bool) -> str:
    """How the race ended for one entrant, in the words of the report."""
    if role != "candidate":
        return "baseline"
    if name in finalists:
        return "finalist"
    return reading.outcome or ("priced out" if priced_out else "finished")


def helped(held_out: Figures | None, far: Figures | None, before: Figures | None) -> bool:
    """Whether a reading is clearly better than the unmodified model beyond the window, and than the last window alone.

    Against the latter it is enough not to be clearly worse on the same tokens, or to find keys that lie further back
    (`far`) clearly more often than the unmodified model does (`before`): the last window alone holds none of those.
    """
    if held_out is None or held_out["gain"] is None or held_out["gain"]["high"] >= 0:
        return False
    rival = held_out["against_truncated"]
    reaches = bool(far and before and far["asked"] and far["low"] > before["found"] / max(before["asked"], 1))
    return rival is None or rival["low"] <= 0 or reaches


def far_keys(ledger: Ledger, retrieval: str, name: str, window: int) -> Figures | None:
    """Of the keys that lie more than a window before the question, how many were found."""
    given = answers_of(ledger, retrieval, name)
    return share([a for a in given if a.length - a.position > window]) if given else None


def answers_of(ledger: Ledger, retrieval: str, name: str) -> list[Answer]:
    return [Answer(*a) for r in ledger.of(f"retrieval {retrieval}", name) for a in r["answers"]]


def is_dearer(reading: Reading, unmodified: Reading, track: Track) -> bool:
    price = price_of(reading, unmodified, track)
    return price is not None and price.loss > math.log1p(track.price)
