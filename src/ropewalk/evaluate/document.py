"""The losses of a document under an encoding, in as few passes as the encoding allows."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.errors import require
from ropewalk.evaluate.forward import CHUNK, Trunk, prefix_attention, token_losses
from ropewalk.evaluate.metrics.perplexity import Losses, windows
from ropewalk.models.attach import Encoding, attach, detach
from ropewalk.spectrum import for_length

Encodings = tuple[Encoding, ...]  # one per layer


@contextmanager
def attached(model: Any, encodings: Encodings) -> Generator[None]:
    """`model` with other positions and with attention made for chunks, put back as it was afterwards."""
    attach(model, encodings)
    try:
        with prefix_attention(model):
            yield
    finally:
        detach(model)


def document_losses(model: Any, encodings: Encodings, ids: Tensor, chunk: int = CHUNK) -> Losses:
    """Losses in nats (Float32[T - 1]) of the document ids (Int[T]), in one pass; entry i is of token i + 1."""
    settled = for_length(encodings, len(ids))
    with attached(model, settled):
        return torch.cat(list(token_losses(Trunk(model, chunk), ids))).numpy()


def losses_at(model: Any, encodings: Encodings, ids: Tensor, lengths: Sequence[int]) -> dict[int, Losses]:
    """The losses of the first n tokens for every n of `lengths`.

    One pass serves all lengths at which the encoding is the same value; where it depends on the served length
    (`for_length(e, n) != e`) every length has a pass of its own.
    """
    require(len(lengths) > 0 and max(lengths) <= len(ids), "losses_at.lengths", f"within {len(ids)} tokens", lengths)
    longest: dict[Encodings, int] = {}
    for n in lengths:
        settled = for_length(encodings, n)
        longest[settled] = max(n, longest.get(settled, 0))
    passes = {settled: document_losses(model, settled, ids[:n]) for settled, n in longest.items()}
    return {n: passes[for_length(encodings, n)][: n - 1] for n in lengths}


def windowed_losses(model: Any, encodings: Encodings, ids: Tensor, width: int, stride: int) -> Losses:
    """Losses of all tokens when only windows of `width` are read, each at positions from 0: the truncated reading.

    Every token after the first window has between width - stride and width tokens of context.
    """
    counted = [
        document_losses(model, encodings, ids[w.begin : w.end])[max(w.scored - w.begin - 1, 0) :]
        for w in windows(len(ids), width, stride)
    ]
    return np.concatenate(counted)


def fixed_target_losses(
    model: Any, encodings: Encodings, ids: Tensor, last: int, contexts: Sequence[int]
) -> dict[int, Losses]:
    """Losses of the same `last` tokens, read with each of `contexts` tokens before them (Su, kexue 9948)."""
    for context in contexts:
        require(0 < context <= len(ids) - last, "fixed_target.context", f"from 1 to {len(ids) - last}", context)
    return {n: document_losses(model, encodings, ids[-last - n :])[-last:] for n in contexts}
