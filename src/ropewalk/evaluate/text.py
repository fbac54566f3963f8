"""Real text as token streams: what a search reads, and held-out text that it never sees."""

import importlib.util
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import ConfigError, UnsupportedError, require

PROSE = (
    ".txt",
    ".md",
    ".rst",
    ".tex",
    ".html",
    ".json",
    ".jsonl",
    ".csv",
    ".py",
    ".c",
    ".cpp",
    ".h",
    ".js",
    ".java",
    "",
)


class Text(NamedTuple):
    """Two streams of `length` tokens that share no document, and where they come from."""

    search: Tensor  # Int[length]
    held_out: Tensor  # Int[length]
    source: str


class Document(NamedTuple):
    """A piece of text that ends where its topic does."""

    name: str
    content: str


def split_text(source: str, documents: Iterator[Document], tokenize: Callable[[str], list[int]], length: int) -> Text:
    """Fill a search stream of `length` tokens, then a held-out stream that starts with the next document.

    Where the documents after it are too short, the held-out stream starts with the rest of the document in which the
    search ended, and `source` says so.  Raises ConfigError when the text is too short for both.
    """
    search: list[int] = []
    rest: list[int] = []
    held_out: list[int] = []
    for document in documents:
        ids = tokenize(document.content + "\n\n")
        taken = min(length - len(search), len(ids))
        search += ids[:taken]
        if taken:
            rest = ids[taken:]
        else:
            held_out += ids
        if len(held_out) >= length:
            return Text(torch.tensor(search), torch.tensor(held_out[:length]), source)
    # what the search ended in is held out only if nothing else could be
    held_out = rest + held_out
    if len(held_out) >= length:
        continued = f"{source}, where held-out text continues the document in which the search ended"
        return Text(torch.tensor(search), torch.tensor(held_out[:length]), continued)
    have = len(search) + len(held_out)
    rule = f"at least {2 * length} tokens long, half to search and half held out"
    raise ConfigError(f"text must be {rule}, got {have} tokens from {source}; name more with --text")


def opening(documents: Iterator[Document], tokenize: Callable[[str], list[int]], length: int) -> list[int]:
    """The first `length` tokens of the documents one after the other, or all where they are fewer."""
    ids: list[int] = []
    for document in documents:
        ids += tokenize(document.content + "\n\n")
        if len(ids) >= length:
            break
    return ids[:length]


def documents_from(text: str | None, dataset: str | None) -> tuple[str, Iterator[Document]]:
    """Where the documents come from, in words, and the documents: a path, a data set, or Python's own reference."""
    require(text is None or dataset is None, "--text", "given alone, or --dataset instead", text)
    if dataset is not None:
        return f"data set {dataset}", from_dataset(dataset)
    if text is not None:
        path = Path(text).expanduser()
        require(path.exists(), "--text", "a file or folder that exists", text)
        return str(text), from_path(path)
    return "the Python standard library's reference and sources", from_standard_library()


def from_path(path: Path) -> Iterator[Document]:
    """A file, or every readable text file below a folder in the order of their names."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file() and f.suffix in PROSE)
    require(len(files) > 0, "--text", "a folder that holds text files", str(path))
    for file in files:
        try:
            yield Document(file.name, file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, PermissionError) as error:
            if path.is_file():
                raise ConfigError(f"--text must be readable UTF-8, got {file}: {error}") from None


def from_standard_library() -> Iterator[Document]:
    """Python's reference topics in the order of their names, then the sources of its library.

    Several topics repeat whole sections of others; a paragraph is read where it comes first, so that nothing held out
    was seen before.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    for name in sorted(topics):
        fresh = [p for p in topics[name].split("\n\n") if p not in seen]
        seen.update(fresh)
        if fresh:
            yield Document(name, "\n\n".join(fresh))
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield Document(file.name, file.read_text(encoding="utf-8", errors="replace"))


def from_dataset(name: str) -> Iterator[Document]:
    """The `text` column of a Hugging Face data set, streamed; its test split where it has one."""
    if importlib.util.find_spec("datasets") is None:
        raise UnsupportedError(f"--dataset {name} needs the package datasets: pip install datasets")
    from datasets import get_dataset_split_names, load_dataset  # pyright: ignore[reportMissingImports]

    try:
        splits = get_dataset_split_names(name)
        rows = load_dataset(name, split="test" if "test" in splits else splits[0], streaming=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--dataset must be a data set that can be loaded, got {name!r}: {error}") from None
    for i, row in enumerate(rows):
        require("text" in row, "--dataset", f"one with a column 'text' (it has {', '.join(row)})", name)
        yield Document(f"{name} {i}", row["text"])
