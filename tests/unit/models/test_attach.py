import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from ropewalk import ConfigError, Linear, Rotary, UnsupportedError, Yarn, contiguous
from ropewalk.models.attach import attach, detach

OWN = Rotary(16)
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "max_position_embeddings": 64, **changes})).eval()


def smollm3(turns: list[int]) -> SmolLM3ForCausalLM:
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = SmolLM3Config(**SHAPE, no_rope_layers=turns, rope_parameters=rope, tie_word_embeddings=False)
    return SmolLM3ForCausalLM(config).eval()


def gptj(window: int = 64) -> GPTJForCausalLM:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "vocab_size": 50, "initializer_range": 0.2}
    return GPTJForCausalLM(GPTJConfig(**shape, n_positions=window, bos_token_id=1, eos_token_id=2)).eval()


def ids(length: int = 24) -> Tensor:
    return torch.randint(3, 50, (1, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: Tensor | None = None) -> Tensor:
    return model(input_ids=ids() if tokens is None else tokens).logits


def test_one_encoding_serves_every_layer() -> None:
    model, other = llama(), Rotary(16, base=500.0)
    attach(model, other)
    once = logits(model)
    attach(model, [other] * 3)
    assert torch.equal(logits(model), once)


def test_layers_may_differ() -> None:
    """Against the stock rotary modules of three configurations, handed to the stock layers by hand."""
    bases = [10000.0, 50.0, 10000.0]
    model = llama()
    attach(model, [replace(OWN, base=b) for b in bases])
    own = logits(model)
    detach(model)
    where = torch.arange(24)[None]
    hidden = model.model.embed_tokens(ids())
    mask = torch.full((24, 24), float("-inf")).triu(1)[None, None]
    for layer, base in zip(model.model.layers, bases, strict=True):
        stock = llama(rope_parameters={"rope_type": "default", "rope_theta": base}).model.rotary_emb
        hidden = layer(hidden, attention_mask=mask, position_embeddings=stock(hidden, where))
    expected = model.lm_head(model.model.norm(hidden))
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
    assert (own - logits(model)).abs().max() > 1e-2


@pytest.mark.parametrize("turns", [[1, 0, 1], [0, 0, 0]])
def test_a_layer_without_positions_equals_one_that_never_had_any(turns: list[int]) -> None:
    model = llama()
    bare = smollm3(turns)
    bare.load_state_dict(model.state_dict())
    attach(model, [OWN if turn else () for turn in turns])
    torch.testing.assert_close(logits(model), logits(bare), rtol=0, atol=1e-5)
    if not any(turns):
        attach(model, ())
        assert torch.equal(logits(model), logits(bare))


def test_equal_layers_share_one_table_per_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Rotary] = []
    rotation = Rotary.rotation

    def counting(self: Rotary, *args: Any) -> Any:
        made.append(self)
        return rotation(self, *args)

    model, other = llama(), Rotary(16, base=500.0)
    monkeypatch.setattr(Rotary, "rotation", counting)
    attach(model, [OWN, other, OWN])
    logits(model)
    assert made == [OWN, other]


def test_far_positions_are_exact_where_stock_is_not() -> None:
    model, far = llama(), contiguous(8, start=2**20).order
    x = torch.zeros(1, 8, 64)
    exact = (far.double()[..., None] * torch.tensor(OWN.spectrum().inv_freq, dtype=torch.float64)).cos()
    assert (model.model.rotary_emb(x, far)[0][..., :8] - exact).abs().max() > 1e-3
    attach(model, OWN)
    assert (model.model.rotary_emb(x, far)[0][..., :8] - exact).abs().max() < 1e-6
    # one rounding of values up to 1 with 8 significant bits
    assert (model.model.rotary_emb(x.bfloat16(), far)[0][..., :8].double() - exact).abs().max() < 2**-9 + 1e-6


def test_nothing_but_attributes_of_the_instance_changes() -> None:
    model, twin = llama(), llama()
    before, config = logits(twin), copy.deepcopy(model.config.to_dict())
    keys, forward = list(model.state_dict()), type(model.model).forward
    attach(model, Rotary(16, base=500.0))
    assert (model.config.to_dict(), list(model.state_dict())) == (config, keys)
    assert type(model.model).forward is forward
    assert torch.equal(logits(twin), before)
    assert not torch.equal(logits(model), before)


def test_a_refused_encoding_leaves_the_attached_one() -> None:
    model = llama()
    attach(model, Rotary(16, base=500.0))
    before = logits(model)
    with pytest.raises(ConfigError):
        attach(model, Rotary(8))
    assert torch.equal(logits(model), before)


def test_moves_and_casts_of_an_attached_model_reach_its_own_tables() -> None:
    model = llama()
    attach(model, OWN)
    detach(model.to("meta"))
    assert model.model.rotary_emb.inv_freq.device.type == "meta"


def test_training_through_an_attached_model_works_after_inference() -> None:
    for model in (llama(), gptj()):
        attach(model, Rotary(8, pairing="interleaved") if isinstance(model, GPTJForCausalLM) else OWN)
        with torch.inference_mode():
            model(input_ids=ids())
        model(input_ids=ids()).logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters())


def test_gptj_reads_beyond_the_table_it_was_built_with() -> None:
    short, long = gptj(window=16), gptj(window=64)
    attach(short, Rotary(8, pairing="interleaved"))
    torch.testing.assert_close(logits(short), logits(long), rtol=0, atol=1e-5)
    detach(short)
    with pytest.raises((IndexError, RuntimeError)):
        logits(short)


def test_deepseek_softmax_scale_follows_and_returns() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    ranks = {"q_lora_rank": None, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    shape = {**SHAPE, **ranks, "num_key_value_heads": 4, "first_k_dense_replace": 3, "max_position_embeddings": 64}

    def deepseek(factor: float, weight: float) -> DeepseekV3ForCausalLM:
        torch.manual_seed(0)
        rope = {**yarn, "factor": factor, "mscale": weight, "mscale_all_dim": weight}
        return DeepseekV3ForCausalLM(DeepseekV3Config(**shape, rope_parameters=rope)).eval()

    model, other = deepseek(4.0, 0.7), deepseek(16.0, 1.0)
    scales = [layer.self_attn.scaling for layer in model.model.layers]
    before = logits(model)
    attach(model, Rotary(8, 1e4, (Yarn(16.0, 16, mscale=1.0, mscale_all_dim=1.0),), "interleaved"))
    torch.testing.assert_close(logits(model), logits(other), rtol=0, atol=1e-5)
    assert model.model.layers[0].self_attn.scaling != scales[0]
    detach(model)
    assert [layer.self_attn.scaling for layer in model.model.layers] == scales
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("encodings", "says"),
    [
        (Rotary(8), r"Rotary\.dim must be 16, the channels that this model rotates, got 8"),
        ([OWN, OWN], r"encodings must be one, or one for each of the 3 layers"),
        ([OWN, OWN, Linear(2.0)], r"encodings must be Rotary, .* or \(\) in every layer, got Linear"),
    ],
)
def test_what_does_not_fit_is_refused(encodings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        attach(llama(), encodings)


def test_code_that_cannot_be_given_another_pairing_is_refused() -> None:
    model = llama()
    stock = logits(model)
    for layer in model.model.layers:
        # as a library does that moves weights between devices
        layer.self_attn.forward = layer.self_attn.forward
    attach(model, OWN)
    detach(model)
    with pytest.raises(
        UnsupportedError, match="LlamaAttention pairs channels as 'half' and cannot be given 'interleaved'"
    ):
        attach(model, Rotary(16, pairing="interleaved"))
    assert torch.equal(logits(model), stock)


def test_a_layer_that_never_rotates_is_not_given_positions() -> None:
    with pytest.raises(ConfigError, match=r"must be \(\) in a layer that this architecture leaves without positions"):
        attach(smollm3([1, 0, 1]), OWN)


def test_an_unknown_architecture_is_named_with_those_that_are_served() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8, bos_token_id=1, eos_token_id=1))
    with pytest.raises(UnsupportedError, match=r"cannot attach to architecture 'gpt2'; served are .*llama.*qwen3"):
        attach(model, OWN)
    detach(model)
