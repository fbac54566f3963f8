"""Worked examples that a prompt shows: those of the tasks, and those of a file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.errors import ConfigError, require

FIELDS = ("question", "rationale", "answer")


class Exemplar(NamedTuple):
    """A question with the way to its answer."""

    question: str
    rationale: str
    answer: str


def read_exemplars(file: str) -> list[Exemplar]:
    """The exemplars of a file: a JSON list, or one JSON object a line, each with question, rationale and answer.

    Raises ConfigError that names entry and field unless all three are text with something in it; an answer may be a
    number.
    """
    path = Path(file).expanduser()
    require(path.is_file(), "--exemplars", "a file that exists", file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--exemplars must be readable UTF-8, got {file}: {error}") from None
    entries = whole(text, file) if text.lstrip().startswith("[") else by_line(text, file)
    require(len(entries) > 0, "--exemplars", "a file with at least one exemplar", file)
    return [exemplar(entry, f"{file}, exemplar {i}") for i, entry in enumerate(entries, 1)]


def whole(text: str, file: str) -> list[Any]:
    """A JSON list."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--exemplars must be JSON or JSONL, got {file}: {error}") from None


def by_line(text: str, file: str) -> list[Any]:
    """One JSON value a line; empty lines are passed over."""
    found = list[Any]()
    for i, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ConfigError(f"--exemplars must be JSON or JSONL, got {file}, line {i}: {error}") from None
    return found


def exemplar(entry: Any, where: str) -> Exemplar:
    """One entry of a file."""
    rule = f"objects with {', '.join(FIELDS)} ({where})"
    require(isinstance(entry, dict), "--exemplars", rule, entry)
    for name in FIELDS:
        require(name in entry, "--exemplars", f"{rule}, each with {name!r}", sorted(entry))
    if type(entry["answer"]) in (int, float):
        entry = entry | {"answer": str(entry["answer"])}
    for name in FIELDS:
        good = isinstance(entry[name], str) and entry[name].strip()
        require(bool(good), f"--exemplars, field {name!r} of {where},", "text with something in it", entry[name])
    return Exemplar(*(entry[name].strip() for name in FIELDS))
