"""How pairs of channels turn.  B batch, T tokens, H heads, D head channels, P pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import ConfigError, require

PAIRINGS = ("half", "interleaved")


def turn(x: Tensor, cos: Tensor, sin: Tensor, pairing: str, offset: int = 0) -> Tensor:
    """Rotate 2P channels of x [B, H, T, D] from `offset` on, in float32 or wider; the others pass; x's dtype stays.

    cos and sin are [B, T, P] or [B, H, T, P]. "half" pairs channel i with i + P, "interleaved" pairs 2i with 2i + 1.
    """
    pairs = cos.shape[-1]
    before, turned, after = x[..., :offset], x[..., offset : offset + 2 * pairs], x[..., offset + 2 * pairs :]
    turned = turned.to(torch.promote_types(x.dtype, torch.float32))
    parted = turned.unflatten(-1, (2, pairs) if pairing == "half" else (pairs, 2))
    first, second = parted.unbind(-2 if pairing == "half" else -1)
    fits = cos.dim() == 3 or cos.shape[1] in (1, x.shape[1])
    require(fits, "a rotation that differs by head", f"for as many heads as it turns, {x.shape[1]}", cos.shape[1])
    cos, sin = (t[:, None] if t.dim() == 3 else t for t in (cos, sin))
    both = (first * cos - second * sin, first * sin + second * cos)
    out = torch.stack(both, dim=-2 if pairing == "half" else -1).flatten(-2)
    return torch.cat((before, out.to(x.dtype), after), dim=-1)


class Rotation(NamedTuple):
    """What a rotary kernel is given."""

    cos: Tensor  # Float32[B, T, P], or [B, H, T, P] where heads differ
    sin: Tensor
    pairing: str = "half"
    growth: Tensor | None = None  # Float64[B, T, P]: queries times exp(growth), keys divided by it (xPos)
    offset: int = 0  # channels that pass before the first rotated one

    def query(self, x: Tensor) -> Tensor:
        """The rotated queries, [B, H, T, D] like x."""
        return turn(x, *self.tables(1), self.pairing, self.offset)

    def key(self, x: Tensor) -> Tensor:
        """The rotated keys, [B, H, T, D] like x."""
        return turn(x, *self.tables(-1), self.pairing, self.offset)

    def tables(self, sign: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines for queries (sign 1) or keys (-1). Raises ConfigError where float32 cannot hold them."""
        if self.growth is None:
            return self.cos, self.sin
        grown = (sign * self.growth).exp().to(self.cos.dtype)
        if not torch.compiler.is_compiling() and not bool(grown.isfinite().all()):
            raise ConfigError("growth must stay inside float32: shift the positions (`attend` does), got an overflow")
        return self.cos * grown, self.sin * grown
