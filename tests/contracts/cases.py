"""What the contract tests run on, and the one attention layer they run in.

Letters: B batch, T tokens, H heads, D head channels, C model channels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.notation import SAMPLES
from tolerance import tolerance

EXTRA = """
Rotary(16, pairing="interleaved")
Rotary(8, offset=8)
Rotary(16, sections=(4, 2, 2), layout="interleaved")
Rotary(16, sections=(2, 3, 3))
Rotary(16, sections=(4, 4), rates="own", pairing="interleaved")
Rotary(16, sections=(4, 4), rates="dealt")
XPos(8, scale_base=32.0, pairing="interleaved")
(XPos(16), Alibi(4))
RotaryMixed(12, 4, axes=3, pairing="half")
LieRotary(16, 3, heads=4, block=4)
CayleyString(16, axes=1)
CirculantString(16, axes=3)
Clex(16, 1e4, 100, activation="silu", width=2, steps=3, time=1.5)
Rotary(16, scaling=(Hope(64, keep=3),))
(Rotary(16), Alibi(4))
Alibi(16, max_exponent=5.0, ahead=0.5, first=8, count=4)
T5(4, buckets=12, max_distance=20, bidirectional=True)
Fire(4, hidden=8, threshold=16.0)
SwinV2(4, 8, 8, trained=(4, 4), hidden=16)
(T5(4), KerpleLog(4), Sandwich(4, 16))
(Learned(16, 64), Shaw(16))
Shaw(16, behind=3, ahead=0)
Shaw(16, fixed=True)
TransformerXL(16, 4, width=6, clamp=5)
XLNet(16, 4, clamp=5)
Deberta(16, 4, span=5, index="paper", terms="p2c")
Deberta(16, 4, span=24, buckets=6, norm=True)
Tupe(16, 4, 64, buckets=8, max_distance=20)
Tupe(16, 4, 64, cls=False, norm=False)
Sinusoidal(16, layout="concat")
Sinusoidal(16, layout="t2t", inject="pre_head")
Sinusoidal(16, axes=2)
Learned(16, 64, first_row=2, inject="pre_head")
Hierarchical(16, 7, first_row=2)
Multiplicative(Sinusoidal(16, axes=2))
Floater(16, inject="qkv", solver="euler", substeps=1)
ConvLeak(16, kernel=4)
(ConvLeak(16), Rotary(16))
ReRope(Rotary(16), window=5)
LeakyReRope(Rotary(16, scaling=(Yarn(4.0, 64),)), window=5, factor=3.0)
SelfExtend(Rotary(8, pairing="interleaved"), window=6, group=4, form="code")
DualChunk(Rotary(16), window=10, chunk=6, local=3)
DualChunk(Rotary(16), window=10, chunk=6, local=4, form="code")
LMInfinite(Rotary(16), window=5, sinks=3)
StreamingLLM(Rotary(16), sinks=3, recent=5)
Adaptive(Rotary(16, scaling=(DynamicYarn(8),)), step=4)
Adaptive(SelfExtend(Rotary(16, scaling=(DynamicNTK(1.0, 12),)), window=6, group=3), step=1)
WarpedDistance(Rotary(8, offset=4), Saturating(5))
(Rotary(16), LogN(5))
(LogN(5), ReRope(Rotary(16), window=5))
Temperature(floor=8)
Cope(16, positions=3)
(Rotary(16), Alibi(4), Urpe(4, reach=5))
()
"""
# length-dependent rules are settled on either side of the trained window
SERVED = (SAMPLES["trained_length"] // 2, 4 * SAMPLES["trained_length"])
WRITTEN: tuple[Any, ...] = (*rw.exported(), *map(rw.parse, EXTRA.strip().splitlines()))
ENCODINGS: tuple[Any, ...] = tuple(dict.fromkeys(rw.for_length(e, n) for e in WRITTEN for n in SERVED))

LENGTH, WIDTH, HEADS, DIM = 41, SAMPLES["dim"], SAMPLES["heads"], SAMPLES["dim"]


def members(encoding: Any) -> tuple[Any, ...]:
    return encoding if isinstance(encoding, tuple) else (encoding,)


def largest(encoding: Any, name: str, otherwise: int) -> int:
    """The largest value of a property that not every member has."""
    return max((getattr(e, name, otherwise) for e in members(encoding)), default=otherwise)


def placed(encoding: Any, at: rw.Tokens) -> rw.Tokens:
    """Tokens of one axis laid out on as many as the encoding reads: rows of eight, rows and planes of four."""
    p = at.position[..., 0]
    where = {1: (p,), 2: (p // 8, p % 8), 3: (p // 16, p // 4 % 4, p % 4)}[largest(encoding, "axes", 1)]
    return at._replace(position=torch.stack(where, dim=-1))


def learned(encoding: Any, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The learned tensors, moved away from where they start: zeros and ones would hide mistakes."""
    draw = torch.Generator().manual_seed(1)
    start = rw.initial(encoding, seed=0)
    return {name: (x + 0.1 * torch.randn(x.shape, generator=draw)).to(dtype) for name, x in start.items()}


@dataclass(frozen=True)
class Layer:
    """Embeddings with positions, three random projections, attention: all that an encoding can act on."""

    encoding: Any

    @cached_property
    def w(self) -> dict[str, Tensor]:
        return learned(self.encoding)

    def states(self, x: Tensor, at: rw.Tokens) -> Tensor:
        """The input of the layer, [B, T, C]; three such side by side where positions enter the projections apart."""
        return self.states_with(self.w, x, at)

    def states_with(self, w: dict[str, Tensor], x: Tensor, at: rw.Tokens) -> Tensor:
        inject = next((e.inject for e in members(self.encoding) if hasattr(e, "inject")), "input")
        x = x.repeat(1, 1, 3) if inject == "qkv" else x
        return rw.embed(x, self.encoding, w, placed(self.encoding, at), inject)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, H, T, D]."""
        draw = torch.Generator().manual_seed(2)
        project = torch.randn(x.shape[-1], 3 * HEADS * DIM, generator=draw, dtype=torch.float64) / x.shape[-1] ** 0.5
        q, k, v = (x.to(project.dtype) @ project).unflatten(-1, (3, HEADS, DIM)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, q_at: rw.Tokens, k_at: rw.Tokens) -> Tensor:
        at = (placed(self.encoding, q_at), placed(self.encoding, k_at))
        return rw.attend(q, k, v, self.encoding, self.w, *at)

    def run(self, x: Tensor, at: rw.Tokens) -> Tensor:
        """[B, H, T, D] of whole rows at once."""
        return self.attend(*self.qkv(self.states(x, at)), at, at)


def words(length: int = LENGTH, batch: int = 1) -> Tensor:
    """Embeddings without positions, Float64[B, T, C]."""
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(length), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal within what float32 tables allow."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(expected.float(), DIM))
