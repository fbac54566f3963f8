"""The turning rates of a rotary encoding, and the rules that bend them; plain Python, without tensors."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

BY_QUERY = "by query"  # metadata of a field that is settled for each query, not for the whole


class Spectrum(NamedTuple):
    """What a context-extension scaling maps to another of its kind."""

    inv_freq: tuple[float, ...]  # radians per position, one per pair, fastest first
    magnitude: float = 1.0  # on rotated queries and on rotated keys, so logits get its square


@runtime_checkable
class Scaling(Protocol):
    """A rule that bends a spectrum; a scaling that still depends on the served length has `at` instead."""

    def __call__(self, s: Spectrum, /) -> Spectrum: ...


@runtime_checkable
class Adapts(Protocol):
    """A rule that is another rule at every served length."""

    def at(self, length: int, /) -> Any: ...


def is_scaling(rule: Any) -> bool:
    """Whether a value bends a spectrum, or settles to one that does; a class does not, nor does a map of Tokens."""
    if isinstance(rule, type) or not isinstance(rule, Scaling):
        return isinstance(rule, Adapts) and not isinstance(rule, type)
    return rule.__call__.__annotations__.get("return", Spectrum) in (Spectrum, Spectrum.__name__)


def for_length(rule: Any, length: int) -> Any:
    """`rule` with everything that depends on the served length settled, before any tensor exists.

    Equal to `rule` itself where nothing depends on the length: that is how reuse across lengths is decided.
    """
    if isinstance(rule, tuple):
        return tuple(for_length(r, length) for r in rule)
    if isinstance(rule, Adapts):
        return rule.at(length)
    if not is_dataclass(rule) or isinstance(rule, type):
        return rule
    whole = (f for f in fields(rule) if BY_QUERY not in f.metadata)
    return replace(rule, **{f.name: for_length(getattr(rule, f.name), length) for f in whole})
