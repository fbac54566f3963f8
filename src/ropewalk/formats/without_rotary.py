"""Positions other than rotary ones, as far as a config.json tells them."""

import math
from collections.abc import Mapping
from typing import Any

from ropewalk.encodings.absolute.learned import Learned
from ropewalk.encodings.bias.alibi import Alibi
from ropewalk.encodings.bias.t5 import T5
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats.layers import Layer

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
DEPTH = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
BUCKETED = frozenset("t5 mt5 umt5 switch_transformers".split())
PENALISED = frozenset("bloom mpt falcon".split())
# these count rows that no token has among max_position_embeddings
INSIDE = frozenset("roberta camembert xlm-roberta".split())
# model types with a table of positions, and how many of its first rows no token has
TABLES = {
    **dict.fromkeys("gpt2 gpt_bigcode gpt_neo openai-gpt bert electra albert distilbert".split(), 0),
    **dict.fromkeys(["opt", "biogpt", *INSIDE], 2),
}


def read_other(config: Mapping[str, Any]) -> tuple[Layer, ...] | None:
    """One entry per layer for ALiBi, T5's buckets and learned tables; None for a model type that has none of these.

    Biases stand in every layer that adds them: for T5 those of the encoder, which look both ways, and then those of the
    decoder. A learned table is added once, to the input: it stands in the first layer, and the others have ().
    """
    kind = config.get("model_type", "")
    if kind in BUCKETED:
        return read_buckets(config)
    if kind in TABLES:
        return read_table(config, kind)
    if kind in PENALISED and (kind != "falcon" or config.get("alibi")):
        return (read_alibi(config, kind),) * count(config, *DEPTH)
    return None


def count(config: Mapping[str, Any], *names: str) -> int:
    """The first of these fields that is given; ConfigError if none is."""
    value = next((config[name] for name in names if config.get(name) is not None), None)
    require(value is not None, names[0], "given for this model type", value)
    return int(value)  # pyright: ignore[reportArgumentType]


def read_buckets(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The encoder's layers and then the decoder's."""
    given = {
        "buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128),
        "width": count(config, *WIDTH),
    }
    heads, depth = count(config, "num_heads", "num_attention_heads"), count(config, "num_layers", "num_hidden_layers")
    encoder, decoder = (T5(heads, bidirectional=both, **given) for both in (True, False))
    return (encoder,) * depth + (decoder,) * config.get("num_decoder_layers", depth)


def read_table(config: Mapping[str, Any], kind: str) -> tuple[Layer, ...]:
    """The table in the first layer."""
    named = config.get("position_embedding_type", "absolute")
    if named != "absolute":
        raise UnsupportedError(f"{kind} with position_embedding_type {named!r} is not read here")
    # ALBERT and ELECTRA embed in fewer channels than they go on with
    width = count(config, *(("embedding_size",) if kind in ("albert", "electra") else ()), *WIDTH)
    rows, unused = count(config, "max_position_embeddings", "n_positions"), TABLES[kind]
    length = rows - unused if kind in INSIDE else rows
    require(length > 0, "max_position_embeddings", f"more than {unused} for {kind}", rows)
    return (Learned(width, length, unused), *[()] * (count(config, *DEPTH) - 1))


def read_alibi(config: Mapping[str, Any], kind: str) -> Alibi:
    heads = count(config, *HEADS)
    if kind == "mpt":
        said: Mapping[str, Any] = config.get("attn_config") or {}
        if said.get("alibi", True) is not True:
            raise UnsupportedError("mpt is read only with attn_config.alibi true")
        return Alibi(heads, said.get("alibi_bias_max", 8))
    return divided(heads, count(config, *WIDTH) // heads) if kind == "falcon" else Alibi(heads)


def divided(heads: int, channels: int) -> Alibi:
    """The slopes of Falcon: its code divides them by the root of a head's channels, together with the logits.

    2 ** (-8 k / heads) / 2 ** s are powers of the same base, further on: those of more heads, from a later one on.
    """
    require(channels > 0, "hidden_size", f"at least num_attention_heads = {heads}", channels)
    later = math.log2(channels) / 2 * heads / 8
    if heads & (heads - 1) or later != int(later):
        raise UnsupportedError(f"falcon's ALiBi over {heads} heads of {channels} channels is not read here")
    every = 1 << (heads + int(later) - 1).bit_length()
    return Alibi(every, 8.0 * every / heads, first=int(later), count=heads)
