"""How the vectors are read: which keys were asked for, and the tensors that stand there as text."""

import ast
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ropewalk as rw

FLOAT64, FLOAT32 = 1e-10, 1e-6


class Read(dict[str, Any]):
    """A dict that knows which of its keys were asked for; text such as "0.3*(det((4,4),0)-T)" becomes its tensor."""

    def __init__(self, items: dict[str, Any]) -> None:
        super().__init__(items)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        value = super().__getitem__(key)
        return tensor(value) if isinstance(value, str) and "det(" in value else value


def tensor(text: str) -> Tensor:
    """What the text writes: det(shape, shift), sums, products, abs(...), and `x-T` for x minus its transpose.

    A remark after the expression is passed over.
    """
    end = max(n for n in range(len(text) + 1) if parses(text[:n]))
    return value_of(ast.parse(text[:end].strip(), mode="eval").body)


def parses(text: str) -> bool:
    """Whether the text is an expression that `value_of` knows."""
    try:
        value_of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError):
        return False
    return True


def value_of(node: ast.expr) -> Any:
    """The value of one node of the syntax tree; TypeError for one that is not part of the notation."""
    match node:
        case ast.Constant(int() | float() as number):
            return number
        case ast.Call(ast.Name("det"), [shape, shift]):
            return det(ast.literal_eval(shape), ast.literal_eval(shift))
        case ast.Call(ast.Name("abs"), [inner]):
            return value_of(inner).abs()
        case ast.BinOp(left, ast.Sub(), ast.Name("T")):
            return value_of(left) - value_of(left).mT
        case ast.BinOp(left, ast.Mult(), right):
            return value_of(left) * value_of(right)
        case ast.BinOp(left, ast.Add(), right):
            return value_of(left) + value_of(right)
        case _:
            raise TypeError(ast.dump(node))


def det(shape: tuple[int, ...], shift: float) -> Tensor:
    """The pseudo-random tensor of the file: element n of the flat tensor is sin(0.37 (n + 1) + shift)."""
    flat = [math.sin(0.37 * (n + 1) + shift) for n in range(math.prod(shape))]
    return torch.tensor(flat, dtype=torch.float64).reshape(shape)


def tokens(*positions: float) -> rw.Tokens:
    """One row with tokens at these positions, which may be fractions."""
    where = torch.tensor([positions])
    order = torch.zeros_like(where, dtype=torch.int64)
    return rw.Tokens(where[..., None], order, order)


Handler = Callable[[Read, Read], Any]
# name or prefix -> (what computes it, tolerance); the longest match counts
Handlers = dict[str, tuple[Handler, float]]
