"""Everything that a lab run has found, as one JSON document: summary.json.

What is unknown is null. Losses are nats per token; a perplexity is the exponential of one. The shape:

    request        the fields of LabRequest
    settings       what all rows depend on: text, train_length, times, held_out, bpe, bytes_per_token, recipe, shape
    machine        date, device, versions of ropewalk, torch and python; threads of a process, and processes
    lengths        [128, 256, ...]: of the texts; multiples [1, 2, ...]: the same in trained lengths
    seeds          how many
    protocols      {"nonoverlapping": what it is in words, "sliding": ..., "fixed target": ...}
    encodings      a list, in the order of the request, of
        name, encoding           the name in tables; how it is written in a configuration
        role                     which encoding of the sheet it is, or null
        parameters, of_positions how many numbers the model learns, and its positions among them; null if never trained
        trainings  [{seed, outcome: "finished" or "stopped", reason, steps, curve: [[step, loss], ...], checkpoint,
                     seconds}]
        losses     {protocol: one entry per length: {length, multiple, loss, se, seed_se, low, high, tokens, seeds,
                     perplexity, ratio} or {length, multiple, reason} where there is none; `ratio` is r(k), over that
                     at the trained length under the same protocol}
        by_position {edges: [0, 32, ...], loss: [...], se: [...]} in the longest texts that do not overlap, or null
        per_byte   nats per byte at the trained length, texts that do not overlap, or null
        speed      [{stage: "train" or "evaluate", length, tokens_per_second, low, high, peak_bytes, of_nope}];
                   `of_nope` is tokens per second over those of NoPE, taken in turn with it, or null without NoPE;
                   `peak_bytes` is what a call holds at its peak beyond what is held between calls
    paired         [{protocol, length, multiple, first, second, difference, se, seed_se, low, high, tokens, seeds}]:
                   first minus second, token by token; all pairs of encodings that have the length
    sheet          [{name, condition, values, passed, reason, published, gated}]: judgement.Line
    verdict        {passed, failed, untold: how many gated lines; gate: nats per byte; text: in a sentence}
    published      published.tables()
    strings, numbers, pictures, clips, scaling   what the modules of that name make of their rows, where asked for
"""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from ropewalk.bench.request import BenchRequest
from ropewalk.bench.run import machine
from ropewalk.evaluate.metrics.perplexity import Losses
from ropewalk.evaluate.run import put_json
from ropewalk.lab import estimates, published, scaling_summary
from ropewalk.lab.estimates import Estimate, estimate
from ropewalk.lab.evaluation import FIXED, NONOVERLAPPING, PROTOCOLS, SLIDING, WINDOWS, by_position, view
from ropewalk.lab.jobs import FINISHED
from ropewalk.lab.judgement import GATE, Evidence, Line, role_of, sheet
from ropewalk.lab.presets import Entrant
from ropewalk.lab.run import Run
from ropewalk.lab.tasks import SCALING, SIDES
from ropewalk.written import short

SUMMARY = "summary.json"
NOTHING = "NoPE"
Curves = dict[tuple[str, int], dict[int, Losses]]  # by protocol and length, then by seed


def summarise(run: Run) -> dict[str, Any]:
    """The document, from the rows and the stored losses of a run."""
    plan = run.plan
    curves = {e.name: curves_of(run, e) for e in run.entrants}
    encodings = [described(run, e, curves[e.name]) for e in run.entrants]
    lines = sheet(evidence(run, encodings, curves)) if encodings else []
    return {
        "request": asdict(run.request),
        "settings": run.ledger.of("settings")[0]["settings"],
        "machine": machine(BenchRequest(lengths=(1,))) | {"threads": 1, "processes": run.request.processes()},
        "lengths": list(plan.lengths),
        "multiples": [n // plan.train_length for n in plan.lengths],
        "seeds": run.seeds,
        "protocols": plan.described(),
        "encodings": encodings,
        "paired": list(pairs(run, curves)),
        "sheet": [line._asdict() for line in lines],
        "verdict": verdict(lines),
        "published": published.tables(),
        **beside(run),
    }


def beside(run: Run) -> dict[str, Any]:
    """What side tasks and the stretched model have found."""
    told = dict[str, Any]()
    for name, jobs in run.sides().items():
        rows = [row for job in jobs if (row := run.ledger.find(name, job.name)) is not None]
        if rows:
            told[name] = SIDES[name].summarise(rows)
    made = run.stretching()
    if made is not None:
        told[SCALING] = scaling_summary.summarise(made, run.ledger, run.corpus.bytes_per_token)
    return told


def write(run: Run, summary: dict[str, Any]) -> None:
    """summary.json in the run's folder, whole or not at all."""
    put_json(run.folder / SUMMARY, summary)


def curves_of(run: Run, entrant: Entrant) -> Curves:
    """The losses that every protocol counts, of every seed that has them."""
    found: Curves = {}
    for length in run.plan.lengths:
        for seed in range(run.seeds):
            rows = {
                r: run.ledger.find("reading", f"{entrant.name} seed {seed} {r} {length}") for r in (WINDOWS, SLIDING)
            }
            stored = {r: run.ledger.losses(row) for r, row in rows.items() if row is not None and "losses" in row}
            for protocol in PROTOCOLS:
                losses = view(stored, protocol, run.plan)
                if losses is not None:
                    found.setdefault((protocol, length), {})[seed] = losses
    return found


def described(run: Run, entrant: Entrant, curves: Curves) -> dict[str, Any]:
    """One of the encodings."""
    plan, ledger = run.plan, run.ledger
    rows = [r for s in range(run.seeds) if (r := ledger.find("training", f"{entrant.name} seed {s}"))]
    fields = ("seed", "outcome", "reason", "steps", "curve", "checkpoint", "seconds")
    first: dict[str, Any] = next(iter(rows), {})
    told: dict[str, Any] = {"name": entrant.name, "encoding": short(entrant.encoding)}
    told |= {"role": role_of(entrant.encoding)}
    told |= {"parameters": first.get("parameters"), "of_positions": first.get("of_positions")}
    told["trainings"] = [{f: row[f] for f in fields} for row in rows]
    told["losses"] = {p: [entry(run, entrant, curves, p, n) for n in plan.lengths] for p in PROTOCOLS}
    longest = curves.get((NONOVERLAPPING, plan.longest))
    told["by_position"] = by_position(np.mean(list(longest.values()), axis=0), plan) if longest else None
    at_home: float | None = told["losses"][NONOVERLAPPING][0].get("loss")
    told["per_byte"] = None if at_home is None else at_home / run.corpus.bytes_per_token
    return told | {"speed": list(speeds(run, entrant))}


def entry(run: Run, entrant: Entrant, curves: Curves, protocol: str, length: int) -> dict[str, Any]:
    """One protocol at one length, or why there is nothing."""
    told: dict[str, Any] = {"length": length, "multiple": length // run.plan.train_length}
    if (protocol, length) not in curves:
        return told | {"reason": reason(run, entrant, length)}
    home = curves.get((protocol, run.plan.train_length))
    mine = list(curves[protocol, length].values())
    return told | estimates.described(mine, list(home.values()) if home else None, run.plan, protocol)


def reason(run: Run, entrant: Entrant, length: int) -> str:
    """Why there is no reading."""
    for seed in range(run.seeds):
        row = run.ledger.find("reading", f"{entrant.name} seed {seed} {WINDOWS} {length}")
        if row is not None and "reason" in row:
            return row["reason"]
        training = run.ledger.find("training", f"{entrant.name} seed {seed}")
        if training is not None and training["outcome"] != FINISHED:
            return f"training stopped: {training['reason']}"
    return "not read"


def speeds(run: Run, entrant: Entrant) -> Iterator[dict[str, Any]]:
    """Tokens per second and memory at every stage and length, from the last timing in which the encoding took part."""
    latest = {(r["stage"], r["length"]): r["figures"] for r in run.ledger.of("speed") if entrant.name in r["figures"]}
    for (stage, length), figures in latest.items():
        mine, base = figures[entrant.name], figures.get(NOTHING)
        share = mine["tokens_per_second"] / base["tokens_per_second"] if base else None
        yield {"stage": stage, "length": length, **mine, "of_nope": share}


def pairs(run: Run, curves: dict[str, Curves]) -> Iterator[dict[str, Any]]:
    """All paired differences."""
    for protocol in PROTOCOLS:
        for length in run.plan.lengths:
            for first, second in combinations(curves, 2):
                found = difference(run, curves, first, second, (protocol, length))
                if found is not None:
                    told = {"protocol": protocol, "length": length, "multiple": length // run.plan.train_length}
                    told |= {"first": first, "second": second} | found.told()
                    yield {("difference" if key == "loss" else key): x for key, x in told.items()}


def difference(run: Run, curves: dict[str, Curves], first: str, second: str, where: tuple[str, int]) -> Estimate | None:
    """First minus second, token by token, over the seeds that both have; None without any."""
    a, b = (curves[name].get(where, {}) for name in (first, second))
    both = [a[seed].astype(np.float64) - b[seed] for seed in sorted(a.keys() & b.keys())]
    return estimate(both, run.plan, where[0]) if both else None


def evidence(run: Run, encodings: list[dict[str, Any]], curves: dict[str, Curves]) -> Evidence:
    """What the sheet asks for; of several encodings with the same role the first counts."""
    roles: dict[str, dict[str, Any]] = {}
    for told in encodings:
        if told["role"] is not None and told["per_byte"] is not None:
            roles.setdefault(told["role"], told)

    def by_multiple(protocol: str, field: str) -> dict[str, dict[int, float]]:
        entries = {role: told["losses"][protocol] for role, told in roles.items()}
        return {role: {x["multiple"]: x[field] for x in some if field in x} for role, some in entries.items()}

    def between(first: str, second: str, k: int) -> Estimate | None:
        where = (NONOVERLAPPING, k * run.plan.train_length)
        return difference(run, curves, roles[first]["name"], roles[second]["name"], where)

    refused = {r: [x["multiple"] for x in t["losses"][NONOVERLAPPING] if "reason" in x] for r, t in roles.items()}
    ratios, losses = by_multiple(NONOVERLAPPING, "ratio"), by_multiple(NONOVERLAPPING, "loss")
    per_byte = {role: told["per_byte"] for role, told in roles.items()}
    return Evidence(ratios, losses, by_multiple(FIXED, "loss"), per_byte, refused, between)


def verdict(lines: list[Line]) -> dict[str, Any]:
    """The sheet in a sentence."""
    counted = [line for line in lines if line.gated]
    passed, failed = (sum(line.passed is x for line in counted) for x in (True, False))
    untold = len(counted) - passed - failed
    text = f"{passed} of {len(counted)} lines of the sheet hold, {failed} do not, {untold} have no verdict"
    return {"passed": passed, "failed": failed, "untold": untold, "gate": GATE, "text": text}
