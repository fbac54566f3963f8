"""Biases against the modules of transformers, which build their own tables, slopes and buckets.

Letters: B batch, H heads, T tokens, D head channels.
"""

import math

import pytest
import torch
from torch import Tensor
from transformers import Swinv2Config, T5Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.swin.modeling_swin import SwinRelativePositionBias
from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention
from transformers.models.t5.modeling_t5 import T5Attention

import ropewalk as rw
from ropewalk.masks import bidirectional, causal
from tolerance import tolerance

HEADS, LENGTH, DIM = 4, 41, 8
EPS32 = torch.finfo(torch.float32).eps


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_window(height: int, width: int) -> rw.Tokens:
    """The tokens of one window, row by row."""
    where = torch.cartesian_prod(torch.arange(height), torch.arange(width))[None]
    return rw.Tokens(where, torch.arange(height * width)[None], torch.zeros_like(where[..., 0]))


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("buckets", [4, 12, 32, 33, 64, 128])
@pytest.mark.parametrize("max_distance", [40, 100, 128, 256, 500, 512, 1024, 4096])
def test_buckets_of_t5_at_every_distance_to_ten_thousand(two_sided: bool, buckets: int, max_distance: int) -> None:
    rel = torch.arange(-10_000, 10_001)
    if buckets // (4 if two_sided else 2) >= max_distance:
        with pytest.raises(rw.ConfigError, match=r"^T5.max_distance must be a whole number above \d+, got \d+$"):
            rw.T5(1, buckets, max_distance, two_sided)
        return
    theirs = T5Attention._relative_position_bucket(rel, two_sided, buckets, max_distance)
    assert torch.equal(rw.T5(1, buckets, max_distance, two_sided).bucket(rel), theirs)


@pytest.mark.parametrize("decoder", [False, True])
def test_a_self_attention_layer_of_t5(decoder: bool) -> None:
    config = T5Config(d_model=16, d_kv=DIM, num_heads=HEADS, is_decoder=decoder, use_cache=False, dropout_rate=0.0)
    config._attn_implementation = "eager"
    layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).double().eval()
    for n, parameter in enumerate(layer.parameters()):
        parameter.data = drawn(*parameter.shape, seed=n)
    encoding, at, x = rw.T5(HEADS, bidirectional=not decoder), rw.contiguous(LENGTH), drawn(1, LENGTH, 16, seed=9)
    w = {"t5_bias": layer.relative_attention_bias.weight}
    mask = causal if decoder else bidirectional
    hidden = torch.zeros(1, 1, LENGTH, LENGTH, dtype=x.dtype).masked_fill(~mask(at, at)[:, None], -math.inf)
    theirs, bias, _ = layer(x, mask=hidden)
    q, k, v = (f(x).unflatten(-1, (HEADS, DIM)).transpose(1, 2) for f in (layer.q, layer.k, layer.v))
    assert torch.equal(encoding.bias(w, at, at), bias)
    ours = layer.o(rw.attend(q, k, v, encoding, w, at, at, mask, scale=1.0).transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance(theirs, HEADS * DIM))


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 71, 112])
def test_the_bias_per_key_of_bloom_is_the_same_after_the_softmax_also_with_left_padding(heads: int) -> None:
    at = rw.ragged(17, LENGTH, 30)
    real = at.document == 0
    theirs = build_alibi_tensor(real.long(), heads, torch.float32).unflatten(0, (3, heads)).double()
    logits, seen = drawn(3, heads, LENGTH, LENGTH), causal(at, at)[:, None]
    weights = [
        (logits + bias).masked_fill(~seen, -math.inf).softmax(-1) for bias in (rw.Alibi(heads).bias({}, at, at), theirs)
    ]
    ours, theirs = (w.transpose(1, 2)[real] for w in weights)
    # transformers rounds slope and product in float32, at up to LENGTH tokens and slopes of up to 1
    torch.testing.assert_close(ours, theirs, rtol=4 * EPS32 * LENGTH, atol=0)


@pytest.mark.parametrize("max_exponent", [8.0, 5.0])
@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 24, 40, 71, 112])
def test_the_bias_of_mpt_is_that_of_the_last_query(heads: int, max_exponent: float) -> None:
    at = rw.contiguous(LENGTH)
    theirs = build_mpt_alibi_tensor(heads, LENGTH, max_exponent)[:, 0]
    ours = rw.Alibi(heads, max_exponent).bias({}, rw.select(at, slice(-1, None)), at)[0, :, 0]
    # an exponent of up to max_exponent is rounded before its power is taken
    torch.testing.assert_close(ours, theirs, rtol=2 * max_exponent * EPS32, atol=0)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (2, 3), (5, 1), (1, 1), (1, 4)])
def test_the_table_of_swin(height: int, width: int) -> None:
    module = SwinRelativePositionBias(HEADS, (height, width))
    module.relative_position_bias_table.data = drawn(*module.relative_position_bias_table.shape)
    at = in_window(height, width)
    ours = rw.Swin(HEADS, height, width).bias({"swin_bias": module.relative_position_bias_table}, at, at)
    assert torch.equal(ours, module())


@torch.no_grad()
@pytest.mark.parametrize(("size", "trained"), [((3, 3), (0, 0)), ((4, 6), (0, 0)), ((6, 4), (3, 2)), ((2, 2), (8, 8))])
def test_cosine_attention_of_swin_v2(size: tuple[int, int], trained: tuple[int, int]) -> None:
    height, width = size
    config = Swinv2Config(qkv_bias=True)
    module = Swinv2SelfAttention(config, HEADS * DIM, HEADS, size, trained).double().eval()
    for n, parameter in enumerate(module.parameters()):
        parameter.data = drawn(*parameter.shape, seed=n)
    # one head that is held back by the limit on the scale, and the others that are not
    module.logit_scale.data = torch.tensor([5.0, 1.0, 2.0, -1.0], dtype=torch.float64)[:, None, None]
    rise, _, out = module.continuous_position_bias_mlp
    out.weight.data *= 0.05  # so that the bias is spread between its bounds
    w = {
        "swin_v2_scale": module.logit_scale.flatten(),
        "swin_v2_in": rise.weight,
        "swin_v2_in_shift": rise.bias,
        "swin_v2_out": out.weight,
    }
    encoding = rw.SwinV2(HEADS, height, width, trained if any(trained) else ())
    x, at = drawn(1, height * width, HEADS * DIM, seed=9), in_window(height, width)
    theirs = module(x)[0]
    q, k, v = (f(x).unflatten(-1, (HEADS, DIM)).transpose(1, 2) for f in (module.query, module.key, module.value))
    ours = rw.attend(q, k, v, encoding, w, at, at, bidirectional).transpose(1, 2).flatten(2)
    # transformers makes the offsets in float32, and 512 units sum what comes of them
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance(theirs.float(), 512))
