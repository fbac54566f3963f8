"""YaRN, at a fixed factor and following the served length. Peng et al. 2023, arXiv:2309.00071.

Paper and code: the paper ramps over turns in the trained window, all released code over pair indices between rounded
ends, the upper one held below dim although indices end at dim / 2. We follow the code; ramp="rotations" is the paper.
"""

import math
from dataclasses import dataclass

from ropewalk.errors import require, require_number
from ropewalk.scalings.ramps import check_ramp, ramp_over_index, ramp_over_turns, slow
from ropewalk.spectrum import Spectrum


def mscale(factor: float, weight: float = 1.0) -> float:
    """The magnitude that YaRN recommends: 1 + 0.1 * weight * ln(factor), and 1 for a factor of 1 or below."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1


@dataclass(frozen=True)
class Yarn:
    """NTK by parts with a ramp over pair indices, and larger rotated vectors: logits grow by magnitude squared.

    `magnitude` overrides the recommended 1 + 0.1 ln(factor); `mscale` and `mscale_all_dim` (DeepSeek) replace it by a
    ratio when both are non-zero.
    """

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    # the authors' code ramps over pair index; the paper's text ramps over turns. Checkpoints follow the code.
    ramp: str = "index"
    truncate: bool = True  # round the ends of the index ramp outwards; gpt-oss does not
    magnitude: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self) -> None:
        require_number(self, "factor", at_least=1)
        check_ramp(self)
        check_kind_of_ramp(self)
        if self.magnitude is not None:
            require_number(self, "magnitude", above=0)
        for field in ("mscale", "mscale_all_dim"):
            if getattr(self, field) is not None:
                require_number(self, field, at_least=0)

    def __call__(self, s: Spectrum) -> Spectrum:
        ends = (s, self.trained_length, self.beta_fast, self.beta_slow)
        ramp = ramp_over_turns(*ends) if self.ramp == "rotations" else ramp_over_index(*ends, self.truncate)
        return slow(s, self.factor, ramp)._replace(magnitude=s.magnitude * self.effective_magnitude())

    def effective_magnitude(self) -> float:
        """The factor on rotated queries and on rotated keys."""
        if self.magnitude is not None:
            return self.magnitude
        if self.mscale and self.mscale_all_dim:
            return mscale(self.factor, self.mscale) / mscale(self.factor, self.mscale_all_dim)
        return mscale(self.factor)

    def softmax_factor(self) -> float:
        """DeepSeek's extra factor on the softmax scale, for channels that are not rotated (mscale_all_dim)."""
        return mscale(self.factor, self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0


@dataclass(frozen=True)
class DynamicYarn:
    """Leaves every length up to `trained_length` alone; a longer one is bent by YaRN with just the factor it needs."""

    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    ramp: str = "index"
    truncate: bool = True

    def __post_init__(self) -> None:
        check_ramp(self)
        check_kind_of_ramp(self)

    def at(self, length: int) -> Yarn:
        """The rule for texts of `length` tokens."""
        factor = max(length / self.trained_length, 1.0)
        return Yarn(factor, self.trained_length, self.beta_fast, self.beta_slow, self.ramp, self.truncate)


def check_kind_of_ramp(rule: Yarn | DynamicYarn) -> None:
    """Raise ConfigError unless `ramp` and `truncate` are among what is known."""
    name = type(rule).__name__
    require(rule.ramp in ("index", "rotations"), f"{name}.ramp", "'index' or 'rotations'", rule.ramp)
    require(type(rule.truncate) is bool, f"{name}.truncate", "True or False", rule.truncate)
