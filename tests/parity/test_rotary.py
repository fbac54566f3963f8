"""Rotations of transformers 5.23, each side with its own tables: several axes, half, interleaved and partial pairs.

transformers makes angles in float32, which are off by up to eps * position; every tolerance here is that bound.
Letters: B batch, H heads, T tokens, D channels.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.gemma3 import modeling_gemma3 as gemma3
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.pixtral import modeling_pixtral as pixtral
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl
from transformers.models.roformer import modeling_roformer as roformer

import ropewalk as rw
from ropewalk.formats import hf

FARTHEST, TOKENS, HEADS = 1000, 40, 2
EPS = torch.finfo(torch.float32).eps


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def near(found: Tensor, expected: Tensor, farthest: int = FARTHEST) -> None:
    """Every element within what float32 angles at the farthest position allow: four units of it."""
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * EPS * farthest * float(expected.abs().max()))


def scattered(axes: int, batch: int = 2) -> rw.Tokens:
    """Tokens at random coordinates, as no text and no image has them."""
    where = torch.randint(0, FARTHEST, (batch, TOKENS, axes), generator=torch.Generator().manual_seed(1))
    return rw.contiguous(TOKENS, batch=batch)._replace(position=where)


def text(rope: dict[str, Any], dim: int = 32) -> dict[str, Any]:
    return {"hidden_size": HEADS * dim, "num_attention_heads": HEADS, "head_dim": dim, "rope_parameters": rope}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}
MROPE = [
    (qwen2_vl, "Qwen2VLTextConfig", "Qwen2VLRotaryEmbedding", "chunked", (4, 6, 6)),
    (qwen2_vl, "Qwen2VLTextConfig", "Qwen2VLRotaryEmbedding", "chunked", (2, 5, 9)),
    (qwen2_5_vl, "Qwen2_5_VLTextConfig", "Qwen2_5_VLRotaryEmbedding", "chunked", (4, 6, 6)),
    (qwen3_vl, "Qwen3VLTextConfig", "Qwen3VLTextRotaryEmbedding", "interleaved", (6, 5, 5)),
    (qwen3_vl, "Qwen3VLTextConfig", "Qwen3VLTextRotaryEmbedding", "interleaved", (8, 4, 4)),
    # as many as its code gives to each axis, which is not as many as the configuration says
    (qwen3_vl, "Qwen3VLTextConfig", "Qwen3VLTextRotaryEmbedding", "interleaved", (7, 6, 3)),
    (qwen3_vl, "Qwen3VLTextConfig", "Qwen3VLTextRotaryEmbedding", "interleaved", (2, 7, 7)),
]


@pytest.mark.parametrize(("rope", "scaling"), [(PLAIN, ()), (YARN, (rw.Yarn(4.0, 64),))], ids=["plain", "yarn"])
@pytest.mark.parametrize(("family", "config", "module", "layout", "sections"), MROPE)
def test_three_coordinates_of_qwen(
    family: Any, config: str, module: str, layout: str, sections: tuple[int, ...], rope: dict[str, Any], scaling: Any
) -> None:
    (q, k), at = draw(2, 2, HEADS, TOKENS, 32), scattered(3)
    theirs = getattr(family, config)(**text({**rope, "mrope_section": list(sections)}))
    tables = getattr(family, module)(theirs)(q, at.position.permute(2, 0, 1))
    ours = rw.Rotary(32, rope["rope_theta"], scaling, sections=sections, layout=layout)
    for found, expected in zip(rw.rotate(q, k, ours, at), family.apply_rotary_pos_emb(q, k, *tables), strict=True):
        near(found, expected)


VISION = [
    (qwen2_vl, "Qwen2VLVisionRotaryEmbedding", {"embed_dim": HEADS * 32, "num_heads": HEADS}),
    (qwen2_5_vl, "Qwen2_5_VLVisionRotaryEmbedding", {"hidden_size": HEADS * 32, "num_heads": HEADS}),
    (qwen3_vl, "Qwen3VLVisionRotaryEmbedding", {"hidden_size": HEADS * 32, "num_heads": HEADS}),
]


@pytest.mark.parametrize(("family", "module", "shape"), VISION)
def test_rows_and_columns_of_qwen(family: Any, module: str, shape: dict[str, int]) -> None:
    (q, k), at = draw(2, 1, HEADS, TOKENS, 32), scattered(2, batch=1)
    config = getattr(family, module.replace("RotaryEmbedding", "Config"))(**shape)
    tables = getattr(family, module)(config)(q, at.position[0])
    by_token = (x[0].transpose(0, 1) for x in (q, k))
    for found, expected in zip(
        rw.rotate(q, k, rw.Rotary(32, sections=(8, 8), rates="own"), at),
        family.apply_rotary_pos_emb_vision(*by_token, *tables),
        strict=True,
    ):
        near(found[0].transpose(0, 1), expected)


def test_rows_and_columns_of_pixtral() -> None:
    (q, k), at = draw(2, 1, HEADS, TOKENS, 32), scattered(2, batch=1)
    config = pixtral.PixtralVisionConfig(hidden_size=HEADS * 32, num_attention_heads=HEADS)
    tables = pixtral.PixtralVisionRotaryEmbedding(config)(q, at.position[0])
    expected = pixtral.apply_rotary_pos_emb(q, k, *tables, unsqueeze_dim=0)
    for found, their in zip(rw.rotate(q, k, rw.Rotary(32, sections=(8, 8), rates="dealt"), at), expected, strict=True):
        near(found, their)


# as released with a window of 128k: only global layers are scaled
GEMMA3 = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}


@pytest.mark.parametrize(("ropes", "scaling"), [(None, ()), (GEMMA3, (rw.Linear(8.0),))], ids=["plain", "linear"])
def test_local_and_global_layers_of_gemma_3(ropes: dict[str, Any] | None, scaling: tuple[Any, ...]) -> None:
    config = gemma3.Gemma3TextConfig(num_hidden_layers=8, head_dim=32, rope_parameters=ropes)
    layers = rw.alternate(rw.Rotary(32, 1e4), 6, rw.Rotary(32, 1e6, scaling), layers=8)
    assert layers == list(hf.read(config.to_dict()))
    (q, k), at, module = draw(2, 2, HEADS, TOKENS, 32), scattered(1), gemma3.Gemma3RotaryEmbedding(config)
    for encoding, kind in zip(layers, config.layer_types, strict=True):
        expected = gemma3.apply_rotary_pos_emb(q, k, *module(q, at.position[..., 0], kind))
        for found, their in zip(rw.rotate(q, k, encoding, at), expected, strict=True):
            near(found, their)


def test_interleaved_and_partial_pairs_of_gpt_j() -> None:
    (q, k), at = draw(2, 2, HEADS, TOKENS, 32), scattered(1)
    sin, cos = gptj.create_sinusoidal_positions(FARTHEST, 16)[at.position[..., 0]].chunk(2, dim=-1)
    for found, x in zip(rw.rotate(q, k, rw.Rotary(16, pairing="interleaved"), at), (q, k), strict=True):
        by_token = gptj.apply_rotary_pos_emb(x[..., :16].transpose(1, 2), sin, cos)
        near(found[..., :16], by_token.transpose(1, 2))
        assert torch.equal(found[..., 16:], x[..., 16:])


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_partial_pairs_of_gpt_neox(fraction: float) -> None:
    (q, k), at = draw(2, 2, HEADS, TOKENS, 32), scattered(1)
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": fraction}
    config = gpt_neox.GPTNeoXConfig(hidden_size=HEADS * 32, num_attention_heads=HEADS, rope_parameters=rope)
    tables = gpt_neox.GPTNeoXRotaryEmbedding(config)(q, at.position[..., 0])
    expected = gpt_neox.apply_rotary_pos_emb(q, k, *tables)
    for found, their in zip(rw.rotate(q, k, rw.Rotary(int(32 * fraction)), at), expected, strict=True):
        near(found, their)


def test_interleaved_pairs_of_roformer() -> None:
    (q, k), at = draw(2, 1, HEADS, TOKENS, 32), rw.contiguous(TOKENS, start=60)
    table = roformer.RoFormerSinusoidalPositionalEmbedding(100, 32)
    table.weight.data.copy_(table.create_weight())
    expected = roformer.RoFormerSelfAttention.apply_rotary_position_embeddings(table((1, TOKENS), 60)[None, None], q, k)
    for found, their in zip(rw.rotate(q, k, rw.Rotary(32, pairing="interleaved"), at), expected, strict=True):
        # its angles are made in float64
        near(found, their, farthest=1)
