"""Lets the attention layers of one model turn queries and keys in one pass over the memory.

Letters: B batch, T tokens, H query heads, G key heads, D head channels, P pairs.
"""

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from ropewalk.errors import UnsupportedError, require
from ropewalk.kernels.rotate import rotate, rotate_pair

NAME = "apply_rotary_pos_emb"  # what every modelling file calls it
DEEPSEEK = f"{NAME}_interleave"  # also puts channels in another order


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


def turned_rows(pairing: str, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """What GPT-J asks of NAME: x [B, T, H, 2P] turned by sin and cos [B, T, P]."""
    return rotate(x.transpose(1, 2), cos.float(), sin.float(), pairing).transpose(1, 2)


def rebind(attention: nn.Module, pairing: str, own: str) -> Callable[[], None] | None:
    """Let the forward of this one instance find `turned` where its code says NAME; the result takes it back.

    The class, its modelling file and every other model stay as they are. None where the code is left as it is. Raises
    UnsupportedError where it pairs channels its `own` way and could not be made to follow `pairing`.
    """
    stock: Any = type(attention).forward
    names = getattr(getattr(stock, "__code__", None), "co_names", ())
    by_rows = hasattr(attention, "_get_embed_positions")
    if "forward" in vars(attention) or NAME not in names:
        if pairing != own:
            raise UnsupportedError(
                f"{type(attention).__name__} pairs channels as {own!r} and cannot be given {pairing!r}"
            )
        return None
    if pairing == own and (DEEPSEEK in names or by_rows):
        return None
    turn = partial(turned_rows if by_rows else turned, pairing)
    return bind(attention, turn)


def bind(attention: nn.Module, turn: Callable[..., Any]) -> Callable[[], None]:
    """Let the forward of this one instance find `turn` where its code says NAME; the result takes it back."""
    stock: Any = type(attention).forward
    seen = stock.__globals__ | {NAME: turn, DEEPSEEK: turn}
    made = FunctionType(stock.__code__, seen, stock.__name__, stock.__defaults__, stock.__closure__)
    made.__kwdefaults__ = stock.__kwdefaults__
    attention.forward = MethodType(made, attention)
    return partial(delattr, attention, "forward")
