import math
from itertools import pairwise

import pytest
import torch

import ropewalk as rw
from ropewalk.report import curves

DISTANCES = [0, 1, 2, 5, 17, 300]


def test_the_kernel_of_a_rotary_is_the_mean_cosine_of_its_angles() -> None:
    rates = [10000 ** (-i / 32) for i in range(32)]
    expected = [sum(math.cos(d * f) for f in rates) / 32 * 64**0.5 for d in DISTANCES]
    (found,) = curves.kernel(rw.Rotary(64), DISTANCES).tolist()
    assert found == pytest.approx(expected, abs=1e-5)


def test_it_is_the_mean_over_contents_too() -> None:
    """Normal queries equal to their keys: 4,000 draws leave a standard error of about 0.02."""
    x = torch.randn(4000, 1, 1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q_at, k_at = rw.contiguous(1, start=5), rw.contiguous(1)
    logits = rw.logits(x, x, rw.Rotary(64), {}, q_at, k_at)
    assert float(logits.mean()) == pytest.approx(float(curves.kernel(rw.Rotary(64), [5])[0, 0]), abs=0.1)


def test_a_bias_has_a_row_for_each_head_unless_all_are_alike() -> None:
    found = curves.bias((rw.Rotary(16), rw.Alibi(2), rw.Alibi(2)), DISTANCES)
    assert found.tolist() == [[-2 * d * slope for d in DISTANCES] for slope in (2**-4, 2**-8)]
    assert curves.bias(rw.Rotary(16), DISTANCES).tolist() == [[0.0] * len(DISTANCES)]
    assert curves.kernel(rw.ReRope(rw.Rotary(16), 5), DISTANCES).shape == (1, len(DISTANCES))


def test_one_axis_may_move_alone() -> None:
    rotary = rw.Rotary(16, sections=(4, 4), rates="own")
    down, right, both = (curves.kernel(rotary, DISTANCES, axis)[0] for axis in (0, 1, None))
    torch.testing.assert_close(down, right)
    torch.testing.assert_close(both - 4, (down - 4) + (right - 4), rtol=0, atol=1e-5)


def test_what_counts_keys_between_sees_all_of_them() -> None:
    """The logit of equal keys under CoPE does not depend on which distances are asked for."""
    whole = curves.kernel(rw.Cope(16, 8), list(range(12)))
    assert curves.kernel(rw.Cope(16, 8), [0, 11])[0].tolist() == whole[0, [0, 11]].tolist()
    assert curves.row(rw.Cope(16), [0, 11], None).order.shape == (1, 12)
    assert curves.row(rw.Rotary(16), [0, 11], None).position.flatten().tolist() == [0, 11]


def test_likeness_of_sinusoids_is_the_mean_cosine_of_the_distance() -> None:
    at, found = curves.similarity(rw.Sinusoidal(32), 20)
    rates = [10000 ** (-i / 16) for i in range(16)]
    assert at.position.flatten().tolist() == list(range(20))
    assert float(found[3, 12]) == pytest.approx(sum(math.cos(9 * f) for f in rates) / 16, abs=1e-6)


def test_a_matrix_ends_with_the_table_and_is_a_grid_on_two_axes() -> None:
    assert curves.similarity(rw.Learned(8, 12), 100)[1].shape == (12, 12)
    at, found = curves.similarity(rw.Sinusoidal(32, axes=2), 25)
    assert found.shape == (25, 25)
    assert at.position[0, 7].tolist() == [1, 2]


def test_rates_are_found_wherever_they_are_held() -> None:
    rule = rw.Linear(4.0)
    (one,) = curves.spectra((rw.Alibi(2), rw.ReRope(rw.Rotary(8, scaling=(rule,)))))
    assert one[0] == "Rotary"
    assert one[2].inv_freq == tuple(f / 4 for f in one[1].inv_freq)
    assert list(curves.spectra((rw.Alibi(2), ()))) == []
    assert curves.plain((rw.ReRope(rw.Rotary(8, scaling=(rule,))),)) == (rw.ReRope(rw.Rotary(8)),)


def test_places_after_a_remap() -> None:
    assert curves.moved(rw.Grouped(4), 6) == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1)]
    assert [place for place, _ in curves.moved(rw.Streaming(2, 3), 9)] == [0, 1, 6, 7, 8]
    assert len(curves.moved(rw.Randomised(20), 64)) == 16


@pytest.mark.parametrize("far", [1, 2, 7, 300, 5000, 10**6])
def test_bins_leave_no_gap_and_do_not_overlap(far: int) -> None:
    bins = curves.sampled(far, bins=60, each=8)
    assert (bins[0][0], bins[-1][-1]) == (1, far)
    assert all(a[-1] + 1 == b[0] for a, b in pairwise(bins))
    assert max(map(len, bins)) <= 8


def test_few_keeps_both_ends() -> None:
    assert curves.few(range(100), 4) == [0, 33, 66, 99]
    assert curves.few([1, 2, 3], 4) == [1, 2, 3]


def test_weights_are_those_before_training() -> None:
    (found,), (start,) = curves.Fresh(rw.Swin(4, 8, 8)).w.values(), rw.initial(rw.Swin(4, 8, 8)).values()
    assert torch.equal(found, start.double())
