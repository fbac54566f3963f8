"""A long context's distances inside a short text. Zhu et al. 2024, arXiv:2309.10400 (PoSE)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require, require_number
from ropewalk.remaps.drawn import drawn
from ropewalk.tokens import Tokens, contiguous


@dataclass(frozen=True)
class Pose:
    """Cuts each document in `chunks` and leaves a gap before each but the first; a training device.

    Cuts are drawn, and gaps so that a text of the trained length ends at `longest` at most. A seed says all of them:
    take another for every batch.
    """

    trained_length: int
    longest: int = 16384
    chunks: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        require_number(self, "trained_length", at_least=1, whole=True)
        require_number(self, "longest", at_least=self.trained_length, whole=True)
        require_number(self, "chunks", at_least=1, whole=True)
        require_number(self, "seed", at_least=0, at_most=2**63 - 1, whole=True)

    def __call__(self, at: Tokens) -> Tokens:
        """The same tokens elsewhere. Raises ConfigError for a document of more positions than the trained length."""
        return drawn(at, self.seed, "Pose", self.places)

    def places(self, count: int, draw: torch.Generator) -> Tensor:
        """Int[count]: 0, 1, 2 ... with a gap at each cut; a document of fewer tokens than chunks has fewer cuts."""
        rule = f"at least the {count} positions of a document"
        require(count <= self.trained_length, "Pose.trained_length", rule, self.trained_length)
        place = contiguous(count).position[0, :, 0]
        cuts = 1 + torch.randperm(count - 1, generator=draw)[: self.chunks - 1].sort().values
        skipped = [0]
        for _ in cuts:
            room = self.longest - self.trained_length + 1
            skipped.append(int(torch.randint(skipped[-1], room, (1,), generator=draw)))
        chunk = (place[:, None] >= cuts).sum(dim=-1)
        return place + torch.tensor(skipped)[chunk]
