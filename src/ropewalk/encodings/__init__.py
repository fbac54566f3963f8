"""Position encodings. The list of all is `registry`, which is loaded when one of them is asked for here by its name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ropewalk.encodings.registry import *


def __getattr__(name: str) -> Any:
    registry = vars(import_module("ropewalk.encodings.registry"))
    if name.startswith("_") or name not in registry:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return registry[name]
