"""One training: AdamW with a warm-up and a cosine, on an order of batches that depends on the seed alone.

Letters: B batch, T tokens, N tokens of the stream.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropewalk.errors import require_choice, require_number
from ropewalk.lab.checkpoint import CURVE, MODEL, STATE, Saved, moments, put, put_moments, resumed, save
from ropewalk.lab.data import windows
from ropewalk.lab.model import Decoder, Shape
from ropewalk.tokens import Tokens
from ropewalk.written import short

if TYPE_CHECKING:
    from ropewalk.lab.ranks import Ranks

T = TypeVar("T")
BETAS, DECAY, CLIP, FLOOR = (0.9, 0.95), 0.1, 1.0, 0.1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EVERY = 100  # steps between two checkpoints
IGNORED = -100  # a target that is not asked for


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


class Whole(NamedTuple):
    """What a batch is a part of, where several processes share it."""

    targets: int  # that count, of all of them
    total: Callable[[Tensor], Tensor]  # what a number of each process adds up to


class Batch(NamedTuple):
    """What a step is made on; of all targets those that are not IGNORED count alike."""

    ids: Tensor  # Int64[B, T]
    targets: Tensor  # Int64[B, T]
    at: Tokens | None = None  # where tokens stand; None: in a row from 0
    whole: Whole | None = None


def train(
    task: Task,
    model: Decoder,
    batches: Callable[[int], Batch],
    tell: Callable[[int], None],
    every: int = EVERY,
    ranks: "Ranks | None" = None,
) -> Trained:
    """Train from the last checkpoint, or from the start, to the last step; `tell` hears of every step that is done.

    `batches` gives what step number n, from 0, is made on. The outcome is the same bit for bit however often it was
    interrupted. A loss or a gradient that is no number ends it: the checkpoint then holds what was before that step,
    and the reason says which. With `ranks`, all of which call this alike, parameters and batches are shared among
    them; the first alone reads and writes the checkpoint, which any number of processes can go on from.
    """
    recipe = task.recipe
    torch.manual_seed(task.seed)
    found = first(ranks, lambda: resumed(task.file, task.settings()))
    running, optimiser = begin(model.train().multiply_in(DTYPES[recipe.dtype]), found, ranks)
    curve: list[float] = found.tensors[CURVE].tolist() if found else []
    saved, reason = len(curve) if found else -1, ""
    for step in range(len(curve), recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(step)
        given = batches(step)
        loss, reason = update(running, optimiser, ranks.share(given) if ranks else given)
        if reason:
            reason = f"{reason} in step {step + 1} of {recipe.steps}"
            break
        curve.append(loss)
        tell(step + 1)
        if len(curve) % every == 0:
            keep(state(task, running, optimiser, curve), task.file, ranks)
            saved = len(curve)
    if saved < len(curve):
        keep(state(task, running, optimiser, curve), task.file, ranks)
    if ranks:
        put(model, state(task, running, optimiser, curve).tensors)
    return Trained(model.eval().multiply_in(torch.float32), curve, reason)


def begin(model: Decoder, found: Saved | None, ranks: "Ranks | None") -> tuple[Decoder, torch.optim.AdamW]:
    """What is trained, and by what, as a checkpoint has left them."""
    if found:
        put(model, found.tensors)
        torch.set_rng_state(found.tensors[STATE])
    running = ranks.spread(model) if ranks else model
    optimiser = adam(running)
    if found:
        put_moments(optimiser, found.tensors)
        if ranks:
            ranks.spread_moments(optimiser)
    return running, optimiser


def first(ranks: "Ranks | None", act: Callable[[], T]) -> T:
    """What `act` gives, which is done by the first process alone."""
    return ranks.first(act) if ranks else act()


def keep(now: Saved, file: Path, ranks: "Ranks | None") -> None:
    """Write a checkpoint."""
    first(ranks, lambda: save(file, now))


def update(model: Decoder, optimiser: torch.optim.Optimizer, given: Batch) -> tuple[float, str]:
    """One step: the mean loss in nats, and what is wrong if anything is; then nothing changes."""
    logits = model(given.ids, at=given.at)
    loss, mean = mean_loss(logits.flatten(0, 1), given)
    if not math.isfinite(mean):
        return mean, f"a loss that is {mean}"
    loss.backward()
    norm = gathered(nn.utils.clip_grad_norm_(model.parameters(), CLIP)).item()
    if not math.isfinite(norm):
        return mean, f"a gradient that is {norm}"
    optimiser.step()
    optimiser.zero_grad()
    return mean, ""


def mean_loss(logits: Tensor, given: Batch) -> tuple[Tensor, float]:
    """The part of the mean loss that logits [B * T, V] make up, and the mean."""
    if given.whole is None:
        loss = F.cross_entropy(logits, given.targets.flatten(), ignore_index=IGNORED)
        return loss, loss.item()
    loss = F.cross_entropy(logits, given.targets.flatten(), ignore_index=IGNORED, reduction="sum")
    loss = loss / given.whole.targets
    return loss, given.whole.total(loss.detach()).item()


def gathered(x: Tensor) -> Tensor:
    """The whole of a tensor of which each of several processes holds a part; any other is as it is."""
    # asked by name: the module of the class takes a second to import
    everything: Callable[[], Tensor] | None = getattr(x, "full_tensor", None)
    return x if everything is None else everything()


def adam(model: Decoder) -> torch.optim.AdamW:
    """AdamW whose decay pulls at the matrices of layers and at the embedding, not at what encodings learn."""
    named = list(model.named_parameters())
    pulled = [x for name, x in named if x.dim() == 2 and not name.startswith("positions.")]
    free = [x for name, x in named if x.dim() != 2 or name.startswith("positions.")]
    groups = [{"params": pulled, "weight_decay": DECAY}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=BETAS, fused=True)


def texts(stream: Tensor, recipe: Recipe, seed: int) -> Callable[[int], Batch]:
    """What each step is made on where text is learned: pieces of Int[N] `stream`, the same for every encoding."""
    order = starts(len(stream), recipe, seed)
    return lambda step: Batch(*windows(stream, order[step], recipe.length))


def starts(tokens: int, recipe: Recipe, seed: int) -> Tensor:
    """Int64[steps, batch]: where in the stream the texts of every step begin; the same for every encoding."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(tokens - recipe.length, (recipe.steps, recipe.batch), generator=draw)


def state(task: Task, model: Decoder, optimiser: torch.optim.Optimizer, curve: list[float]) -> Saved:
    """Everything that the next step depends on."""
    tensors = {MODEL + name: x for name, x in model.state_dict().items()} | moments(optimiser)
    tensors = {name: gathered(x) for name, x in tensors.items()}
    tensors |= {CURVE: torch.tensor(curve), STATE: torch.get_rng_state()}
    return Saved(tensors, len(curve), task.settings())


def thinned(curve: list[float], points: int = 200) -> Iterator[tuple[int, float]]:
    """At most so many points of a curve: the step that each run of steps ends with, and its mean loss."""
    size = max(1, math.ceil(len(curve) / points))
    for start in range(0, len(curve), size):
        run = curve[start : start + size]
        yield start + len(run), sum(run) / len(run)
