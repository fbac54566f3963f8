"""Numbers past the trained range: sums of short numbers are learned, and those of longer ones are asked for.

A decoder per format and encoding is trained on sums of two numbers of 1 to `trained` digits, drawn anew for every step,
and tested on sums of every number of digits up to `longest` that no training ever sees.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.encodings import Alibi, Fire, Rotary, Sinusoidal
from ropewalk.errors import ConfigError
from ropewalk.evaluate.run import Row
from ropewalk.lab.addition import FORMATS, Sum, chance, drawn, held_out
from ropewalk.lab.answers import TEST, VOCABULARY, batch, marks, seconds, trainings
from ropewalk.lab.checkpoint import kept_at
from ropewalk.lab.digits import DigitDecoder, Digits
from ropewalk.lab.estimates import rate
from ropewalk.lab.jobs import Tell, Wanted, trained
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.presets import HEADS, WIDTH, Entrant
from ropewalk.lab.train import Batch, Recipe, Task, train

KIND = "numbers"
STEPS, QUICK_STEPS, WARMUP, BATCH, RATE = 2000, 1000, 60, 64, 3e-3
HIDDEN, DEPTH = 256, 2  # of the model
QUICK = {"reversed": ("RoPE", "NoPE"), "all reversed": ("NoPE", "digits")}


class Plan(NamedTuple):
    """What is trained on and tested."""

    format: str
    trained: int = 3  # digits of the longest number in training
    longest: int = 16  # digits of the longest number in a test
    n: int = 1000  # sums of a test

    def width(self, digits: int) -> int:
        """Tokens of the longest problem of so many digits."""
        nines = Sum(10**digits - 1, 10**digits - 1, digits)
        return FORMATS[self.format](nines, self.longest).problem.tokens

    def test(self, digits: int) -> list[Sum]:
        """Of so many digits: the same for all formats, encodings and seeds."""
        return held_out(digits, self.n)

    def drawn(self, draw: random.Random, never: set[Sum]) -> Sum:
        """Of any number of digits that is trained, each as likely; none of `never`."""
        digits = draw.randint(1, self.trained)
        while True:
            found = drawn(digits, draw)
            if found not in never:
                return found


class Drill(NamedTuple):
    """Train one model, then test it on numbers of every length."""

    name: str  # of the row
    entrant: str
    task: Task
    plan: Plan

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        return seconds(self.task.recipe) + sum(self.testing(digits) for digits in range(1, self.plan.longest + 1))

    def testing(self, digits: int) -> float:
        """The same of the test on numbers of so many digits."""
        return self.plan.n * self.plan.width(digits) * TEST

    def run(self, tell: Tell) -> Row:
        """The row, whose `cells` say of every number of digits how many of n sums are right, and which places."""
        start, each = time.perf_counter(), seconds(self.task.recipe) / self.task.recipe.steps
        model = model_of(self.task)
        done = train(self.task, model, self.batches(), lambda _: tell(each))
        row = {"kind": KIND, "name": self.name, "entrant": self.entrant, "format": self.plan.format}
        row |= trained(self.task, done) | {"trained_digits": self.plan.trained}
        row["cells"] = [] if done.reason else list(self.cells(model, tell))
        return row | {"seconds": time.perf_counter() - start}

    def batches(self) -> Callable[[int], Batch]:
        """What each step is made on: the same sums for all formats and encodings."""
        never = {s for digits in range(1, self.plan.trained + 1) for s in self.plan.test(digits)}
        written, count = FORMATS[self.plan.format], self.task.recipe.batch

        def made(step: int) -> Batch:
            draw = random.Random(f"{self.task.seed} {step}")
            sums = [self.plan.drawn(draw, never) for _ in range(count)]
            return batch([written(s, self.plan.longest).problem for s in sums])

        return made

    def cells(self, model: Decoder, tell: Tell) -> Iterator[dict[str, Any]]:
        """The test of a trained model, or why there is none."""
        for digits in range(1, self.plan.longest + 1):
            try:
                yield {"digits": digits} | tested(model, self.plan.test(digits), self.plan)
            except ConfigError as reason:
                yield {"digits": digits, "reason": str(reason)}
            tell(self.testing(digits))


def tested(model: Decoder, sums: Sequence[Sum], plan: Plan) -> dict[str, Any]:
    """{n, right, places: [[asked, right], ...], chains: {chain: [asked, right]}} of sums.

    `right` counts sums of which everything from "=" on is right; `places` digits, from the last one of the sum on;
    `chains` sums, by how far a carry goes in them.
    """
    written = [FORMATS[plan.format](s, plan.longest) for s in sums]
    whole, places, chains = 0, dict[int, list[int]](), dict[int, list[int]]()
    for asked, form, found in zip(sums, written, marks(model, [w.problem for w in written]), strict=True):
        right = all(found)
        whole += right
        count(chains, asked.chain, right)
        for place, where in enumerate(form.places):
            count(places, place, found[where])
    by_place = [places[place] for place in sorted(places)]
    return {"n": len(sums), "right": whole, "places": by_place, "chains": {str(k): chains[k] for k in sorted(chains)}}


def count(into: dict[int, list[int]], key: int, right: bool) -> None:
    """One more was asked for, and was right or not."""
    asked = into.setdefault(key, [0, 0])
    asked[0] += 1
    asked[1] += right


def model_of(task: Task) -> Decoder:
    """A model before its first step."""
    kind = DigitDecoder if isinstance(task.encoding, Digits) else Decoder
    return kind(task.shape, task.encoding, task.seed)


def entrants(plan: Plan) -> dict[str, tuple[Entrant, ...]]:
    """Which encodings are compared in each format: all in the one that models learn best, some in the others."""
    known = {
        "sinusoidal": Sinusoidal(WIDTH),
        "RoPE": Rotary(WIDTH // HEADS),
        "ALiBi": Alibi(HEADS),
        "FIRE": Fire(HEADS, threshold=float(plan.trained)),
        "NoPE": (),
    }
    places = {"longest": plan.longest + 1, "spread": plan.longest - plan.trained}
    known |= {"digits": Digits((), **places), "digits + FIRE": Digits(known["FIRE"], **places)}
    chosen = {
        "reversed": ("sinusoidal", "RoPE", "ALiBi", "FIRE", "NoPE"),
        "all reversed": ("RoPE", "NoPE", "digits", "digits + FIRE"),
    }
    some = ("RoPE", "NoPE")
    return {form: tuple(Entrant(name, known[name]) for name in chosen.get(form, some)) for form in FORMATS}


def jobs(wanted: Wanted) -> list[Drill]:
    """A training with its test for each format, encoding and seed; rows are of kind "numbers".

    Quick are four of them, with fewer steps and sums.
    """
    quick, found = wanted.quick, list[Drill]()
    recipe = Recipe(QUICK_STEPS if quick else STEPS, BATCH, 1, RATE, WARMUP, wanted.dtype)
    for form, some in entrants(Plan("")).items():
        plan = Plan(form, n=200 if quick else 1000)
        recipe = replace(recipe, length=plan.width(plan.trained))
        for entrant in some:
            if not quick or entrant.name in QUICK.get(form, ()):
                found += [drill(wanted.folder, plan, recipe, entrant, seed) for seed in range(wanted.seeds)]
    return found


def drill(folder: Path, plan: Plan, recipe: Recipe, entrant: Entrant, seed: int) -> Drill:
    """One of the jobs."""
    name = f"{KIND} {plan.format} {entrant.name} seed {seed}"
    file = kept_at(folder, f"{KIND} {plan.format} {entrant.name}", entrant.encoding, seed)
    shape = Shape(VOCABULARY, layers=DEPTH, hidden=HIDDEN)
    # which sums are kept for the test depends on how many there are, and how they are padded on the longest
    corpus = f"{plan.format} sums of up to {plan.trained} of {plan.longest} digits without {plan.n}"
    return Drill(name, entrant.name, Task(entrant.encoding, seed, shape, recipe, corpus, file), plan)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows of kind "numbers", of any formats, encodings and seeds, as one document:

    trained_digits  digits of the longest number in training
    chance          {"digit": 0.1, "exact": [how often a guess of a sum of 1, 2, ... digits is right]}
    formats         {"plain", ...: a list of
        name, encoding   of an encoding, in the order of rows
        cells            [{digits, exact, digit, places: [rate, ...], chains: [{chain, exact}, ...]} or
                         {digits, reason}, ...]; `exact` and `digit` (of all digits of sums) are {rate, low, high, n,
                         seeds, each}, as `rate` makes; `places` begins with the last digit of sums; a chain is the most
                         places that one carry goes into}
    trainings       [{name, seed, outcome, reason, steps, curve, seconds}]
    """
    formats: dict[str, list[dict[str, Any]]] = {}
    for form, name in dict.fromkeys((row["format"], row["entrant"]) for row in rows):
        some = [row for row in rows if (row["format"], row["entrant"]) == (form, name)]
        told = {"name": name, "encoding": some[0]["encoding"], "cells": list(cells(some))}
        formats.setdefault(form, []).append(told)
    most = max((cell["digits"] for row in rows for cell in row["cells"]), default=0)
    known = {"digit": 0.1, "exact": [chance(digits) for digits in range(1, most + 1)]}
    trained = rows[0]["trained_digits"] if rows else None
    return {"trained_digits": trained, "chance": known, "formats": formats, "trainings": trainings(rows)}


def cells(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """What the models of one format and encoding did, by digits."""
    found: dict[int, list[dict[str, Any]]] = {}
    for cell in (cell for row in rows for cell in row["cells"]):
        found.setdefault(cell["digits"], []).append(cell)
    for digits, each in sorted(found.items()):
        tested = [cell for cell in each if "n" in cell]
        if not tested:
            yield {"digits": digits, "reason": each[0]["reason"]}
            continue
        n = tested[0]["n"]
        told: dict[str, Any] = {"digits": digits, "exact": rate([cell["right"] / n for cell in tested], n)}
        told["digit"] = rate([share(cell["places"]) for cell in tested], n)
        told["places"] = [share(some) for some in zip(*(cell["places"] for cell in tested), strict=True)]
        chains = {k: [cell["chains"][k] for cell in tested] for k in tested[0]["chains"]}
        told["chains"] = [{"chain": int(k), "exact": by_seed(some)} for k, some in chains.items()]
        yield told


def by_seed(pairs: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The rate of pairs [asked, right], one per seed, of the same problems."""
    return rate([right / asked for asked, right in pairs], pairs[0][0])


def share(pairs: Sequence[Sequence[int]]) -> float:
    """What was right of all that was asked, in pairs [asked, right]."""
    return sum(right for _, right in pairs) / sum(asked for asked, _ in pairs)
