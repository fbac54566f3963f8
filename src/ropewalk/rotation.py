"""How pairs of channels turn.  B batch, T tokens, H heads, D head channels, P pairs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import ConfigError
from ropewalk.kernels import PAIRINGS as PAIRINGS
from ropewalk.kernels.rotate import rotate, rotate_pair


class Rotation(NamedTuple):
    """What a rotary kernel is given."""

    cos: Tensor  # Float32[B, T, P], or [B, H, T, P] where heads differ
    sin: Tensor
    pairing: str = "half"
    growth: Tensor | None = None  # Float64[B, T, P]: queries times exp(growth), keys divided by it (xPos)
    offset: int = 0  # channels that pass before the first rotated one

    def query(self, x: Tensor) -> Tensor:
        """The rotated queries, [B, H, T, D] like x."""
        return rotate(x, *self.tables(1), self.pairing, self.offset)

    def key(self, x: Tensor) -> Tensor:
        """The rotated keys, [B, H, T, D] like x."""
        return rotate(x, *self.tables(-1), self.pairing, self.offset)

    def tables(self, sign: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines for queries (sign 1) or keys (-1). Raises ConfigError where float32 cannot hold them."""
        if self.growth is None:
            return self.cos, self.sin
        grown = (sign * self.growth).exp().to(self.cos.dtype)
        if not torch.compiler.is_compiling() and not bool(grown.isfinite().all()):
            raise ConfigError("growth must stay inside float32: shift the positions (`attend` does), got an overflow")
        return self.cos * grown, self.sin * grown


def turn_both(rotation: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [B, H, T, D] and keys [B, G, T, D] of the same tokens, mapped: in one pass where pairs turn."""
    if not isinstance(rotation, Rotation):
        return rotation.query(q), rotation.key(k)
    return rotate_pair(q, k, rotation.tables(1), rotation.tables(-1), rotation.pairing, rotation.offset)
