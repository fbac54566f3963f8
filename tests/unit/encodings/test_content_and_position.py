"""Logits of Shaw, Transformer-XL, XLNet, DeBERTa and TUPE, pair by pair, and what each refuses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.encodings.mix.lookup import rel_shift
from ropewalk.masks import bidirectional

HEADS, DIM = 2, 4
EXACT = {"rtol": 0, "atol": 1e-12}


def learned(encoding: Any) -> dict[str, Tensor]:
    """Learned tensors in float64, of order one."""
    draw = torch.Generator().manual_seed(1)
    return {name: torch.randn(x.shape, generator=draw).double() for name, x in rw.initial(encoding).items()}


def heads(length: int, seed: int, batch: int = 1) -> Tensor:
    """[B, H, T, D]."""
    return torch.randn(batch, HEADS, length, DIM, generator=torch.Generator().manual_seed(seed)).double()


def at(*coordinates: list[float]) -> rw.Tokens:
    """One row of tokens with these coordinates."""
    position = torch.tensor([list(zip(*coordinates, strict=True))])
    order = torch.tensor([list(range(position.shape[1]))])
    return rw.Tokens(position, order, torch.zeros_like(order))


def wave(distance: float, width: int, base: float) -> Tensor:
    """All sines before all cosines."""
    angles = [distance / base ** (2 * i / width) for i in range(width // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def xl_by_pairs(encoding: rw.TransformerXL, w: dict[str, Tensor], q: Tensor, k: Tensor, memory: int) -> Tensor:
    """The logits one number at a time: queries follow `memory` keys."""
    width = w["xl_project"].shape[1]
    out = torch.empty(HEADS, q.shape[2], k.shape[2], dtype=torch.float64)
    for h in range(HEADS):
        project = w["xl_project"][h * DIM : (h + 1) * DIM]
        for i in range(q.shape[2]):
            for j in range(k.shape[2]):
                distance = i + memory - j
                if encoding.clamp is not None:
                    distance = max(-encoding.clamp, min(encoding.clamp, distance))
                r = project @ wave(distance, width, encoding.base)
                content = (q[0, h, i] + w["xl_u"][h]) @ k[0, h, j]
                out[h, i, j] = (content + (q[0, h, i] + w["xl_v"][h]) @ r) / math.sqrt(DIM)
    return out[None]


XL = [
    rw.TransformerXL(DIM, HEADS),
    rw.TransformerXL(DIM, HEADS, width=6, base=50.0),
    rw.TransformerXL(DIM, HEADS, clamp=3),
]
each_xl = pytest.mark.parametrize("encoding", XL, ids=rw.short)


@each_xl
@pytest.mark.parametrize("memory", [0, 4])
def test_transformer_xl_pair_by_pair(encoding: rw.TransformerXL, memory: int) -> None:
    w, q, k = learned(encoding), heads(5, 2), heads(5 + memory, 3)
    found = rw.logits(q, k, encoding, w, rw.contiguous(5, start=memory), rw.contiguous(5 + memory))
    torch.testing.assert_close(found, xl_by_pairs(encoding, w, q, k, memory), **EXACT)


@each_xl
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (6, 11), (1, 9), (1, 1)])
def test_a_shift_does_what_positions_say(encoding: rw.TransformerXL, queries: int, keys: int) -> None:
    w, q = learned(encoding), heads(queries, 4, batch=2)
    expected = encoding.by_position(w, q, rw.contiguous(queries, start=keys - queries), rw.contiguous(keys))
    torch.testing.assert_close(encoding.by_shift(w, q, keys), expected, **EXACT)
    # as Transformer-XL has it, without the keys ahead
    behind = torch.tensor(range(keys - 1, -1, -1)).clamp(max=encoding.clamp or keys)
    shifted = rel_shift(encoding.by_distance(w, q, behind), keys)
    seen = torch.ones(queries, keys).tril(keys - queries).bool().expand_as(shifted)
    torch.testing.assert_close(shifted[seen], expected[seen], **EXACT)


def test_transformer_xl_stands_between_places_too() -> None:
    encoding = XL[0]
    w, q, k = learned(encoding), heads(1, 5), heads(1, 6)
    r = w["xl_project"].unflatten(0, (HEADS, DIM)) @ wave(2.25, HEADS * DIM, encoding.base)
    fit = ((q[0, :, 0] + w["xl_v"]) * r).sum(-1) + ((q[0, :, 0] + w["xl_u"]) * k[0, :, 0]).sum(-1)
    found = rw.logits(q, k, encoding, w, at([2.75]), at([0.5]))
    torch.testing.assert_close(found[0, :, 0, 0], fit / math.sqrt(DIM), **EXACT)


def test_xlnet_adds_whether_the_segment_is_the_same() -> None:
    encoding = rw.XLNet(DIM, HEADS)
    w, q, k = learned(encoding), heads(3, 7), heads(3, 8)
    places, segments = [4, 0, 9], [1, 0, 1]
    found = rw.logits(q, k, encoding, w, at(places, segments), at(places, segments))
    plain = rw.logits(q, k, rw.TransformerXL(DIM, HEADS), w, at(places), at(places))
    for i in range(3):
        for j in range(3):
            e = w["xlnet_segment"][int(segments[i] != segments[j])]
            term = ((q[0, :, i] + w["xlnet_s"]) * e).sum(-1) / math.sqrt(DIM)
            torch.testing.assert_close(found[0, :, i, j], plain[0, :, i, j] + term, **EXACT)


def test_xlnet_attends_alike_in_one_segment_and_in_none() -> None:
    encoding = rw.XLNet(DIM, HEADS)
    w, (q, k, v) = learned(encoding), (heads(4, seed) for seed in (9, 10, 11))
    places = at([0, 1, 2, 3])
    named = at([0, 1, 2, 3], [5, 5, 5, 5])
    none = rw.attend(q, k, v, encoding, w, places, places)
    torch.testing.assert_close(rw.attend(q, k, v, encoding, w, named, named), none, **EXACT)


def test_gradients_of_xlnet_where_places_and_segments_differ() -> None:
    encoding = rw.XLNet(DIM, HEADS)
    q, k = heads(3, 7), heads(3, 8)
    tokens = at([0, 3, 4], [0, 1, 1])
    w = {name: x.requires_grad_() for name, x in learned(encoding).items()}

    def attention(*tensors: Tensor) -> Tensor:
        return rw.logits(q, k, encoding, dict(zip(w, tensors, strict=True)), tokens, tokens).softmax(-1)

    assert torch.autograd.gradcheck(attention, tuple(w.values()))
    weight = torch.tensor(range(18), dtype=torch.float64).reshape(1, HEADS, 3, 3).sin()
    for name, grad in zip(
        w, torch.autograd.grad((attention(*w.values()) * weight).sum(), list(w.values())), strict=True
    ):
        assert grad.abs().max() > 1e-3, name


@pytest.mark.parametrize("encoding", [rw.Shaw(DIM, behind=3, ahead=1), rw.Shaw(DIM, 2, 2, fixed=True)], ids=rw.short)
def test_shaw_pair_by_pair(encoding: rw.Shaw) -> None:
    w, (q, k, v) = learned(encoding), (heads(6, seed) for seed in (12, 13, 14))
    places = [0, 1, 2, 5, 6, 20]

    def vector(name: str, i: int, j: int) -> Tensor:
        row = max(-encoding.behind, min(encoding.ahead, places[j] - places[i])) + encoding.behind
        if not encoding.fixed:
            return w[name][row]
        # NEZHA's code takes the sine and cosine, in turn, of the row number
        return wave(row, DIM, 10000.0).view(2, -1).T.flatten()

    tokens = at(places)
    found = rw.logits(q, k, encoding, w, tokens, tokens)
    out = rw.attend(q, k, v, encoding, w, tokens, tokens, bidirectional)
    for i in range(6):
        keys = torch.stack([k[0, :, j] + vector("shaw_key", i, j) for j in range(6)], dim=1)
        expected = (keys @ q[0, :, i, :, None])[..., 0] / math.sqrt(DIM)
        torch.testing.assert_close(found[0, :, i], expected, **EXACT)
        values = torch.stack([v[0, :, j] + vector("shaw_value", i, j) for j in range(6)], dim=1)
        torch.testing.assert_close(out[0, :, i], (expected.softmax(-1)[:, None] @ values)[:, 0], **EXACT)


def bucket_in_whole_numbers(d: int, buckets: int, span: int) -> int:
    """The same without a logarithm: the least n with ((span - 1) / middle) ** (n / (middle - 1)) >= d / middle."""
    middle = buckets // 2
    if abs(d) <= middle:
        return d
    n = 0
    while (span - 1) ** n * middle ** (middle - 1) < abs(d) ** (middle - 1) * middle**n:
        n += 1
    return int(math.copysign(middle + n, d))


@pytest.mark.parametrize(("buckets", "span"), [(256, 512), (8, 55), (6, 28), (6, 16), (32, 128)])
def test_buckets_of_deberta_in_whole_numbers(buckets: int, span: int) -> None:
    # borders that are whole numbers: 54 and 729 in (8, 55); 9, 27, 81 and so on in (6, 28); 375 in (6, 16)
    reach = 5000 if buckets <= 8 else 600
    d = [*range(-reach, reach + 1)]
    expected = [bucket_in_whole_numbers(x, buckets, span) for x in d]
    assert rw.Deberta(1, 1, span=span, buckets=buckets).bucket(torch.tensor(d)).tolist() == expected


@pytest.mark.parametrize("index", ["code", "paper"])
@pytest.mark.parametrize("buckets", [0, 6])
def test_deberta_pair_by_pair(index: str, buckets: int) -> None:
    encoding = rw.Deberta(DIM, HEADS, width=5, span=9, buckets=buckets, index=index)
    w, q, k = learned(encoding), heads(4, 15), heads(5, 16)
    q_places, k_places, half = [3, 0, 30, 8], [0, 1, 2, 12, 40], buckets or 9
    keys = (w["deberta_table"] @ w["deberta_key"].T).unflatten(-1, (HEADS, DIM))
    queries = (w["deberta_table"] @ w["deberta_query"].T + w["deberta_query_bias"]).unflatten(-1, (HEADS, DIM))
    found = rw.logits(q, k, encoding, w, at(q_places), at(k_places))
    for i, m in enumerate(q_places):
        for j, n in enumerate(k_places):
            d = bucket_in_whole_numbers(m - n, buckets, 9) if buckets else m - n
            here, back = (max(0, min(2 * half - 1, x + half)) for x in (d, -d))
            fits = q[0, :, i] * (k[0, :, j] + keys[here])
            fits = fits + k[0, :, j] * queries[here if index == "code" else back]
            torch.testing.assert_close(found[0, :, i, j], fits.sum(-1) / math.sqrt(3 * DIM), **EXACT)


@pytest.mark.parametrize("cls", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("buckets", [0, 8])
def test_tupe_pair_by_pair(cls: bool, norm: bool, buckets: int) -> None:
    encoding = rw.Tupe(DIM, HEADS, length=40, width=6, buckets=buckets, max_distance=16, cls=cls, norm=norm)
    w, q, k = learned(encoding), heads(4, 17), heads(5, 18)
    q_places, k_places = [3, 0, 39, 8], [0, 1, 3, 12, 39]
    table = w["tupe_table"]
    if norm:
        spread = (table.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        table = (table - table.mean(-1, keepdim=True)) / spread * w["tupe_norm"] + w["tupe_norm_bias"]
    of_query, of_key = ((table @ w[f"tupe_{x}"].T).unflatten(-1, (HEADS, DIM)) for x in ("query", "key"))
    found = rw.logits(q, k, encoding, w, at(q_places), at(k_places))
    t5 = rw.T5(HEADS, buckets or 4, 16, bidirectional=True)
    for i, m in enumerate(q_places):
        for j, n in enumerate(k_places):
            query, key, bucket = m + 1, n + 1, int(t5.bucket(torch.tensor(n - m)))
            if cls and n == 0:
                query, key, bucket = 1, 1, buckets
            if cls and m == 0:
                query, key, bucket = 0, 0, buckets // 2
            s = (q[0, :, i] * k[0, :, j] + of_query[query] * of_key[key]).sum(-1) / math.sqrt(2 * DIM)
            s = s + (w["tupe_bias"][bucket] if buckets else 0)
            torch.testing.assert_close(found[0, :, i, j], s, **EXACT)


RELATIVE = [*XL, rw.XLNet(DIM, HEADS), rw.Shaw(DIM), rw.Deberta(DIM, HEADS, span=24, buckets=6)]


@pytest.mark.parametrize("encoding", RELATIVE, ids=rw.short)
@pytest.mark.parametrize("shift", [1009, 100_003])
def test_a_common_shift_by_a_prime_changes_no_logit(encoding: Any, shift: int) -> None:
    w, q, k = learned(encoding), heads(30, 19), heads(30, 20)
    here, there = rw.contiguous(30), rw.contiguous(30, start=shift)
    found = rw.logits(q, k, encoding, w, there, there)
    # the last place of an angle of `shift` radians
    within = 64 * torch.finfo(torch.float64).eps * shift
    torch.testing.assert_close(found, rw.logits(q, k, encoding, w, here, here), rtol=0, atol=within)


def test_tupe_does_see_where_a_row_stands() -> None:
    encoding = rw.Tupe(DIM, HEADS, length=40)
    w, q, k = learned(encoding), heads(5, 21), heads(5, 22)
    here, there = rw.contiguous(5, start=1), rw.contiguous(5, start=8)
    moved = rw.logits(q, k, encoding, w, there, there) - rw.logits(q, k, encoding, w, here, here)
    assert moved.abs().max() > 0.1


WHOLE = [rw.Shaw(DIM), rw.Deberta(DIM, HEADS), rw.Tupe(DIM, HEADS, 8), XL[2]]


@pytest.mark.parametrize("encoding", WHOLE, ids=rw.short)
def test_a_table_has_no_rows_between_places(encoding: Any) -> None:
    tokens = at([0.0, 1.5])
    with pytest.raises(
        rw.ConfigError, match=f"that {type(encoding).__name__} reads must be a whole number, got torch.f"
    ):
        rw.logits(heads(2, 1), heads(2, 2), encoding, learned(encoding), tokens, tokens)


@pytest.mark.parametrize("place", [-1, 8, 1000])
def test_tupe_has_nothing_beyond_its_table(place: int) -> None:
    encoding = rw.Tupe(DIM, HEADS, length=8)
    with pytest.raises(rw.ConfigError, match=f"Tupe reads must be a row of its table, from 0 to 7, got {place}"):
        rw.logits(heads(1, 1), heads(2, 2), encoding, learned(encoding), at([0]), at([7, place]))


@pytest.mark.parametrize("encoding", [*WHOLE, XL[0]], ids=rw.short)
def test_only_xlnet_reads_a_second_coordinate(encoding: Any) -> None:
    tokens = at([0, 1], [0, 0])
    with pytest.raises(rw.ConfigError, match="must be along one axis, got '2 axes'"):
        rw.logits(heads(2, 1), heads(2, 2), encoding, learned(encoding), tokens, tokens)


def test_xlnet_reads_no_third() -> None:
    encoding, tokens = rw.XLNet(DIM, HEADS), at([0, 1], [0, 0], [0, 0])
    with pytest.raises(rw.ConfigError, match="XLNet reads must be a place, or a place and a segment, got '3 axes'"):
        rw.logits(heads(2, 1), heads(2, 2), encoding, learned(encoding), tokens, tokens)


BAD = {
    "TransformerXL(3, 1)": "TransformerXL.width must be even, got 3",
    "XLNet(4, 2, width=5)": "XLNet.width must be even, got 5",
    "XLNet(4, 2, clamp=0)": "XLNet.clamp must be a whole number of at least 1, got 0",
    "Shaw(3, fixed=True)": "Shaw.dim must be even, got 3",
    "Deberta(4, 2, buckets=1)": "Deberta.buckets must be 0, or at least 2 and below 2 * span - 2 = 1022, got 1",
    "Deberta(4, 2, span=4, buckets=6)": "Deberta.buckets must be 0, or at least 2 and below 2 * span - 2 = 6, got 6",
    "Tupe(4, 2, 8, buckets=3)": "Tupe.buckets must be 0 or at least 4, got 3",
    "Tupe(4, 2, 8, buckets=32, max_distance=8)": "Tupe.max_distance must be a whole number above 8, got 8",
}


@pytest.mark.parametrize("text", BAD)
def test_a_shape_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(rw.ConfigError) as caught:
        rw.parse(text)
    assert str(caught.value) == BAD[text]
