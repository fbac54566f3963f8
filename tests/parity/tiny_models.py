"""Random models of a few thousand weights, one configuration for each way in which a family rotates."""

from copy import deepcopy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 61,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # larger than usual, so that attention is far from uniform
    "initializer_range": 0.1,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 5e5,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.4],
    "long_factor": [1.0, 2.0, 5.0, 8.0],
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
}
GEMMA3 = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
OLMO3 = {"sliding_attention": {"rope_type": "default", "rope_theta": 5e5}, "full_attention": YARN}
MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 2,
}
GPTJ = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "rotary_dim": 8, "vocab_size": 61}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "llama dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        "max_position_embeddings": 16,
    },
    "llama yarn": {"rope_parameters": YARN},
    "llama yarn magnitude": {"rope_parameters": {**YARN, "attention_factor": 1.4, "truncate": False}},
    "llama yarn mscale": {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.4}},
    "llama llama3": {"rope_parameters": LLAMA3},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "gemma3_text": {
        "head_dim": 16,
        "layer_types": ALTERNATING,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
        "rope_parameters": GEMMA3,
    },
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    "phi3 longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
    "gptj": GPTJ,
    "deepseek_v3": {**MLA, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "deepseek_v3 half": {**MLA, "rope_interleave": False},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    "glm": {"head_dim": 16},
    "granite": {"attention_multiplier": 0.25},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"layer_types": ALTERNATING, "sliding_window": 8, "rope_parameters": OLMO3},
    "phi": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "stablelm": {},
    "starcoder2": {},
}


def tiny(variant: str, **changes: Any) -> PreTrainedModel:
    """The random float32 model of a variant, the same at every call."""
    torch.manual_seed(0)
    kind = variant.split()[0]
    shape = {"initializer_range": SHAPE["initializer_range"]} if kind == "gptj" else SHAPE
    # a config class writes into the dicts that it is given
    config = AutoConfig.for_model(kind, **deepcopy({**shape, **VARIANTS[variant], **changes}))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def words(rows: int, length: int) -> torch.Tensor:
    """Int[rows, length]: random token ids, none of them special."""
    return torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(1))
