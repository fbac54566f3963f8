"""What competes: scalings in the layers that reach beyond the window, and the baselines."""

from types import SimpleNamespace
from typing import Any

import pytest

from parity.tiny_models import VARIANTS, tiny
from ropewalk import ConfigError, Linear, LongRope, Rotary, Yarn, for_length, parse
from ropewalk.extend.candidates import field, reaching_layers, rules, with_rule
from ropewalk.formats import hf
from ropewalk.models.attach import attach
from ropewalk.scalings import NTK, Llama3, NTKByParts, Proportional, RadixNTK

OWN = (Rotary(16, 1e5),) * 3
ALL = [True] * 3


@pytest.mark.parametrize("factor", [1.1, 2.0, 7.5])
def test_every_rule_is_static_and_new_and_bends_something(factor: float) -> None:
    tried = rules(factor, 8192)
    assert len(set(tried)) == len(tried) >= 8
    for rule in tried:
        bent = Rotary(64, 1e5, (rule,))
        assert for_length(bent, 10**6) == bent
        assert bent.spectrum() != Rotary(64, 1e5).spectrum()
        assert parse(repr(rule)) == rule
    assert {type(r) for r in tried} == {Yarn, NTKByParts, Llama3, NTK, RadixNTK, Linear, Proportional}
    assert len({r.factor for r in tried if isinstance(r, Yarn)}) > 1
    assert len({r.effective_magnitude() for r in tried if isinstance(r, Yarn) and r.factor == factor}) > 1


def test_baselines_stand_behind_the_first_guess() -> None:
    entrants = field(OWN, 100, 200, ALL, None)
    assert [c.role for c in entrants[:4]] == ["candidate", "unmodified", "truncated", "candidate"]
    assert {c.role for c in entrants[3:]} == {"candidate"}
    assert entrants[1][:2] == ("unmodified", OWN)
    assert entrants[2][:2] == ("last 100 tokens", OWN)
    assert len({c.name for c in entrants}) == len(entrants)
    for c in entrants:
        if c.role == "candidate":
            assert c.encodings == with_rule(OWN, parse(c.name), ALL)


def test_a_rule_comes_after_those_that_are_there_and_only_where_it_is_wanted() -> None:
    mixed = (Rotary(16, 1e4, (Linear(8.0),), "interleaved", 5), (), Rotary(16, 1e6))
    assert with_rule(mixed, NTK(2.0), [True, True, False]) == (
        Rotary(16, 1e4, (Linear(8.0), NTK(2.0)), "interleaved", 5),
        (),
        Rotary(16, 1e6),
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 2}, [True, True]),
        ({"sliding_window": 50, "layer_types": ["sliding_attention", "full_attention"]}, [False, True]),
        ({"sliding_window": 100, "layer_types": ["sliding_attention", "full_attention"]}, [False, True]),
        ({"sliding_window": 150, "layer_types": ["sliding_attention", "full_attention"]}, [True, True]),
        ({"sliding_window": None, "layer_types": ["full_attention"] * 2}, [True, True]),
    ],
)
def test_layers_that_slide_inside_the_window_do_not_reach_beyond(config: dict[str, Any], expected: list[bool]) -> None:
    assert reaching_layers(SimpleNamespace(**config), 100) == expected


def test_one_method_is_measured_alone_with_the_baselines() -> None:
    entrants = field(OWN, 100, 200, ALL, " Yarn(2, trained_length=100) ")
    assert [c.name for c in entrants] == ["Yarn(factor=2.0, trained_length=100)", "unmodified", "last 100 tokens"]
    assert entrants[0].encodings == (Rotary(16, 1e5, (Yarn(2.0, 100),)),) * 3


def test_a_whole_rotary_takes_the_place_of_those_that_reach() -> None:
    own = (Rotary(16, 1e5), (), Rotary(16, 1e4))
    entrants = field(own, 100, 200, [True, True, False], "Rotary(16, 5e5)")
    assert entrants[0].encodings == (Rotary(16, 5e5), (), Rotary(16, 1e4))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("Yarm(2.0, 100)", r"unknown name 'Yarm'; did you mean 'Yarn'\?; `ropewalk list` shows"),
        ("Yarn(factor=2.0)", "Yarn needs trained_length"),
        ("Yarn(factr=2.0, trained_length=9)", r"Yarn has no field 'factr'; did you mean 'factor'\?"),
        ("Yarn(factor=-2.0, trained_length=9)", r"Yarn\.factor must be a number of at least 1, got -2\.0"),
        ("Yarn(2.0, 100", "notation must be one value"),
        ("3", "--method must be a scaling such as Yarn"),
        ("(Linear(2.0),)", "--method must be a scaling such as Yarn"),
        ("__import__('os')", "unknown name '__import__'"),
    ],
)
def test_a_method_that_is_none_is_one_line(method: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        field(OWN, 100, 200, ALL, method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [100, 99, 1])
def test_a_target_inside_the_window_is_refused(target: int) -> None:
    with pytest.raises(ConfigError, match=f"--to must be beyond the trained window of 100 tokens, got {target}"):
        field(OWN, 100, target, ALL, None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_candidate_fits_every_family(variant: str) -> None:
    model = tiny(variant)
    config = model.config
    window = config.max_position_embeddings
    for candidate in field(hf.read(config.to_dict()), window, 2 * window, reaching_layers(config, window), None):
        attach(model, for_length(candidate.encodings, 2 * window))


def test_a_rule_that_follows_the_length_may_be_named() -> None:
    own = (Rotary(4),) * 2
    candidate = field(own, 100, 200, ALL[:2], "LongRope((1.0, 1.0), (1.0, 2.0), 100)")[0]
    assert candidate.encodings[0] == Rotary(4, scaling=(LongRope((1.0, 1.0), (1.0, 2.0), 100),))
