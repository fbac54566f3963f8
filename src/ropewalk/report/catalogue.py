"""The three registries as rows, from the classes and from probing them: what `ropewalk list` prints."""

from typing import Any

from ropewalk import remaps, scalings
from ropewalk.encodings import Rotary
from ropewalk.encodings import registry as encodings
from ropewalk.notation import SAMPLES, classes, sample
from ropewalk.probe import Properties, probe
from ropewalk.written import short

Row = dict[str, Any]
NOPE = "No positions at all (NoPE, arXiv:2305.19466): only a causal mask tells what came first."
NOTHING = "\u2013"


def catalogue() -> dict[str, list[Row]]:
    """A row for every encoding, with () for none at all, for every scaling (as a Rotary has it) and for every remap."""
    found = [*map(sample, classes(encodings)), ()]
    rules = [sample(kind) for kind in classes(scalings)]
    return {
        "encodings": [row(e) | properties(probe(e)) for e in found],
        "scalings": [row(s) | properties(probe(Rotary(SAMPLES["dim"], scaling=(s,)))) for s in rules],
        "remaps": [row(sample(kind)) for kind in classes(remaps)],
    }


def row(value: Any) -> Row:
    """Name, an example as it is written, and what it does in one sentence."""
    if value == ():
        return {
            "name": "()",
            "example": "()",
            "does": "No positions at all (NoPE): a causal mask is all that tells order.",
        }
    return {"name": type(value).__name__, "example": short(value), "does": sentence(type(value).__doc__ or "")}


def properties(p: Properties) -> Row:
    """Everything that was found, by name, as JSON has it."""
    return p._asdict() | {"monotone": p.monotone, "extrapolates": p.limit is None}


def sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


def cells(found: Row) -> list[str]:
    """The properties in the words of a table, in the order of COLUMNS."""
    return [
        " ".join(found["sites"]) or NOTHING,
        yes(found["relative"]),
        found["norm"] or NOTHING,
        found["trend"],
        found["keys"],
        f"{found['learned']:,}" if found["learned"] else NOTHING,
        "any" if found["limit"] is None else f"to {found['limit']:,}",
        yes(found["linear"]),
        found["kernel"],
    ]


COLUMNS = {
    "site": "where it acts: on the embeddings, rotating queries and keys, as a bias, or mixing contents into logits",
    "relative": "whether a shift of all tokens changes nothing",
    "norm": "of rotated queries and keys",
    "distance": "what the logit between equal tokens does as they move apart",
    "keys": "in a cache: mapped once, or raw because each query needs them afresh",
    "learned": "how many numbers, in the example",
    "positions": "that it can be evaluated at, in the example: any, or up to the last",
    "linear": "usable in linear attention",
    "kernel": "what computes it",
}


def yes(answer: bool) -> str:
    """The word for it."""
    return "yes" if answer else "no"
