"""media.py: positions of text, images and videos in one row, and rows put together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ropewalk as rw
from ropewalk.media import AXES, MROPE, Segment
from ropewalk.tokens import PADDING
from tolerance import tolerance

RULES = tuple(AXES)
TIES = tuple(rule for rule in RULES if rule not in MROPE)
every = pytest.mark.parametrize("rule", RULES)
between_texts = pytest.mark.parametrize("rule", TIES)
HEADS, DIM = 2, 24
ROTARIES = {2: rw.Rotary(DIM, sections=(6, 6), layout="interleaved"), 3: rw.Rotary(DIM, sections=(4, 4, 4))}
PAGE: tuple[Segment, ...] = (rw.Text(3), rw.Image(4, 6), rw.Text(1), rw.Image(2, 2), rw.Text(4))
SHOT = (rw.Text(2), rw.Video(9, 4, 4, seconds=0.7), rw.Text(3))

sides = st.integers(1, 9)


def same(found: rw.Tokens, expected: rw.Tokens) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def ids(at: rw.Tokens) -> list[list[float]]:
    """The coordinates of the first row, axis by axis."""
    return at.position[0].T.tolist()


def qkv(length: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, 1, HEADS, length, DIM, generator=torch.Generator().manual_seed(length))
    return q, k, v


def run(
    q: Tensor, k: Tensor, v: Tensor, q_at: rw.Tokens, k_at: rw.Tokens, mask: rw.masks.Mask = rw.masks.causal
) -> Tensor:
    return rw.attend(q, k, v, ROTARIES[k_at.position.shape[-1]], {}, q_at, k_at, mask)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(expected, DIM))


@every
def test_text_alone_is_a_contiguous_row_along_every_axis(rule: str) -> None:
    at, plain = rw.multimodal(rw.Text(5), rw.Text(4), rule=rule), rw.contiguous(9)
    assert at.position.dtype == (torch.int64 if rule in MROPE else torch.float64)
    assert torch.equal(at.position, plain.position.expand(-1, -1, AXES[rule]).to(at.position.dtype))
    same(at._replace(position=plain.position), plain)


@every
def test_patches_are_one_document_in_reading_order(rule: str) -> None:
    at = rw.multimodal(*PAGE, rule=rule)
    assert at.position.shape == (1, 3 + 6 + 1 + 1 + 4, AXES[rule])
    assert at.order.tolist() == [list(range(15))]
    assert at.document.tolist() == [[0] * 15]


@every
def test_a_patch_sees_the_patches_before_it_and_none_after(rule: str) -> None:
    at = rw.multimodal(*PAGE, rule=rule)
    assert torch.equal(rw.masks.causal(at, at)[0], torch.ones(15, 15, dtype=torch.bool).tril())


def test_a_picture_starts_at_the_first_free_place_and_counts_steps_rows_and_columns() -> None:
    at = rw.multimodal(rw.Text(2), rw.Video(2, 4, 6), rw.Text(1), rule="qwen2_vl")
    t, h, w = ids(at)
    assert t == [0, 1, *[2] * 6, *[3] * 6, 5]
    assert h == [0, 1, *[2, 2, 2, 3, 3, 3] * 2, 5]
    assert w == [0, 1, *[2, 3, 4] * 4, 5]


def test_merged_patches_are_one_token() -> None:
    assert rw.multimodal(rw.Image(12, 6), rule="qwen2_vl", merge=3).position.shape == (1, 8, 3)


def test_fractions_of_a_place_add_up_before_they_are_dropped() -> None:
    at = rw.multimodal(rw.Text(1), rw.Video(5, 2, 2, seconds=0.35), rule="qwen2_5_vl", tokens_per_second=2)
    assert ids(at)[0] == [0, 1, 1, 2, 3, 3]
    assert ids(at)[1] == ids(at)[2] == [0, 1, 1, 1, 1, 1]


def test_only_videos_are_stretched_and_only_under_the_rule_that_says_so() -> None:
    stretched = rw.multimodal(*SHOT, rule="qwen2_5_vl", tokens_per_second=4)
    assert ids(stretched)[0][2::4][:9] == [2 + int(2.8 * n) for n in range(9)]
    plain = rw.multimodal(*SHOT, rule="qwen2_vl")
    assert ids(plain)[0][2::4][:9] == [2 + n for n in range(9)]
    same(rw.multimodal(*PAGE, rule="qwen2_5_vl", tokens_per_second=4), rw.multimodal(*PAGE, rule="qwen2_vl"))


def test_text_goes_on_after_a_long_video_or_after_its_rows_and_columns() -> None:
    assert ids(rw.multimodal(*SHOT, rule="qwen2_vl"))[0][-3:] == [11, 12, 13]
    assert ids(rw.multimodal(*SHOT, rule="qwen2_vl", advance="hw"))[0][-3:] == [4, 5, 6]


@every
def test_the_default_is_the_advance_after_the_largest_coordinate(rule: str) -> None:
    page = SHOT if rule == "qwen2_vl" else PAGE
    same(rw.multimodal(*page, rule=rule), rw.multimodal(*page, rule=rule, advance="max"))


@between_texts
@given(st.integers(0, 50), sides, sides)
def test_a_picture_is_as_far_from_the_text_before_as_from_the_text_after(
    rule: str, length: int, height: int, width: int
) -> None:
    words = [rw.Text(length)] if length else []
    at = rw.multimodal(*words, rw.Image(height, width), rw.Text(1), rule=rule, merge=1).position[0]
    # where no text stands before, the place in front of the first token takes its part
    before, first, last, after = torch.full_like(at[0], length - 1), at[length], at[-2], at[-1]
    # halves and quotients of numbers below 200
    torch.testing.assert_close(first - before, after - last, rtol=0, atol=1e-12)
    assert ((first > before) & (after > last)).all()
    assert torch.equal(after, after[:1].expand(AXES[rule]))


@given(sides, sides, sides)
def test_a_video_is_as_far_from_the_text_before_as_from_the_text_after(time: int, height: int, width: int) -> None:
    at = rw.multimodal(rw.Text(4), rw.Video(time, height, width), rw.Text(1), rule="tv3", merge=1).position[0]
    assert torch.equal(at[4] - at[3], at[-1] - at[-2])
    assert torch.equal(at[-1], torch.full((3,), 4.0 + time * height * width).double())
    assert torch.equal(at[-2] - at[4], torch.tensor([time - 1.0, height - 1.0, width - 1.0]).double())


@pytest.mark.parametrize(("rule", "room"), [("tie", 4 * 3), ("tie_wh", 7), ("tv", 7), ("tv3", 7)])
def test_the_room_of_a_picture_between_two_texts(rule: str, room: int) -> None:
    first, last = rw.multimodal(rw.Text(5), rw.Image(2, 3), rw.Text(2), rule=rule, merge=1).position[0, [4, -2]]
    assert torch.equal(last - first, torch.full_like(first, room))


@pytest.mark.parametrize("rule", ["tie", "tie_wh", "tv"])
def test_a_single_patch_is_a_token_of_text_in_the_middle(rule: str) -> None:
    at = rw.multimodal(rw.Text(5), rw.Image(1, 1), rw.Text(2), rule=rule, merge=1)
    middle = 6.0 if rule == "tie" else 5.0
    assert at.position[0, 4:7].tolist() == [[4.0, 4.0], [middle, middle], [2 * middle - 4] * 2]


@every
@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_shards_of_a_row_make_up_the_whole(rule: str, layout: str) -> None:
    at = rw.multimodal(*PAGE, rw.Text(1), rule=rule)
    q, k, v = qkv(16)
    whole = run(q, k, v, at, at)
    shards = [rw.shard(at, rank, 4, layout) for rank in range(4)]
    gathered = rw.Tokens(*(torch.cat(parts, dim=1) for parts in zip(*shards, strict=True)))
    index = gathered.order[0]
    assert sorted(index.tolist()) == list(range(16))
    for mine in shards:
        some = mine.order[0]
        assert torch.equal(mine.position, at.position[:, some])
        part = run(q[:, :, some], k[:, :, index], v[:, :, index], mine, gathered)
        close(part, whole[:, :, some])


@every
def test_packed_rows_equal_separate_rows(rule: str) -> None:
    first, second = rw.multimodal(*PAGE, rule=rule), rw.multimodal(*PAGE[2:], rule=rule)
    both = rw.pack(first, second)
    assert torch.equal(both.position, torch.cat((first.position, second.position), dim=1))
    assert both.order.tolist() == [list(range(21))]
    assert both.document.tolist() == [[0] * 15 + [1] * 6]
    q, k, v = qkv(21)
    whole = run(q, k, v, both, both)
    close(whole[:, :, :15], run(*(x[:, :, :15] for x in (q, k, v)), first, first))
    close(whole[:, :, 15:], run(*(x[:, :, 15:] for x in (q, k, v)), second, second))


def test_packing_plain_rows_is_packed_and_packs_of_packs_run_on() -> None:
    same(rw.pack(rw.contiguous(3), rw.contiguous(2), rw.contiguous(4)), rw.packed(3, 2, 4))
    same(rw.pack(rw.packed(3, 2), rw.contiguous(4)), rw.packed(3, 2, 4))
    same(rw.pack(rw.contiguous(3), rw.packed(2, 4)), rw.packed(3, 2, 4))


def test_padding_plain_rows_on_the_left_is_ragged() -> None:
    same(rw.pad(rw.contiguous(2), rw.contiguous(5), rw.contiguous(1)), rw.ragged(2, 5, 1))


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_attends_as_it_does_alone(rule: str, side: str) -> None:
    rows = rw.multimodal(*PAGE[2:], rule=rule), rw.multimodal(*PAGE, rule=rule)
    both = rw.pad(*rows, side=side)
    own = slice(9, None) if side == "left" else slice(6)
    assert both.document[0].tolist() == ([PADDING] * 9 + [0] * 6 if side == "left" else [0] * 6 + [PADDING] * 9)
    assert both.order.tolist() == [list(range(15))] * 2
    assert torch.equal(both.position[0, own], rows[0].position[0])
    same(rw.Tokens(*(x[1:] for x in both)), rows[1])
    q, k, v = (x.expand(2, -1, -1, -1) for x in qkv(15))
    padded = run(q, k, v, both, both)
    close(padded[:1, :, own], run(*(x[:1, :, own] for x in (q, k, v)), rows[0], rows[0]))


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_appended_text_is_the_text_that_was_left_out(rule: str, side: str) -> None:
    rows = [PAGE, PAGE[2:], PAGE[3:], (rw.Text(7),)]
    for count in (1, 3):
        prefixes = [rw.multimodal(*row, rule=rule) for row in rows]
        wholes = [rw.multimodal(*row, rw.Text(count), rule=rule) for row in rows]
        new = rw.append(rw.pad(*prefixes, side=side), count)
        for n, whole in enumerate(wholes):
            assert torch.equal(new.position[n], whole.position[0, -count:])
            assert new.document[n].tolist() == [0] * count
            assert new.order[n].tolist() == list(range(15, 15 + count))


@pytest.mark.parametrize("rule", MROPE)
@pytest.mark.parametrize("picture", [rw.Image(4, 6), rw.Image(6, 4), rw.Image(8, 2), rw.Video(9, 4, 4, seconds=1.5)])
def test_text_appended_to_a_picture_is_the_text_that_was_left_out(rule: str, picture: rw.Image | rw.Video) -> None:
    if rule == "qwen3_vl" and isinstance(picture, rw.Video):
        picture = rw.Image(4, 4)
    tps = 2 if rule == "qwen2_5_vl" else None
    whole = rw.multimodal(rw.Text(2), picture, rw.Text(2), rule=rule, tokens_per_second=tps)
    prefix = rw.multimodal(rw.Text(2), picture, rule=rule, tokens_per_second=tps)
    assert torch.equal(rw.append(prefix, 2).position, whole.position[:, -2:])


def test_text_is_appended_after_the_largest_coordinate_though_the_last_token_does_not_hold_it() -> None:
    # text goes on inside the video's time, and the last of it is still behind the last step
    at = rw.multimodal(*SHOT, rule="qwen2_vl", advance="hw")
    assert at.position[0, -1].tolist() == [6, 6, 6]
    assert rw.append(at, 1).position.tolist() == [[[11, 11, 11]]]
    assert rw.position_delta(at).tolist() == [11 - at.order.shape[1]]


def test_delta_is_the_next_position_less_the_tokens_so_far_whatever_the_padding() -> None:
    rows = [rw.multimodal(*row, rule="qwen2_vl", advance="hw") for row in (PAGE, SHOT, (rw.Text(4),))]
    # 3 + 3 columns + 1 + 1 column + 4 places for 15 tokens, 11 for 41, 4 for 4
    assert [rw.position_delta(row).tolist() for row in rows] == [[-3], [-30], [0]]
    assert rw.position_delta(rw.pad(*rows)).tolist() == [-3, -30, 0]
    assert rw.position_delta(rw.pad(*rows, side="right")).tolist() == [-3, -30, 0]
    assert rw.position_delta(rw.pack(rows[1], rows[0])).tolist() == [-3]
    assert rw.position_delta(rw.packed(5, 3)).tolist() == [0]


def test_a_token_appended_to_packed_rows_continues_the_last_document() -> None:
    long, short = (rw.multimodal(*row, rule="qwen2_vl") for row in (PAGE, PAGE[3:]))
    new = rw.append(rw.pad(rw.pack(long, short), rw.contiguous(2)._replace(position=long.position[:, :2])), 2)
    assert new.position[0].tolist() == [[5, 5, 5], [6, 6, 6]]
    assert new.document.tolist() == [[1, 1], [0, 0]]
    assert new.order.tolist() == [[20, 21]] * 2


def test_the_patches_of_a_grid_stand_row_by_row_behind_what_is_no_patch() -> None:
    at = rw.grid(2, 3)
    assert at.position.tolist() == [[[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]]
    assert at.order.tolist() == [list(range(6))]
    led = rw.grid(2, 3, extra=2)
    assert led.position[0, :2].tolist() == [[0, 0], [0, 0]]
    assert torch.equal(led.position[:, 2:], at.position)
    assert led.order.tolist() == [list(range(8))]
    assert rw.masks.bidirectional(led, led).all()
    q = qkv(8)[0]
    turned = ROTARIES[2].rotation({}, led).query(q)
    assert torch.equal(turned[:, :, :2], q[:, :, :2])
    assert not torch.isclose(turned[:, :, 3:], q[:, :, 3:]).all()


def lay(*segments: Any, rule: Any = "qwen2_vl", **options: Any) -> Callable[[], rw.Tokens]:
    return lambda: rw.multimodal(*segments, rule=rule, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rw.Text(0), "Text.length must be a whole number of at least 1, got 0"),
        (lambda: rw.Text(2.0), "Text.length must be a whole number of at least 1, got 2.0"),
        (lambda: rw.Image(0, 4), "Image.height must be a whole number of at least 1, got 0"),
        (lambda: rw.Image(4, -2), "Image.width must be a whole number of at least 1, got -2"),
        (lambda: rw.Video(0, 4, 4), "Video.time must be a whole number of at least 1, got 0"),
        (lambda: rw.Video(1, 4, 4, seconds=0), "Video.seconds must be a number above 0, got 0"),
        (lay(rule="qwen2_vl"), r"multimodal.segments must be at least one, got \(\)"),
        (lay(3), "multimodal.segments must be Text, Image or Video, got 3"),
        (lay(rw.Text(3), rule="qwen4_vl"), "multimodal.rule must be 'qwen2_vl' or .* or 'tv3', got 'qwen4_vl'"),
        (lay(rw.Text(3), rule=["tv"]), r"multimodal.rule must be 'qwen2_vl' or .* or 'tv3', got \['tv'\]"),
        (lay(rw.Image(5, 4)), r"Image.height must be divisible by merge = 2, got 5"),
        (lay(rw.Video(2, 4, 3)), r"Video.width must be divisible by merge = 2, got 3"),
        (lay(rw.Text(3), merge=0), "multimodal.merge must be a whole number of at least 1, got 0"),
        (lay(rw.Text(3), merge=2.0), "multimodal.merge must be a whole number of at least 1, got 2.0"),
        (lay(rw.Text(3), advance="t"), "multimodal.advance must be 'max' or 'hw' under rule 'qwen2_vl', got 't'"),
        (lay(rw.Text(3), rule="tie", advance="hw"), "multimodal.advance must be 'max' under rule 'tie', got 'hw'"),
        (
            lay(rw.Text(3), tokens_per_second=2),
            "multimodal.tokens_per_second must be None under rule 'qwen2_vl', got 2",
        ),
        (
            lay(rw.Text(3), rule="qwen2_5_vl", tokens_per_second=0),
            "multimodal.tokens_per_second must be a number above 0, got 0",
        ),
        (
            lay(*SHOT, rule="qwen2_5_vl"),
            "multimodal.tokens_per_second must be given where there is a Video, got None",
        ),
        (
            lay(rw.Video(2, 4, 4), rule="qwen2_5_vl", tokens_per_second=2),
            "Video.seconds must be given under rule 'qwen2_5_vl', got None",
        ),
        (
            lay(*SHOT, rule="qwen3_vl"),
            r"Video.time must be 1 under rule 'qwen3_vl' \(an Image for every frame, with text between\), got 9",
        ),
        (lay(*SHOT, rule="tv"), "Video.time must be 1 under rule 'tv' .*, got 9"),
        (
            lay(rw.Image(2, 2), rw.Image(2, 2), rw.Text(1), rule="tv"),
            "multimodal.segments must be such that Text follows every picture under rule 'tv', got Image",
        ),
        (lay(rw.Text(3), rw.Image(2, 2), rule="tie"), "such that Text follows every picture under rule 'tie', got"),
        (lambda: rw.grid(0, 2), "grid.height must be a whole number of at least 1, got 0"),
        (lambda: rw.grid(2, 2.0), "grid.width must be a whole number of at least 1, got 2.0"),
        (lambda: rw.grid(2, 2, -1), "grid.extra must be a whole number of at least 0, got -1"),
        (lambda: rw.pad(), r"pad.rows must be at least one, none without tokens, got \[\]"),
        (lambda: rw.pack(rw.contiguous(2), rw.contiguous(0)), r"pack.rows .* got \[2, 0\]"),
        (lambda: rw.pad(rw.contiguous(2), side="both"), "pad.side must be 'left' or 'right', got 'both'"),
        (
            lambda: rw.pad(rw.contiguous(2), rw.grid(2, 2)),
            r"pad.rows must be of one number of axes and one type of position, got \[\(1, torch.int64\), \(2, ",
        ),
        (
            lambda: rw.pack(rw.contiguous(2), rw.contiguous(2, batch=3)),
            r"pack.rows must be batches of equal size, got \[1, 3\]",
        ),
        (lambda: rw.append(rw.contiguous(0), 1), "append.at must be tokens to go on after, got 'none'"),
    ],
)
def test_what_cannot_be_placed_is_one_clear_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(rw.ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
