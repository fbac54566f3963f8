"""Encodings that mix content and position against the attention of transformers, element by element, in float64."""

import pytest
import torch
from torch import Tensor, nn
from transformers import DebertaConfig, DebertaV2Config, Wav2Vec2BertConfig, XLNetConfig, XLNetModel
from transformers.models.deberta import modeling_deberta as deberta
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta_v2
from transformers.models.wav2vec2_bert import modeling_wav2vec2_bert as w2v

import ropewalk as rw
from ropewalk.masks import Mask, bidirectional, causal

HEADS, DIM, LENGTH, MEMORY = 3, 8, 21, 5
WIDTH = HEADS * DIM
SMALL = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 1, "intermediate_size": 16}
EXACT = 1e-12
# transformers forms the sinusoid in float32: every wave is off by up to an angle of LENGTH radians' last place
FLOAT32_WAVES = WIDTH**0.5 * LENGTH * torch.finfo(torch.float32).eps
# its scale is a float32 square root: logits, below 16 here, are off by half of their last place
FLOAT32_SCALE = 8 * torch.finfo(torch.float32).eps


def filled(module: nn.Module) -> nn.Module:
    """The module in float64, evaluating, every parameter drawn anew: zeros and ones would hide mistakes."""
    draw = torch.Generator().manual_seed(4)
    for x in module.parameters():
        x.data = torch.randn(x.shape, generator=draw, dtype=torch.float64) * 0.3
    return module.eval()


def states(length: int = LENGTH, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def by_head(x: Tensor) -> Tensor:
    """[B, H, T, D] from [B, T, H * D]."""
    return x.unflatten(-1, (HEADS, DIM)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[B, T, H * D] from [B, H, T, D]."""
    return x.transpose(1, 2).flatten(2)


def close(found: Tensor, expected: Tensor, within: float) -> None:
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=within)


def xlnet(**settings: object) -> tuple[XLNetModel, rw.XLNet, dict[str, Tensor]]:
    """A model of one layer, the encoding, and the layer's own learned tensors by our names."""
    config = XLNetConfig(vocab_size=11, d_model=WIDTH, n_layer=1, n_head=HEADS, d_inner=16, dropout=0.0, **settings)
    model = filled(XLNetModel(config))
    layer = model.layer[0].rel_attn
    w = {"xl_project": layer.r.flatten(1).T, "xl_u": layer.r_w_bias, "xl_v": layer.r_r_bias}
    w |= {"xlnet_s": layer.r_s_bias, "xlnet_segment": layer.seg_embed}
    clamp = config.clamp_len if config.clamp_len > 0 else None
    return model, rw.XLNet(DIM, HEADS, clamp=clamp), w


@torch.no_grad()
@pytest.mark.parametrize("memory", [0, MEMORY])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("clamp", [-1, 6])
@pytest.mark.parametrize(("direction", "mask"), [("bi", bidirectional), ("uni", causal)])
def test_xlnet(memory: int, segments: bool, clamp: int, direction: str, mask: Mask) -> None:
    model, encoding, w = xlnet(attn_type=direction, clamp_len=clamp)
    layer, x = model.layer[0].rel_attn, states(MEMORY + LENGTH)[:, MEMORY - memory :]
    # the second half is of another segment; XLNet takes memory for the first
    segment = torch.zeros(2, memory + LENGTH, dtype=torch.int64)
    segment[0, memory + 9 :], segment[1, memory + 14 :] = 1, 1
    other = (segment[:, memory:, None] != segment[:, None, :]).permute(1, 2, 0)
    waves = model.relative_positional_encoding(LENGTH, memory + LENGTH, bsz=2).double()
    unseen = ~mask(rw.contiguous(LENGTH, start=memory), rw.contiguous(memory + LENGTH))
    head = {name: torch.einsum("bth,hnd->tbnd", x, getattr(layer, name)) for name in "qkv"}
    expected = layer.rel_attn_core(
        head["q"][memory:],
        head["k"],
        head["v"],
        torch.einsum("tbh,hnd->tbnd", waves, layer.r),
        seg_mat=nn.functional.one_hot(other.long(), 2).double() if segments else None,
        attn_mask=unseen.permute(1, 2, 0)[..., None].double(),
    )
    k_at = rw.contiguous(memory + LENGTH, batch=2)
    if segments:
        k_at = k_at._replace(position=torch.stack((k_at.position[..., 0], segment), dim=-1))
    q, k, v = (head[name].permute(1, 2, 0, 3) for name in "qkv")
    q_at = rw.select(k_at, slice(memory, None))
    found = rw.attend(q[:, :, memory:], k, v, encoding, w, q_at, k_at, mask)
    close(found, expected.permute(1, 2, 0, 3), FLOAT32_WAVES)


def wav2vec(kind: str, **settings: int) -> w2v.Wav2Vec2BertSelfAttention:
    config = Wav2Vec2BertConfig(**SMALL, position_embeddings_type=kind, max_source_positions=64, **settings)
    config._attn_implementation = "eager"
    return filled(w2v.Wav2Vec2BertSelfAttention(config))


@torch.no_grad()
def test_transformer_xl_as_wav2vec2_bert_has_it() -> None:
    layer, x, at = wav2vec("relative"), states(), rw.contiguous(LENGTH)
    waves = w2v.Wav2Vec2BertRelPositionalEmbedding(layer.config)(x.float()).double()
    expected, probabilities = layer(x, relative_position_embeddings=waves)
    # it lays sines and cosines out in turn, we all sines first
    project = torch.cat((layer.linear_pos.weight[:, 0::2], layer.linear_pos.weight[:, 1::2]), dim=1)
    w = {"xl_project": project, "xl_u": layer.pos_bias_u, "xl_v": layer.pos_bias_v}
    q, k, v = (by_head(f(x)) for f in (layer.linear_q, layer.linear_k, layer.linear_v))
    found = rw.logits(q, k, rw.TransformerXL(DIM, HEADS), w, at, at).softmax(-1)
    close(found, probabilities, FLOAT32_WAVES)
    out = rw.attend(q, k, v, rw.TransformerXL(DIM, HEADS), w, at, at, bidirectional)
    close(layer.linear_out(joined(out)), expected, FLOAT32_WAVES)


@torch.no_grad()
def test_shaw_as_wav2vec2_bert_has_it() -> None:
    layer = wav2vec("relative_key", left_max_position_embeddings=7, right_max_position_embeddings=2)
    x, at, encoding = states(), rw.contiguous(LENGTH), rw.Shaw(DIM, behind=7, ahead=2)
    expected, probabilities = layer(x)
    # its values are bare
    w = {"shaw_key": layer.distance_embedding.weight, "shaw_value": torch.zeros(10, DIM)}
    q, k, v = (by_head(f(x)) for f in (layer.linear_q, layer.linear_k, layer.linear_v))
    close(rw.logits(q, k, encoding, w, at, at).softmax(-1), probabilities, EXACT)
    close(layer.linear_out(joined(rw.attend(q, k, v, encoding, w, at, at, bidirectional))), expected, EXACT)


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
@pytest.mark.parametrize("buckets", [-1, 6])
@pytest.mark.parametrize("terms", ["c2p|p2c", "c2p", "p2c"])
def test_deberta_v2(shared: bool, norm: str, buckets: int, terms: str) -> None:
    positions = {"relative_attention": True, "max_relative_positions": 12, "position_buckets": buckets}
    about = {"pos_att_type": terms.split("|"), "share_att_key": shared, "norm_rel_ebd": norm}
    encoder = filled(deberta_v2.DebertaV2Encoder(DebertaV2Config(**SMALL, **positions, **about)))
    layer, x, at = encoder.layer[0].attention.self, states(), rw.contiguous(LENGTH)
    expected, probabilities = layer(
        x,
        torch.ones(2, 1, LENGTH, LENGTH),
        output_attentions=True,
        relative_pos=encoder.get_rel_pos(x),
        rel_embeddings=encoder.get_rel_embedding(),
    )
    w = {"deberta_table": encoder.rel_embeddings.weight}
    if norm == "layer_norm":
        w |= {"deberta_norm": encoder.LayerNorm.weight, "deberta_norm_bias": encoder.LayerNorm.bias}
    key, query = ("key_proj", "query_proj") if shared else ("pos_key_proj", "pos_query_proj")
    if "c2p" in terms:
        w |= {"deberta_key": getattr(layer, key).weight}
    if "p2c" in terms:
        w |= {"deberta_query": getattr(layer, query).weight, "deberta_query_bias": getattr(layer, query).bias}
    encoding = rw.Deberta(DIM, HEADS, span=12, buckets=max(buckets, 0), terms=terms, norm=norm != "none")
    assert w.keys() == rw.initial(encoding).keys()
    assert all(w[name].shape == x.shape for name, x in rw.initial(encoding).items())
    q, k, v = (by_head(f(x)) for f in (layer.query_proj, layer.key_proj, layer.value_proj))
    close(rw.logits(q, k, encoding, w, at, at).softmax(-1), probabilities, FLOAT32_SCALE)
    close(joined(rw.attend(q, k, v, encoding, w, at, at, bidirectional)), expected, FLOAT32_SCALE)


@torch.no_grad()
@pytest.mark.parametrize("span", [9, 40])
@pytest.mark.parametrize("terms", ["c2p|p2c", "c2p", "p2c"])
def test_deberta_v1(span: int, terms: str) -> None:
    positions = {"relative_attention": True, "max_relative_positions": span, "pos_att_type": terms.split("|")}
    encoder = filled(deberta.DebertaEncoder(DebertaConfig(**SMALL, **positions)))
    layer, x, at = encoder.layer[0].attention.self, states(), rw.contiguous(LENGTH)
    expected, probabilities = layer(
        x,
        torch.ones(2, 1, LENGTH, LENGTH),
        output_attentions=True,
        relative_pos=encoder.get_rel_pos(x),
        rel_embeddings=encoder.get_rel_embedding(),
    )
    w = {"deberta_table": encoder.rel_embeddings.weight}
    if "c2p" in terms:
        w |= {"deberta_key": layer.pos_proj.weight}
    if "p2c" in terms:
        w |= {"deberta_query": layer.pos_q_proj.weight, "deberta_query_bias": layer.pos_q_proj.bias}
    # its one projection holds query, key and value of a head side by side
    q, k, v = layer.in_proj(x).unflatten(-1, (HEADS, 3, DIM)).permute(3, 0, 2, 1, 4).unbind(0)
    q, v = q + layer.q_bias.view(HEADS, 1, DIM), v + layer.v_bias.view(HEADS, 1, DIM)
    encoding = rw.Deberta(DIM, HEADS, span=span, terms=terms)
    close(rw.logits(q, k, encoding, w, at, at).softmax(-1), probabilities, FLOAT32_SCALE)
    close(joined(rw.attend(q, k, v, encoding, w, at, at, bidirectional)), expected, FLOAT32_SCALE)


@pytest.mark.parametrize(("buckets", "span"), [(256, 512), (32, 128), (64, 512), (256, 4096), (48, 300)])
def test_the_buckets_of_deberta_v2(buckets: int, span: int) -> None:
    d = torch.tensor(range(-5000, 5001))
    expected = deberta_v2.make_log_bucket_position(d, buckets, span).long()
    assert torch.equal(rw.Deberta(1, 1, span=span, buckets=buckets).bucket(d), expected)
