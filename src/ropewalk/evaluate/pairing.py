"""Which pairs of channels the weights of a model were trained to turn together, told from its own losses on text."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import require
from ropewalk.evaluate.document import document_losses
from ropewalk.evaluate.metrics.perplexity import RUN, Mean, mean, paired
from ropewalk.evaluate.text import documents_from, opening
from ropewalk.models.load import Loaded
from ropewalk.rotation import PAIRINGS

TOKENS = 1024  # read for an answer where nothing else is said
SIGMAS = 5.0  # an answer needs a difference of so many standard errors
NATS = 0.5  # and of so much a token: a model that reads neither order well answers nothing


class Detected(NamedTuple):
    """The answer and what it rests on."""

    pairing: str | None  # "half" or "interleaved"; None where the losses are too close
    losses: dict[str, float]  # of either, in nats per token
    margin: Mean  # nats per token by which the better one is lower, with its standard error


def detect_pairing(loaded: Loaded, ids: Tensor) -> Detected:
    """Read ids (Int[T]) with channels paired either way, all else as the config says; the lower loss tells.

    Nothing else is looked at: no name, no config. Errors come from means over runs of 64 tokens, of which two are the
    least. Raises UnsupportedError where the model's code cannot be made to pair channels otherwise.
    """
    require(len(ids) > 2 * RUN, "the text", f"more than {2 * RUN} tokens long", len(ids))
    read = {
        p: document_losses(
            loaded.model, tuple(replace(e, pairing=p) if isinstance(e, Rotary) else e for e in loaded.encodings), ids
        )
        for p in PAIRINGS
    }
    losses = {p: mean(read[p]).loss for p in PAIRINGS}
    best, other = sorted(PAIRINGS, key=losses.__getitem__)
    margin = paired(read[other], read[best])
    clear = margin.loss >= max(NATS, SIGMAS * margin.se)
    return Detected(best if clear else None, losses, margin)


def reading(loaded: Loaded, text: str | None) -> tuple[Tensor, str]:
    """Tokens for `detect_pairing` (Int[T], at most 1,024 and within the trained window), and whence, in words."""
    wanted = min(TOKENS, loaded.trained_length)
    source, documents = documents_from(text, None)

    def tokenize(text: str) -> list[int]:
        return loaded.tokenizer(text, add_special_tokens=False).input_ids

    return torch.tensor(opening(documents, tokenize, wanted)), source
