"""Published configurations: what is read from each gives the tables that transformers builds from the same file.

Ours are float64 angles rounded once to float32; those of transformers are float32 throughout.
"""

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel
from transformers.models.bloom.modeling_bloom import build_alibi_tensor as bloom_bias
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon_bias
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor as mpt_bias
from transformers.models.t5.modeling_t5 import T5Attention

import ropewalk as rw
from ropewalk import Alibi, Learned, Rotary, Temperature, Tokens
from ropewalk.formats import hf
from ropewalk.formats.layers import others_of, rotary_of
from ropewalk.spectrum import for_length

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
BIASED = ["bloom-560m", "falcon-rw-1b", "mpt-7b", "t5-small"]
TABLED = ["bert-base", "gpt2", "opt-125m", "roberta-base"]
TURNING = sorted({file.stem for file in CONFIGS.glob("*.json")} - {*BIASED, *TABLED})
HALF_UNIT = 2.0**-24  # of float32: the relative error of one rounding
SHORT = (0, 1, 2, 3, 5, 7, 60)
LONG = (*SHORT, 1000, 4095, 5000, 30_000, 100_000)


def config_of(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def stock_of(name: str) -> Any:
    """The configuration class of transformers, of the language model alone."""
    config = config_of(name)
    return AutoConfig.for_model(config.pop("model_type"), **config).get_text_config()


def modelling(config: Any) -> ModuleType:
    family = config.model_type.removesuffix("_text")
    return importlib.import_module(f"transformers.models.{family}.modeling_{family}")


def layer_args(config: Any, layer: int) -> tuple[str, ...]:
    """What the rotary module of transformers wants to know of a layer, where it has a table for each type of them."""
    kinds = getattr(config, "layer_types", None) or []
    ropes = getattr(config, "rope_parameters", None) or {}
    return (kinds[layer],) if kinds and isinstance(ropes.get(kinds[layer]), dict) else ()


def raw_tables(config: Any, layer: int, where: Tensor) -> Any:
    """Whatever the modelling file hands to its attention: cosines and sines, or complex numbers; `where` is [A, T]."""
    code = modelling(config)
    if config.model_type == "gptj":
        table = code.create_sinusoidal_positions(int(where.max()) + 1, config.rotary_dim)
        sin, cos = table[where[0]].chunk(2, dim=-1)
        return cos[None], sin[None]
    named = [c for n, c in vars(code).items() if n.endswith("RotaryEmbedding") and "Vision" not in n]
    rotary = next(c for c in named if c.__module__ == code.__name__)(config)
    ids = where[:, None] if len(where) > 1 else where
    return rotary(torch.zeros(1, 1, 8), ids, *layer_args(config, layer))


def tables(config: Any, layer: int, where: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every pair, Float32[T, P], however the modelling file lays them out."""
    raw = raw_tables(config, layer, where)
    both = (raw.real, raw.imag) if isinstance(raw, Tensor) else raw
    return tuple(once(table[0].float(), pairs) for table in both)  # pyright: ignore[reportReturnType]


def once(table: Tensor, pairs: int) -> Tensor:
    """[T, P] of a table that holds every pair once, or twice in either order."""
    if table.shape[-1] == pairs:
        return table
    assert table.shape[-1] == 2 * pairs
    halves = table[..., :pairs], table[..., pairs:]
    found = halves if torch.equal(*halves) else (table[..., ::2], table[..., 1::2])
    assert torch.equal(*found)
    return found[0]


def tokens(where: Tensor) -> Tokens:
    """One row of tokens at the positions `where` [A, T]."""
    order = torch.arange(where.shape[1])[None]
    return Tokens(where.T[None], order, torch.zeros_like(order))


def positions(e: Rotary, picked: tuple[int, ...]) -> Tensor:
    """Int[A, T]: the axes at different places, so that none is taken for another."""
    row = torch.tensor(picked)
    return torch.stack([row, row.flip(0), row.roll(2)][: e.axes])


def rate_error(e: Rotary) -> float:
    """Bound on the relative error of a rate in float32.

    The exponent is rounded once, which base ** x magnifies by ln(base); eight more roundings make the ramp and the
    rest. Where a ramp meets rates divided by `factor`, its error counts `factor` times.
    """
    stretch = math.prod(rule.factor for rule in e.scaling if getattr(rule, "factor", None))
    return HALF_UNIT * (math.log(e.base * stretch) + 8) * stretch


def check(ours: Tensor, theirs: Tensor, allowed: Tensor) -> None:
    assert ours.shape == theirs.shape
    excess = (ours.double() - theirs.double()).abs() - allowed
    assert excess.max() <= 0, (int(excess.argmax()), ours.flatten()[excess.argmax()], theirs.flatten()[excess.argmax()])


@pytest.mark.parametrize("picked", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", TURNING)
def test_tables_of_transformers(name: str, picked: tuple[int, ...]) -> None:
    """Within 1e-6 where angles are at most 1, and beyond that within what float32 makes of an angle.

    An angle of a radians has an error of a * (error of its rate + one rounding of the product), and so have, at most,
    its cosine and its sine, each rounded once more by either side.
    """
    stock, layers = stock_of(name), hf.read(config_of(name))
    assert len(layers) == stock.num_hidden_layers
    for layer in {layers.index(e): e for e in layers if rotary_of(e)}:
        e = for_length(rotary_of(layers[layer]), max(picked) + 1)
        where = positions(e, picked)
        turn, angle = e.rotation({}, tokens(where)), e.angle(tokens(where))[0].abs()
        size = e.spectrum().magnitude
        allowed = size * (angle * (rate_error(e) + HALF_UNIT) + 3 * HALF_UNIT)
        allowed = torch.where(angle <= 1, allowed.clamp(max=1e-6 * size), allowed)
        for ours, theirs in zip((turn.cos[0], turn.sin[0]), tables(stock, layer, where, e.dim // 2), strict=True):
            check(ours, theirs, allowed)


def turned(stock: Any, raw: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [1, H, T, D] after the modelling file's own function."""
    code, kind = modelling(stock), stock.model_type
    if kind == "gptj":
        cos, sin = raw
        by_token = (code.apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2) for x in (q, k))
        return tuple(by_token)  # pyright: ignore[reportReturnType]
    if kind == "llama4_text":
        out = code.apply_rotary_emb(q.transpose(1, 2), k.transpose(1, 2), raw)
        return tuple(x.transpose(1, 2) for x in out)  # pyright: ignore[reportReturnType]
    if kind == "deepseek_v2":
        return code.apply_rotary_emb(q, k, raw)
    name = "apply_rotary_pos_emb_interleave" if kind == "deepseek_v3" else "apply_rotary_pos_emb"
    return getattr(code, name)(q, k, *raw)


@pytest.mark.parametrize("name", TURNING)
def test_logits_of_transformers(name: str) -> None:
    """The dot products of rotated queries and keys see which channels form a pair, and not in which order they come."""
    stock, layers = stock_of(name), hf.read(config_of(name))
    layer = next(i for i, e in enumerate(layers) if rotary_of(e))
    e = for_length(rotary_of(layers[layer]), max(SHORT) + 1)
    where = positions(e, SHORT)
    draw = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 2, len(SHORT), e.dim, generator=draw) for _ in range(2))
    theirs = turned(stock, raw_tables(stock, layer, where), q, k)
    ours = rw.rotate(q, k, e, tokens(where))
    logits = [a @ b.transpose(-1, -2) for a, b in (theirs, ours)]
    # either factor is off by the table's error, and sums of D products by some roundings
    error = 4 * max(SHORT) * (rate_error(e) + HALF_UNIT) + 16 * HALF_UNIT * e.dim**0.5
    size = (q.norm(dim=-1)[..., None] * k.norm(dim=-1)[..., None, :]) * e.spectrum().magnitude ** 2
    assert ((logits[0] - logits[1]).abs() <= error * size).all()
    other = Rotary(**(vars(e) | {"pairing": "half" if e.pairing == "interleaved" else "interleaved"}))
    wrong = rw.rotate(q, k, other, tokens(where))
    assert ((wrong[0] @ wrong[1].transpose(-1, -2) - logits[0]).abs() > error * size).any()


def test_every_published_file_is_compared() -> None:
    assert len(TURNING) >= 25
    for name in TURNING:
        assert any(rotary_of(e) for e in hf.read(config_of(name)))


def heads_by_query_and_key(e: Any, length: int, weights: dict[str, Tensor] | None = None) -> Tensor:
    """[H, T, T]."""
    at = rw.contiguous(length)
    return e.bias(weights or {}, at, at)[0]


@pytest.mark.parametrize("name", ["bloom-560m", "mpt-7b", "falcon-rw-1b"])
def test_alibi_of_transformers(name: str) -> None:
    """Up to what a whole row has in common, which the softmax does not see."""
    stock, (e, *rest), length = stock_of(name), hf.read(config_of(name)), 50
    assert set(rest) == {e}
    assert len(rest) == stock.num_hidden_layers - 1
    mask, heads, unit = torch.ones(1, length, dtype=torch.long), stock.num_attention_heads, HALF_UNIT
    if name == "bloom-560m":
        row = bloom_bias(mask, heads, torch.float32)
    elif name == "mpt-7b":
        row = mpt_bias(heads, length)
    else:
        # bfloat16 slopes and products; the code divides them with the logits
        row, unit = falcon_bias(mask, heads, torch.float32) / math.sqrt(stock.head_dim), 2.0**-9
    assert isinstance(e, Alibi)
    theirs = row.view(heads, 1, length).double().expand(-1, length, -1)
    ours = heads_by_query_and_key(e, length).double()
    seen = torch.ones(length, length).tril().bool()
    theirs, ours = ((x - x[..., :1])[:, seen] for x in (theirs, ours))
    largest = torch.tensor(e.slopes())[:, None] * length
    # slopes are powers, up to the number of heads, of one rounded number
    check(ours, theirs, (4 * unit + heads * HALF_UNIT) * largest.expand_as(ours))


def test_buckets_of_t5() -> None:
    stock, layers, length = stock_of("t5-small"), hf.read(config_of("t5-small")), 300
    assert [e.bidirectional for e in layers] == [True] * stock.num_layers + [False] * stock.num_decoder_layers
    for e, decoder in ((layers[0], False), (layers[-1], True)):
        stock.is_decoder = decoder
        attention = T5Attention(stock, has_relative_attention_bias=True, layer_idx=0)
        table = torch.randn(e.buckets, e.heads, generator=torch.Generator().manual_seed(2))
        assert attention.relative_attention_bias.weight.shape == table.shape
        attention.relative_attention_bias.weight.data = table
        theirs = attention.compute_bias(length, length)[0]
        assert torch.equal(heads_by_query_and_key(e, length, {"t5_bias": table}), theirs)


@pytest.mark.parametrize("name", TABLED)
def test_learned_tables_have_the_rows_of_transformers(name: str) -> None:
    stock, (e, *rest) = stock_of(name), hf.read(config_of(name))
    assert set(rest) == {()}
    assert len(rest) == stock.num_hidden_layers - 1
    with torch.device("meta"):
        weights = AutoModel.from_config(stock).state_dict()
    (table,) = (w for n, w in weights.items() if n.split(".")[-2] in ("position_embeddings", "wpe", "embed_positions"))
    assert isinstance(e, Learned)
    assert table.shape == (e.first_row + e.length, e.dim)


def test_query_temperatures() -> None:
    stock, layers = stock_of("llama-4-scout"), hf.read(config_of("llama-4-scout"))
    assert stock.attn_temperature_tuning
    sharper = Temperature(stock.floor_scale, stock.attn_scale)
    assert [e == sharper for e in layers] == [not turns for turns in stock.no_rope_layers]
    assert sum(e == sharper for e in layers) == 12
    rope = stock_of("ministral-3-8b").rope_parameters
    (temperature,) = others_of(hf.read(config_of("ministral-3-8b"))[0])
    where = torch.tensor([[0, 1, 16383, 16384, 40_000, 262_143]])
    wanted = get_llama_4_attn_scale(where, rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"])
    check(temperature.scale(tokens(where)), wanted[:, 0, :, 0], torch.tensor(4 * HALF_UNIT))
