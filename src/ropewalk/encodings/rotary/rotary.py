"""Rotary position embedding. Su et al. 2021, arXiv:2104.09864; several axes: Wang et al. 2024, arXiv:2409.12191."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.encodings.rotary.axes import LAYOUTS, PAIRINGS, RATES, axis_of_pair, check_sections, places
from ropewalk.errors import ConfigError, require, require_choice, require_even, require_number
from ropewalk.sites import Weights
from ropewalk.spectrum import Adapts, Scaling, Spectrum, is_scaling

if TYPE_CHECKING:
    from ropewalk.encodings.rotary.turning import Rotation, Tensor, Tokens


@dataclass(frozen=True)
class Rotary:
    """Turns each pair of query and key channels by an angle that grows with position: a logit sees only the distance.

    `dim` channels of a head are rotated, from `offset` on, and the others pass (a partial rotary: GPT-NeoX, Phi).
    Pair i turns by base ** (-2 i / dim) radians per position, bent by each of `scaling` in turn. With `sections` each
    pair follows one of several coordinates; "own" rates count i and dim inside the axis.
    """

    dim: int
    base: float = 10000.0
    scaling: tuple[Scaling | Adapts, ...] = ()
    pairing: str = "half"  # channels (i, i + dim/2), or "interleaved": (2i, 2i + 1)
    unscaled: int = 0  # the first tokens that keep the unbent angles (LongRoPE's n-hat, arXiv:2402.13753)
    offset: int = 0
    sections: tuple[int, ...] = ()  # pairs of each axis (mrope_section); () is one axis
    layout: str = "chunked"  # of the axes over the pairs, or "interleaved": in turn
    rates: str = "shared"  # "shared", "own" or "dealt": axes.py

    def __post_init__(self) -> None:
        require_even(self, "dim")
        require_number(self, "base", above=1)
        known = isinstance(self.scaling, tuple) and all(map(is_scaling, self.scaling))
        require(known, "Rotary.scaling", "a tuple of scalings", self.scaling)
        for field, choices in (("pairing", PAIRINGS), ("layout", LAYOUTS), ("rates", RATES)):
            require_choice(self, field, choices)
        for field in ("unscaled", "offset"):
            require_number(self, field, at_least=0, whole=True)
        check_sections(self, self.dim // 2)

    @property
    def axes(self) -> int:
        """How many coordinates of a token are read."""
        return len(self.sections) or 1

    def spectrum(self) -> Spectrum:
        """The rates that the angles are made of. Raises ConfigError while a scaling still depends on the length."""
        return self.bent(self.scaling)

    def unbent(self) -> Spectrum:
        """The rates before any scaling."""
        return self.bent(())

    def bent(self, scaling: tuple[Scaling | Adapts, ...]) -> Spectrum:
        """The rate of each pair, taken from its axis's table after every rule has bent that table."""
        axes = axis_of_pair(self)
        counts = [axes.count(axis) for axis in range(self.axes)] if self.rates == "own" else [self.dim // 2]
        tables = [Spectrum(tuple(self.base ** (-i / n) for i in range(n))) for n in counts]
        for rule in scaling:
            if not isinstance(rule, Scaling):
                raise ConfigError(f"Rotary.scaling must be settled by for_length(encoding, length) first, got {rule!r}")
            tables = [rule(table) for table in tables]
        return Spectrum(tuple(tables[n].inv_freq[row] for n, row in places(axes, self.rates)), tables[0].magnitude)

    def rotation(self, w: Weights, at: "Tokens") -> "Rotation":
        """Cosines and sines [B, T, dim / 2]: float64 angles, one narrowing to float32, magnitude included."""
        from ropewalk.encodings.rotary.turning import turned

        return turned(self, at)

    def angle(self, at: "Tokens") -> "Tensor":
        """Float64[B, T, dim / 2]: how far each pair is turned, in radians."""
        from ropewalk.encodings.rotary.turning import angle_of

        return angle_of(self, at)
