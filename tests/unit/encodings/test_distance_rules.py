"""What distance rules promise: which distance each logit is computed for, and what follows from it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ropewalk as rw
from ropewalk.masks import causal
from tolerance import tolerance

DIM, LENGTH = 16, 45
ROTARY = rw.Rotary(12, 1000.0, pairing="interleaved", offset=2)
RULES = (
    rw.ReRope(ROTARY, 6),
    rw.LeakyReRope(ROTARY, 6, 2.5),
    rw.SelfExtend(ROTARY, 8, 4),
    rw.SelfExtend(ROTARY, 7, 3, "code"),
    rw.DualChunk(ROTARY, 12, 8, 3),
    rw.DualChunk(ROTARY, 12, 8, 4, "code"),
    rw.LMInfinite(ROTARY, 6, 2),
    *(rw.WarpedDistance(ROTARY, w) for w in (rw.Piecewise(6, 0.4), rw.Saturating(6, 1.0), rw.Power(6))),
)
every = pytest.mark.parametrize("encoding", RULES, ids=rw.short)


def qk(length: int = LENGTH) -> tuple[Tensor, Tensor]:
    q, k = torch.randn(2, 2, 3, length, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return q, k


def standing(*positions: float) -> rw.Tokens:
    where = torch.tensor([positions], dtype=torch.float64)
    return rw.Tokens(where[..., None], where.long(), where.long() * 0)


@every
def test_each_logit_is_that_of_the_rotation_at_the_effective_distance(encoding: Any) -> None:
    q, k = qk()
    at = rw.contiguous(LENGTH)
    found = encoding.logits({}, q, k, at, at)
    d = encoding.effective(at, at)[0]
    for i, j in [(0, 0), (3, 1), (9, 2), (20, 11), (31, 8), (44, 0), (44, 40)]:
        one = rw.logits(q[:, :, i : i + 1], k[:, :, j : j + 1], ROTARY, {}, standing(float(d[i, j])), standing(0.0))
        torch.testing.assert_close(found[:, :, i : i + 1, j : j + 1], one, rtol=0, atol=tolerance(found.float(), DIM))


@every
def test_a_rule_that_reaches_beyond_the_text_is_the_plain_rotation(encoding: Any) -> None:
    q, k = qk(6)
    at = rw.contiguous(6)
    s, plain = (x.tril() for x in (encoding.logits({}, q, k, at, at), rw.logits(q, k, ROTARY, {}, at, at)))
    torch.testing.assert_close(s, plain, rtol=0, atol=tolerance(plain.float(), DIM))


@every
def test_magnitudes_and_scalings_of_the_rotation_are_kept(encoding: Any) -> None:
    q, k = qk()
    at = rw.contiguous(LENGTH)
    longer = rw.Rotary(DIM, scaling=(rw.Rescale((1.0,) * 8, magnitude=1.5),))
    s, once = (replace(encoding, rotary=r).logits({}, q, k, at, at) for r in (longer, rw.Rotary(DIM)))
    torch.testing.assert_close(s, once * 1.5**2, rtol=0, atol=tolerance(s.float(), DIM))


@given(st.integers(1, 40), st.floats(1, 50), st.integers(0, 10**6))
def test_distances_of_rerope_and_of_its_leaky_form_never_fall_and_stay_bounded(
    window: int, factor: float, last: int
) -> None:
    back = torch.tensor([[d for d in range(200) if d <= last]])
    q_at, k_at = standing(last), standing(*(last - back[0]).tolist())
    for e, bound in (
        (rw.ReRope(ROTARY, window), window),
        (rw.LeakyReRope(ROTARY, window, factor), window + max(0, 199 - window) / factor),
    ):
        d = e.effective(q_at, k_at)[0, 0]
        # a difference of two positions, each rounded
        slack = 4 * torch.finfo(torch.float64).eps * (last + window)
        assert (d.diff() >= -slack).all()
        assert d.max() <= max(bound, min(window - 1, last)) + slack
        assert torch.equal(d[: min(window, len(d))], back[0, : min(window, len(d))].double())


def test_a_leaky_distance_is_exact_far_into_a_text() -> None:
    far = 2**30
    d = rw.LeakyReRope(ROTARY, 6, 8.0).effective(rw.contiguous(1, far), rw.contiguous(20, far - 19))
    expected = torch.tensor([6 + (n - 6) / 8 if n >= 6 else n for n in range(19, -1, -1)], dtype=torch.float64)
    assert torch.equal(d[0, 0], expected)


@pytest.mark.parametrize("factor", [2.0, 3.0, 16.0])
def test_the_piecewise_warp_of_distances_is_leaky_rerope(factor: float) -> None:
    q, k = qk()
    at = rw.contiguous(LENGTH)
    warped = rw.WarpedDistance(ROTARY, rw.Piecewise(6, 1 / factor))
    leaky = rw.LeakyReRope(ROTARY, 6, factor)
    torch.testing.assert_close(warped.effective(at, at), leaky.effective(at, at).double(), rtol=0, atol=1e-13)
    s = leaky.logits({}, q, k, at, at)
    torch.testing.assert_close(warped.logits({}, q, k, at, at), s, rtol=0, atol=tolerance(s.float(), DIM))


def test_an_infinite_factor_would_be_rerope_and_a_factor_of_one_is_plain() -> None:
    at = rw.contiguous(LENGTH)
    bounded = rw.ReRope(ROTARY, 6).effective(at, at).double()
    torch.testing.assert_close(rw.LeakyReRope(ROTARY, 6, 1e300).effective(at, at), bounded, rtol=0, atol=1e-13)
    true = rw.ReRope(ROTARY, LENGTH).effective(at, at).double()
    torch.testing.assert_close(rw.LeakyReRope(ROTARY, 6, 1.0).effective(at, at), true, rtol=0, atol=1e-13)


@every
def test_only_groups_and_chunks_tell_where_in_the_text_a_pair_stands(encoding: Any) -> None:
    here, there = rw.contiguous(LENGTH), rw.contiguous(LENGTH, 1009)
    d, moved = (encoding.effective(at, at)[0].tril().double() for at in (here, there))
    absolute = isinstance(encoding, rw.SelfExtend | rw.DualChunk)
    assert ((d - moved).abs().max() > 1e-9) == absolute


def test_self_extend_follows_on_from_its_window_and_reaches_what_it_says() -> None:
    trained, window, group = 16, 8, 4
    e, longest = rw.SelfExtend(ROTARY, window, group), (trained - window) * group + window
    at = rw.contiguous(longest)
    d = e.effective(at, at)[0].tril()
    assert d.max() <= trained
    for i in range(window + group, longest):
        row = d[i, : i + 1].flip(0)
        assert (row.diff() >= -1).all()
        assert abs(int(row[window]) - window) <= 1
    # a group that divides the window leaves nothing between the two forms
    assert torch.equal(rw.SelfExtend(ROTARY, window, group, "code").effective(at, at)[0].tril(), d.double())


def test_dual_chunks_keep_every_distance_inside_the_trained_window() -> None:
    at = rw.contiguous(200)
    for trained in (16, 24, 64):
        paper, code = (rw.DualChunk.trained_on(ROTARY, trained, form) for form in ("paper", "code"))
        assert (paper.window, paper.chunk, paper.local) == (trained, trained * 3 // 4, trained // 4)
        assert (code.window, code.chunk, code.local) == (trained * 3 // 4, trained * 5 // 8, trained // 8)
        assert paper.effective(at, at)[0].tril().max() == trained - 1
        assert code.effective(at, at)[0].tril().max() == trained * 3 // 4
        assert paper.effective(at, at)[0].tril().min() == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DualChunk(Rotary(8), window=10, chunk=10)", "DualChunk.chunk must be .* of at most 9"),
        ("DualChunk(Rotary(8), window=10, chunk=6, local=5)", "DualChunk.local must be .* of at most 4"),
        (
            "DualChunk(Rotary(8), 10, 6, 3, 'code')",
            "DualChunk.local must be window - chunk where form is 'code'",
        ),
        ("ReRope(Alibi(4))", "ReRope.rotary must be a Rotary, got Alibi"),
        ("WarpedDistance(Rotary(8), Grouped(2))", "WarpedDistance.warp must be a warp, such as"),
        ("LeakyReRope(Rotary(8), factor=0.5)", "LeakyReRope.factor must be a number of at least 1, got 0.5"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(rw.ConfigError, match=message):
        rw.parse(text)


def test_tokens_of_two_axes_are_refused() -> None:
    at = rw.contiguous(4)
    flat = at._replace(position=at.position.expand(-1, -1, 2))
    for encoding in RULES:
        with pytest.raises(rw.ConfigError, match="along one axis, got '2 axes'"):
            encoding.effective(flat, flat)


def test_lm_infinite_sees_its_window_and_the_sinks_of_each_document() -> None:
    at = rw.packed(9, 11)
    seen = rw.LMInfinite(ROTARY, 4, 2).visible(at, at) & causal(at, at)
    assert seen[0, 8].nonzero().flatten().tolist() == [0, 1, 5, 6, 7, 8]
    assert seen[0, 19].nonzero().flatten().tolist() == [9, 10, 16, 17, 18, 19]


def test_hidden_keys_of_lm_infinite_do_not_reach_the_output() -> None:
    at, e = rw.contiguous(LENGTH), rw.LMInfinite(ROTARY, 6, 2)
    q, k = qk()
    v = torch.randn(2, 3, LENGTH, DIM, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    before = rw.attend(q, k, v, e, {}, at, at)
    k[:, :, 10:20], v[:, :, 10:20] = 7, 1e6
    after = rw.attend(q, k, v, e, {}, at, at)
    assert torch.equal(after[:, :, 25:], before[:, :, 25:])
    assert not torch.equal(after[:, :, 24], before[:, :, 24])
