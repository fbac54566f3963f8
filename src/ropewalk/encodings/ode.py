"""Steps along the path of a differential equation."""

from collections.abc import Callable

from torch import Tensor


def runge_kutta(slope: Callable[[float, Tensor], Tensor], time: float, state: Tensor, step: float) -> Tensor:
    """The state one step later, by the classical method of fourth order."""
    first = slope(time, state)
    second = slope(time + step / 2, state + step / 2 * first)
    third = slope(time + step / 2, state + step / 2 * second)
    fourth = slope(time + step, state + step * third)
    return state + step / 6 * (first + 2 * second + 2 * third + fourth)
