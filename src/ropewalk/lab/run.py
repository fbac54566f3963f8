"""The whole comparison: trainings, readings and timings, each a row as soon as it is known; a killed run goes on."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ropewalk.encodings import Rotary
from ropewalk.errors import require
from ropewalk.evaluate.run import Ledger, Row, check_writable, put_file
from ropewalk.lab.checkpoint import kept_at
from ropewalk.lab.data import Corpus, check_size, corpus
from ropewalk.lab.evaluation import SLIDING, WINDOWS, Plan
from ropewalk.lab.jobs import (
    DATA,
    FINISHED,
    READING,
    SPEED,
    STOPPED,
    TRAINING,
    Job,
    Reading,
    Timing,
    Training,
    Wanted,
)
from ropewalk.lab.model import Shape, check
from ropewalk.lab.presets import Entrant
from ropewalk.lab.request import LabRequest, keep
from ropewalk.lab.scaling import Stretching, Tuning, stretching
from ropewalk.lab.speed import STAGES, Pace
from ropewalk.lab.tasks import SCALING, SIDES, TEXT
from ropewalk.lab.together import Together
from ropewalk.lab.train import Recipe, Task
from ropewalk.lab.workers import Progress, pool

if TYPE_CHECKING:
    from ropewalk.lab.ranks import Ranks

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
    competing: tuple[Entrant, ...]
    recipe: Recipe
    plan: Plan
    corpus: Corpus
    ledger: Ledger
    watch: Watch

    @property
    def folder(self) -> Path:
        return self.ledger.folder

    @property
    def seeds(self) -> int:
        """Of the models that learn text."""
        return self.request.seeds or 1

    @property
    def entrants(self) -> tuple[Entrant, ...]:
        """Those that text is learned with."""
        return self.competing if TEXT in self.request.wanted() else ()

    @property
    def stretched(self) -> Entrant | None:
        """The first one of plain RoPE, whose model of the first seed is stretched where scaling is asked for."""
        return plain_rope(self.entrants) if SCALING in self.request.wanted() else None

    def checkpoint(self, entrant: Entrant, seed: int) -> Path:
        """Where a model is kept."""
        return kept_at(self.folder, entrant.name, entrant.encoding, seed)

    def sides(self) -> dict[str, Sequence[Job]]:
        """The jobs of every side task."""
        request = self.request
        given = self.competing if request.encodings is not None else None

        def wanted(seeds: int) -> Wanted:
            return Wanted(self.folder, given, request.seeds or seeds, request.quick, self.recipe.dtype)

        return {
            name: side.jobs(wanted(1 if request.quick else side.seeds))
            for name, side in SIDES.items()
            if name in request.wanted()
        }

    def stretching(self) -> Stretching | None:
        """What is made of the stretched model; None before it is trained."""
        if self.stretched is None:
            return None
        file = self.checkpoint(self.stretched, 0)
        row = self.ledger.find(TRAINING, f"{self.stretched.name} seed 0")
        if row is None or row["outcome"] == STOPPED or not file.is_file():
            return None
        return stretching(self.stretched.name, file, self.folder / DATA, self.request.quick, self.request.held_out)

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
                if self.ledger.find(READING, name) is None:
                    file = self.checkpoint(entrant, seed)
                    yield Reading(name, entrant.name, seed, file, self.folder / DATA, self.plan, reading, length)

    def timings(self) -> Iterator[Timing]:
        """All timings that have no row yet, of the models of the first seed that were trained to the end."""
        done = {row["name"]: row["outcome"] for row in self.ledger.of(TRAINING)}
        models = {e.name: self.checkpoint(e, 0) for e in self.entrants if done.get(f"{e.name} seed 0") == FINISHED}
        who = hashlib.sha256(repr(sorted(models)).encode()).hexdigest()[:6]
        lengths = self.plan.lengths
        for length in sorted({lengths[0], lengths[-1]}) if self.request.quick else lengths:
            rounds = ROUNDS if length == lengths[0] else LONG_ROUNDS
            for stage in STAGES:
                name = f"{stage} {length} {who}"
                if models and self.ledger.find(SPEED, name) is None:
                    pace = Pace(stage, length, CALL, self.recipe.dtype, rounds)
                    yield Timing(name, models, self.folder / DATA, pace)

    def pairs(self) -> list[tuple[Entrant, int]]:
        return [(e, seed) for seed in range(self.seeds) for e in self.entrants]


def lab(request: LabRequest, watch: Watch, ranks: "Ranks | None" = None) -> Run:
    """Train, read and time everything that the request asks for; the rows then hold all that a summary needs.

    Raises RopewalkError if the request cannot be carried out, before any row is written.
    """
    workers = pool(request.workers, request.cluster, Path(request.out).absolute())
    if ranks:
        workers = Together(ranks, workers)
        ranks.check(request.recipe(), [e.encoding for e in request.entrants() if TEXT in request.wanted()])
    run = prepare(request, watch)
    progress = Progress(watch.at)
    waiting = outstanding(run, progress)
    watch.at(0.0, f"{sum(not isinstance(job, Reading) for job in waiting)} models to train")
    with workers:
        while waiting or workers.busy:
            while waiting and workers.free:
                workers.give(longest(waiting))
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


def plain_rope(entrants: Sequence[Entrant]) -> Entrant | None:
    """The first one of RoPE that is not rescaled."""
    return next((e for e in entrants if isinstance(e.encoding, Rotary) and not e.encoding.scaling), None)


def longest(waiting: list[Job]) -> Job:
    """The first of those that take longest, which is taken off the list: what is left for the end is short."""
    return waiting.pop(max(range(len(waiting)), key=lambda i: waiting[i].cost))


def outstanding(run: Run, progress: Progress) -> list[Job]:
    """What can be done now and has no row yet; it goes into the plan with all that it makes possible."""
    found = list[Job]()
    for entrant, seed in run.pairs():
        training, left = run.training(entrant, seed), list(run.readings(entrant, seed))
        row = run.ledger.find(TRAINING, training.name)
        if row is not None and row["outcome"] == STOPPED:
            continue
        progress.plan(left)
        needed = left or (entrant is run.stretched and seed == 0)
        if row is None or (needed and not training.task.file.is_file()):
            progress.plan([training])
            found.append(training)
        else:
            found += left
    for kind, jobs in run.sides().items():
        some = [job for job in jobs if run.ledger.find(kind, job.name) is None]
        progress.plan(some)
        found += some
    return found + stretches(run, progress)


def stretches(run: Run, progress: Progress) -> list[Job]:
    """What can be done now with the model that is stretched, as above."""
    made = run.stretching()
    if made is None:
        return []
    tunings, readings = made.outstanding(run.ledger)
    progress.plan([*tunings, *readings, *(r for tuning in tunings for r in made.left(tuning.variant, run.ledger))])
    return [*tunings, *readings]


def settle(run: Run, job: Job, row: Row, progress: Progress) -> list[Job]:
    """Store what a job has found; the jobs that it makes possible."""
    progress.close(job)
    if isinstance(job, Reading) and "losses" in row:
        row["losses"] = run.ledger.keep_losses(f"{job.checkpoint.stem}-{job.reading}-{job.length}", row["losses"])
    # a model whose file was lost is trained again, to the same end
    if run.ledger.find(row["kind"], row["name"]) is None:
        run.ledger.add(row)
    stopped = row.get("outcome") == STOPPED
    if stopped:
        run.watch.say(f"{job.name}: stopped by {row['reason']}; the others go on")
    follow = list[Job]()
    if isinstance(job, Training):
        entrant = next(e for e in run.entrants if e.name == job.entrant)
        follow += run.readings(entrant, job.task.seed)
        if entrant is run.stretched and job.task.seed == 0 and not stopped:
            follow += stretches(run, progress)
    elif isinstance(job, Tuning):
        made = run.stretching()
        follow += made.left(job.variant, run.ledger) if made else []
    if stopped:
        progress.drop(follow)
        return []
    return follow


def prepare(request: LabRequest, watch: Watch) -> Run:
    """Settle what competes, what is read and where rows go; raises RopewalkError for what does not fit."""
    out, recipe, plan, entrants = Path(request.out).absolute(), request.recipe(), request.plan(), request.entrants()
    check_writable(out)
    if SCALING in request.wanted():
        there, told = plain_rope(entrants) is not None, ", ".join(e.name for e in entrants)
        require(there, "--encodings", "with plain RoPE among them, which scaling stretches", told)
    watch.say("reading the text")
    read = corpus(request.text, request.bpe, out / TOKENIZER)
    if TEXT in request.wanted():
        for entrant in entrants:
            check(Shape(), entrant.encoding, recipe.length)
        check_size(read, LEAST * recipe.length, max(plan.needed, request.stretched_to() + 1))
    ledger = Ledger(out, settings(read, recipe, plan, request))
    run = Run(request, entrants, recipe, plan, read, ledger, watch)
    keep_corpus(out, read)
    keep(request, out)
    for part in out.rglob("*.part"):
        part.unlink(missing_ok=True)
    watch.say(
        f"{read.source}: {len(read.train):,} tokens to train on, {plan.tokens:,} of {len(read.held_out):,} to test"
    )
    return run


def settings(read: Corpus, recipe: Recipe, plan: Plan, request: LabRequest) -> dict[str, Any]:
    """What all rows depend on."""
    told = {"text": f"{read.source} {read.digest}", "bpe": request.bpe, "bytes_per_token": read.bytes_per_token}
    told |= {"train_length": plan.train_length, "times": plan.times, "held_out": plan.tokens, "quick": request.quick}
    return told | {"recipe": asdict(recipe), "shape": Shape(read.vocabulary)._asdict()}


def keep_corpus(folder: Path, read: Corpus) -> None:
    """Store both streams and the pieces they are made of, for workers and for whoever wants to know what was read."""
    from safetensors.torch import save

    streams = save({"train": read.train, "held_out": read.held_out}, {"source": read.source})
    for name, content in ((DATA, streams), (TOKENIZER, read.pieces.encode())):
        if content and not (folder / name).is_file():
            put_file(folder / name, content)
