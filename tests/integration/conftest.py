"""A checkpoint of a few kilobytes with a window of 512 tokens, text to read, and the command run in this process."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """Reference prose, topic by topic."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)][:60]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, prose: list[str]) -> Path:
    """A random Llama with a byte-level tokenizer that knows the prose."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("built") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=512,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    bytes_and_pairs = ByteLevelBPETokenizer()
    bytes_and_pairs.train_from_iterator(prose, vocab_size=512, special_tokens=["<s>", "</s>"], show_progress=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=bytes_and_pairs._tokenizer, eos_token="</s>", model_max_length=512)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def model(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory, prose: list[str]) -> Path:
    """A folder of text, some 12,000 tokens."""
    folder = tmp_path_factory.mktemp("text") / "book"
    folder.mkdir()
    for i, topic in enumerate(prose):
        (folder / f"{i:02d}.txt").write_text(topic[:1000])
    return folder


@pytest.fixture
def ropewalk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process: `ropewalk("extend", path, "--to", 1024)`."""
    from ropewalk.cli.__main__ import main

    def run(*words: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ropewalk", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(ended.value.code or 0, said.out, said.err)  # type: ignore[arg-type]

    return run
