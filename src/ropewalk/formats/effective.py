"""What an engine makes of a model's config.json as it stands: one shape for every engine."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ropewalk.errors import UnsupportedError
from ropewalk.formats.layers import Layer
from ropewalk.formats.read_rope import HARMLESS, SHARED

# transformers writes it beside the rope type, and says with it what the length field outside says
TWICE = frozenset(["max_position_embeddings"])


class EngineStops(UnsupportedError):
    """An engine would not start with this config; the message says on what it stops."""


class Effective(NamedTuple):
    """The encodings that an engine runs, and what it passes over in silence."""

    layers: tuple[Layer, ...]
    ignored: tuple[str, ...] = ()  # one plain sentence for each key that has no effect
    table: int | None = None  # positions that the engine has angles for; None if it computes as many as it needs
    accepts: int | None = None  # tokens that it serves unless told otherwise; None if it asks for no permission
    softmax: float = 1.0  # on the softmax scale, beside 1 / sqrt(head_dim) and what rotated vectors bring along


def ignored_keys(ropes: Mapping[str, Any], reads: Mapping[str, Iterable[str]], engine: str) -> tuple[str, ...]:
    """A sentence for each rope parameter that an engine does not read.

    `ropes` maps a layer type to its parameters and `reads` a layer type to the names that count, beside those that
    every rope type has.
    """
    found: list[str] = []
    for kind, rope in ropes.items():
        given = {key: value for key, value in (rope or {}).items() if value is not None}
        named = given.get("rope_type", given.get("type", "default"))
        idle = [key for key in given if key not in SHARED | HARMLESS | TWICE | {*reads.get(kind, ())}]
        found += [f"{engine} does not read {key!r} with rope_type {named!r}" for key in idle]
    return tuple(dict.fromkeys(found))
