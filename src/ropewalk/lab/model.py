"""A small decoder for language, whose positions are whatever encodings it is given.

Letters: B batch, T tokens, H heads, D head channels, C model channels, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropewalk.attention import reference
from ropewalk.attention.attend import attend
from ropewalk.attention.call import together
from ropewalk.attention.fit import check_fit
from ropewalk.attention.module import Positions
from ropewalk.attention.sdpa import of_distance
from ropewalk.errors import ConfigError, require
from ropewalk.lab.presets import HEADS, HIDDEN, LAYERS, WIDTH
from ropewalk.sites import Biases, Embeds, OfDistance, Weights, parts
from ropewalk.spectrum import for_length
from ropewalk.tokens import Tokens, contiguous
from ropewalk.written import short

Settled = tuple[Any, Weights]  # an encoding for texts of one length, and what it has learned
Attention = Callable[[Tensor, Tensor, Tensor, Any, Weights, Tokens], Tensor]  # of q, k and v of the same tokens


class Shape(NamedTuple):
    """The sizes of a decoder."""

    vocabulary: int = 256
    width: int = WIDTH
    layers: int = LAYERS
    heads: int = HEADS
    hidden: int = HIDDEN


class Product(nn.Linear):
    """A linear map without a shift, multiplied in `dtype` and with sums in float32; its outcome is of that dtype."""

    def __init__(self, inputs: int, outputs: int, draw: torch.Generator, gain: float = 1.0) -> None:
        # what torch would draw itself is thrown away
        super().__init__(inputs, outputs, bias=False, device="meta")
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=draw) * (gain * inputs**-0.5))
        self.dtype = torch.float32

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.to(self.dtype), self.weight.to(self.dtype))


@dataclass(frozen=True)
class Costs(OfDistance):
    """The biases of an encoding for the distances of a text, made once for all layers: `costs` [H, N] from 0 on."""

    heads: int

    def of_distance(self, w: Weights, d: Tensor) -> Tensor:
        """[H, N]; keys ahead, which are hidden, cost what the query itself does."""
        return w["costs"].index_select(1, d.clamp(min=0))


def with_costs(encoding: Any, w: Weights, length: int) -> tuple[Any, Weights]:
    """The same encoding, whose biases are looked up where each is one number per head and distance."""
    biases = parts(encoding, Biases)
    if not biases or not all(map(of_distance, biases)):
        return encoding, w
    d = contiguous(length).order[0]
    costs = together(e.of_distance(w, d) for e in biases)
    rest = tuple(e for e in (encoding if isinstance(encoding, tuple) else (encoding,)) if not isinstance(e, Biases))
    return (*rest, Costs(len(costs))), {**w, "costs": costs}


def within(q: Tensor, k: Tensor, v: Tensor, encoding: Any, w: Weights, at: Tokens) -> Tensor:
    """Attention among tokens that are all here."""
    return attend(q, k, v, encoding, w, at, at)


class Layer(nn.Module):
    """Attention, then a network of one hidden layer, each on normed inputs and added to what came in."""

    def __init__(self, shape: Shape, draw: torch.Generator) -> None:
        super().__init__()
        # each of the sums that run through all layers has two terms per layer
        calm, wide = (2 * shape.layers) ** -0.5, shape.width
        self.heads = shape.heads
        self.attention: Attention = within
        self.before_attention, self.before_network = (nn.LayerNorm(wide, bias=False) for _ in range(2))
        self.qkv, self.out = Product(wide, 3 * wide, draw), Product(wide, wide, draw, calm)
        self.up, self.down = Product(wide, shape.hidden, draw), Product(shape.hidden, wide, draw, calm)

    def forward(self, x: Tensor, encoding: Any, w: Weights, at: Tokens) -> Tensor:
        """[B, T, C] like x."""
        qkv = reference.embed(self.qkv(self.before_attention(x)), encoding, w, at, "qkv")
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = self.attention(q, k, v, encoding, w, at)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.before_network(x))))


class Decoder(nn.Module):
    """A pre-norm decoder with tied embeddings: one encoding for all layers, or a list with one per layer.

    One for all has one set of learned tensors, as T5 does; in a list each layer has its own. What is added to the
    embeddings acts before the first layer. From the same seed everything but what encodings learn is the same
    whatever the encoding. Raises ConfigError for an encoding that does not fit.
    """

    def __init__(self, shape: Shape, encoding: Any, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.shape, self.encoding, self.shares = shape, encoding, 1
        each: list[Any] = encoding if isinstance(encoding, list) else [encoding]
        require(len(each) in (1, shape.layers), "encodings", f"one, or one per layer, {shape.layers}", len(each))
        for e in each:
            check_fit(torch.empty(1, shape.heads, 1, shape.width // shape.heads, device="meta"), e)
        for late in each[1:]:
            require(not parts(late, Embeds), "an encoding after the first layer's", "of another kind", short(late))
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.width, generator=draw) * shape.width**-0.5)
        self.layers = nn.ModuleList(Layer(shape, draw) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        self.positions = nn.ModuleList(Positions(e, seed + i) for i, e in enumerate(each))

    def settled(self, length: int) -> list[Settled]:
        """Each encoding for texts of that length, with what it has learned."""
        owners = cast(Iterable[Positions], self.positions)
        return [(for_length(p.encoding, length), p.learned()) for p in owners]

    def multiply_in(self, dtype: torch.dtype) -> "Decoder":
        """Itself, whose linear maps are multiplied in `dtype` from now on; attention and losses stay float32."""
        for module in self.modules():
            if isinstance(module, Product):
                module.dtype = dtype
        return self

    def divide(self, shares: int, attention: Attention) -> "Decoder":
        """Itself, given one of so many equal shares of every text from now on, which `attention` brings together."""
        self.shares = shares
        for layer in cast(Iterable[Layer], self.layers):
            layer.attention = attention
        return self

    def forward(self, ids: Tensor, last: int = 0, at: Tokens | None = None) -> Tensor:
        """Float32[B, T, V] of ids Int[B, T], which are whole texts: the logits of the token after each.

        Of the last `last` places alone, where it is given. Tokens stand in a row from 0 unless `at` says where. What
        depends on the served length is settled for T. Raises ConfigError where an encoding has no place for T tokens.
        """
        length = ids.shape[1] * self.shares
        settled = self.settled(length)
        if at is None and len(settled) == 1:
            settled = [with_costs(*settled[0], length)]
        x = self.through(self.embedded(ids), settled, at or contiguous(length))
        return x[:, -last:] @ self.embedding.T

    def embedded(self, ids: Tensor) -> Tensor:
        """Float32[B, T, C] of ids Int[B, T]: what goes in, before anything is said of places."""
        return F.embedding(ids, self.embedding) * self.shape.width**0.5

    def through(self, x: Tensor, settled: Sequence[Settled], at: Tokens) -> Tensor:
        """Float32[B, T, C] of embedded tokens x [B, T, C] that stand at `at`, normed as the output head takes it."""
        x = reference.embed(x, *settled[0], at)
        for i, layer in enumerate(self.layers):
            x = layer(x, *settled[min(i, len(settled) - 1)], at)
        return reference.embed(self.norm(x), *settled[-1], at, "pre_head")


def losses(model: Decoder, ids: Tensor, targets: Tensor) -> Tensor:
    """Float32[B, N] in nats: of the targets Int[B, N] of the last N places of ids Int[B, T]."""
    logits = model(ids, targets.shape[1])
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def check(shape: Shape, encoding: Any, length: int) -> None:
    """Raise ConfigError, in one line, unless the model can read `length` tokens under the encoding."""
    try:
        with torch.no_grad():
            Decoder(shape, encoding)(torch.zeros(1, length, dtype=torch.int64))
    except (RuntimeError, ValueError) as error:
        fits = f"a model of width {shape.width} with {shape.heads} heads and texts of {length} tokens"
        raise ConfigError(f"{short(encoding)} does not fit {fits}: {str(error).splitlines()[0]}") from None
