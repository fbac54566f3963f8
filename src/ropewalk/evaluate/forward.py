"""A model run over a document in chunks, so that memory stays bounded and every loss is known as it passes.

Letters: T tokens, V vocabulary.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ropewalk.attention.prefix import attend_prefix, visible
from ropewalk.tokens import contiguous

CHUNK = 1024  # tokens a forward call takes; the larger, the more of a pass is dense products
ROWS = 256  # rows of logits that are float32 at a time
PREFIX = "ropewalk_prefix"


class Trunk:
    """The cached keys and values of a growing text, from which questions branch without disturbing it."""

    def __init__(self, model: Any, chunk: int = CHUNK, note: Callable[[str], None] = lambda _: None) -> None:
        from transformers import DynamicCache

        # no config: every layer keeps all of its keys, so that a branch can be cut off again
        self.model, self.cache, self.length = model, DynamicCache(), 0
        self.chunk, self.note = chunk, note

    @torch.inference_mode()
    def read(self, ids: Tensor, scored: bool = True) -> Iterator[Tensor]:
        """Append ids (Int[T]) and yield logits [t, V] chunk by chunk; of the last token alone unless `scored`."""
        done = 0
        while done < len(ids):
            part = ids[done : done + self.chunk]
            try:
                logits = self.forward(part, None, 0 if scored else 1)
            except RuntimeError as error:
                self.shrink(error)
                continue
            done += len(part)
            self.length += len(part)
            yield logits

    @torch.inference_mode()
    def branch(self, questions: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
        """The logits of the last keep[i] tokens of questions[i] (Int[t]), each read as if it alone followed the trunk.

        All questions share one call, which neither fits another attention than ours nor always the memory: then they
        are parted.  None sees another; the trunk is as before afterwards.
        """
        if len(questions) > 1 and self.model.config._attn_implementation != PREFIX:
            return self.part(questions, keep)
        sizes = [len(q) for q in questions]
        own = torch.block_diag(*(torch.ones(n, n).tril() for n in sizes)).bool()
        at = torch.cat([contiguous(n, self.length).order[0] for n in sizes])
        ends = torch.tensor(sizes).cumsum(0).tolist()
        wanted = torch.cat([contiguous(n, end - n).order[0] for n, end in zip(keep, ends, strict=True)])
        try:
            logits = self.forward(torch.cat(list(questions)), (at, own) if len(sizes) > 1 else None, wanted)
        except RuntimeError as error:
            if len(questions) == 1 or not starved(error):
                raise
            self.note("out of memory: fewer questions in a call")
            logits = None
        finally:
            self.crop()
        return self.part(questions, keep) if logits is None else list(logits.split(list(keep)))

    def part(self, questions: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
        """`branch` in two calls."""
        half = len(questions) // 2
        return [*self.branch(questions[:half], keep[:half]), *self.branch(questions[half:], keep[half:])]

    def forward(self, ids: Tensor, apart: tuple[Tensor, Tensor] | None, keep: int | Tensor) -> Tensor:
        """One call of the model; `apart` gives positions and the mask within the chunk where they are not plain."""
        at = contiguous(len(ids), self.length).order[0] if apart is None else apart[0]
        device = self.model.device
        out = self.model(
            input_ids=ids[None].to(device),
            position_ids=at[None].to(device),
            attention_mask=None if apart is None else apart[1][None, None].to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep if isinstance(keep, int) else keep.to(device),
        )
        return out.logits[0]

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        self.length = length
        self.crop()

    def crop(self) -> None:
        layers: Any = self.cache.layers
        for layer in layers:
            layer.crop(min(self.length - layer.get_seq_length(), 0))

    def shrink(self, error: RuntimeError) -> None:
        """Halve the chunk after running out of memory; any other error passes."""
        if not starved(error) or self.chunk <= 32:
            raise error
        self.crop()
        self.chunk //= 2
        self.note(f"out of memory: chunks of {self.chunk} tokens from position {self.length} on")


def starved(error: RuntimeError) -> bool:
    """Whether this is how an allocator says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def token_losses(trunk: Trunk, ids: Tensor) -> Iterator[Tensor]:
    """Read ids (Int[T]) and yield each chunk's losses in nats (Float32[t]): entry i belongs to the token after i.

    The last chunk has one entry fewer; the first token of a document has no loss.
    """
    start = 0
    for logits in trunk.read(ids):
        targets = ids[start + 1 : start + 1 + len(logits)].to(logits.device)
        rows = logits[: len(targets)].split(ROWS)
        losses = [
            F.cross_entropy(x.float(), y, reduction="none") for x, y in zip(rows, targets.split(ROWS), strict=True)
        ]
        start += len(logits)
        yield torch.cat(losses).cpu()


@contextmanager
def prefix_attention(model: Any) -> Generator[bool]:
    """Run the model's layers through `attend_prefix` for the duration, where its attention is a plain softmax.

    Yields whether it is; a model with capped logits or learned sinks keeps its own attention.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = model.config._attn_implementation
    plain = before == "sdpa" and not getattr(model.config, "attn_logit_softcapping", None)
    if plain:
        ALL_ATTENTION_FUNCTIONS.register(PREFIX, _hf_attention)
        model.set_attn_implementation(PREFIX)
    try:
        yield plain
    finally:
        if plain:
            model.set_attn_implementation(before)


def _hf_attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """`attend_prefix` in the signature that transformers calls; [B, H, T, D] in, [B, T, H, D] out."""
    scale, window = given.get("scaling") or q.shape[-1] ** -0.5, given.get("sliding_window")
    own = None if mask is None else mask[0, 0]
    if window and k.shape[2] > window:
        seen = visible(q.shape[2], k.shape[2] - q.shape[2], own, q.device, window)
        out = F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True)
    else:
        out = attend_prefix(q, k, v, scale, own)
    return out.transpose(1, 2).contiguous(), None
