"""Ropewalk gives Transformers their sense of position."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ropewalk.api import *


def __getattr__(name: str) -> Any:
    """Public names are loaded when the first is asked for: configs and the command line do without torch."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = vars(import_module("ropewalk.api"))
    globals().update({known: value for known, value in api.items() if not known.startswith("_")})
    if name not in api:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return api[name]


def __dir__() -> list[str]:
    api = import_module("ropewalk.api")
    return sorted({*globals(), *(name for name in vars(api) if not name.startswith("_"))})
