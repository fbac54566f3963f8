"""The formulas of the bench against PyTorch's attention, hand-made numbers and the encodings themselves."""

import math

import pytest
import torch
import torch.nn.functional as F

import ropewalk as rw
from ropewalk.bench.attentions import ENCODINGS
from ropewalk.bench.case import ALONE, BOTH, CHECKED, FORWARD, Case, checked, problem
from ropewalk.bench.formula import SLICE, Verdict, angles, attended, bias, judge_rotation, off, rotated, slopes
from tolerance import tolerance


def case(what: str = "attend", name: str = "t5", length: int = 40, stage: str = FORWARD) -> Case:
    return Case(what, stage, name, 4, 2, length, 8, "float32", "bthd", "cpu")


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_a_rotation_by_hand(pairing: str) -> None:
    angle = torch.tensor([[math.pi / 2, math.pi]], dtype=torch.float64)
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    # the first pair by a quarter turn, the second by half a turn
    expected = {"half": [-3.0, -2.0, 1.0, -4.0], "interleaved": [-2.0, 1.0, -3.0, -4.0]}[pairing]
    found = rotated(x, angle, pairing)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(expected).double(), rtol=0, atol=1e-15)


def test_angles_are_positions_times_rates() -> None:
    assert angles(case("rotate"))[7, 2] == pytest.approx(7 * 10000 ** (-2 * 2 / 8), rel=1e-15)


def test_a_single_token_stands_where_a_rotation_shows() -> None:
    assert angles(case("rotate", length=1)).tolist()[0][0] == ALONE
    assert problem(case("rotate", length=1)).at.position.flatten().tolist() == [ALONE]
    # whoever counts in bfloat16 is seen to
    assert float(torch.tensor(float(ALONE)).bfloat16()) != ALONE


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_bias_is_that_of_the_encoding(name: str) -> None:
    given = problem(case(name=name))
    distances = torch.tensor(range(2000))
    w = {**given.weights, "slopes": slopes(4)}
    ours = ENCODINGS[name](4).of_distance(given.weights, distances).double()
    theirs = bias(name, w, distances.double())
    # the rates of KERPLE are exponentials that float32 rounds, of numbers that are rounded as well
    assert float((ours - theirs).abs().max()) <= tolerance(ours.float(), 4)


@pytest.mark.parametrize("heads", [1, 2, 5, 6, 8, 12, 32])
def test_slopes(heads: int) -> None:
    assert slopes(heads).tolist() == list(rw.Alibi(heads).slopes())


@pytest.mark.parametrize("name", ["", *ENCODINGS])
def test_attention_is_that_of_pytorch_in_float64(name: str) -> None:
    given = problem(case(name=name or "t5", stage=BOTH))
    found, grads, largest = attended(given, plain=not name)
    q, k, v = leaves = [x.detach().double().requires_grad_() for x in given.inputs]
    learned = {n: w.detach().double().requires_grad_() for n, w in given.weights.items()} if name else {}
    back = given.at.position[0, :, 0, None] - given.at.position[0, :, 0]
    cost = bias(name, {**learned, "slopes": slopes(4)}, back.double()).expand(4, -1, -1)
    mask = cost.masked_fill(back < 0, -math.inf)[None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, out.detach(), rtol=0, atol=1e-13)
    expected = torch.autograd.grad(out, [*leaves, *learned.values()], given.gradients[0].double())
    assert len(grads) == len(expected)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    logits = q @ k.repeat_interleave(2, dim=1).mT * 8**-0.5 + cost
    assert largest == pytest.approx(float(logits.detach().masked_fill(back < 0, 0).abs().max()))


def test_queries_that_are_checked_reach_both_ends() -> None:
    assert checked(1) == [0]
    assert checked(CHECKED) == list(range(CHECKED))
    assert checked(9999)[:1] + checked(9999)[-1:] == [0, 9998]
    assert len(checked(9999)) == CHECKED
    steps = {b - a for a, b in zip(checked(9999), checked(9999)[1:], strict=False)}
    assert max(steps) - min(steps) <= 1


def test_gradients_come_in_at_checked_queries_alone() -> None:
    given = problem(case(length=2 * CHECKED, stage=BOTH))
    lit = given.gradients[0].abs().amax((0, 1, 3)).nonzero().flatten().tolist()
    assert lit == checked(2 * CHECKED)


def test_an_error_is_measured_beside_its_neighbours_and_no_others() -> None:
    truth = torch.tensor([[100.0, 1.0], [0.5, 0.25]]).double()
    assert float(off(truth + torch.tensor([[0.0, 0.0], [0.1, 0.0]]), truth)) == pytest.approx(0.2)
    assert float(off(truth + torch.tensor([[0.0, 0.0], [0.1, 0.0]]), truth, (0, 1))) == pytest.approx(0.001)
    assert math.isnan(float(off(truth / torch.tensor([[1.0, 1.0], [1.0, 0.0]]), truth)))
    assert not Verdict(math.nan, 1.0).right


def test_an_error_in_the_last_of_several_slices_is_seen() -> None:
    given = problem(Case("rotate", FORWARD, "", 1, 1, SLICE + 3, 2, "float32", "bthd", "cpu"))
    found = tuple(rotated(x, angles(given.case), "half").float() for x in given.inputs)
    assert judge_rotation(given, found, "half", own_angles=False).right
    found[1][0, 0, -1, -1] += 1e-4 * found[1][0, 0, -1].abs().max()
    verdict = judge_rotation(given, found, "half", own_angles=False)
    assert not verdict.right
    # in units of the largest element, which rounds, as the product and the sum do
    assert verdict.error == pytest.approx(1e-4, abs=2 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("layout", ["bthd", "bhtd"])
def test_memory_has_the_layout_that_is_asked_for(layout: str) -> None:
    given = problem(case("rotate")._replace(layout=layout))
    for x in (*given.inputs, *given.gradients):
        assert x.shape[2:] == (40, 8)
        assert (x.transpose(1, 2) if layout == "bthd" else x).is_contiguous()
