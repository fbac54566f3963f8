"""Keys and values of every layer with their Tokens: a cache whose tokens may be moved, dropped, joined and retuned.

Letters: B batch, T tokens, A axes, G key heads, D head channels, V value channels, N views.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ropewalk.attention.columns import FAR, Columns, Growing, Layer, by_row, form, highest, lowest, one_text, span, text
from ropewalk.attention.turnings import check_channels, check_retune, turned_on, turning
from ropewalk.errors import require
from ropewalk.tokens import PADDING, Tokens, contiguous, whole


class Cache:
    """Keys and values of every layer, and the Tokens that they are of, which may move afterwards.

    Keys are kept as they were written, and all that moves are integers: `read` turns each key once, from where it was
    written to where it stands now, so that the error is one rounding however often it has moved. What has not moved is
    read bit for bit. Padding stays where it is, and no operation makes a position negative.

    A layer's encoding is () for raw keys, a settled Rotary, or a distance rule (ReRope, SelfExtend, DualChunk, ...),
    whose keys are stored once for each place where its branches let them stand, side by side in the channels, as
    `mapped` makes them. Parts that leave keys alone may stand beside it. Anything else raises UnsupportedError.

    Not equal to computing anew: from the second layer on, keys and values hold what their token saw when it was read,
    and no operation takes that back. Two halves of 512 tokens of a novel, joined, against the same read as one
    (SmolLM2-135M, float32): keys of the first layer differ by rounding, 2e-6 of 10, those of the last by 12% (root mean
    square), logits of the next 128 tokens by up to 6.8 of 38; their loss is 3.03 for 2.97, and 3.94 without the halves.
    """

    def __init__(self, encodings: Sequence[Any]) -> None:
        require(len(encodings) > 0, "Cache.encodings", "one for each layer", encodings)
        for e in encodings:
            turning(e)
        self.history = [list(encodings)]
        self.epoch = 0
        self.columns: Columns | None = None
        self.layers: list[Layer | None] = [None] * len(encodings)
        # keys as they stand now: those of the layer where nothing has moved, None where that is not known yet
        self.turned: list[Growing | None] = [None] * len(encodings)

    @property
    def encodings(self) -> list[Any]:
        """How keys are mapped, layer by layer."""
        return self.history[self.epoch]

    @property
    def length(self) -> int:
        """The number of columns, padding included."""
        return self.columns.order.length if self.columns else 0

    @property
    def at(self) -> Tokens:
        """The tokens of all columns where they stand now; like all that is read, views until the next change."""
        c = self.columns
        return Tokens(c.position.held, c.order.held, c.document.held) if c else contiguous(0)

    @property
    def was(self) -> Tokens:
        """The same tokens where they stood when their keys were written."""
        return self.at._replace(position=self.columns.was.held) if self.columns else self.at

    def append(self, at: Tokens) -> None:
        """Announce the tokens of the next keys and values, once for all layers."""
        self.check_whole("append")
        new = (*at, at.position, torch.full_like(at.order, self.epoch))
        if self.columns is None:
            self.columns = Columns(*map(Growing, new))
            return
        shape, known = at.position.shape, self.columns.position.room
        require(shape[0] == known.shape[0], "the tokens to append", f"in {known.shape[0]} rows", shape[0])
        require(shape[2] == known.shape[2], "the tokens to append", f"along {known.shape[2]} axes", shape[2])
        require(at.position.dtype == known.dtype, "the positions to append", f"{known.dtype}", at.position.dtype)
        for column, x in zip(self.columns, new, strict=True):
            column.append(x)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Add keys [B, G, T, N D], already mapped, and values [B, G, T, V] of the tokens announced last."""
        here = self.layer(layer)
        pending = self.length - (here.keys.length if here else 0)
        for name, x in (("keys", k), ("values", v)):
            require(x.dim() == 4, f"the {name} of layer {layer}", "[B, G, T, channels]", tuple(x.shape))
            rule = f"of the {pending} tokens announced by append and not yet written"
            require(x.shape[2] == pending, f"the {name} of layer {layer}", rule, x.shape[2])
        if here is None:
            require(k.shape[:2] == v.shape[:2], "keys and values", "of as many rows and heads", (*k.shape, *v.shape))
            rows = self.at.order.shape[0]
            require(k.shape[0] == rows, f"the keys of layer {layer}", f"in {rows} rows, as announced", k.shape[0])
            check_channels(self.encodings[layer], layer, k.shape[3])
            self.layers[layer] = Layer(Growing(k), Growing(v))
            return
        for name, x, growing in (("keys", k, here.keys), ("values", v, here.values)):
            require(form(x) == form(growing.room), f"the {name} of layer {layer}", f"{form(growing.room)}", form(x))
        here.keys.append(k)
        here.values.append(v)
        turned = self.turned[layer]
        if turned is not None and turned is not here.keys:
            turned.append(k)  # what is new stands where it was written

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys [B, G, T, N D] as they are mapped where all tokens stand now, and values [B, G, T, V]."""
        here, turned = self.layer(layer), self.turned[layer]
        count = here.keys.length if here else 0
        complete, rule = here is not None and count == self.length, f"all {self.length} that were announced"
        require(complete, f"the tokens written to layer {layer} before it is read", rule, count)
        assert here
        assert self.columns
        if turned is None:
            epoch, now = self.columns.epoch.held, self.encodings[layer]
            written = [(self.history[n][layer], epoch == n) for n in epoch.unique().tolist()]
            still = all(turning(e) == turning(now) for e, _ in written)
            still = still and (turning(now) is None or torch.equal(self.at.position, self.was.position))
            keys = here.keys.held
            turned = here.keys if still else Growing(turned_on(keys, self.was, self.at, written, now))
            self.turned[layer] = turned
        return turned.held, here.values.held

    def shift(self, delta: int | Tensor) -> None:
        """Move all tokens by `delta`: an int, Int[B] for each row, or Int[B, A] for each axis too."""
        self.check_whole("shift")
        where = self.at.position
        step = whole(torch.as_tensor(delta, device=where.device), "shift")
        known = step.shape in ((), where.shape[:1], where.shape[::2])
        require(known, "shift.delta", f"one number, [B] or [B, A], {tuple(where.shape[::2])}", tuple(step.shape))
        self.place(where + step.reshape(*step.shape, *[1] * (2 - step.dim()))[:, None])

    def keep(self, sinks: int, recent: int, close: bool = True) -> None:
        """Drop all tokens but the first `sinks` and the last `recent` of each row, by position.

        With `close` the last ones follow the first as if nothing had stood between: positions of a text from 0 on
        become the slots of the cache. A StreamingLLM rule counts so by itself, and needs the true positions.
        """
        for name, count in (("sinks", sinks), ("recent", recent)):
            require(type(count) is int and count >= 0, f"keep.{name}", "a whole number of at least 0", count)
        self.check_whole("keep")
        if not self.length:
            return
        at, where = self.at, self.at.position
        own = text(at, "keep")
        count = own.sum(dim=1, keepdim=True)
        # padding ranks first
        rank = where[..., 0].masked_fill(~own, -FAR).argsort(dim=1, stable=True).argsort(dim=1)
        first, last = rank < self.length - count + sinks, rank >= self.length - recent
        gone = own & ~first & ~last
        if close:
            end = highest(at, own & first) + 1 if sinks else lowest(at, own)
            gap = (lowest(at, own & last) - end) * gone.any(dim=1)[:, None, None]
            self.place(torch.where((last & ~first)[..., None], where - gap, where))
        self.forget(gone)

    def drop(self, start: int | Tensor, end: int | Tensor, close: bool = False) -> None:
        """Drop the tokens at positions from `start` up to `end`, ints or Int[B]; later ones stay where they stand.

        With `close` they move up by end - start. Of several axes all coordinates lie in the span, or none.
        Raises ConfigError where a row holds no token at one of these positions.
        """
        self.check_whole("drop")
        gone, low, high = span(self.at, "drop", start, end)
        if close:
            where = self.at.position
            later = (where >= high).all(dim=-1, keepdim=True)
            self.place(torch.where(later, where - (high - low), where))
        self.forget(gone)

    def move(self, start: int | Tensor, end: int | Tensor, to: int | Tensor) -> None:
        """Move the tokens at positions from `start` up to `end` to `to` and on; others may stand there already.

        Otherwise as `drop`. Their order, by which a causal mask tells what is earlier, stays.
        """
        self.check_whole("move")
        mine, low, _ = span(self.at, "move", start, end)
        where = self.at.position
        self.place(torch.where(mine[..., None], where + by_row("move.to", to, self.at) - low, where))

    @classmethod
    def join(cls, caches: Sequence["Cache"]) -> Self:
        """A new cache of documents that were encoded apart, one after the other in one document.

        In each row a document begins at the position after the last one of the document before, and order runs on.
        Raises ConfigError unless all are of one model, with the same encodings and as many rows.
        """
        require(len(caches) > 0, "join.caches", "at least one", caches)
        out, first = cls(caches[0].encodings), caches[0].forms()
        for cache in caches:
            cache.check_whole("join")
            require(cache.length > 0, "the tokens of a cache to join", "at least one", 0)
            for (name, known), (_, new) in zip(first, cache.forms(), strict=False):
                require(known == new, f"the {name} of a cache to join", f"{known}, as in the first", new)
        parts: list[tuple[Tensor, ...]] = []
        for cache, at in zip(caches, one_text([cache.at for cache in caches]), strict=True):
            assert cache.columns
            epochs = torch.tensor([out.epoch_of(e) for e in cache.history], device=at.order.device)
            parts.append((*at, cache.was.position, epochs[cache.columns.epoch.held]))
        out.columns = Columns(*(Growing(torch.cat(x, dim=1)) for x in zip(*parts, strict=True)))
        for n in range(len(out.layers)):
            held = zip(*(layer for layer in (cache.layers[n] for cache in caches) if layer), strict=True)
            out.layers[n] = Layer(*(Growing(torch.cat([x.held for x in same], dim=2)) for same in held))
        out.compact()
        return out

    def retune(self, encodings: Sequence[Any]) -> None:
        """Let keys be mapped by other encodings, one per layer: other rates, magnitudes or places of branches.

        () turns mapped keys back to raw ones, and any rotation maps raw keys. Raises ConfigError where a layer would
        turn other channels or store another number of views.
        """
        self.check_whole("retune")
        count = len(self.layers)
        require(len(encodings) == count, "retune.encodings", f"one for each of {count} layers", len(encodings))
        for old in self.history:
            for n, pair in enumerate(zip(old, encodings, strict=True)):
                check_retune(n, *pair)
        former, self.epoch = self.encodings, self.epoch_of(list(encodings))
        for n, pair in enumerate(zip(former, encodings, strict=True)):
            self.turned[n] = self.turned[n] if pair[0] == pair[1] else None

    def crop(self, length: int) -> None:
        """Forget all columns but the first `length`, written or only announced."""
        require(type(length) is int and 0 <= length <= self.length, "crop.length", f"from 0 to {self.length}", length)
        for growing in self.growing():
            growing.length = min(growing.length, length)

    def rows(self, index: Sequence[int] | Tensor) -> None:
        """Let the rows of the batch be those at `index` (Int[N]): some of them, in another order, or repeated."""
        self.check_whole("rows")
        wanted, count = torch.as_tensor(index, device=self.at.order.device), self.at.order.shape[0]
        known = wanted.dim() == 1 and wanted.numel() > 0 and wanted.dtype in (torch.int32, torch.int64)
        known = known and bool(((wanted >= 0) & (wanted < count)).all())
        require(known, "rows.index", f"one or more rows from 0 to {count - 1}", wanted.tolist())
        for growing in self.growing():
            growing.pick(wanted)

    def place(self, where: Tensor) -> None:
        """Let the tokens that are no padding stand at `where` [B, T, A]."""
        if self.columns is None:
            return
        held = self.columns.position.held
        new = torch.where((self.columns.document.held != PADDING)[..., None], where, held)
        below = new[(new < 0) & (new < held)]
        require(not below.numel(), "a position", "at least 0 after every operation", below[:1].tolist())
        if not torch.equal(new, held):
            held.copy_(new)
            self.turned = [None] * len(self.turned)

    def forget(self, gone: Tensor) -> None:
        """Drop the tokens `gone` (Bool[B, T]); where other rows hold more, padding is left of them."""
        if self.columns and bool(gone.any()):
            self.columns.document.held.masked_fill_(gone, PADDING)
            self.compact()

    def compact(self) -> None:
        """Let the padding of each row stand before its tokens, and no more of it than the longest row asks for."""
        own = self.at.document != PADDING
        size = int(own.sum(dim=1).max())
        index = own.long().argsort(dim=1, stable=True)[:, self.length - size :]
        for growing in self.growing():
            growing.take(index)

    def growing(self) -> list[Growing]:
        """All that grows, each once."""
        layers = [x for layer in self.layers if layer for x in layer]
        each = [*(self.columns or ()), *layers, *(x for x in self.turned if x)]
        return list({id(x): x for x in each}.values())

    def epoch_of(self, encodings: list[Any]) -> int:
        """The number by which columns know these encodings."""
        if encodings not in self.history:
            self.history.append(encodings)
        return self.history.index(encodings)

    def forms(self) -> list[tuple[str, object]]:
        """What has to agree in caches that are joined."""
        rows, _, axes = self.at.position.shape
        out: list[tuple[str, object]] = [("number of layers", len(self.layers)), ("number of rows", rows)]
        out.append(("number of axes", axes))
        for n, (encoding, layer) in enumerate(zip(self.encodings, self.layers, strict=True)):
            out.append((f"encoding of layer {n}", encoding))
            out += [(f"form of layer {n}", form(x.room)) for x in layer or ()]
        return out

    def layer(self, n: int) -> Layer | None:
        """What is held of layer n."""
        require(0 <= n < len(self.layers), "layer", f"from 0 to {len(self.layers) - 1}", n)
        return self.layers[n]

    def check_whole(self, owner: str) -> None:
        """Raise ConfigError, naming the layer, where announced tokens have not been written."""
        for n, layer in enumerate(self.layers):
            count = layer.keys.length if layer else 0
            rule = f"all {self.length} that were announced"
            require(count == self.length, f"the tokens written to layer {n} before {owner}", rule, count)
