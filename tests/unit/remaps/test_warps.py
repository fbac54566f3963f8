"""Warps leave the trained length alone, join it without a jump, and bend what lies beyond."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ropewalk as rw

EPS = torch.finfo(torch.float64).eps
LENGTH = 64
WARPS = (rw.Piecewise(LENGTH, 0.3), rw.Saturating(LENGTH, 0.3), rw.Power(LENGTH, 0.3))
every = pytest.mark.parametrize("warp", WARPS, ids=rw.short)


@every
def test_positions_up_to_the_trained_length_are_untouched_and_the_others_grow_more_slowly(warp: rw.Piecewise) -> None:
    at = rw.contiguous(1000, start=-3)
    moved = warp(at)
    assert moved.position.dtype == torch.float64
    inside = at.position <= LENGTH
    assert torch.equal(moved.position[inside], at.position[inside].double())
    steps = moved.position[0, :, 0].diff()
    assert (steps > 0).all()
    assert (steps[LENGTH + 3 :] < 1).all()
    assert moved.order is at.order
    assert moved.document is at.document


@every
def test_there_is_no_jump_at_the_trained_length(warp: rw.Piecewise) -> None:
    just_beyond = warp.warp(torch.tensor([LENGTH + 1e-9], dtype=torch.float64))
    assert 0 <= float(just_beyond - LENGTH) <= 1e-9 + LENGTH * EPS
    # the local slope right behind it: alpha, and 1 - alpha or 1 - beta
    slope = float(warp.warp(torch.tensor([LENGTH + 1e-6], dtype=torch.float64)) - LENGTH) / 1e-6
    assert slope == pytest.approx(0.3 if isinstance(warp, rw.Piecewise) else 0.7, abs=1e-6)


@given(st.floats(0.01, 1), st.integers(1, 10**6))
def test_the_saturating_warp_tends_to_its_limit_and_is_constant_for_one(alpha: float, length: int) -> None:
    far = torch.tensor([length + 1.0, 1e15], dtype=torch.float64)
    near_limit = rw.Saturating(length, alpha).warp(far)
    assert (near_limit <= length / alpha * (1 + 8 * EPS)).all()
    assert float(near_limit[1]) == pytest.approx(length / alpha, rel=1e-6)
    constant = rw.Saturating(length, 1.0).warp(far)
    torch.testing.assert_close(constant, torch.full_like(far, length), rtol=8 * EPS, atol=0)


@pytest.mark.parametrize("text", ["Saturating(64, alpha=1.5)", "Piecewise(64, alpha=1.5)", "Power(64, beta=1.5)"])
def test_warps_that_would_turn_back_or_stretch_are_refused(text: str) -> None:
    with pytest.raises(rw.ConfigError, match=r"must be a number above 0 and of at most 1, got 1\.5"):
        rw.parse(text)


@every
def test_a_warp_of_positions_makes_logits_depend_on_where_a_pair_stands(warp: rw.Piecewise) -> None:
    q, k = torch.randn(2, 1, 1, 20, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def moved(start: int) -> float:
        here, there = (warp(rw.contiguous(20, at)) for at in (0, start))
        s = [rw.logits(q, k, rw.Rotary(16), {}, at, at) for at in (here, there)]
        return float((s[0] - s[1]).abs().max())

    assert moved(LENGTH - 20) < 1e-5 < 0.1 < moved(LENGTH)


def test_every_axis_is_warped() -> None:
    at = rw.contiguous(100)
    grid = at._replace(position=torch.cat([at.position, 2 * at.position], dim=-1))
    moved = rw.Piecewise(10, 0.5)(grid).position[0]
    assert moved[99].tolist() == [54.5, 104.0]
