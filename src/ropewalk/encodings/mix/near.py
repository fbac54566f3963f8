"""Two branches: true distances up to a window, and another rule beyond it.  B batch, T tokens, Q queries, K keys."""

import torch
from torch import Tensor

from ropewalk.encodings.mix.branches import Branches
from ropewalk.tokens import Tokens, distance, line


class Near(Branches):
    """True distances below `window`, and another rule from there on."""

    window: int

    def takes(self, q_at: Tokens, k_at: Tokens) -> list[Tensor]:
        """The pairs that are nearer than the window, and the others."""
        return parted_at(self.window, q_at, k_at)


class Capped(Near):
    """From `window` on every distance counts as `window`: the query stands there and every key at 0."""

    def queries(self, at: Tokens) -> list[Tensor]:
        i = line(at, "a distance rule")
        return [i, torch.full_like(i, self.window)]

    def keys(self, at: Tokens) -> list[Tensor]:
        j = line(at, "a distance rule")
        return [j, torch.zeros_like(j)]


def parted_at(window: int, q_at: Tokens, k_at: Tokens) -> list[Tensor]:
    """Bool[B, Q, K] twice: the pairs at distances below `window`, and the others."""
    far = distance(q_at, k_at) >= window
    return [~far, far]
