"""Linear attention: the recurrent form equals the quadratic one, and rotations enter the sum of the values alone."""

import math

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.attention import linear
from tolerance import tolerance

EXACT = 1e-12  # float64, sums of some ten products
LENGTH, HEADS, DIM = 23, 4, 16
ROTATIONS = [
    (),
    rw.Rotary(8, offset=4),
    rw.Rotary(16, scaling=(rw.Yarn(4.0, 8),), pairing="interleaved"),
    rw.RotaryMixed(16, HEADS),
    rw.LieRotary(16),
    rw.CayleyString(16),
    (rw.Sinusoidal(16), rw.Rotary(16)),
]
every = pytest.mark.parametrize("encoding", ROTATIONS, ids=rw.short)


def qkv(length: int = LENGTH, heads: int = HEADS, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(length)
    q = torch.randn(batch, HEADS, length, DIM, generator=draw, dtype=torch.float64)
    k, v = torch.randn(2, batch, heads, length, DIM, generator=draw, dtype=torch.float64)
    return q, k, v[..., :5]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


@every
@pytest.mark.parametrize("at", [rw.contiguous(LENGTH, start=9), rw.packed(4, 1, 18)], ids=["one", "packed"])
def test_recurrent_equals_quadratic(encoding: object, at: rw.Tokens) -> None:
    w, (q, k, v) = rw.initial(encoding), qkv(heads=2)
    whole = rw.attend_linear(q, k, v, encoding, w, at, at)
    out, state = rw.recur_linear((q, k, v), encoding, w, at)
    close(out, whole)
    assert state.values.shape == (1, HEADS, DIM, 5)
    assert state.total.shape == (1, HEADS, DIM)


@every
def test_the_state_is_all_that_later_tokens_need(encoding: object) -> None:
    w, x, at, state = rw.initial(encoding), qkv(), rw.packed(9, 14), None
    whole, last = rw.recur_linear(x, encoding, w, at)
    for span in (slice(0, 1), slice(1, 11), slice(11, 23)):
        q, k, v = (t[:, :, span] for t in x)
        out, state = rw.recur_linear((q, k, v), encoding, w, rw.select(at, span), state)
        close(out, whole[:, :, span])
    assert state is not None
    close(state.values, last.values)
    close(state.total, last.total)


@every
def test_documents_and_padding_do_not_meet(encoding: object) -> None:
    w, (q, k, v) = rw.initial(encoding), qkv()
    whole = rw.attend_linear(q, k, v, encoding, w, rw.packed(9, 14), rw.packed(9, 14))
    for span in (slice(0, 9), slice(9, 23)):
        at = rw.contiguous(span.stop - span.start)
        close(whole[:, :, span], rw.attend_linear(q[:, :, span], k[:, :, span], v[:, :, span], encoding, w, at, at))
    q, k, v = qkv(batch=2)
    padded, _ = rw.recur_linear((q, k, v), encoding, w, rw.ragged(10, LENGTH))
    alone, _ = rw.recur_linear((q[:1, :, -10:], k[:1, :, -10:], v[:1, :, -10:]), encoding, w, rw.contiguous(10))
    close(padded[:1, :, -10:], alone)


def dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_by_hand() -> None:
    rows = [[0.5, -1.0], [2.0, 0.0]], [[-2.0, 1.0], [0.0, 3.0]], [[1.0], [-3.0]]
    q, k, v = (torch.tensor(x).double()[None, None] for x in rows)
    found = rw.attend_linear(q, k, v, rw.Rotary(2), {}, rw.contiguous(2), rw.contiguous(2))[0, 0, :, 0]
    query, keys = (3.0, 1.0), ((math.exp(-2.0), 2.0), (1.0, 4.0))
    # one token back, the query is turned by one radian against the key
    ahead = (3 * math.cos(1) - math.sin(1), 3 * math.sin(1) + math.cos(1))
    turned = (dot(ahead, keys[0]), dot(query, keys[1]))
    total = sum(dot(query, key) for key in keys)
    assert found.tolist() == pytest.approx([1.0, (turned[0] - 3 * turned[1]) / total], rel=1e-6)


def test_decay_enters_both_forms() -> None:
    (q, k, v), at, encoding = qkv(), rw.packed(9, 14), rw.XPos(16, scale_base=8.0)
    whole = rw.attend_linear(q, k, v, encoding, {}, at, at)
    # the quadratic form moves its tokens near zero first: other float32 tables of the same decay
    found, _ = rw.recur_linear((q, k, v), encoding, {}, at)
    torch.testing.assert_close(found, whole, rtol=0, atol=tolerance(v.float(), 16))
    assert (whole - rw.attend_linear(q, k, v, rw.Rotary(16), {}, at, at)).abs().max() > 0.1


def test_without_rotation_equal_values_stay_and_with_it_they_need_not() -> None:
    (q, k, _), at, ones = qkv(), rw.contiguous(LENGTH), torch.ones(1, HEADS, LENGTH, 3, dtype=torch.float64)
    close(rw.attend_linear(q, k, ones, (), {}, at, at), ones)
    turned = rw.attend_linear(q, k, ones, rw.Rotary(16), {}, at, at)
    assert (turned - 1).abs().max() > 0.1


def test_another_feature_and_another_mask() -> None:
    (q, k, v), at = qkv(), rw.contiguous(LENGTH)
    seen = rw.masks.bidirectional(at, at)
    out = rw.attend_linear(q, k, v, (), {}, at, at, mask=rw.masks.bidirectional, feature=torch.exp)
    weights = q.exp() @ k.exp().mT * seen
    close(out, weights @ v / weights.sum(-1, keepdim=True))


def test_a_query_that_sees_nothing_gets_zeros_and_dtypes_stay() -> None:
    (q, k, v), at = (x.bfloat16() for x in qkv()), rw.contiguous(LENGTH)
    out = rw.attend_linear(q, k, v, rw.Rotary(16), {}, at, at._replace(document=at.document + 1))
    assert torch.equal(out, torch.zeros(1, HEADS, LENGTH, 5, dtype=torch.bfloat16))
    assert rw.recur_linear((q, k, v), rw.Rotary(16), {}, at)[0].dtype == torch.bfloat16


def test_gradients_flow_through_both_forms() -> None:
    at, encoding = rw.contiguous(5), rw.RotaryMixed(16, HEADS)
    rates = rw.initial(encoding)["mixed_rates"].double().requires_grad_()
    q, k, v = (x.requires_grad_() for x in qkv(5))

    def both(rates: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        w = {"mixed_rates": rates}
        return linear.attend_linear(q, k, v, encoding, w, at, at), linear.recur_linear((q, k, v), encoding, w, at)[0]

    assert torch.autograd.gradcheck(both, (rates, q, k, v), fast_mode=True)


@pytest.mark.parametrize("encoding", [rw.Alibi(HEADS), (rw.Rotary(16), rw.Alibi(HEADS)), rw.Shaw(16)], ids=rw.short)
def test_what_looks_at_pairs_of_tokens_is_refused(encoding: object) -> None:
    (q, k, v), at = qkv(), rw.contiguous(LENGTH)
    w = rw.initial(encoding)
    for run in (
        lambda: rw.attend_linear(q, k, v, encoding, w, at, at),
        lambda: rw.recur_linear((q, k, v), encoding, w, at),
    ):
        with pytest.raises(
            rw.UnsupportedError, match=r"linear attention carries encodings that map each token alone, got"
        ):
            run()
