"""config.json of transformers <-> one encoding per layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import ConfigError, UnsupportedError, did_you_mean, require
from ropewalk.formats.families import (
    DEFAULTS,
    FIXED_BASE,
    LONGROPE_ONLY,
    NOPE_ON_FULL,
    RECURRENT,
    ROTARY_DIM,
    SCALES_FULL_ONLY,
    pairing,
    refuse_other_positions,
    with_defaults,
)
from ropewalk.formats.read_rope import HARMLESS, Frame, read_rope
from ropewalk.formats.write_rope import TYPES, Place, settle, write_rope
from ropewalk.scalings import Yarn

Layer = Rotary | tuple[()]
ROTARY_FIELDS = "rope_parameters rope_scaling rope_theta rotary_dim rotary_pct rotary_emb_base".split()


def read(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """One encoding per layer, `()` where a layer has no positions, from the dict of a config.json.

    Reads `rope_parameters` (transformers 5; flat, or nested by layer type) and `rope_theta` with `rope_scaling`
    (transformers 4).  Raises UnsupportedError for a model without rotary positions, ConfigError for a bad value.
    """
    config = text_part(config)
    refuse_other_positions(config)
    config = with_defaults(config)
    kind = config.get("model_type", "")
    if kind not in DEFAULTS and not any(name in config for name in ROTARY_FIELDS):
        raise UnsupportedError(f"model_type {kind!r} has none of {', '.join(ROTARY_FIELDS)}: no rotary positions found")
    return each_layer(config, lambda kind, rope: read_rope(rope, frame_of(config, kind)))


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int, types: frozenset[str] = TYPES
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config with these encodings and a window of `length` tokens, for stock transformers; and what is lost.

    Parameters that are the same in every layer are also spelled in the way of transformers 4.  `types` are the rope
    types that may be used.  Raises UnsupportedError for what no config of this model type can say.
    """
    require(length > 0, "length", "positive", length)
    before = read(config)
    check_fits(encodings, before)
    text = with_defaults(text_part(config))
    if text.get("model_type") in LONGROPE_ONLY:
        types &= {"default", "longrope"}
    frozen = {e: settle(e, length, types) if isinstance(e, Rotary) else ((), None) for e in dict.fromkeys(encodings)}
    wanted = [frozen[e][0] for e in encodings]
    changes = {**rope_fields(wanted, text, length, types), length_field(text): length}
    # a field set to None leaves the config
    inner = {k: v for k, v in {**inner_config(config), **changes}.items() if v is not None or k not in changes}
    written = {**config, "text_config": inner} if "text_config" in config else inner
    notes = [note for _, note in frozen.values() if note]
    return written, tuple(dict.fromkeys([*notes, *softmax_notes(before, read(written), text)]))


def check_fits(encodings: Sequence[Layer], before: Sequence[Layer]) -> None:
    """Raise UnsupportedError if the model's code would not rotate what these encodings rotate."""
    require(len(encodings) == len(before), "encodings", f"{len(before)}, one per layer", len(encodings))
    for i, (new, old) in enumerate(zip(encodings, before, strict=True)):
        if not (isinstance(new, Rotary) and isinstance(old, Rotary)):
            if new != old:
                raise UnsupportedError(f"layer {i} is {old!r} in the model's code, a config cannot make it {new!r}")
            continue
        for field, want, have in (("dim", new.dim, old.dim), ("pairing", new.pairing, old.pairing)):
            if want != have:
                raise UnsupportedError(f"layer {i} has {field} {have!r} in the model's code, not {want!r}")
        if new.unscaled:
            raise UnsupportedError(f"layer {i}: no config can leave the first {new.unscaled} tokens unscaled")


def rope_fields(
    encodings: Sequence[Layer], text: Mapping[str, Any], length: int, types: frozenset[str]
) -> dict[str, Any]:
    """The fields about rope parameters; None for a field that must go."""
    nested, model = by_layer_type(text), text.get("model_type", "")
    ropes: dict[str, dict[str, Any]] = {}
    layers = list(zip(layer_types(text), encodings, strict=True))
    for kind, e in dict.fromkeys(layers):
        if isinstance(e, Rotary):
            place = Place(length, original_length(text, kind) or length, head_dim(text, kind), types, nested)
            rope = {**kept(rope_of(text, kind) or {}), **write_rope(e, place)}
            if ropes.setdefault(kind if nested else "all", rope) != rope:
                where = f"other layers of type {kind}" if nested else "other layers"
                i = layers.index((kind, e))
                raise UnsupportedError(f"layer {i} differs from {where}; a config of {model!r} cannot say so")
    fields = dict.fromkeys(["rope_scaling", "rope_local_base_freq"])
    if nested:
        given = text.get("rope_parameters") or {}
        return {**fields, "rope_theta": None, "rope_parameters": {**(given if is_nested(given) else {}), **ropes}}
    rope = ropes["all"]
    if model in FIXED_BASE:
        if rope["rope_type"] != "default" or rope["rope_theta"] != 10000.0:
            raise UnsupportedError(f"the code of {model} has its angles built in: no config can change them")
        return {}
    if "original_max_position_embeddings" in text and "original_max_position_embeddings" in rope:
        fields["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    scaling = dict(rope) if rope["rope_type"] != "default" else None
    base = {"rotary_emb_base" if "rotary_emb_base" in text else "rope_theta": rope["rope_theta"]}
    return {**fields, **base, "rope_scaling": scaling, "rope_parameters": rope}


def kept(rope: Mapping[str, Any]) -> dict[str, Any]:
    """What a dict of rope parameters says besides angles."""
    extra = {key: rope[key] for key in HARMLESS if key in rope}
    # the query temperature of Ministral counts in original windows
    if "llama_4_scaling_beta" in rope and "original_max_position_embeddings" in rope:
        extra["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return extra


def by_layer_type(text: Mapping[str, Any]) -> bool:
    """Whether transformers 5 keeps one dict of rope parameters per layer type for this model."""
    return is_nested(text.get("rope_parameters") or {}) or text.get("model_type") in SCALES_FULL_ONLY


def original_length(text: Mapping[str, Any], kind: str) -> int | None:
    """Tokens that the model was first trained on, as far as the config tells."""
    frame, rope = frame_of(text, kind), rope_of(text, kind) or {}
    return frame.original or rope.get("original_max_position_embeddings") or frame.length


def softmax_notes(before: Sequence[Layer], after: Sequence[Layer], text: Mapping[str, Any]) -> list[str]:
    """DeepSeek's code derives a factor on the softmax from `mscale_all_dim`: say so if it changes."""
    if "qk_rope_head_dim" not in text:
        return []
    old, new = (sorted({softmax_factor(e) for e in layers}) for layers in (before, after))
    changed = old != new
    return [f"the model's factor on the softmax scale (mscale_all_dim) goes from {old} to {new}"] if changed else []


def softmax_factor(e: Layer) -> float:
    rules = e.scaling if isinstance(e, Rotary) else ()
    return next((rule.softmax_factor() for rule in rules if isinstance(rule, Yarn)), 1.0)


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
    """What `one` makes of a layer type and its rope parameters, for every layer; `()` where a layer does not rotate."""
    kinds = layer_types(config)
    turns = list(zip(kinds, rotating(config, kinds), strict=True))
    ropes = {kind: rope_of(config, kind) for kind, turn in dict.fromkeys(turns) if turn}
    made: dict[str, Layer] = {kind: () if rope is None else one(kind, rope) for kind, rope in ropes.items()}
    return tuple(made[kind] if turn else () for kind, turn in turns)


def layer_types(config: Mapping[str, Any]) -> list[str]:
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
    for rope in (given, scaling):
        require(isinstance(rope, Mapping), "rope_parameters", "a JSON object", rope)
    full_only = config.get("model_type") in SCALES_FULL_ONLY
    if is_nested(given):
        if kind not in given:
            raise ConfigError(f"rope_parameters has no entry for layer type {kind!r}{did_you_mean(kind, given)}")
        # Gemma reads an empty entry as a plain rope; elsewhere null means no positions
        rope = given[kind] if given[kind] is not None or not full_only else {}
        return {**rope, **scaling} if scaling and full_only and kind == "full_attention" else rope
    if full_only and kind != "full_attention":
        return {}
    # where both are given, transformers 5.23 takes rope_scaling
    return scaling or given


def is_nested(rope: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) for value in rope.values())


def frame_of(config: Mapping[str, Any], kind: str) -> Frame:
    """What the config says around the rope parameters of one layer type."""
    model = config.get("model_type", "")
    base = first(config, "rope_theta", "rotary_emb_base") or 10000.0
    if kind == "sliding_attention":
        base = config.get("rope_local_base_freq", base)
    partial = first(config, "partial_rotary_factor", "rotary_pct")
    nested = is_nested(config.get("rope_parameters") or {})
    return Frame(
        head_dim=head_dim(config, kind),
        partial=1.0 if partial is None else partial,
        rotary_dim=config.get("rotary_dim") if model in ROTARY_DIM else None,
        base=10000.0 if model in FIXED_BASE else base,
        length=config.get(length_field(config)),
        original=None if nested else config.get("original_max_position_embeddings"),
        pairing=pairing(config),
        alpha=model.startswith("hunyuan"),
    )


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
