"""tokens.py: where, when and whose."""

import pytest
import torch

import ropewalk as rw
from ropewalk.tokens import PADDING, select


def same(found: rw.Tokens, expected: rw.Tokens) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == torch.int64
        assert torch.equal(a, b)


def test_contiguous_counts_from_the_start_in_every_row() -> None:
    at = rw.contiguous(3, start=7, batch=2)
    assert at.position.tolist() == [[[7], [8], [9]]] * 2
    assert at.order.tolist() == [[7, 8, 9]] * 2
    assert at.document.tolist() == [[0, 0, 0]] * 2


def test_an_empty_row_is_a_row() -> None:
    assert [list(x.shape) for x in rw.contiguous(0)] == [[1, 0, 1], [1, 0], [1, 0]]


def test_packed_restarts_positions_and_runs_order_on() -> None:
    at = rw.packed(2, 3)
    assert at.position[0, :, 0].tolist() == [0, 1, 0, 1, 2]
    assert at.order[0].tolist() == [0, 1, 2, 3, 4]
    assert at.document[0].tolist() == [0, 0, 1, 1, 1]


def test_ragged_pads_on_the_left_with_a_document_of_its_own() -> None:
    at = rw.ragged(2, 4)
    assert at.position[..., 0].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert at.order.tolist() == [[0, 1, 2, 3]] * 2
    assert at.document.tolist() == [[PADDING, PADDING, 0, 0], [0, 0, 0, 0]]


def test_append_continues_each_row_from_its_own_length() -> None:
    at = rw.append(rw.ragged(2, 4), 2)
    assert at.position[..., 0].tolist() == [[2, 3], [4, 5]]
    assert at.order.tolist() == [[4, 5]] * 2
    assert at.document.tolist() == [[0, 0], [0, 0]]


def test_appending_to_contiguous_tokens_gives_the_next_contiguous_ones() -> None:
    same(rw.append(rw.contiguous(5, start=3), 4), rw.contiguous(4, start=8))


def test_append_goes_on_after_the_largest_of_several_coordinates() -> None:
    image = rw.Tokens(torch.tensor([[[4, 4, 4], [5, 5, 9]]]), torch.tensor([[4, 5]]), torch.tensor([[0, 0]]))
    assert rw.append(image, 1).position.tolist() == [[[10, 10, 10]]]


@pytest.mark.parametrize(("layout", "blocks"), [("zigzag", [[0, 3], [1, 2]]), ("contiguous", [[0, 1], [2, 3]])])
def test_shards_hold_their_blocks(layout: str, blocks: list[list[int]]) -> None:
    at = rw.packed(5, 7)
    for rank in range(2):
        index = torch.tensor([3 * b + i for b in blocks[rank] for i in range(3)])
        same(rw.shard(at, rank, 2, layout), select(at, index))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rw.contiguous(-1), "contiguous.length must be at least 0, got -1"),
        (lambda: rw.packed(2, 0), r"packed.lengths must be positive, got \(2, 0\)"),
        (lambda: rw.ragged(0), r"ragged.lengths must be positive, got \(0,\)"),
        (lambda: rw.shard(rw.contiguous(8), 2, 2), "shard.rank must be from 0 to 1, got 2"),
        (lambda: rw.shard(rw.contiguous(6), 0, 2), "shard.length must be divisible by 4, got 6"),
        (
            lambda: rw.shard(rw.contiguous(8), 0, 2, "striped"),
            "shard.layout must be 'zigzag' or 'contiguous', got ",
        ),
        (lambda: rw.append(rw.contiguous(8), -1), "append.count must be at least 0, got -1"),
    ],
)
def test_bad_counts_are_config_errors(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(rw.ConfigError, match=message):
        make()
