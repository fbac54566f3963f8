"""Learned tensors are named, owned by one module, reached by gradients; every encoding traces in one graph."""

from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from contracts.cases import DIM, ENCODINGS, HEADS, Layer, placed, words
from ropewalk.sites import Embeds
from ropewalk.written import short

SHORT = 11
# vectors that are made one after the other, as many as the largest position asks for
SEQUENTIAL = ("Recurrent", "Floater")
# how many rules serve a text hangs on its positions, which a graph does not know
traced = pytest.mark.parametrize("encoding", [e for e in ENCODINGS if not isinstance(e, rw.Adaptive)], ids=short)
every = pytest.mark.parametrize("encoding", ENCODINGS, ids=short)
learning = pytest.mark.parametrize("encoding", [e for e in ENCODINGS if rw.initial(e)], ids=short)


def run(encoding: Any, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """[B, H, T, D] of a short row, with these learned tensors."""
    layer, at = Layer(encoding), rw.contiguous(x.shape[1])
    on_axes = placed(encoding, at)
    return rw.attend(*layer.qkv(layer.states_with(w, x, at)), encoding, w, on_axes, on_axes)


@learning
def test_gradients_reach_every_learned_tensor_and_are_right(encoding: Any) -> None:
    layer, x = Layer(encoding), words(SHORT)
    names = list(layer.w)

    def outputs(*tensors: Tensor) -> Tensor:
        return run(encoding, dict(zip(names, tensors, strict=True)), x)

    tensors = [layer.w[name].clone().requires_grad_() for name in names]
    weight = torch.randn(1, HEADS, SHORT, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (outputs(*tensors) * weight).sum().backward()
    for name, t in zip(names, tensors, strict=True):
        assert t.grad is not None, name
        assert t.grad.abs().max() > 0, name
    assert torch.autograd.gradcheck(outputs, tuple(tensors), fast_mode=True)


@every
def test_gradients_of_queries_keys_and_values_are_right(encoding: Any) -> None:
    layer, at = Layer(encoding), placed(encoding, rw.contiguous(SHORT))
    qkv = tuple(x.detach().requires_grad_() for x in layer.qkv(layer.states(words(SHORT), rw.contiguous(SHORT))))
    assert torch.autograd.gradcheck(lambda q, k, v: rw.attend(q, k, v, encoding, layer.w, at, at), qkv, fast_mode=True)


@every
def test_the_module_owns_what_is_learned_and_saves_it(encoding: Any) -> None:
    first, second = rw.Positions(encoding, seed=0), rw.Positions(encoding, seed=1)
    assert {n.removeprefix("weights.") for n in first.state_dict()} == set(rw.initial(encoding))
    assert all(p.dtype == torch.float32 and p.dim() > 0 for p in first.parameters())
    second.load_state_dict(first.state_dict())
    at, x = placed(encoding, rw.contiguous(SHORT)), words(SHORT).float()
    q, k, v = (t.float() for t in Layer(encoding).qkv(Layer(encoding).states(words(SHORT), rw.contiguous(SHORT))))
    assert torch.equal(first(q, k, v, at, at), second(q, k, v, at, at))
    assert torch.equal(first(q, k, v, at, at), rw.attend(q, k, v, encoding, first.learned(), at, at))
    assert torch.equal(first.embed(x, at), second.embed(x, at))


@traced
def test_the_module_compiles_into_one_graph(encoding: Any) -> None:
    torch.compiler.reset()
    module, x, at = rw.Positions(encoding), words(SHORT).float(), placed(encoding, rw.contiguous(SHORT))
    q, k, v = (t.float() for t in Layer(encoding).qkv(Layer(encoding).states(words(SHORT), rw.contiguous(SHORT))))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v, at, at), module(q, k, v, at, at), rtol=1e-5, atol=1e-5)
    if rw.parts(encoding, Embeds) and type(encoding).__name__ not in SEQUENTIAL:
        embed = torch.compile(module.embed, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(embed(x, at), module.embed(x, at), rtol=1e-5, atol=1e-5)


@every
def test_bfloat16_is_no_worse_than_one_rounding_of_the_float64_result(encoding: Any) -> None:
    layer, at = Layer(encoding), placed(encoding, rw.contiguous(41))
    coarse = [x.bfloat16() for x in layer.qkv(layer.states(words(), rw.contiguous(41)))]
    exact = rw.attend(*(x.double() for x in coarse), encoding, layer.w, at, at)
    found = rw.attend(*coarse, encoding, {n: x.float() for n, x in layer.w.items()}, at, at)
    assert found.dtype == torch.bfloat16
    # half a unit in the last place of bfloat16, and the float32 arithmetic before it
    half_ulp = torch.finfo(torch.bfloat16).eps / 2
    before = 64 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert ((found.double() - exact).abs() <= half_ulp * (exact.abs() + before) + before).all()
