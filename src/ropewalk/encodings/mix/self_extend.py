"""Near keys exactly, far keys in groups. Jin et al. 2024, arXiv:2401.01325 (Self-Extend).

Paper and code: the paper rounds window / group down; the code does not, and leaves texts shorter than the window
alone. We follow the paper; form="code" is the fraction.
"""

from dataclasses import dataclass

from torch import Tensor

from ropewalk.encodings.mix.branches import require_rotary
from ropewalk.encodings.mix.near import Near
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require_choice, require_number
from ropewalk.tokens import Tokens, line

FORMS = ("paper", "code")


@dataclass(frozen=True)
class SelfExtend(Near):
    """A key `window` tokens away or further gets the logit of a distance counted in groups of `group` tokens.

    Group numbers are shifted so that they follow on from the window: by a whole number ("paper"), or by a fraction
    where the group does not divide the window ("code"). A model trained on L tokens reads (L - window) * group of them,
    and the window.
    """

    rotary: Rotary
    window: int
    group: int = 8
    form: str = "paper"  # or "code", the released one

    def __post_init__(self) -> None:
        require_rotary(self)
        require_number(self, "window", at_least=1, whole=True)
        require_number(self, "group", at_least=1, whole=True)
        require_choice(self, "form", FORMS)

    def queries(self, at: Tokens) -> list[Tensor]:
        """As they stand; from `window` on by the number of their group, with the shift."""
        i = line(at, "SelfExtend")
        group = i // self.group
        if self.form == "code":
            return [i, group.double() + (self.window - self.window / self.group)]
        return [i, group + (self.window - self.window // self.group)]

    def keys(self, at: Tokens) -> list[Tensor]:
        """As they stand; from `window` on by the number of their group."""
        j = line(at, "SelfExtend")
        return [j, j // self.group]

    def capacity(self, trained_length: int) -> int:
        """The most tokens that a model trained on `trained_length` reads without a distance that it never saw."""
        return max(trained_length - self.window, 0) * self.group + self.window
