"""A cache with Tokens under real model code: what is dropped, shared, moved and cut off, against reading the whole."""

from typing import Any

import pytest
import torch
from test_serve import FAMILIES, RULES, TOKENS, adapted, built, error, words
from torch import Tensor

import ropewalk as rw
import ropewalk.models.cache as module
from ropewalk.models.attach import attach, detach
from ropewalk.models.cache import TextCache, windows_of

SERVED = {**RULES, "as it is": lambda e: e}


def started(family: str, rule: str, dtype: torch.dtype = torch.float64) -> tuple[Any, list[Any]]:
    """The model under a rule, and the encodings of its layers."""
    model = built(family).to(dtype)
    each = adapted(model, SERVED[rule])
    attach(model, each, interface=True)
    return model, each


@pytest.mark.parametrize("rule", SERVED)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_reading_by_pieces_and_branching_is_reading_the_whole(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLACK", 3)
    (model, each), ids = started(family, rule), words()
    whole, kept, found = model(ids).logits, TextCache(each), list[Tensor]()
    for start, end in ((0, 33), (33, 42), *((i, i + 1) for i in range(42, 60)), (60, TOKENS)):
        found.append(model(ids[:, start:end], past_key_values=kept).logits)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=0, atol=error(whole))
    trunk = TextCache(each)
    model(ids[:1, :40], past_key_values=trunk)
    ends = torch.stack((ids[0, 40:60], ids[1, :20], ids[1, 20:40]))
    for _ in range(2):
        rows = trunk.branch(3)
        got = torch.cat([model(ends[:, i:j], past_key_values=rows).logits for i, j in ((0, 12), (12, 13), (13, 20))], 1)
        for row, end in enumerate(ends):
            want = model(torch.cat((ids[0, :40], end))[None]).logits[0, 40:]
            torch.testing.assert_close(got[row], want, rtol=0, atol=error(want))


@pytest.mark.parametrize(("rule", "most"), [("StreamingLLM", 33), ("LM-Infinite", 34)])
@torch.inference_mode()
def test_what_no_query_can_see_is_dropped(rule: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK", 5)
    (model, each), kept = started("llama", rule), None
    kept = TextCache(each)
    for token in words()[0]:
        model(token[None, None], past_key_values=kept)
        assert kept.store.length <= most + 5 + 1
    assert kept.get_seq_length() == TOKENS
    first = kept.store.at.position[0, :5, 0].tolist()
    assert first[:3] == [0, 1, 2]
    assert first[4] > 30


@torch.inference_mode()
def test_layers_that_slide_keep_no_more_than_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK", 0)
    model, each = started("gemma3", "StreamingLLM")
    kept = TextCache(each, windows_of([layer.self_attn for layer in model.model.layers]))
    got = [model(token[None, None], past_key_values=kept).logits[:, -1] for token in words()[0]]
    assert kept.store.length == 33 + 1
    whole = model(words()[:1]).logits[0]
    torch.testing.assert_close(torch.cat(got), whole, rtol=0, atol=error(whole))


@torch.inference_mode()
def test_generation_of_transformers_goes_through_it() -> None:
    model, each = started("llama", "StreamingLLM")
    ids = words()
    padded = torch.stack((ids[0, :50], torch.cat((torch.zeros(7, dtype=torch.long), ids[1, :43]))))
    told: dict[str, Any] = {"attention_mask": (padded != 0).long(), "max_new_tokens": 20, "do_sample": False}
    own = model.generate(padded, past_key_values=TextCache(each), **told)
    assert torch.equal(own, model.generate(padded, **told))
    beams = model.generate(padded, past_key_values=TextCache(each), num_beams=3, **told)
    assert torch.equal(beams, model.generate(padded, num_beams=3, **told))


@torch.inference_mode()
def test_a_text_may_be_cut_off_shifted_and_read_elsewhere() -> None:
    (model, each), ids = started("llama", "as it is"), words()[:1]
    whole, kept = model(ids).logits, TextCache(each)
    model(ids[:, :60], past_key_values=kept)
    kept.crop(-20)
    kept.store.shift(0)
    again = model(ids[:, 40:70], past_key_values=kept).logits
    torch.testing.assert_close(again, whole[:, 40:70], rtol=0, atol=error(whole))
    kept.store.shift(1009)
    assert kept.store.at.position[0, 0, 0] == 1009
    far = model(ids[:, 70:], past_key_values=kept).logits
    # tables are float32 here and there
    torch.testing.assert_close(far.float(), whole[:, 70:].float(), rtol=0, atol=error(whole.float()))


@torch.inference_mode()
def test_what_was_dropped_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK", 0)
    model, each = started("llama", "StreamingLLM")
    kept = TextCache(each)
    for token in words()[0]:
        model(token[None, None], past_key_values=kept)
    with pytest.raises(rw.ConfigError, match="length must be within what the cache still holds, got 31 of 81 tokens"):
        kept.crop(-50)
    with pytest.raises(rw.ConfigError, match="all held by row 0 of the cache, got 'none at 3'"):
        kept.store.move(2, 20, 100)


@torch.inference_mode()
def test_the_attention_of_the_model_itself_is_no_place_for_it() -> None:
    model, each = started("llama", "as it is")
    detach(model)
    with pytest.raises(rw.ConfigError, match="whose attention is ours"):
        model(words(), past_key_values=TextCache(each))
