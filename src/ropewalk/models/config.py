"""What a config.json says about positions, read before any weight is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require
from ropewalk.formats import hf
from ropewalk.formats.families import refuse_other_positions
from ropewalk.formats.layout import prepared
from ropewalk.models.attach import Encoding, check_served


class Positions(NamedTuple):
    """How a checkpoint tells positions apart, and as far as it was trained to."""

    encodings: tuple[Encoding, ...]  # one per layer
    trained_length: int


def read_positions(config: Mapping[str, Any]) -> Positions:
    """The positions of the dict of a config.json. Raises as `formats.hf.read`, and for what `attach` does not serve."""
    inner = prepared(config)
    refuse_other_positions(inner)
    encodings = hf.read(config)
    check_served(inner.get("model_type", ""))
    return Positions(encodings, trained_length(encodings, inner))


def trained_length(encodings: tuple[Encoding, ...], config: Mapping[str, Any]) -> int:
    """The window before any scaling: what the scalings name, else that of the config."""
    rules = [rule for e in encodings if isinstance(e, Rotary) for rule in e.scaling]
    named = [length for rule in rules if (length := getattr(rule, "trained_length", None))]
    if named:
        return min(named)
    window = hf.first(config, "max_position_embeddings", "n_positions")
    require(isinstance(window, int) and window > 0, "max_position_embeddings", "a positive number", window)
    return window
