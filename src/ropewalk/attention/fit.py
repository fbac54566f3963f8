"""Whether an encoding was made for heads of this number and size.  H heads, D head channels."""

from typing import Any

from torch import Tensor

from ropewalk.errors import require
from ropewalk.sites import Biases, Mixes, Rotates, parts


def check_fit(q: Tensor, encoding: Any) -> None:
    """Raise ConfigError, naming the field, unless every part fits queries [B, H, T, D]."""
    heads, dim = q.shape[1], q.shape[-1]
    rotations, biases, mixers = (parts(encoding, site) for site in (Rotates, Biases, Mixes))
    require(len(mixers) < 2, "encoding", "at most one part that replaces the dot product", mixers)
    for e in (*biases, *mixers):
        known = getattr(e, "count", None) or getattr(e, "heads", heads) - getattr(e, "first", 0)
        # one head of learned numbers serves any number
        require(known in (1, heads), f"{type(e).__name__}.heads", f"{heads}, the heads of the queries", known)
    for e in mixers:
        known = getattr(e, "dim", dim)
        require(known == dim, f"{type(e).__name__}.dim", f"{dim}, the channels of a head", known)
    for e in rotations:
        known = getattr(e, "dim", dim) + getattr(e, "offset", 0)
        require(known <= dim, f"{type(e).__name__}.dim", f"at most {dim}, the channels of a head", known)
