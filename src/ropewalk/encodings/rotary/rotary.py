"""Rotary position embedding. Su et al. 2021, arXiv:2104.09864 (RoFormer)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import ConfigError, require, require_number
from ropewalk.sites import PAIRINGS, Rotation, Weights
from ropewalk.spectrum import Adapts, Scaling, Spectrum
from ropewalk.tokens import Tokens


@dataclass(frozen=True)
class Rotary:
    """Turns each pair of query and key channels by an angle that grows with position, so that a logit sees only the
    distance between the two tokens.

    The first `dim` channels of a head are rotated and the others pass (a partial rotary: GPT-NeoX, GPT-J, Phi).
    Pair i turns by base ** (-2 i / dim) radians per position, bent by each of `scaling` in turn.
    """

    dim: int
    base: float = 10000.0
    scaling: tuple[Scaling | Adapts, ...] = ()
    pairing: str = "half"  # channels (i, i + dim/2), or "interleaved": (2i, 2i + 1)
    unscaled: int = 0  # the first tokens that keep the unbent angles (LongRoPE's n-hat, arXiv:2402.13753)

    def __post_init__(self) -> None:
        require_number(self, "dim", at_least=2, whole=True)
        require(self.dim % 2 == 0, "Rotary.dim", "even", self.dim)
        require_number(self, "base", above=1)
        require(self.pairing in PAIRINGS, "Rotary.pairing", " or ".join(map(repr, PAIRINGS)), self.pairing)
        require(isinstance(self.scaling, tuple), "Rotary.scaling", "a tuple of scalings", self.scaling)
        known = all(isinstance(s, (Scaling, Adapts)) and not isinstance(s, type) for s in self.scaling)
        require(known, "Rotary.scaling", "a tuple of scalings", self.scaling)
        require_number(self, "unscaled", at_least=0, whole=True)

    def spectrum(self) -> Spectrum:
        """The rates that the angles are made of. Raises ConfigError while a scaling still depends on the length."""
        spectrum = self.unbent()
        for rule in self.scaling:
            if not isinstance(rule, Scaling):
                raise ConfigError(f"Rotary.scaling must be settled by for_length(encoding, length) first, got {rule!r}")
            spectrum = rule(spectrum)
        return spectrum

    def unbent(self) -> Spectrum:
        """The rates before any scaling."""
        return Spectrum(tuple(self.base ** (-2 * i / self.dim) for i in range(self.dim // 2)))

    def rotation(self, w: Weights, at: Tokens) -> Rotation:
        """Cosines and sines [B, T, dim / 2]: float64 angles, one narrowing to float32, magnitude included."""
        angle, m = self.angle(at), self.spectrum().magnitude
        return Rotation((angle.cos() * m).float(), (angle.sin() * m).float(), self.pairing)

    def angle(self, at: Tokens) -> Tensor:
        """Float64[B, T, dim / 2]: how far each pair is turned, in radians."""
        position = at.position[..., :1]
        angle = position.double() * rates(self.spectrum(), position)
        if self.unscaled:
            angle = torch.where(position < self.unscaled, position.double() * rates(self.unbent(), position), angle)
        return angle


def rates(spectrum: Spectrum, like: Tensor) -> Tensor:
    """The spectrum as Float64[P] on the device of `like`."""
    return torch.tensor(spectrum.inv_freq, dtype=torch.float64, device=like.device)
