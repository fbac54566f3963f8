"""What a comparison is about: one size, one dtype, one direction, and the tensors that every contestant is given.

Letters: B batch, H query heads, G key heads, T tokens, D head channels.
"""

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.tokens import Tokens, contiguous

BASE = 10000.0  # of the rotary tables
ALONE = 1001  # where a single token stands, as in decoding: at 0 nothing turns. bfloat16 does not hold it
CHECKED = 256  # queries that float64 looks at in attention: the first, the last and others spread between them
FORWARD, BACKWARD, BOTH = "forward", "backward", "forward and backward"


class Case(NamedTuple):
    """One comparison."""

    what: str  # "rotate" or "attend"
    stage: str  # FORWARD, BACKWARD (alone) or BOTH
    bias: str  # of attention: "alibi", "t5" or "kerple"
    heads: int
    kv_heads: int
    length: int
    dim: int
    dtype: str
    layout: str  # of the memory: "bthd", as a projection leaves it, or "bhtd"
    device: str

    @property
    def first(self) -> int:
        """The position of the first token."""
        return ALONE if self.length == 1 else 0

    def title(self) -> str:
        """The case in words."""
        bias = f" with {self.bias}" if self.bias else ""
        return f"{self.what}{bias}, {self.stage}, {self.length:,} of {self.heads} x {self.dim}, {self.dtype}"

    def size(self) -> int:
        """Bytes of the inputs."""
        tensors = self.heads + self.kv_heads * (1 if self.what == "rotate" else 2)
        return tensors * self.length * self.dim * getattr(torch, self.dtype).itemsize

    def guess(self) -> float:
        """Seconds that one run may take, for the time left alone: bytes for rotations, products for attention."""
        tokens = self.heads * self.length * self.dim
        if self.what == "rotate":
            return 1e-4 + 4e-9 * tokens
        return 1e-4 + 5e-11 * tokens * self.length * (1 if self.stage == FORWARD else 4)


def memory(device: str) -> int:
    """Bytes that a device has in all."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Problem(NamedTuple):
    """The tensors of a case."""

    case: Case
    inputs: tuple[Tensor, ...]  # q [1, H, T, D] and k [1, G, T, D]; attention has v like k too
    weights: dict[str, Tensor]  # what the bias has learned
    gradients: tuple[Tensor, ...]  # one for each output
    at: Tokens

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs[0].dtype


def problem(case: Case, seed: int = 0) -> Problem:
    """Random tensors of a case; those that gradients are asked of require them."""
    draw = torch.Generator().manual_seed(seed)
    counts = [case.heads, case.kv_heads, case.kv_heads]
    learns = case.stage != FORWARD
    inputs = [tensor(case, n, draw).requires_grad_(learns) for n in counts[: 2 if case.what == "rotate" else 3]]
    weights = {name: w.to(case.device).requires_grad_(learns) for name, w in drawn(case, draw).items()}
    gradients = [tensor(case, n, draw) for n in (counts[:2] if case.what == "rotate" else counts[:1])]
    if case.what == "attend":
        # gradients come in at the checked queries alone, so that float64 has only those to follow back
        lit = torch.zeros(case.length, 1, dtype=gradients[0].dtype, device=case.device)
        lit[checked(case.length)] = 1
        gradients[0] *= lit
    at = Tokens(*(t.to(case.device) for t in contiguous(case.length, case.first)))
    return Problem(case, tuple(inputs), weights, tuple(gradients), at)


def tensor(case: Case, heads: int, draw: torch.Generator) -> Tensor:
    """[1, heads, T, D] of normal numbers in the memory layout of the case."""
    like: dict[str, Any] = {"dtype": getattr(torch, case.dtype), "device": case.device}
    if case.layout == "bhtd":
        return torch.randn(1, heads, case.length, case.dim, generator=draw).to(**like)
    return torch.randn(1, case.length, heads, case.dim, generator=draw).to(**like).transpose(1, 2)


def drawn(case: Case, draw: torch.Generator) -> dict[str, Tensor]:
    """Learned numbers large enough that a wrong bias moves attention."""
    if case.bias == "t5":
        return {"t5_bias": torch.randn(32, case.heads, generator=draw)}
    if case.bias == "kerple":
        rate, sharpness = 0.2 + torch.rand(2, case.heads, generator=draw)
        return {"kerple_log_rate": rate.log(), "kerple_log_sharpness": sharpness.log()}
    return {}


def checked(length: int) -> list[int]:
    """The queries that are checked: all of a short row, else the first, the last and others evenly between."""
    count = min(length, CHECKED)
    return sorted({round(i * (length - 1) / max(count - 1, 1)) for i in range(count)})
