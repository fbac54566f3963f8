"""Positions of text, images and videos in one row, of the patches of one image, and of several rows together.

How the patches of a picture are placed between two texts differs from model to model: the rules of `multimodal`.
M-RoPE: Wang et al. 2024, arXiv:2409.12191; Bai et al. 2025, arXiv:2502.13923. RoPE-Tie and RoPE-TV: Su 2024,
kexue.fm/archives/10040 and 10352.  Letters: B batch, T tokens, A axes, N tokens of one picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.errors import require, require_number
from ropewalk.tokens import PADDING, Tokens, append

MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
AXES = dict.fromkeys(MROPE, 3) | {"tie": 2, "tie_wh": 2, "tv": 2, "tv3": 3}
OF_VIDEOS = ("qwen2_vl", "qwen2_5_vl", "tv3")


@dataclass(frozen=True)
class Text:
    """A run of `length` tokens of text."""

    length: int

    def __post_init__(self) -> None:
        require_number(self, "length", at_least=1, whole=True)


@dataclass(frozen=True)
class Image:
    """A picture of `height` by `width` patches, counted before the model merges any (transformers' image_grid_thw)."""

    height: int
    width: int
    time: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for field in ("height", "width"):
            require_number(self, field, at_least=1, whole=True)


@dataclass(frozen=True)
class Video:
    """`time` steps of `height` by `width` patches, counted before the model merges any (video_grid_thw).

    A step is one temporal patch, of two frames in the Qwen models; `seconds` is how long it lasts, 2 / fps there
    (second_per_grid_ts). Only the rule "qwen2_5_vl" asks for it.
    """

    time: int
    height: int
    width: int
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in ("time", "height", "width"):
            require_number(self, field, at_least=1, whole=True)
        if self.seconds is not None:
            require_number(self, "seconds", above=0)


Segment = Text | Image | Video


def multimodal(
    *segments: Segment, rule: str, merge: int = 2, advance: str = "max", tokens_per_second: float | None = None
) -> Tokens:
    """One row, one document: the tokens of each segment in turn, patches row by row and step by step. [1, T, A].

    Text counts on along all axes at once. A picture has one token for every `merge` by `merge` patches. `rule` is

    - "qwen2_vl": axes (time, row, column), int64. A patch stands as many places after the first free one as its step,
      row and column say.
    - "qwen2_5_vl": the same, but the steps of a video lie seconds * tokens_per_second apart, rounded down to a place
      (released checkpoints: 2 tokens per second).
    - "qwen3_vl": the same for single images. A video is written frame by frame: Text (its timestamp), Image, Text, ...
    - "tie", "tie_wh", "tv": axes (row, column), float64. Patches lie evenly around the middle between the text before
      and the text after, so that both are equally far. "tie" leaves as many places for a picture as a grid with a
      border on two sides has, "tie_wh" and "tv" as many as it has tokens; "tv" keeps patches one place apart.
    - "tv3": "tv" along (time, row, column), for videos too.

    `advance` says where text goes on under the first three: "max" after the largest coordinate of the picture (the
    models' own code), "hw" after its rows and columns, however late its last step is (transformers 5.23). They differ
    where a video is longer than wide and high. Raises ConfigError for segments that the rule cannot place.
    """
    check_arguments(rule, merge, advance, tokens_per_second)
    check_segments(segments, rule, merge)
    start, blocks = 0, []
    for segment in segments:
        if isinstance(segment, Text):
            axes, after = [torch.arange(start, start + segment.length)], start + segment.length
        elif rule in MROPE:
            axes, after = counted(size(segment, merge), start, step_of(segment, rule, tokens_per_second), advance)
        else:
            axes, after = centred(size(segment, merge)[-AXES[rule] :], start - 1, rule)
        blocks.append(torch.cartesian_prod(*axes).view(-1, len(axes)).expand(-1, AXES[rule]))
        start = after
    position = torch.cat(blocks)[None].to(torch.int64 if rule in MROPE else torch.float64)
    order = torch.arange(position.shape[1])[None]
    return Tokens(position, order, torch.zeros_like(order))


def check_arguments(rule: str, merge: int, advance: str, tokens_per_second: float | None) -> None:
    """Raise ConfigError for an argument of `multimodal` that no rule knows, or that this one does not read."""
    require(isinstance(rule, str) and rule in AXES, "multimodal.rule", " or ".join(map(repr, AXES)), rule)
    require(type(merge) is int and merge >= 1, "multimodal.merge", "a whole number of at least 1", merge)
    known = ("max", "hw") if rule in MROPE else ("max",)
    require(advance in known, "multimodal.advance", f"{' or '.join(map(repr, known))} under rule {rule!r}", advance)
    if tokens_per_second is not None:
        ok = type(tokens_per_second) in (int, float) and 0 < tokens_per_second < math.inf
        require(ok, "multimodal.tokens_per_second", "a number above 0", tokens_per_second)
        require(rule == "qwen2_5_vl", "multimodal.tokens_per_second", f"None under rule {rule!r}", tokens_per_second)


def check_segments(segments: Sequence[Segment], rule: str, merge: int) -> None:
    """Raise ConfigError unless the rule can place these segments."""
    require(len(segments) > 0, "multimodal.segments", "at least one", segments)
    for segment, following in zip(segments, (*segments[1:], None), strict=True):
        require(isinstance(segment, Segment), "multimodal.segments", "Text, Image or Video", segment)
        if isinstance(segment, Text):
            continue
        for field in ("height", "width"):
            patches = getattr(segment, field)
            require(patches % merge == 0, f"{type(segment).__name__}.{field}", f"divisible by merge = {merge}", patches)
        where = f"under rule {rule!r}"
        short = segment.time == 1 or rule in OF_VIDEOS
        require(short, "Video.time", f"1 {where} (an Image for every frame, with text between)", segment.time)
        # the place of a patch is defined by the text on either side
        enclosed = rule in MROPE or isinstance(following, Text)
        require(enclosed, "multimodal.segments", f"such that Text follows every picture {where}", segment)


def size(picture: Image | Video, merge: int) -> tuple[int, int, int]:
    """How many tokens a picture has along time, height and width."""
    return picture.time, picture.height // merge, picture.width // merge


def step_of(picture: Image | Video, rule: str, tokens_per_second: float | None) -> Tensor:
    """Float32[]: how many places two steps of the picture lie apart. Raises ConfigError where nobody says."""
    if rule != "qwen2_5_vl" or isinstance(picture, Image):
        return torch.tensor(1.0)
    require(picture.seconds is not None, "Video.seconds", "given under rule 'qwen2_5_vl'", None)
    require(tokens_per_second is not None, "multimodal.tokens_per_second", "given where there is a Video", None)
    # in float32, as the models were trained: where a product is nearly whole, that decides which place it falls to
    return torch.tensor(tokens_per_second) * torch.tensor(picture.seconds)


def counted(sizes: Sequence[int], start: int, step: Tensor, advance: str) -> tuple[list[Tensor], int]:
    """The coordinates along time, height and width, and the place where text goes on."""
    axes = [torch.arange(n) for n in sizes]
    # rounded down after the multiplication, so that fractions of a place add up
    axes[0] = (axes[0] * step).long()
    reach = axes[1:] if advance == "hw" else axes
    return [start + a for a in axes], start + 1 + max(int(a[-1]) for a in reach)


def centred(sizes: Sequence[int], before: int, rule: str) -> tuple[list[Tensor], int]:
    """The coordinates along each axis, evenly about the middle between the text `before` and the text that goes on."""
    room = math.prod(n + 1 for n in sizes) if rule == "tie" else math.prod(sizes) + 1
    axes: list[Tensor] = []
    for n in sizes:
        step = room / (n + 1) if rule in ("tie", "tie_wh") else 1.0
        axes.append(before + (room - (n - 1) * step) / 2 + torch.arange(n, dtype=torch.float64) * step)
    return axes, before + room


def grid(height: int, width: int, extra: int = 0) -> Tokens:
    """The patches of one image for a vision encoder, row by row: axes (row, column), int64 [1, extra + N, 2].

    `extra` tokens that are no patches (a class token, registers) stand in front, at (0, 0): no rotary turns them.
    """
    for name, count, least in (("height", height, 1), ("width", width, 1), ("extra", extra, 0)):
        require(type(count) is int and count >= least, f"grid.{name}", f"a whole number of at least {least}", count)
    patches = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    order = torch.arange(extra + height * width)[None]
    return Tokens(F.pad(patches, (0, 0, extra, 0))[None], order, torch.zeros_like(order))


def position_delta(at: Tokens) -> Tensor:
    """[B]: by how much the position of the next decoded token exceeds the number of tokens of its document so far.

    With a cache of n tokens that are no padding, a new token stands at n + delta along every axis (rope_deltas in
    transformers). `at` is whole rows, not shards; of several documents in a row the last one counts.
    """
    following = append(at, 1)
    return following.position[:, 0, 0] - (at.document == following.document).sum(dim=1)


def pad(*rows: Tokens, side: str = "left") -> Tokens:
    """Rows of any lengths as one batch [B, T, A], filled up to the longest at one `side`, "left" or "right".

    Padding is a document of its own, at position 0. Raises ConfigError for rows with different axes.
    """
    check_rows(rows, "pad")
    require(side in ("left", "right"), "pad.side", "'left' or 'right'", side)
    longest = max(row.order.shape[1] for row in rows)
    filled = []
    for row in rows:
        missing = longest - row.order.shape[1]
        left, right = (missing, 0) if side == "left" else (0, missing)
        document = F.pad(row.document, (left, right), value=PADDING)
        column = torch.arange(longest, device=document.device)
        moved = F.pad(row.order + left, (left, right))
        position = F.pad(row.position, (0, 0, left, right))
        filled.append(Tokens(position, torch.where(document == PADDING, column, moved), document))
    return Tokens(*(torch.cat(parts) for parts in zip(*filled, strict=True)))


def pack(*rows: Tokens) -> Tokens:
    """Rows one after another in one [B, T, A], each a document (or several) of its own.

    Positions stay, order and document numbers run on. Raises ConfigError for rows with different axes or batches.
    """
    check_rows(rows, "pack")
    batches = {row.order.shape[0] for row in rows}
    require(len(batches) == 1, "pack.rows", "batches of equal size", sorted(batches))
    order, document, packed = 0, 0, []
    for row in rows:
        when = row.order - row.order.amin() + order
        whose = torch.where(row.document == PADDING, PADDING, row.document + document)
        packed.append(Tokens(row.position, when, whose))
        order, document = int(when.amax()) + 1, max(int(whose.amax()) + 1, document)
    return Tokens(*(torch.cat(parts, dim=1) for parts in zip(*packed, strict=True)))


def check_rows(rows: Sequence[Tokens], owner: str) -> None:
    """Raise ConfigError unless there are rows, none of them empty, all with the same axes and type of position."""
    lengths = [row.order.shape[1] for row in rows]
    require(len(rows) > 0 and min(lengths) > 0, f"{owner}.rows", "at least one, none without tokens", lengths)
    kinds = {(row.position.shape[-1], row.position.dtype) for row in rows}
    rule = "of one number of axes and one type of position"
    require(len(kinds) == 1, f"{owner}.rows", rule, sorted(kinds, key=str))
