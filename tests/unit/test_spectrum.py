"""spectrum.py and Rotary: rates, and settling what depends on the length."""

from dataclasses import dataclass

import pytest
import torch

import ropewalk as rw


def test_the_rates_of_a_plain_rotary_are_powers_of_the_base() -> None:
    assert rw.Rotary(8).spectrum() == rw.Spectrum(pytest.approx((1, 0.1, 0.01, 0.001), rel=1e-15), 1.0)


def test_for_length_settles_scalings_inside_encodings_and_tuples() -> None:
    dynamic = rw.Rotary(64, scaling=(rw.Linear(2.0), rw.DynamicNTK(1.0, 1000)))
    settled = rw.Rotary(64, scaling=(rw.Linear(2.0), rw.NTK(4.0)))
    assert rw.for_length(dynamic, 4000) == settled
    assert rw.for_length((dynamic, settled), 4000) == (settled, settled)
    assert rw.for_length((), 4000) == ()


@pytest.mark.parametrize(
    ("rule", "depends"),
    [
        (rw.Yarn(2.0, 4096), False),
        (rw.DynamicNTK(2.0, 4096), True),
        (rw.DynamicYarn(4096), True),
        (rw.LongRope((1.0,) * 8, (2.0,) * 8, 4096), True),
    ],
)
def test_what_depends_on_the_length_is_what_for_length_changes(rule: object, depends: bool) -> None:
    encoding = rw.Rotary(16, scaling=(rule,))
    assert (rw.for_length(encoding, 10**9) != encoding) is depends


def test_for_length_leaves_other_values_alone() -> None:
    @dataclass(frozen=True)
    class Holder:
        inside: object
        number: int = 3

    assert rw.for_length(Holder(rw.DynamicYarn(100)), 200) == Holder(rw.Yarn(2.0, 100))
    assert rw.for_length("text", 200) == "text"
    assert rw.for_length(Holder, 200) is Holder


def test_the_first_tokens_may_keep_their_unbent_angles() -> None:
    bent, at = rw.Rotary(8, scaling=(rw.Linear(4.0),), unscaled=3), rw.contiguous(6)
    plain, slowed = rw.Rotary(8).angle(at), rw.Rotary(8, scaling=(rw.Linear(4.0),)).angle(at)
    assert torch.equal(bent.angle(at), torch.cat([plain[:, :3], slowed[:, 3:]], dim=1))


def test_the_magnitude_is_on_both_tables() -> None:
    at = rw.contiguous(9)
    yarn = rw.Rotary(16, scaling=(rw.Yarn(4.0, 64, magnitude=1.5),)).rotation({}, at)
    norm = yarn.cos.double() ** 2 + yarn.sin.double() ** 2
    # each table is rounded to float32 once: the sum of squares is off by 2 * 1.5 ** 2 * eps / 2 at most
    assert (norm - 1.5**2).abs().max() <= 1.5**2 * torch.finfo(torch.float32).eps


def test_rotating_leaves_the_input_and_its_dtype_alone_and_passes_gradients() -> None:
    x = torch.randn(1, 2, 5, 24, dtype=torch.bfloat16, requires_grad=True)
    before = x.detach().clone()
    y = rw.Rotary(16).rotation({}, rw.contiguous(5)).query(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert torch.equal(x.detach(), before)
    assert x.grad is not None
    # a rotation keeps lengths, so the gradient of the squared length is 2x, up to the roundings of y and of the sum
    near = 4 * torch.finfo(torch.bfloat16).eps * float(x.detach().abs().max()) * 2
    assert (x.grad - 2 * before).abs().max() <= near


def test_a_yarn_ramp_needs_two_pairs_that_turn() -> None:
    for stopped in (rw.Rotary(2), rw.Rotary(16, scaling=(rw.Proportional(0.125),))):
        encoding = rw.Rotary(stopped.dim, scaling=(*stopped.scaling, rw.Yarn(2.0, 64)))
        with pytest.raises(rw.ConfigError, match="rates under a ramp over indices must be falling over two pairs"):
            encoding.spectrum()


def test_yarn_over_stopped_pairs_bends_the_others_as_if_they_were_not_there() -> None:
    both = rw.Rotary(16, scaling=(rw.Proportional(0.5), rw.Yarn(4.0, 64))).spectrum()
    alone = rw.Yarn(4.0, 64)(rw.Spectrum(rw.Rotary(16).spectrum().inv_freq[:4]))
    assert both.inv_freq == alone.inv_freq + (0.0,) * 4


def test_deepseek_moves_the_magnitude_into_the_softmax() -> None:
    rule = rw.Yarn(40.0, 4096, mscale=1.0, mscale_all_dim=1.0)
    assert rule.effective_magnitude() == 1.0
    assert rule.softmax_factor() == rw.Yarn(40.0, 4096).effective_magnitude() ** 2
    assert rw.Yarn(40.0, 4096).softmax_factor() == 1.0
    assert rw.Yarn(40.0, 4096, magnitude=1.25, mscale=1.0, mscale_all_dim=1.0).effective_magnitude() == 1.25
