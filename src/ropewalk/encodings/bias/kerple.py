"""Kernels of distance with learned shapes. Chi et al. 2022, arXiv:2205.09921 (KERPLE)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.errors import require_number
from ropewalk.sites import OfDistance, Weights

LEAST = 0.01  # where the drawn numbers start from, at least


def shaped(w: Weights, d: Tensor, *names: str) -> tuple[Tensor, ...]:
    """The distances [N], then the named weights [H, 1], all in the weights' dtype, float32 at least."""
    wide = torch.promote_types(w[names[0]].dtype, torch.float32)
    return (d.abs().to(wide), *(w[name].to(wide)[:, None] for name in names))


@dataclass(frozen=True)
class KerpleLog(OfDistance):
    """Lowers a logit by `rate * log(1 + sharpness * distance)`; both positive, learned per head as logarithms."""

    heads: int

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The logarithms, Float32[heads] each, of a rate drawn from U(0, 2) and a sharpness from U(0, 1)."""
        rate, sharpness = torch.rand(2, self.heads, generator=draw)
        return {
            "kerple_log_rate": (2 * rate).clamp(min=LEAST).log(),
            "kerple_log_sharpness": sharpness.clamp(min=LEAST).log(),
        }

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        """[heads, N] in the weights' dtype, float32 at least."""
        far, rate, sharpness = shaped(w, d, "kerple_log_rate", "kerple_log_sharpness")
        return -rate.exp() * (sharpness.exp() * far).log1p()


@dataclass(frozen=True)
class KerplePower(OfDistance):
    """Lowers a logit by `rate * distance ** exponent`, both learned per head.

    The rate is positive, kept as its logarithm; the exponent lies between 0 and 2, kept as the logit of its half.
    """

    heads: int

    def __post_init__(self) -> None:
        require_number(self, "heads", at_least=1, whole=True)

    def init(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The kept forms, Float32[heads] each, of a rate drawn from U(0, 1) and an exponent from U(0, 2)."""
        rate, half = torch.rand(2, self.heads, generator=draw)
        return {
            "kerple_power_rate": rate.clamp(min=LEAST).log(),
            "kerple_power_exponent": half.clamp(LEAST / 2, 1 - LEAST / 2).logit(),
        }

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        """[heads, N] in the weights' dtype, float32 at least."""
        far, rate, exponent = shaped(w, d, "kerple_power_rate", "kerple_power_exponent")
        return -rate.exp() * far ** (2 * exponent.sigmoid())
