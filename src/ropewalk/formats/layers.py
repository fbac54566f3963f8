"""What stands in one layer of a model."""

from typing import Any

from ropewalk.encodings.rotary.rotary import Rotary

Layer = Any  # an encoding, a tuple of encodings that act together, or () where nothing tells positions apart


def rotary_of(layer: Layer) -> Rotary | None:
    """The rotation among the encodings of a layer, None if there is none."""
    return next((e for e in parts(layer) if isinstance(e, Rotary)), None)


def others_of(layer: Layer) -> tuple[Any, ...]:
    """The encodings of a layer that do not rotate."""
    return tuple(e for e in parts(layer) if not isinstance(e, Rotary))


def with_rotary(layer: Layer, e: Rotary) -> Layer:
    """The layer with this rotation in the place of its own."""
    return (e, *others_of(layer)) if others_of(layer) else e


def parts(layer: Layer) -> tuple[Any, ...]:
    return layer if isinstance(layer, tuple) else (layer,)
