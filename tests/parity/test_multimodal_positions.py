"""Positions of random rows of text, images and videos are those that transformers' own models give them."""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
    Qwen2VLConfig,
    Qwen2VLModel,
    Qwen3VLConfig,
    Qwen3VLModel,
)
from transformers.vision_utils import get_vision_position_ids

import ropewalk as rw

RATES = (1, 2, 4, 25)  # tokens per second
MERGES = (1, 2, 3)
LAYOUTS = 60
KINDS = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLModel, {"embed_dim": 32, "hidden_size": 32}),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLModel, {"hidden_size": 32, "out_hidden_size": 32}),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLModel, {"hidden_size": 32, "out_hidden_size": 32}),
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}
layouts = pytest.mark.parametrize("seed", range(LAYOUTS))
every = pytest.mark.parametrize("rule", list(KINDS))


def model(rule: str, merge: int, tokens_per_second: int = 2) -> PreTrainedModel:
    """A model of that kind without any weights: counting positions needs its configuration alone."""
    config, kind, vision = KINDS[rule]
    vision = vision | {"depth": 1, "num_heads": 2, "spatial_merge_size": merge}
    if rule == "qwen2_5_vl":
        vision["tokens_per_second"] = tokens_per_second
    with torch.device("meta"):
        return kind(config(text_config=TEXT, vision_config=vision))


@dataclass
class Row:
    """One random row, as ours writes it and as transformers is told of it."""

    segments: list[rw.Text | rw.Image | rw.Video] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)  # of each token: 0 text, 1 image, 2 video
    images: list[list[int]] = field(default_factory=list)
    videos: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def text(self, length: int) -> None:
        if length:
            self.segments.append(rw.Text(length))
            self.kinds += [0] * length

    def image(self, height: int, width: int, merge: int) -> None:
        self.images.append([1, height, width])
        self.segments.append(rw.Image(height, width))
        self.kinds += [1] * (height * width // merge**2)

    def video(self, time: int, height: int, width: int, seconds: float, merge: int) -> None:
        self.videos.append([time, height, width])
        self.seconds.append(seconds)
        self.segments.append(rw.Video(time, height, width, seconds))
        self.kinds += [2] * (time * height * width // merge**2)

    def frames(self, height: int, width: int, stamps: list[int], merge: int) -> None:
        self.videos.append([len(stamps), height, width])
        for stamp in stamps:
            self.text(stamp)
            self.segments.append(rw.Image(height, width))
            self.kinds += [2] * (height * width // merge**2)


def random_row(draw: random.Random, rule: str, merge: int) -> Row:
    """Up to four images and three videos in any order; text before, between and after them, or none."""
    row = Row()
    pictures = [1] * draw.randrange(5) + [2] * draw.randrange(4)
    draw.shuffle(pictures)
    for kind in pictures:
        # transformers finds a picture by the change of kind, so that two of a kind never touch there
        row.text(draw.randrange(5) or int(row.kinds[-1:] == [kind]))
        height, width = (merge * draw.randint(1, 5) for _ in range(2))
        if kind == 1:
            row.image(height, width, merge)
        elif rule == "qwen3_vl":
            row.frames(height, width, [draw.randint(1, 4) for _ in range(draw.randint(1, 4))], merge)
        else:
            fps = draw.choice([0.5, 1, 2, 3, 4, 7, 24, 29.97, 30, 41, 60])
            row.video(draw.randint(1, 7), height, width, draw.choice([2 / fps, draw.uniform(0.05, 3)]), merge)
    row.text(draw.randrange(5) or int(not row.kinds))
    return row


@dataclass
class Layout:
    """A batch of random rows, padded at one side."""

    rule: str
    merge: int
    tokens_per_second: int
    side: str
    rows: list[Row]

    @property
    def mask(self) -> Tensor:
        """Int[B, T]: 1 for tokens that are no padding."""
        return self.padded([[1] * len(row.kinds) for row in self.rows])

    def padded(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        blank = [[0] * (longest - len(row)) for row in rows]
        sides = zip(blank, rows, strict=True) if self.side == "left" else zip(rows, blank, strict=True)
        return torch.tensor([a + b for a, b in sides])

    def ours(self, advance: str = "max") -> rw.Tokens:
        options: dict[str, Any] = {"rule": self.rule, "merge": self.merge, "advance": advance}
        if self.rule == "qwen2_5_vl":
            options["tokens_per_second"] = self.tokens_per_second
        return rw.pad(*(rw.multimodal(*row.segments, **options) for row in self.rows), side=self.side)

    def model(self) -> PreTrainedModel:
        return model(self.rule, self.merge, self.tokens_per_second)

    def inputs(self) -> dict[str, Any]:
        """What `get_rope_index` takes, padding included."""
        images = [grid for row in self.rows for grid in row.images]
        videos = [grid for row in self.rows for grid in row.videos]
        given: dict[str, Any] = {
            "input_ids": torch.zeros_like(self.mask),
            "mm_token_type_ids": self.padded([row.kinds for row in self.rows]),
            "image_grid_thw": torch.tensor(images) if images else None,
            "video_grid_thw": torch.tensor(videos) if videos else None,
            "attention_mask": self.mask,
        }
        if self.rule == "qwen2_5_vl":
            given["second_per_grid_ts"] = torch.tensor([s for row in self.rows for s in row.seconds])
        return given

    def outlasts(self, n: int) -> bool:
        """Whether a video of row n reaches later than it is high and wide, so that the two advances may differ."""
        row = self.rows[n]
        for (time, height, width), seconds in zip(row.videos, row.seconds, strict=False):
            step = seconds * self.tokens_per_second if self.rule == "qwen2_5_vl" else 1
            if self.rule != "qwen3_vl" and int((time - 1) * step) >= max(height, width) // self.merge:
                return True
        return False


def layout(rule: str, seed: int) -> Layout:
    draw = random.Random(f"{rule} {seed}")
    merge = draw.choice(MERGES)
    rows = [random_row(draw, rule, merge) for _ in range(draw.randint(1, 4))]
    return Layout(rule, merge, draw.choice(RATES), draw.choice(["left", "right"]), rows)


@every
@layouts
def test_positions_and_deltas_of_random_rows_are_those_of_transformers(rule: str, seed: int) -> None:
    batch = layout(rule, seed)
    expected, deltas = batch.model().get_rope_index(**batch.inputs())
    own = batch.mask.bool()
    at = batch.ours("hw")
    assert torch.equal(at.document == 0, own)
    assert torch.equal(at.position[own], expected.permute(1, 2, 0)[own])
    assert torch.equal(rw.position_delta(at), deltas[:, 0])

    later = batch.ours("max")
    for n in range(len(batch.rows)):
        agree = torch.equal(later.position[n][own[n]], expected[:, n].T[own[n]])
        assert agree or batch.outlasts(n)


@pytest.mark.parametrize("rule", ["qwen2_vl", "qwen2_5_vl"])
def test_the_random_rows_hold_both_kinds_of_videos_and_the_advances_differ_over_long_ones(rule: str) -> None:
    batches = [layout(rule, seed) for seed in range(LAYOUTS)]
    outlasting = [batch.outlasts(n) for batch in batches for n in range(len(batch.rows))]
    assert min(outlasting.count(True), outlasting.count(False)) >= LAYOUTS // 2
    same = [
        torch.equal(a, b) for batch in batches for a, b in zip(batch.ours("max")[0], batch.ours("hw")[0], strict=True)
    ]
    assert same.count(False) >= LAYOUTS // 3
    assert all(equal or late for equal, late in zip(same, outlasting, strict=True))


@every
@layouts
def test_decoded_tokens_stand_where_transformers_puts_them(rule: str, seed: int) -> None:
    batch = layout(rule, seed)
    if not any(row.images or row.videos for row in batch.rows):
        # transformers leaves rows of text alone to the model
        batch.rows[0].image(2 * batch.merge, batch.merge, batch.merge)
    # a row that is padded on the right cannot be decoded from its last token
    batch.side = "left"
    theirs, (rows, past), count = batch.model(), batch.mask.shape, 2
    prefill = theirs.compute_3d_position_ids(
        **batch.inputs(), inputs_embeds=torch.zeros(rows, past, 32), past_key_values=None
    )
    # without a mask transformers counts from the length of the cache, with one from the tokens that it shows
    mask = torch.cat((batch.mask, torch.ones(rows, count, dtype=torch.long)), dim=1) if rows > 1 else None
    expected = theirs.compute_3d_position_ids(
        input_ids=torch.zeros(rows, count, dtype=torch.long),
        image_grid_thw=None,
        video_grid_thw=None,
        inputs_embeds=torch.zeros(rows, count, 32),
        attention_mask=mask,
        past_key_values=SimpleNamespace(get_seq_length=lambda: past),
    )
    at = batch.ours("hw")
    own = batch.mask.bool()
    assert torch.equal(at.position[own], prefill.permute(1, 2, 0)[own])
    new = rw.append(at, count)
    assert torch.equal(new.position, expected[:, :, -count:].permute(1, 2, 0))
    assert torch.equal(rw.position_delta(at), theirs.rope_deltas[:, 0])


@pytest.mark.parametrize("fps", [3, 7, 29.97, 41, 47, 49, 55])
@pytest.mark.parametrize("rate", RATES)
def test_steps_of_long_videos_that_nearly_fall_on_a_whole_place(fps: float, rate: int) -> None:
    row = Row()
    row.video(400, 2, 2, 2 / fps, 2)
    batch = Layout("qwen2_5_vl", 2, rate, "left", [row])
    expected, _ = batch.model().get_rope_index(**batch.inputs())
    assert torch.equal(batch.ours().position, expected.permute(1, 2, 0))


def test_float64_would_place_some_of_those_steps_elsewhere() -> None:
    row = Row()
    row.video(400, 2, 2, 2 / 41, 2)
    placed = Layout("qwen2_5_vl", 2, 2, "left", [row]).ours().position[0, :, 0]
    assert placed.tolist() != [int(n * (2 / 41 * 2)) for n in range(400)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 2)])
def test_a_grid_is_that_of_the_vision_encoders(height: int, width: int) -> None:
    expected = get_vision_position_ids(torch.tensor([[1, height, width]]), spatial_merge_size=1)
    assert torch.equal(rw.grid(height, width).position[0], expected)
