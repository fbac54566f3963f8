"""Triton's rotation, element by element, against the formula in float64.

Runs on a GPU, or on the CPU under Triton's interpreter where TRITON_INTERPRET=1 is set (test_triton.py does that).
"""

import os
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU; test_triton.py runs this file under the interpreter", allow_module_level=True)
pytest.importorskip("triton")

from ropewalk.kernels.triton import rotate  # noqa: E402 - it reads the environment on import

pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
DEVICE = "cpu" if INTERPRETED else "cuda"
PAIRINGS = ("half", "interleaved")


class Case(NamedTuple):
    """What one call is given; P is all the pairs that fit behind `offset` unless given."""

    B: int = 2
    H: int = 2
    G: int = 1
    T: int = 3
    D: int = 8
    P: int | None = None
    offset: int = 0
    dtype: torch.dtype = torch.float32


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE, dtype)


def tables(case: Case, *rows: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of random angles, [*rows, T, P]."""
    pairs = (case.D - case.offset) // 2 if case.P is None else case.P
    angle = 100 * draw(*(rows or (case.B,)), case.T, pairs, dtype=torch.float64)
    return angle.cos().float(), angle.sin().float()


def operands(case: Case) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(draw(case.B, n, case.T, case.D, dtype=case.dtype) for n in (case.H, case.G))


def bounds(x: Tensor, cos: Tensor, sin: Tensor, pairing: str, offset: int) -> tuple[Tensor, Tensor]:
    """The rotation in float64, and how far each element of another may lie from it; 0 for channels that pass."""
    exact, allowed = x.double().clone(), torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    c, s = (t.double() if t.dim() == 4 else t.double()[:, None] for t in (cos, sin))
    pairs = cos.shape[-1]
    wide = torch.promote_types(torch.promote_types(x.dtype, cos.dtype), torch.float32)
    eps = torch.finfo(wide).eps
    # the interpreter drops the bits that bfloat16 lacks, where a GPU rounds to nearest
    rounding = 0.0 if wide == x.dtype else 1.0 if INTERPRETED and x.dtype == torch.bfloat16 else 0.5
    for i in range(pairs):
        first, second = (offset + i, offset + pairs + i) if pairing == "half" else (offset + 2 * i, offset + 2 * i + 1)
        a, b = x[..., first].double(), x[..., second].double()
        for channel, p, q in ((first, a * c[..., i], -b * s[..., i]), (second, a * s[..., i], b * c[..., i])):
            exact[..., channel] = p + q
            # each product and their sum is off by half an eps; then one rounding to the narrower type
            worst = eps * (p.abs() + q.abs())
            last = rounding * torch.finfo(x.dtype).eps * ((p + q).abs() + worst)
            allowed[..., channel] = 1.01 * (worst + last) + torch.finfo(x.dtype).smallest_normal
    return exact, allowed


def compare(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, pairing: str, offset: int) -> None:
    exact, allowed = bounds(x, cos, sin, pairing, offset)
    assert bool(((out.double() - exact).abs() <= allowed).all())


def inside(like: Tensor) -> tuple[Tensor, Tensor]:
    """A buffer full of NaN, and a view of it with the shape of `like` that leaves some of it out on every side."""
    buffer = torch.full([n + 2 for n in like.shape], torch.nan, dtype=like.dtype, device=like.device)
    return buffer, buffer[tuple(slice(1, n + 1) for n in like.shape)]


def check(xs: list[Tensor], angles: list[tuple[Tensor, Tensor]], pairing: str, offset: int = 0) -> None:
    """One launch for all of xs: every element right, nothing else written, nothing that was read changed."""
    buffers, outs = zip(*(inside(x) for x in xs), strict=True)
    read = [*xs, *(t for pair in angles for t in pair)]
    before = [t.clone() for t in read]
    rotate.launch([(x, out, *pair) for x, out, pair in zip(xs, outs, angles, strict=True)], pairing, offset)
    for x, out, pair in zip(xs, outs, angles, strict=True):
        compare(out, x, *pair, pairing, offset)
    for buffer, out in zip(buffers, outs, strict=True):
        assert int((~buffer.isnan()).sum()) == out.numel()
    assert all(torch.equal(now, then) for now, then in zip(read, before, strict=True))


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("dim", [2, 4, 6, 80, 96, 128, 256])
def test_head_dims(dim: int, pairing: str) -> None:
    case = Case(B=1, H=3, G=1, T=3, D=dim)
    check([*operands(case)], [tables(case)] * 2, pairing)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("offset", [0, 5, 12])
def test_some_channels_of_each_type(dtype: torch.dtype, pairing: str, offset: int) -> None:
    case = Case(D=22, P=5, offset=offset, dtype=dtype)
    check([*operands(case)], [tables(case)] * 2, pairing, offset)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("length", [0, 1, 33])
def test_lengths(length: int, pairing: str) -> None:
    case = Case(T=length, D=66, P=32, offset=1)
    check([*operands(case)], [tables(case)] * 2, pairing, 1)


def test_one_token_of_many_heads() -> None:
    case = Case(B=1, H=16, G=4, T=1, dtype=torch.bfloat16)
    check([*operands(case)], [tables(case)] * 2, "half")


@pytest.mark.parametrize("heads", [1, 3, 4, 6])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_heads_that_share_a_program(heads: int, pairing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate, "BUSY", 0)
    monkeypatch.setattr(rotate, "TILE", 4)
    case = Case(B=1, H=heads, G=5, T=2, D=10, P=4, offset=2)
    check([*operands(case)], [tables(case)] * 2, pairing, 2)
    # heads with tables of their own have a program each
    check([*operands(case)], [tables(case, 1, heads), tables(case)], pairing, 2)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_one_alone(pairing: str) -> None:
    case = Case()
    check([operands(case)[0]], [tables(case)], pairing)
    check([operands(case)[0], operands(case)[1][:, :0]], [tables(case)] * 2, pairing)


LAYOUTS = {
    "tokens first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels first": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every other channel": lambda x: x.repeat_interleave(2, dim=3)[..., 1::2],
    "a part of a row": lambda x: torch.cat((x, x, x), dim=3)[..., 7 : 7 + x.shape[3]],
    "one row for all": lambda x: x[:1].expand_as(x),
    "one head for all": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout: str, pairing: str) -> None:
    case = Case(D=10, P=4, offset=1)
    check([LAYOUTS[layout](x) for x in operands(case)], [tables(case)] * 2, pairing, 1)


def test_an_output_with_strides_of_its_own() -> None:
    case = Case()
    q, _ = operands(case)
    pair = tables(case)
    for layout in ("tokens first", "batch last"):
        out = LAYOUTS[layout](torch.full_like(q, torch.nan))
        rotate.launch([(q, out, *pair)], "half")
        compare(out, q, *pair, "half", 0)


@pytest.mark.parametrize("rows", [(1,), (2,), (1, 1), (2, 1), (1, 2), (2, 2)])
def test_rows_and_heads_of_tables(rows: tuple[int, ...]) -> None:
    case = Case(G=2)
    for pairing in PAIRINGS:
        check([*operands(case)], [tables(case, *rows)] * 2, pairing)


def test_queries_and_keys_by_tables_of_their_own() -> None:
    case = Case(H=3, G=2)
    q_tables, k_tables = tables(case, 2, 3), tables(case, 1)
    q_tables = tuple(3.5 * t for t in q_tables)
    check([*operands(case)], [q_tables, k_tables], "half")
    check([*operands(case)], [tables(case, 2, 3), tables(case, 2, 2)], "interleaved")


def test_tables_of_any_strides() -> None:
    case = Case()
    cos, sin = tables(case)
    both = torch.stack((cos, sin), dim=-1)
    check([*operands(case)], [(both[..., 0], both[..., 1])] * 2, "half")
    check([*operands(case)], [(cos, sin.mT.contiguous().mT)] * 2, "half")
    flat = cos[:, :1].expand_as(cos), sin[:, :1].expand_as(sin)
    check([*operands(case)], [flat] * 2, "interleaved")


def test_tables_in_float64() -> None:
    case = Case()
    wide = tuple(t.double() + 1e-9 for t in tables(case))
    check([*operands(case)], [wide] * 2, "half")


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_far_positions(pairing: str) -> None:
    q, k = operands(Case(B=1, T=4))
    position = torch.tensor([0, 1, 2**23 + 1, 2**24], device=DEVICE)
    angle = (position[:, None] * 10000.0 ** -(torch.arange(4, device=DEVICE, dtype=torch.float64) / 4))[None]
    check([q, k], [(angle.cos().float(), angle.sin().float())] * 2, pairing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_in_place_inside_a_projection(dtype: torch.dtype, pairing: str) -> None:
    case = Case(D=10, P=3, offset=2, dtype=dtype)
    torch.manual_seed(0)
    projected = draw(case.B, case.T, case.H + 2 * case.G, case.D, dtype=dtype)
    before = projected.clone()
    pair = tables(case)
    (q, k, v), was = (t.split((case.H, case.G, case.G), dim=2) for t in (projected, before))
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    rotate.launch([(q, q, *pair), (k, k, *pair)], pairing, 2)
    assert torch.equal(v, was[2])
    compare(q, was[0].transpose(1, 2), *pair, pairing, 2)
    compare(k, was[1].transpose(1, 2), *pair, pairing, 2)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_backwards_is_the_angle_negated(pairing: str) -> None:
    case = Case(D=10, P=4, offset=2)
    q, _ = operands(case)
    cos, sin = tables(case)
    back, negated = torch.full_like(q, torch.nan), torch.full_like(q, torch.nan)
    rotate.launch([(q, back, cos, sin)], pairing, 2, inverse=True)
    rotate.launch([(q, negated, cos, -sin)], pairing, 2)
    compare(back, q, cos, -sin, pairing, 2)
    assert torch.equal(back, negated)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="the interpreter would copy all of the memory")
def test_addresses_beyond_32_bits() -> None:
    far = torch.zeros(2**32 + 64, dtype=torch.bfloat16, device=DEVICE)
    strides = {"heads": (1, 2**32, 8, 1), "tokens": (1, 1, 2**32 // 4, 1), "channels": (1, 8, 1, 2**32 // 7)}
    for s in strides.values():
        case = Case(B=1, H=2 if s[1] > 1 else 1, T=5 if s[2] > 1 else 1, dtype=torch.bfloat16)
        x = far.as_strided((1, case.H, case.T, 8), s)
        x.copy_(operands(case)[0])
        pair = tables(case)
        out = torch.full(x.shape, torch.nan, dtype=x.dtype, device=DEVICE)
        rotate.launch([(x, out, *pair)], "half")
        compare(out, x, *pair, "half", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1 + 2.5 * torch.finfo(torch.bfloat16).eps, torch.nan, -1.0])
def test_the_comparison_sees_one_wrong_element(dtype: torch.dtype, factor: float) -> None:
    q = operands(Case(dtype=dtype))[0]
    pair = tables(Case())
    out = bounds(q, *pair, "half", 0)[0].to(dtype)
    compare(out, q, *pair, "half", 0)
    out[1, 1, 2, 7] *= factor
    with pytest.raises(AssertionError):
        compare(out, q, *pair, "half", 0)


def test_the_comparison_sees_three_units_of_float32() -> None:
    q = operands(Case())[0]
    pair = tables(Case())
    exact, allowed = bounds(q, *pair, "half", 0)
    out = exact.float()
    out[1, 1, 2, 7] += 3 * allowed[1, 1, 2, 7]
    with pytest.raises(AssertionError):
        compare(out, q, *pair, "half", 0)
