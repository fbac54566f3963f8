"""A learned bias per bucket of distances. Raffel et al. 2019, arXiv:1910.10683 (T5)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.errors import require_flag, require_number
from ropewalk.sites import OfDistance, Weights

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class T5(OfDistance):
    """Adds to a logit a learned number for the bucket that the distance falls into, one column per head.

    Near distances have a bucket each; further ones share buckets that widen up to `max_distance`, beyond which all
    share the last. Bidirectional gives half of the buckets to the keys ahead; otherwise they share bucket 0. T5's own
    logits are not divided by sqrt(head dim): take `attend(..., scale=1.0)`.
    """

    heads: int
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = False
    width: int = 512  # of the model: the table starts from N(0, 1 / width)

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)
        require_flag(self, "bidirectional")
        require_number(self, "buckets", at_least=4 if self.bidirectional else 2, whole=True)
        require_number(self, "max_distance", above=self.side // 2, whole=True)
        require_number(self, "width", at_least=1, whole=True)

    @property
    def side(self) -> int:
        """How many buckets one direction has."""
        return self.buckets // 2 if self.bidirectional else self.buckets

    def init(self, draw: "Generator") -> dict[str, "Tensor"]:
        """The table, Float32[buckets, heads]."""
        import torch

        return {"t5_bias": torch.randn(self.buckets, self.heads, generator=draw) * self.width**-0.5}

    def begins(self) -> list[int]:
        """The least distance in each bucket of one direction but the first."""
        near = self.side // 2
        wide = self.side - near
        found = list(range(1, near + 1))
        for i in range(1, wide):
            # the least n of at least near * (max_distance / near) ** (i / wide), compared in whole numbers
            n = int(near * (self.max_distance / near) ** (i / wide)) - 1
            while n**wide * near**i < self.max_distance**i * near**wide:
                n += 1
            found.append(n)
        return found

    def bucket(self, rel: "Tensor") -> "Tensor":
        """Int64, shaped like rel: the row of the table for keys that stand `rel` places ahead of the query.

        Raises ConfigError where rel is not made of whole numbers.
        """
        import torch

        from ropewalk.tokens import whole

        rel = whole(rel, "T5")
        far = rel.abs() if self.bidirectional else (-rel).clamp(min=0)
        begins = torch.tensor(self.begins(), device=rel.device)
        found = torch.bucketize(far, begins, right=True)
        return found + (rel > 0) * self.side if self.bidirectional else found

    def of_distance(self, w: Weights, d: "Tensor") -> "Tensor":
        """[heads, N] in the table's dtype."""
        return w["t5_bias"][self.bucket(-d)].T
