"""A random Llama with a byte-level tokenizer, so that characters fall apart into tokens."""

import pytest
import torch

from ropewalk.models.load import Loaded, load

PROSE = "The rope is laid, the strands are twisted — naïve façade, œuvre, 東京と京都, 🙂🙃 and so it goes on. " * 20


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("generate") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=320,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator([PROSE], vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, eos_token="</s>").save_pretrained(folder)
    return load(folder, "float32")
