"""The answer of a run in one sentence: what was gained, where the cliff is, what it costs; or that nothing helped."""

from typing import Any

Figures = dict[str, Any]


def verdict(s: Figures, name: str | None) -> str:
    """The sentence for a summary and the name of the chosen candidate, None if no candidate was affordable."""
    target, window = s["target_length"], s["trained_length"]
    if not s["gained"]:
        return nothing(s, name)
    proof, before = held_out(s, "name", name), held_out(s, "role", "unmodified")
    place = s["cliff"]["chosen"]
    cliff = f"its cliff is at {place:,} tokens" if place else f"no cliff up to {target:,} tokens"
    return (
        f"{name} reads {target:,} tokens: beyond the trained {window:,} its perplexity on held-out text is "
        f"{proof['beyond']['perplexity']:.1f} where the unmodified model has {before['beyond']['perplexity']:.1f}"
        f"{beside_truncation(s, proof)}; {cliff}; text within the trained window costs "
        f"{proof['price']['percent']:+.1f} % perplexity."
    )


def beside_truncation(s: Figures, proof: Figures) -> str:
    """How it compares with reading the last window alone, in words."""
    window, rival, far = s["trained_length"], proof["against_truncated"], s["far_keys"]["chosen"]
    words = ""
    if rival:
        clear = "" if rival["low"] > 0 or rival["high"] < 0 else ", within its error"
        words = f" ({rival['percent']:+.1f} % against reading only the last {window:,} tokens{clear})"
    if far and far["asked"]:
        words += f", and it finds {far['found']} of {far['asked']} keys that lie further back than those"
    return words


def nothing(s: Figures, name: str | None) -> str:
    """The sentence where there is nothing to deploy."""
    window, target = s["trained_length"], s["target_length"]
    if name is None:
        return f"Nothing helped: no candidate read {target:,} tokens within the price limit inside {window:,} tokens."
    rival = held_out(s, "name", name)["against_truncated"]
    if rival and rival["low"] > 0:
        return (
            f"Nothing helped: {name} reads {rival['percent']:.1f} % worse than the unmodified model on its last "
            f"{window:,} tokens."
        )
    return f"Nothing helped: {name} is not clearly better than the unmodified model beyond {window:,} tokens."


def held_out(s: Figures, field: str, value: str | None) -> Figures:
    return next(c["held_out"] for c in s["candidates"] if c[field] == value)
