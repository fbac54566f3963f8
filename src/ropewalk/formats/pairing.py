"""Half and interleaved channel pairs: the order of the rows of query and key projections."""

from collections.abc import Sequence

from ropewalk.errors import require


def permutation(dim: int) -> tuple[int, ...]:
    """Where each of `dim` rotated channels in half order is found in interleaved order, within one head.

    half = interleaved[permutation(dim)]; for a projection, its output rows, its bias and the norms on queries and keys.
    """
    require(dim > 0 and dim % 2 == 0, "permutation.dim", "a positive even number", dim)
    return (*range(0, dim, 2), *range(1, dim, 2))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `order`: interleaved = half[inverse(permutation(dim))]."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))
