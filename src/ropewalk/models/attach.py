"""Gives one loaded model other positions, and takes them back; weights, configuration and classes stay as they are.

Letters: B batch, T tokens, P pairs, N rows of a table.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.attention.step import parted, rotation_of
from ropewalk.encodings import Adaptive, LogN, Rotary, Temperature
from ropewalk.encodings.mix.branches import Branches
from ropewalk.errors import UnsupportedError, require
from ropewalk.formats import hf
from ropewalk.models.rebind import rebind
from ropewalk.models.serve import Untold, serve
from ropewalk.rotation import Rotation
from ropewalk.scalings import Yarn
from ropewalk.spectrum import for_length
from ropewalk.tokens import Tokens, contiguous

Encoding = Rotary | Branches | Adaptive | tuple[Any, ...]  # () is a layer without positions
Undo = Callable[[], None]

# these make one pair of tables per forward, every angle once in either half of the channels, and hand it to the layers
SHARED = (
    "deepseek_v3 gemma gemma2 gemma3_text glm gpt_neox granite llama mistral mixtral olmo olmo2 olmo3 phi phi3 qwen2 "
    "qwen2_moe qwen3 qwen3_moe smollm3 stablelm starcoder2"
).split()
SERVED = sorted([*SHARED, "gptj"])  # gptj looks rows up in every layer
SCALES_SOFTMAX = ("deepseek_v3",)  # mscale_all_dim also multiplies the scale of the logits


def attach(model: nn.Module, encodings: Encoding | Sequence[Encoding], interface: bool = False) -> None:
    """Let `model` attend by `encodings`: one for all layers, or a list with one per layer.

    Each is a Rotary, () for a layer without positions, a distance rule (ReRope, LeakyReRope, SelfExtend, DualChunk,
    LMInfinite, StreamingLLM), Adaptive, or a tuple of one of these with LogN and Temperature; a Rotary whose scaling
    depends on the served length is an Adaptive one. Replaces what an earlier attach put there. The pairing may be
    another than that of the model's code, for weights in that order. Rules other than a Rotary attend through
    transformers' attention interface, with any of its caches that keep keys as they are given, and need no mask but
    [batch, tokens]; with `interface` a Rotary does so too, as a TextCache asks for. Raises UnsupportedError for an
    architecture that is not served, ConfigError for an encoding that does not fit its heads.
    """
    decoder = decoder_of(model)
    kind = decoder.config.model_type
    check_served(kind)
    own = hf.read(decoder.config.to_dict())
    each = [adaptive(e) for e in per_layer(encodings, len(own))]
    for pair in dict.fromkeys(zip(each, own, strict=True)):
        check_fit(*pair)
    detach(model)
    tables = all(map(is_table, each)) and not interface
    undo = by_table(decoder, each, own) if tables else by_rule(decoder, each)
    vars(decoder)["ropewalk_undo"] = undo


def by_table(decoder: Any, each: Sequence[Encoding], own: Sequence[Encoding]) -> list[Undo]:
    """Serve rotations that are tables of angles, in the model's own attention."""
    kind = decoder.config.model_type
    width, stock = next((e.dim, e.pairing) for e in own if isinstance(e, Rotary))
    layers = decoder.h if kind == "gptj" else decoder.layers
    pairings = [e.pairing if isinstance(e, Rotary) else stock for e in each]
    # first, for it may refuse
    turned = [rebind(attention_of(layer), p, stock) for layer, p in zip(layers, pairings, strict=True)]
    undo = [back for back in turned if back]
    undo += look_up(layers, each, width) if kind == "gptj" else share(decoder, each, width)
    if kind in SCALES_SOFTMAX:
        heads = [layer.self_attn for layer in decoder.layers]
        undo += [swap(h, "scaling", softmax_scale(h, e)) for h, e in zip(heads, each, strict=True)]
    return undo


def by_rule(decoder: Any, each: Sequence[Encoding]) -> list[Undo]:
    """Serve any other rules, in attention of our own."""
    if decoder.config.model_type in ("gptj", *SCALES_SOFTMAX):
        kind = decoder.config.model_type
        raise UnsupportedError(f"cannot attach {each[0]!r} to architecture {kind!r}, which takes a Rotary alone")
    undo = serve(decoder, each, [attention_of(layer) for layer in decoder.layers])
    return [*undo, swap(decoder, "rotary_emb", Untold(decoder.rotary_emb))]


def is_table(encoding: Encoding) -> bool:
    """Whether an encoding is a Rotary, or no position at all."""
    return isinstance(encoding, Rotary) or encoding == ()


def adaptive(encoding: Encoding) -> Encoding:
    """The encoding, query by query where its scaling depends on the length."""
    members = encoding if isinstance(encoding, tuple) else (encoding,)
    each = tuple(Adaptive(e) if isinstance(e, Rotary | Branches) and for_length(e, 1) != e else e for e in members)
    return each if isinstance(encoding, tuple) else each[0]


def detach(model: nn.Module) -> None:
    """Give `model` its own positions back, bit for bit; nothing happens where nothing is attached."""
    for undo in vars(decoder_of(model)).pop("ropewalk_undo", ()):
        undo()


def check_served(model_type: str) -> None:
    """Raise UnsupportedError, naming the architecture and those that are served, unless `attach` knows it."""
    if model_type not in SERVED:
        raise UnsupportedError(f"cannot attach to architecture {model_type!r}; served are {', '.join(SERVED)}")


def decoder_of(model: Any) -> Any:
    """The stack of layers inside a language model, or the model itself if it is one."""
    return model.get_decoder() if hasattr(model, "get_decoder") else model


def per_layer(encodings: Encoding | Sequence[Encoding], layers: int) -> list[Encoding]:
    """One encoding for each of `layers`; a tuple of different parts of one encoding stands for each of them."""
    if not isinstance(encodings, list | tuple) or is_one(encodings):
        return [encodings] * layers  # pyright: ignore[reportReturnType]  # what is_one lets through is an encoding
    each = list(encodings) or [()] * layers
    require(len(each) == layers, "encodings", f"one, or one for each of the {layers} layers", each)
    return each


def is_one(encodings: Sequence[Any]) -> bool:
    """Whether a tuple is one encoding of several parts: a rotation, and what goes with it."""
    extras = [e for e in encodings if isinstance(e, LogN | Temperature)]
    return isinstance(encodings, tuple) and len(extras) > 0


def check_fit(encoding: Encoding, own: Encoding) -> None:
    """Raise ConfigError unless the code of a layer that was built for `own` can apply `encoding`."""
    rotary = rotation_of(parted(encoding).rule)
    if rotary is None:
        return
    if not isinstance(own, Rotary):
        require(False, "encodings", "() in a layer that this architecture leaves without positions", encoding)
        return
    require(rotary.dim == own.dim, "Rotary.dim", f"{own.dim}, the channels that this model rotates", rotary.dim)


def swap(owner: nn.Module, name: str, value: object) -> Undo:
    """Set an attribute of one instance; the result puts the former one back."""
    of_class = hasattr(type(owner), name)
    back = partial(delattr, owner, name) if of_class else partial(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
    return back


def attention_of(layer: Any) -> nn.Module:
    """The attention of one layer; GPT-NeoX and GPT-J have names of their own for it."""
    return next(getattr(layer, name) for name in ("self_attn", "attention", "attn") if hasattr(layer, name))


def share(decoder: Any, each: Sequence[Encoding], width: int) -> list[Undo]:
    """Serve a model that makes its tables once per forward, or once per type of layer, and hands them to the layers."""
    by_type = any(isinstance(value, dict) for value in decoder.config.rope_parameters.values())
    types = decoder.config.layer_types if by_type else [None] * len(each)
    wanted: dict[str | None, dict[Encoding, None]] = {}
    for kind, encoding in zip(types, each, strict=True):
        wanted.setdefault(kind, {})[encoding] = None
    undo = [swap(decoder, "rotary_emb", TableMaker(decoder.rotary_emb, wanted, width))]
    for layer, kind, encoding in zip(decoder.layers, types, each, strict=True):
        if encoding != next(iter(wanted[kind])):
            undo.append(layer.register_forward_pre_hook(partial(choose, encoding), with_kwargs=True).remove)
    return undo


class Tables(tuple[Tensor, Tensor]):
    """Cosine and sine of the first encoding, as most layers unpack them, and those `of` every encoding."""

    of: dict[Encoding, tuple[Tensor, Tensor]]


class TableMaker(nn.Module):
    """Stands in for a model's rotary module: keeps no table, makes one per distinct encoding in every forward."""

    def __init__(self, stock: nn.Module, wanted: dict[str | None, dict[Encoding, None]], width: int) -> None:
        super().__init__()
        # a submodule, so that it moves between devices with the model
        self.stock = stock
        self.wanted = wanted
        self.width = width

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Tables:
        """Cosines and sines [B, T, 2P], both halves alike, in the dtype of x."""
        of = {e: table(e, position_ids, self.width, x.dtype) for e in self.wanted[layer_type]}
        tables = Tables(next(iter(of.values())))
        tables.of = of
        return tables


def choose(encoding: Encoding, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Before a layer runs: hand it the tables of its own encoding."""
    return args, kwargs | {"position_embeddings": kwargs["position_embeddings"].of[encoding]}


def table(encoding: Encoding, position_ids: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, T, width], cast once."""
    turn = rotation(encoding, position_ids, width)
    cos, sin = turn.cos.to(dtype), turn.sin.to(dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)


def rotation(encoding: Encoding, position_ids: Tensor, width: int) -> Rotation:
    """Cosines and sines [B, T, P] in float32; for () those that turn nothing."""
    if not isinstance(encoding, Rotary):
        still = torch.zeros(*position_ids.shape, width // 2, device=position_ids.device)
        return Rotation(still + 1, still)
    where = position_ids.long()
    return encoding.rotation({}, Tokens(where[..., None], where, torch.zeros_like(where)))


def look_up(layers: Sequence[Any], each: Sequence[Encoding], width: int) -> list[Undo]:
    """Serve a model whose attention modules look their rows up in a table (GPT-J)."""
    pairs = zip(layers, each, strict=True)
    return [swap(layer.attn, "_get_embed_positions", partial(rows, encoding, width)) for layer, encoding in pairs]


def rows(encoding: Encoding, width: int, position_ids: Tensor) -> Tensor:
    """Sines then cosines [B, N, 2P] of positions 0 .. N - 1, N the power of two beyond the last one asked for."""
    length = 1 << int(position_ids.max()).bit_length()
    return long_table(encoding, width, length, position_ids.device).expand(len(position_ids), -1, -1)


@functools.lru_cache(maxsize=4)
# a table made in inference mode could not serve a later training step
@torch.inference_mode(False)
def long_table(encoding: Encoding, width: int, length: int, device: torch.device) -> Tensor:
    turn = rotation(encoding, contiguous(length).order.to(device), width)
    return torch.cat((turn.sin, turn.cos), dim=-1)[0]


def softmax_scale(head: Any, encoding: Encoding) -> float:
    """The scale of the logits: one over the root of the head's width, times what YaRN asks for."""
    rules = encoding.scaling if isinstance(encoding, Rotary) else ()
    return head.qk_head_dim**-0.5 * math.prod(rule.softmax_factor() for rule in rules if isinstance(rule, Yarn))
