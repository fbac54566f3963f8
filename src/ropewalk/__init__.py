"""Ropewalk gives Transformers their sense of position."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ropewalk.api import *


def __getattr__(name: str) -> Any:
    """Public names are loaded when the first is asked for: configs and the command line do without torch."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    known = public()
    globals().update(known)
    if name not in known:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return known[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *public()})


def public() -> dict[str, Any]:
    """Everything that a user types, by its name."""
    return {name: value for name, value in vars(import_module("ropewalk.api")).items() if not name.startswith("_")}
