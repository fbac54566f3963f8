"""Every served architecture: what is read from its own configuration reproduces its logits, element by element."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tiny_models import VARIANTS, tiny, words
from torch import Tensor
from transformers import PreTrainedModel

from ropewalk import NTK, Rotary, for_length
from ropewalk.formats import hf
from ropewalk.models.attach import SERVED, attach, detach

LENGTH, PREFIX = 40, 30  # beyond every original window of 16, and near enough for float32 angles
AGREE = 1e-5
DIFFER = 1e-2


@torch.no_grad()
def whole(model: PreTrainedModel, ids: Tensor, **inputs: Tensor) -> Tensor:
    """Logits [B, T, V] of one pass; a mask of ones keeps reordered positions from being taken for packed documents."""
    return model(input_ids=ids, **({"attention_mask": torch.ones_like(ids)} | inputs)).logits


@torch.no_grad()
def decoded(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The same logits from a prefix in one pass and the rest token by token through the cache."""
    out = model(input_ids=ids[:, :PREFIX], use_cache=True)
    logits = [out.logits]
    for i in range(PREFIX, ids.shape[1]):
        out = model(input_ids=ids[:, i : i + 1], past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    return torch.cat(logits, dim=1)


def read(model: PreTrainedModel, length: int = LENGTH) -> tuple[Rotary | tuple[()], ...]:
    return for_length(hf.read(model.config.to_dict()), length)


def gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("run", [whole, decoded])
def test_own_encodings_reproduce_stock_logits(variant: str, run: Callable[[PreTrainedModel, Tensor], Tensor]) -> None:
    model, ids = tiny(variant), words(1, LENGTH)
    # a dynamic rule changes under stock decoding: there, the one pass at full length is what decoding must equal
    stock = (whole if "dynamic" in variant else run)(model, ids)
    attach(model, read(model))
    assert gap(run(model, ids), stock) < AGREE


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_logits_could_tell(variant: str) -> None:
    """Other positions and other encodings move the same logits a thousand times further than parity allows."""
    model, ids = tiny(variant), words(1, LENGTH)
    attach(model, read(model))
    own = whole(model, ids)
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(2))[None]
    assert gap(whole(model, ids, position_ids=order), own) > DIFFER
    attach(model, [e and replace(e, scaling=(*e.scaling, NTK(4.0))) for e in read(model)])
    assert gap(whole(model, ids), own) > DIFFER


@pytest.mark.parametrize("variant", VARIANTS)
def test_detach_restores_the_stock_bits(variant: str) -> None:
    model, ids = tiny(variant), words(1, LENGTH)
    keys, stock = list(model.state_dict()), whole(model, ids)
    attach(model, [e and replace(e, base=77.0) for e in read(model)])
    attach(model, read(model))
    assert list(model.state_dict()) == keys
    detach(model)
    assert torch.equal(whole(model, ids), stock)
    detach(model)
    attach(model, read(model))
    assert gap(whole(model, ids), stock) < AGREE


def test_short_texts_take_the_short_factors() -> None:
    model, ids = tiny("phi3 longrope"), words(1, 16)
    stock = whole(model, ids)
    attach(model, read(model, length=16))
    assert gap(whole(model, ids), stock) < AGREE
    attach(model, read(model, length=17))
    assert gap(whole(model, ids), stock) > DIFFER


@pytest.mark.parametrize("variant", ["llama yarn", "gemma3_text", "gptj", "deepseek_v3"])
def test_left_padded_rows_agree(variant: str) -> None:
    model, ids = tiny(variant), words(2, LENGTH)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    where = (mask.cumsum(1) - 1).clamp(min=0)
    stock = whole(model, ids, attention_mask=mask, position_ids=where)
    attach(model, read(model))
    own = whole(model, ids, attention_mask=mask, position_ids=where)
    assert gap(own[mask.bool()], stock[mask.bool()]) < AGREE


@pytest.mark.parametrize("variant", ["llama", "gptj"])
def test_two_rows_with_positions_of_their_own_equal_each_alone(variant: str) -> None:
    model, ids = tiny(variant), words(2, LENGTH)
    attach(model, replace(read(model)[0], base=300.0))
    where = torch.stack((torch.arange(LENGTH), torch.arange(LENGTH) * 3 + 5))
    both = whole(model, ids, position_ids=where)
    alone = [whole(model, ids[i : i + 1], position_ids=where[i : i + 1]) for i in range(2)]
    assert gap(both, torch.cat(alone)) < AGREE


def test_every_served_architecture_is_tested() -> None:
    assert {variant.split()[0] for variant in VARIANTS} == set(SERVED)
