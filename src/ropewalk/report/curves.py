"""What an encoding does to pairs of equal tokens, as numbers to print and to draw. Weights are those before training.

Letters: T tokens, H heads, N distances, D head channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.module import initial
from ropewalk.attention.trial import Trial, at_places
from ropewalk.encodings.mix.adaptive import Adaptive
from ropewalk.errors import ConfigError
from ropewalk.probe import limit
from ropewalk.sites import Biases, Embeds, Mixes, parts
from ropewalk.spectrum import Spectrum, for_length
from ropewalk.tokens import Tokens, contiguous, select


@dataclass(frozen=True)
class Fresh(Trial):
    """A layer whose learned tensors are as they are before training; one head stands for all where they are alike."""

    spare: int = 1

    @cached_property
    def w(self) -> dict[str, Tensor]:
        return {name: x.double() for name, x in initial(self.encoding).items()}


def farthest(encoding: Any, wanted: int) -> int:
    """`wanted`, or the largest distance below it that the encoding can be evaluated at."""
    last = limit(encoding)
    return wanted if last is None else min(wanted, last)


def row(encoding: Any, distances: Sequence[int], axis: int | None) -> Tokens:
    """Keys, farthest first, and the query last: away from it along one axis, or along all where that is None."""
    axes, far = Fresh(encoding).axes, max(distances)
    # what mixes contents may count the keys between
    steps = range(far + 1) if parts(encoding, Mixes) else sorted({0, *distances})
    moved = [axis in (None, a) for a in range(axes)]
    return at_places([tuple((far - d) * m for m in moved) for d in reversed(steps)])


def at_distances(at: Tokens, values: Tensor, distances: Sequence[int]) -> Tensor:
    """[H, N] of values [H, T] that belong to the tokens of a row; one row alone where all heads agree."""
    place = at.position[0].amax(-1)
    found = values.flip(-1)[:, torch.searchsorted((place[-1] - place).flip(0).contiguous(), torch.tensor(distances))]
    return found[:1] if bool((found == found[:1]).all()) else found


def bias(encoding: Any, distances: Sequence[int], axis: int | None = None) -> Tensor:
    """Float[H, N]: what is added to the logit, for a query at the farthest distance."""
    at, w = row(encoding, distances, axis), Fresh(encoding).w
    added = sum(e.bias(w, select(at, slice(-1, None)), at)[0, :, 0] for e in parts(encoding, Biases))
    return at_distances(at, added, distances) if isinstance(added, Tensor) else torch.zeros(1, len(distances))


def kernel(encoding: Any, distances: Sequence[int], axis: int | None = None) -> Tensor:
    """Float64[H, N]: logits between two tokens whose queries and keys are 1 in every channel.

    For a rotary encoding that is sqrt(D) times the mean cosine of its angles: the mean over all contents, too.
    """
    at, trial = row(encoding, distances, axis), Fresh(encoding)
    x = torch.ones(1, trial.heads, at.order.shape[1], trial.dim, dtype=torch.float64)
    return at_distances(at, trial.logits(x, x, at, x.shape[2] - 1)[0, :, 0], distances)


def similarity(encoding: Any, tokens: int) -> tuple[Tokens, Tensor]:
    """At most `tokens` tokens, a grid where there are several axes, and the cosines [T, T] between their vectors."""
    trial = Fresh(encoding, farthest(encoding, tokens - 1))
    side = min(round(tokens ** (1 / trial.axes)), (trial.limit or 0) + 1)
    places = torch.cartesian_prod(*[torch.tensor(range(side))] * trial.axes).view(-1, trial.axes)
    at = contiguous(len(places))._replace(position=places[None])
    vectors = sum(e.embed(trial.w, at)[0].double() for e in parts(encoding, Embeds))
    assert isinstance(vectors, Tensor)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    return at, unit @ unit.T


def spectra(value: Any) -> Iterator[tuple[str, Spectrum, Spectrum]]:
    """Of every member, at any depth, that has rates: its name, the rates before any scaling, and its rates."""
    if isinstance(value, tuple):
        for inner in value:
            yield from spectra(inner)
    elif isinstance(value, Adaptive):
        # as queries at twice the trained length have them
        yield from spectra(for_length(value.encoding, 2 * (value.window() or 1)))
    elif hasattr(value, "spectrum"):
        yield type(value).__name__, plain(value).spectrum(), value.spectrum()
    elif is_dataclass(value):
        for field in fields(value):
            yield from spectra(getattr(value, field.name))


def plain(value: Any) -> Any:
    """The same without scalings."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    without = {f.name: () if f.name == "scaling" else plain(getattr(value, f.name)) for f in fields(value)}
    return replace(value, **without)


def moved(remap: Any, tokens: int) -> list[tuple[int, float]]:
    """Place in the text and position of every token that a remap keeps, of a text of that many or what it takes."""
    while tokens:
        try:
            at = remap(contiguous(tokens))
        except ConfigError:
            tokens //= 2
            continue
        return list(zip(at.order[0].tolist(), at.position[0, :, 0].tolist(), strict=True))
    return []


def sampled(far: int, bins: int = 240, each: int = 128) -> list[list[int]]:
    """Distances from 1 to `far` in bins of equal width on a log scale, each bin with its own or evenly chosen ones."""
    edges = sorted({*(round(far ** (i / bins)) for i in range(bins)), far + 1})
    return [few(range(a, b), each) for a, b in pairwise(edges)]


def few(items: Sequence[Any], room: int) -> list[Any]:
    """At most `room` of the items, the first and the last among them."""
    last = len(items) - 1
    return [items[i * last // (room - 1)] for i in range(room)] if len(items) > room else list(items)
