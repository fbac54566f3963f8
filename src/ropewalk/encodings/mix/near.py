"""Two branches: true distances up to a window, and another rule beyond it.  B batch, T tokens, Q queries, K keys."""

import torch
from torch import Tensor

from ropewalk.encodings.mix.branches import Branches
from ropewalk.tokens import Tokens, line


class Near(Branches):
    """True distances below `window`, and another rule from there on."""

    window: int

    def takes(self, q_at: Tokens, k_at: Tokens) -> list[Tensor]:
        i, j = line(q_at, "a distance rule"), line(k_at, "a distance rule")
        far = i[:, :, None] - j[:, None, :] >= self.window
        return [~far, far]


class Capped(Near):
    """From `window` on every distance counts as `window`: the query stands there and every key at 0."""

    def queries(self, at: Tokens) -> list[Tensor]:
        i = line(at, "a distance rule")
        return [i, torch.full_like(i, self.window)]

    def keys(self, at: Tokens) -> list[Tensor]:
        j = line(at, "a distance rule")
        return [j, torch.zeros_like(j)]
