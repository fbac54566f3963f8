"""What every rotary encoding with fixed rates must leave true: distances alone matter, and lengths are kept."""

import pytest
import torch

import ropewalk as rw
from contracts.cases import ENCODINGS, LENGTH, Layer, close, placed, words
from ropewalk.written import short

every = pytest.mark.parametrize("encoding", [e for e in ENCODINGS if isinstance(e, rw.Rotary)], ids=short)


def logits(encoding: rw.Rotary, q_shift: int, k_shift: int) -> torch.Tensor:
    q, k, _ = Layer(encoding).qkv(words())
    ats = (placed(encoding, rw.contiguous(LENGTH)) for _ in range(2))
    q_at, k_at = (at._replace(position=at.position + s) for at, s in zip(ats, (q_shift, k_shift), strict=True))
    return rw.logits(q, k, encoding, {}, q_at, k_at)


@every
@pytest.mark.parametrize("shift", [1009, 100_003])
def test_a_common_shift_by_a_prime_changes_no_logit(encoding: rw.Rotary, shift: int) -> None:
    close(logits(encoding, shift, shift), logits(encoding, 0, 0))


@every
def test_a_shift_of_the_keys_alone_does_change_logits(encoding: rw.Rotary) -> None:
    assert (logits(encoding, 0, 1) - logits(encoding, 0, 0)).abs().max() > 1e-3


@every
def test_rotated_channels_keep_their_length_up_to_the_magnitude_and_the_others_pass(encoding: rw.Rotary) -> None:
    x = torch.randn(1, 2, LENGTH, encoding.dim + 8, generator=torch.Generator().manual_seed(0))
    y = encoding.rotation({}, placed(encoding, rw.contiguous(LENGTH))).query(x)
    inside = slice(encoding.offset, encoding.offset + encoding.dim)
    close(y[..., inside].norm(dim=-1), x[..., inside].norm(dim=-1) * encoding.spectrum().magnitude)
    assert torch.equal(y[..., inside.stop :], x[..., inside.stop :])
    assert torch.equal(y[..., : inside.start], x[..., : inside.start])
