"""What a lab has found, in sentences: a lesson for every figure, made from the numbers that the figure draws."""

import math
from statistics import fmean, median
from typing import Any

from ropewalk.evaluate.metrics.accuracy import Z95
from ropewalk.report.speed import RESTLESS
from ropewalk.report.style import Summary
from ropewalk.report.tables import MINUS, perplexity, signed

SAME = 0.03  # nats within which a loss is called unchanged
FEW = 4  # who is named in a list
PARTS = ("strings", "numbers", "pictures", "clips")  # what may be done without models of text


def lessons(summary: Summary) -> dict[str, str]:
    """A lesson in plain words by the name of its figure; it is also what is read aloud in the figure's place.

    Only those who learned enough at the trained length for longer texts to tell something are spoken of.
    """
    told = {
        "perplexity": both_ends,
        "change": two_protocols,
        "positions": early_and_late,
        "published": beside_paper,
    }
    able = taught(summary)
    found = {name: tell(able) or f"Nothing can be said: {weak(summary)}." for name, tell in told.items()}
    if able["encodings"] and len(able["encodings"]) < len(summary["encodings"]):
        found["perplexity"] += f" Not spoken of: {weak(summary)}."
    return found | {"speed": costs(summary) or "Nothing was timed at the longest texts."}


def taught(summary: Summary) -> Summary:
    """The same without those that are above the gate at the trained length, or were never read there."""
    gate = summary["verdict"]["gate"]
    able = [e for e in summary["encodings"] if e["per_byte"] is not None and e["per_byte"] <= gate]
    return {**summary, "encodings": able}


def weak(summary: Summary) -> str:
    """Who those are."""
    able = [e["name"] for e in taught(summary)["encodings"]]
    names = [e["name"] for e in summary["encodings"] if e["name"] not in able]
    if not names:
        return "too little was read"
    return (
        f"{listed(names)}, above {summary['verdict']['gate']:g} nats per byte at the trained length or not read there"
    )


def verdict(summary: Summary) -> str:
    """The sheet in a sentence; without models of text, what was tried."""
    if not summary["encodings"]:
        return f"Past the trained range: {listed([name for name in PARTS if name in summary])}"
    passed, failed, untold = (summary["verdict"][key] for key in ("passed", "failed", "untold"))
    if not passed and not failed:
        return f"None of {untold} published findings has a verdict: too little was learned, or too few took part."
    said = f"{passed} of {passed + failed + untold} published findings hold on models trained here"
    said += f", {failed} do{'es' * (failed == 1)} not" if failed else ""
    return said + (f", {untold} ha{'s' if untold == 1 else 've'} no verdict." if untold else ".")


def read_at(summary: Summary, place: int, protocol: str = "nonoverlapping") -> list[dict]:
    """Those that were read at a length, the lowest loss first: their entries with their names."""
    found = [(e["name"], e["losses"][protocol][place]) for e in summary["encodings"]]
    return sorted(({"name": name} | x for name, x in found if "loss" in x), key=lambda x: x["loss"])


def listed(names: list[str]) -> str:
    """Names as they are said: a, b and c; or the first of them and how many there are more."""
    if len(names) > FEW + 1:
        names = [*names[:FEW], f"{len(names) - FEW} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def both_ends(summary: Summary) -> str:
    """Who is lowest and highest at the trained length and at the longest."""
    near, far = read_at(summary, 0), read_at(summary, -1)
    trained, longest, times = summary["lengths"][0], summary["lengths"][-1], summary["multiples"][-1]
    if len(near) < 2 or not far:
        return ""
    last: dict[str, float] = {x["name"]: x["loss"] for x in far}
    best, worst = near[0], near[-1]
    said = (
        f"On texts of the trained {trained:,} tokens perplexity lies between {figure(best)} and {figure(worst)}. "
        f"On texts of {longest:,} tokens, {times} times as long, it lies between {figure(far[0])} and {figure(far[-1])}"
    )
    said += f", {far[-1]['ratio']:.3g} times what that has at the trained length." if far[-1]["ratio"] else "."
    if best["name"] != far[0]["name"]:
        where = "is not among them"
        if best["name"] in last:
            where = f"has {sum(loss < last[best['name']] for loss in last.values())} of {len(last)} below it there"
        said += f" {best['name']}, the lowest at the trained length, {where}."
    ended = [x["name"] for x in near if x["name"] not in last]
    return f"{said} No reading so far out: {listed(ended)}." if ended else said


def figure(entry: dict) -> str:
    return f"{perplexity(entry['perplexity'])} ({entry['name']})"


def two_protocols(summary: Summary) -> str:
    """What becomes of the gain of ALiBi, or of whoever gains most, when the same tokens are predicted throughout."""
    gains = [x for x in read_at(summary, -1) if x["ratio"]]
    if not gains:
        return ""
    alibi = next((e["name"] for e in summary["encodings"] if e["role"] == "ALiBi"), None)
    most = min(gains, key=lambda x: x["ratio"])
    it = next((x for x in gains if x["name"] == alibi), most)
    fixed = next((x for x in read_at(summary, -1, "fixed target") if x["name"] == it["name"]), None)
    home = next((x for x in read_at(summary, 0, "fixed target") if x["name"] == it["name"]), None)
    trained, longest = summary["lengths"][0], summary["lengths"][-1]
    said = (
        f"Cut into texts that do not overlap, {it['name']} changes its perplexity by {signed(100 * (it['ratio'] - 1))} "
        f"from {trained:,} to {longest:,} tokens. "
    )
    if not fixed or not home or not fixed["ratio"]:
        return said
    said += f"On the same last tokens, with ever more context before them, by {signed(100 * (fixed['ratio'] - 1))}. "
    gained, moved = it["ratio"] < 1, fixed["loss"] - home["loss"]
    if gained and moved > -SAME and fixed["ratio"] > it["ratio"]:
        return said + (
            "So the gain of longer texts is that fewer of their tokens stand near a beginning, "
            "where there is little to predict from; farther context adds nothing."
        )
    if gained and moved <= -SAME:
        return said + "So at least a part of the gain comes from farther context."
    return said + ("So there is no gain to explain." if not gained else "The two agree, so no conclusion is drawn.")


def early_and_late(summary: Summary) -> str:
    """Who is worse at the end of long texts than at the end of what was trained, and of whom that cannot be told."""
    rises: dict[str, tuple[float, float]] = {}
    for e in summary["encodings"]:
        blocks = e["by_position"] or {"edges": [], "loss": [], "se": []}
        inside = sum(end <= summary["settings"]["train_length"] for end in blocks["edges"][1:])
        if 1 < inside < len(blocks["loss"]) and None not in blocks["se"]:
            home, tail = slice(inside // 2, inside), slice(-inside, None)
            (early, a), (late, b) = ((fmean(blocks["loss"][s]), fmean(blocks["se"][s])) for s in (home, tail))
            rises[e["name"]] = late - early, Z95 * math.hypot(a, b)
    if not rises:
        return ""
    lost = sorted((name for name, (rise, half) in rises.items() if rise > half), key=lambda name: -rises[name][0])
    hold = [name for name in rises if name not in lost]
    said = (
        f"In texts of {summary['lengths'][-1]:,} tokens every token sees all that stands before it: "
        "is it predicted as well near their end as near the end of the trained length? "
    )
    if lost:
        said += f"Clearly worse: {listed(lost)}. "
    return said + (f"No difference that stands out from chance: {listed(hold)}." if hold else "")


def beside_paper(summary: Summary) -> str:
    """Who stands where in the paper and here, at the longest."""
    roles = {e["role"]: e for e in summary["encodings"] if e["role"] in summary["published"]["perplexity"]}
    here = {r: x["ratio"] for r, e in roles.items() if (x := e["losses"]["nonoverlapping"][-1]).get("ratio")}
    if len(here) < 2:
        return ""
    paper, times = summary["published"], summary["multiples"][-1]
    nearest = min(
        range(len(paper["lengths"])), key=lambda i: abs(paper["lengths"][i] / paper["trained_length"] - times)
    )
    there = {
        r: paper["perplexity"][r][nearest] / paper["perplexity"][r][0] for r in here if paper["perplexity"][r][nearest]
    }
    mine, theirs = (sorted((r for r in there), key=some.__getitem__) for some in (here, there))
    at = paper["lengths"][nearest] / paper["trained_length"]
    said = f"From the least growth to the most, the order at {times} times the trained length is {' < '.join(mine)}; "
    if mine == theirs:
        return f"{said}in the paper, at {at:.3g} times, it is the same."
    return f"{said}in the paper, at {at:.3g} times, it is {' < '.join(theirs)}."


def costs(summary: Summary) -> str:
    """Who is slow and who needs memory, at the longest texts."""
    longest, said = summary["lengths"][-1], ""
    for stage, word in (("train", "Training"), ("evaluate", "Evaluation")):
        shares = spread(summary, stage, "of_nope", longest)
        if len(shares) > 1:
            (low, slow), (high, fast) = shares[0], shares[-1]
            said += f"{word} on texts of {longest:,} tokens runs at {low:.2f} ({slow}) to {high:.2f} ({fast}) of "
            said += "NoPE's speed. "
        memory = spread(summary, stage, "peak_bytes", longest)
        if len(memory) > 1 and memory[0][0]:
            (least, _), (most, who) = memory[0], memory[-1]
            said += f"It needs up to {most / least:.3g} times the least memory ({who}). " if most > 1.05 * least else ""
    timed = [x for e in summary["encodings"] for x in e["speed"] if x["low"]]
    swing = median(x["high"] / x["low"] for x in timed) if timed else 1.0
    if swing > RESTLESS:
        said += (
            f"The machine did other things as well: the fastest round of a model was typically {swing:.1f} times as "
            "fast as its slowest, so repeat this before relying on it."
        )
    return said.strip()


def spread(summary: Summary, stage: str, field: str, length: int) -> list[tuple[float, str]]:
    """A figure of all others than NoPE at one stage and length, sorted, with whose it is."""
    return sorted(
        (x[field], e["name"])
        for e in summary["encodings"]
        for x in e["speed"]
        if x["stage"] == stage and x["length"] == length and x[field] is not None and e["name"] != "NoPE"
    )


def described(values: dict[str, Any]) -> str:
    """The values of a line of the sheet, or those published beside it, in a row."""
    said: list[str] = []
    if "difference" in values:
        said.append(f"{values['difference']:+.3f} nats per token")
        if "low" in values:
            said[0] += f" ({values['low']:+.3f} to {values['high']:+.3f})"
        if "seeds" in values:
            said.append(f"{values['seeds']:.0f} seed{'s' * (values['seeds'] != 1)}")
    known = ("difference", "low", "high", "seeds", "what")
    rest = {key: x for key, x in values.items() if "difference" not in values or key not in known}
    said += [f"{f'at {int(k):,}:' if k.isdigit() else k} {value(k, x)}" for k, x in rest.items() if k != "what"]
    what = f" ({values['what']})" if "what" in values else ""
    return ", ".join(said).replace("-", MINUS) + what


def value(key: str, x: Any) -> str:
    """One of them, in its unit."""
    if isinstance(x, str):
        return x
    if key in ("spread", "share"):
        return f"{100 * x:.2g}%"
    if key.startswith("change"):
        return f"{x:+.3f} nats"
    if float(x).is_integer() and abs(x) >= 2:
        return f"{x:,.0f}"
    return f"{x:.3f}" if abs(x) < 2 else f"{x:.2f}" if abs(x) < 100 else f"{x:.1f}"
