"""The whole comparison: trainings, readings and timings, each a row as soon as it is known; a killed run goes on."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ropewalk.evaluate.run import Ledger, Row, check_writable, unwritable
from ropewalk.lab.data import Corpus, check_size, corpus
from ropewalk.lab.evaluation import SLIDING, WINDOWS, Plan
from ropewalk.lab.jobs import DATA, FINISHED, STOPPED, Job, Reading, Timing, Training
from ropewalk.lab.model import Shape, check
from ropewalk.lab.presets import Entrant
from ropewalk.lab.request import LabRequest
from ropewalk.lab.speed import STAGES, Pace
from ropewalk.lab.train import Recipe, Task
from ropewalk.lab.workers import Progress, Workers

ROUNDS, LONG_ROUNDS = 7, 3  # how often each model is timed, in texts of the trained length and in longer ones
CALL = 2048  # tokens of a call that is timed
LEAST = 64  # texts of the stream that is trained on
TOKENIZER = "tokenizer.json"


class Watch(Protocol):
    """What a run tells the one who waits."""

    def say(self, line: str) -> None:
        """Something worth a line."""
        ...

    def at(self, share: float, what: str) -> None:
        """So much of the run is done, and this was done last."""
        ...


@dataclass
class Run:
    """A request being carried out."""

    request: LabRequest
    entrants: tuple[Entrant, ...]
    recipe: Recipe
    plan: Plan
    corpus: Corpus
    ledger: Ledger
    watch: Watch

    @property
    def folder(self) -> Path:
        return self.ledger.folder

    def checkpoint(self, entrant: Entrant, seed: int) -> Path:
        """Where a model is kept: the name of the encoding with a digest of how it is written."""
        word = re.sub(r"[^A-Za-z0-9]+", "-", entrant.name).strip("-")[:40]
        digest = hashlib.sha256(repr(entrant.encoding).encode()).hexdigest()[:6]
        return self.folder / "checkpoints" / f"{word}-{digest}-seed{seed}.safetensors"

    def training(self, entrant: Entrant, seed: int) -> Training:
        shape = Shape(self.corpus.vocabulary)
        task = Task(entrant.encoding, seed, shape, self.recipe, self.corpus.digest, self.checkpoint(entrant, seed))
        return Training(
            f"{entrant.name} seed {seed}", entrant.name, task, self.folder / DATA, self.request.checkpoint_every
        )

    def readings(self, entrant: Entrant, seed: int) -> Iterator[Reading]:
        """All readings of a trained model that have no row yet, the longest first."""
        for length in reversed(self.plan.lengths):
            for reading in (WINDOWS, SLIDING):
                name = f"{entrant.name} seed {seed} {reading} {length}"
                if self.ledger.find("reading", name) is None:
                    file = self.checkpoint(entrant, seed)
                    yield Reading(name, entrant.name, seed, file, self.folder / DATA, self.plan, reading, length)

    def timings(self) -> Iterator[Timing]:
        """All timings that have no row yet, of the models of the first seed that were trained to the end."""
        done = {row["name"]: row["outcome"] for row in self.ledger.of("training")}
        models = {e.name: self.checkpoint(e, 0) for e in self.entrants if done.get(f"{e.name} seed 0") == FINISHED}
        who = hashlib.sha256(repr(sorted(models)).encode()).hexdigest()[:6]
        lengths = self.plan.lengths
        for length in sorted({lengths[0], lengths[-1]}) if self.request.quick else lengths:
            rounds = ROUNDS if length == lengths[0] else LONG_ROUNDS
            for stage in STAGES:
                name = f"{stage} {length} {who}"
                if models and self.ledger.find("speed", name) is None:
                    pace = Pace(stage, length, CALL, self.recipe.dtype, rounds)
                    yield Timing(name, models, self.folder / DATA, pace)

    def pairs(self) -> list[tuple[Entrant, int]]:
        return [(e, seed) for seed in range(self.request.seeds) for e in self.entrants]


def lab(request: LabRequest, watch: Watch) -> Run:
    """Train, read and time everything that the request asks for; the rows then hold all that a summary needs.

    Raises RopewalkError before anything is written if the request cannot be carried out.
    """
    run = prepare(request, watch)
    progress = Progress(watch.at)
    trainings, readings = outstanding(run, progress)
    watch.at(0.0, f"{len(trainings)} models to train")
    with Workers(request.processes()) as workers:
        # trainings first, for they are the longest
        waiting: list[Job] = [*trainings, *readings]
        while waiting or workers.busy:
            while waiting and workers.free:
                workers.give(waiting.pop(0))
            for job, row in workers.news(progress.tick):
                waiting += settle(run, job, row, progress)
        timings = list(run.timings())
        progress.plan(timings)
        for timing in timings:
            # alone on the machine
            workers.give(timing)
            while workers.busy:
                for job, row in workers.news(progress.tick):
                    settle(run, job, row, progress)
    return run


def outstanding(run: Run, progress: Progress) -> tuple[list[Job], list[Job]]:
    """The trainings that are still to be done, and the readings of models that are trained; both go into the plan."""
    trainings, readings = list[Job](), list[Job]()
    for entrant, seed in run.pairs():
        training, left = run.training(entrant, seed), list(run.readings(entrant, seed))
        row = run.ledger.find("training", training.name)
        if row is not None and row["outcome"] == STOPPED:
            continue
        progress.plan(left)
        if row is None or (left and not training.task.file.is_file()):
            progress.plan([training])
            trainings.append(training)
        else:
            readings += left
    return trainings, readings


def settle(run: Run, job: Job, row: Row, progress: Progress) -> list[Job]:
    """Store what a job has found; the jobs that it makes possible."""
    progress.close(job)
    if isinstance(job, Reading) and "losses" in row:
        row["losses"] = run.ledger.keep_losses(f"{job.checkpoint.stem}-{job.reading}-{job.length}", row["losses"])
    # a model whose file was lost is trained again, to the same end
    if run.ledger.find(row["kind"], row["name"]) is None:
        run.ledger.add(row)
    if not isinstance(job, Training):
        return []
    entrant = next(e for e in run.entrants if e.name == job.entrant)
    readings = list(run.readings(entrant, job.task.seed))
    if row["outcome"] == STOPPED:
        run.watch.say(f"{job.name}: stopped by {row['reason']}; the others go on")
        progress.drop(readings)
        return []
    return list(readings)


def prepare(request: LabRequest, watch: Watch) -> Run:
    """Settle what competes, what is read and where rows go; raises RopewalkError for what does not fit."""
    out, recipe, plan, entrants = Path(request.out), request.recipe(), request.plan(), request.entrants()
    check_writable(out)
    for entrant in entrants:
        check(Shape(), entrant.encoding, recipe.length)
    watch.say("reading the text")
    read = corpus(request.text, request.bpe, out / TOKENIZER)
    check_size(read, LEAST * recipe.length, plan.needed)
    ledger = Ledger(out, settings(read, recipe, plan, request.bpe))
    keep(out, read)
    for part in out.rglob("*.part"):
        part.unlink(missing_ok=True)
    watch.say(
        f"{read.source}: {len(read.train):,} tokens to train on, {plan.tokens:,} of {len(read.held_out):,} to test"
    )
    return Run(request, entrants, recipe, plan, read, ledger, watch)


def settings(read: Corpus, recipe: Recipe, plan: Plan, bpe: int | None) -> dict[str, Any]:
    """All that a row depends on but encoding and seed; a run with others must not go on in the same folder."""
    told = {"text": f"{read.source} {read.digest}", "bpe": bpe, "bytes_per_token": read.bytes_per_token}
    told |= {"train_length": plan.train_length, "times": plan.times, "held_out": plan.tokens}
    return told | {"recipe": asdict(recipe), "shape": Shape(read.vocabulary)._asdict()}


def keep(folder: Path, read: Corpus) -> None:
    """Store both streams and the pieces they are made of, for workers and for whoever wants to know what was read."""
    from safetensors.torch import save

    streams = save({"train": read.train, "held_out": read.held_out}, {"source": read.source})
    for name, content in ((DATA, streams), (TOKENIZER, read.pieces.encode())):
        file = folder / name
        if file.is_file() or not content:
            continue
        part = file.with_suffix(".part")
        try:
            part.write_bytes(content)
            part.replace(file)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise unwritable(file, error) from None
