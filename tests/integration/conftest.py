"""A checkpoint of a few kilobytes with a window of 512 tokens, text to read, and the command run in this process."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tiny import save_llama, save_tokenizer


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
    folder = tmp_path_factory.mktemp("built") / "tiny"
    save_llama(folder, vocab_size=512, window=512)
    save_tokenizer(folder, prose, vocab_size=512, model_max_length=512)
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
