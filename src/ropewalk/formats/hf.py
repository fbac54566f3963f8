"""config.json of transformers <-> one encoding per layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.encodings.absolute.learned import Learned
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats.checked import MOST_TOKENS
from ropewalk.formats.families import (
    DEFAULTS,
    EMPTY_HEAD_DIM,
    FIXED_BASE,
    LONGROPE_ONLY,
    ROTARY_ENCODERS,
    SCALES_FULL_ONLY,
    TWO_BASES,
    refuse_other_positions,
)
from ropewalk.formats.families import pairing as pairing
from ropewalk.formats.layers import Layer as Layer
from ropewalk.formats.layers import others_of, rotary_of
from ropewalk.formats.layout import (
    each_layer,
    frame_of,
    head_dim,
    inner_config,
    is_nested,
    layer_types,
    length_field,
    prepared,
    rope_of,
)
from ropewalk.formats.layout import first as first
from ropewalk.formats.layout import text_part as text_part
from ropewalk.formats.losses import Loss
from ropewalk.formats.read_rope import HARMLESS, original, read_rope
from ropewalk.formats.without_rotary import read_other
from ropewalk.formats.write_rope import TYPES, Place, settle, write_rope
from ropewalk.scalings import Yarn

ROTARY_FIELDS = "rope_parameters rope_scaling rope_theta rotary_dim rotary_pct rotary_emb_base".split()


def read(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """One encoding per layer, `()` where a layer has no positions, from the dict of a config.json.

    Reads `rope_parameters` (transformers 5; flat, or nested by layer type) and `rope_theta` with `rope_scaling`
    (transformers 4), ALiBi, T5's buckets and learned tables (`without_rotary`). A layer whose later queries are also
    sharper is a tuple of Rotary and Temperature; one that is sharper without rotating is a Temperature. Raises
    UnsupportedError for a model whose positions are of another kind, ConfigError for a bad value.
    """
    config = prepared(config)
    if (layers := read_other(config)) is not None:
        return layers
    kind = config.get("model_type", "")
    if kind not in ROTARY_ENCODERS:
        refuse_other_positions(config)
    if kind not in DEFAULTS and not any(name in config for name in ROTARY_FIELDS):
        raise UnsupportedError(f"model_type {kind!r} has none of {', '.join(ROTARY_FIELDS)}: no rotary positions found")
    return each_layer(config, lambda kind, rope: read_rope(rope, frame_of(config, kind)))


def write(
    encodings: Sequence[Layer], config: Mapping[str, Any], length: int, types: frozenset[str] = TYPES
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """The config with these encodings and a window of `length` tokens, for stock transformers; and what is lost.

    Parameters that are the same in every layer are also spelled in the way of transformers 4.  `types` are the rope
    types that may be used.  Raises UnsupportedError for what no config of this model type can say.
    """
    require(type(length) is int and 0 < length <= MOST_TOKENS, "length", "positive, in tokens", length)
    before = read(config)
    check_fits(encodings, before)
    text = prepared(config)
    if text.get("model_type") in LONGROPE_ONLY:
        types &= {"default", "longrope"}
    turning = {r: settle(r, length, types) for e in encodings if (r := rotary_of(e))}
    wanted = [turning[r][0] if (r := rotary_of(e)) else () for e in encodings]
    changes = rope_fields(wanted, text, length, types) if turning else {}
    rows = next((part.length for e in encodings for part in others_of(e) if isinstance(part, Learned)), None)
    if rows is None and (turning or length_field(text) in text):
        changes[length_field(text)] = length
    elif rows is not None and length > rows:
        raise UnsupportedError(f"the model's table has {rows} positions, and no config can make it {length}")
    # a field set to None leaves the config
    inner = {k: v for k, v in {**inner_config(config), **changes}.items() if v is not None or k not in changes}
    written = {**config, "text_config": inner} if inner_config(config) is not config else inner
    after = read(written)
    for i, (new, got) in enumerate(zip(encodings, after, strict=True)):
        if others_of(new) != others_of(got):
            raise UnsupportedError(f"layer {i} would become {got!r}: one field is the original length of both")
    lost = [found for _, found in turning.values() if found]
    return written, tuple(dict.fromkeys([*lost, *softmax_losses(before, after, text)]))


def check_fits(encodings: Sequence[Layer], before: Sequence[Layer]) -> None:
    """Raise UnsupportedError if the model's code would not rotate what these encodings rotate."""
    require(len(encodings) == len(before), "encodings", f"{len(before)}, one per layer", len(encodings))
    for i, (new, old) in enumerate(zip(encodings, before, strict=True)):
        turn, own = rotary_of(new), rotary_of(old)
        if turn is None or own is None or others_of(new) != others_of(old):
            if new != old:
                raise UnsupportedError(f"layer {i} is {old!r} in the model's code, a config cannot make it {new!r}")
            continue
        for field in ("dim", "pairing", "offset", "sections", "layout", "rates"):
            want, have = getattr(turn, field), getattr(own, field)
            if want != have:
                raise UnsupportedError(f"layer {i} has {field} {have!r} in the model's code, not {want!r}")
        if turn.unscaled:
            raise UnsupportedError(f"layer {i}: no config can leave the first {turn.unscaled} tokens unscaled")


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
                where = f"other layers of type {kind!r}" if nested else "other layers"
                i = layers.index((kind, e))
                raise UnsupportedError(f"layer {i} differs from {where}; a config of {model!r} cannot say so")
    fields: dict[str, Any] = dict.fromkeys(
        ["rope_scaling", "rope_local_base_freq", "local_rope_theta", "global_rope_theta"]
    )
    if model in EMPTY_HEAD_DIM and text.get("head_dim") is None:
        fields["head_dim"] = head_dim(text, "full_attention")
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
    scaling = dict(rope) if rope["rope_type"] != "default" or "mrope_section" in rope else None
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
    return is_nested(text.get("rope_parameters") or {}) or text.get("model_type") in SCALES_FULL_ONLY | TWO_BASES


def original_length(text: Mapping[str, Any], kind: str) -> int | None:
    """Tokens that the model was first trained on, as far as the config tells."""
    frame, rope = frame_of(text, kind), rope_of(text, kind) or {}
    known = "original_max_position_embeddings" in rope or frame.original or frame.length
    return original(rope, frame) if known else None


def softmax_losses(before: Sequence[Layer], after: Sequence[Layer], text: Mapping[str, Any]) -> list[Loss]:
    """DeepSeek's code derives a factor on the softmax from `mscale_all_dim`: say so if it changes."""
    if "qk_rope_head_dim" not in text:
        return []
    pairs = [(softmax_factor(a), softmax_factor(b)) for a, b in zip(before, after, strict=True)]
    old, new = (sorted(set(column)) for column in zip(*pairs, strict=True))
    if old == new:
        return []
    what = f"the model's factor on the softmax scale (mscale_all_dim) goes from {old} to {new}"
    return [Loss(what, logits=max(abs(b / a - 1) for a, b in pairs))]


def softmax_factor(e: Layer) -> float:
    rules = turn.scaling if (turn := rotary_of(e)) else ()
    return next((rule.softmax_factor() for rule in rules if isinstance(rule, Yarn)), 1.0)
