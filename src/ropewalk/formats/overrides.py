"""What the overrides of vLLM and SGLang have in common: parts of a transformers 5 config laid over the model's own."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.checked import checked
from ropewalk.formats.effective import EngineStops, ignored_keys
from ropewalk.formats.families import pairing
from ropewalk.formats.layers import Layer, rotary_of
from ropewalk.formats.layout import (
    each_layer,
    frame_of,
    is_nested,
    layer_types,
    length_field,
    prepared,
    rope_of,
    text_part,
)
from ropewalk.formats.losses import Loss
from ropewalk.formats.read_rope import Frame, number, original, read_rope, rope_type
from ropewalk.formats.without_rotary import read_other
from ropewalk.formats.write_rope import TYPES
from ropewalk.scalings import LongRope, Proportional
from ropewalk.scalings.yarn import mscale

Rope = dict[str, Any]
# fields beside the dict that transformers 5 takes into it
OUTSIDE = frozenset(
    "rope_scaling rope_theta rope_local_base_freq rotary_emb_base rotary_pct partial_rotary_factor".split()
)
ORIGINAL = "original_max_position_embeddings"
WEIGHTS = {"mscale": 1.0, "mscale_all_dim": 0.0}


def types_for(encodings: Sequence[Layer], config: Mapping[str, Any]) -> frozenset[str]:
    """The rope types that mean the same to these engines as to transformers.

    Not "dynamic", which they freeze at one length; "proportional" alone in models that were made with it, unslowed;
    in DeepSeek's models nothing but YaRN, as which their code there reads every other type.
    """
    if is_deepseek(prepared(config)):
        return frozenset(["default", "yarn"])
    own, new = (
        [rule for e in layers if (r := rotary_of(e)) for rule in r.scaling if isinstance(rule, Proportional)]
        for layers in (hf.read(config), encodings)
    )
    slowed = any(rule.factor != 1 for rule in new)
    return TYPES - ({"dynamic"} if own and not slowed else {"dynamic", "proportional"})


def is_deepseek(text: Mapping[str, Any]) -> bool:
    """Whether the model's heads have a rotated part of their own, which both engines leave to one class.

    MiniCPM3 has such heads as well, and code of its own, with the classes of all other models.
    """
    return "qk_rope_head_dim" in text and text.get("model_type") != "minicpm3"


def refuse_unrotated(encodings: Sequence[Layer], engine: str) -> None:
    """Raise UnsupportedError where rope parameters have nothing to say."""
    if not any(map(rotary_of, encodings)):
        raise UnsupportedError(f"no layer rotates: an override for {engine} has nothing to say about these positions")


def override(config: Mapping[str, Any], written: Mapping[str, Any], name: str, ropes: Rope | None) -> dict[str, Any]:
    """The parts of a written config that an override must hold, with the rope parameters under `name`."""
    text = text_part(written)
    inner: dict[str, Any] = {length_field(text): text[length_field(text)]}
    if ropes is not None:
        # where it stands outside the dict it wins over the one inside
        inner |= {name: ropes} | ({ORIGINAL: text[ORIGINAL]} if ORIGINAL in text else {})
    return {"text_config": inner} if "text_config" in config else inner


def laid_over(payload: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an override says about the language model: nothing, if it stands outside the part of a composite config."""
    if "text_config" in payload and "text_config" not in config:
        raise UnsupportedError("the override is for text_config, and this config has none: give its fields directly")
    over = payload.get("text_config", {}) if "text_config" in config else payload
    require(isinstance(over, Mapping), "text_config of the override", "a JSON object", over)
    # a field set to null counts as missing
    return checked({field: value for field, value in over.items() if value is not None})


def each_rope(ropes: Mapping[str, Any], change: Callable[[Rope], Rope]) -> Rope:
    """Rope parameters with `change` applied to the dict, or to each of those nested in it."""
    if not is_nested(ropes):
        return change(dict(ropes))
    return {kind: change(dict(rope)) if rope is not None else None for kind, rope in ropes.items()}


def in_memory(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's config as transformers 5 holds it: every rope parameter inside `rope_parameters`."""
    text = prepared(config)
    if read_other(text) is not None:
        return {**text, "rope_parameters": {}}
    ropes: Rope = {}
    for kind in dict.fromkeys(layer_types(text)):
        frame, rope = frame_of(text, kind), rope_of(text, kind)
        partial = {} if frame.partial == 1 else {"partial_rotary_factor": frame.partial}
        lengths = {ORIGINAL: frame.original} if frame.original else {}
        ropes[kind] = None if rope is None else {"rope_theta": frame.base, **partial, **rope, **lengths}
    kept = {key: value for key, value in text.items() if key not in OUTSIDE}
    return {**kept, "rope_parameters": ropes if hf.by_layer_type(text) else next(iter(ropes.values()))}


def read_layers(text: Mapping[str, Any], translate: Callable[[Rope, Frame], Rope]) -> tuple[Layer, ...]:
    """One encoding per layer, each dict translated into the terms of transformers before it is read.

    What does not rotate is in the code of the model, and no dict of rope parameters changes it.
    """
    if (others := read_other(text)) is not None:
        return others

    def one(kind: str, rope: Mapping[str, Any]) -> Rotary:
        frame = frame_of(text, kind)._replace(alpha=True)
        rope = named(rope)
        if rope["rope_type"] in ("yarn", "llama3", "longrope"):
            # transformers keeps the length inside the dict, and takes the one outside where there are two
            rope[ORIGINAL] = original(rope, frame)
        return read_rope(translate(rope, frame), axes_in(rope, frame)._replace(original=None))

    return each_layer(text, one)


def axes_in(rope: Rope, frame: Frame) -> Frame:
    """The frame with the axes that the dict names, for engines that do not know them by model type."""
    given = rope.get("mrope_section") if frame.sections else None
    layout = "interleaved" if rope.get("mrope_interleaved") else "chunked"
    return frame._replace(sections=tuple(given) if given else (), layout=layout if given else "chunked")


def with_axes(rope: Rope, encodings: Sequence[Layer]) -> Rope:
    """The dict, naming the axes that the encodings have."""
    e = next((e for layer in encodings if (e := rotary_of(layer)) and e.sections), None)
    if e is None:
        return rope
    return {**rope, "mrope_section": list(e.sections), "mrope_interleaved": e.layout == "interleaved"}


def named(rope: Mapping[str, Any]) -> Rope:
    """The dict under the name that its rope type has today; null counts as missing."""
    return {**{k: v for k, v in rope.items() if v is not None}, "rope_type": rope_type(rope)}


def unread(text: Mapping[str, Any], reads: Callable[[Rope], str], engine: str) -> tuple[str, ...]:
    """A sentence for each rope parameter that the engine does not read; `reads` names those that it does."""
    ropes = text["rope_parameters"]
    by_kind = ropes if is_nested(ropes) else {"": ropes}
    return ignored_keys(by_kind, {kind: reads(named(rope)).split() for kind, rope in by_kind.items() if rope}, engine)


def pick(rope: Rope, *names: str) -> Rope:
    """The shared fields and the named ones."""
    shared = ("rope_type", "rope_theta", "partial_rotary_factor")
    return {name: rope[name] for name in (*shared, *names) if rope.get(name) is not None}


def demand(rope: Rope, names: str, engine: str) -> None:
    """Raise EngineStops where an engine would stop because a key is missing."""
    for name in names.split():
        if name not in rope:
            raise EngineStops(f"{engine} stops without {name!r} in rope parameters of type {rope['rope_type']!r}")


def refuse_lists(text: Mapping[str, Any], rope: Rope, engine: str) -> None:
    """Raise UnsupportedError where an engine has no class for divisors per pair."""
    if pairing(text) == "interleaved":
        raise UnsupportedError(f"{engine} takes divisors per pair (longrope) only for channels paired in halves")
    if "mrope_section" in rope:
        raise UnsupportedError(f"{engine} takes no divisors per pair (longrope) in a model with M-RoPE")


def softmax_losses(encodings: Sequence[Layer], text: Mapping[str, Any], engine: str) -> tuple[Loss, ...]:
    """MiniCPM3's factor on the softmax, which the code of neither engine has."""
    factors = {hf.softmax_factor(e) for e in encodings} - {1.0}
    if text.get("model_type") != "minicpm3" or not factors:
        return ()
    told = ", ".join(f"{factor:.6g}" for factor in sorted(factors))
    what = f"a factor of {told} on the softmax scale (mscale_all_dim), which {engine}'s code of minicpm3 does not apply"
    return (Loss(what, logits=max(abs(factor - 1) for factor in factors)),)


def two_lists(e: Layer) -> LongRope | None:
    """The LongRope of a layer that still has to choose between two different lists."""
    rules = e.scaling if (e := rotary_of(e)) else ()
    return next((r for r in rules if isinstance(r, LongRope) and r.short_factor != r.long_factor), None)


def longrope_magnitude(rope: Rope, length: int, original: int, name: str = "long_mscale") -> float:
    """What Phi-3's class in both engines makes of the lengths, unless the dict gives it."""
    stretch = length / original
    recommended = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return number(rope, name, recommended)


def deepseek_magnitude(rope: Rope) -> float:
    """The ratio of both engines' DeepSeek class, whose two weights default to 1 and 0 and may be negative."""
    stretch = number(rope, "factor")
    above, below = (mscale(stretch, weight(rope, name, default)) for name, default in WEIGHTS.items())
    good = below != 0 and above / below > 0
    require(good, "the ratio of mscale to mscale_all_dim", "above 0", f"{above:.6g} / {below:.6g}")
    return above / below


def weight(rope: Rope, name: str, default: float) -> float:
    value = rope.get(name, default)
    return -number({name: -value}, name) if type(value) in (int, float) and value < 0 else number(rope, name, default)


def weight_for(magnitude: float, factor: float, target: str) -> float:
    """The `mscale` whose recommended magnitude at this factor is the given one."""
    if factor > 1:
        found = (magnitude - 1) / (0.1 * math.log(factor))
        # the usual weight without the rounding of the way there
        return 1.0 if math.isclose(found, 1.0, rel_tol=1e-14) else found
    if not math.isclose(magnitude, 1.0, rel_tol=1e-9):
        raise UnsupportedError(f"{target} keeps a magnitude of 1 at a factor of 1, not {magnitude:.6g}")
    return 1.0
