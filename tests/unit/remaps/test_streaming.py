"""A cache of fixed size: which tokens stay, which slots they get, and what attention over it is."""

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.tokens import PADDING

RULE = rw.Streaming(sinks=2, recent=4)


def joined(*parts: rw.Tokens) -> rw.Tokens:
    return rw.Tokens(*(torch.cat(field, dim=1) for field in zip(*parts, strict=True)))


def stay(x: Tensor, kept: Tensor) -> Tensor:
    """The rows of a cache [B, H, T, D] that are kept."""
    return x.gather(2, kept[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def test_nothing_moves_while_the_text_fits() -> None:
    at = rw.contiguous(6)
    assert RULE.kept(at).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert all(torch.equal(a, b) for a, b in zip(RULE(at), at, strict=True))


def test_slots_close_the_gap_and_the_tokens_keep_their_order() -> None:
    moved = RULE(rw.contiguous(20, batch=2))
    assert moved.position[..., 0].tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert moved.order.tolist() == [[0, 1, 16, 17, 18, 19]] * 2


def test_without_sinks_only_the_last_tokens_stay() -> None:
    moved = rw.Streaming(sinks=0, recent=3)(rw.contiguous(20))
    assert (moved.position[0, :, 0].tolist(), moved.order[0].tolist()) == ([0, 1, 2], [17, 18, 19])


def test_shorter_rows_keep_their_own_tokens_and_fill_up_with_padding() -> None:
    at = rw.ragged(3, 8, 12)
    kept, moved = RULE.kept(at), RULE(at)
    assert kept.tolist() == [[6, 7, 8, 9, 10, 11], [4, 5, 8, 9, 10, 11], [0, 1, 8, 9, 10, 11]]
    assert moved.position[..., 0].tolist() == [[0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert (moved.document == PADDING).sum(1).tolist() == [3, 0, 0]


def test_keys_in_any_memory_order_get_the_same_slots() -> None:
    at = rw.contiguous(15)
    mixed = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    there = RULE(rw.select(at, mixed))
    by_order = dict(zip(there.order[0].tolist(), there.position[0, :, 0].tolist(), strict=True))
    assert by_order == {0: 0, 1: 1, 11: 2, 12: 3, 13: 4, 14: 5}


def test_streaming_step_by_step_equals_attention_over_the_slots_of_the_whole_text() -> None:
    q, k, v = torch.randn(3, 1, 2, 25, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotary, held, keys, values = rw.Rotary(16), rw.contiguous(0), k[:, :, :0], v[:, :, :0]
    for t in range(25):
        new = rw.contiguous(1, start=t)
        held, keys, values = (
            joined(held, new),
            torch.cat([keys, k[:, :, t : t + 1]], 2),
            torch.cat([values, v[:, :, t : t + 1]], 2),
        )
        slots, kept = RULE(held), RULE.kept(held)
        held, keys, values = rw.select(held, kept[0]), stay(keys, kept), stay(values, kept)
        assert keys.shape[2] == min(t + 1, 6)
        found = rw.attend(q[:, :, t : t + 1], keys, values, rotary, {}, rw.select(slots, slice(-1, None)), slots)
        columns = [j for j in range(t + 1) if j < 2 or j > t - 4]
        at = rw.contiguous(len(columns))
        last = slice(len(columns) - 1, None)
        plain = rw.attend(q[:, :, t : t + 1], k[:, :, columns], v[:, :, columns], rotary, {}, rw.select(at, last), at)
        assert torch.equal(found, plain)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (rw.packed(9, 9), "the row that Streaming reads must be a single document"),
        (
            joined(rw.contiguous(4, batch=2))._replace(
                position=torch.tensor([[[0], [1], [2], [3]], [[0], [1], [2], [30]]])
            ),
            "the rows that Streaming reads must be equally long, or padded",
        ),
    ],
)
def test_what_has_no_common_cache_is_refused(at: rw.Tokens, message: str) -> None:
    with pytest.raises(rw.ConfigError, match=message):
        RULE.kept(at)
