"""The door for those who expect torch modules: learned tensors are its parameters, and it does no maths of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.attention import reference
from ropewalk.attention.attend import attend
from ropewalk.errors import require
from ropewalk.masks import Mask, causal
from ropewalk.tokens import Tokens


def initial(encoding: Any, seed: int = 0) -> dict[str, Tensor]:
    """The learned tensors that an encoding starts from, by name; empty where nothing is learned."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for e in encoding if isinstance(encoding, tuple) else (encoding,):
        new = e.init(draw) if hasattr(e, "init") else {}
        twice = sorted(new.keys() & found.keys())
        require(not twice, "encoding", "of parts that name their learned tensors differently", twice)
        found |= new
    return found


class Positions(nn.Module):
    """Owns the learned tensors of one encoding, so that optimisers, `state_dict` and sharding see them."""

    def __init__(self, encoding: Any, seed: int = 0) -> None:
        super().__init__()
        self.encoding = encoding
        self.weights = nn.ParameterDict(initial(encoding, seed))

    def learned(self) -> dict[str, Tensor]:
        """The parameters by name, as the functions of an encoding take them."""
        return dict(self.weights.items())

    def embed(self, x: Tensor, at: Tokens, inject: str = "input") -> Tensor:
        """`ropewalk.embed` with this encoding: [B, T, C]."""
        return reference.embed(x, self.encoding, self.learned(), at, inject)

    def rotate(self, q: Tensor, k: Tensor, at: Tokens) -> tuple[Tensor, Tensor]:
        """`ropewalk.rotate` with this encoding."""
        return reference.rotate(q, k, self.encoding, at, self.learned())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, q_at: Tokens, k_at: Tokens, mask: Mask = causal) -> Tensor:
        """`ropewalk.attend` with this encoding: [B, H, Q, D]."""
        return attend(q, k, v, self.encoding, self.learned(), q_at, k_at, mask)

    def extra_repr(self) -> str:
        """The encoding, as it is written in a configuration."""
        return repr(self.encoding)
