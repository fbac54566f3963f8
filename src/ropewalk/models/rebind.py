"""Lets the attention layers of one model turn queries and keys in one pass over the memory.

Letters: B batch, T tokens, H query heads, G key heads, D head channels, P pairs.
"""

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from ropewalk.errors import require
from ropewalk.kernels.rotate import rotate_pair

NAME = "apply_rotary_pos_emb"  # what every modelling file calls it


def turned(
    pairing: str, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """What a modelling file asks of NAME: q [B, H, T, D] and k [B, G, T, D] with their first 2P channels turned.

    cos and sin are [B, T, 2P], with every angle once in either half.
    """
    require(unsqueeze_dim == 1, "unsqueeze_dim", "1: heads stand before tokens", unsqueeze_dim)
    pairs = cos.shape[-1] // 2
    tables = (cos[..., :pairs].float(), sin[..., :pairs].float())
    return rotate_pair(q, k, tables, tables, pairing)


def rebind(attention: nn.Module, pairing: str) -> Callable[[], None] | None:
    """Let the forward of this one instance find `turned` where its code says NAME; the result takes it back.

    The class, its modelling file and every other model stay as they are. None where the code is not of that form.
    """
    stock: Any = type(attention).forward
    names = getattr(getattr(stock, "__code__", None), "co_names", ())
    # DeepSeek's also puts channels in another order
    if "forward" in vars(attention) or NAME not in names or f"{NAME}_interleave" in names:
        return None
    seen = stock.__globals__ | {NAME: partial(turned, pairing)}
    own = FunctionType(stock.__code__, seen, stock.__name__, stock.__defaults__, stock.__closure__)
    own.__kwdefaults__ = stock.__kwdefaults__
    attention.forward = MethodType(own, attention)
    return partial(delattr, attention, "forward")
