"""What every rotation must leave true in attention, in float32: decoding, packing, padding, sharding, shifting."""

from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.notation import SAMPLES, short
from ropewalk.sites import Rotates
from ropewalk.tokens import select
from tolerance import tolerance

LENGTH, HEADS, DIM = 41, 2, SAMPLES["dim"] + 8  # eight channels more than are rotated
LENGTHS = (LENGTH, 4 * SAMPLES["trained_length"])  # served lengths on either side of the trained window
CASES = [rw.for_length(e, n) for e in rw.exported() if isinstance(e, Rotates) for n in LENGTHS]
CASES += [rw.Rotary(SAMPLES["dim"], pairing="interleaved")]
every = pytest.mark.parametrize("encoding", list(dict.fromkeys(CASES)), ids=short)


def qkv(length: int = LENGTH, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, batch, HEADS, length, DIM, generator=draw)
    return q, k, v


def logits(encoding: Any, q: Tensor, k: Tensor, q_at: rw.Tokens, k_at: rw.Tokens) -> Tensor:
    return encoding.rotation({}, q_at).query(q) @ encoding.rotation({}, k_at).key(k).mT / DIM**0.5


def attend(s: Tensor, v: Tensor, q_at: rw.Tokens, k_at: rw.Tokens) -> Tensor:
    """Plain causal attention inside each document, from logits."""
    seen = q_at.order[:, :, None] >= k_at.order[:, None, :]
    seen = seen & (q_at.document[:, :, None] == k_at.document[:, None, :])
    return s.masked_fill(~seen[:, None], float("-inf")).softmax(-1) @ v


def run(encoding: Any, q: Tensor, k: Tensor, v: Tensor, at: rw.Tokens) -> Tensor:
    return attend(logits(encoding, q, k, at, at), v, at, at)


def close(found: Tensor, expected: Tensor, terms: int = DIM) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(expected, terms))


@every
def test_decoding_with_cached_rotated_keys_equals_prefill(encoding: Any) -> None:
    q, k, v = qkv()
    at = rw.contiguous(LENGTH)
    whole = run(encoding, q, k, v, at)
    cached = encoding.rotation({}, rw.contiguous(20)).key(k[:, :, :20])
    seen = rw.contiguous(20)
    for t in range(20, LENGTH):
        new = rw.append(seen, 1)
        rotation = encoding.rotation({}, new)
        cached = torch.cat([cached, rotation.key(k[:, :, t : t + 1])], dim=2)
        seen = rw.Tokens(*(torch.cat(both, dim=1) for both in zip(seen, new, strict=True)))
        s = rotation.query(q[:, :, t : t + 1]) @ cached.mT / DIM**0.5
        close(attend(s, v[:, :, : t + 1], new, seen), whole[:, :, t : t + 1])


@every
def test_two_documents_in_one_row_equal_two_rows(encoding: Any) -> None:
    q, k, v = qkv()
    whole = run(encoding, q, k, v, rw.packed(17, 24))
    first = run(encoding, *(x[:, :, :17] for x in (q, k, v)), rw.contiguous(17))
    second = run(encoding, *(x[:, :, 17:] for x in (q, k, v)), rw.contiguous(24))
    close(whole, torch.cat([first, second], dim=2))


@every
def test_left_padding_changes_nothing(encoding: Any) -> None:
    q, k, v = qkv(batch=2)
    padded = run(encoding, q, k, v, rw.ragged(30, LENGTH))
    alone = run(encoding, *(x[:1, :, -30:] for x in (q, k, v)), rw.contiguous(30))
    close(padded[:1, :, -30:], alone)


@every
@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_shards_make_up_the_whole(encoding: Any, layout: str) -> None:
    q, k, v = (x[:, :, :40] for x in qkv())
    at = rw.contiguous(40)
    whole = run(encoding, q, k, v, at)
    for rank in range(2):
        mine = rw.shard(at, rank, 2, layout)
        index = mine.order[0]
        part = attend(logits(encoding, q[:, :, index], k, mine, at), v, mine, at)
        close(part, whole[:, :, index])


@every
@pytest.mark.parametrize("shift", [1009, 100_003])
def test_a_common_shift_by_a_prime_changes_no_logit(encoding: Any, shift: int) -> None:
    q, k, _ = qkv()
    here, there = rw.contiguous(LENGTH), rw.contiguous(LENGTH, start=shift)
    close(logits(encoding, q, k, there, there), logits(encoding, q, k, here, here))


@every
def test_a_shift_of_the_keys_alone_does_change_logits(encoding: Any) -> None:
    q, k, _ = qkv()
    here, there = rw.contiguous(LENGTH), rw.contiguous(LENGTH, start=1)
    moved = (logits(encoding, q, k, here, there) - logits(encoding, q, k, here, here)).abs().max()
    assert moved > 1000 * tolerance(q, DIM)


@every
def test_a_token_does_not_depend_on_its_neighbours(encoding: Any) -> None:
    x = qkv()[0]
    at = rw.contiguous(LENGTH)
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    mixed = encoding.rotation({}, select(at, order)).query(x[:, :, order])
    assert torch.equal(mixed, encoding.rotation({}, at).query(x)[:, :, order])


@every
def test_rotated_channels_keep_their_length_up_to_the_magnitude_and_the_others_pass(encoding: Any) -> None:
    x, dim = qkv()[0], encoding.dim
    y = encoding.rotation({}, rw.contiguous(LENGTH)).query(x)
    close(y[..., :dim].norm(dim=-1), x[..., :dim].norm(dim=-1) * encoding.spectrum().magnitude)
    assert torch.equal(y[..., dim:], x[..., dim:])


def test_interleaved_channels_are_half_channels_in_another_order() -> None:
    from ropewalk.formats.pairing import inverse, permutation

    x, at = qkv()[0][..., :16], rw.contiguous(LENGTH)
    order = list(permutation(16))
    half = rw.Rotary(16).rotation({}, at).query(x[..., order])
    interleaved = rw.Rotary(16, pairing="interleaved").rotation({}, at).query(x)
    assert torch.equal(interleaved[..., order], half)
    assert torch.equal(half[..., list(inverse(order))], interleaved)
