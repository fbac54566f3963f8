"""Untied positions. Ke, He and Liu 2021, arXiv:2006.15595 (TUPE-A; with buckets TUPE-R)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from ropewalk.encodings.bias.t5 import T5
from ropewalk.errors import require, require_flag, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance, rows


@dataclass(frozen=True)
class Tupe:
    """Adds to q . k the product of two projected vectors of positions, all over sqrt(2 dim); with `buckets` T5's bias.

    With `cls` the token at position 0 is [CLS] and stands nowhere: one number in place of the product for all keys that
    it looks at, another for all queries that look at it, both made from the table's first rows.
    """

    dim: int
    heads: int
    length: int
    width: int | None = None  # None is heads * dim
    buckets: int = 0  # 32 in TUPE-R
    max_distance: int = 128  # where the buckets end
    cls: bool = True
    norm: bool = True  # layer norm of the table's rows

    def __post_init__(self) -> None:
        for field in ("dim", "heads", "length", *(("width",) if self.width is not None else ())):
            require_number(self, field, at_least=1, whole=True)
        require_number(self, "buckets", at_least=0, whole=True)
        require(self.buckets == 0 or self.buckets >= 4, "Tupe.buckets", "0 or at least 4", self.buckets)
        require_number(self, "max_distance", above=self.buckets // 4, whole=True)
        require_flag(self, "cls")
        require_flag(self, "norm")

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Table [length + 1, width], projections [heads * dim, width], biases by bucket; the norm. Float32."""
        width, out = self.width or self.heads * self.dim, self.heads * self.dim
        shapes = {"tupe_table": (self.length + 1, width), "tupe_query": (out, width), "tupe_key": (out, width)}
        shapes |= {"tupe_bias": (self.buckets + 1, self.heads)} if self.buckets else {}
        w = {name: 0.02 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        return w | ({"tupe_norm": torch.ones(width), "tupe_norm_bias": torch.zeros(width)} if self.norm else {})

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K], scaled. Raises ConfigError for a position outside the table."""
        w = {name: x.to(q.dtype) for name, x in w.items()}
        table = w["tupe_table"]
        if self.norm:
            table = layer_norm(table, table.shape[1:], w["tupe_norm"], w["tupe_norm_bias"])
        of_query, of_key = (linear(table, w[f"tupe_{x}"]).unflatten(-1, (self.heads, -1)) for x in ("query", "key"))
        # the first row stands for [CLS] as it looks at others; tokens have the rows after it
        place = (rows(at, self.length, "Tupe") + 1 for at in (q_at, k_at))
        position = torch.einsum("bqhd,bkhd->bhqk", *(x[row] for x, row in zip((of_query, of_key), place, strict=True)))
        alone = (of_query[:2] * of_key[:2]).sum(-1)[..., None, None]
        s = (q @ k.mT + self.untied(position, alone[1], alone[0], q_at, k_at)) * (2 * self.dim) ** -0.5
        if not self.buckets:
            return s
        bucket = T5(self.heads, self.buckets, self.max_distance, bidirectional=True).bucket(-distance(q_at, k_at))
        # keys ahead begin one after the middle bucket, so that it is free
        bucket = self.untied(bucket[:, None], self.buckets, self.buckets // 2, q_at, k_at)[:, 0]
        return s + w["tupe_bias"][bucket].movedim(-1, 1)

    def untied(self, x: Tensor, to_cls: Tensor | int, from_cls: Tensor | int, q_at: Tokens, k_at: Tokens) -> Tensor:
        """x [B, H, Q, K] with one value for all queries that look at [CLS], and one for every key that it looks at."""
        if not self.cls:
            return x
        x = torch.where(k_at.position[:, None, None, :, 0] == 0, to_cls, x)
        return torch.where(q_at.position[:, None, :, None, 0] == 0, from_cls, x)
