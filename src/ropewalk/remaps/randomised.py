"""Short texts at the positions of long ones. Ruoss et al. 2023, arXiv:2305.16843 (randomised positions)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require, require_number
from ropewalk.remaps.drawn import drawn
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class Randomised:
    """Gives the tokens of each document rising positions below `longest`, drawn anew for each; a training device.

    Every choice of positions is equally likely. A seed says all of them: take another for every batch.
    """

    longest: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        require_number(self, "longest", at_least=1, whole=True)
        require_number(self, "seed", at_least=0, at_most=2**63 - 1, whole=True)

    def __call__(self, at: Tokens) -> Tokens:
        """The same tokens elsewhere. Raises ConfigError for a document of more than `longest` positions."""
        return drawn(at, self.seed, "Randomised", self.places)

    def places(self, count: int, draw: torch.Generator) -> Tensor:
        """Int[count]: rising, from 0 to longest - 1."""
        require(
            count <= self.longest, "Randomised.longest", f"at least the {count} positions of a document", self.longest
        )
        return torch.randperm(self.longest, generator=draw)[:count].sort().values
