"""Temperatures act on queries alone, and only beyond the length that they are given."""

import math

import pytest
import torch

import ropewalk as rw


def test_log_n_is_exactly_one_up_to_the_trained_length_and_grows_with_the_logarithm_beyond() -> None:
    scale = rw.LogN(512).scale(rw.contiguous(4096))[0]
    assert (scale[:512] == 1).all()
    assert (scale[511:].diff() > 0).all()
    assert scale[4095] == pytest.approx(math.log(4096) / math.log(512), rel=1e-15)


def test_places_before_the_text_are_like_its_first() -> None:
    at = rw.contiguous(5, start=-5)
    assert (rw.LogN(2).scale(at) == 1).all()
    assert (rw.Temperature(floor=2).scale(at) == 1).all()


def test_spans_are_counted_from_one_as_llama_does_or_from_zero_as_ministral_does() -> None:
    at = rw.contiguous(7)
    llama, ministral = (rw.Temperature(3, 0.5, start).scale(at)[0].tolist() for start in (1, 0))
    one, two, three = (1 + 0.5 * math.log(n) for n in (1, 2, 3))
    assert llama == pytest.approx([one, one, two, two, two, three, three], rel=1e-15)
    assert ministral == pytest.approx([one, one, one, two, two, two, three], rel=1e-15)


@pytest.mark.parametrize("encoding", [rw.LogN(8), rw.Temperature(8, 0.5)], ids=rw.short)
def test_keys_pass_and_logits_grow_by_the_factor_beside_any_rotation(encoding: rw.LogN | rw.Temperature) -> None:
    q, k = torch.randn(2, 1, 2, 30, 16, generator=torch.Generator().manual_seed(0))
    at = rw.contiguous(30)
    assert encoding.rotation({}, at).key(k) is k
    plain = rw.logits(q, k, rw.Rotary(16), {}, at, at)
    for both in ((rw.Rotary(16), encoding), (encoding, rw.Rotary(16))):
        found = rw.logits(q, k, both, {}, at, at)
        expected = plain * encoding.scale(at)[:, None, :, None]
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_half_precision_queries_are_rounded_once() -> None:
    x = torch.randn(1, 1, 30, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    sharpening = rw.LogN(8).rotation({}, rw.contiguous(30))
    expected = (x.float() * sharpening.scale[:, None, :, None]).bfloat16()
    assert torch.equal(sharpening.query(x), expected)
