"""Gives one loaded model attention by other rules than a table of angles: distance rules, lengths that are followed.

The attention modules of one instance map queries and keys as their encoding says and meet through transformers'
attention interface; weights, configuration and classes stay as they are.
Letters: B batch, T new tokens, K keys, H query heads, G key heads, D head channels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.attention.step import Step, parted
from ropewalk.errors import UnsupportedError, require
from ropewalk.masks import causal, window
from ropewalk.models.cache import TextCache
from ropewalk.models.rebind import NAME, bind
from ropewalk.tokens import PADDING, Tokens, contiguous

INTERFACE = "ropewalk"  # under which transformers knows the attention below
STEP = "ropewalk_step"  # the argument that goes through the layers
REFUSED = {"attn_logit_softcapping": "caps its logits"}


def before_decoder(
    encodings: Sequence[Any], decoder: Any, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[Any, Any]:
    """Before the layers run: who reads what, from the arguments of the call."""
    names = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache")
    told = dict(zip(names, args, strict=False)) | given
    ids = next(told[name] for name in ("input_ids", "inputs_embeds") if told.get(name) is not None)
    kept = told.get("past_key_values")
    q_at, k_at = whose(ids, told.get("attention_mask"), told.get("position_ids"), kept)
    trunk = kept.trunk if isinstance(kept, TextCache) else None
    step = Step(q_at, k_at, encodings, None if trunk is None else trunk.store)
    return (), told | {"position_ids": q_at.position[..., 0], STEP: step}


def before_layer(index: int, layer: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any]:
    """Before a layer runs: in the place of tables, what its queries and keys are mapped with."""
    return args, given | {"position_embeddings": (given[STEP], index)}


def serve(decoder: Any, encodings: Sequence[Any], layers: Sequence[Any]) -> list[Any]:
    """Let `decoder` attend by one encoding per layer; the result is what takes it back.

    `layers` are its attention modules. Raises UnsupportedError for code that does not go through the attention
    interface, or whose logits are more than a scaled product.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = decoder.config
    for name, what in REFUSED.items():
        if getattr(config, name, None):
            raise UnsupportedError(f"{config.model_type} {what}, which attention by {encodings[0]!r} does not")
    for encoding in dict.fromkeys(encodings):
        parted(encoding)
    check_interface(layers)
    ALL_ATTENTION_FUNCTIONS.register(INTERFACE, _attend)
    undo = [bind(attention, mapped) for attention in layers]
    hooks = [(decoder, partial(before_decoder, tuple(encodings)))]
    hooks += [(layer, partial(before_layer, i)) for i, layer in enumerate(decoder.layers)]
    undo += [module.register_forward_pre_hook(hook, with_kwargs=True).remove for module, hook in hooks]
    before = config._attn_implementation
    config._attn_implementation_internal = INTERFACE
    return [*undo, partial(setattr, config, "_attn_implementation_internal", before)]


def check_interface(layers: Sequence[nn.Module]) -> None:
    """Raise UnsupportedError unless the code of every attention module maps and attends where it can be reached."""
    for attention in layers:
        code = getattr(type(attention).forward, "__code__", None)
        names = getattr(code, "co_names", ())
        if NAME not in names or "ALL_ATTENTION_FUNCTIONS" not in names or "forward" in vars(attention):
            raise UnsupportedError(f"{type(attention).__name__} does not go through transformers' attention interface")


class Untold(nn.Module):
    """Stands in for a model's rotary module where every layer maps by itself."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        # a submodule, so that it moves between devices with the model
        self.stock = stock

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[None, None]:
        """No tables."""
        return None, None


def mapped(q: Tensor, k: Tensor, step: Step, layer: int, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """In the place of `apply_rotary_pos_emb`: queries and keys [B, H, T, D] as that layer turns and caches them."""
    return step.mapped(layer, q, k)


def _attend(module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Tensor | None, **given: Any) -> tuple[Tensor, None]:
    """Attention in the signature that transformers calls; [B, H, T, D] in, [B, T, H, D] out."""
    step: Step = given[STEP]
    scale = given.get("scaling") or v.shape[-1] ** -0.5
    reach = given.get("sliding_window")
    mask = step.once(("mask", reach), lambda: window(reach) if reach else causal)
    out = step.attend(module.layer_idx, q, k, v, mask, scale)
    return out.transpose(1, 2).contiguous(), None


def whose(ids: Tensor, mask: Tensor | None, where: Tensor | None, kept: Any) -> tuple[Tokens, Tokens]:
    """The new tokens, and all that they may look at.

    ids [B, T] or [B, T, C]; mask Int[B, K] is 0 for padding; `where` Int[B or 1, T] are positions. What stands in a
    cache of transformers is taken to be consecutive, up to its padding. Positions that restart begin a document.
    """
    batch, new = ids.shape[:2]
    if isinstance(kept, TextCache):
        return kept.announce(ids, mask, where)
    past = int(kept.get_seq_length()) if kept is not None else 0
    own = contiguous(past + new, batch=batch)
    order = own.order.to(ids.device)
    real = torch.ones_like(order, dtype=torch.bool) if mask is None else real_of(mask, past + new)
    place = real.long().cumsum(1) - 1
    if where is not None:
        where = where.to(ids.device).expand(batch, new)
        place = torch.cat((place[:, :past] + (where[:, -1:] - place[:, -1:]), where), dim=1)
    document = torch.where(real, 0, PADDING)
    if mask is None and past == 0:
        restarts = place[:, 1:] - place[:, :-1] != 1
        document[:, 1:] = restarts.long().cumsum(1)
    k_at = Tokens(torch.where(real, place, 0).clamp(min=0)[..., None], order, document)
    return Tokens(*(x[:, past:] for x in k_at)), k_at


def real_of(mask: Tensor, tokens: int) -> Tensor:
    """Bool[B, K]: which tokens are no padding. Raises ConfigError for a mask of another kind."""
    require(mask.dim() == 2, "attention_mask", "[batch, tokens], 0 for padding", tuple(mask.shape))
    require(
        mask.shape[1] == tokens, "attention_mask", f"{tokens} tokens long, those of the cache included", mask.shape[1]
    )
    return mask.bool()
