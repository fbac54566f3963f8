"""Two streams that share no file, and what is said where a text is too small."""

from pathlib import Path

import pytest
import torch

from ropewalk import ConfigError
from ropewalk.evaluate.text import Document
from ropewalk.lab.data import HELD_OUT, check_size, corpus, library, split, windows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "text"
    where.mkdir()
    for i in range(30):
        (where / f"{i:02d}.txt").write_text(f"number {i}: grüße " * 20)
    return where


def as_text(ids: torch.Tensor) -> str:
    return bytes(ids.tolist()).decode()


def test_streams_share_no_file_and_lose_none(folder: Path, tmp_path: Path) -> None:
    read = corpus(str(folder), None, tmp_path / "tokenizer.json")
    train, held_out = (set(as_text(x).split("\n\n")) for x in (read.train, read.held_out))
    assert train.isdisjoint(held_out)
    assert train | held_out == {file.read_text() for file in folder.iterdir()}
    assert len(held_out) == 2
    assert read.vocabulary == 256
    assert read.bytes_per_token == 1
    assert corpus(str(folder), None, tmp_path / "tokenizer.json").digest == read.digest
    (folder / "00.txt").write_text("other")
    assert corpus(str(folder), None, tmp_path / "tokenizer.json").digest != read.digest


def test_held_out_files_are_a_twentieth_of_the_text() -> None:
    documents = [Document(str(i), "x" * (100 + i)) for i in range(400)]
    train, held_out = split(documents)
    total, kept = (sum(len(d.content) for d in some) for some in (documents, held_out))
    assert HELD_OUT * total <= kept < HELD_OUT * total + 500
    assert sorted((*train, *held_out)) == sorted(documents)


def test_a_single_file_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("abcdefghij" * 100)
    read = corpus(str(file), None, tmp_path / "tokenizer.json")
    assert as_text(read.train) + as_text(read.held_out) == file.read_text()
    assert len(read.held_out) == 50
    assert read.source.endswith("its last 5 % held out")


def test_pieces_are_learned_from_what_is_trained_on_and_give_the_text_back(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    kept = tmp_path / "tokenizer.json"
    read, plain = corpus(str(folder), 300, kept), corpus(str(folder), None, kept)
    assert not kept.exists()
    known = Tokenizer.from_str(read.pieces)
    assert 256 < read.vocabulary == known.get_vocab_size() <= 300
    assert known.decode(read.held_out.tolist()) == as_text(plain.held_out)
    assert len(read.held_out) * read.bytes_per_token == len(plain.held_out)
    assert read.bytes_per_token > 1.5
    # what is kept is read, whatever would be learned now
    kept.write_text(read.pieces)
    (folder / "00.txt").write_text("zzzz qqqq " * 400)
    assert corpus(str(folder), 300, kept).pieces == read.pieces


def test_the_library_is_sources_without_tests() -> None:
    names = [d.name for d in library()]
    assert names == sorted(names)
    assert {"ast.py", "json/decoder.py"} <= set(names)
    assert not [n for n in names if {"test", "tests", "site-packages", "dist-packages"} & set(n.split("/"))]


@pytest.mark.parametrize(("train", "held_out", "says"), [(10**6, 10, "to train on"), (10, 10**6, "held out")])
def test_a_text_that_is_too_small_is_one_line(
    train: int, held_out: int, says: str, folder: Path, tmp_path: Path
) -> None:
    read = corpus(str(folder), None, tmp_path / "tokenizer.json")
    check_size(read, len(read.train), len(read.held_out))
    with pytest.raises(ConfigError, match=f"text must have at least 1,000,000 tokens {says}, got"):
        check_size(read, train, held_out)


def test_a_text_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--text must be a file or folder that exists"):
        corpus(str(tmp_path / "nowhere"), None, tmp_path / "tokenizer.json")


def test_windows_are_followed_by_their_targets() -> None:
    stream = torch.tensor(range(50), dtype=torch.int16)
    inputs, targets = windows(stream, torch.tensor([3, 40]), 6)
    assert inputs.tolist() == [list(range(3, 9)), list(range(40, 46))]
    assert targets.tolist() == [list(range(4, 10)), list(range(41, 47))]
    assert inputs.dtype == torch.int64
