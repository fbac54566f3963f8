"""What goes wrong, in one line that names field, rule and value."""

from collections.abc import Iterable
from difflib import get_close_matches


class RopewalkError(Exception):
    """Something the user can mend; the message is complete on one line."""


class ConfigError(RopewalkError, ValueError):
    """A value that breaks a rule; the message names the field, the rule and the value."""


class UnsupportedError(RopewalkError):
    """Understood, but not something that this place can carry; the message says what can."""


def require(ok: bool, field: str, rule: str, got: object) -> None:
    """Raise `ConfigError("field must be rule, got value")` unless `ok`."""
    if not ok:
        raise ConfigError(f"{field} must be {rule}, got {got!r}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'yarn'?"` for the nearest known word, or an empty string."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
