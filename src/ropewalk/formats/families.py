"""What a model type implies without saying it in its config.json."""

from collections.abc import Mapping
from typing import Any

from ropewalk.errors import UnsupportedError

# channels 2i and 2i + 1 form a pair; every other family pairs i with i + dim / 2
INTERLEAVED = frozenset(
    "gptj codegen cohere cohere2 cohere2_moe ernie4_5 ernie4_5_moe glm glm4 glm4v glm4v_text helium llama4 "
    "llama4_text blt deepseek_v2 deepseek_v32 glm_moe_dsa longcat_flash axk2 bailing_hybrid mistral_large4".split()
)
# the same, unless the config says `rope_interleave: false`
INTERLEAVED_BY_DEFAULT = frozenset("deepseek_v3 axk1 glm4_moe_lite mistral4 youtu".split())
# full attention layers go without positions, sliding ones rotate
NOPE_ON_FULL = frozenset("cohere2 exaone4 exaone_moe afmoe".split())
# the configuration class takes no other rope type
LONGROPE_ONLY = frozenset("phi3 phi4_multimodal".split())
# the configuration class leaves `head_dim` empty, on which every rope type but the default stops (transformers 5.23)
EMPTY_HEAD_DIM = frozenset("mixtral minimax ministral".split())
# layer types without attention
RECURRENT = frozenset("linear_attention conv moe mamba mamba2 recurrent".split())
# a v4 `rope_scaling` bends full attention alone
SCALES_FULL_ONLY = frozenset("gemma3_text gemma3n_text olmo3".split())
# local and global layers have a base each
TWO_BASES = frozenset("modernbert modernbert-decoder".split())
# encoders whose rotary positions are read all the same
ROTARY_ENCODERS = frozenset("modernbert eurobert".split())
# later queries are sharper: Llama 4 where layers do not rotate, Ministral 3 wherever they do
SHARPER_AT_REST = frozenset(["llama4_text"])
SHARPER = frozenset("ministral3 mistral4".split())
# M-RoPE: pairs of the axes time, row and column if the config does not say, and how they lie over the channels
MROPE: dict[str, tuple[tuple[int, ...], str]] = {
    **dict.fromkeys("qwen2_vl qwen2_5_vl paddleocr_vl".split(), ((16, 24, 24), "chunked")),
    "glm4v": ((8, 12, 12), "chunked"),
    **dict.fromkeys("qwen3_vl qwen3_vl_moe".split(), ((24, 20, 20), "interleaved")),
    **dict.fromkeys("qwen3_5 qwen3_5_moe".split(), ((11, 11, 10), "interleaved")),
}
# pairs of two axes alternate at rates that are not in order, or there are four axes of text and of pictures
ODD_AXES = frozenset("ernie4_5_vl_moe ernie4_5_vl_moe_text hunyuan_vl hunyuan_vl_text".split())
# the base is a constant of the modelling code
FIXED_BASE = frozenset("gptj codegen".split())
# `rotary_dim` counts the channels that rotate
ROTARY_DIM = FIXED_BASE | {"minimax_m2"}

# published configs leave out what equals the default of their configuration class
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072},
    "qwen2": {"max_position_embeddings": 32768},
    "qwen3": {"max_position_embeddings": 32768, "head_dim": 128},
    "gemma": {"head_dim": 256, "max_position_embeddings": 8192},
    "gemma2": {"head_dim": 256, "max_position_embeddings": 8192, "sliding_window_pattern": 2},
    "gemma3_text": {
        "head_dim": 256,
        "num_hidden_layers": 26,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131072,
    },
    "gemma3n_text": {"head_dim": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4},
    "phi3": {"original_max_position_embeddings": 4096, "max_position_embeddings": 4096},
    "gpt_neox": {"rotary_pct": 0.25, "max_position_embeddings": 2048},
    "gpt_neox_japanese": {"rotary_pct": 1.0},
    "gptj": {"rotary_dim": 64, "n_positions": 2048},
    "codegen": {"rotary_dim": 64, "n_positions": 2048},
    "deepseek_v3": {"qk_rope_head_dim": 64, "max_position_embeddings": 4096, "num_hidden_layers": 61},
    "deepseek_v2": {"qk_rope_head_dim": 64},
    "gpt_oss": {"head_dim": 64, "rope_theta": 150000.0},
    "cohere": {"rope_theta": 500000.0},
    "cohere2": {"sliding_window_pattern": 4},
    "mixtral": {"rope_theta": 1e6},
    "olmo3": {"rope_theta": 500000.0, "sliding_window_pattern": 4},
    "smollm3": {"rope_theta": 2e6, "no_rope_layer_interval": 4},
    "llama4_text": {
        "rope_theta": 500000.0,
        "no_rope_layer_interval": 4,
        "head_dim": 128,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    "ernie4_5": {"rope_theta": 500000.0, "head_dim": 128},
    "helium": {"rope_theta": 100000.0, "head_dim": 128},
    "bitnet": {"rope_theta": 500000.0},
    "apertus": {"rope_theta": 12e6},
    "qwen3_next": {"partial_rotary_factor": 0.25, "head_dim": 256, "full_attention_interval": 4},
    **{
        t: {"partial_rotary_factor": 0.25, "head_dim": 256, "full_attention_interval": 4}
        for t in ("qwen3_5_text", "qwen3_5_moe_text")
    },
    **{t: {"rope_theta": 1e6} for t in "qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text".split()},
    **{t: {"rope_theta": 5e5, "head_dim": 128} for t in ("qwen3_vl_text", "qwen3_vl_moe_text")},
    "paddleocr_vl_text": {"rope_theta": 5e5, "head_dim": 128},
    "glm4v_text": {},
    "ministral3": {
        "head_dim": 128,
        "num_hidden_layers": 34,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "minicpm3": {"qk_rope_head_dim": 32, "num_hidden_layers": 62, "max_position_embeddings": 32768},
    "eurobert": {},
    **{
        t: {
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "global_attn_every_n_layers": 3,
            "num_hidden_layers": 22,
            "max_position_embeddings": 8192,
        }
        for t in ("modernbert", "modernbert-decoder")
    },
    "glm4_moe": {"partial_rotary_factor": 0.5},
    "jetmoe": {"head_dim": 128},
    **{t: {"head_dim": 256, "global_head_dim": 512} for t in ("gemma4_text", "gemma4_unified_text")},
    **{t: {"partial_rotary_factor": 0.5, "head_dim": 128} for t in ("glm", "glm4")},
    **{t: {"partial_rotary_factor": 0.5} for t in ("phi", "persimmon", "nemotron")},
    "stablelm": {"partial_rotary_factor": 0.25},
    **{t: {} for t in "falcon olmo olmo2 qwen2_moe qwen3_moe starcoder2 granite granitemoe".split()},
}

LEARNED = "a learned table of absolute positions"
SINUSOIDAL = "a fixed sinusoidal table"
ALIBI = "ALiBi, a penalty on distance in every head"
BUCKETS = "learned biases per distance bucket"
STATE = "no positions at all, but a recurrent state"
OTHER_POSITIONS: dict[str, str] = {
    **dict.fromkeys("gpt2 gpt-sw3 gpt_bigcode gpt_neo imagegpt openai-gpt opt biogpt".split(), LEARNED),
    **dict.fromkeys("xglm ctrl".split(), SINUSOIDAL),
    **dict.fromkeys("bloom mpt".split(), ALIBI),
    "cpmant": BUCKETS,
    "xlnet": "sinusoidal distances scored against the queries (Transformer-XL)",
    **dict.fromkeys("mamba mamba2 falcon_mamba rwkv xlstm".split(), STATE),
    "deepseek_v4": "a rotation of the last channels of a head, which is not read here",
}
ENCODERS: dict[str, str] = {
    **dict.fromkeys("bert roberta camembert xlm-roberta electra albert distilbert mpnet".split(), LEARNED),
    "deberta": "disentangled content and distance scores",
    "deberta-v2": "disentangled content and distance scores",
    "roformer": "rotary positions",
    **dict.fromkeys("modernbert nomic_bert gte eurobert neobert jina_embeddings_v3".split(), "rotary positions"),
}
ENCODER_DECODERS: dict[str, str] = {
    **dict.fromkeys("t5 mt5 umt5 longt5 switch_transformers udop".split(), BUCKETS),
    **dict.fromkeys("bart mbart blenderbot whisper".split(), LEARNED),
    **dict.fromkeys("marian pegasus m2m_100 nllb-moe".split(), SINUSOIDAL),
    **dict.fromkeys("moonshine t5gemma t5gemma2".split(), "rotary positions"),
}


def refuse_other_positions(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedError, naming what the model uses, unless it may be a causal decoder with rotary positions."""
    kind = config.get("model_type", "")
    where = "Ropewalk reads causal decoders with rotary positions"
    if kind in ENCODERS:
        raise UnsupportedError(f"{kind} is an encoder with {ENCODERS[kind]}; {where}")
    if kind in ENCODER_DECODERS or config.get("is_encoder_decoder"):
        uses = ENCODER_DECODERS.get(kind)
        raise UnsupportedError(f"{kind} is an encoder-decoder" + (f" with {uses}" if uses else "") + f"; {where}")
    if kind in OTHER_POSITIONS:
        raise UnsupportedError(f"{kind} uses {OTHER_POSITIONS[kind]}; {where}")
    if config.get("alibi"):
        raise UnsupportedError(f"{kind} with alibi: true uses {ALIBI}; {where}")
    named = config.get("position_embedding_type", "rope")
    if named not in ("rope", "rotary"):
        uses = "no positions (NoPE)" if named in ("nope", None) else f"position_embedding_type {named!r}"
        raise UnsupportedError(f"{kind} uses {uses}; {where}")


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the fields that its model type takes for granted; a field set to null counts as missing."""
    return {**DEFAULTS.get(config.get("model_type", ""), {}), **{k: v for k, v in config.items() if v is not None}}


def pairing(config: Mapping[str, Any]) -> str:
    """Which channels the model's code rotates together: "half" or "interleaved"."""
    kind = config.get("model_type", "")
    together = kind in INTERLEAVED or config.get("rope_interleave", kind in INTERLEAVED_BY_DEFAULT)
    return "interleaved" if together else "half"
