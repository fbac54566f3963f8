"""From coordinates to angles, and from angles to what a rotary kernel is given.  B batch, T tokens, A axes, P pairs."""

from typing import Any

import torch
from torch import Tensor

from ropewalk.encodings.rotary.axes import axis_of_pair
from ropewalk.errors import require
from ropewalk.rotation import Rotation
from ropewalk.spectrum import Spectrum
from ropewalk.tokens import Tokens


def coordinates(at: Tokens, axes: tuple[int, ...]) -> Tensor:
    """[B, T, P] or [B, T, 1]: the coordinate that drives each pair; tokens of one axis drive all pairs with it.

    Raises ConfigError where the tokens have neither one axis nor as many as the encoding.
    """
    known, wanted = at.position.shape[-1], max(axes) + 1
    rule = "along one axis" if wanted == 1 else f"along one axis or {wanted}"
    require(known in (1, wanted), "Tokens.position", rule, f"{known} axes")
    return at.position if known == 1 else at.position[..., list(axes)]


def angles(where: Tensor, spectrum: Spectrum) -> Tensor:
    """Float64[B, T, P]: coordinates times rates, in radians."""
    exact = where.double()
    return exact * exact.new_tensor(spectrum.inv_freq)


def on_axes(at: Tokens, axes: int) -> Tensor:
    """Float64[B, T, A]: every coordinate, for what is learned over all of them; one axis stands for each."""
    return coordinates(at, tuple(range(axes))).double().expand(-1, -1, axes)


def turned_by(angle: Tensor, learned: Tensor, pairing: str) -> Rotation:
    """The tables of learned angles (Float64), in the dtype of what was learned, float32 at least."""
    dtype = torch.promote_types(learned.dtype, torch.float32)
    return Rotation(angle.cos().to(dtype), angle.sin().to(dtype), pairing)


def angle_of(rotary: Any, at: Tokens) -> Tensor:
    """Float64[B, T, P]: how far a Rotary turns each pair, its first tokens at unbent rates."""
    where = coordinates(at, axis_of_pair(rotary))
    angle = angles(where, rotary.spectrum())
    return torch.where(where < rotary.unscaled, angles(where, rotary.unbent()), angle) if rotary.unscaled else angle


def turned(rotary: Any, at: Tokens) -> Rotation:
    """The tables of a Rotary: Float64 angles, one narrowing to Float32, magnitude included."""
    angle, m = rotary.angle(at), rotary.spectrum().magnitude
    return Rotation((angle.cos() * m).float(), (angle.sin() * m).float(), rotary.pairing, offset=rotary.offset)
