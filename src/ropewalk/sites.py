"""Where a positional encoding may act.  B batch, T tokens, A axes, H heads, D head channels, P pairs."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ropewalk.tokens import Tokens

Weights = Mapping[str, Tensor]  # learned tensors; empty for most encodings
PAIRINGS = ("half", "interleaved")


def turn(x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> Tensor:
    """Rotate the first 2P channels of x [B, H, T, D] in float32; the others pass; the result has x's dtype.

    "half" pairs channel i with i + P, "interleaved" pairs 2i with 2i + 1.
    """
    pairs = cos.shape[-1]
    turned, kept = x[..., : 2 * pairs].float(), x[..., 2 * pairs :]
    parted = turned.unflatten(-1, (2, pairs) if pairing == "half" else (pairs, 2))
    first, second = parted.unbind(-2 if pairing == "half" else -1)
    cos, sin = cos[:, None], sin[:, None]
    both = (first * cos - second * sin, first * sin + second * cos)
    out = torch.stack(both, dim=-2 if pairing == "half" else -1).flatten(-2)
    return torch.cat((out.to(x.dtype), kept), dim=-1)


class Rotation(NamedTuple):
    """What a rotary kernel is given."""

    cos: Tensor  # Float32[B, T, P]
    sin: Tensor  # Float32[B, T, P]
    pairing: str = "half"

    def query(self, x: Tensor) -> Tensor:
        """The rotated queries, [B, H, T, D] like x."""
        return turn(x, self.cos, self.sin, self.pairing)

    def key(self, x: Tensor) -> Tensor:
        """The rotated keys, [B, H, T, D] like x."""
        return turn(x, self.cos, self.sin, self.pairing)


@runtime_checkable
class Embeds(Protocol):
    """Once per model: added to the token embeddings."""

    def embed(self, w: Weights, at: Tokens) -> Tensor: ...  # [B, T, C]


@runtime_checkable
class Rotates(Protocol):
    """Each query and key alone: mapped keys may be cached."""

    def rotation(self, w: Weights, at: Tokens) -> Rotation: ...


@runtime_checkable
class Biases(Protocol):
    """Pairs of positions: added to the logits."""

    def bias(self, w: Weights, q_at: Tokens, k_at: Tokens) -> Tensor: ...  # [B, H, Tq, Tk]


@runtime_checkable
class Mixes(Protocol):
    """Pairs of contents: replaces the dot product."""

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor: ...


def parts(encoding: Any, site: type) -> list[Any]:
    """Members of an encoding (one dataclass, or a tuple of them; () is NoPE) that act at `site`."""
    return [e for e in (encoding if isinstance(encoding, tuple) else (encoding,)) if isinstance(e, site)]
