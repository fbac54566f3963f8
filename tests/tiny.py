"""Checkpoints of a few kilobytes: a random Llama, and a tokenizer that knows all bytes and the pairs of some text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def save_llama(folder: Path, vocab_size: int, window: int, **more: Any) -> None:
    """Write config and weights of a Llama with two layers, two heads and one key head; the same at every call."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=vocab_size,
        max_position_embeddings=window,
        **{"initializer_range": 0.2, **more},
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def save_tokenizer(folder: Path, text: Sequence[str], vocab_size: int, **more: Any) -> None:
    """Write a byte-level tokenizer trained on `text`; the end of a text is `</s>`, token 1."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(text, vocab_size=vocab_size, special_tokens=["<s>", "</s>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, eos_token="</s>", **more).save_pretrained(folder)
