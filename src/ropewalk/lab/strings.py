"""Retrieval beside perplexity: strings that hold their own answers, short in training and longer in tests.

A decoder per encoding is trained on three tasks at once, on strings of at most the trained length, and tested on each
of them at that length and at multiples of it. What is asked for is drawn, so it can only be found in the string.

- "copying": "=", letters, "=", and the same letters again. "=bad=bad"
- "recall": keys, each followed by its digit, among dots; then "?" and each of the keys in any order asks for its digit.
  "B7..A2.?A2?B7"
- "passkey": "#" with three digits among dots; "#" asks for the digits. "..#407....#407"

Which encoding is best here need not be best in a large model.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ropewalk.errors import ConfigError
from ropewalk.evaluate.run import Row
from ropewalk.lab.answers import TEST, VOCABULARY, Problem, batch, marks, seconds, trainings
from ropewalk.lab.checkpoint import kept_at
from ropewalk.lab.estimates import rate
from ropewalk.lab.jobs import Tell, Wanted, trained
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.presets import LAYERS, entrants
from ropewalk.lab.train import Batch, Recipe, Task, train

KIND = "strings"
# at 3e-3 models of this size did not learn to recall in as many steps
STEPS, QUICK_STEPS, WARMUP, BATCH, RATE = 1500, 1000, 60, 64, 1e-3
HIDDEN, DEPTH = 256, 2  # of the model: less than of the one that reads text, for there is less to learn
LETTERS, DIGITS, NAMES = "abcdefgh", "01234567", "ABCDEFGH"
KEYS, LONG = 3, 3  # keys of a recall, digits of a passkey
SHORTEST = {"copying": 4, "recall": 5, "passkey": LONG + 5}  # tokens of a string in training


def copying(length: int, draw: random.Random) -> Problem:
    """A string of `length` tokens, or of one less where that is odd, that asks for half of them."""
    letters = "".join(draw.choices(LETTERS, k=(length - 2) // 2))
    return Problem(f"={letters}=", letters)


def recall(length: int, draw: random.Random) -> Problem:
    """A string of `length` tokens that asks for three; a very short one has as many keys as it has room for."""
    pairs = [key + draw.choice(DIGITS) for key in draw.sample(NAMES, min(KEYS, length // 5))]
    laid = [*pairs, *"." * (length - 5 * len(pairs))]
    draw.shuffle(laid)
    text = "".join(laid) + "".join("?" + pair for pair in draw.sample(pairs, len(pairs)))
    start = sum(map(len, laid)) + 2
    return Problem(text[:start], text[start:], stride=3)


def passkey(length: int, draw: random.Random) -> Problem:
    """A string of `length` tokens that asks for three."""
    digits, room = "".join(draw.choices(DIGITS, k=LONG)), length - 2 - 2 * LONG
    before = draw.randint(0, room)
    return Problem(f"{'.' * before}#{digits}{'.' * (room - before)}#", digits)


TASKS: dict[str, Callable[[int, random.Random], Problem]] = {"copying": copying, "recall": recall, "passkey": passkey}
CHANCE = {"copying": 1 / len(LETTERS), "recall": 1 / len(DIGITS), "passkey": 1 / len(DIGITS)}  # of a token


class Plan(NamedTuple):
    """What is trained on and tested."""

    length: int = 16  # tokens of the longest string in training
    multiples: tuple[int, ...] = (1, 2, 4, 8)
    n: int = 200  # problems of a cell of the test


class Drill(NamedTuple):
    """Train one model on all tasks, then test it on each."""

    name: str  # of the row
    entrant: str
    task: Task
    plan: Plan

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        return seconds(self.task.recipe) + sum(
            self.plan.n * len(TASKS) * k * self.plan.length * TEST for k in self.plan.multiples
        )

    def run(self, tell: Tell) -> Row:
        """The row, whose `cells` say of every task and length how many of n answers, and of their tokens, are right."""
        start, each = time.perf_counter(), seconds(self.task.recipe) / self.task.recipe.steps
        model = Decoder(self.task.shape, self.task.encoding, self.task.seed)
        done = train(self.task, model, self.batch, lambda _: tell(each))
        row = {"kind": KIND, "name": self.name, "entrant": self.entrant} | trained(self.task, done)
        row["cells"] = [] if done.reason else list(self.cells(model, tell))
        return row | {"seconds": time.perf_counter() - start}

    def batch(self, step: int) -> Batch:
        """What a step is made on: the same for all encodings."""
        draw = random.Random(f"{self.task.seed} {step}")
        return batch([self.short(draw) for _ in range(self.task.recipe.batch)])

    def short(self, draw: random.Random) -> Problem:
        """A problem of any task and of any length up to the trained one."""
        task = draw.choice(list(TASKS))
        return TASKS[task](draw.randint(SHORTEST[task], self.plan.length), draw)

    def cells(self, model: Decoder, tell: Tell) -> Iterator[dict[str, Any]]:
        """The test of a trained model, or why there is none."""
        for k in self.plan.multiples:
            for task in TASKS:
                length = k * self.plan.length
                cell: dict[str, Any] = {"task": task, "multiple": k, "length": length}
                try:
                    yield cell | tested(model, problems(task, length, self.plan.n))
                except ConfigError as reason:
                    yield cell | {"reason": str(reason)}
                tell(self.plan.n * length * TEST)


def problems(task: str, length: int, n: int) -> list[Problem]:
    """The test of a task at a length, the same for all models."""
    draw = random.Random(f"test {task} {length}")
    return [TASKS[task](length, draw) for _ in range(n)]


def tested(model: Decoder, asked: Sequence[Problem]) -> dict[str, int]:
    """{n, right, tokens, right_tokens}: of answers as wholes, and of their tokens."""
    found = list(marks(model, asked))
    whole, tokens = sum(all(x) for x in found), sum(len(x) for x in found)
    return {"n": len(found), "right": whole, "tokens": tokens, "right_tokens": sum(sum(x) for x in found)}


def jobs(wanted: Wanted) -> list[Drill]:
    """A training with its test for each encoding and seed, to be carried out in any order; rows are of kind "strings".

    Those of the comparison unless others are given; quick ones have fewer steps.
    """
    plan, steps = Plan(), QUICK_STEPS if wanted.quick else STEPS
    recipe, found = Recipe(steps, BATCH, plan.length, RATE, WARMUP, wanted.dtype), list[Drill]()
    for seed in range(wanted.seeds):
        for entrant in wanted.entrants or entrants(plan.length, wanted.quick):
            shape = Shape(VOCABULARY, layers=LAYERS if isinstance(entrant.encoding, list) else DEPTH, hidden=HIDDEN)
            file = kept_at(wanted.folder, f"{KIND} {entrant.name}", entrant.encoding, seed)
            task = Task(entrant.encoding, seed, shape, recipe, f"{KIND} of at most {plan.length} tokens", file)
            found.append(Drill(f"{KIND} {entrant.name} seed {seed}", entrant.name, task, plan))
    return found


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows of kind "strings", of any encodings and seeds, as one document:

    trained_length  tokens of the longest string in training
    chance          {task: how often a guess of a token is right}
    tasks           {"copying", "recall", "passkey": a list of
        name, encoding   of an encoding, in the order of rows
        cells            [{multiple, length, exact, token} or {multiple, length, reason}, ...], by length; `exact` is
                         of whole answers, `token` of their tokens: {rate, low, high, n, seeds, each}, as `rate` makes}
    trainings       [{name, seed, outcome, reason, steps, curve, seconds}]
    """
    names = {row["entrant"]: row["encoding"] for row in rows}
    told = {
        task: [{"name": name, "encoding": names[name], "cells": list(cells(rows, task, name))} for name in names]
        for task in TASKS
    }
    length = rows[0]["recipe"]["length"] if rows else None
    return {"trained_length": length, "chance": CHANCE, "tasks": told, "trainings": trainings(rows)}


def cells(rows: Sequence[Row], task: str, name: str) -> Iterator[dict[str, Any]]:
    """What an encoding's models did on a task, by length."""
    found: dict[int, list[dict[str, Any]]] = {}
    for cell in (c for row in rows if row["entrant"] == name for c in row["cells"] if c["task"] == task):
        found.setdefault(cell["multiple"], []).append(cell)
    for multiple, each in sorted(found.items()):
        told: dict[str, Any] = {"multiple": multiple, "length": each[0]["length"]}
        tested = [c for c in each if "n" in c]
        if not tested:
            yield told | {"reason": each[0]["reason"]}
            continue
        whole, tokens = ([c[right] / c[n] for c in tested] for right, n in (("right", "n"), ("right_tokens", "tokens")))
        yield told | {"exact": rate(whole, tested[0]["n"]), "token": rate(tokens, tested[0]["n"])}
