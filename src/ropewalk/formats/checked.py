"""The fields of a config.json that say something about positions, checked before anything is made of them."""

from collections.abc import Callable, Mapping
from typing import Any

from ropewalk.errors import require

# far beyond every published model, and small enough to be worked through at once
MOST_TOKENS = 10**12
MOST_LAYERS = 10_000
MOST_HEADS = 10_000
MOST_HEAD_CHANNELS = 10_000
MOST_CHANNELS = 10**7
# of thetas and of what bends them, and of their reciprocals: a divisor of 1e20 stops a pair, and the powers taken of
# any of them stay inside float64
MOST = 1e21

# field -> the largest whole number that it may be
WHOLE: dict[str, int] = {
    **dict.fromkeys("num_hidden_layers n_layer num_layers n_layers num_decoder_layers".split(), MOST_LAYERS),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads".split(), MOST_HEADS),
    **dict.fromkeys(
        "head_dim attention_head_dim global_head_dim qk_rope_head_dim rotary_dim".split(), MOST_HEAD_CHANNELS
    ),
    **dict.fromkeys("hidden_size n_embd d_model dim embedding_size".split(), MOST_CHANNELS),
    **dict.fromkeys(
        "max_position_embeddings n_positions seq_length max_seq_len original_max_position_embeddings floor_scale "
        "relative_attention_num_buckets relative_attention_max_distance".split(),
        MOST_TOKENS,
    ),
    **dict.fromkeys(
        "no_rope_layer_interval global_attn_every_n_layers full_attention_interval".split(),
        MOST_LAYERS,
    ),
}
FLAGS = "alibi is_encoder_decoder rope_interleave".split()
NAMES = "model_type position_embedding_type".split()
OBJECTS = "rope_parameters rope_scaling attn_config".split()


def checked(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config` itself. Raises ConfigError, naming the field, for a value that could be read in no way.

    A field set to null counts as missing. Numbers of layers, heads, channels and tokens have upper bounds.
    """
    for field, value in config.items():
        if value is not None and (rule := RULES.get(field)):
            wanted, good = rule
            require(good(value), field, wanted, value)
    return config


def whole(value: object, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def is_list_of(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list | tuple) and all(type(item) in kinds for item in value)


def is_pattern(value: object) -> bool:
    return (isinstance(value, str) and value != "") or whole(value, MOST_LAYERS)


Rule = tuple[str, Callable[[Any], bool]]
RULES: dict[str, Rule] = {
    **{name: (f"a whole number from 1 to {most}", lambda v, most=most: whole(v, most)) for name, most in WHOLE.items()},
    **{name: ("true or false", lambda v: isinstance(v, bool)) for name in FLAGS},
    **{name: ("a name", lambda v: isinstance(v, str) and v.isprintable()) for name in NAMES},
    **dict.fromkeys(OBJECTS, ("a JSON object", lambda v: isinstance(v, Mapping))),
    "sliding_window_pattern": ("a positive whole number or a string of L and G", is_pattern),
    "layer_types": ("a list of strings", lambda v: is_list_of(v, (str,))),
    "no_rope_layers": ("a list of 0 and 1", lambda v: is_list_of(v, (int, bool))),
    "attn_temperature_tuning": ("true, false or a number", lambda v: type(v) in (bool, int, float)),
}
