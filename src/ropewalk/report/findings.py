"""What a run found, in a few numbers and plain sentences: the part of the page that is read first."""

import math
from itertools import chain
from typing import NamedTuple

from ropewalk.report.style import Summary
from ropewalk.report.tables import Cell, baseline, both, change, chosen, mean, perplexity, pooled, share, subject


class Number(NamedTuple):
    """A figure that decides: what it is, its value with an interval, and what to compare it with."""

    label: str
    value: Cell
    beside: list[tuple[str, Cell]]


def numbers(summary: Summary) -> list[Number]:
    """Perplexity beyond the trained window, keys found and the price on short text, as far as they were measured."""
    main = subject(summary) or baseline(summary, "unmodified")
    found = [keys_found(summary, main["name"])] if main and columns(summary, main["name"], beyond=True) else []
    if not main or not main["held_out"]:
        return found
    beyond, price = losses(summary, main)
    return [beyond, *found, price] if main["held_out"]["price"] else [beyond, *found]


def losses(summary: Summary, main: dict) -> tuple[Number, Number]:
    """Perplexity beyond the trained window, and the price inside it."""
    trained, held_out = summary["trained_length"], main["held_out"]
    known = [baseline(summary, "unmodified"), baseline(summary, "truncated")]
    others = [c for c in known if c and c["held_out"] and c is not main]
    beside = [(reading(c), mean(c["held_out"]["beyond"])) for c in others]
    if held_out["against_truncated"]:
        beside.append(("against the latter", change(held_out["against_truncated"])))
    beyond = Number(f"Perplexity beyond {trained:,} tokens", mean(held_out["beyond"]), beside)
    beside = [("its perplexity", mean(held_out["native"]))]
    beside += [(c["name"], mean(c["held_out"]["native"])) for c in others if c["role"] == "unmodified"]
    return beyond, Number(f"Price on text up to {trained:,} tokens", change(held_out["price"]), beside)


def reading(candidate: dict) -> str:
    """Its name, and for the truncated reading which tokens its perplexity is of: not all of those beyond the window."""
    beyond = candidate["held_out"]["beyond"]
    last = candidate["role"] == "truncated" and beyond
    return f"{candidate['name']}, on the final {beyond['tokens']:,}" if last else candidate["name"]


def keys_found(summary: Summary, name: str) -> Number:
    """Keys found in texts longer than the trained window, beside the unmodified model's and those in shorter texts."""
    unmodified = baseline(summary, "unmodified")
    others = [(unmodified["name"], unmodified["name"], True)] if unmodified and unmodified["name"] != name else []
    compared = ((text, columns(summary, who, far)) for text, who, far in [*others, ("in shorter texts", name, False)])
    beside = [(text, share(pooled(chain(*shares)))) for text, shares in compared if shares]
    label = f"Keys found beyond {summary['trained_length']:,} tokens"
    return Number(label, share(pooled(chain(*columns(summary, name, beyond=True)))), beside)


def columns(summary: Summary, name: str, beyond: bool) -> list[list[dict]]:
    """A candidate's shares at the lengths beyond the trained window, or at those within."""
    measured = summary["retrieval"]
    grid = measured["grids"].get(name, []) if measured else []
    pairs = zip(measured["lengths"] if grid else [], grid, strict=True)
    return [column for n, column in pairs if (n > summary["trained_length"]) == beyond]


def failures(summary: Summary) -> list[str]:
    """Where the chosen still fails, or the unmodified model if none was chosen; and what nobody measured."""
    best, target = chosen(summary), summary["target_length"]
    mine = best or baseline(summary, "unmodified")
    who = "its" if best else "the model's"
    start = summary["cliff"]["chosen" if best else "unmodified"]
    said = [] if start is None else [f"{who} loss clearly leaves its native level at position {start:,}."]
    if best and best["held_out"] and best["held_out"]["against_truncated"]:
        said += against_last(best["held_out"]["against_truncated"], summary["trained_length"])
    if mine and summary["retrieval"] and mine["name"] in summary["retrieval"]["grids"]:
        said += weakest(summary, mine["name"]) + lost_keys(summary, mine["name"])
    level = f"; up to there, {who} loss keeps its native level" if start is None else ""
    said.append(f"beyond {target:,} tokens nothing was measured{level}.")
    return [f"{text[0].upper()}{text[1:]}" for text in said]


def against_last(difference: dict, trained: int) -> list[str]:
    """Said only if reading everything is not clearly better than reading the end alone."""
    other = f"that of the unmodified model on the last {trained:,} tokens alone"
    if difference["low"] > 0:
        return [f"its perplexity is clearly above {other} ({change(difference).main})."]
    return [f"its perplexity cannot be told from {other}."] if difference["high"] >= 0 else []


def lost_keys(summary: Summary, name: str) -> list[str]:
    """Said only if fewer keys were found within the trained window than the unmodified model finds there."""
    unmodified = baseline(summary, "unmodified")
    grids = [columns(summary, who, beyond=False) for who in (name, unmodified["name"] if unmodified else name)]
    if not all(grids):
        return []
    mine, before = (pooled(chain(*grid)) for grid in grids)
    if mine["found"] * before["asked"] >= before["found"] * mine["asked"]:
        return []
    return [f"in texts within the trained window: {share(mine).main} keys; the unmodified model, {share(before).main}."]


def weakest(summary: Summary, name: str) -> list[str]:
    """The length and the depth at which the smallest share of the keys was found."""
    measured = summary["retrieval"]
    grid = measured["grids"][name]
    by_length = [(pooled(column), f"at {n:,} tokens") for n, column in zip(measured["lengths"], grid, strict=True)]
    lines = zip(measured["depths"], zip(*grid, strict=True), strict=True)
    by_depth = [(pooled(line), f"at depth {100 * d:.0f}%") for d, line in lines]
    if all(s["found"] == s["asked"] for s, _ in by_length):
        return []
    worst = [min(by, key=lambda pair: pair[0]["found"] / max(pair[0]["asked"], 1)) for by in (by_length, by_depth)]
    return ["fewest keys found: " + ", ".join(f"{share(s).main} {where}" for s, where in worst) + "."]


def fallback(summary: Summary) -> str:
    """What to do with the model as it is, where nothing is to be deployed."""
    trained, last = summary["trained_length"], baseline(summary, "truncated")
    advice = f"Keep the model as it is, for texts up to {trained:,} tokens."
    if last and last["held_out"]:
        level = mean(last["held_out"]["beyond"])
        advice += (
            f" Of a longer text, give it the last {trained:,} tokens alone: perplexity {both(level)} on held-out text."
        )
    return advice


def in_words(summary: Summary) -> dict[str, str]:
    """Every figure for those who cannot see it."""
    shown = [c for c in summary["candidates"] if c["held_out"]]
    ends = (f"{c['name']} {perplexity(math.exp(c['held_out']['blocks'][-1]['loss']))}" for c in shown)
    raced = [c for c in summary["candidates"] if c["search"]]
    stops = (f"{c['name']} {c['search']['outcome']} after {c['search']['tokens']:,} tokens" for c in raced)
    grids = summary["retrieval"]["grids"] if summary["retrieval"] else {}
    totals = (f"{name} {share(pooled(chain(*grid))).main}" for name, grid in grids.items())
    window, rates = summary["trained_length"], summary["spectrum"]["trained"]["inv_freq"] if summary["spectrum"] else ()
    slow = sum(f * window < math.tau for f in rates)
    return {
        "held_out_loss": f"Line chart: perplexity by position on held-out text. In the last block: {', '.join(ends)}.",
        "race": f"Line chart: perplexity by position on the search text. {', '.join(stops)}.",
        "retrieval": f"Heat map: keys found by depth and length. In all: {', '.join(totals)}.",
        "spectrum": f"Line chart: wavelength of {len(rates)} rotated pairs, trained and chosen; "
        f"{slow} never completed a turn in the trained window of {window:,} tokens.",
    }
