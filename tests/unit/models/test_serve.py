"""Rules in real model code: decoding is reading, rows are apart, stock caches and generation serve, nothing stays."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import ropewalk as rw
from ropewalk.formats import hf
from ropewalk.models.attach import adaptive, attach, detach
from tolerance import tolerance

FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}
# of the rotation that the model has, for a window of 40
RULES: dict[str, Callable[[Any], Any]] = {
    "ReRoPE": lambda e: rw.ReRope(e, 20),
    "Leaky ReRoPE": lambda e: rw.LeakyReRope(e, 20, 3.0),
    "Self-Extend": lambda e: rw.SelfExtend(e, 20, 3),
    "DCA": lambda e: rw.DualChunk(e, 40, 24, 12),
    "DCA as in the code": lambda e: rw.DualChunk.trained_on(e, 40, "code"),
    "LM-Infinite": lambda e: rw.LMInfinite(e, 30, 4),
    "StreamingLLM": lambda e: rw.StreamingLLM(e, 3, 30),
    "log n": lambda e: (e, rw.LogN(30)),
    "log n on ReRoPE on YaRN": lambda e: (rw.ReRope(scaled(e, rw.Yarn(2.0, 40)), 20), rw.LogN(30)),
    "DCA on YaRN": lambda e: rw.DualChunk(scaled(e, rw.Yarn(2.0, 40)), 40, 24, 12),
    "dynamic NTK": lambda e: scaled(e, rw.DynamicNTK(2.0, 40)),
    "LongRoPE": lambda e: scaled(e, rw.LongRope((1.0,) * 8, (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.0), 40, 2.0)),
    "Self-Extend on dynamic YaRN": lambda e: rw.Adaptive(rw.SelfExtend(scaled(e, rw.DynamicYarn(40)), 20, 3), step=1),
}
TOKENS = 81


def scaled(e: rw.Rotary, rule: Any) -> rw.Rotary:
    return rw.Rotary(e.dim, e.base, (*e.scaling, rule), e.pairing)


@cache
@torch.inference_mode(False)
def built(family: str) -> Any:
    of_model, of_config, more = FAMILIES[family]
    torch.manual_seed(0)
    config = of_config(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=40,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=None,
        **more,
    )
    return of_model(config).eval()


def ruled(family: str, rule: str, dtype: torch.dtype) -> Any:
    model = built(family).to(dtype)
    attach(model, adapted(model, RULES[rule]))
    return model


def adapted(model: Any, rule: Callable[[Any], Any]) -> list[Any]:
    """The model's own positions, with a rule in every layer that does not slide."""
    own = hf.read(model.config.to_dict())
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * 3
    return [adaptive(rule(e)) if kind == "full_attention" else e for e, kind in zip(own, kinds, strict=True)]


def words() -> Tensor:
    return torch.randint(3, 97, (2, TOKENS), generator=torch.Generator().manual_seed(1))


def error(logits: Tensor) -> float:
    """A few hundred products are summed on the way through three layers."""
    return tolerance(logits, 3 * 64)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("family", "dtype"), [*((f, torch.float64) for f in FAMILIES), ("llama", torch.float32), ("gemma3", torch.float32)]
)
@torch.inference_mode()
def test_decoding_is_reading_and_rows_are_apart(family: str, dtype: torch.dtype, rule: str) -> None:
    model, ids = ruled(family, rule, dtype), words()
    whole = model(ids).logits
    kept, found, done = None, list[Tensor](), 0
    for count in (33, 9, *[1] * 20, TOKENS - 62):
        out = model(ids[:, done : done + count], past_key_values=kept, use_cache=True)
        kept, done = out.past_key_values, done + count
        found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=0, atol=error(whole))
    # the second row is shorter than the first and padded on the left, the first is as it was
    padded = torch.stack((ids[0], torch.cat((torch.zeros(11, dtype=torch.long), ids[1, :-11]))))
    mask = (padded != 0).long()
    rows = model(padded, attention_mask=mask).logits
    torch.testing.assert_close(rows[0], whole[0], rtol=0, atol=error(whole))
    torch.testing.assert_close(rows[1, 11:], whole[1, :-11], rtol=0, atol=error(whole))
    assert (model(padded).logits[1, 11:] - whole[1, :-11]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["ReRoPE", "StreamingLLM", "dynamic NTK"])
@torch.inference_mode()
def test_generation_of_a_padded_batch_is_that_of_each_row(family: str, rule: str) -> None:
    model, ids = ruled(family, rule, torch.float64), words()
    padded = torch.stack((ids[0, :50], torch.cat((torch.zeros(7, dtype=torch.long), ids[1, :43]))))
    told = {"max_new_tokens": 8, "do_sample": False}
    got = model.generate(padded, attention_mask=(padded != 0).long(), **told)[:, 50:]
    for row, text in enumerate((ids[:1, :50], ids[1:, :43])):
        for _ in range(8):
            text = torch.cat((text, model(text).logits[:, -1:].argmax(-1)), dim=1)
        assert got[row].tolist() == text[0, -8:].tolist()


@torch.inference_mode()
def test_beams_assisted_reading_and_a_cut_cache_serve() -> None:
    model, ids = ruled("llama", "Self-Extend", torch.float64), words()[:1, :60]
    beams = model.generate(ids, max_new_tokens=5, num_beams=3, do_sample=False)
    scores = torch.log_softmax(model(beams).logits[0, 59:-1], -1).gather(1, beams[0, 60:, None]).sum()
    greedy = model.generate(ids, max_new_tokens=5, do_sample=False)
    plain = torch.log_softmax(model(greedy).logits[0, 59:-1], -1).gather(1, greedy[0, 60:, None]).sum()
    assert scores >= plain - 1e-9
    kept = model(ids, use_cache=True).past_key_values
    kept.crop(-20)
    again = model(ids[:, 40:], past_key_values=kept).logits
    torch.testing.assert_close(again, model(ids).logits[:, 40:], rtol=0, atol=error(again))


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_within_the_near_window_a_rule_is_the_stock_model_and_detach_gives_it_back(family: str) -> None:
    model, ids = built(family).to(torch.float32), words()[:, :19]
    detach(model)
    stock, kind = model(ids).logits, model.config._attn_implementation
    for rule in ("ReRoPE", "Leaky ReRoPE", "Self-Extend", "LM-Infinite", "StreamingLLM", "dynamic NTK"):
        near = ruled(family, rule, torch.float32)(ids).logits
        torch.testing.assert_close(near, stock, rtol=0, atol=error(stock))
        assert not torch.equal(ruled(family, rule, torch.float32)(words()).logits, model(ids).logits)
    detach(model)
    assert torch.equal(model(ids).logits, stock)
    assert model.config._attn_implementation == kind
    assert not model.model._forward_pre_hooks


@torch.inference_mode()
def test_a_layer_that_follows_the_length_is_the_settled_one_at_that_length() -> None:
    """In a single layer keys hold nothing of other tokens, so that the last query is that of a whole settled text."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=97, intermediate_size=96, max_position_embeddings=40, **shape))
    model, ids = model.double().eval(), words()
    own = rw.Rotary(16, scaling=(rw.DynamicNTK(2.0, 40),))
    attach(model, rw.Adaptive(own, step=1))
    kept, found = model(ids[:, :30], use_cache=True).past_key_values, list[Tensor]()
    for i in range(30, TOKENS):
        found.append(model(ids[:, i : i + 1], past_key_values=kept).logits[:, -1])
    for n in (31, 40, 41, 63, TOKENS):
        attach(model, rw.for_length(own, n))
        want = model(ids[:, :n]).logits[:, -1]
        torch.testing.assert_close(found[n - 31], want, rtol=0, atol=error(want))


def test_gradients_go_through_a_rule_as_through_the_attention_of_the_model() -> None:
    model, found = built("llama").to(torch.float64), list[Tensor]()
    for rule in (rw.ReRope(rw.Rotary(16), 16), rw.ReRope(rw.Rotary(16), TOKENS), rw.Rotary(16)):
        attach(model, rule)
        weight = model.model.layers[0].self_attn.k_proj.weight
        found += torch.autograd.grad(model(words()).logits.logsumexp(-1).sum(), weight)
    # a window that no distance reaches is no rule; norms are float32 in this code whatever the model is
    narrow, wide, stock = (x.float() for x in found)
    torch.testing.assert_close(wide, stock, rtol=0, atol=tolerance(stock, TOKENS))
    assert (narrow - stock).abs().max() > 100 * tolerance(stock, TOKENS)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (
            torch.ones(2, 1, TOKENS, TOKENS),
            r"attention_mask must be \[batch, tokens\], 0 for padding, got \(2, 1, 81, 81\)",
        ),
        (torch.ones(2, 80), "attention_mask must be 81 tokens long, those of the cache included, got 80"),
    ],
)
def test_masks_of_another_kind_are_refused(mask: Tensor, says: str) -> None:
    with pytest.raises(rw.ConfigError, match=says):
        ruled("llama", "ReRoPE", torch.float32)(words(), attention_mask=mask)


def test_models_that_attend_otherwise_are_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM, GPTJConfig, GPTJForCausalLM

    shape = {"vocab_size": 31, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    capped = Gemma2ForCausalLM(Gemma2Config(**shape, intermediate_size=32, num_key_value_heads=1))
    with pytest.raises(rw.UnsupportedError, match="gemma2 caps its logits"):
        attach(capped, rw.ReRope(rw.Rotary(16), 4))
    rows = GPTJForCausalLM(GPTJConfig(vocab_size=31, n_embd=32, n_layer=1, n_head=2, rotary_dim=16))
    with pytest.raises(rw.UnsupportedError, match="'gptj', which takes a Rotary alone"):
        attach(rows, rw.ReRope(rw.Rotary(16, pairing="interleaved"), 4))
