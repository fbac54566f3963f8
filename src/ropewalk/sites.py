"""Where a positional encoding may act.

Letters: B batch, T tokens, Q queries, K keys, H heads, D head channels, C model channels, N distances.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ropewalk.tokens import Tensor, Tokens

Weights = Mapping[str, "Tensor"]  # learned tensors; empty for most encodings


class Maps(Protocol):
    """What maps each query and each key alone, [B, H, T, D] to [B, H, T, D]."""

    def query(self, x: "Tensor", /) -> "Tensor": ...
    def key(self, x: "Tensor", /) -> "Tensor": ...


@runtime_checkable
class Embeds(Protocol):
    """Once per model: vectors [B, T, C] added to the token embeddings.

    An encoding that meets them otherwise has `onto(w, x, at)` too, which returns the embeddings with positions.
    """

    def embed(self, w: Weights, at: "Tokens") -> "Tensor": ...


@runtime_checkable
class Rotates(Protocol):
    """Each query and key alone: mapped keys may be cached."""

    def rotation(self, w: Weights, at: "Tokens") -> Maps: ...


@runtime_checkable
class Biases(Protocol):
    """Pairs of positions: [B, H, Q, K] added to the logits."""

    def bias(self, w: Weights, q_at: "Tokens", k_at: "Tokens") -> "Tensor": ...


@runtime_checkable
class Mixes(Protocol):
    """Pairs of contents: [B, H, Q, K] in place of the scaled dot product.

    It may have `values(w, a, v, q_at, k_at)` in place of `a @ v`, and `visible(q_at, k_at)`, a mask of its own.
    """

    def logits(self, w: Weights, q: "Tensor", k: "Tensor", q_at: "Tokens", k_at: "Tokens") -> "Tensor": ...


class OfDistance:
    """Gives `bias` to an encoding that says what each distance costs: `of_distance(w, d: Int[N]) -> Float[H, N]`."""

    def of_distance(self, w: Weights, d: "Tensor") -> "Tensor":
        raise NotImplementedError

    def bias(self, w: Weights, q_at: "Tokens", k_at: "Tokens") -> "Tensor":
        """[B, H, Q, K]: the cost of the distance from each query back to each key."""
        from ropewalk.tokens import distance

        d = distance(q_at, k_at)
        return self.of_distance(w, d.flatten()).unflatten(1, d.shape).transpose(0, 1)


def parts(encoding: Any, site: type) -> list[Any]:
    """Members of an encoding (one dataclass, or a tuple of them; () is NoPE) that act at `site`."""
    return [e for e in (encoding if isinstance(encoding, tuple) else (encoding,)) if isinstance(e, site)]
