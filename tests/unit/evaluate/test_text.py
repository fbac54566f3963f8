"""Two streams of text: which documents go where, and what is said when there are too few."""

import importlib.util
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from ropewalk import ConfigError, UnsupportedError
from ropewalk.evaluate import text as module
from ropewalk.evaluate.text import Document, Text, documents_from, opening, split_text

MANY = 10**6  # the number of a token is MANY * document + place in it


def numbered(*sizes: int) -> Iterator[Document]:
    """Documents of so many tokens each."""
    return (Document(str(i), f"{i} {size}") for i, size in enumerate(sizes))


def tokenize(text: str) -> list[int]:
    assert text.endswith("\n\n")
    which, size = map(int, text.split())
    return [MANY * which + place for place in range(size)]


def split(length: int, *sizes: int) -> Text:
    return split_text("here", numbered(*sizes), tokenize, length)


def documents(stream: Any) -> set[int]:
    return {token // MANY for token in stream.tolist()}


def is_in_order(tokens: list[int]) -> bool:
    """Whether each token follows the one before in its document, or begins another one further on."""
    return all(b == a + 1 or (b % MANY == 0 and b > a) for a, b in pairwise(tokens))


@pytest.mark.parametrize("seed", range(20))
def test_the_streams_share_no_document(seed: int) -> None:
    rng = random.Random(seed)
    length = rng.randrange(50, 400)
    sizes = [rng.randrange(1, 120) for _ in range(200)]
    search, held_out, source = split(length, *sizes)
    assert len(search) == len(held_out) == length
    assert documents(search).isdisjoint(documents(held_out))
    assert is_in_order(search.tolist())
    assert is_in_order(held_out.tolist())
    assert search[0] == 0
    # held-out text starts with the document after the last one of the search
    assert held_out[0] == MANY * (max(documents(search)) + 1)
    assert source == "here"


def test_a_large_first_document_does_not_stand_on_both_sides() -> None:
    search, held_out, source = split(100, 5000, 60, 70)
    assert (documents(search), documents(held_out)) == ({0}, {1, 2})
    assert source == "here"


@pytest.mark.parametrize("sizes", [(200,), (1000,), (150, 30, 20), (30, 120, 50), (90, 110)])
def test_where_nothing_else_is_left_held_out_text_is_a_continuation(sizes: tuple[int, ...]) -> None:
    search, held_out, source = split(100, *sizes)
    every = [t for i, size in enumerate(sizes) for t in range(MANY * i, MANY * i + size)]
    assert search.tolist() == every[:100]
    assert held_out.tolist() == every[100:200]
    assert source == "here, where held-out text continues the document in which the search ended"


@pytest.mark.parametrize("sizes", [(), (1,), (199,), (100, 99), (30, 30, 30)])
def test_too_little_text_is_one_line_that_says_how_much(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        split(100, *sizes)
    needed = "text must be at least 200 tokens long, half to search and half held out"
    assert str(caught.value) == f"{needed}, got {sum(sizes)} tokens from here; name more with --text"


def test_no_more_is_read_than_needed() -> None:
    read: list[str] = []

    def counted() -> Iterator[Document]:
        for document in numbered(*[50] * 1000):
            read.append(document.name)
            yield document

    split_text("here", counted(), tokenize, 100)
    assert len(read) == 4


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.md").write_text("one")
    (tmp_path / "c.txt").write_text("zwei, größer")
    (tmp_path / "a.py").write_text("three")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    # no text although its name says so: left out of a folder
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    source, found = documents_from(str(tmp_path), None)
    assert source == str(tmp_path)
    assert list(found) == [Document("a.py", "three"), Document("one.md", "one"), Document("c.txt", "zwei, größer")]


def test_a_file_is_one_document_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "book.xyz").write_text("once")
    assert list(documents_from(str(tmp_path / "book.xyz"), None)[1]) == [Document("book.xyz", "once")]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        ConfigError, match=r"--text must be readable UTF-8, got .*d\.txt: .*codec can't decode"
    ) as caught:
        list(documents_from(str(tmp_path / "d.txt"), None)[1])
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, **options: Any) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "d.txt").write_text("secret")
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(ConfigError, match=r"--text must be readable UTF-8, got .*d\.txt: .*Permission denied"):
        list(documents_from(str(tmp_path / "d.txt"), None)[1])


def test_a_path_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--text must be a file or folder that exists, got '.*nowhere'$"):
        documents_from(str(tmp_path / "nowhere"), None)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    with pytest.raises(ConfigError, match="--text must be a folder that holds text files, got"):
        list(documents_from(str(tmp_path), None)[1])


def test_a_path_and_a_data_set_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--text must be given alone, or --dataset instead"):
        documents_from(str(tmp_path), "some/data")


def test_the_default_is_the_same_every_time() -> None:
    source, found = documents_from(None, None)
    first = list(islice(found, 50))
    assert source == "the Python standard library's reference and sources"
    assert first == list(islice(documents_from(None, None)[1], 50))
    assert [d.name for d in first] == sorted(d.name for d in first)
    assert all(d.content.strip() for d in first)


def test_no_two_topics_of_the_default_share_a_paragraph() -> None:
    topics = [d for d in documents_from(None, None)[1] if not d.name.endswith(".py")]
    told = Counter(p for d in topics for p in {*d.content.split("\n\n")})
    assert len(topics) > 50
    assert set(told.values()) == {1}


def test_the_default_goes_on_with_the_sources_wherever_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("not of the library")
    monkeypatch.chdir(tmp_path)
    found = list(documents_from(None, None)[1])
    assert len({d.name for d in found}) == len(found)
    sources = {d.name: d.content for d in found if d.name.endswith(".py")}
    assert sources["random.py"] == Path(random.__file__).read_text()
    assert "mine.py" not in sources
    assert sum(len(d.content) for d in found) > 4_000_000


def test_a_data_set_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "datasets" else real(name))
    with pytest.raises(UnsupportedError, match=r"--dataset some/data needs the package datasets: pip install"):
        list(documents_from(None, "some/data")[1])


def test_the_opening_is_so_many_tokens_and_reads_no_further() -> None:
    def documents() -> Iterator[Document]:
        yield Document("a", "abc")
        yield Document("b", "defg")
        raise AssertionError("read on")

    assert "".join(map(chr, opening(documents(), as_codes, 8))) == "abc\n\ndef"
    assert len(opening(iter([Document("a", "abc")]), as_codes, 8)) == 5


def as_codes(text: str) -> list[int]:
    return [ord(c) for c in text]
