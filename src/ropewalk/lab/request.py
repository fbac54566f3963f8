"""What `ropewalk lab` is asked to compare."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ropewalk.errors import ConfigError, require
from ropewalk.evaluate.run import put_json
from ropewalk.lab.evaluation import Plan
from ropewalk.lab.presets import Entrant, entrants, named
from ropewalk.lab.scaling import LONGEST
from ropewalk.lab.tasks import SCALING, TEXT
from ropewalk.lab.tasks import named as named_tasks
from ropewalk.lab.train import DTYPES, EVERY, Recipe

STEPS, QUICK_STEPS = 1220, 390
HELD_OUT, QUICK_HELD_OUT = 65_536, 32_768  # tokens
WARMUP = 60  # steps, and no more than a fifth of all
REQUEST = "request.json"
MOST = 4096  # times the trained length


@dataclass(frozen=True)
class LabRequest:
    """Everything that `ropewalk lab` can be told."""

    out: str = "out/lab"
    tasks: str | None = None  # such as "text,strings", or "all"; None: text, and strings unless quick
    encodings: str | None = None  # a list as it is written in a configuration; None: the nine, or five if quick
    text: str | None = None  # a file or a folder; None: the sources of Python's library
    bpe: int | None = None  # pieces of a byte-pair encoding; None: bytes
    train_length: int = 128
    times: int = 16  # the longest text, in trained lengths
    steps: int | None = None
    seeds: int | None = None  # of every model; None: one for text and strings, three for what is smaller
    held_out: int | None = None  # tokens that are predicted
    rate: float = 3e-3
    dtype: str | None = None  # of the products in training; None: bfloat16 where the processor multiplies it fast
    quick: bool = False
    workers: int | None = None  # processes of one thread each; None: as many as there are cores
    cluster: str | None = None  # address of a Ray cluster, "local" or "auto"; None: processes of this machine
    checkpoint_every: int = EVERY  # steps

    def __post_init__(self) -> None:
        require(self.train_length >= 4, "--train-length", "at least 4", self.train_length)
        power = 0 < self.times <= MOST and self.times & (self.times - 1) == 0
        require(power, "--times", f"a power of two, up to {MOST}", self.times)
        for option, value, least in (
            ("--steps", self.steps, 1),
            ("--seeds", self.seeds, 1),
            ("--workers", self.workers, 1),
            ("--bpe", self.bpe, 257),
            ("--checkpoint-every", self.checkpoint_every, 1),
        ):
            require(value is None or value >= least, option, f"at least {least}", value)
        require(self.bpe is None or self.bpe <= 2**15, "--bpe", f"at most {2**15}", self.bpe)
        require(self.rate > 0, "--rate", "above 0", self.rate)
        require(self.dtype in (None, *DTYPES), "--dtype", " or ".join(DTYPES), self.dtype)
        longest, held_out = self.train_length * self.times, self.held_out
        rule = f"at least {longest}, the longest text"
        require(held_out is None or held_out >= longest, "--held-out", rule, held_out)
        self.wanted()

    def entrants(self) -> tuple[Entrant, ...]:
        """Who takes part. Raises ConfigError, in one line, for what is no encoding."""
        if self.encodings is not None:
            return named(self.encodings, self.train_length)
        return entrants(self.train_length, self.quick)

    def wanted(self) -> tuple[str, ...]:
        """What is to be done. Raises ConfigError, in one line, for what is no task."""
        return named_tasks(self.tasks or (TEXT if self.quick else f"{TEXT},strings"))

    def stretched_to(self) -> int:
        """Tokens of the longest text that a stretched model reads; 0 without scaling."""
        return self.train_length * LONGEST if SCALING in self.wanted() else 0

    def recipe(self) -> Recipe:
        """How all are trained."""
        steps = self.steps or (QUICK_STEPS if self.quick else STEPS)
        dtype = self.dtype or ("bfloat16" if multiplies_bfloat16() else "float32")
        given: dict[str, Any] = {"warmup": min(WARMUP, steps // 5), "rate": float(self.rate), "dtype": dtype}
        return Recipe(steps, length=self.train_length, **given)

    def plan(self) -> Plan:
        """What all read: whole texts of the longest length."""
        longest = self.train_length * self.times
        tokens = self.held_out or (QUICK_HELD_OUT if self.quick else HELD_OUT)
        return Plan(self.train_length, self.times, max(tokens // longest, 1) * longest)

    def processes(self) -> int:
        """How many trainings go on at a time."""
        return self.workers or len(os.sched_getaffinity(0))


def keep(request: LabRequest, folder: Path) -> None:
    """Write it into `folder`, whole or not at all, for `stored`."""
    put_json(folder / REQUEST, asdict(request))


def stored(folder: Path) -> LabRequest:
    """What the run in `folder` was asked for last. Raises ConfigError where there is none."""
    file = folder / REQUEST
    try:
        given: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return replace(LabRequest(**given), out=str(folder))
    except FileNotFoundError:
        raise ConfigError(f"--resume must be the folder of a lab run, with a {REQUEST} in it, got {folder}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} is no request of the lab: {str(error).splitlines()[0]}") from None


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16; without them they are slow."""
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in known if ask is not None)
