"""Pictures past the trained resolution: a small vision transformer per encoding, tested on more patches.

It is trained on scikit-learn's handwritten digits, 8 by 8 pixels with a patch for each, and tested on held-out ones,
as they are and enlarged two and three times. There are two ways to place the patches of an enlarged picture:

- "extrapolated": rows and columns count on past those of training. A table that is learned has none there.
- "interpolated": they are fitted into those of training, as position interpolation does; a table is resized.

Nothing in training shows a digit that is more than eight patches high, so the first is a test of both: places that
were never seen, and strokes that are two or three patches wide.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.encodings import Learned, Rotary, RotaryMixed, Sinusoidal
from ropewalk.errors import ConfigError, UnsupportedError
from ropewalk.evaluate.run import Row
from ropewalk.lab.checkpoint import kept_at
from ropewalk.lab.estimates import rate
from ropewalk.lab.jobs import FINISHED, Tell, Wanted, trained
from ropewalk.lab.model import Shape
from ropewalk.lab.train import Batch, Recipe, Task, train
from ropewalk.lab.vit import GRID, ROW, TEXT, TIE, Vit

KIND = "pictures"
TRAINED, EXTRAPOLATED, INTERPOLATED = "trained", "extrapolated", "interpolated"
SIDE, HELD_OUT, CALL = 8, 360, 60  # pixels; pictures that are never trained on; pictures of a call
RESOLUTIONS = (1, 2, 3)
SHAPE = Shape(TEXT + 10, width=64, layers=2, heads=4, hidden=256)
STEP, READ = 20e-6, 14e-6  # about how many seconds a patch takes in training, and in a test


class Digits(NamedTuple):
    """Pictures Float32[N, 8, 8] from -1 to 1, and the word Int64[N] that each shows."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    digest: str


class Candidate(NamedTuple):
    """An encoding that takes part, and where its tokens stand (`vit.placed`)."""

    name: str
    encoding: Any
    places: str


class Picture(NamedTuple):
    """Train one model on digits, then test it at all resolutions."""

    name: str
    entrant: str
    places: str
    task: Task

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        recipe = self.task.recipe
        return recipe.steps * recipe.batch * recipe.length * STEP + self.tested * READ

    @property
    def tested(self) -> int:
        """Patches of all tests."""
        return sum(HELD_OUT * (SIDE * k) ** 2 * len(ways(k)) for k in RESOLUTIONS)

    def run(self, tell: Tell) -> Row:
        """The row of the training with its tests; a training that was killed goes on from its checkpoint."""
        start, recipe = time.perf_counter(), self.task.recipe
        each = recipe.batch * recipe.length * STEP
        model = Vit(SHAPE, self.task.encoding, self.places, self.task.seed, SIDE)
        done = train(self.task, model, batches(digits().train, recipe, self.task.seed), lambda _: tell(each))
        row: Row = {"kind": KIND, "name": self.name, "entrant": self.entrant, "places": self.places}
        row |= trained(self.task, done)
        row["tests"] = list(tests(model, tell)) if row["outcome"] == FINISHED else []
        return row | {"seconds": time.perf_counter() - start}


def candidates() -> tuple[Candidate, ...]:
    """Those that are compared, with the bases of their papers; mixed rotary learns in each layer for itself."""
    width, dim = SHAPE.width, SHAPE.width // SHAPE.heads
    half = (dim // 4, dim // 4)
    return (
        Candidate("learned", Learned(width, TEXT + SIDE**2), ROW),
        Candidate("2-D sinusoidal", Sinusoidal(width, axes=2), GRID),
        Candidate("axial RoPE", Rotary(dim, base=100.0, sections=half, rates="own"), GRID),
        Candidate("mixed RoPE", [RotaryMixed(dim, SHAPE.heads)] * SHAPE.layers, GRID),
        Candidate("RoPE-Tie", Rotary(dim, sections=half, layout="interleaved"), TIE),
        Candidate("NoPE", (), GRID),
    )


def jobs(wanted: Wanted) -> list[Picture]:
    """All trainings; quick ones are of half the steps."""
    recipe = Recipe(200 if wanted.quick else 400, 32, TEXT + SIDE**2, 3e-3, 60, wanted.dtype)
    made = list[Picture]()
    for seed in range(wanted.seeds):
        for name, encoding, places in candidates():
            file = kept_at(wanted.folder, f"{KIND} {name}", encoding, seed)
            task = Task(encoding, seed, SHAPE, recipe, f"digits {digits().digest} in places {places!r}", file)
            made.append(Picture(f"{KIND} {name} seed {seed}", name, places, task))
    return made


@functools.cache
def digits() -> Digits:
    """The 1797 digits of scikit-learn, shuffled once. Raises UnsupportedError where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UnsupportedError("pictures need scikit-learn: pip install scikit-learn") from None
    known: Any = load_digits()
    pictures = torch.tensor(known.images, dtype=torch.float32) / 8 - 1
    shown = torch.tensor(known.target, dtype=torch.int64) + TEXT
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))
    pictures, shown = pictures[order], shown[order]
    digest = sha256(pictures.numpy().tobytes() + shown.numpy().tobytes()).hexdigest()[:16]
    return Digits((pictures[HELD_OUT:], shown[HELD_OUT:]), (pictures[:HELD_OUT], shown[:HELD_OUT]), digest)


def batches(data: tuple[Tensor, Tensor], recipe: Recipe, seed: int) -> Any:
    """What step n is made on: all pictures once in an order that the seed draws, then in another."""
    pictures, shown = data
    draw = torch.Generator().manual_seed(seed)
    rounds = recipe.steps * recipe.batch // len(shown) + 1
    order = torch.cat([torch.randperm(len(shown), generator=draw) for _ in range(rounds)])

    def batch(step: int) -> Batch:
        some = order[step * recipe.batch : (step + 1) * recipe.batch]
        return Batch(pictures[some], shown[some, None])

    return batch


def enlarged(pictures: Tensor, times: int) -> Tensor:
    """Float32[N, times S, times S]: bilinear between the middles of pixels."""
    if times == 1:
        return pictures
    return F.interpolate(pictures[:, None], scale_factor=times, mode="bilinear", align_corners=False)[:, 0]


def ways(resolution: int) -> tuple[str, ...]:
    """How the patches of a picture may be placed."""
    return (TRAINED,) if resolution == 1 else (EXTRAPOLATED, INTERPOLATED)


@torch.inference_mode()
def tests(model: Vit, tell: Tell) -> Iterator[Row]:
    """{resolution, way, n, right} for every test; with `reason` instead of both where there are no such places."""
    pictures, shown = digits().held_out
    for resolution in RESOLUTIONS:
        for way in ways(resolution):
            found: Row = {"resolution": resolution, "way": way}
            try:
                right = 0
                for some, words in zip(pictures.split(CALL), shown.split(CALL), strict=True):
                    said = model.shown(enlarged(some, resolution), way == INTERPOLATED).argmax(-1)[:, 0]
                    right += int((said == words).sum())
                    tell(len(some) * (SIDE * resolution) ** 2 * READ)
                yield found | {"n": len(shown), "right": right}
            except ConfigError as reason:
                yield found | {"reason": str(reason)}


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """What the figure is drawn from: rows of kind "pictures", of any number of seeds.

    resolutions  [1, 2, 3], times the trained one
    n            how many held-out pictures
    encodings    a list, in the order of rows, of
        name, encoding, places, of_positions
        accuracy {"extrapolated": one entry per resolution: {resolution, rate, low, high, n, seeds, each}, as
                  `rate` makes, or {resolution, reason} where there is none; "interpolated": the same}; both begin with
                  the trained one
    """
    told = list[dict[str, Any]]()
    mine = [row for row in rows if row["kind"] == KIND]
    for name in dict.fromkeys(row["entrant"] for row in mine):
        group = [row for row in mine if row["entrant"] == name]
        curves = {way: [point(group, k, way) for k in RESOLUTIONS] for way in (EXTRAPOLATED, INTERPOLATED)}
        kept = {field: group[0][field] for field in ("encoding", "places", "of_positions")}
        told.append({"name": name, **kept, "accuracy": curves})
    return {"resolutions": list(RESOLUTIONS), "n": HELD_OUT, "encodings": told}


def point(group: Sequence[Row], resolution: int, way: str) -> dict[str, Any]:
    """One test of all seeds of an encoding that were trained to the end."""
    wanted = (resolution, TRAINED if resolution == 1 else way)
    found = [test for row in group for test in row["tests"] if (test["resolution"], test["way"]) == wanted]
    right = [test["right"] / test["n"] for test in found if "right" in test]
    if right:
        return {"resolution": resolution, **rate(right, HELD_OUT)}
    stopped = [f"training stopped: {row['reason']}" for row in group if row["reason"]]
    return {"resolution": resolution, "reason": next(iter([*(t["reason"] for t in found), *stopped]), "not tested")}
