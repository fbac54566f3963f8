"""What a config.json says about positions, read before any weight is."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.encodings import Rotary
from ropewalk.errors import ConfigError, RopewalkError, require
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


def read_json(file: Path) -> dict[str, Any]:
    """The dict in a JSON file; ConfigError that names the file if there is none."""
    if not file.is_file():
        raise ConfigError(f"{file.parent} holds no {file.name}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold one JSON object, got {type(content).__name__}")
    return content


@contextmanager
def naming(file: Path) -> Generator[None]:
    """Put the name of a file before what is wrong in it."""
    try:
        yield
    except RopewalkError as error:
        raise type(error)(f"{file}: {error}") from None


def first_line(error: BaseException) -> str:
    """What an error of another library says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
