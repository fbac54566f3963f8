"""Lets one loaded model read past the end of its learned position table: n trained rows serve n * n positions.

Weights and configuration stay as they are, so what is saved is the trained model.
Letters: B batch, T tokens, C channels.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropewalk.encodings import Hierarchical
from ropewalk.errors import UnsupportedError
from ropewalk.models.attach import Undo, decoder_of, detach, swap
from ropewalk.tokens import Tokens, contiguous

BERT_LIKE = (
    "albert bert camembert data2vec-text distilbert electra ernie megatron-bert mobilebert mpnet roberta "
    "roberta-prelayernorm xlm-roberta xlm-roberta-xl"
).split()
# where the stack of layers keeps its table
TABLES = dict.fromkeys(BERT_LIKE, "embeddings.position_embeddings") | {"gpt2": "wpe", "opt": "embed_positions"}


def stretch(model: nn.Module, alpha: float = 0.4) -> Hierarchical:
    """Make the positions past the table of `model` from two of its rows each; returns the encoding that it now has.

    What fits the table gives what it gave, bit for bit, and `detach` takes everything back. A tokenizer's own limit is
    the caller's to lift. Raises UnsupportedError for an architecture that is not served, ConfigError for a bad `alpha`;
    the model raises ConfigError for a position past the last.
    """
    stack: Any = decoder_of(model)
    kind = stack.config.model_type
    if kind not in TABLES:
        raise UnsupportedError(f"cannot stretch architecture {kind!r}; served are {', '.join(sorted(TABLES))}")
    table = stack.get_submodule(TABLES[kind])
    # the rows up to the padding's are no positions
    first = 2 if kind == "opt" else 0 if table.padding_idx is None else table.padding_idx + 1
    encoding = Hierarchical(table.embedding_dim, table.num_embeddings - first, alpha, first)
    detach(model)
    undo = [swap(table, "forward", partial(opt_vectors if kind == "opt" else vectors, table, encoding))]
    if kind in BERT_LIKE:
        undo.append(lengthen(stack.embeddings, encoding))
    vars(stack)["ropewalk_undo"] = undo
    return encoding


def vectors(table: nn.Embedding, encoding: Hierarchical, ids: Tensor) -> Tensor:
    """[B, T, C] for row numbers Int[B, T] of a table without an end; the rows before the first position stay."""
    first, where = encoding.first_row, ids - encoding.first_row
    # without such rows a negative position is for the encoding to refuse
    here = where.clamp(min=0) if first else where
    made = encoding.embed({"table": table.weight}, Tokens(here[..., None], here, torch.zeros_like(here)))
    if not first:
        return made
    special = F.embedding(ids.clamp(max=first), table.weight, table.padding_idx)
    return torch.where((where < 0)[..., None], special, made)


def opt_vectors(
    table: nn.Embedding, encoding: Hierarchical, mask: Tensor, past_key_values_length: int, position_ids: Tensor
) -> Tensor:
    """The same as OPT asks for it: by positions, which are -1 for padding."""
    return vectors(table, encoding, position_ids + encoding.first_row)


def lengthen(embeddings: Any, encoding: Hierarchical) -> Undo:
    """Let no buffer of BERT end before the encoding does; positions go one further, for the encoding to refuse."""
    rows, types = embeddings.position_ids.shape[1], hasattr(embeddings, "token_type_ids")
    # with rows before the first position the code counts tokens itself
    if not encoding.first_row:
        embeddings.position_ids = contiguous(encoding.length**2 + 1).order.to(embeddings.position_ids.device)
    if types:
        # without this buffer the types are as many zeros as there are tokens
        del embeddings.token_type_ids
    return partial(shorten, embeddings, rows, types)


def shorten(embeddings: Any, rows: int, types: bool) -> None:
    """Give BERT's buffers their own length."""
    embeddings.position_ids = embeddings.position_ids[:, :rows].clone()
    if types:
        embeddings.register_buffer("token_type_ids", torch.zeros_like(embeddings.position_ids), persistent=False)
