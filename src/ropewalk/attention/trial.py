"""One attention layer of the sizes that an encoding asks for, with random contents: where encodings are tried out.

Letters: B batch, T tokens, K keys, H heads, D head channels, C model channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention import reference
from ropewalk.attention.module import initial
from ropewalk.errors import require
from ropewalk.sites import Biases, Embeds, Mixes, Rotates, parts
from ropewalk.tokens import Tokens, contiguous, select

HEADS, DIM = 4, 16  # of an encoding that fits any
NEAR = 127  # the least distance that a text spans
TOKENS = 64  # of a text
LONGEST = 2**26  # its square, in float64, still has room for a fraction


def members(encoding: Any) -> tuple[Any, ...]:
    """The parts of an encoding, in order."""
    return encoding if isinstance(encoding, tuple) else (encoding,)


def held(value: Any, name: str | None = None) -> Iterator[int]:
    """The whole numbers in fields called `name`, at any depth; without a name in all but the sizes of the model."""
    if isinstance(value, tuple):
        for inner in value:
            yield from held(inner, name)
    elif is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            if type(inner) is int and (field.name == name or (name is None and field.name not in ("dim", "heads"))):
                yield inner
            yield from held(inner, name)


def reach(encoding: Any) -> int:
    """The largest length that the configuration mentions, of a table, a window or a clipped distance, up to LONGEST."""
    return min(max(held(encoding), default=1), LONGEST)


@dataclass(frozen=True)
class Trial:
    """One layer of the sizes that an encoding asks for: embeddings, random projections, logits."""

    encoding: Any
    limit: int | None = None  # the last position to be tried
    spare: int = HEADS  # heads of an encoding that serves any number

    @cached_property
    def axes(self) -> int:
        return max((getattr(e, "axes", 1) for e in members(self.encoding)), default=1)

    @cached_property
    def heads(self) -> int:
        origin = at_places([(0,) * self.axes])
        known = {e.bias(self.w, origin, origin).shape[1] for e in parts(self.encoding, Biases)}
        known |= {n for e in members(self.encoding) if not isinstance(e, Biases) for n in held(e, "heads")}
        # one head of learned numbers serves any number
        several = sorted(known - {1})
        require(len(several) < 2, "encoding", "of parts with the same number of heads", several)
        return max(known, default=self.spare)

    @cached_property
    def dim(self) -> int:
        inside = (e for site in (Rotates, Mixes) for e in parts(self.encoding, site))
        ends = (max(held(e, "dim"), default=0) + max(held(e, "offset"), default=0) for e in inside)
        return max(ends, default=0) or DIM

    @cached_property
    def width(self) -> int:
        return max((n for e in parts(self.encoding, Embeds) for n in held(e, "dim")), default=self.dim)

    @cached_property
    def w(self) -> dict[str, Tensor]:
        """The learned tensors, moved away from where they start: zeros and ones would hide what they do."""
        start = {name: x.double() for name, x in initial(self.encoding).items()}
        return {name: x + 0.1 * noise(1, 1, x.numel()).view(x.shape) for name, x in start.items()}

    @cached_property
    def span(self) -> int:
        """The last coordinate of the tokens that stand for a text."""
        far = max(4 * reach(self.encoding), NEAR)
        return far if self.limit is None else min(self.limit, far)

    @cached_property
    def tokens(self) -> Tokens:
        """At most 64 tokens in reading order: neighbours at first, then ever farther apart; a grid of several axes."""
        side = round(TOKENS ** (1 / self.axes))
        return at_places(list(product(spread(side, self.span), repeat=self.axes)))

    def qkv(self, x: Tensor, at: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, T, D] of embeddings [B, T, C] without positions."""
        x = reference.embed(x, self.encoding, self.w, at)
        late = any(getattr(e, "inject", "input") == "qkv" for e in members(self.encoding))
        inner = self.heads * self.dim
        each = self.width if late else inner
        x = reference.embed(x @ noise(2, x.shape[-1], 3 * each), self.encoding, self.w, at, "qkv")
        x = x.unflatten(-1, (3, each)) @ (noise(3, each, inner) if late else torch.eye(inner, dtype=x.dtype))
        q, k, v = x.unflatten(-1, (self.heads, self.dim)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def logits(self, q: Tensor, k: Tensor, at: Tokens, query: int) -> Tensor:
        """[B, H, 1, K]: one query with every key up to it, as in decoding."""
        before, new = select(at, slice(query + 1)), select(at, slice(query, query + 1))
        q, k = q[:, :, query : query + 1], k[:, :, : query + 1]
        return reference.logits(q, k, self.encoding, self.w, new, before)

    def words(self, at: Tokens) -> Tensor:
        """Random embeddings [B, T, C], the same for the same number of tokens."""
        return noise(4, at.order.shape[1], self.width)[None] * at.order.shape[1] ** 0.5


def noise(seed: int, rows: int, columns: int) -> Tensor:
    """Float64[rows, columns], normal: a matrix that keeps the size of each channel on average."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=draw, dtype=torch.float64) * rows**-0.5


def spread(count: int, last: int) -> list[int]:
    """Up to `count` places from 0 to `last`: neighbours in the first half, then with growing gaps."""
    if last < count:
        return list(range(last + 1))
    near = count // 2
    far = (near + (last - near) * i * i // (count - near) ** 2 for i in range(1, count - near + 1))
    return sorted({*range(near), *far})


def at_places(places: Sequence[tuple[int, ...]]) -> Tokens:
    """One document whose tokens stand at these coordinates, in this order."""
    return contiguous(len(places))._replace(position=torch.tensor([places]))
