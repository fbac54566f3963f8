"""JSON files of models, and errors that name the file."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropewalk.errors import ConfigError, RopewalkError


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
