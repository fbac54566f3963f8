"""One encoding, scaling or remap in words and numbers: what `ropewalk show` prints.

Nothing is written here about any method: texts are the docstrings and comments of its file, numbers are computed.
"""

import inspect
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from torch import Tensor

from ropewalk import remaps, scalings
from ropewalk.attention.trial import held, members, reach
from ropewalk.encodings import Rotary
from ropewalk.encodings import registry as encodings
from ropewalk.errors import require
from ropewalk.notation import classes
from ropewalk.probe import probe
from ropewalk.report import curves
from ropewalk.report.catalogue import Row, properties
from ropewalk.sites import Biases, Embeds, Mixes, Rotates, parts
from ropewalk.spectrum import for_length
from ropewalk.written import short

REGISTRIES = {"encoding": encodings, "scaling": scalings, "remap": remaps}
DISAGREEMENT = "Paper and code:"
DISTANCES = (0, 1, 2, 4, 8, 16, 64, 256, 1024, 4096)
SHOWN = 8  # heads, pairs or tokens of a table; others are left out in between
# what the shared parameter names mean where a class says nothing of its own about them
SHARED = {
    "dim": "channels",
    "heads": "heads of attention, each with numbers of its own",
    "length": "rows of the table",
    "base": "what the rates are powers of",
    "factor": "how many times longer the window becomes",
    "trained_length": "tokens of the window that the model was trained on",
    "magnitude": "the factor on rotated queries and keys",
    "rotary": "the rotation that is used",
    "window": "distance up to which nothing is changed",
    "scaling": "rules that bend the rates, in order",
    "seed": "of all random choices",
}


def kind_of(value: Any) -> str:
    """What a value is: "encoding", "scaling" or "remap", or a tuple of encodings or of scalings. Raises ConfigError."""
    found = {next((k for k, known in REGISTRIES.items() if type(v) in classes(known)), "") for v in members(value)}
    fit = found <= {"encoding"} or found == {"scaling"} or (found == {"remap"} and not isinstance(value, tuple))
    require(fit, "show", "given an encoding, a scaling, a tuple of one of these, or a remap", value)
    return found.pop() if found else "encoding"


def explain(value: Any, trained_length: int | None = None, dim: int = 64, base: float = 1e4) -> Row:
    """All there is to say about a value, as JSON has it; a scaling is shown on a Rotary of that `dim` and `base`.

    Raises ConfigError for what cannot be shown.
    """
    if trained_length is not None:
        require(trained_length > 0, "--trained-length", "a positive number of tokens", trained_length)
    told = {"notation": short(value), "kind": kind_of(value), "parts": [part(v) for v in members(value)]}
    if told["kind"] == "remap":
        return told | {"trained_length": window(value, trained_length), "numbers": [places(value)]}
    encoding = Rotary(dim, base, members(value)) if told["kind"] == "scaling" else value
    settled, trained = for_length(encoding, served(encoding, trained_length)), window(encoding, trained_length)
    return told | {
        "shown_on": short(encoding),
        "settled": short(settled),
        "settled_for": None if settled == encoding else served(encoding, trained_length),
        "trained_length": trained,
        "properties": properties(probe(encoding)),
        "numbers": [*rates(settled, trained), *by_distance(settled)],
    }


def window(encoding: Any, trained_length: int | None) -> int | None:
    """The trained window: as given, or else as the encoding itself says."""
    return trained_length or max(held(encoding, "trained_length"), default=None)


def served(encoding: Any, trained_length: int | None) -> int:
    """The length that length-dependent rules are settled for: twice the trained window."""
    return 2 * (window(encoding, trained_length) or 1)


def part(value: Any) -> Row:
    """One member: its name, what it does, where it is from, what is disputed, and its parameters."""
    module = paragraphs(inspect.getdoc(inspect.getmodule(type(value))) or "")
    return {
        "name": type(value).__name__,
        "does": inspect.getdoc(type(value)) or "",
        "source": "\n\n".join(p for p in module if not p.startswith(DISAGREEMENT)),
        "disagreements": [p.removeprefix(DISAGREEMENT).strip() for p in module if p.startswith(DISAGREEMENT)],
        "parameters": parameters(value),
    }


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring, each on one line."""
    return [" ".join(p.split()) for p in text.split("\n\n") if p.strip()]


def parameters(value: Any) -> list[Row]:
    """Name, value, default and meaning of every field."""
    rows: list[Row] = []
    for field in fields(value):
        default = None if field.default is MISSING else short(field.default)
        told = {"name": field.name, "value": short(getattr(value, field.name)), "default": default}
        rows.append(told | {"meaning": meaning(type(value), field.name)})
    return rows


def meaning(kind: type, name: str) -> str:
    """What a field is for: what its class says, what the name always means, or what another class says of it."""
    own = said(kind, name) or SHARED.get(name) or sentence(kind, rf"\b{name.replace('_', '[_ ]')}\b")
    others = (other for known in REGISTRIES.values() for other in classes(known) if name in names(other))
    return own or next(filter(None, (said(other, name) for other in others)), "")


def names(kind: Any) -> list[str]:
    """Of its fields."""
    return [f.name for f in fields(kind)]


def said(kind: type, name: str) -> str:
    """The remark beside a field, or the part of the class's docstring that has its name in code."""
    return comments(kind).get(name) or sentence(kind, f"`{name}`")


def sentence(kind: type, pattern: str) -> str:
    """The first sentence or clause of the class's docstring in which the pattern occurs."""
    clauses = re.split(r"(?<=[.;:]) ", " ".join((kind.__doc__ or "").split()))
    return next((c.rstrip(".;:") for c in clauses if re.search(pattern, c, re.IGNORECASE)), "")


def comments(kind: type) -> dict[str, str]:
    """What the source says beside, or in comment lines above, each field."""
    found: dict[str, str] = {}
    for owner in kind.__mro__:
        above: list[str] = []
        for line in inspect.getsource(owner).splitlines() if is_dataclass(owner) else ():
            if line.startswith("    # "):
                above.append(line[6:])
            elif field := re.match(r"    (\w+): [^#]*(?:# (.*))?$", line):
                found.setdefault(field[1], " ".join([*above, field[2] or ""]).strip())
                above = []
            else:
                above = []
    return found


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Row:
    """Numbers with their names."""
    return {"caption": caption, "columns": list(columns), "rows": [list(r) for r in rows]}


def rates(encoding: Any, trained_length: int | None) -> Iterator[Row]:
    """Of everything that has a spectrum, how fast its pairs turn."""
    for name, plain, bent in curves.spectra(encoding):
        times = f"; rotated vectors are multiplied by {bent.magnitude:.6g}" if bent.magnitude != 1 else ""
        rows = [[i, f, wave(f)] for i, f in enumerate(bent.inv_freq)]
        columns = ["pair", "radians per token", "wavelength (tokens)"]
        if bent.inv_freq != plain.inv_freq:
            columns.append("times slower")
            rows = [[*r, f / r[1] if r[1] else None] for r, f in zip(rows, plain.inv_freq, strict=True)]
        if trained_length:
            columns.append(f"turns in {trained_length:,} tokens")
            rows = [[*r, trained_length * f / math.tau] for r, f in zip(rows, bent.inv_freq, strict=True)]
        yield table(f"Rates of {name}, {len(rows)} pairs{times}", columns, curves.few(rows, SHOWN))


def wave(rate: float) -> float | None:
    """Tokens that a full turn takes; None for a pair that does not turn."""
    return math.tau / rate if rate else None


def by_distance(encoding: Any) -> Iterator[Row]:
    """The bias, and the logit between equal tokens, or the likeness of vectors, by distance."""
    last = curves.farthest(encoding, DISTANCES[-1])
    distances = [d for d in DISTANCES if d <= last]
    if parts(encoding, Embeds):
        _, cosines = curves.similarity(encoding, min(last, 256) + 1)
        near = [d for d in distances if d < len(cosines)]
        rows = [[d, float(cosines[-1, len(cosines) - 1 - d])] for d in near]
        if len(cosines) == min(last, 256) + 1:
            yield table("Likeness of position vectors, by distance from the last", ["distance", "cosine"], rows)
    query = f"by distance back from a query at position {distances[-1]:,}"
    if parts(encoding, Biases):
        yield heads(f"Bias of each head, {query}", distances, curves.bias(encoding, distances))
    if parts(encoding, Rotates) or parts(encoding, Mixes):
        caption = f"Logit between tokens that are 1 in every channel, {query}"
        yield heads(caption, distances, curves.kernel(encoding, distances))


def heads(caption: str, distances: Sequence[int], values: Tensor) -> Row:
    """A row for each distance, a column for each head where heads differ."""
    shown = curves.few([*enumerate(values.tolist(), start=1)], SHOWN)
    names = ["all heads"] if len(values) == 1 else [f"head {h}" for h, _ in shown]
    return table(caption, ["distance", *names], [[d, *(v[i] for _, v in shown)] for i, d in enumerate(distances)])


def places(remap: Any) -> Row:
    """Where a remap puts the tokens of a text of twice the length that it mentions, or of as many as it takes."""
    found = curves.moved(remap, text_of(remap))
    text = f"Places of {len(found)} tokens, some of them left out here"
    return table(text, ["token of the text", "position"], curves.few(found, 2 * SHOWN))


def text_of(remap: Any) -> int:
    """How long a text a remap is shown on: twice what it mentions."""
    return 2 * max(reach(remap), SHOWN)
