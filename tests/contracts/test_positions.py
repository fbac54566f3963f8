"""What every encoding must leave true in attention: decoding, packing, padding and sharding change nothing."""

from typing import Any

import pytest
import torch

import ropewalk as rw
from contracts.cases import ENCODINGS, LENGTH, Layer, close, largest, members, placed, words
from ropewalk.sites import Biases, Embeds, Mixes, Rotates
from ropewalk.written import short

ORDER_ALONE, LATE = (rw.ConvLeak, rw.Cope), (rw.LogN, rw.Temperature)
every = pytest.mark.parametrize("encoding", ENCODINGS, ids=short)


def joined(*parts: rw.Tokens) -> rw.Tokens:
    return rw.Tokens(*(torch.cat(field, dim=1) for field in zip(*parts, strict=True)))


@every
def test_decoding_token_by_token_equals_prefill(encoding: Any) -> None:
    layer, x, at = Layer(encoding), words(), rw.contiguous(LENGTH)
    whole, context = layer.run(x, at), largest(encoding, "context", 0)
    seen, (_, k, v) = rw.contiguous(20), layer.qkv(layer.states(x[:, :20], rw.contiguous(20)))
    for t in range(20, LENGTH):
        new = rw.append(seen, 1)
        near = slice(t - context, t + 1)
        state = layer.states(x[:, near], rw.select(joined(seen, new), near))[:, -1:]
        q, *kv = layer.qkv(state)
        k, v = (torch.cat(both, dim=2) for both in zip((k, v), kv, strict=True))
        seen = joined(seen, new)
        close(layer.attend(q, k, v, new, seen), whole[:, :, t : t + 1])


@every
def test_two_documents_in_one_row_equal_two_rows(encoding: Any) -> None:
    layer, x = Layer(encoding), words()
    whole = layer.run(x, rw.packed(17, 24))
    first, second = layer.run(x[:, :17], rw.contiguous(17)), layer.run(x[:, 17:], rw.contiguous(24))
    close(whole, torch.cat([first, second], dim=2))


@every
def test_left_padding_changes_nothing(encoding: Any) -> None:
    layer, x = Layer(encoding), words(batch=2)
    padded = layer.run(x, rw.ragged(30, LENGTH))
    close(padded[:1, :, -30:], layer.run(x[:1, -30:], rw.contiguous(30)))
    close(padded[1:], layer.run(x[1:], rw.contiguous(LENGTH)))


@every
@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_shards_make_up_the_whole(encoding: Any, layout: str) -> None:
    layer, x, at = Layer(encoding), words(40), rw.contiguous(40)
    whole = layer.run(x, at)
    ranks = [rw.shard(at, rank, 2, layout) for rank in range(2)]
    # what reads its neighbours gets them from the other rank before the row is cut
    reads = largest(encoding, "context", 0) > 0
    states = [layer.states(x, at)[:, r.order[0]] if reads else layer.states(x[:, r.order[0]], r) for r in ranks]
    parts = [layer.qkv(state) for state in states]
    # keys and values are gathered in the order of the ranks, which is not the order of the tokens
    k, v = (torch.cat([part[i] for part in parts], dim=2) for i in (1, 2))
    for rank, (q, _, _) in zip(ranks, parts, strict=True):
        close(layer.attend(q, k, v, rank, joined(*ranks)), whole[:, :, rank.order[0]])


@every
def test_queries_of_a_long_row_may_be_worked_on_in_blocks(encoding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, at = Layer(encoding), words(), rw.contiguous(LENGTH)
    whole = layer.run(x, at)
    monkeypatch.setattr("ropewalk.attention.reference.BLOCK", 7)
    close(layer.run(x, at), whole)


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e != ()], ids=short)
def test_positions_do_act(encoding: Any) -> None:
    layer, x = Layer(encoding), words()
    # a temperature begins to rise far out
    at = rw.contiguous(LENGTH, start=20_000 * isinstance(encoding, LATE))
    folded = at._replace(position=at.position // 2)
    moved = (layer.run(x, folded) - layer.run(x, at)).abs().max()
    assert (moved == 0) if isinstance(encoding, ORDER_ALONE) else (moved > 1e-4)


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if isinstance(e, Rotates)], ids=short)
def test_a_rotation_maps_each_token_alone(encoding: Any) -> None:
    layer, at = Layer(encoding), rw.contiguous(LENGTH)
    q, k, _ = layer.qkv(words())
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    here = encoding.rotation(layer.w, placed(encoding, at))
    there = encoding.rotation(layer.w, placed(encoding, rw.select(at, order)))
    for x, whole, mixed in ((q, here.query, there.query), (k, here.key, there.key)):
        torch.testing.assert_close(mixed(x[:, :, order]), whole(x)[:, :, order], rtol=0, atol=1e-12)


@every
def test_only_the_sites_it_has_are_touched(encoding: Any) -> None:
    layer, x, at = Layer(encoding), words(), placed(encoding, rw.contiguous(LENGTH))
    q, k, _ = layer.qkv(x)
    sites = {s for s in (Embeds, Rotates, Biases, Mixes) for e in members(encoding) if isinstance(e, s)}
    assert (Embeds in sites) or torch.equal(rw.embed(x, encoding, layer.w, at), x)
    turned = rw.rotate(q, k, encoding, at, layer.w)
    assert (Rotates in sites) or (turned[0] is q and turned[1] is k)
    if sites <= {Embeds}:
        assert torch.equal(rw.logits(q, k, encoding, layer.w, at, at), q @ k.mT * DIM_SCALE)


DIM_SCALE = 16**-0.5


def test_interleaved_channels_are_half_channels_in_another_order() -> None:
    from ropewalk.formats.pairing import inverse, permutation

    x, at = Layer(()).qkv(words())[0].float(), rw.contiguous(LENGTH)
    order = list(permutation(16))
    half = rw.Rotary(16).rotation({}, at).query(x[..., order])
    interleaved = rw.Rotary(16, pairing="interleaved").rotation({}, at).query(x)
    assert torch.equal(interleaved[..., order], half)
    assert torch.equal(half[..., list(inverse(order))], interleaved)
