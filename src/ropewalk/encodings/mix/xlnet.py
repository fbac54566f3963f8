"""Transformer-XL's logits with a term for segments. Yang et al. 2019, arXiv:1906.08237 (XLNet)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.mix.lookup import pick
from ropewalk.encodings.mix.transformer_xl import TransformerXL
from ropewalk.errors import require
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class XLNet(TransformerXL):
    """Adds to Transformer-XL's logit (q + s) . e / sqrt(dim), where e tells whether the key is of the query's segment.

    A token's position is (place, segment). Tokens with a place alone are of one segment: the term, the same for every
    key, is left out. s and both vectors e are learned for each head.
    """

    @property
    def axes(self) -> int:
        """How many coordinates of a token are read."""
        return 2

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Those of Transformer-XL; e, Float32[2, heads, dim], same segment first, and s, Float32[heads, dim]."""
        shapes = {"xlnet_segment": (2, self.heads, self.dim), "xlnet_s": (self.heads, self.dim)}
        return super().init(draw) | {name: 0.02 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K], scaled. Raises ConfigError for tokens of more than two coordinates."""
        axes = q_at.position.shape[-1]
        require(axes <= 2, "the position that XLNet reads", "a place, or a place and a segment", f"{axes} axes")
        places = (at._replace(position=at.position[..., :1]) for at in (q_at, k_at))
        s = super().logits(w, q, k, *places)
        if axes == 1:
            return s
        fits = (q + w["xlnet_s"].to(q.dtype)[:, None]) @ w["xlnet_segment"].to(q.dtype).permute(1, 2, 0)
        other = q_at.position[:, :, None, 1] != k_at.position[:, None, :, 1]
        return s + pick(fits, other.long()) * self.dim**-0.5
