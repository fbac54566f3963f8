"""YaRN and the part of it that bends the spectrum. Peng et al. 2023, arXiv:2309.00071."""

import math
from dataclasses import dataclass

from ropewalk.errors import require
from ropewalk.spectrum import Spectrum


def mscale(factor: float, weight: float = 1.0) -> float:
    """The magnitude that YaRN recommends: 1 + 0.1 * weight * ln(factor), and 1 for a factor of 1 or below."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1


def blend(rate: float, factor: float, keep: float) -> float:
    """`rate` divided by `factor` where keep is 0, untouched where keep is 1, mixed in between."""
    return rate / factor * (1 - keep) + rate * keep


def clip(x: float) -> float:
    return min(max(x, 0.0), 1.0)


@dataclass(frozen=True)
class NTKByParts:
    """Slows a pair by `factor` if it makes at most `beta_slow` turns in the trained window, keeps it from `beta_fast`
    turns on, and mixes in between, linearly in turns (definition 2 of the paper)."""

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        check_ramp(self)

    def __call__(self, s: Spectrum) -> Spectrum:
        return s._replace(inv_freq=tuple(blend(f, self.factor, self.keep(f)) for f in s.inv_freq))

    def keep(self, rate: float) -> float:
        turns = self.trained_length * rate / math.tau
        return clip((turns - self.beta_slow) / (self.beta_fast - self.beta_slow))


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
        check_ramp(self)
        require(self.ramp in ("index", "rotations"), "Yarn.ramp", "'index' or 'rotations'", self.ramp)
        require(self.magnitude is None or self.magnitude > 0, "Yarn.magnitude", "above 0", self.magnitude)

    def __call__(self, s: Spectrum) -> Spectrum:
        magnitude = s.magnitude * self.effective_magnitude()
        if self.ramp == "rotations":
            parts = NTKByParts(self.factor, self.trained_length, self.beta_fast, self.beta_slow)
            return parts(s)._replace(magnitude=magnitude)
        low, high = self.correction_range(s)
        keeps = (1 - clip((i - low) / (high - low)) for i in range(len(s.inv_freq)))
        return Spectrum(tuple(blend(f, self.factor, k) for f, k in zip(s.inv_freq, keeps, strict=True)), magnitude)

    def correction_range(self, s: Spectrum) -> tuple[float, float]:
        """The pair indices between which the ramp falls from kept to slowed."""
        low, high = correction_index(s, self, self.beta_fast), correction_index(s, self, self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        # the released code clamps to d - 1, although indices end at d / 2 - 1
        low, high = max(low, 0), min(high, 2 * len(s.inv_freq) - 1)
        return (low, high + 0.001) if low == high else (low, high)

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


def correction_index(s: Spectrum, rule: Yarn, turns: float) -> float:
    """The fractional pair index that makes `turns` turns in the trained window."""
    ratio = (s.inv_freq[0] / s.inv_freq[-1]) ** (1 / max(len(s.inv_freq) - 1, 1))
    return math.log(rule.trained_length * s.inv_freq[0] / (math.tau * turns)) / math.log(ratio)


def check_ramp(rule: NTKByParts | Yarn) -> None:
    name = type(rule).__name__
    require(rule.factor >= 1, f"{name}.factor", "at least 1", rule.factor)
    require(rule.trained_length > 0, f"{name}.trained_length", "positive", rule.trained_length)
    require(rule.beta_slow > 0, f"{name}.beta_slow", "above 0", rule.beta_slow)
    require(rule.beta_fast > rule.beta_slow, f"{name}.beta_fast", f"above beta_slow = {rule.beta_slow}", rule.beta_fast)
