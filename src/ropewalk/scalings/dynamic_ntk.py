"""NTK-aware scaling that follows the served length. emozilla 2023; as the `dynamic` rule of Hugging Face.

Paper and code: the paper's factor is length / trained length, which is factor=1 here; the released rule has a factor
of its own. We follow the code.
"""

from dataclasses import dataclass

from ropewalk.errors import require_number
from ropewalk.scalings.ntk import NTK


@dataclass(frozen=True)
class DynamicNTK:
    """Leaves every length up to `trained_length` alone and bends longer ones by NTK, the more the longer.

    At `length` it is NTK(factor * length / trained_length - (factor - 1)): with a factor of 1, by just as much as the
    length exceeds the window.
    """

    factor: float
    trained_length: int

    def __post_init__(self) -> None:
        require_number(self, "factor", at_least=1)
        require_number(self, "trained_length", at_least=1, whole=True)

    def at(self, length: int) -> NTK:
        """The rule for texts of `length` tokens."""
        beyond = max(length - self.trained_length, 0) / self.trained_length
        return NTK(1 + self.factor * beyond)
