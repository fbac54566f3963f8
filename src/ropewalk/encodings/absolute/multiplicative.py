"""Position vectors that multiply the embeddings: the product kind in Su 2021, https://kexue.fm/archives/8130."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.encodings.absolute.learned import Learned
from ropewalk.encodings.absolute.sinusoidal import Sinusoidal
from ropewalk.errors import require
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class Multiplicative:
    """Multiplies each token embedding, channel by channel, with the vector that `of` has for its position.

    A learned table starts at 1, which changes nothing. Sines are 0 at position 0 and erase half of the channels there.
    """

    of: Learned | Sinusoidal

    def __post_init__(self) -> None:
        require(isinstance(self.of, Learned | Sinusoidal), "Multiplicative.of", "a Learned or a Sinusoidal", self.of)

    @property
    def axes(self) -> int:
        """How many coordinates of a token are read."""
        return self.of.axes if isinstance(self.of, Sinusoidal) else 1

    @property
    def inject(self) -> str:
        """Where the vectors enter."""
        return self.of.inject

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The table of a `Learned`, filled with ones; nothing for sines."""
        learned = self.of.init(draw) if isinstance(self.of, Learned) else {}
        return {name: torch.ones_like(x) for name, x in learned.items()}

    def embed(self, w: Weights, at: Tokens) -> Tensor:
        """[B, T, dim]: the factors. Raises ConfigError where `of` does."""
        return self.of.embed(w, at)

    def onto(self, w: Weights, x: Tensor, at: Tokens) -> Tensor:
        """[B, T, dim] in x's dtype: x times the factors."""
        return (x * self.embed(w, at)).to(x.dtype)
