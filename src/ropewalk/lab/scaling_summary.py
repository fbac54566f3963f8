"""What became of the rescaled models, as one part of the lab's document, with a sheet of its own.

Losses are nats per token. A ratio is a perplexity over that of the untouched model at the trained length, under the
same protocol; its interval comes from differences token by token. What is unknown is null. The shape:

    name, encoding    of the trained model, and how it was written
    factor            trained lengths that it is stretched to
    lengths, multiples, stages    that are read; steps of tuning after which they are
    protocols         {"nonoverlapping": what it is in words, "fixed target": ...}
    native            {protocol: {loss, se, perplexity, tokens}} of the untouched model at the trained length, or null
    variants          a list of
        method, tuning, encoding   "none", "PI", "NTK", "YaRN"; "untuned", "full", "PoSE", "native"; as it is written
        recipe        {steps, batch, length, rate, warmup, dtype} of the tuning; null if untuned
        outcome, reason, curve     "finished", "stopped" or null; why; [[step, loss], ...] of the tuning
        stages        [{step, losses: {protocol: [{length, multiple, loss, se, perplexity, ratio, low, high}]}}]: of
                      all lengths after the last step, of the trained length and `factor` of it before; `low` and
                      `high` are those of the ratio
    sheet             [{name, condition, values, passed, reason, published, gated}]: judgement.Line
    published         {"source": ...}: where the published figures of the sheet are from
"""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ropewalk.evaluate.run import Ledger
from ropewalk.lab.estimates import estimate
from ropewalk.lab.evaluation import FIXED, NONOVERLAPPING, WINDOWS, view
from ropewalk.lab.jobs import Reading
from ropewalk.lab.judgement import Missing
from ropewalk.lab.scaling import FACTOR, NONE, UNTUNED, Stretching, Variant
from ropewalk.lab.scaling_sheet import SOURCE, Found, Read, sheet
from ropewalk.written import short

PROTOCOLS = (NONOVERLAPPING, FIXED)


def summarise(made: Stretching, ledger: Ledger, bytes_per_token: float = 1.0) -> dict[str, Any]:
    """The part of the document, from the rows of a run and their losses."""
    rows = {read: ledger.find("reading", reading.name) for read, reading in read_by(made)}
    losses = {read: ledger.losses(row) for read, row in rows.items() if row is not None and "losses" in row}
    found = Found(made.plan, made.stages[0], made.stages[-1], losses)
    plan = made.plan
    return {
        "name": made.entrant,
        "encoding": made.settings["encoding"],
        "factor": FACTOR,
        "lengths": list(plan.lengths),
        "multiples": [n // plan.train_length for n in plan.lengths],
        "stages": list(made.stages),
        "protocols": {p: words for p, words in plan.described().items() if p in PROTOCOLS},
        "native": native(found),
        "variants": [described(made, ledger, found, v) for v in made.variants],
        "sheet": [line._asdict() for line in sheet(found, bytes_per_token)],
        "published": {"source": SOURCE},
    }


def read_by(made: Stretching) -> Iterator[tuple[Read, Reading]]:
    """All readings that there may be, by what is read."""
    for variant in made.variants:
        for step, reading in made.readings(variant):
            yield Read(variant, step, reading.length), reading


def native(found: Found) -> dict[str, Any] | None:
    """The untouched model at home."""
    losses = found.losses.get(found.of(NONE, UNTUNED, 1))
    if losses is None:
        return None
    told: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        counted = view({WINDOWS: losses}, protocol, found.plan)
        assert counted is not None
        mean = estimate([counted], found.plan, protocol)
        told[protocol] = {"loss": mean.loss, "se": mean.se, "perplexity": math.exp(mean.loss), "tokens": mean.tokens}
    return told


def described(made: Stretching, ledger: Ledger, found: Found, variant: Variant) -> dict[str, Any]:
    """One of the variants."""
    row = ledger.find("tuning", made.row_name(variant)) or {}
    tuned = variant.tuning != UNTUNED
    told: dict[str, Any] = {**variant._asdict(), "encoding": short(made.encoding(variant.method))}
    told["recipe"] = asdict(made.recipe(variant.tuning)) if tuned else None
    told |= {field: row.get(field) for field in ("outcome", "reason", "curve")}
    reads = sorted((read for read in found.losses if read.variant == variant), key=lambda r: (r.step, r.length))
    told["stages"] = [
        {"step": step, "losses": {p: [entry(found, r, p) for r in reads if r.step == step] for p in PROTOCOLS}}
        for step in sorted({r.step for r in reads})
    ]
    return told


def entry(found: Found, read: Read, protocol: str) -> dict[str, Any]:
    """One reading under one protocol."""
    counted = view({WINDOWS: found.losses[read]}, protocol, found.plan)
    assert counted is not None
    mean = estimate([counted], found.plan, protocol)
    told = {"length": read.length, "multiple": read.length // found.plan.train_length, "loss": mean.loss, "se": mean.se}
    told |= {"perplexity": math.exp(mean.loss), "ratio": None, "low": None, "high": None}
    try:
        moved = found.difference(read, found.of(NONE, UNTUNED, 1), protocol)
    except Missing:
        return told
    ends = {"ratio": moved.loss, "low": moved.low, "high": moved.high}
    return told | {key: None if x is None else math.exp(x) for key, x in ends.items()}
