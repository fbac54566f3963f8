"""What a config.json says about each layer around its rope parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.encodings.rotary.temperature import Temperature
from ropewalk.errors import ConfigError, UnsupportedError, did_you_mean, require
from ropewalk.formats.checked import checked
from ropewalk.formats.families import (
    DEFAULTS,
    FIXED_BASE,
    MROPE,
    NOPE_ON_FULL,
    ODD_AXES,
    RECURRENT,
    ROTARY_DIM,
    SCALES_FULL_ONLY,
    SHARPER,
    SHARPER_AT_REST,
    pairing,
    with_defaults,
)
from ropewalk.formats.layers import Layer
from ropewalk.formats.read_rope import Frame, number, original


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part about the language model, checked field by field, with what its model type takes for granted."""
    require(isinstance(config, Mapping), "config", "a JSON object", config)
    return with_defaults(checked(text_part(checked(config))))


def inner_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about the language model, where a config describes several models."""
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return config
    kind = config.get("model_type", "")
    return {"model_type": f"{kind}_text" if f"{kind}_text" in DEFAULTS else kind, **inner}


def each_layer(config: Mapping[str, Any], one: Callable[[str, Mapping[str, Any]], Rotary]) -> tuple[Layer, ...]:
    """What `one` makes of a layer type and its rope parameters, for every layer; `()` where a layer does not rotate.

    Where the model's code sharpens later queries, the layer has a Temperature for it.
    """
    kinds = layer_types(config)
    turns = list(zip(kinds, rotating(config, kinds), strict=True))
    ropes = {kind: rope_of(config, kind) for kind, turn in dict.fromkeys(turns) if turn}
    made: dict[str, Layer] = {
        kind: () if rope is None else sharpened(one(kind, rope), rope, config) for kind, rope in ropes.items()
    }
    still: Layer = ()
    if config.get("model_type") in SHARPER_AT_REST and config["attn_temperature_tuning"]:
        still = Temperature(config["floor_scale"], number(config, "attn_scale"))
    return tuple(made[kind] if turn else still for kind, turn in turns)


def sharpened(rotary: Rotary, rope: Mapping[str, Any], config: Mapping[str, Any]) -> Layer:
    """The rotation, with the query temperature that Ministral's code takes from the same dict."""
    if config.get("model_type") not in SHARPER or not rope.get("llama_4_scaling_beta"):
        return rotary
    return (rotary, Temperature(original(rope, Frame(0)), number(rope, "llama_4_scaling_beta"), start=0))


def layer_types(config: Mapping[str, Any]) -> list[str]:
    """The type of attention in each layer."""
    count = first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    require(isinstance(count, int) and count > 0, "num_hidden_layers", "a positive number", count)
    if config.get("layer_types"):
        require(len(config["layer_types"]) == count, "layer_types", f"{count} long", config["layer_types"])
        return list(config["layer_types"])
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, int):
        return ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(count)]
    if isinstance(pattern, str):
        # EXAONE 4 spells its pattern with L for local and G for global, and ends on a global layer
        marks = [pattern[i % len(pattern)] for i in range(count - 1)] + ["G"]
        return ["sliding_attention" if mark == "L" else "full_attention" for mark in marks]
    if every := config.get("global_attn_every_n_layers"):
        return ["sliding_attention" if i % every else "full_attention" for i in range(count)]
    if every := config.get("full_attention_interval"):
        return ["linear_attention" if (i + 1) % every else "full_attention" for i in range(count)]
    return ["full_attention"] * count


def rotating(config: Mapping[str, Any], kinds: list[str]) -> list[bool]:
    """Which layers rotate: not the recurrent ones, nor those that the model leaves without positions."""
    marks = config.get("no_rope_layers")
    if not marks and (interval := config.get("no_rope_layer_interval")):
        marks = [(i + 1) % interval != 0 for i in range(len(kinds))]
    # despite its name a 1 in no_rope_layers means that the layer rotates
    marks = marks or [True] * len(kinds)
    require(len(marks) == len(kinds), "no_rope_layers", f"{len(kinds)} long", marks)
    bare = config.get("model_type") in NOPE_ON_FULL and config.get("sliding_window")
    return [
        bool(mark) and kind not in RECURRENT and not (bare and kind == "full_attention")
        for mark, kind in zip(marks, kinds, strict=True)
    ]


def rope_of(config: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """The rope parameters of the layers of one type."""
    given, scaling = (config.get(name) or {} for name in ("rope_parameters", "rope_scaling"))
    full_only = config.get("model_type") in SCALES_FULL_ONLY
    if is_nested(given):
        if kind not in given:
            raise ConfigError(f"rope_parameters has no entry for layer type {kind!r}{did_you_mean(kind, given)}")
        # Gemma reads an empty entry as a plain rope; elsewhere null means no positions
        rope: Any = given[kind] if given[kind] is not None or not full_only else {}
        require(rope is None or isinstance(rope, Mapping), f"rope_parameters of {kind!r}", "a JSON object", rope)
        return {**(rope or {}), **scaling} if scaling and full_only and kind == "full_attention" else rope
    if full_only and kind != "full_attention":
        return {}
    # where both are given, transformers 5.23 takes rope_scaling
    return scaling or given


def is_nested(rope: Mapping[str, Any]) -> bool:
    """Whether this holds one dict of parameters per layer type, and not parameters."""
    given = [isinstance(value, Mapping) for value in rope.values() if value is not None]
    return any(given) and all(given)


def frame_of(config: Mapping[str, Any], kind: str) -> Frame:
    """What the config says around the rope parameters of one layer type."""
    model = config.get("model_type", "")
    local = kind == "sliding_attention"
    own = ("rope_local_base_freq", "local_rope_theta") if local else ("global_rope_theta",)
    base = first(config, *own, "rope_theta", "rotary_emb_base")
    sections, layout = axes_of(config, rope_of(config, kind) or {})
    partial = first(config, "partial_rotary_factor", "rotary_pct")
    nested = is_nested(config.get("rope_parameters") or {})
    return Frame(
        head_dim=head_dim(config, kind),
        partial=1.0 if partial is None else partial,
        rotary_dim=config.get("rotary_dim") if model in ROTARY_DIM else None,
        base=10000.0 if model in FIXED_BASE or base is None else base,
        length=config.get(length_field(config)),
        original=None if nested else config.get("original_max_position_embeddings"),
        pairing=pairing(config),
        alpha=model.startswith("hunyuan"),
        sections=sections,
        layout=layout,
    )


def axes_of(config: Mapping[str, Any], rope: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    """The pairs of each axis (M-RoPE) and how the axes lie over the pairs; no pairs where there is one axis."""
    model, given = config.get("model_type", ""), rope.get("mrope_section")
    if model in ODD_AXES:
        raise UnsupportedError(f"{model} deals its pairs to the axes in a way that is not read here")
    known = MROPE.get(model.removesuffix("_text"))
    if known is None and (given is None or model in DEFAULTS):
        return (), "chunked"
    usual, layout = known or ((), "interleaved" if rope.get("mrope_interleaved") else "chunked")
    sections: Any = usual if given is None else given
    good = isinstance(sections, list | tuple) and 1 < len(sections) < 5 and all(type(n) is int for n in sections)
    require(good, "rope parameter mrope_section", "a list of 2 to 4 whole numbers", sections)
    return tuple(sections), layout


def length_field(config: Mapping[str, Any]) -> str:
    """The name under which this config keeps the longest text it is made for."""
    names = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
    return next((name for name in names if name in config), names[0])


def head_dim(config: Mapping[str, Any], kind: str) -> int:
    """Channels of a head that could rotate: those of the rotary part where heads have two parts (DeepSeek)."""
    # Gemma 4 has wider heads where it attends to everything
    wide = ("global_head_dim",) if kind == "full_attention" else ()
    direct = first(config, *wide, "qk_rope_head_dim", "head_dim", "attention_head_dim")
    if direct is not None:
        return direct
    width, heads = first(config, "hidden_size", "n_embd", "d_model"), first(config, "num_attention_heads", "n_head")
    require(isinstance(width, int) and width > 0, "hidden_size", "a positive number", width)
    require(isinstance(heads, int) and heads > 0, "num_attention_heads", "a positive number", heads)
    return width // heads


def first(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is given."""
    return next((config[name] for name in names if config.get(name) is not None), None)
