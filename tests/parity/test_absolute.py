"""Vectors that enter with the embeddings, against the tables and the embedding layers of transformers' own models."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    OPTConfig,
    OPTModel,
    RobertaConfig,
    RobertaModel,
)
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.roformer.modeling_roformer import RoFormerSinusoidalPositionalEmbedding
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

import ropewalk as rw
from tolerance import tolerance

LENGTH, DIM = 97, 24
EPS = torch.finfo(torch.float32).eps
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 31}


def ours(layout: str, dim: int = DIM) -> Tensor:
    return rw.Sinusoidal(dim, layout=layout).embed({}, rw.contiguous(LENGTH))[0]


def equal(found: Tensor, expected: Tensor, within: float = EPS) -> None:
    """Sines and cosines are at most 1, so a table rounded from exact values differs by less than one unit there."""
    torch.testing.assert_close(found, expected, rtol=0, atol=within)


@pytest.mark.parametrize("theirs", [RoFormerSinusoidalPositionalEmbedding, MarianSinusoidalPositionalEmbedding])
def test_sines_before_cosines_as_in_roformer_and_marian(theirs: Any) -> None:
    table = theirs(LENGTH, DIM)
    table.weight = nn.Parameter(table.create_weight(), requires_grad=False)
    equal(ours("concat"), table(torch.Size((1, LENGTH))))
    # tokens that continue after a cache
    later = rw.Sinusoidal(DIM, layout="concat").embed({}, rw.contiguous(5, start=40))[0]
    equal(later, table(torch.Size((1, 5)), past_key_values_length=40))


def test_sines_and_cosines_in_turn_as_in_xlm() -> None:
    equal(ours("interleaved"), create_sinusoidal_embeddings(LENGTH, DIM, torch.empty(LENGTH, DIM)))


@pytest.mark.parametrize("dim", [4, DIM, 130])
def test_rates_that_end_at_one_over_the_base_as_in_fairseq(dim: int) -> None:
    theirs = M2M100SinusoidalPositionalEmbedding.get_embedding(LENGTH, dim)
    # their rates are powers of float32 exponents up to log(10000) = 9.2, so off by 5 units in the last place, and two
    # more roundings make the angle, which reaches LENGTH
    equal(ours("t2t", dim), theirs, within=8 * EPS * LENGTH)


@pytest.mark.parametrize("dim", [4, DIM, 130])
def test_rates_that_end_at_one_over_the_base_as_tensor2tensor_writes_them(dim: int) -> None:
    scales = dim // 2
    rates = 1.0 * np.exp(-np.arange(scales) * math.log(1e4) / (scales - 1))
    angle = np.arange(LENGTH)[:, None] * rates[None]
    equal(ours("t2t", dim), torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float())


def test_the_layouts_do_differ() -> None:
    tables = [ours(layout) for layout in ("interleaved", "concat", "t2t")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (tables[a] - tables[b]).abs().max() > 0.5


def test_rows_and_columns_of_an_image_as_in_vit_mae() -> None:
    height, width = 5, 7
    theirs = build_2d_sinusoidal_position_embedding(height, width, 32)
    places = torch.tensor([[(y, x) for y in range(height) for x in range(width)]])
    at = rw.contiguous(height * width)._replace(position=places)
    equal(rw.Sinusoidal(32, layout="concat", axes=2).embed({}, at)[0], theirs)


def words() -> Tensor:
    return torch.randint(3, 31, (2, 12), generator=torch.Generator().manual_seed(0))


def without_norm(model: Any) -> Any:
    """The model's embedding layer, left with nothing but sums."""
    torch.manual_seed(1)
    embeddings = model.eval().embeddings
    embeddings.LayerNorm = nn.Identity()
    return embeddings


def same_embeddings(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(expected))


@torch.no_grad()
def test_learned_rows_as_in_bert() -> None:
    layer, ids = without_norm(BertModel(BertConfig(**SIZES, max_position_embeddings=40))), words()
    content = layer.word_embeddings(ids) + layer.token_type_embeddings.weight[0]
    table = {"table": layer.position_embeddings.weight}
    same_embeddings(rw.embed(content, rw.Learned(16, 40), table, rw.contiguous(12, batch=2)), layer(ids))


@torch.no_grad()
def test_learned_rows_as_in_gpt2_with_and_without_a_cache() -> None:
    torch.manual_seed(1)
    model, ids = GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=31, n_positions=40)).eval(), words()
    encoding, table, at = rw.Learned(16, 40), {"table": model.wpe.weight}, rw.contiguous(12, batch=2)
    theirs = model(ids, output_hidden_states=True, use_cache=True)
    same_embeddings(rw.embed(model.wte(ids), encoding, table, at), theirs.hidden_states[0])
    more = model(ids[:, :2], past_key_values=theirs.past_key_values, output_hidden_states=True)
    same_embeddings(rw.embed(model.wte(ids[:, :2]), encoding, table, rw.append(at, 2)), more.hidden_states[0])


PADDED = rw.ragged(7, 12)


@torch.no_grad()
def test_learned_rows_that_start_late_as_in_roberta() -> None:
    config = RobertaConfig(**SIZES, max_position_embeddings=42, pad_token_id=1, type_vocab_size=1)
    layer = without_norm(RobertaModel(config))
    real = PADDED.document >= 0
    ids = words().where(real, 1)
    content = layer.word_embeddings(ids) + layer.token_type_embeddings.weight[0]
    encoding, table = rw.Learned(16, 40, first_row=2), {"table": layer.position_embeddings.weight}
    assert rw.initial(encoding)["table"].shape == table["table"].shape
    same_embeddings(rw.embed(content, encoding, table, PADDED)[real], layer(ids)[real])


@torch.no_grad()
def test_learned_rows_that_start_late_as_in_opt() -> None:
    torch.manual_seed(1)
    config = OPTConfig(**SIZES, ffn_dim=16, max_position_embeddings=40, word_embed_proj_dim=16, pad_token_id=1)
    model, ids = OPTModel(config).eval(), words()
    real = PADDED.document >= 0
    theirs = model(ids, attention_mask=real.long(), output_hidden_states=True).hidden_states[0]
    table = {"table": model.decoder.embed_positions.weight}
    encoding, content = rw.Learned(16, 40, first_row=2), model.decoder.embed_tokens(ids)
    assert rw.initial(encoding)["table"].shape == table["table"].shape
    same_embeddings(rw.embed(content, encoding, table, PADDED)[real], theirs[real])
    off_by_one = rw.embed(content, rw.Learned(16, 40, first_row=1), table, PADDED)[real]
    assert (off_by_one - theirs[real]).abs().max() > 1e-3
