"""Rates that follow a learned differential equation (CLEX). Chen et al. 2023, arXiv:2310.16450."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ropewalk.encodings.ode import runge_kutta
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.encodings.rotary.turning import turned_by
from ropewalk.errors import ConfigError, require_choice, require_even, require_number
from ropewalk.rotation import PAIRINGS, Rotation
from ropewalk.sites import Weights
from ropewalk.tokens import Tokens, line

ACTIVATIONS = {"tanh": torch.tanh, "silu": torch.nn.functional.silu}


@dataclass(frozen=True)
class Clex:
    """Turns pairs by rates that move away from those of training as the text grows to `time` trained windows.

    The logarithms of the rates change with time as those of NTK with factor 2 time - 1 do, and by a small network that
    starts at nothing. Text inside the trained window is turned by Rotary alone.
    """

    dim: int
    base: float
    trained_length: int
    longest: float = 16.0  # windows at which the rates stop to change
    width: int = 1  # of the hidden layer, in units of dim
    activation: str = "tanh"  # or "silu", under which rates may run away
    steps: int = 10  # Runge-Kutta steps (fourth order) per window; the authors' code takes 100
    pairing: str = "half"
    time: float | None = None  # None until for_length settles it; drawn at random in training

    def __post_init__(self) -> None:
        require_even(self, "dim")
        require_number(self, "base", above=1)
        for field, least in (("dim", 4), ("trained_length", 1), ("width", 1), ("steps", 1)):
            require_number(self, field, at_least=least, whole=True)
        require_number(self, "longest", at_least=1)
        for field, choices in (("activation", ACTIVATIONS), ("pairing", PAIRINGS)):
            require_choice(self, field, choices)
        if self.time is not None:
            require_number(self, "time", at_least=1)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The layer up, Float32[dim / 2, width dim], drawn evenly, and the layer down, zeros."""
        up = 2 * torch.rand(self.dim // 2, self.width * self.dim, generator=draw) - 1
        return {"clex_up": up * up.shape[1] ** -0.5, "clex_down": torch.zeros(up.mT.shape)}

    def at(self, length: int) -> "Clex | Rotary":
        """The encoding of texts of `length` tokens: as many trained windows as they fill, `longest` at most."""
        time = self.time or float(min(max(math.ceil(length / self.trained_length), 1), self.longest))
        return Rotary(self.dim, self.base, pairing=self.pairing) if time == 1 else replace(self, time=time)

    def rates(self, w: Weights) -> Tensor:
        """Float64[dim / 2] at `time`. Raises ConfigError before the length is settled."""
        if self.time is None:
            raise ConfigError("Clex.time must be settled by for_length(encoding, length) first, got None")
        up, down, activation = w["clex_up"].double(), w["clex_down"].double(), ACTIVATIONS[self.activation]
        index = torch.ones_like(up[:, 0]).cumsum(0) - 1

        def ntk(time: float) -> Tensor:
            return -2 * index * (math.log(self.base) / self.dim + math.log(2 * time - 1) / (self.dim - 2))

        # solved for the distance from NTK, so that a network of zeros leaves NTK itself and no approximation of it
        def slope(time: float, apart: Tensor) -> Tensor:
            return activation((apart + 2 * ntk(time)) @ up) @ down

        apart, count = torch.zeros_like(index), math.ceil((self.time - 1) * self.steps)
        for n in range(count):
            apart = runge_kutta(slope, 1 + n * (self.time - 1) / count, apart, (self.time - 1) / count)
        return (apart + ntk(self.time)).exp()

    def rotation(self, w: Weights, at: Tokens) -> Rotation:
        """Cosines and sines [B, T, dim / 2]: float64 angles, then the dtype of the layers, float32 at least."""
        return turned_by(line(at, "Clex").double()[..., None] * self.rates(w), w["clex_up"], self.pairing)
