"""What a format carries comes back as it was; what it does not carry is told, with figures, or refused in one line."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import gguf, hf, llamacpp, megatron, mistral, mlx, onnx, sglang, vllm
from ropewalk.formats.engines import check
from ropewalk.formats.losses import Loss
from ropewalk.spectrum import Adapts, for_length

LENGTH, TRAINED = 1024, 256
CLOSE = 1e-6
TRY = settings(max_examples=40, derandomize=True, deadline=None, database=None)

Write = Callable[[Any, dict[str, Any], int], tuple[Any, tuple[Loss, ...]]]


def read_hf(payload: dict[str, Any], config: dict[str, Any]) -> tuple[Any, ...]:
    return hf.read(payload)


FORMATS: dict[str, tuple[Write, Callable[[Any, dict[str, Any]], tuple[Any, ...]]]] = {
    "hf": (hf.write, read_hf),
    **{
        module.__name__.split(".")[-1]: (module.write, module.read)
        for module in (vllm, sglang, llamacpp, gguf, mlx, megatron, mistral, onnx)
    },
}
COMMON = {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": TRAINED}
# model type -> its config, whether pairs are interleaved, and the part of a head that rotates
MODELS: dict[str, tuple[dict[str, Any], str, float]] = {
    "llama": ({}, "half", 1.0),
    "qwen3": ({"head_dim": 64}, "half", 1.0),
    "cohere": ({}, "interleaved", 1.0),
    "stablelm": ({"partial_rotary_factor": 0.25}, "half", 0.25),
    "phi3": ({"original_max_position_embeddings": TRAINED, "rope_scaling": None}, "half", 1.0),
    "olmo3": ({"layer_types": ["sliding_attention", "full_attention", "full_attention"]}, "half", 1.0),
}


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False).map(lambda x: float(f"{x:.6g}"))


def rule(pairs: int) -> st.SearchStrategy[Any]:
    factor, magnitude = number(1.25, 16), st.none() | number(0.5, 2)
    ends = st.tuples(number(8, 40), number(0.5, 4))
    lists = st.lists(number(0.5, 20), min_size=pairs, max_size=pairs).map(tuple)
    weight = st.none() | number(0, 2)
    yarn = st.builds(
        lambda f, ends, ramp, truncate, m, a, b: rw.Yarn(f, TRAINED, *ends, ramp, truncate, m, a, b),
        *(factor, ends, st.sampled_from(["index", "index", "rotations"]), st.booleans(), magnitude, weight, weight),
    )
    return st.one_of(
        st.builds(rw.Linear, factor),
        st.builds(rw.NTK, factor),
        st.builds(rw.BaseChange, number(100, 1e7)),
        st.builds(rw.RadixNTK, factor, st.sampled_from(["mixed", "old", "fixed"])),
        st.builds(rw.NTKByParts, factor, st.just(TRAINED)),
        yarn,
        yarn,
        st.builds(rw.Llama3, factor, st.sampled_from([TRAINED, 8192]), number(0.5, 2), number(3, 9)),
        st.builds(rw.Rescale, lists, number(0.5, 2)),
        st.builds(rw.LongRope, lists, lists, st.just(TRAINED), st.none() | factor, magnitude),
        st.builds(rw.DynamicNTK, factor, st.just(TRAINED)),
        st.just(rw.DynamicYarn(TRAINED)),
        st.builds(rw.Hope, st.just(TRAINED)),
        st.builds(rw.Proportional, number(0, 1), st.just(1.0) | factor),
    )


@st.composite
def cases(draw: Any) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """A small config, and encodings for its layers: the same rules in all of them, or others in full attention."""
    kind = draw(st.sampled_from(sorted(MODELS)))
    fields, pairing, part = MODELS[kind]
    base = draw(st.sampled_from([10000.0, 500000.0, 1234567.0]))
    config = {**COMMON, "model_type": kind, "rope_theta": base, **fields}
    dim = int(config.get("head_dim", 32) * part)
    plain = Rotary(dim, base, (), pairing)
    rules = draw(st.lists(rule(dim // 2), max_size=2).map(tuple))
    try:
        bent = Rotary(dim, base, rules, pairing)
        for length in (1, TRAINED, LENGTH):
            for_length(bent, length).spectrum()
    except ValueError:
        # a ramp, or another base, over rates that no longer fall
        bent = plain
    apart = kind == "olmo3" and draw(st.booleans())
    return config, tuple(plain if apart and i == 0 else bent for i in range(3))


def figures(wanted: Any, got: Any, length: int) -> tuple[float, float, float]:
    """Rates, magnitude and logits of one layer, from complex numbers on the distances that the figures are for."""
    (f, p), (g, q) = (
        (np.array(s.inv_freq), s.magnitude) for s in (for_length(e, length).spectrum() for e in (wanted, got))
    )
    distances = np.r_[0, np.geomspace(1, max(length - 1, 1), 256)][:, None]
    apart = abs(q**2 * np.exp(1j * distances * g) - p**2 * np.exp(1j * distances * f)).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(f > 1e-15, abs(g - f) / f, (g > 1e-15).astype(float))
    return float(rates.max()), q / p, float(apart.max())


def assert_told(wanted: Any, got: Any, losses: tuple[Loss, ...]) -> None:
    """Layer by layer: the same rotation at LENGTH, or a loss with at least these figures."""
    assert len(wanted) == len(got)
    for mine, theirs in zip(wanted, got, strict=True):
        assert (mine.dim, mine.pairing) == (theirs.dim, theirs.pairing)
        rates, magnitude, _ = figures(mine, theirs, LENGTH)
        assert rates <= CLOSE or max(loss.frequency for loss in losses) >= rates * (1 - 1e-6)
        if abs(magnitude - 1) > CLOSE:
            assert max(abs(math.log(loss.magnitude)) for loss in losses) >= abs(math.log(magnitude)) * (1 - 1e-6)


def through_text(name: str, payload: Any) -> Any:
    """What is left after a trip through a file; tables are no text."""
    return payload if name == "onnx" else json.loads(json.dumps(payload, allow_nan=False))


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_back_or_told(name: str) -> None:
    write, read = FORMATS[name]
    seen = {"same": 0, "told": 0, "wordy": 0}

    @TRY
    @given(cases())
    def run(case: Any) -> None:
        config, encodings = case
        try:
            payload, losses = write(encodings, config, LENGTH)
        except UnsupportedError as error:
            seen["wordy"] += len(str(error).splitlines()) != 1
            return
        got = read(through_text(name, payload), config)
        assert_told(encodings, got, losses)
        check(name, encodings, got, losses, LENGTH)
        seen["told" if losses else "same"] += 1

    run()
    # every format carries something, and no refusal is longer than a line
    assert seen["same"] >= 3, seen
    assert seen["wordy"] == 0


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_from_one_format_to_another(first: str, second: str) -> None:
    (write, read), (write_again, read_again) = FORMATS[first], FORMATS[second]
    carried = 0

    @settings(TRY, max_examples=8)
    @given(cases())
    def run(case: Any) -> None:
        nonlocal carried
        config, encodings = case
        try:
            payload, losses = write(encodings, config, LENGTH)
            middle = read(through_text(first, payload), config)
            payload, further = write_again(middle, config, LENGTH)
        except UnsupportedError:
            return
        got = read_again(through_text(second, payload), config)
        assert_told(middle, got, further)
        if not losses and not further:
            assert_told(encodings, got, ())
            carried += 1

    run()
    assert carried


@pytest.mark.parametrize("name", FORMATS)
@TRY
@given(st.sampled_from([rw.DynamicYarn(TRAINED), rw.DynamicNTK(1.5, TRAINED), rw.DynamicNTK(4.0, TRAINED)]))
def test_the_price_of_a_frozen_rule(name: str, rule: Adapts) -> None:
    config = {**COMMON, "model_type": "llama", "rope_theta": 10000.0}
    e = Rotary(32, 10000.0, (rule,))
    try:
        payload, losses = FORMATS[name][0]((e,) * 3, config, LENGTH)
    except UnsupportedError:
        assert name in ("megatron", "mistral")
        return
    got = FORMATS[name][1](payload, config)[0]
    want = figures(for_length(e, TRAINED), for_length(e, LENGTH), TRAINED)
    told = next(loss for loss in losses if "follows the length" in loss.what)
    assert told[2:] == pytest.approx(want, rel=1e-9)
    # the target too is as far off as it says
    assert figures(e, got, TRAINED)[:2] == pytest.approx(want[:2], rel=1e-4)


@TRY
@given(number(1.25, 16), number(1.1, 1e6))
def test_the_price_of_whole_numbers(factor: float, theta: float) -> None:
    config = {**COMMON, "model_type": "llama", "rope_theta": 10000.0}
    for e in (Rotary(32, 10000.0, (rw.Linear(factor),)), Rotary(32, theta)):
        payload, losses = megatron.write((e,) * 3, config, LENGTH)
        got = megatron.read(payload, config)[0]
        want = figures(e, got, LENGTH)
        assert got == Rotary(32, 10000.0, tuple(rw.Linear(n) for n in [round(factor)] if n > 1)) or not e.scaling
        if want[0] > 1e-12:
            assert losses[0][2:] == pytest.approx(want, rel=1e-9)
            assert len(losses) == 1
        else:
            assert losses == ()


@TRY
@given(number(1.25, 64), number(0.5, 2), st.booleans())
def test_the_price_of_two_magnitudes(factor: float, magnitude: float, truncate: bool) -> None:
    config = {**COMMON, "model_type": "llama", "rope_theta": 10000.0}
    e = Rotary(32, 10000.0, (rw.Yarn(factor, TRAINED, truncate=truncate, magnitude=magnitude),))
    payload, losses = mistral.write((e,) * 3, config, LENGTH)
    got = mistral.read(payload, config)[0]
    nearer = min((1.0, 1 + 0.1 * math.log(factor)), key=lambda m: abs(m - magnitude))
    assert got.spectrum().magnitude == pytest.approx(nearer, rel=1e-12)
    assert len(losses) == 1
    assert losses[0][2:] == pytest.approx(figures(e, got, LENGTH), rel=1e-9)
