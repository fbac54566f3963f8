"""The pieces of a lab run, each a pure function of its job: what a worker is handed, and the row that it hands back."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from ropewalk.errors import ConfigError
from ropewalk.evaluate.run import Row
from ropewalk.lab.checkpoint import load_decoder
from ropewalk.lab.evaluation import Plan, read
from ropewalk.lab.model import Decoder
from ropewalk.lab.presets import Entrant
from ropewalk.lab.speed import Pace, time_all
from ropewalk.lab.train import Task, Trained, texts, thinned, train

if TYPE_CHECKING:
    from ropewalk.lab.ranks import Ranks

DATA = "data.safetensors"
TRAINING, READING, SPEED = "training", "reading", "speed"  # kinds of rows
FINISHED, STOPPED = "finished", "stopped"  # how a training ends
Tell = Callable[[float], None]  # hears of work that is done, in the unit of `cost`
READ, SLOW = 25e-6, 16e-9  # seconds for a token of a reading, and more for each token of its text
STEP = {"float32": 100e-6, "bfloat16": 60e-6}  # for a token of a training


class Job(Protocol):
    """Something to be carried out, that can be sent to another process."""

    @property
    def name(self) -> str:
        """Of the row."""
        ...

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        ...

    def run(self, tell: Tell) -> Row:
        """The row; `tell` hears how much of the cost is behind it."""
        ...


class Wanted(NamedTuple):
    """What the jobs of a side task depend on."""

    folder: Path  # of the run
    entrants: tuple[Entrant, ...] | None  # those that were named; None: the task's own choice
    seeds: int
    quick: bool
    dtype: str


class Training(NamedTuple):
    """Train one model."""

    name: str  # of the row
    entrant: str
    task: Task
    data: Path
    every: int  # steps between two checkpoints

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        recipe = self.task.recipe
        return recipe.steps * recipe.batch * recipe.length * STEP[recipe.dtype]

    def run(self, tell: Tell, ranks: "Ranks | None" = None) -> Row:
        """The row of the training, whose checkpoint is on the disk; `ranks` share the work where there are any."""
        recipe, start = self.task.recipe, time.perf_counter()
        each = self.cost / recipe.steps
        model = Decoder(self.task.shape, self.task.encoding, self.task.seed)
        batches = texts(stream(self.data, "train"), recipe, self.task.seed)
        done = train(self.task, model, batches, lambda _: tell(each), self.every, ranks)
        row = {"kind": TRAINING, "name": self.name, "entrant": self.entrant} | trained(self.task, done)
        return row | {"seconds": time.perf_counter() - start}


class Reading(NamedTuple):
    """Read held-out text with a trained model, at one length."""

    name: str
    entrant: str
    seed: int
    checkpoint: Path
    data: Path
    plan: Plan
    reading: str
    length: int

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        return self.plan.cost(self.reading, self.length) * (READ + SLOW * self.length)

    def run(self, tell: Tell) -> Row:
        """The row, with the losses themselves; where the encoding has no place for the length, with the reason."""
        start, each = time.perf_counter(), self.cost / self.plan.cost(self.reading, self.length)
        row = {"kind": READING, "name": self.name, "entrant": self.entrant, "seed": self.seed}
        row |= {"reading": self.reading, "length": self.length}
        model, held_out = load_decoder(self.checkpoint), stream(self.data, "held_out")
        try:
            found = read(model, held_out, self.plan, self.reading, self.length, lambda n: tell(n * each))
        except ConfigError as reason:
            return row | {"reason": str(reason)}
        row |= {"tokens": len(found), "loss": float(found.mean(dtype="float64")), "losses": found}
        return row | {"seconds": time.perf_counter() - start}


class Timing(NamedTuple):
    """Time all models in turn: a step of training, or a reading, of texts of one length."""

    name: str
    checkpoints: dict[str, Path]  # by entrant
    data: Path
    pace: Pace

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        return len(self.checkpoints) * self.pace.seconds(READ + SLOW * self.pace.length, STEP)

    def run(self, tell: Tell) -> Row:
        """One row with the figures of all that have a place for the length."""
        each = self.cost / len(self.checkpoints)
        models = {name: load_decoder(file) for name, file in self.checkpoints.items()}
        figures = time_all(models, stream(self.data, "train"), self.pace, lambda share: tell(share * each))
        row: dict[str, Any] = {"kind": SPEED, "name": self.name, "stage": self.pace.stage}
        return row | {"length": self.pace.length, "figures": {n: t._asdict() for n, t in figures.items()}}


def trained(task: Task, done: Trained) -> Row:
    """What a row says of a training."""
    learned, total = (sum(x.numel() for x in m.parameters()) for m in (done.model.positions, done.model))
    row = task.settings() | {"outcome": STOPPED if done.reason else FINISHED, "reason": done.reason}
    row |= {"steps": len(done.curve), "curve": list(thinned(done.curve))}
    row |= {"parameters": total, "of_positions": learned}
    return row | {"checkpoint": f"{task.file.parent.name}/{task.file.name}"}


def stream(data: Path, name: str) -> Tensor:
    """Int16[N]: a stream of the corpus."""
    from safetensors import safe_open

    with safe_open(data, "pt") as opened:
        return opened.get_tensor(name)
