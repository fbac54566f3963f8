"""The repr of an encoding is its configuration, which `parse` reads back."""

import ast
import functools
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from ropewalk import remaps, scalings
from ropewalk.encodings import registry as encodings
from ropewalk.encodings.registry import Learned, Rotary
from ropewalk.errors import ConfigError, did_you_mean


def parse(text: str, own: Any = None) -> Any:
    """The value that `text` writes: calls of exported names, numbers, strings, None, True, False, tuples and lists.

    The inverse of repr. Nothing is evaluated. With `own`, the positions that a model has, a rule over a rotation may
    leave the rotation out. Raises ConfigError, in one line, for anything else.

    >>> parse("Rotary(64, scaling=(Yarn(factor=2.0, trained_length=8192),))").scaling[0].factor
    2.0
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return build(tree if own is None else Given(own).visit(tree))
    except (SyntaxError, RecursionError, MemoryError, ValueError) as problem:
        if isinstance(problem, ConfigError):
            raise
        why, got = getattr(problem, "msg", problem), text if len(text) < 100 else f"{text[:97]}..."
        raise ConfigError(f"notation must be one value, such as Rotary(dim=64), got {got!r}: {why}") from None


def exported() -> tuple[Any, ...]:
    """A small instance of every encoding, and a Rotary with each scaling, for contract tests."""
    rotaries = (Rotary(SAMPLES["dim"], scaling=(sample(rule),)) for rule in classes(scalings))
    return (*map(sample, classes(encodings)), *rotaries)


# what the shared parameter names stand for in a small instance; 16 channels are 8 pairs
SAMPLES: dict[str, Any] = {
    "dim": 16,
    "length": 64,
    "window": 16,
    "height": 8,
    "width": 8,
    "rotary": Rotary(16),
    "encoding": Rotary(16, scaling=(scalings.DynamicNTK(2.0, 16),)),
    "of": Learned(16, 64),
    "heads": 4,
    "warp": remaps.Piecewise(16),
    "base": 5e5,
    "factor": 4.0,
    "trained_length": 64,
    "fraction": 0.5,
    "factors": (1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
    "short_factor": (1.0, 1.0, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25),
    "long_factor": (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 4.0),
}


def sample(kind: type) -> Any:
    """A small instance of `kind`: every field without a default takes what its shared name stands for."""
    return kind(**{f.name: SAMPLES[f.name] for f in fields(kind) if not has_default(f)})


def classes(registry: Any) -> list[type]:
    """The dataclasses that a registry module imports."""
    return [c for c in vars(registry).values() if isinstance(c, type) and is_dataclass(c)]


@functools.cache
def known() -> dict[str, type]:
    """Every exported name with its class."""
    return {c.__name__: c for registry in (encodings, scalings, remaps) for c in classes(registry)}


class Given(ast.NodeTransformer):
    """Writes a rotation into calls that leave it out."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def visit_Call(self, node: ast.Call) -> ast.Call:
        """The call with the field that is missing."""
        self.generic_visit(node)
        kind = known().get(node.func.id) if isinstance(node.func, ast.Name) else None
        here = {f.name for f in fields(kind)} & {"rotary", "encoding"} if kind and not node.args else ()
        for name in here:
            if all(k.arg != name for k in node.keywords):
                node.keywords.append(ast.keyword(name, ast.parse(repr(self.own), mode="eval").body))
        return node


def build(node: ast.expr) -> Any:
    """The value of one node of the syntax tree."""
    match node:
        case ast.Constant(value) if value is None or type(value) in (bool, int, float, str):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)) if type(number) is not bool:
            return -number
        case ast.Tuple(elements):
            return tuple(map(build, elements))
        case ast.List(elements):
            return list(map(build, elements))
        case ast.Call(ast.Name(name), positional, named):
            return call(name, positional, named)
        case ast.Name(name):
            raise ConfigError(f"{name} must be called with its fields: {signature(find(name))}")
        case _:
            raise ConfigError(f"notation must be names, numbers, strings and tuples, got {ast.unparse(node)}")


def find(name: str) -> type:
    """The class of that name. Raises ConfigError with the nearest known one."""
    if name not in known():
        raise ConfigError(f"unknown name {name!r}{did_you_mean(name, known())}; `ropewalk list` shows every name")
    return known()[name]


def call(name: str, positional: list[ast.expr], named: list[ast.keyword]) -> Any:
    """The instance that a call writes. Raises ConfigError for a field that is unknown, given twice or missing."""
    kind = find(name)
    known_fields = {f.name: f for f in fields(kind)}
    if len(positional) > len(known_fields):
        raise ConfigError(f"{name} has no place for {len(positional)} values: {signature(kind)}")
    given = dict(zip(known_fields, map(build, positional), strict=False))
    for keyword in named:
        word = keyword.arg or "**"
        if word not in known_fields:
            raise ConfigError(f"{name} has no field {word!r}{did_you_mean(word, known_fields)}: {signature(kind)}")
        if word in given:
            raise ConfigError(f"{name}.{word} is given twice")
        given[word] = build(keyword.value)
    missing = [f.name for f in known_fields.values() if not has_default(f) and f.name not in given]
    if missing:
        raise ConfigError(f"{name} needs {' and '.join(missing)}: {signature(kind)}")
    return kind(**{field: as_declared(value, known_fields[field]) for field, value in given.items()})


def as_declared(value: Any, field: Field[Any]) -> Any:
    """A whole number written where the field is a float becomes one, so that equal values print alike."""
    exact = type(value) is int and abs(value) < 2**53
    return float(value) if exact and field.type in (float, float | None) else value


def signature(kind: type) -> str:
    """How the class is written, fields with a default shown with it."""
    return f"{kind.__name__}({', '.join(described(fields(kind)))})"


def described(of: Iterable[Field[Any]]) -> list[str]:
    """Each field as a signature shows it."""
    return [f"{f.name}={f.default!r}" if has_default(f) else f.name for f in of]


def has_default(field: Field[Any]) -> bool:
    """Whether the field may be left out."""
    return field.default is not MISSING
