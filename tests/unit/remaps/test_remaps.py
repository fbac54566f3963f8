"""Maps of Tokens move positions and nothing else; what is drawn is drawn fairly, per document, and by the seed."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch

import ropewalk as rw
from ropewalk.tokens import PADDING

DRAWN = (rw.Randomised(50), rw.Pose(20, 50, chunks=3))
every_drawn = pytest.mark.parametrize("remap", DRAWN, ids=rw.short)


def line_of(at: rw.Tokens, document: int, row: int = 0) -> list[int]:
    return at.position[row, at.document[row] == document, 0].tolist()


@pytest.mark.parametrize("remap", [rw.Grouped(3), rw.Piecewise(5), *DRAWN], ids=rw.short)
def test_order_and_document_stay_so_causality_survives(remap: Any) -> None:
    at = rw.packed(12, 7)
    moved = remap(at)
    assert torch.equal(moved.order, at.order)
    assert torch.equal(moved.document, at.document)
    assert not torch.equal(moved.position, at.position)
    q, k, v = torch.randn(3, 1, 1, 19, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = rw.attend(q, k, v, rw.Rotary(16), {}, moved, moved)
    k[:, :, 9:], v[:, :, 9:] = 3, 1e6
    assert torch.equal(rw.attend(q, k, v, rw.Rotary(16), {}, moved, moved)[:, :, :9], before[:, :, :9])


def test_groups_are_numbered_from_zero_and_keep_their_dtype() -> None:
    at = rw.Grouped(4)(rw.contiguous(10, start=-2))
    assert at.position[0, :, 0].tolist() == [-1, -1, 0, 0, 0, 0, 1, 1, 1, 1]
    assert at.position.dtype == torch.int64


@every_drawn
def test_the_seed_says_every_position_and_another_seed_others(remap: Any) -> None:
    at = rw.contiguous(15, batch=3)
    assert torch.equal(remap(at).position, remap(at).position)
    assert not torch.equal(replace(remap, seed=1)(at).position, remap(at).position)
    rows = remap(at).position[..., 0].tolist()
    assert rows[0] != rows[1] != rows[2]
    assert at.position[1, :, 0].tolist() == list(range(15))


@every_drawn
def test_each_document_rises_below_the_longest_and_padding_stays(remap: Any) -> None:
    moved = remap(rw.packed(9, 14))
    for document in (0, 1):
        where = line_of(moved, document)
        assert where == sorted(set(where))
        assert 0 <= where[0] <= where[-1] < 50
    padded = remap(rw.ragged(6, 14))
    assert line_of(padded, PADDING) == [0] * 8
    assert line_of(padded, 0) == line_of(remap(rw.contiguous(6)), 0)


@every_drawn
def test_memory_order_does_not_matter_and_shared_positions_stay_shared(remap: Any) -> None:
    at = rw.contiguous(15)
    mixed = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(remap(rw.select(at, mixed)).position, rw.select(remap(at), mixed).position)
    doubled = at._replace(position=at.position // 2)
    moved = remap(doubled).position[0, :, 0]
    assert torch.equal(moved[0:14:2], moved[1:15:2])


def test_every_choice_of_positions_is_about_equally_likely() -> None:
    at = rw.contiguous(2, batch=6000)
    seen = Counter(map(tuple, rw.Randomised(4, seed=3)(at).position[..., 0].tolist()))
    assert set(seen) == set(combinations(range(4), 2))
    # six choices, 1000 of each expected: five standard deviations
    assert all(abs(count - 1000) < 5 * (1000 * 5 / 6) ** 0.5 for count in seen.values())


def test_a_gap_stands_at_each_cut_and_all_room_may_be_skipped() -> None:
    at = rw.contiguous(20, batch=400)
    where = rw.Pose(20, 23, chunks=2, seed=5)(at).position[..., 0]
    assert (where[:, 0] == 0).all()
    gaps = where.diff() - 1
    assert set(gaps.sum(-1).tolist()) == {0, 1, 2, 3}
    assert ((gaps > 0).sum(-1) <= 1).all()
    # every place may be cut
    assert ((gaps > 0).any(0)).all()
    assert set(where[:, -1].tolist()) == {19, 20, 21, 22}


def test_gaps_never_run_backwards() -> None:
    where = rw.Pose(20, 60, chunks=5, seed=5)(rw.contiguous(20, batch=100)).position[..., 0]
    assert (where.diff() >= 1).all()
    assert (where[:, -1] < 60).all()


def test_one_chunk_and_a_text_of_one_token_have_no_gap() -> None:
    at = rw.contiguous(20)
    assert torch.equal(rw.Pose(20, 100, chunks=1)(at).position, at.position)
    assert line_of(rw.Pose(20, 100, chunks=4)(rw.contiguous(1)), 0) == [0]
    assert len(set(line_of(rw.Pose(20, 100, chunks=4)(rw.contiguous(3)), 0))) == 3


@pytest.mark.parametrize(
    ("remap", "message"),
    [
        (rw.Randomised(5), "Randomised.longest must be at least the 6 positions of a document, got 5"),
        (rw.Pose(5, 9), "Pose.trained_length must be at least the 6 positions of a document, got 5"),
    ],
)
def test_a_document_that_is_too_long_is_refused(remap: Any, message: str) -> None:
    with pytest.raises(rw.ConfigError, match=message):
        remap(rw.contiguous(6))
    remap(rw.contiguous(5))


def test_pose_may_not_end_before_the_trained_length() -> None:
    with pytest.raises(rw.ConfigError, match=r"Pose\.longest must be .* of at least 64, got 63"):
        rw.Pose(64, 63)
