"""One training: AdamW with a warm-up and a cosine, on an order of texts that depends on the seed alone.

Letters: B batch, T tokens, N tokens of the stream.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ropewalk.errors import require_choice, require_number
from ropewalk.lab.checkpoint import CURVE, MODEL, STATE, Saved, moments, put, put_moments, resumed, save
from ropewalk.lab.data import windows
from ropewalk.lab.model import Decoder, Shape, losses
from ropewalk.written import short

BETAS, DECAY, CLIP, FLOOR = (0.9, 0.95), 0.1, 1.0, 0.1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EVERY = 100  # steps between two checkpoints


@dataclass(frozen=True)
class Recipe:
    """What all trainings share."""

    steps: int = 1220
    batch: int = 16  # texts of a step
    length: int = 128  # tokens of a text
    rate: float = 3e-3  # the highest; a cosine leads from it to a tenth
    warmup: int = 60  # steps
    dtype: str = "float32"  # linear maps are multiplied in; everything else is float32

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length"):
            require_number(self, name, at_least=1, whole=True)
        require_number(self, "warmup", at_least=0, whole=True)
        require_number(self, "rate", above=0)
        require_choice(self, "dtype", DTYPES)

    def rate_at(self, step: int) -> float:
        """The learning rate of step number `step`, from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.rate * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * share)) / 2)


class Task(NamedTuple):
    """One model to be trained, and where its checkpoint goes."""

    encoding: Any
    seed: int
    shape: Shape
    recipe: Recipe
    corpus: str  # the digest of what it is trained on
    file: Path

    def settings(self) -> dict[str, Any]:
        """All that the outcome depends on."""
        told = {"encoding": short(self.encoding), "seed": self.seed, "corpus": self.corpus, "torch": torch.__version__}
        return told | {"shape": self.shape._asdict(), "recipe": asdict(self.recipe)}


class Trained(NamedTuple):
    """How a training ended."""

    model: Decoder
    curve: list[float]  # the mean loss of every step, in nats per token
    reason: str  # "" where it reached the last step


def train(task: Task, stream: Tensor, tell: Callable[[int], None], every: int = EVERY) -> Trained:
    """Train from the last checkpoint, or from the start, to the last step; `tell` hears of every step that is done.

    The outcome is the same bit for bit however often it was interrupted. A loss or a gradient that is no number ends
    it: the checkpoint then holds what was before that step, and the reason says which.
    """
    recipe = task.recipe
    model = Decoder(task.shape, task.encoding, task.seed).multiply_in(DTYPES[recipe.dtype])
    optimiser = adam(model)
    order = starts(len(stream), recipe, task.seed)
    torch.manual_seed(task.seed)
    found = resumed(task.file, task.settings())
    curve = list[float]()
    if found is not None:
        put(model, found.tensors)
        put_moments(optimiser, found.tensors)
        torch.set_rng_state(found.tensors[STATE])
        curve = found.tensors[CURVE].tolist()
    saved = len(curve)
    for step in range(len(curve), recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(step)
        loss, reason = update(model, optimiser, windows(stream, order[step], recipe.length))
        if reason:
            save(task.file, state(task, model, optimiser, curve))
            return Trained(model, curve, f"{reason} in step {step + 1} of {recipe.steps}")
        curve.append(loss)
        tell(step + 1)
        if len(curve) % every == 0:
            save(task.file, state(task, model, optimiser, curve))
            saved = len(curve)
    if saved < len(curve) or found is None:
        save(task.file, state(task, model, optimiser, curve))
    return Trained(model, curve, "")


def update(model: Decoder, optimiser: torch.optim.Optimizer, given: tuple[Tensor, Tensor]) -> tuple[float, str]:
    """One step on ids and targets Int[B, T]: the mean loss, and what is wrong if anything is; then nothing changes."""
    loss = losses(model, *given).mean()
    if not math.isfinite(loss.item()):
        return loss.item(), f"a loss that is {loss.item()}"
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP).item()
    if not math.isfinite(norm):
        return loss.item(), f"a gradient that is {norm}"
    optimiser.step()
    optimiser.zero_grad()
    return loss.item(), ""


def adam(model: Decoder) -> torch.optim.AdamW:
    """AdamW whose decay pulls at the matrices of layers and at the embedding, not at what encodings learn."""
    named = list(model.named_parameters())
    pulled = [x for name, x in named if x.dim() == 2 and not name.startswith("positions.")]
    free = [x for name, x in named if x.dim() != 2 or name.startswith("positions.")]
    groups = [{"params": pulled, "weight_decay": DECAY}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=BETAS, fused=True)


def starts(tokens: int, recipe: Recipe, seed: int) -> Tensor:
    """Int64[steps, batch]: where in the stream the texts of every step begin; the same for every encoding."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(tokens - recipe.length, (recipe.steps, recipe.batch), generator=draw)


def state(task: Task, model: Decoder, optimiser: torch.optim.Optimizer, curve: list[float]) -> Saved:
    """Everything that the next step depends on."""
    tensors = {MODEL + name: x for name, x in model.state_dict().items()} | moments(optimiser)
    tensors |= {CURVE: torch.tensor(curve), STATE: torch.get_rng_state()}
    return Saved(tensors, len(curve), task.settings())


def thinned(curve: list[float], points: int = 200) -> Iterator[tuple[int, float]]:
    """At most so many points of a curve: the step that each run of steps ends with, and its mean loss."""
    size = max(1, math.ceil(len(curve) / points))
    for start in range(0, len(curve), size):
        run = curve[start : start + size]
        yield start + len(run), sum(run) / len(run)
