"""How far apart two results of the same arithmetic may lie; the one place where tests take it from."""

import torch
from torch import Tensor


def tolerance(x: Tensor, terms: int = 1) -> float:
    """Four units in the last place of the largest value of x, growing as the root of the number of terms summed."""
    return 4 * torch.finfo(x.dtype).eps * x.abs().max().item() * terms**0.5
