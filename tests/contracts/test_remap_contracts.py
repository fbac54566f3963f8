"""What every map from Tokens to Tokens must leave true: who comes when, and whose, is not its business."""

from typing import Any

import pytest
import torch

import ropewalk as rw
from ropewalk import remaps
from ropewalk.notation import classes, sample

REMAPS = [sample(kind) for kind in classes(remaps)]
every = pytest.mark.parametrize("remap", REMAPS, ids=repr)
# a cache of fixed size holds one text per row, and lets tokens go
whole = pytest.mark.parametrize("remap", [r for r in REMAPS if not isinstance(r, rw.Streaming)], ids=repr)


def test_there_is_something_to_check() -> None:
    assert len(REMAPS) >= 7


@every
def test_the_repr_reads_back(remap: Any) -> None:
    assert rw.parse(repr(remap)) == remap
    assert hash(rw.parse(repr(remap))) == hash(remap)


@whole
def test_order_and_document_stay(remap: Any) -> None:
    for at in (rw.contiguous(40), rw.packed(17, 24), rw.ragged(30, 41)):
        moved = remap(at)
        assert torch.equal(moved.order, at.order)
        assert torch.equal(moved.document, at.document)
        assert moved.position.shape == at.position.shape


@every
def test_a_later_token_of_a_document_never_stands_earlier(remap: Any) -> None:
    moved = remap(rw.contiguous(60))
    assert (moved.position[0, :, 0].diff() >= 0).all()
    assert (moved.order[0].diff() > 0).all()


@every
def test_the_same_tokens_move_the_same_way_each_time_and_the_input_stays(remap: Any) -> None:
    at = rw.contiguous(60)
    first, second = remap(at), remap(at)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(at.position, rw.contiguous(60).position)


@every
def test_a_moved_text_can_be_read(remap: Any) -> None:
    q, k, v = torch.randn(3, 1, 2, 60, 16, generator=torch.Generator().manual_seed(0))
    at = remap(rw.contiguous(60))
    kept = at.order[0]
    out = rw.attend(q[:, :, kept], k[:, :, kept], v[:, :, kept], rw.Rotary(16), {}, at, at)
    assert out.isfinite().all()
