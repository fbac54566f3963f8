"""Disentangled attention. He et al. 2020, arXiv:2006.03654 (DeBERTa); buckets and norm: versions 2 and 3.

Paper and code: equation 4 takes p2c at the distance from key to query, the code at that from query to key, which all
weights were trained with. We follow the code; index="paper" is the other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from ropewalk.encodings.mix.lookup import log_bucket, pick
from ropewalk.errors import require, require_choice, require_flag, require_number
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, distance, whole


@dataclass(frozen=True)
class Deberta:
    """Adds to q . k how the query fits the distance (c2p) and how the key fits it (p2c), over sqrt(dim * all terms).

    A table has a row for each distance up to `span`, or for each bucket: distances up to half of `buckets` have one of
    their own. A model that projects rows as it does contents (share_att_key) hands those weights over as the learned.
    """

    dim: int
    heads: int
    width: int | None = None  # None is heads * dim
    span: int = 512
    buckets: int = 0  # 256 in versions 2 and 3
    terms: str = "c2p|p2c"
    index: str = "code"  # p2c at the distance from query to key, as all weights need it; "paper": from key to query
    norm: bool = False  # layer norm of the rows: True in versions 2 and 3

    def __post_init__(self) -> None:
        for field in ("dim", "heads", "span", *(("width",) if self.width is not None else ())):
            require_number(self, field, at_least=1, whole=True)
        require_number(self, "buckets", at_least=0, whole=True)
        few = self.buckets == 0 or 2 <= self.buckets < 2 * self.span - 2
        require(few, "Deberta.buckets", f"0, or at least 2 and below 2 * span - 2 = {2 * self.span - 2}", self.buckets)
        require_choice(self, "terms", ("c2p|p2c", "c2p", "p2c"))
        require_choice(self, "index", ("code", "paper"))
        require_flag(self, "norm")

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Table [2 k, width], projections [heads * dim, width] from N(0, 0.02); the query's bias, the norm. Float32."""
        width, out = self.width or self.heads * self.dim, self.heads * self.dim
        shapes = {"table": (2 * (self.buckets or self.span), width), "key": (out, width), "query": (out, width)}
        w = {name: 0.02 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        # a bias of the keys would add the same to every logit of a query
        w |= {"query_bias": torch.zeros(out), "norm": torch.ones(width), "norm_bias": torch.zeros(width)}
        used = {"table": True, "key": "c2p" in self.terms, "query": "p2c" in self.terms, "norm": self.norm}
        return {f"deberta_{name}": x for name, x in w.items() if used[name.removesuffix("_bias")]}

    def bucket(self, d: Tensor) -> Tensor:
        """Int64, like d: distances as they are, or their buckets, which keep growing beyond `span`."""
        return log_bucket(d, self.buckets // 2, self.span) if self.buckets else d

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K], scaled. Raises ConfigError for positions that are not whole."""
        half = self.buckets or self.span
        d = self.bucket(whole(distance(q_at, k_at), "Deberta"))
        row, back = ((x + half).clamp(0, 2 * half - 1) for x in (d, -d))
        w = {name: x.to(q.dtype) for name, x in w.items()}
        table = w["deberta_table"]
        if self.norm:
            table = layer_norm(table, table.shape[1:], w["deberta_norm"], w["deberta_norm_bias"], eps=1e-7)
        s = q @ k.mT
        if "c2p" in self.terms:
            keys = linear(table, w["deberta_key"]).unflatten(-1, (self.heads, self.dim))
            s = s + pick(torch.einsum("bhqd,nhd->bhqn", q, keys), row)
        if "p2c" in self.terms:
            queries = linear(table, w["deberta_query"], w["deberta_query_bias"]).unflatten(-1, (self.heads, self.dim))
            s = s + pick(torch.einsum("bhkd,nhd->bhkn", k, queries), (row if self.index == "code" else back).mT).mT
        return s * (self.dim * (len(self.terms.split("|")) + 1)) ** -0.5
