"""Angles stay exact at positions that no model has reached, whatever the dtype of what is rotated."""

from functools import cache

import mpmath
import pytest
import torch

import ropewalk as rw

DIM = 64
POSITIONS = (131_071, 2**20, 16_777_216)
BASES = (10_000.0, 100_000.0, 500_000.0, 1_000_000.0)
WITHIN = 1e-6
# largest relative error of one rounding to the dtype
HALF_ULP = {t: torch.finfo(t).eps / 2 for t in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}

each_case = pytest.mark.parametrize(("base", "position"), [(b, p) for b in BASES for p in POSITIONS])


@cache
def exact(base: float, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every pair's angle, Float64[P], computed with 60 digits."""
    with mpmath.workdps(60):
        angles = [position * mpmath.mpf(base) ** (mpmath.mpf(-2 * i) / DIM) for i in range(DIM // 2)]
        both = [[float(f(a)) for a in angles] for f in (mpmath.cos, mpmath.sin)]
    return torch.tensor(both[0], dtype=torch.float64), torch.tensor(both[1], dtype=torch.float64)


@each_case
def test_tables_are_exact(base: float, position: int) -> None:
    cos, sin = exact(base, position)
    rotation = rw.Rotary(DIM, base).rotation({}, rw.contiguous(1, start=position))
    assert rotation.cos.dtype == rotation.sin.dtype == torch.float32
    assert (rotation.cos[0, 0].double() - cos).abs().max() < WITHIN
    assert (rotation.sin[0, 0].double() - sin).abs().max() < WITHIN


@each_case
def test_angles_modulo_a_turn_are_exact_in_float64(base: float, position: int) -> None:
    cos, sin = exact(base, position)
    angle = rw.Rotary(DIM, base).angle(rw.contiguous(1, start=position))[0, 0]
    assert angle.dtype == torch.float64
    # a rate is off by a few units in the last place, an angle by as many of its own
    within = 8 * torch.finfo(torch.float64).eps * position
    assert (angle.cos() - cos).abs().max() < within
    assert (angle.sin() - sin).abs().max() < within


@each_case
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("dtype", list(HALF_ULP), ids=str)
def test_a_rotated_unit_vector_is_exact(base: float, position: int, pairing: str, dtype: torch.dtype) -> None:
    cos, sin = exact(base, position)
    x = torch.zeros(DIM // 2, 2, dtype=dtype)
    x[:, 0] = 1
    x = (x.T if pairing == "half" else x).reshape(1, 1, 1, DIM)
    y = rw.Rotary(DIM, base, pairing=pairing).rotation({}, rw.contiguous(1, start=position)).query(x)
    assert y.dtype == dtype
    y = y[0, 0, 0].double()
    first, second = y.view(2, -1) if pairing == "half" else y.view(-1, 2).T
    for found, expected in ((first, cos), (second, sin)):
        # subnormal halves are spaced evenly, and far closer than 1e-6
        assert ((found - expected).abs() <= WITHIN + HALF_ULP[dtype] * expected.abs()).all()


def test_float32_angles_would_fail_here() -> None:
    """The yardstick notices what it is for: the same table from float32 angles is off by far more."""
    position = POSITIONS[-1]
    rates = torch.tensor(rw.Rotary(DIM, 1e4).spectrum().inv_freq)
    cos, _ = exact(1e4, position)
    assert ((position * rates).cos().double() - cos).abs().max() > 1000 * WITHIN
