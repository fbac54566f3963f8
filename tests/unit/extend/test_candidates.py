"""What competes: scalings in the layers that reach beyond the window, and the baselines."""

from types import SimpleNamespace
from typing import Any

import pytest

from parity.tiny_models import VARIANTS, tiny
from ropewalk import (
    Adaptive,
    ConfigError,
    DualChunk,
    Linear,
    LMInfinite,
    LogN,
    LongRope,
    ReRope,
    Rotary,
    SelfExtend,
    StreamingLLM,
    Yarn,
    for_length,
    parse,
)
from ropewalk.extend.candidates import field, named, reaching_layers, rules, training_free, with_rule
from ropewalk.formats import hf
from ropewalk.models.attach import SCALES_SOFTMAX, attach
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
    methods = "scalings" if config.model_type in (*SCALES_SOFTMAX, "gptj", "gemma2") else "all"
    for candidate in field(
        hf.read(config.to_dict()), window, 2 * window, reaching_layers(config, window), None, methods
    ):
        attach(model, for_length(candidate.encodings, 2 * window))


def test_a_rule_that_follows_the_length_may_be_named() -> None:
    own = (Rotary(4),) * 2
    candidate = field(own, 100, 200, ALL[:2], "LongRope((1.0, 1.0), (1.0, 2.0), 100)")[0]
    assert candidate.encodings[0] == Rotary(4, scaling=(LongRope((1.0, 1.0), (1.0, 2.0), 100),))


def test_all_methods_are_the_scalings_and_what_needs_no_training() -> None:
    scalings = field(OWN, 100, 200, ALL, None)
    everything = field(OWN, 100, 200, ALL, None, "all")
    assert everything[: len(scalings)] == scalings
    free = everything[len(scalings) :]
    kinds = "ReRope LeakyReRope SelfExtend DualChunk LMInfinite StreamingLLM LogN Adaptive".split()
    assert all(any(f"{kind}(" in c.name for c in free) for kind in kinds)
    assert len({c.name for c in everything}) == len(everything)
    for c in free:
        assert named(c.name, OWN, ALL).encodings == c.encodings


@pytest.mark.parametrize(("window", "target"), [(8192, 16384), (8192, 131072), (512, 1024), (4096, 5000)])
def test_sizes_keep_distances_where_the_model_was_trained(window: int, target: int) -> None:
    for e in training_free(Rotary(16), window, target):
        if isinstance(e, SelfExtend):
            assert e.capacity(window) >= target
            # the authors' rule of thumb
            assert e.window + (target - e.window) / e.group <= 2 * window / 3
        if isinstance(e, ReRope):
            assert e.window < window
        if hasattr(e, "factor"):
            assert e.window + (target - e.window) / e.factor <= window
        if isinstance(e, DualChunk):
            assert e.window <= window
        if isinstance(e, LMInfinite):
            assert e.window == window
        if isinstance(e, StreamingLLM):
            assert e.sinks + e.recent == window


def test_a_rule_stands_over_the_rotation_of_each_model() -> None:
    own = (Rotary(16, 1e5), (), Rotary(16, 1e4))
    far = [True, True, False]
    assert named("ReRope(window=40)", own, far)[:2] == ("ReRope(window=40)", (ReRope(own[0], 40), (), own[2]))
    both = named("(ReRope(window=40), LogN(100))", own, far)
    assert both.encodings[0] == (ReRope(own[0], 40), LogN(100))
    assert named("LogN(100)", own, far).encodings[0] == (own[0], LogN(100))
    assert named("Adaptive()", own, far).encodings[0] == Adaptive(own[0])
    scaled = "SelfExtend(Rotary(16, 1e5, (Yarn(2.0, 100),)), 40, 3)"
    assert named(scaled, own, far).encodings[0] == parse(scaled)


def test_a_window_larger_than_the_groups_hold_is_refused() -> None:
    field(OWN, 100, 460, ALL, "SelfExtend(window=40, group=7)")
    with pytest.raises(ConfigError, match=r"SelfExtend\.group must be .* 461 tokens fit: .* hold 460, got 7"):
        field(OWN, 100, 461, ALL, "SelfExtend(window=40, group=7)")
