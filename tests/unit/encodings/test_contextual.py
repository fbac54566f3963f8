"""CoPE counts what the query may see; URPE scales what attention has weighed."""

import math

import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.masks import bidirectional
from tolerance import tolerance

DIM, LENGTH = 8, 19


def qkv(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 1, 2, LENGTH, DIM, generator=draw, dtype=torch.float64)
    return q, k, v


def cope_by_loop(q: Tensor, k: Tensor, table: Tensor) -> Tensor:
    """[T, T]: the logits of one head, pair by pair; 0 for keys that are later."""
    s = torch.zeros(LENGTH, LENGTH, dtype=torch.float64)
    for i in range(LENGTH):
        scores = [float(q[i] @ k[j]) / math.sqrt(DIM) for j in range(i + 1)]
        for j in range(i + 1):
            p = min(sum(1 / (1 + math.exp(-scores[t])) for t in range(j, i + 1)), len(table) - 1)
            low, high = math.floor(p), math.ceil(p)
            s[i, j] = scores[j] + (p - low) * float(q[i] @ table[high]) + (1 - p + low) * float(q[i] @ table[low])
    return s


def test_cope_equals_a_loop_over_pairs() -> None:
    q, k, _ = qkv()
    e, at = rw.Cope(DIM, positions=5), rw.contiguous(LENGTH)
    table = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = e.logits({"cope": table}, q, k, at, at)
    for head in range(2):
        expected = cope_by_loop(q[0, head], k[0, head], table)
        torch.testing.assert_close(found[0, head].tril(), expected, rtol=0, atol=tolerance(expected, LENGTH))
    assert e.counts(q @ k.mT, at, at).max() == 4


def test_cope_starts_as_no_position_at_all() -> None:
    q, k, v = qkv()
    e, at = rw.Cope(DIM), rw.contiguous(LENGTH)
    w = {name: x.double() for name, x in rw.initial(e).items()}
    found, plain = rw.attend(q, k, v, e, w, at, at), rw.attend(q, k, v, (), {}, at, at)
    torch.testing.assert_close(found, plain, rtol=0, atol=tolerance(plain, DIM))


def test_equal_gates_count_half_tokens_inside_each_document() -> None:
    at = rw.packed(6, 9)
    counts = rw.Cope(DIM).counts(torch.zeros(1, 1, 15, 15), at, at)[0, 0]
    assert counts[5, :6].tolist() == [3.0, 2.5, 2.0, 1.5, 1.0, 0.5]
    assert counts[14, 6:].tolist() == [n / 2 for n in range(9, 0, -1)]
    # what a query does not see lies 0 tokens back, and adds to nothing
    assert counts[8, 9:].tolist() == [0.0] * 6
    assert counts[3, 4:].tolist() == [0.0] * 11


def test_keys_may_stand_in_memory_in_any_order() -> None:
    q, k, _ = qkv()
    e, at = rw.Cope(DIM, positions=5), rw.contiguous(LENGTH)
    mixed = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(2))
    s = q @ k.mT
    found = e.counts(s[..., mixed], at, rw.select(at, mixed))
    torch.testing.assert_close(found, e.counts(s, at, at)[..., mixed], rtol=0, atol=0)


def test_urpe_starts_as_plain_attention_and_composes_with_rotations_and_biases() -> None:
    q, k, v = qkv()
    at = rw.contiguous(LENGTH)
    beside = (rw.Rotary(DIM), rw.Alibi(2), rw.LogN(4))
    w = {name: x.double() for name, x in rw.initial(rw.Urpe(2)).items()}
    found, plain = rw.attend(q, k, v, (*beside, rw.Urpe(2)), w, at, at), rw.attend(q, k, v, beside, {}, at, at)
    torch.testing.assert_close(found, plain, rtol=0, atol=tolerance(plain, DIM))


def test_urpe_equals_a_loop_and_clips_its_distances() -> None:
    q, k, v = qkv()
    at, reach = rw.contiguous(LENGTH), 3
    factors = torch.randn(2, 2 * reach + 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = rw.attend(q, k, v, rw.Urpe(2, reach), {"urpe": factors}, at, at, bidirectional)
    a = (q @ k.mT / math.sqrt(DIM)).softmax(-1)
    for head in range(2):
        for i in range(LENGTH):
            back = [min(max(i - j, -reach), reach) for j in range(LENGTH)]
            terms = [a[0, head, i, j] * factors[head, d + reach] * v[0, head, j] for j, d in enumerate(back)]
            torch.testing.assert_close(found[0, head, i], sum(terms), rtol=0, atol=tolerance(v, LENGTH))
