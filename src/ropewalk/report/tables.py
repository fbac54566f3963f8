"""Numbers as text, and the table of candidates: for the page, for Markdown and for the command line.

A mean loss and its interval are printed as perplexities, a paired difference as a change of perplexity in percent,
a share as found of asked.  A missing measurement is a dash, never a zero.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from ropewalk.evaluate.metrics.accuracy import wilson
from ropewalk.report.style import Summary

NOTHING = "\u2013"
MINUS = "\u2212"
OUTCOMES = {
    "finalist": "finalist",
    "priced out": "priced out",
    "behind": "fell behind",
    "no better": "no better than the leader",
    "baseline": "baseline",
    "finished": "finished",
}


class Cell(NamedTuple):
    """A figure and, smaller, what qualifies it."""

    main: str
    detail: str = ""


class Row(NamedTuple):
    """One candidate as it stands in the table."""

    name: str
    role: str  # "chosen", "unmodified", "truncated" or "candidate"
    outcome: str
    reason: str
    read: Cell
    search_native: Cell
    search_beyond: Cell
    native: Cell
    beyond: Cell
    price: Cell
    against_chosen: Cell
    retrieval: Cell


def chosen(summary: Summary) -> dict | None:
    """The candidate to deploy, or None if nothing helped."""
    name = summary["chosen_name"]
    return next((c for c in summary["candidates"] if c["name"] == name), None) if name else None


def baseline(summary: Summary, role: str) -> dict | None:
    """The candidate whose role is "unmodified" or "truncated"."""
    return next((c for c in summary["candidates"] if c["role"] == role), None)


def contenders(summary: Summary) -> list[dict]:
    """What held-out text measured beside the chosen and the baselines, best first."""
    name = summary["chosen_name"]
    rest = [c for c in summary["candidates"] if c["role"] == "candidate" and c["held_out"] and c["name"] != name]
    return sorted(rest, key=lambda c: c["held_out"]["beyond"]["loss"])


def subject(summary: Summary) -> dict | None:
    """Whom the numbers are about: the chosen, or else the best that held-out text measured."""
    return chosen(summary) or next(iter(contenders(summary)), None)


def role(candidate: dict, summary: Summary) -> str:
    """The candidate's role, with "chosen" for the one to deploy."""
    return "chosen" if candidate is chosen(summary) else candidate["role"]


def perplexity(value: float) -> str:
    """Three figures that carry information: 9.87, 11.7, 248, 12,300."""
    if value >= 1000:
        value = float(f"{value:.3g}")
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def mean(m: dict | None) -> Cell:
    """Perplexity with its interval, from a mean loss in nats."""
    if not m:
        return Cell(NOTHING)
    return Cell(perplexity(m["perplexity"]), f"{perplexity(math.exp(m['low']))} to {perplexity(math.exp(m['high']))}")


def signed(percent: float) -> str:
    """A percentage that always shows its sign; none in front of a zero."""
    text = f"{abs(percent):,.0f}" if abs(percent) >= 99.95 else f"{abs(percent):.1f}"
    return f"{'' if float(text.replace(',', '')) == 0 else '+' if percent > 0 else MINUS}{text}%"


def change(d: dict | None) -> Cell:
    """A paired difference as a change of perplexity, with its interval."""
    if not d:
        return Cell(NOTHING)
    low, high = (signed(100 * math.expm1(x)) for x in (d["low"], d["high"]))
    return Cell(signed(d["percent"]), f"{low} to {high}")


def share(s: dict | None) -> Cell:
    """Found of asked, with its interval."""
    if not s:
        return Cell(NOTHING)
    return Cell(f"{s['found']:,} of {s['asked']:,}", f"{100 * s['low']:.0f}% to {100 * s['high']:.0f}%")


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 9 min 5 s, 2 h 3 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rows(summary: Summary) -> list[Row]:
    """Every candidate: the chosen first, then the baselines, then the others by how far they came."""

    def place(candidate: dict) -> tuple:
        rank = ["chosen", "unmodified", "truncated", "candidate"].index(role(candidate, summary))
        measured = candidate["held_out"]
        return (
            rank,
            measured["beyond"]["loss"] if measured else math.inf,
            -((candidate["search"] or {}).get("tokens", 0)),
        )

    return [row(c, summary) for c in sorted(summary["candidates"], key=place)]


def row(candidate: dict, summary: Summary) -> Row:
    search, held_out = candidate["search"] or {}, candidate["held_out"] or {}
    mine = role(candidate, summary)
    unraced = "measured" if held_out else "not raced"
    read = Cell(f"{search['tokens']:,}", f"{search['passes']:.2f} passes") if search else Cell(NOTHING)
    return Row(
        name=candidate["name"],
        role=mine,
        outcome="chosen" if mine == "chosen" else OUTCOMES.get(search.get("outcome", ""), unraced),
        reason=search.get("reason", ""),
        read=read,
        search_native=mean(search.get("native")),
        search_beyond=mean(search.get("beyond")),
        native=mean(held_out.get("native")),
        beyond=mean(held_out.get("beyond")),
        price=change(held_out.get("price")),
        against_chosen=change(held_out.get("against_chosen")),
        retrieval=share(candidate["retrieval"]),
    )


def markdown(summary: Summary) -> str:
    """The candidates that held-out text measured, as a Markdown table; the search text's figures if none was."""
    trained, target = summary["trained_length"], summary["target_length"]
    source = "held_out" if any(c["held_out"] for c in summary["candidates"]) else "search"
    head = ["", f"perplexity up to {trained:,}", f"perplexity {trained:,} to {target:,}", "price", "retrieval"]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join([" --- ", *[" ---: "] * 4]) + "|"]
    known = {c["name"]: c for c in summary["candidates"] if c[source]}
    for name in (r.name for r in rows(summary) if r.name in known):
        c = known[name]
        losses = [both(mean(c[source]["native"])), both(mean(c[source]["beyond"]))]
        title = f"**{escape(name)}**" if c is chosen(summary) else escape(name)
        cells = [title, *losses, both(change(c[source].get("price"))), both(share(c["retrieval"]))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def both(cell: Cell) -> str:
    return f"{cell.main} ({cell.detail})" if cell.detail else cell.main


def escape(text: str) -> str:
    """Text that Markdown shows as it is, inside a table."""
    for sign in "\\|*_`<":
        text = text.replace(sign, "\\" + sign)
    return text


def pooled(shares: Iterable[dict]) -> dict:
    """Several shares as one, with its own 95% Wilson interval."""
    found, asked = (sum(column) for column in zip(*((s["found"], s["asked"]) for s in shares), strict=True))
    return wilson(found, asked)._asdict()
