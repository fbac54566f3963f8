"""A config.json with anything in it: a reading, or one error on one line; never a traceback, never a hang."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stock import CONFIGS, LLAMA, published

from ropewalk.errors import ConfigError, RopewalkError
from ropewalk.formats import hf
from ropewalk.formats.doctor import diagnose
from ropewalk.formats.readings import READINGS

NAMES = sorted(file.stem for file in CONFIGS.glob("*.json"))
ODD: list[Any] = [
    *(0, -1, 1, 2, 3, 7, 1.5, 1e30, -1e30, 10**30, 10**400, float("nan"), float("inf"), float("-inf"), 1e-300, 5e-324),
    *("", "8", "1e30", "\n", "yarn", "mrope", "full_attention", [], [[]], [1, 2, 3], {}, {"a": {}}, None, True, False),
    *([16, 24, 24], ["full_attention"] * 32, [0] * 32, [None] * 32, [1e30] * 64, {"full_attention": None}),
    *({"rope_type": "longrope"}, {"rope_type": ["yarn"]}, {"type": "su", "factor": 0}, {"full_attention": 3}),
    *({"rope_type": "yarn", "factor": 1e14, "rope_theta": 1e14}, {"sliding_attention": {}, "full_attention": {}}),
]
# fields that matter in some model, put where they do not belong
STRAY = (
    "rope_parameters rope_scaling rope_theta partial_rotary_factor head_dim rotary_dim num_hidden_layers layer_types "
    "sliding_window_pattern no_rope_layers no_rope_layer_interval global_attn_every_n_layers original_max_position_"
    "embeddings max_position_embeddings qk_rope_head_dim alibi is_encoder_decoder position_embedding_type model_type "
    "text_config attn_config rope_interleave full_attention_interval rope_local_base_freq attn_temperature_tuning "
    "floor_scale attn_scale embedding_size relative_attention_num_buckets relative_attention_max_distance rotary_pct"
).split()
IN_A_ROPE = (
    "rope_type type factor rope_theta beta_fast beta_slow mscale mscale_all_dim attention_factor truncate short_factor "
    "long_factor original_max_position_embeddings low_freq_factor high_freq_factor mrope_section mrope_interleaved "
    "llama_4_scaling_beta partial_rotary_factor alpha short_mscale long_mscale"
).split()
KINDS = sorted({str(published(name)["model_type"]) for name in NAMES} | {"gemma4_text", "smollm3", "qwen3_next"})


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container inside `value`, with one of its keys or indices."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@st.composite
def spoilt(draw: Callable[[Any], Any]) -> Any:
    """A published config with one to four changes."""
    config = copy.deepcopy(published(draw(st.sampled_from(NAMES))))
    for _ in range(draw(st.integers(1, 4))):
        change = draw(st.sampled_from("delete swap swap swap wrap stray stray rope kind".split()))
        found = [(owner, key) for owner, key in places(config) if "vision" not in str(key)]
        if change in ("delete", "swap", "wrap") and found:
            owner, key = draw(st.sampled_from(found))
            if change == "delete":
                del owner[key]
            elif change == "swap":
                owner[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
            else:
                owner[key] = draw(st.sampled_from([[owner[key]], {str(key): owner[key]}, str(owner[key])]))
            continue
        inner = config.get("text_config", config)
        inner = inner if isinstance(inner, dict) else config
        odd = copy.deepcopy(draw(st.sampled_from(ODD)))
        if change == "kind":
            inner["model_type"] = draw(st.sampled_from(KINDS))
        elif change == "rope":
            name = draw(st.sampled_from(["rope_scaling", "rope_parameters"]))
            rope = inner.get(name) if isinstance(inner.get(name), dict) else {"rope_type": draw(st.sampled_from(TYPES))}
            inner[name] = {**rope, draw(st.sampled_from(IN_A_ROPE)): odd}
        else:
            inner[draw(st.sampled_from(STRAY))] = odd
    return config


TYPES = "default linear dynamic yarn longrope llama3 proportional".split()


def refusal(call: Callable[[], Any]) -> str | None:
    """The message with which `call` refuses, None if it does not; anything but a RopewalkError goes through."""
    try:
        call()
    except RopewalkError as error:
        message = str(error)
    else:
        return None
    assert message
    assert len(message.splitlines()) == 1
    return message


@settings(max_examples=250)
@given(spoilt(), st.sampled_from([1, 100, 8192, 131072, 10**12]))
def test_a_reading_or_one_line(config: Any, length: int) -> None:
    before = copy.deepcopy(config)
    if refusal(lambda: hf.read(config)) is None:
        layers = hf.read(config)
        assert 0 < len(layers) <= 20_000
        refusal(lambda: hf.write(layers, config, length))
    assert repr(config) == repr(before)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*STRAY, *IN_A_ROPE]), inner, max_size=6)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(ANYTHING)
def test_any_json_at_all(config: Any) -> None:
    refusal(lambda: hf.read(config))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 1e30),
        ("num_hidden_layers", True),
        ("num_hidden_layers", 0),
        ("head_dim", 10**9),
        ("head_dim", "128"),
        ("head_dim", -64),
        ("max_position_embeddings", 1e30),
        ("max_position_embeddings", 10**30),
        ("model_type", ["llama"]),
        ("layer_types", ["full_attention", 3]),
        ("layer_types", "full_attention"),
        ("no_rope_layers", {}),
        ("no_rope_layer_interval", -4),
        ("rope_scaling", []),
        ("rope_scaling", "yarn"),
        ("alibi", "no"),
        ("sliding_window_pattern", 0),
    ],
)
def test_the_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be "):
        hf.read({**published("llama-3.1-8b"), field: value})


@pytest.mark.parametrize("field", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10**400, "8", [8], True, {}], ids=repr)
def test_a_parameter_is_named(field: str, value: Any) -> None:
    config = published("llama-3.1-8b")
    config["rope_scaling"][field] = value
    with pytest.raises(ConfigError, match=f"{field} must be "):
        hf.read(config)


@pytest.mark.parametrize("config", [[], [1], 3, None, "llama", float("nan"), True], ids=repr)
def test_a_config_is_an_object(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"^config must be a JSON object, got "):
        hf.read(config)


@pytest.mark.parametrize("length", [0, -1, 1e30, 10**30, 8192.0, "8192", None, True], ids=repr)
def test_a_window_is_a_number_of_tokens(length: Any) -> None:
    config = published("llama-3.1-8b")
    with pytest.raises(ConfigError, match=r"^length must be positive"):
        hf.write(hf.read(config), config, length)


@settings(max_examples=150)
@given(spoilt(), st.sampled_from([None, 100, 131072]))
def test_a_diagnosis_or_one_line(config: Any, length: int | None) -> None:
    for engine in READINGS:
        refusal(lambda engine=engine: diagnose(config, engine, length))


@settings(max_examples=100)
@given(ANYTHING)
def test_a_diagnosis_of_any_json_at_all(config: Any) -> None:
    refusal(lambda: diagnose(config, "vllm"))
    refusal(lambda: diagnose(LLAMA, "vllm", override=config if isinstance(config, dict) else {}))
