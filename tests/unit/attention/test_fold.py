"""ALiBi as channels of queries and keys: exact at any length, in every dtype, forward and backward."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import ropewalk as rw
from ropewalk.attention import call as call_of
from ropewalk.attention import fold, reference
from ropewalk.attention.call import Call
from ropewalk.attention.fold import attend_folded, pieces, places, rows_of
from ropewalk.masks import bidirectional, window
from tolerance import tolerance

DIM = 16
ENCODINGS = (
    rw.Alibi(4),
    rw.Alibi(4, ahead=0.5),
    rw.Alibi(16, first=2, count=4),
    rw.Alibi(1),
    (rw.Alibi(4), rw.Alibi(4, max_exponent=4.0)),
    (rw.Rotary(16), rw.Alibi(4)),
)
each = pytest.mark.parametrize("encoding", ENCODINGS, ids=rw.short)
NARROW = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 queries, the last one shorter."""
    monkeypatch.setattr(fold, "rows_of", lambda slope, dtype: 16)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose products of narrow numbers are the fast ones."""
    monkeypatch.setattr(call_of, "accelerated", lambda device: True)


def made(queries: int, keys: int, encoding: Any, groups: int = 2, values: int = DIM, batch: int = 2) -> Call:
    draw = torch.Generator().manual_seed(queries + keys)
    shapes = ((batch, 4, queries, DIM), (batch, groups, keys, DIM), (batch, groups, keys, values))
    q, k, v = (torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes)
    return Call(q, k, v, encoding, {}, rw.contiguous(queries, keys - queries), rw.contiguous(keys))


def cast(call: Call, dtype: torch.dtype, learning: bool = False) -> Call:
    q, k, v = (x.to(dtype).requires_grad_(learning) for x in call[:3])
    return call._replace(q=q, k=k, v=v)


@each
@pytest.mark.parametrize(("queries", "keys"), [(41, 41), (16, 16), (19, 41), (1, 41), (1, 1)])
@pytest.mark.parametrize(("groups", "values"), [(2, DIM), (1, DIM), (4, 5), (2, 40)])
def test_outcomes_and_gradients_equal_those_of_the_reference(
    encoding: Any, queries: int, keys: int, groups: int, values: int
) -> None:
    call = cast(made(queries, keys, encoding, groups, values), torch.float64, learning=True)
    found, exact = attend_folded(call), reference.attend(*call)
    # slopes that are no powers of two are rounded to 24 bits here, and biases of up to 41 to float32 there
    rounded = encoding == ENCODINGS[2] or isinstance(encoding, tuple)
    drift = tolerance((41 * exact.detach()).float(), DIM) if rounded else tolerance(exact.detach(), 64)
    torch.testing.assert_close(found, exact, rtol=0, atol=drift)
    seed = torch.randn(exact.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    both = [torch.autograd.grad(x, call[:3], seed) for x in (found, exact)]
    for one, other in zip(*both, strict=True):
        drift = tolerance((41 * other).float(), 41) if rounded else tolerance(other, 41 * DIM)
        # a softmax over one key has no slope, and leaves what rounding leaves
        drift = max(drift, tolerance(seed))
        torch.testing.assert_close(one, other, rtol=0, atol=drift)


@pytest.mark.parametrize("slope", [2.0**-8, 0.5, 2**-0.5, 0.9999, 1e-3, 7.25])
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW], ids=str)
@pytest.mark.parametrize(("count", "middle"), [(65_536, 65_000), (65_536, 0), (32_768, 32_768)])
def test_parts_are_exact_in_every_dtype_and_their_products_in_float32(
    slope: float, dtype: torch.dtype, count: int, middle: int
) -> None:
    digits = 2 if count <= 2**15 else 3
    where = places(count, middle, digits)
    slopes = pieces(torch.tensor([slope], dtype=torch.float64), digits)
    assert torch.equal(where.to(dtype).double(), where)
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert (slopes.to(dtype).double() - slopes).abs().max() <= least / 2
    held = slopes.to(dtype).float() * where.to(dtype).float()
    assert torch.equal(held.double(), slopes.to(dtype).double() * where)
    # in float64 the parts add up to slope times place, but for 2 ** -24 of it
    exact = slope * (rw.contiguous(count, -middle).order[0].double())
    found = (slopes * where).sum(-1)
    assert ((found - exact).abs() <= 2**-24 * exact.abs()).all()
    assert exact.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *NARROW], ids=str)
@pytest.mark.parametrize("slope", [2.0**-8, 0.5, 0.99, 2.0])
def test_a_block_is_as_large_as_its_sums_allow(dtype: torch.dtype, slope: float) -> None:
    rows, eps = rows_of(slope, dtype), torch.finfo(dtype).eps
    off = slope * rows / 2 * torch.finfo(torch.float32).eps / 2
    assert rows % fold.LEAST == 0
    assert off <= max(eps / 2 / fold.FINER, 128 * torch.finfo(torch.float32).eps / 2)


def far(start: int, dtype: torch.dtype, heads: int) -> tuple[Call, list[Tensor], Tensor]:
    """A call of four queries far out, the same tensors in float64, and what they give in float64 throughout."""
    draw, keys = torch.Generator().manual_seed(start), start + 4
    shapes = ((1, heads, 4, DIM), (1, 1, keys, DIM), (1, 1, keys, DIM))
    leaves = [torch.randn(s, generator=draw).to(dtype).requires_grad_() for s in shapes]
    call = Call(*leaves, rw.Alibi(heads), {}, rw.contiguous(4, start), rw.contiguous(keys))
    wide = [x.detach().double().requires_grad_() for x in leaves]
    slopes = torch.tensor(rw.Alibi(heads).slopes(), dtype=torch.float64)
    behind = (call.q_at.position - call.k_at.position.mT)[0].double()
    logits = wide[0] @ wide[1].mT * DIM**-0.5 - slopes[:, None, None] * behind
    return call, wide, logits.masked_fill(behind < 0, -torch.inf).softmax(-1) @ wide[2]


def at_edge(monkeypatch: pytest.MonkeyPatch, call: Call, side: int) -> None:
    """The queries of a call are the first (1) or the last (-1) of a block of full size, or its middle (0)."""
    off = side * rows_of(float(fold.slopes_of(call).max()), call.kept) // 2
    monkeypatch.setattr(fold, "places", lambda count, middle, digits: places(count, middle + off, digits))


@pytest.mark.parametrize(
    ("heads", "start", "side"), [(8, 65_532, 0), (12, 65_532, 1), (8, 65_532, -1), (12, 30_001, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_exact_far_out(
    heads: int, start: int, side: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, wide, exact = far(start, dtype, heads)
    at_edge(monkeypatch, call, side)
    found = attend_folded(call)
    # a logit that weighs anything is off by a few roundings of numbers below 100, one that is farther down weighs none
    before = 128 * torch.finfo(torch.float32).eps * exact.detach().abs().max()
    assert ((found.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * (exact.abs() + before) + before).all()
    grads = torch.autograd.grad(found.sum(), call[:3])
    for one, other in zip(grads, torch.autograd.grad(exact.sum(), wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance(other.to(dtype), heads * DIM))


@pytest.mark.usefixtures("narrow")
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("heads", "start", "side"), [(8, 65_532, 0), (12, 65_532, 1), (8, 65_532, -1), (12, 30_001, 1)]
)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_narrow_products_are_exact_far_out(
    heads: int, start: int, side: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights and the outcome are rounded once each: a bias in narrow numbers would be off by hundreds."""
    call, wide, exact = far(start, dtype, heads)
    at_edge(monkeypatch, call, side)
    assert call.kept == dtype
    found = attend_folded(call)
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() <= tolerance(call.v.detach()) / 2
    grads = torch.autograd.grad(found.sum(), call[:3])
    for one, other in zip(grads, torch.autograd.grad(exact.sum(), wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance(other.to(dtype), heads * DIM))


def test_a_middle_far_from_the_queries_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why places are counted from the middle of a block: sums of numbers in the ten thousands lose the logits."""
    call, _, exact = far(65_532, torch.float32, 8)
    off = (attend_folded(call).double() - exact).abs().max()
    monkeypatch.setattr(fold, "places", lambda count, middle, digits: places(count, 0, 3))
    lost = (attend_folded(call).double() - exact).abs().max()
    assert lost > 50 * off


def test_keys_with_channels_more_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept for each of four blocks, they would grow like a square; those of the queries are kept once."""
    call, made_so_far = cast(made(64, 64, rw.Alibi(4), batch=1), torch.float32, learning=True), list[StorageWeakRef]()
    widened = fold.widened

    def watched(*given: Any) -> Tensor:
        out = widened(*given)
        made_so_far.append(StorageWeakRef(out.untyped_storage()))
        return out

    monkeypatch.setattr(fold, "widened", watched)
    out = attend_folded(call)
    assert [x.expired() for x in made_so_far] == [False, True, True, True, True]
    exact = reference.attend(*call)
    both = [torch.autograd.grad(x.square().sum(), call[:3]) for x in (out, exact)]
    assert len(made_so_far) == 9
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other, 64 * DIM))


def test_it_folds_alibi_alone_and_under_a_causal_mask() -> None:
    call = made(41, 41, rw.Alibi(4))
    assert fold.folds(call)
    assert fold.folds(call._replace(encoding=ENCODINGS[-1]))
    assert not fold.folds(call._replace(encoding=(rw.Alibi(4), rw.T5(4))))
    for mask in (bidirectional, window(3)):
        assert not fold.folds(call._replace(mask=mask))
    keys = call.k[:, :, :1].expand(-1, -1, 2**23, -1)
    assert fold.folds(call._replace(k=keys))
    assert not fold.folds(call._replace(k=call.k[:, :, :1].expand(-1, -1, 2**23 + 1, -1)))
