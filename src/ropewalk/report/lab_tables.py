"""The numbers of a lab as text: its cards, its sheet and its tables."""

import math
import shlex
from statistics import median
from typing import Any, NamedTuple

from ropewalk.evaluate.metrics.accuracy import Z95
from ropewalk.lab.request import LabRequest
from ropewalk.report.findings import Number
from ropewalk.report.lab_figures import TITLES
from ropewalk.report.lab_words import described, listed, read_at
from ropewalk.report.style import Summary
from ropewalk.report.tables import NOTHING, Cell, mean, perplexity, signed

STATES = {True: ("holds", "\u2713"), False: ("does not hold", "\u2717"), None: ("no verdict", NOTHING)}
MOST = 4  # of those that a card names beside the first


class Finding(NamedTuple):
    """A line of the sheet as it stands in the table."""

    name: str
    condition: str
    here: str
    published: str
    state: str
    sign: str
    counted: bool


def sheet(lines: list[dict]) -> list[Finding]:
    """All lines: what does not hold first, then what holds, then what has no verdict."""
    order = [False, True, None]
    lines = sorted(lines, key=lambda line: order.index(line["passed"]))
    return [
        Finding(
            line["name"],
            line["condition"],
            line["reason"] or described(line["values"]) or "as the condition says",
            described(line["published"]) or NOTHING,
            *STATES[line["passed"]],
            line["gated"],
        )
        for line in lines
    ]


def numbers(summary: Summary) -> list[Number]:
    """Who is best at the trained length and at the longest, and what ALiBi gains under which protocol."""
    trained, longest = summary["lengths"][0], summary["lengths"][-1]
    found: list[Number] = []
    for place, label in ((0, f"Lowest at the trained {trained:,} tokens"), (-1, f"Lowest at {longest:,} tokens")):
        read = read_at(summary, place)
        if read and (place == 0 or longest > trained):
            best, *others = read
            beside = [(x["name"], Cell(perplexity(x["perplexity"]))) for x in (*others[: MOST - 1], *others[-1:])]
            value = Cell(perplexity(best["perplexity"]), f"perplexity of {best['name']}")
            found.append(Number(label, value, list(dict.fromkeys(beside))))
    alibi = next((e for e in summary["encodings"] if e["role"] == "ALiBi"), None)
    ratios = {p: e[-1]["ratio"] for p, e in alibi["losses"].items() if e[-1].get("ratio")} if alibi else {}
    if alibi and "nonoverlapping" in ratios:
        percent = {p: signed(100 * (r - 1)) for p, r in ratios.items()}
        value = Cell(percent.pop("nonoverlapping"), "perplexity, texts that do not overlap")
        beside = [(TITLES[p], Cell(x)) for p, x in percent.items()]
        found.append(Number(f"{alibi['name']} from {trained:,} to {longest:,} tokens", value, beside))
    return found


def shortfalls(summary: Summary) -> list[str]:
    """What does not hold, who was stopped in training and who has no place for long texts."""
    said = [f"{line['name']}: {described(line['values'])}." for line in summary["sheet"] if line["passed"] is False]
    unread: dict[str, list[str]] = {}
    for e in summary["encodings"]:
        for t in e["trainings"]:
            if t["outcome"] != "finished":
                said.append(f"{e['name']}, seed {t['seed']}, was stopped after {t['steps']:,} steps: {t['reason']}.")
        reasons = [x["reason"] for x in e["losses"]["nonoverlapping"] if "reason" in x]
        if reasons and all(t["outcome"] == "finished" for t in e["trainings"]):
            unread.setdefault(reasons[0], []).append(e["name"])
    said += [f"{listed(names)} could not be read at every length: {reason}." for reason, names in unread.items()]
    untold = sum(line["passed"] is None and line["gated"] for line in summary["sheet"])
    if untold:
        s = "s" * (untold > 1)
        said.append(f"{untold} line{s} of the sheet without a verdict; the reason{s} stand{'s' * (untold == 1)} there.")
    if summary["seeds"] == 1:
        said.append("There is one seed: nothing here tells what another would do.")
    return said


def losses(summary: Summary) -> dict[str, list[tuple[str, list[Cell]]]]:
    """Perplexity with its interval by protocol, encoding and length."""
    return {
        protocol: [(e["name"], [reading(x) for x in e["losses"][protocol]]) for e in summary["encodings"]]
        for protocol in summary["protocols"]
    }


def reading(entry: dict) -> Cell:
    """One perplexity; a dash where there is none."""
    if "loss" not in entry:
        return Cell(NOTHING)
    return mean(entry) if entry["low"] is not None else Cell(perplexity(entry["perplexity"]))


def speeds(summary: Summary) -> dict[str, list[tuple[str, list[Cell]]]]:
    """Tokens per second with the range of all rounds, by stage, encoding and length."""
    stages = dict.fromkeys(x["stage"] for e in summary["encodings"] for x in e["speed"])
    found: dict[str, list[tuple[str, list[Cell]]]] = {}
    for stage in stages:
        found[stage] = []
        for e in summary["encodings"]:
            by_length = {x["length"]: x for x in e["speed"] if x["stage"] == stage}
            found[stage].append((e["name"], [pace(by_length.get(n)) for n in summary["lengths"]]))
    return found


def pace(timed: dict | None) -> Cell:
    """Tokens per second and the range of all rounds."""
    if timed is None:
        return Cell(NOTHING)
    return Cell(f"{timed['tokens_per_second']:,.0f}", f"{timed['low']:,.0f} to {timed['high']:,.0f}")


def models(summary: Summary) -> list[tuple[str, ...]]:
    """Every encoding: name, as it is written, numbers that its model learns and its positions among them, nats per
    byte at the trained length, trainings."""
    told: list[tuple[str, ...]] = []
    for e in summary["encodings"]:
        done = sum(t["outcome"] == "finished" for t in e["trainings"])
        counts = [NOTHING if e[key] is None else f"{e[key]:,}" for key in ("parameters", "of_positions")]
        per_byte = NOTHING if e["per_byte"] is None else f"{e['per_byte']:.3f}"
        told.append((e["name"], e["encoding"], *counts, per_byte, f"{done} of {len(e['trainings'])} to the end"))
    return told


def command(request: dict[str, Any]) -> str:
    """The command that asks for the same."""
    plain = LabRequest()
    words = ["ropewalk", "lab"]
    for field, given in request.items():
        if given == getattr(plain, field, None):
            continue
        option = f"--{field.replace('_', '-')}"
        words += [option] if given is True else [option, shlex.quote(str(given))]
    return " ".join(words)


def blur(summary: Summary) -> str:
    """Half the usual 95% interval of a block of positions, in percent of its perplexity."""
    errors = [se for e in summary["encodings"] if e["by_position"] for se in e["by_position"]["se"] if se is not None]
    return f"{100 * math.expm1(Z95 * median(errors)):.0f}%" if errors else "an unknown share"
