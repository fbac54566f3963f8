"""What the overrides of vLLM and SGLang have in common: parts of a transformers 5 config laid over the model's own."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.families import with_defaults
from ropewalk.formats.read_rope import Frame, read_rope, rope_type
from ropewalk.formats.write_rope import TYPES
from ropewalk.scalings import LongRope, Proportional
from ropewalk.scalings.yarn import mscale

Rope = dict[str, Any]
# fields beside the dict that transformers 5 takes into it
OUTSIDE = frozenset(
    "rope_scaling rope_theta rope_local_base_freq rotary_emb_base rotary_pct partial_rotary_factor "
    "original_max_position_embeddings".split()
)


def types_for(encodings: Sequence[hf.Layer], config: Mapping[str, Any]) -> frozenset[str]:
    """The rope types that mean the same to these engines as to transformers.

    Not "dynamic", which they freeze at one length; "proportional" alone in models that were made with it, unslowed.
    """
    own, new = (
        [rule for e in layers if isinstance(e, Rotary) for rule in e.scaling if isinstance(rule, Proportional)]
        for layers in (hf.read(config), encodings)
    )
    slowed = any(rule.factor != 1 for rule in new)
    return TYPES - ({"dynamic"} if own and not slowed else {"dynamic", "proportional"})


def each_rope(ropes: Mapping[str, Any], change: Callable[[Rope], Rope]) -> Rope:
    """Rope parameters with `change` applied to the dict, or to each of those nested in it."""
    if not hf.is_nested(ropes):
        return change(dict(ropes))
    return {kind: change(dict(rope)) if rope is not None else None for kind, rope in ropes.items()}


def in_memory(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's config as transformers 5 holds it: every rope parameter inside `rope_parameters`."""
    text = with_defaults(hf.text_part(config))
    ropes: Rope = {}
    for kind in dict.fromkeys(hf.layer_types(text)):
        frame, rope = hf.frame_of(text, kind), hf.rope_of(text, kind)
        partial = {} if frame.partial == 1 else {"partial_rotary_factor": frame.partial}
        lengths = {"original_max_position_embeddings": frame.original} if frame.original else {}
        ropes[kind] = None if rope is None else {"rope_theta": frame.base, **partial, **rope, **lengths}
    kept = {key: value for key, value in text.items() if key not in OUTSIDE}
    return {**kept, "rope_parameters": ropes if hf.by_layer_type(text) else next(iter(ropes.values()))}


def read_layers(text: Mapping[str, Any], translate: Callable[[Rope, Frame], Rope]) -> tuple[hf.Layer, ...]:
    """One encoding per layer, each dict translated into the terms of transformers before it is read."""

    def one(kind: str, rope: Mapping[str, Any]) -> Rotary:
        frame = hf.frame_of(text, kind)._replace(alpha=True)
        # `type` is the name of earlier releases
        named = {**rope, "rope_type": rope_type(rope)}
        return read_rope(translate(named, frame), frame)

    return hf.each_layer(text, one)


def pick(rope: Rope, *names: str) -> Rope:
    """The shared fields and the named ones."""
    shared = ("rope_type", "rope_theta", "partial_rotary_factor")
    return {name: rope[name] for name in (*shared, *names) if rope.get(name) is not None}


def refuse_lists(text: Mapping[str, Any], rope: Rope, engine: str) -> None:
    """Raise UnsupportedError where an engine has no class for divisors per pair."""
    if hf.pairing(text) == "interleaved":
        raise UnsupportedError(f"{engine} takes divisors per pair (longrope) only for channels paired in halves")
    if "mrope_section" in rope:
        raise UnsupportedError(f"{engine} takes no divisors per pair (longrope) in a model with M-RoPE")


def has_two_lists(encodings: Sequence[hf.Layer]) -> bool:
    """Whether a LongRope still has to choose between two different lists."""
    rules = [rule for e in encodings if isinstance(e, Rotary) for rule in e.scaling if isinstance(rule, LongRope)]
    return any(rule.short_factor != rule.long_factor for rule in rules)


def longrope_magnitude(rope: Rope, length: int, original: int) -> float:
    """What Phi-3's class in both engines makes of the lengths, unless the dict gives `short_mscale`."""
    stretch = length / original
    recommended = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return rope.get("long_mscale", recommended)


def deepseek_magnitude(rope: Rope) -> float:
    """The ratio of both engines' DeepSeek class, whose two weights default to 1 and 0."""
    stretch, over = rope["factor"], rope.get("mscale_all_dim", 0.0)
    return mscale(stretch, rope.get("mscale", 1.0)) / mscale(stretch, over)
