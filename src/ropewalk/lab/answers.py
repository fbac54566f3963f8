"""Problems with one right answer: batches of them, a training on answers alone, and how much of a test is right.

Letters: B batch, T tokens.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropewalk.evaluate.metrics.accuracy import wilson
from ropewalk.evaluate.run import Row
from ropewalk.lab.checkpoint import CURVE, STATE, put, put_moments, resumed, save
from ropewalk.lab.estimates import student
from ropewalk.lab.jobs import FINISHED, STOPPED
from ropewalk.lab.model import Decoder
from ropewalk.lab.presets import Entrant
from ropewalk.lab.train import CLIP, DTYPES, Task, Trained, adam, state, thinned

VOCABULARY = 128  # one token per character of ASCII
IGNORED = -100  # what cross-entropy leaves out
EVERY = 20.0  # seconds between two checkpoints
CALL = 8192  # tokens of a call in a test, where a text is not longer

Batch = tuple[Tensor, Tensor]  # ids and targets, Int64[B, T] each


class Problem(NamedTuple):
    """What is read, and what has to follow it, in ASCII."""

    prompt: str
    answer: str
    stride: int = 1  # of the answer the characters 0, stride, 2 * stride, ... are asked for, and the others given

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


def batch(problems: Sequence[Problem]) -> Batch:
    """Int64[B, T] each: the texts from the left, and the tokens to be predicted, which are those of answers alone."""
    width = max(p.tokens for p in problems) - 1
    ids, targets = torch.zeros(len(problems), width, dtype=torch.int64), torch.full((len(problems), width), IGNORED)
    for row, asked, (prompt, answer, stride) in zip(ids, targets, problems, strict=True):
        text = torch.tensor(list((prompt + answer).encode("ascii")))
        row[: len(text) - 1] = text[:-1]
        asked[len(prompt) - 1 : len(text) - 1 : stride] = text[len(prompt) :: stride]
    return ids, targets


def train(
    task: Task,
    model: Decoder,
    batches: Callable[[int], Batch],
    tell: Callable[[int], None],
    every: float = EVERY,
) -> Trained:
    """Train `model` from the last checkpoint, or from the start, to the last step; `tell` hears of every step.

    `batches` gives what step number n, from 0, is made on; of all targets the known ones count alike. The outcome is
    the same bit for bit however often it was interrupted. A loss or a gradient that is no number ends it.
    """
    recipe = task.recipe
    optimiser = adam(model.train().multiply_in(DTYPES[recipe.dtype]))
    torch.manual_seed(task.seed)
    found = resumed(task.file, task.settings())
    curve = list[float]()
    if found is not None:
        put(model, found.tensors)
        put_moments(optimiser, found.tensors)
        torch.set_rng_state(found.tensors[STATE])
        curve = found.tensors[CURVE].tolist()
    saved, at, reason = len(curve) if found else -1, time.monotonic(), ""
    for step in range(len(curve), recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(step)
        loss, reason = update(model, optimiser, batches(step))
        if reason:
            reason = f"{reason} in step {step + 1} of {recipe.steps}"
            break
        curve.append(loss)
        tell(step + 1)
        if time.monotonic() - at > every:
            save(task.file, state(task, model, optimiser, curve))
            saved, at = len(curve), time.monotonic()
    if saved < len(curve):
        save(task.file, state(task, model, optimiser, curve))
    return Trained(model.eval(), curve, reason)


def update(model: Decoder, optimiser: torch.optim.Optimizer, given: Batch) -> tuple[float, str]:
    """One step: the mean loss, and what is wrong if anything is; then nothing changes."""
    ids, targets = given
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    if not math.isfinite(loss.item()):
        return loss.item(), f"a loss that is {loss.item()}"
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP).item()
    if not math.isfinite(norm):
        return loss.item(), f"a gradient that is {norm}"
    optimiser.step()
    optimiser.zero_grad()
    return loss.item(), ""


@torch.inference_mode()
def marks(model: Decoder, problems: Sequence[Problem]) -> Iterator[list[bool]]:
    """Of each problem, which asked tokens are the model's first choice after the right ones before them.

    All of them are right exactly if greedy decoding gives the whole answer. Raises ConfigError where an encoding has
    no place for so many tokens.
    """
    size = max(1, CALL // max(p.tokens for p in problems))
    for start in range(0, len(problems), size):
        some = problems[start : start + size]
        ids, targets = batch(some)
        right = model(ids).argmax(-1) == targets
        for row, asked in zip(right, targets, strict=True):
            yield row[asked != IGNORED].tolist()


def told(task: Task, done: Trained) -> Row:
    """What a row says of a training."""
    row = task.settings() | {"outcome": STOPPED if done.reason else FINISHED, "reason": done.reason}
    row |= {"steps": len(done.curve), "curve": list(thinned(done.curve))}
    return row | {"checkpoint": f"{task.file.parent.name}/{task.file.name}"}


def rate(shares: Sequence[float], n: int) -> dict[str, Any]:
    """{rate, low, high, n, seeds, each}: the mean of what was right of `n` problems, one share per seed, as 95 %.

    The interval is the wider of two: of the n problems, which all seeds are asked (Wilson; for shares of tokens it is
    wider than need be, as tokens of one answer may hang together), and of the seeds (Student).
    """
    seeds, mean = len(shares), sum(shares) / len(shares)
    low, high = wilson(round(mean * n), n)[2:]
    if seeds > 1:
        spread = math.sqrt(sum((x - mean) ** 2 for x in shares) / (seeds - 1) / seeds) * student(seeds - 1)
        low, high = min(low, max(mean - spread, 0.0)), max(high, min(mean + spread, 1.0))
    return {"rate": mean, "low": low, "high": high, "n": n, "seeds": seeds, "each": list(shares)}


def trainings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How each training went, without what the summary says elsewhere."""
    fields = ("name", "seed", "outcome", "reason", "steps", "curve", "seconds")
    return [{field: row[field] for field in fields} for row in rows]


def checkpoint(folder: Path, name: str, entrant: Entrant, seed: int) -> Path:
    """Where a model is kept: what it is for, the encoding's name, and a digest of how that is written."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", f"{name} {entrant.name}").strip("-")[:60]
    digest = hashlib.sha256(repr(entrant.encoding).encode()).hexdigest()[:6]
    return folder / "checkpoints" / f"{word}-{digest}-seed{seed}.safetensors"
