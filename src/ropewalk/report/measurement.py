"""What `ropewalk evaluate` has measured as tables and sentences; nothing is measured here."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ropewalk.report.style import Summary
from ropewalk.report.tables import NOTHING, both, change, mean, perplexity, share

DEPENDS = "positions depend on the length that is served, so each length had a pass of its own"


class Told(NamedTuple):
    """One table."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def tables(found: Summary) -> Iterator[Told]:
    """All tables of a document."""
    if found["kind"] == "lab":
        yield protocols(found)
        return
    yield from (reading(r) for r in found["readings"] if r["by_length"])
    if found["against"]:
        yield differences(found)
    if found["retrieval"]:
        yield retrieval(found["retrieval"])


def lines(found: Summary) -> Iterator[str]:
    """What is to be said under the tables."""
    yield from lab_lines(found) if found["kind"] == "lab" else pretrained_lines(found)


def spoken(m: Summary) -> str:
    """A perplexity with its interval, where there is one."""
    return perplexity(m["perplexity"]) if m["low"] is None else both(mean(m))


def reading(read: Summary) -> Told:
    """Perplexity by length of the text, and by position in it."""
    heads = ["tokens", "perplexity of the text so far", "of its tokens since the line above"]
    rows = [
        [f"{a['length']:,}", spoken(a), spoken(b)] for a, b in zip(read["by_length"], read["by_position"], strict=True)
    ]
    return Told(read["name"], heads, rows)


def differences(found: Summary) -> Told:
    """The first reading against the baselines, on the same tokens."""
    rows = [[x["name"], f"{x['start']:,} to {x['end']:,}", both(change(x))] for x in found["against"]]
    return Told(f"{found['readings'][0]['name']} against", ["", "tokens", "change of perplexity"], rows)


def retrieval(asked: Summary) -> Told:
    """Keys found, by how far back they lay."""
    rows = [[f"{x['start']:,} to {x['end'] - 1:,}", both(share(x))] for x in asked["by_distance"]]
    rows.append(["all", both(share(asked["total"]))])
    return Told(f"retrieval, {asked['task']}", ["tokens before the question", "keys found"], rows)


def pretrained_lines(found: Summary) -> Iterator[str]:
    """Where it ends, what was read, and how to take the figures."""
    first = found["readings"][0]
    if found["cliff"]:
        yield f"cliff at {found['cliff']:,} tokens: from there on a baseline reads the same tokens a tenth better"
    elif len(found["readings"]) > 1:
        yield f"no cliff up to {found['length']:,} tokens"
    if len(first["passes"]) > 1:
        yield f"{DEPENDS}: {', '.join(f'{n:,}' for n in first['passes'])}"
    yield f"{found['encoding']}, trained on {found['trained_length']:,} tokens"
    yield f"text: {found['text']}; intervals are 95 %"


def protocols(found: Summary) -> Told:
    """Perplexity by length under every protocol, and by position in the longest texts."""
    each, curve = found["losses"], by_octave(found)
    heads = ["tokens", *each, f"positions, in texts of {found['lengths'][-1]:,}"]
    rows = [[f"{n:,}", *(cell(e[i]) for e in each.values()), curve[i]] for i, n in enumerate(found["lengths"])]
    trained = "" if found["encoding"] == found["trained"] else f", trained with {found['trained']}"
    return Told(f"{found['encoding']}{trained}: perplexity", heads, rows)


def cell(entry: Summary) -> str:
    """A perplexity, its interval, and how many times that at the trained length it is."""
    if "loss" not in entry:
        return NOTHING
    times = "" if entry["ratio"] is None or entry["multiple"] == 1 else f"  x {entry['ratio']:.2f}"
    return f"{spoken(entry)}{times}"


def by_octave(found: Summary) -> list[str]:
    """Perplexity at the positions from one length to the next, from the blocks of the curve."""
    curve, lengths = found["by_position"], found["lengths"]
    if curve is None:
        return [NOTHING] * len(lengths)
    rows: list[str] = []
    for start, end in pairwise([0, *lengths]):
        inside = [loss for at, loss in zip(curve["edges"], curve["loss"], strict=False) if start <= at < end]
        rows.append(f"{start:,} to {end:,}: {perplexity(math.exp(sum(inside) / len(inside)))}")
    return rows


def lab_lines(found: Summary) -> Iterator[str]:
    """Why something is missing, what the protocols are, and what was read."""
    missing = {x["length"]: x["reason"] for each in found["losses"].values() for x in each if "reason" in x}
    yield from (f"{length:,} tokens: {reason}" for length, reason in missing.items())
    yield from (f"{name}: {words}" for name, words in found["protocols"].items())
    yield f"intervals are 95 %; x: times the perplexity at the trained length of {found['train_length']:,} tokens"
    done = "" if found["step"] == found["steps"] else f", after {found['step']:,} of {found['steps']:,} steps"
    yield f"{found['checkpoint']}{done}"
    yield f"text: {found['text']}"
