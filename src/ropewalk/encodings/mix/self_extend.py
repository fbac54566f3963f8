"""Near keys exactly, far keys in groups. Jin et al. 2024, arXiv:2401.01325 (Self-Extend).

Paper and code: the paper rounds window / group down; the code does not, and leaves texts shorter than the window
alone. We follow the paper; form="code" is the fraction.
"""

from dataclasses import dataclass

from ropewalk.encodings.mix.branches import Branch, Branches, capped, require_rotary
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require_choice, require_number
from ropewalk.tokens import Tokens

FORMS = ("paper", "code")


@dataclass(frozen=True)
class SelfExtend(Branches):
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

    def branches(self, q_at: Tokens, k_at: Tokens) -> list[Branch]:
        """As they stand; from `window` on, by the number of their group, the query's with the shift."""
        near, far = capped(q_at, k_at, self.window)
        query, key = near.query // self.group, near.key // self.group
        if self.form == "code":
            return [near, Branch(query.double() + (self.window - self.window / self.group), key, far.where)]
        return [near, Branch(query + (self.window - self.window // self.group), key, far.where)]
