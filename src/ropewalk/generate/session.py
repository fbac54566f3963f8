"""A model at work on a text that it remembers: what was read is cached, and others may go on from it.

Letters: B rows, T tokens, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, Self

import torch
from torch import Tensor

from ropewalk.errors import RopewalkError, UnsupportedError, require
from ropewalk.evaluate.forward import CHUNK, prefix_attention, starved
from ropewalk.models.attach import Encoding, adaptive, attach, attention_of, decoder_of, detach
from ropewalk.models.cache import TextCache, windows_of
from ropewalk.models.load import Loaded
from ropewalk.tokens import contiguous

Tell = Callable[[int, int], None]  # tokens read so far, of so many


class Session:
    """What a model has read, in one row or in several of the same length, and the cache of it.

    `encodings` are positions for every layer; None leaves the model's own as they are. One session at a time works on
    a model; `close`, or the end of a `with` block, gives the model its own positions back.
    """

    def __init__(self, loaded: Loaded, encodings: Sequence[Encoding] | None = None) -> None:
        self.loaded, self.ids = loaded, torch.empty(1, 0, dtype=torch.long)
        self.cache: Any = positioned(loaded, encodings)
        self.held = ExitStack()
        self.held.callback(detach, loaded.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the text and give the model its own positions back; a branch only forgets."""
        self.held.close()
        self.cache = None

    @property
    def length(self) -> int:
        """Tokens read, in each row."""
        return self.ids.shape[1]

    @property
    def rows(self) -> int:
        """Texts that are read side by side."""
        return len(self.ids)

    @torch.inference_mode()
    def read(self, ids: Tensor | Sequence[int], tell: Tell = lambda done, total: None) -> Tensor:
        """Append ids (Int[T] for every row alike, or Int[B, T]) and return what follows: float32 logits [B, V].

        Reads 1,024 tokens at a time and tells how far it is. Raises ConfigError for nothing to read or another number
        of rows, RopewalkError where memory runs out.
        """
        given = torch.as_tensor(ids, dtype=torch.long, device="cpu")
        given = given.expand(self.rows, -1) if given.dim() == 1 else given
        require(given.shape[1] > 0, "Session.read.ids", "at least one token", given.shape[1])
        require(len(given) == self.rows, "Session.read.ids", f"in {self.rows} rows", len(given))
        logits = torch.empty(0)
        for done in range(0, given.shape[1], CHUNK):
            part = given[:, done : done + CHUNK]
            logits = self.forward(part)
            self.ids = torch.cat((self.ids, part), dim=1)
            tell(done + part.shape[1], given.shape[1])
        return logits[:, -1].float()

    def forward(self, ids: Tensor) -> Tensor:
        """One call of the model: the logits [B, 1, V] after ids (Int[B, T])."""
        model = self.loaded.model
        with prefix_attention(model) if ids.shape[1] > 1 else nullcontext():
            try:
                return model(
                    input_ids=ids.to(model.device),
                    position_ids=contiguous(ids.shape[1], self.length).order.to(model.device),
                    past_key_values=self.cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits
            except RuntimeError as error:
                if not starved(error):
                    raise
                raise RopewalkError(f"memory ran out after {self.length:,} tokens in {self.rows} rows") from None

    def branch(self, rows: int = 1) -> "Session":
        """A session of `rows` rows that each go on from here; this one stays as it is and can be gone on with.

        Of a session with several rows, every row is followed by its copies.
        """
        require(rows >= 1, "Session.branch.rows", "at least 1", rows)
        twin = copy.copy(self)
        twin.held = ExitStack()
        twin.cache = self.cache.branch(rows) if isinstance(self.cache, TextCache) else copied(self.cache, rows)
        twin.ids = self.ids.repeat_interleave(rows, dim=0)
        return twin

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens. Raises ConfigError for more than were read."""
        require(0 <= length <= self.length, "Session.rewind.length", f"from 0 to {self.length}", length)
        if length < self.length:
            self.cache.crop(length - self.length)
        self.ids = self.ids[:, :length]


def positioned(loaded: Loaded, encodings: Sequence[Encoding] | None) -> Any:
    """Attach positions, the model's own where none are given, and return an empty cache for them.

    It is a TextCache wherever the model's attention can be ours; a model that caps its logits keeps its attention, and
    a cache of transformers, which has to copy what a branch shares.
    """
    each = list(loaded.encodings if encodings is None else encodings)
    try:
        attach(loaded.model, each, interface=True)
        layers = [attention_of(layer) for layer in decoder_of(loaded.model).layers]
        return TextCache([adaptive(e) for e in each], windows_of(layers))
    except UnsupportedError:
        if encodings is not None:
            attach(loaded.model, each)
    from transformers import DynamicCache

    # no config: every layer keeps all of its keys, so that a session can be rewound
    return DynamicCache()


def copied(cache: Any, rows: int) -> Any:
    """A cache of transformers with every row followed by its copies."""
    twin = copy.copy(cache)
    # a layer's tensors are never written to, only replaced
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    if rows > 1:
        twin.batch_repeat_interleave(rows)
    return twin
