"""Clips longer and larger than those of training: M-RoPE's time, row and column against one number per token.

A clip stands between two tokens of text: a few frames of noise, in front of them two frames that are a legend. Every
frame has a label somewhere; the legend has one somewhere in every row of its first frame and in every column of its
second. Marks in the frames ask where they are: some for the label of their frame, some of their row, some of their
column. Labels are drawn anew for each clip, so nothing is counted: the one that is asked for has a coordinate in
common with the mark.

Letters: B clips, F frames, S rows and columns.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.encodings import Rotary
from ropewalk.evaluate.run import Row
from ropewalk.lab.checkpoint import kept_at
from ropewalk.lab.estimates import rate
from ropewalk.lab.jobs import FINISHED, Tell, Wanted, trained
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.train import IGNORED, Batch, Recipe, Task, train
from ropewalk.media import Text, Video, multimodal
from ropewalk.tokens import Tokens, contiguous

ASKED = ("frame", "row", "column")
NOISE, MARKS, LABELS = 8, 4, 16  # how many there are; marks and labels of each kind
LEGEND = 2  # frames
MARK = NOISE
LABEL = MARK + len(ASKED)
BEGIN = LABEL + len(ASKED) * LABELS
END = BEGIN + 1
VOCABULARY = END + 1
KIND = "clips"
TRAINED = (4, 3)  # frames, and rows and columns
SIZES = ((4, 3), (8, 3), (16, 3), (4, 6), (4, 9))
TESTED, CALL, HELD_OUT = 64, 16, 2**21  # clips of a test; of a call; where their seeds begin
SHAPE = Shape(VOCABULARY, width=64, layers=2, heads=4, hidden=256)
STEP, READ = 20e-6, 14e-6  # about how many seconds a cell takes in training, and in a test


def clips(count: int, frames: int, side: int, draw: torch.Generator) -> Batch:
    """Int64[B, 2 + F, S, S] each: clips, and the label that every mark asks for, IGNORED elsewhere."""

    def labels(kind: int, n: int) -> Tensor:
        return LABEL + kind * LABELS + torch.rand(count, LABELS, generator=draw).argsort(1)[:, :n]

    def anywhere(n: int, below: int) -> Tensor:
        return torch.randint(below, (count, n, 1), generator=draw)

    known = labels(0, frames), labels(1, side), labels(2, side)
    cells = torch.randint(NOISE, (count, LEGEND + frames, side, side), generator=draw)
    cells[:, 0].scatter_(2, anywhere(side, side), known[1][..., None])
    cells[:, 1].mT.scatter_(2, anywhere(side, side), known[2][..., None])
    inside, label_at = cells[:, LEGEND:].flatten(2), anywhere(frames, side**2)
    inside = inside.scatter(2, label_at, known[0][..., None]).flatten(1)
    # a mark covers no label
    free = torch.rand(count, frames, side**2, generator=draw).scatter(2, label_at, -1.0).flatten(1)
    at = free.argsort(1, descending=True)[:, : len(ASKED) * MARKS]
    targets = torch.full_like(inside, IGNORED)
    for kind, where in enumerate((at // side**2, at // side % side, at % side)):
        mine = slice(kind * MARKS, (kind + 1) * MARKS)
        inside = inside.scatter(1, at[:, mine], MARK + kind)
        targets = targets.scatter(1, at[:, mine], known[kind].gather(1, where[:, mine]))
    legend = cells[:, :LEGEND]
    asked = torch.cat((torch.full_like(legend, IGNORED), targets.unflatten(1, (frames, side, side))), dim=1)
    return Batch(torch.cat((legend, inside.unflatten(1, (frames, side, side))), dim=1), asked)


class ClipReader(Decoder):
    """The decoder, reading a clip between two tokens of text, all of which see each other.

    Tokens of encodings with one axis stand in a row, frame by frame; those of others where M-RoPE puts them.
    """

    def forward(self, ids: Tensor, last: int = 0, at: Tokens | None = None) -> Tensor:
        """Float32[B, cells, V] of clips Int64[B, 2 + F, S, S]: the logits at every cell, in their order."""
        cells, text = ids.flatten(1), ids.new_tensor((BEGIN, END)).expand(len(ids), -1)
        x = F.embedding(torch.cat((text[:, :1], cells, text[:, 1:]), dim=1), self.embedding)
        x = self.through(x, self.settled(x.shape[1]), placed(self.encoding, tuple(ids.shape[1:])))
        return x[:, 1:-1] @ self.embedding.T


def placed(encoding: object, shape: tuple[int, ...]) -> Tokens:
    """Where the tokens of a clip of so many frames, rows and columns stand; all have come at once."""
    if getattr(encoding, "axes", 1) == 1:
        at = contiguous(2 + shape[0] * shape[1] * shape[2])
    else:
        at = multimodal(Text(1), Video(*shape), Text(1), rule="qwen2_vl", merge=1)
    return at._replace(order=torch.zeros_like(at.order))


class Clip(NamedTuple):
    """Train one model on short, small clips, then test it on longer and larger ones."""

    name: str
    entrant: str
    task: Task

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        recipe = self.task.recipe
        return recipe.steps * recipe.batch * recipe.length * STEP + sum(TESTED * cells(*size) * READ for size in SIZES)

    def run(self, tell: Tell) -> Row:
        """The row of the training with its tests; a training that was killed goes on from its checkpoint."""
        start, recipe, seed = time.perf_counter(), self.task.recipe, self.task.seed
        each = recipe.batch * recipe.length * STEP
        model = ClipReader(SHAPE, self.task.encoding, seed)

        def batch(step: int) -> Batch:
            draw = torch.Generator().manual_seed(seed * recipe.steps + step)
            return clips(recipe.batch, *TRAINED, draw)

        done = train(self.task, model, batch, lambda _: tell(each))
        row: Row = {"kind": KIND, "name": self.name, "entrant": self.entrant} | trained(self.task, done)
        row["tests"] = list(tests(model, tell)) if row["outcome"] == FINISHED else []
        return row | {"seconds": time.perf_counter() - start}


def candidates() -> dict[str, Rotary]:
    """Those that are compared, by name.

    M-RoPE has a base for a clip of a few places: from 10000, its slowest axis has no rate that tells neighbours apart.
    One number per token is tried with either base.
    """
    dim = SHAPE.width // SHAPE.heads
    sections = (dim // 2 - 2 * (3 * dim // 16), 3 * dim // 16, 3 * dim // 16)
    return {
        "RoPE, flat": Rotary(dim),
        "RoPE, flat, base 10": Rotary(dim, base=10.0),
        "M-RoPE": Rotary(dim, base=10.0, sections=sections),
        "M-RoPE interleaved": Rotary(dim, base=10.0, sections=sections, layout="interleaved"),
    }


def jobs(wanted: Wanted) -> list[Clip]:
    """All trainings; quick ones are of half the steps."""
    recipe = Recipe(200 if wanted.quick else 400, 32, cells(*TRAINED), 3e-3, 60, wanted.dtype)
    made = list[Clip]()
    for seed in range(wanted.seeds):
        for name, encoding in candidates().items():
            file = kept_at(wanted.folder, f"{KIND} {name}", encoding, seed)
            task = Task(encoding, seed, SHAPE, recipe, f"clips of {TRAINED[0]} frames, {TRAINED[1]} rows", file)
            made.append(Clip(f"{KIND} {name} seed {seed}", name, task))
    return made


def cells(frames: int, side: int) -> int:
    """Of a clip with its legend."""
    return (LEGEND + frames) * side**2


@torch.inference_mode()
def tests(model: ClipReader, tell: Tell) -> Iterator[Row]:
    """{frames, side, asked, n, right} for every size of clips and all that is asked; all models read the same clips."""
    for number, (frames, side) in enumerate(SIZES):
        draw, right = torch.Generator().manual_seed(HELD_OUT + number), [0] * len(ASKED)
        for _ in range(TESTED // CALL):
            shown, wanted, *_ = clips(CALL, frames, side, draw)
            found = model(shown).argmax(-1).view(wanted.shape) == wanted
            for kind in range(len(ASKED)):
                right[kind] += int(found[shown == MARK + kind].sum())
            tell(CALL * cells(frames, side) * READ)
        for asked, count in zip(ASKED, right, strict=True):
            yield {"frames": frames, "side": side, "asked": asked, "n": TESTED * MARKS, "right": count}


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """What the figure is drawn from: rows of kind "clips", of any number of seeds.

    trained    [frames, side]
    asked      ["frame", "row", "column"]
    encodings  a list, in the order of rows, of
        name, encoding
        accuracy {asked: one entry per size of clips: {frames, side, chance, rate, low, high, n, seeds, each}, or
                  {frames, side, chance, reason} where training stopped}; `chance` is one over the labels to choose from
    """
    told = list[dict[str, Any]]()
    mine = [row for row in rows if row["kind"] == KIND]
    for name in dict.fromkeys(row["entrant"] for row in mine):
        group = [row for row in mine if row["entrant"] == name]
        accuracy = {asked: [point(group, size, asked) for size in SIZES] for asked in ASKED}
        told.append({"name": name, "encoding": group[0]["encoding"], "accuracy": accuracy})
    return {"trained": list(TRAINED), "asked": list(ASKED), "encodings": told}


def point(group: Sequence[Row], size: tuple[int, int], asked: str) -> dict[str, Any]:
    """One test of all seeds of an encoding that were trained to the end."""
    frames, side = size
    entry = {"frames": frames, "side": side, "chance": 1 / (frames if asked == "frame" else side)}
    wanted = (*size, asked)
    found = [test for row in group for test in row["tests"] if (test["frames"], test["side"], test["asked"]) == wanted]
    if found:
        return entry | rate([test["right"] / test["n"] for test in found], TESTED * MARKS)
    reasons = (f"training stopped: {row['reason']}" for row in group if row["reason"])
    return entry | {"reason": next(reasons, "not tested")}
