"""The lab's RoPE model made to read further: rescaled as it is, and after a few hundred steps of tuning.

The model is stretched to four trained lengths by PI, NTK and YaRN, and read at up to eight. Each is tuned on texts of
four trained lengths, and on texts of one whose positions skip ahead as in PoSE. Two controls leave RoPE as it is: one
is tuned on long texts, the other goes on with its training on texts of one trained length.

Letters: B batch, T tokens.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.encodings import Rotary
from ropewalk.errors import require
from ropewalk.evaluate.run import Ledger, Row
from ropewalk.lab.checkpoint import MODEL, Saved, put, read, save
from ropewalk.lab.data import windows
from ropewalk.lab.evaluation import WINDOWS, Plan
from ropewalk.lab.jobs import FINISHED, READING, STEP, Reading, Tell, stream, trained
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.train import EVERY, Batch, Recipe, Task, starts, train
from ropewalk.notation import parse
from ropewalk.remaps import Pose
from ropewalk.scalings import NTK, Linear, Yarn
from ropewalk.tokens import Tokens, contiguous
from ropewalk.written import short

FACTOR, LONGEST = 4, 8  # trained lengths that the model is stretched to, and that it is read at
STAGES, QUICK_STAGES = (50, 100, 200), (50, 100)  # steps of tuning after which the model is read
HELD_OUT, QUICK_HELD_OUT = 32_768, 16_384  # tokens that are predicted
WARMUP, RATE = 20, 1e-3
TUNING = "tuning"  # a kind of rows
NONE, PI, NTK_AWARE, YARN = "none", "PI", "NTK", "YaRN"  # how RoPE is rescaled
UNTUNED, FULL, POSE, NATIVE = "untuned", "full", "PoSE", "native"  # what it is tuned on


class Variant(NamedTuple):
    """One way to make the model read further."""

    method: str  # "none", "PI", "NTK" or "YaRN"
    tuning: str  # "untuned"; "full": texts of four trained lengths; "PoSE": of one, skipping ahead; "native": of one

    @property
    def name(self) -> str:
        return f"{self.method}, {self.tuning}"


METHODS = (NONE, PI, NTK_AWARE, YARN)
CONTROL = Variant(NONE, NATIVE)
WHOLE = (CONTROL, Variant(NONE, FULL), *(Variant(m, t) for m in METHODS[1:] for t in (FULL, POSE)))
QUICK = (CONTROL, Variant(PI, FULL), Variant(PI, POSE), Variant(YARN, POSE))


class Tuning(NamedTuple):
    """Tune one model, and keep it after every stage."""

    name: str  # of the row
    entrant: str
    variant: Variant
    task: Task
    start: Path  # the rescaled model before the first step
    data: Path
    stages: tuple[int, ...]

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        recipe = self.task.recipe
        return recipe.steps * recipe.batch * recipe.length * STEP[recipe.dtype] * (1 + recipe.length / 1024)

    def run(self, tell: Tell) -> Row:
        """The row of the tuning, whose checkpoints are on the disk."""
        task, each = self.task, self.cost / self.task.recipe.steps
        recipe, text = task.recipe, stream(self.data, "train")
        model = Decoder(task.shape, task.encoding, task.seed)
        put(model, read(self.start).tensors)
        begin = starts(len(text), recipe, task.seed)

        def batches(step: int) -> Batch:
            return Batch(*windows(text, begin[step], recipe.length), self.places(step))

        def stage(step: int) -> None:
            # before the checkpoint of the same step, so that no kill can come between
            if step in self.stages[:-1]:
                kept = {MODEL + name: x for name, x in model.state_dict().items()}
                save(staged(task.file, step), Saved(kept, step, task.settings()))
            tell(each)

        done = train(task, model, batches, stage, EVERY)
        row = {"kind": TUNING, "name": self.name, "entrant": self.entrant} | trained(task, done)
        return row | {"method": self.variant.method, "tuning": self.variant.tuning}

    def places(self, step: int) -> Tokens | None:
        """Where the texts of a step stand: None for a row from 0."""
        recipe = self.task.recipe
        if self.variant.tuning != POSE:
            return None
        skip = Pose(recipe.length, FACTOR * recipe.length, seed=self.task.seed * recipe.steps + step)
        return skip(contiguous(recipe.length, batch=recipe.batch))


@dataclass(frozen=True)
class Stretching:
    """A trained model and all that is made of it (`stretching`)."""

    entrant: str  # its name in tables
    checkpoint: Path  # of its training
    data: Path
    settings: Mapping[str, Any]  # of its training
    digest: str  # of the checkpoint
    plan: Plan
    stages: tuple[int, ...]  # steps of tuning after which it is read, the last one at the end
    tuned: tuple[Variant, ...]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All, those that are tuned after those that are not."""
        return (*(Variant(method, UNTUNED) for method in METHODS), *self.tuned)

    def encoding(self, method: str) -> Rotary:
        """RoPE as the method leaves it."""
        known: dict[str, tuple[Linear | NTK | Yarn, ...]] = {
            NONE: (),
            PI: (Linear(FACTOR),),
            NTK_AWARE: (NTK(FACTOR),),
            YARN: (Yarn(FACTOR, self.plan.train_length),),
        }
        return replace(parse(self.settings["encoding"]), scaling=known[method])

    def recipe(self, tuning: str) -> Recipe:
        """A step takes as many tokens whatever is read: fewer long texts, or more short ones."""
        base = Recipe(**self.settings["recipe"])
        length = base.length * (FACTOR if tuning == FULL else 1)
        steps, batch = self.stages[-1], max(1, base.batch * base.length // length)
        return Recipe(steps, batch, length, RATE, min(WARMUP, steps // 5), base.dtype)

    def row_name(self, variant: Variant) -> str:
        return f"{self.entrant} seed {self.seed} {variant.name}"

    def file(self, variant: Variant) -> Path:
        """Where the model is kept, at the end of its tuning."""
        return self.checkpoint.with_stem(f"{self.checkpoint.stem}-{variant.method}-{variant.tuning}")

    def tuning(self, variant: Variant) -> Tuning:
        shape, encoding = Shape(**self.settings["shape"]), self.encoding(variant.method)
        made_of = f"{self.settings['corpus']}, {variant.tuning}, from {self.digest}"
        task = Task(encoding, self.seed, shape, self.recipe(variant.tuning), made_of, self.file(variant))
        start = self.file(Variant(variant.method, UNTUNED))
        return Tuning(self.row_name(variant), self.entrant, variant, task, start, self.data, self.stages)

    def readings(self, variant: Variant) -> Iterator[tuple[int, Reading]]:
        """After how many steps, and what: at one and four trained lengths, and in the end at all lengths."""
        steps = (0,) if variant.tuning == UNTUNED else self.stages
        for step in steps:
            file = self.file(variant) if step == steps[-1] else staged(self.file(variant), step)
            for length in self.plan.lengths:
                if step == steps[-1] or length in (self.plan.train_length, FACTOR * self.plan.train_length):
                    name = self.reading_name(variant, step, length)
                    yield step, Reading(name, self.entrant, self.seed, file, self.data, self.plan, WINDOWS, length)

    def reading_name(self, variant: Variant, step: int, length: int) -> str:
        return f"{self.row_name(variant)}, {step} steps {WINDOWS} {length}"

    def left(self, variant: Variant, ledger: Ledger) -> list[Reading]:
        """The readings of a variant that have no row yet."""
        return [r for _, r in self.readings(variant) if ledger.find(READING, r.name) is None]

    def outstanding(self, ledger: Ledger) -> tuple[list[Tuning], list[Reading]]:
        """The tunings that are still to be done, and the readings of models that are there.

        Those that a tuning makes possible are what is `left` after it, if it is finished.
        """
        self.prepare()
        tunings, readings = list[Tuning](), list[Reading]()
        for variant in self.variants:
            left = self.left(variant, ledger)
            row = ledger.find(TUNING, self.row_name(variant))
            there = all(r.checkpoint.is_file() for r in left)
            if variant.tuning == UNTUNED or (row is not None and row["outcome"] == FINISHED and there):
                readings += left
            elif row is None or row["outcome"] == FINISHED:
                tunings.append(self.tuning(variant))
        return tunings, readings

    def prepare(self) -> None:
        """Write the models that are rescaled and not tuned, from which everything starts."""
        base = read(self.checkpoint)
        weights = {name: x for name, x in base.tensors.items() if name.startswith(MODEL)}
        for method in METHODS:
            file = self.file(Variant(method, UNTUNED))
            if not file.is_file():
                save(file, Saved(weights, 0, base.settings | {"encoding": short(self.encoding(method))}))


def stretching(
    entrant: str, checkpoint: Path, data: Path, quick: bool = False, held_out: int | None = None
) -> Stretching:
    """Settle what is made of the finished training in `checkpoint`, on the streams in `data`.

    At most `held_out` tokens are predicted, whole texts of the longest length. Raises ConfigError unless the model has
    plain RoPE.
    """
    settings = read(checkpoint).settings
    encoding = parse(settings["encoding"])
    plain = isinstance(encoding, Rotary) and not encoding.scaling
    require(plain, "the model to be stretched", "one with RoPE that is not rescaled", settings["encoding"])
    length = settings["recipe"]["length"]
    longest = LONGEST * length
    wanted = min(held_out or (QUICK_HELD_OUT if quick else HELD_OUT), len(stream(data, "held_out")) - 1)
    plan = Plan(length, LONGEST, max(wanted // longest, 1) * longest)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]
    stages, tuned = (QUICK_STAGES, QUICK) if quick else (STAGES, WHOLE)
    return Stretching(entrant, checkpoint, data, settings, digest, plan, stages, tuned)


def staged(file: Path, step: int) -> Path:
    """Where the model is kept as it was after so many steps."""
    return file.with_stem(f"{file.stem}-{step}")
