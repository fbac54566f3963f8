"""Scaling that follows the length of each row, query by query: what a cache of raw keys lets a model do."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ropewalk.encodings.mix.branches import Branches
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require, require_number
from ropewalk.sites import Weights
from ropewalk.spectrum import BY_QUERY, Adapts, for_length
from ropewalk.tokens import Tokens, line


@dataclass(frozen=True)
class Adaptive:
    """Each query meets its keys under the rule that is settled for the query's own length, whatever comes after it.

    `encoding` is a Rotary, or a distance rule over one, with a scaling that depends on the length. Up to the trained
    length nothing changes; beyond it lengths grow by whole steps, so that queries share the keys turned for them.
    Nothing depends on earlier calls or other rows: decoding token by token is reading the whole. A model settled once
    for the last length (`for_length`) differs from its second layer on, where keys hold what their tokens saw then.
    """

    encoding: Any = field(metadata={BY_QUERY: True})
    step: int = 64

    def __post_init__(self) -> None:
        known = isinstance(self.encoding, Rotary | Branches)
        require(known, "Adaptive.encoding", "a Rotary or a distance rule over one", self.encoding)
        require_number(self, "step", at_least=1, whole=True)

    def window(self) -> int | None:
        """The length up to which nothing changes; None where nothing depends on the length."""
        moving = [rule for rule in getattr(self.encoding, "rotary", self.encoding).scaling if isinstance(rule, Adapts)]
        return min((getattr(rule, "trained_length", 1) for rule in moving), default=None)

    def length(self, at: Tokens) -> Tensor:
        """Int[B, Q]: the length that each query is served at."""
        own, window = line(at, "Adaptive") + 1, self.window()
        if window is None:
            return torch.ones_like(own)
        beyond = (own - window).clamp(min=0)
        return window + (beyond + self.step - 1) // self.step * self.step

    def settled(self, at: Tokens) -> dict[Any, Tensor]:
        """The rules that queries are served by, and Bool[B, Q] for each: whether it is the query's."""
        length = self.length(at)
        found: dict[Any, Tensor] = {}
        for n in length.unique().tolist():
            rule = for_length(self.encoding, n)
            found[rule] = (length == n) | found[rule] if rule in found else length == n
        return found

    def logits(self, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """[B, H, Q, K], scaled: every query's row under its own rule."""
        rules = self.settled(q_at)
        rows = [self.under(rule, w, q, k, q_at, k_at) for rule in rules]
        out = rows[0]
        for row, mine in zip(rows[1:], list(rules.values())[1:], strict=True):
            out = torch.where(mine[:, None, :, None], row, out)
        return out

    def under(self, rule: Any, w: Weights, q: Tensor, k: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
        """The logits of all queries under one rule."""
        if isinstance(rule, Branches):
            return rule.logits(w, q, k, q_at, k_at)
        turned = rule.rotation(w, q_at).query(q), rule.rotation(w, k_at).key(k)
        return turned[0] @ turned[1].mT * q.shape[-1] ** -0.5
