"""What goes wrong, in one line that names field, rule and value."""

import math
import sys
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


def require_number(
    owner: object,
    field: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    whole: bool = False,
) -> None:
    """Raise ConfigError unless `owner.field` is a plain finite number (an int where `whole`) inside the bounds."""
    value = getattr(owner, field)
    bounds = {"above": above, "of at least": at_least, "of at most": at_most}
    rule = " and ".join(f"{name} {bound:g}" for name, bound in bounds.items() if math.isfinite(bound))
    known = type(value) in ((int,) if whole else (int, float))
    ok = known and abs(value) <= sys.float_info.max and above < value and at_least <= value <= at_most
    kind = "a whole number" if whole else "a number"
    require(ok, f"{type(owner).__name__}.{field}", f"{kind} {rule}".strip(), value)


def require_even(owner: object, field: str) -> None:
    """Raise ConfigError unless `owner.field` is an even whole number of at least 2."""
    require_number(owner, field, at_least=2, whole=True)
    value = getattr(owner, field)
    require(value % 2 == 0, f"{type(owner).__name__}.{field}", "even", value)


def require_choice(owner: object, field: str, choices: Iterable[str]) -> None:
    """Raise ConfigError unless `owner.field` is one of the words in `choices`."""
    value = getattr(owner, field)
    rule = " or ".join(map(repr, choices))
    require(isinstance(value, str) and value in choices, f"{type(owner).__name__}.{field}", rule, value)


def require_flag(owner: object, field: str) -> None:
    """Raise ConfigError unless `owner.field` is True or False."""
    value = getattr(owner, field)
    require(value is True or value is False, f"{type(owner).__name__}.{field}", "True or False", value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'yarn'?"` for the nearest known word, or an empty string."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
