"""The cache that rules attend over: keys with their Tokens, in the shape that transformers asks of a cache.

Letters: B batch, T new tokens, G key heads, D channels.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache as StockCache

from ropewalk.attention.cache import Cache
from ropewalk.attention.step import parted
from ropewalk.encodings.mix.adaptive import Adaptive
from ropewalk.errors import ConfigError, require
from ropewalk.tokens import PADDING, Tokens, contiguous

SLACK = 256  # tokens that may lie in the cache although no query can see them any more


class TextCache(StockCache):
    """What `attach`ed layers have read, with where each token stands; given to a model as `past_key_values`.

    `store` holds the keys, and takes every operation of `Cache`: what is shifted, moved, dropped, joined or retuned
    there is what the next call attends over. Keys that no later query can see are dropped by themselves (StreamingLLM,
    LM-Infinite, layers with a window), so that memory is constant where that goes for all layers. `windows` are the
    sliding windows of the layers. A cache that branches from a `trunk` starts behind it and shares it.
    """

    def __init__(
        self, encodings: Sequence[Any], windows: Sequence[int | None] = (), trunk: "TextCache | None" = None
    ) -> None:
        super().__init__(layers=[])
        self.encodings, self.trunk = list(encodings), trunk
        self.windows = list(windows) or [None] * len(self.encodings)
        # what follows the length is turned at every call, so it is kept raw
        self.store = Cache([() if isinstance(parted(e).rule, Adaptive) else e for e in encodings])
        self.read = 0 if trunk is None else trunk.read

    def announce(self, ids: Tensor, mask: Tensor | None, where: Tensor | None) -> tuple[Tokens, Tokens]:
        """The next tokens (ids [B, T, ...]), and all that are kept; `mask` and `where` are those of the model's call.

        Without `where` they follow the last token of their row. Padding is what `mask` says of the new tokens.
        """
        self.evict()
        batch, new = ids.shape[:2]
        at = Tokens(*(x.to(ids.device) for x in contiguous(new, self.read, batch)))
        if where is not None:
            at = at._replace(position=where.expand(batch, new)[..., None])
        elif self.store.length:
            at = at._replace(position=at.position - self.read + 1 + self.ends())
        if mask is not None:
            real = mask[:, -new:].bool()
            at = at._replace(document=torch.where(real, at.document, PADDING))
        self.store.append(at)
        self.read += new
        return at, self.store.at

    def ends(self) -> Tensor:
        """Int[B, 1, 1]: the last position of each row."""
        at = self.store.at
        own = at.position.masked_fill((at.document == PADDING)[..., None], -1)
        return own.amax(dim=(1, 2), keepdim=True)

    def evict(self) -> None:
        """Drop what no later query can see."""
        kept = self.reach()
        if kept is not None and self.store.length > sum(kept) + SLACK:
            self.store.keep(*kept, close=False)

    def reach(self) -> tuple[int, int] | None:
        """How many first and last tokens all layers look at; None where one looks at all."""
        rules = [getattr(parted(e).rule, "kept", None) for e in self.encodings]
        pairs = zip(rules, self.windows, strict=True)
        each = [rule() if rule else None if size is None else (0, size) for rule, size in pairs]
        sizes = [size for size in each if size is not None]
        if self.trunk is not None or len(sizes) < len(rules):
            return None
        return max(s for s, _ in sizes), max(r for _, r in sizes)

    def branch(self, rows: int) -> "TextCache":
        """A cache of `rows` rows, or so many for each row, that go on from here; this one stays as it is meanwhile.

        What one row has read is shared without a copy, unless it is kept raw or will be dropped.
        """
        require(rows >= 1, "branch.rows", "at least 1", rows)
        raw = any(isinstance(parted(e).rule, Adaptive) for e in self.encodings)
        single = self.trunk is None and self.read > 0 and len(self.store.at.order) == 1
        if single and not raw and self.reach() is None:
            return TextCache(self.encodings, self.windows, self)
        twin = TextCache(self.encodings, self.windows, self.trunk)
        twin.store, twin.read = copy.deepcopy(self.store), self.read
        if self.store.length:
            twin.batch_repeat_interleave(rows)
        return twin

    def update(self, k: Tensor, v: Tensor, layer: int, *args: Any) -> tuple[Tensor, Tensor]:
        """Add the keys [B, G, T, D] and values of one layer; all of them, as they are mapped where they stand now."""
        self.store.write(layer, k, v)
        return self.store.read(layer)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far, dropped ones included."""
        return self.read

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens: a negative number of them, as transformers counts.

        Raises ConfigError where that would need tokens that were dropped.
        """
        length, kept = self.read + tokens_to_remove, self.store.length + tokens_to_remove
        reach = self.reach()
        dropped = self.store.length + (0 if self.trunk is None else self.trunk.read) < self.read
        if kept < 0 or (dropped and reach is not None and kept < sum(reach)):
            raise ConfigError(f"length must be within what the cache still holds, got {length} of {self.read} tokens")
        self.store.crop(kept)
        self.read = length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let the rows be those of `beam_idx` (Int[B])."""
        self.store.rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Let every row be followed by its copies."""
        rows = len(self.store.at.order)
        self.store.rows(contiguous(rows).order[0].repeat_interleave(repeats).to(self.store.at.order.device))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self.store.rows(indices)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Raise ConfigError: attention that asks for a mask looks for keys of another kind."""
        raise ConfigError("a TextCache must be given to a model whose attention is ours: attach(..., interface=True)")

    @property
    def is_compileable(self) -> bool:
        """No: keys grow."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether anything was read."""
        return self.read > 0


def windows_of(layers: Sequence[Any]) -> list[int | None]:
    """The sliding windows of attention modules, None for those that look at all."""
    return [getattr(attention, "sliding_window", None) for attention in layers]
