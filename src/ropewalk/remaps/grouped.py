"""Neighbours that share a position. Jin et al. 2024, arXiv:2401.01325 (the far half of Self-Extend)."""

from dataclasses import dataclass

from ropewalk.errors import require_number
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class Grouped:
    """Numbers groups of `group` tokens; which token came first is still known, so causality is as before."""

    group: int = 8

    def __post_init__(self) -> None:
        require_number(self, "group", at_least=1, whole=True)

    def __call__(self, at: Tokens) -> Tokens:
        """The same tokens with every coordinate divided by the group, rounded down."""
        return at._replace(position=at.position // self.group)
