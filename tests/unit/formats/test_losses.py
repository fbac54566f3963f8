"""Losses: figures from arithmetic done by hand, and no target that is further off than it says."""

import math

import pytest
from stock import LLAMA, every

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import RopewalkError
from ropewalk.formats.engines import check
from ropewalk.formats.losses import DISTANCES, Figures, Loss, covers, frozen, loss, measure

PLAIN = Rotary(8, 16.0)  # rates 1, 1/2, 1/4, 1/8


def test_figures_of_a_scaling_by_hand() -> None:
    halved = (rw.Rescale((1.0, 1.0, 2.0, 2.0), 1.5),)
    got = Rotary(8, 16.0, halved)
    found = measure([PLAIN], [got], 2)
    assert found.frequency == 0.5
    assert found.magnitude == 1.5
    # one step apart: two pairs that only grow, two that turn by 1/8 and 1/16 less and grow
    grown = 1.5**2
    chords = [math.sqrt(grown**2 + 1 - 2 * grown * math.cos(x)) for x in (0, 0, 1 / 8, 1 / 16)]
    assert math.isclose(found.logits, sum(chords) / 4, rel_tol=1e-12)
    assert measure([got], [PLAIN], 2).frequency == 1.0
    assert math.isclose(measure([got], [PLAIN], 2).magnitude, 1 / 1.5, rel_tol=1e-15)


def test_far_apart_two_rotations_have_nothing_in_common() -> None:
    opposite = Rotary(2, 16.0, (rw.Linear(2.0),))
    # the pair turns by 1 and by 1/2 a step: they point away from each other after 2 pi steps, and come close on the way
    far = measure([Rotary(2, 16.0)], [opposite], 8).logits
    grid = [7 ** (i / (DISTANCES - 1)) for i in range(DISTANCES)]
    assert math.isclose(far, max(2 * math.sin(d / 4) for d in grid), rel_tol=1e-12)
    assert far > 1.999


def test_the_worst_layer_counts_and_layers_that_rest_do_not() -> None:
    slow, large = Rotary(8, 16.0, (rw.Linear(2.0),)), Rotary(8, 16.0, (rw.Rescale((1.0,) * 4, 0.5),))
    found = measure([PLAIN, (), PLAIN, PLAIN], [PLAIN, (), slow, large], 100)
    assert found[:2] == (0.5, 0.5)
    assert measure([PLAIN, ()], [PLAIN, ()], 100) == Figures()


def test_a_pair_that_should_rest_and_turns_is_wholly_off() -> None:
    still = Rotary(8, 16.0, (rw.Proportional(0.5),))
    assert measure([still], [PLAIN], 10).frequency == 1.0
    # what turns by 1e-20 rests
    found = measure([still], [Rotary(8, 16.0, (rw.Rescale((1.0, 1.0, 1e20, 1e20)),))], 10)
    assert found[:2] == (0.0, 1.0)
    assert found.logits < 1e-19


def test_a_frozen_rule_costs_what_short_texts_pay() -> None:
    rule = rw.DynamicNTK(1.0, 64)
    e, fixed = Rotary(8, 16.0, (rule,)), Rotary(8, 16.0, (rw.NTK(4.0),))
    found = frozen(e, fixed, 256)
    assert found is not None
    # the slowest of four pairs is slowed by 4
    assert math.isclose(found.frequency, 0.75, rel_tol=1e-12)
    assert found[2:] == tuple(measure([PLAIN], [fixed], 64))
    assert "DynamicNTK follows the length" in found.what
    assert frozen(PLAIN, PLAIN, 256) is None


def test_a_loss_is_a_sentence_with_its_figures() -> None:
    told = str(Loss("no lists", "a base", 0.031, 1.5, 0.25))
    assert told == (
        "no lists; written instead: a base; rates differ by up to 3.1 %, the magnitude is 1.5 times what was meant, "
        "logits change by up to 0.25 |q||k|"
    )
    assert str(Loss("no lists")) == "no lists"
    assert "rates" not in str(loss("x", "", [PLAIN], [Rotary(8, 16.0, (rw.Rescale((1.0,) * 4, 2.0),))], 4))


def test_losses_cover_what_they_admit() -> None:
    admitted = (Loss("a", frequency=0.5), Loss("b", magnitude=0.8))
    for figures in (Figures(), Figures(0.5), Figures(0.1, 0.9), Figures(0.0, 1.2)):
        assert covers(admitted, figures), figures
    for figures in (Figures(0.51), Figures(0.0, 0.79), Figures(0.0, 1.26)):
        assert not covers(admitted, figures), figures
    assert not covers((), Figures(1e-5))


def test_a_target_that_is_further_off_than_it_says_is_an_error() -> None:
    wanted, got = every(rw.Linear(2.0)), every()
    length = LLAMA["max_position_embeddings"]
    check("engine", wanted, got, (loss("no linear", "", wanted, got, length),), length)
    with pytest.raises(RopewalkError, match=r"engine would not run .*, and nothing says so: layer 0, pair"):
        check("engine", wanted, got, (Loss("something", frequency=0.9),), length)
    with pytest.raises(RopewalkError, match="pairing"):
        check(
            "engine", wanted, (Rotary(128, 5e5, (rw.Linear(2.0),), "interleaved"),) * 32, (Loss("a", "", 9.0),), length
        )
