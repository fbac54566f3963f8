"""The decoder against plain torch, and what all encodings have in common."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ropewalk as rw
from ropewalk.attention import reference
from ropewalk.lab.model import Costs, Decoder, Shape, check, losses, with_costs
from ropewalk.lab.presets import entrants
from ropewalk.sites import Embeds, parts
from ropewalk.written import short
from tolerance import tolerance

ENCODINGS = [(), rw.Rotary(16), rw.T5(2), rw.Learned(32, 24), (rw.Rotary(16), rw.Alibi(2)), [rw.Sinusoidal(32), ()]]
each = pytest.mark.parametrize("encoding", ENCODINGS, ids=short)


def ids(*shape: int) -> Tensor:
    return torch.randint(16, shape, generator=torch.Generator().manual_seed(1))


def plainly(model: Decoder, x: Tensor) -> Tensor:
    """The logits, in plain torch and float64, with the reference's attention."""
    w = {name: p.double() for name, p in model.state_dict().items()}
    encodings: Any = model.encoding if isinstance(model.encoding, list) else [model.encoding] * 2
    learned = [
        {n.split(".")[-1]: p for n, p in w.items() if n.startswith(f"positions.{min(i, len(model.positions) - 1)}.")}
        for i in range(2)
    ]
    at = rw.contiguous(x.shape[1])
    h = w["embedding"][x] * 32**0.5
    for e in parts(encodings[0], Embeds):
        h = h + e.embed(learned[0], at)
    for i in range(2):
        own = {n.removeprefix(f"layers.{i}."): p for n, p in w.items() if n.startswith(f"layers.{i}.")}
        qkv = F.layer_norm(h, (32,), own["before_attention.weight"]) @ own["qkv.weight"].T
        q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in qkv.split(32, dim=-1))
        mixed = reference.attend(q, k, v, encodings[i], learned[i], at, at)
        h = h + mixed.transpose(1, 2).flatten(2) @ own["out.weight"].T
        up = F.layer_norm(h, (32,), own["before_network.weight"]) @ own["up.weight"].T
        h = h + 0.5 * up * (1 + torch.erf(up / 2**0.5)) @ own["down.weight"].T
    return F.layer_norm(h, (32,), w["norm.weight"]) @ w["embedding"].T


@each
def test_logits_are_those_of_plain_torch(encoding: Any, tiny: Shape) -> None:
    model, x = Decoder(tiny, encoding, 3), ids(3, 24)
    exact = plainly(model, x)
    torch.testing.assert_close(model(x).double(), exact, rtol=0, atol=tolerance(exact.float(), 32 * 8))
    last = model(x, 5)
    assert last.shape == (3, 5, 16)
    torch.testing.assert_close(last.double(), exact[:, -5:], rtol=0, atol=tolerance(exact.float(), 32 * 8))


@each
def test_no_token_sees_a_later_one(encoding: Any, tiny: Shape) -> None:
    model, x = Decoder(tiny, encoding), ids(1, 24)
    other = x.clone()
    other[0, 11:] = (other[0, 11:] + 1) % 16
    a, b = model(x), model(other)
    torch.testing.assert_close(a[:, :11], b[:, :11], rtol=0, atol=tolerance(a, 32))
    assert (a[:, 11:] - b[:, 11:]).abs().amax(-1).min() > 1e-3


def test_everything_but_positions_starts_equal() -> None:
    first, *others = (Decoder(Shape(), e.encoding, 5).state_dict() for e in entrants(128))
    shared = {name for name in first if not name.startswith("positions.")}
    assert len(shared) == 2 + 4 * 6
    for other in others:
        assert {name for name in other if not name.startswith("positions.")} == shared
        assert all(torch.equal(first[name], other[name]) for name in shared)
    moved = Decoder(Shape(), (), 6).state_dict()
    assert not any(
        torch.equal(first[name], moved[name]) for name in shared if "norm" not in name and "before" not in name
    )


def test_the_recipe_has_its_size() -> None:
    sizes = {e.name: sum(x.numel() for x in Decoder(Shape(), e.encoding).parameters()) for e in entrants(128)}
    # four layers of 12 width squared, gains, and the embedding
    plain = 4 * 12 * 128**2 + 9 * 128 + 256 * 128
    learned = {"learned": 128 * 128, "T5": 32 * 4, "KERPLE": 2 * 4, "FIRE": 2 + 2 * 32 + 4 * 32 + 4}
    assert sizes == {name: plain + learned.get(name, 0) for name in sizes}


def test_a_list_gives_each_layer_numbers_of_its_own(tiny: Shape) -> None:
    one, two = Decoder(tiny, rw.T5(2)), Decoder(tiny, [rw.T5(2), rw.T5(2)])
    assert [len(m.positions) for m in (one, two)] == [1, 2]
    a, b = (two.state_dict()[f"positions.{i}.weights.t5_bias"] for i in range(2))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("encoding", [rw.T5(2), (rw.Rotary(16), rw.KerpleLog(2), rw.Alibi(2))], ids=short)
def test_costs_made_once_learn_as_those_of_each_layer(
    encoding: Any, tiny: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = Decoder(tiny, encoding), ids(2, 24)
    assert isinstance(with_costs(*model.settled(24)[0], 24)[0][-1], Costs)
    found, made = [], []

    def once(e: Any, w: Any, length: int) -> Any:
        made.append(length)
        return with_costs(e, w, length)

    for ways in (once, lambda e, w, _: (e, w)):
        monkeypatch.setattr("ropewalk.lab.model.with_costs", ways)
        found.append(torch.autograd.grad(losses(model, x, x).sum(), list(model.parameters())))
    for one, other in zip(*found, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other, 32 * 48))
    assert made == [24]


def test_what_is_no_number_per_distance_stays_as_it_is(tiny: Shape) -> None:
    for encoding in ((), rw.Rotary(16), rw.Fire(2), (rw.Fire(2), rw.Alibi(2))):
        assert with_costs(*Decoder(tiny, encoding).settled(24)[0], 24)[0] == encoding


def test_what_depends_on_the_length_is_settled_for_it(tiny: Shape) -> None:
    x = ids(1, 24)
    dynamic = Decoder(tiny, rw.Rotary(16, scaling=(rw.DynamicNTK(2.0, 8),)))
    settled = Decoder(tiny, rw.for_length(dynamic.encoding, 24))
    assert settled.encoding != dynamic.encoding
    assert torch.equal(dynamic(x), settled(x))
    assert not torch.equal(dynamic(x), Decoder(tiny, rw.Rotary(16))(x))


def test_narrow_products_leave_the_rest_wide(tiny: Shape) -> None:
    x, model = ids(2, 24), Decoder(tiny, rw.Alibi(2))
    wide = model(x)
    narrow = model.multiply_in(torch.bfloat16)(x)
    assert narrow.dtype == torch.float32
    assert not torch.equal(wide, narrow)
    # some dozen roundings to 8 bits, of numbers near 1
    assert (wide - narrow).abs().max() < 0.1 * wide.abs().max()
    assert torch.equal(model.multiply_in(torch.float32)(x), wide)


def test_losses_are_of_the_last_targets(tiny: Shape) -> None:
    model, x, targets = Decoder(tiny, ()), ids(2, 24), ids(2, 7)
    exact = -plainly(model, x).log_softmax(-1)[:, -7:].gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(losses(model, x, targets).double(), exact, rtol=0, atol=tolerance(exact.float(), 256))


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        (rw.Alibi(8), "Alibi.heads must be 2"),
        (rw.Rotary(64), "Rotary.dim must be at most 16"),
        (rw.Sinusoidal(64), "does not fit a model of width 32"),
        (rw.Learned(32, 8), "from 0 to 7, got 23"),
        ([rw.Rotary(16)] * 3, "one per layer, 2, got 3"),
        ([(), rw.Sinusoidal(32)], "an encoding after the first layer's must be of another kind"),
        ([rw.Rotary(16), rw.Alibi(3)], "Alibi.heads must be 2"),
    ],
    ids=lambda x: short(x) if not isinstance(x, str) else x,
)
def test_an_encoding_that_does_not_fit_is_refused_in_one_line(encoding: Any, says: str, tiny: Shape) -> None:
    with pytest.raises(rw.ConfigError) as found:
        check(tiny, encoding, 24)
    assert says in str(found.value)
    assert "\n" not in str(found.value)
