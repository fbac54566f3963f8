"""How values are written, without what goes without saying."""

from dataclasses import fields, is_dataclass
from typing import Any


def short(value: Any) -> str:
    """The repr without fields that hold their default: `parse(short(value)) == value`.

    >>> from ropewalk import Linear, Rotary
    >>> short(Rotary(dim=64, scaling=(Linear(factor=2.0),)))
    'Rotary(dim=64, scaling=(Linear(factor=2.0),))'
    """
    if isinstance(value, list):
        return f"[{', '.join(map(short, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(short, value))}{',' if len(value) == 1 else ''})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    told = ((f.name, getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) != f.default)
    return f"{type(value).__name__}({', '.join(f'{name}={short(held)}' for name, held in told)})"
