"""How far the angles that engines compute in float32 are from exact ones, at the far end of a text."""

import numpy as np
import numpy.typing as npt

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.spectrum import for_length

LOOKED_AT = 1024  # positions before the end
Angles = npt.NDArray[np.float32]


def cosine_error(e: Rotary, length: int, recurrent: bool = False) -> float:
    """The largest error of a cosine among the last positions of a text of `length` tokens.

    The rates are made in float32 and multiplied with float32 positions, as transformers, vLLM, SGLang and MLX-LM do.
    `recurrent` is llama.cpp's way: the angle of a pair is that of the pair before times a constant (ggml's cache).
    """
    e = for_length(e, length)
    exact, plain = np.array(e.spectrum().inv_freq), np.array(e.unbent().inv_freq)
    bent = (exact / plain).astype(np.float32)
    at = np.arange(max(length - LOOKED_AT, 0), length)
    angles = (stepwise if recurrent else direct)(e, at.astype(np.float32)) * bent
    error = np.cos(angles.astype(np.float64)) - np.cos(at[:, None] * exact)
    return float(np.abs(error).max())


def direct(e: Rotary, at: Angles) -> Angles:
    powers = np.arange(0, e.dim, 2, dtype=np.float32) / np.float32(e.dim)
    rates = (1 / np.float32(e.base) ** powers).astype(np.float32)
    return at[:, None] * rates


def stepwise(e: Rotary, at: Angles) -> Angles:
    step = np.float32(e.base) ** np.float32(-2 / e.dim)
    columns = [at]
    for _ in range(e.dim // 2 - 1):
        columns.append(columns[-1] * step)
    return np.stack(columns, 1)
