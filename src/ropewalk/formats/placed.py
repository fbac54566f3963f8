"""One value for a whole model: a scaling, a Rotary or a list, laid over the encodings that its layers have."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import ConfigError, UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.formats.converted import is_payload
from ropewalk.formats.gguf_rules import hold, layers
from ropewalk.formats.layers import Layer, rotary_of, with_rotary
from ropewalk.formats.layout import layer_types, prepared
from ropewalk.scalings import Proportional
from ropewalk.spectrum import is_scaling
from ropewalk.written import short


def placed(value: Any, config: Mapping[str, Any], own: Sequence[Layer]) -> tuple[Layer, ...]:
    """One encoding per layer: what the list gives, or `own` with the value in every rotating layer.

    A scaling takes the place of those that the model has, but for pairs that it was made without (Proportional); a
    Rotary that of the whole rotation. Sliding layers with a rope of their own keep it. `config` is a config.json or the
    payload of a GGUF. Raises ConfigError for a value of another kind, UnsupportedError where nothing rotates.
    """
    if isinstance(value, list | tuple):
        each = tuple(tuple(layer) if isinstance(layer, list) else layer for layer in value)
        require(len(each) == len(own), "a list of encodings", f"{len(own)} long, one per layer", len(each))
        return each
    if not isinstance(value, Rotary) and not is_scaling(value):
        raise ConfigError(f"an encoding must be a scaling, a Rotary or a list of one per layer, got {short(value)}")
    if not any(map(rotary_of, own)):
        raise UnsupportedError(f"no layer of this model rotates: there is nothing to put {short(value)} on")
    return tuple(
        with_rotary(layer, bent(value, e)) if (e := rotary_of(layer)) and far else layer
        for layer, far in zip(own, reaching(config), strict=True)
    )


def bent(value: Any, e: Rotary) -> Rotary:
    if isinstance(value, Rotary):
        return value
    if isinstance(value, Proportional):
        return replace(e, scaling=(value,))
    still = (replace(rule, factor=1.0) for rule in e.scaling if isinstance(rule, Proportional))
    return replace(e, scaling=(*still, value))


def reaching(config: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which layers a scaling for the whole model is for: all but sliding ones that have a rope of their own."""
    if is_payload(config):
        held = hold(config)
        each = layers(held, held.run)
        whole = {e for e, slides in zip(each, held.sliding, strict=True) if not slides and e != ()}
        apart = bool(whole) and (held.arch.sliding in ("own", "plain") or any(e not in whole for e in each if e != ()))
        return tuple(not (slides and apart) for slides in held.sliding)
    text = prepared(config)
    apart = hf.by_layer_type(text)
    return tuple(not (apart and kind == "sliding_attention") for kind in layer_types(text))
