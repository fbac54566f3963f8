"""The text of the lab as two streams of tokens: files that are trained on, and files that never are."""

import hashlib
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import ConfigError, require
from ropewalk.evaluate.text import Document, from_path

HELD_OUT = 0.05  # of the text, by files
ASIDE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
GAP = "\n\n"  # between two files


class Corpus(NamedTuple):
    """Two streams of token ids that share no file."""

    train: Tensor  # Int16[N]
    held_out: Tensor  # Int16[N]
    vocabulary: int
    bytes_per_token: float  # of the held-out stream
    source: str
    pieces: str = ""  # the tokenizer as JSON, where tokens are not bytes

    @property
    def digest(self) -> str:
        """What tells two corpora apart."""
        streams = b"".join(x.numpy().tobytes() for x in (self.train, self.held_out))
        return hashlib.sha256(streams).hexdigest()[:16]


def corpus(text: str | None, pieces: int | None, tokenizer: Path) -> Corpus:
    """The running Python's library sources, or the file or folder `text`, as bytes or as `pieces` learned pieces.

    The pieces are learned from the training files by byte-pair encoding; where the file `tokenizer` is there, it is
    read instead.
    """
    if text is None:
        source, documents = "the sources of Python's standard library", list(library())
    else:
        path = Path(text).expanduser()
        require(path.exists(), "--text", "a file or folder that exists", text)
        source, documents = text, list(from_path(path))
    train, held_out = split(documents)
    told = f"{source}, {len(train)} files to train on and {len(held_out)} held out"
    if len(documents) == 1:
        told = f"{source}, its last {100 * HELD_OUT:.0f} % held out"
    streams = [GAP.join(d.content for d in part) for part in (train, held_out)]
    known = Pieces(as_bytes, 256, "") if pieces is None else learned([d.content for d in train], pieces, tokenizer)
    ids = [torch.tensor(known.encode(stream), dtype=torch.int16) for stream in streams]
    return Corpus(ids[0], ids[1], known.vocabulary, len(streams[1].encode()) / max(len(ids[1]), 1), told, known.kept)


def library() -> Iterator[Document]:
    """The sources of Python's standard library without its tests, in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        where = file.relative_to(root)
        if not ASIDE & set(where.parts):
            yield Document(where.as_posix(), file.read_text(encoding="utf-8", errors="replace"))


def split(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """What is trained on and what is held out: files drawn once, the same in every run, until 5 % of all are reached.

    A single file is cut at 95 % of its length.
    """
    if len(documents) == 1:
        name, content = documents[0]
        cut = round(len(content) * (1 - HELD_OUT))
        return [Document(name, content[:cut])], [Document(name, content[cut:])]
    order = random.Random(0).sample(documents, len(documents))
    wanted = HELD_OUT * sum(len(d.content) for d in documents)
    count, have = 0, 0
    while have < wanted and count < len(order) - 1:
        have += len(order[count].content)
        count += 1
    return order[count:], order[:count]


def as_bytes(text: str) -> list[int]:
    """One token per byte of UTF-8."""
    return list(text.encode())


class Pieces(NamedTuple):
    """What turns text into tokens."""

    encode: Callable[[str], list[int]]
    vocabulary: int
    kept: str  # as JSON, where it was learned


def learned(texts: list[str], pieces: int, file: Path) -> Pieces:
    """A byte-level byte-pair encoding of so many pieces, fewer where a text has no more, or that of `file`."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise ConfigError(f"--bpe {pieces} needs the package tokenizers: pip install tokenizers") from None
    if file.is_file():
        known = Tokenizer.from_file(str(file))
    else:
        known = Tokenizer(models.BPE())
        known.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        known.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        known.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=alphabet, show_progress=False)
        )
    return Pieces(lambda text: known.encode(text).ids, known.get_vocab_size(), known.to_str())


def check_size(corpus: Corpus, train: int, held_out: int) -> None:
    """Raise ConfigError unless either stream has so many tokens."""
    for name, need, stream in (("to train on", train, corpus.train), ("held out", held_out, corpus.held_out)):
        rule = f"at least {need:,} tokens {name}"
        if len(stream) < need:
            short = f"{len(stream):,} in {corpus.source}"
            raise ConfigError(f"text must have {rule}, got {short}; name more with --text, or ask for shorter lengths")


def windows(stream: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Int64[B, length] each: the tokens from each of `starts` (Int[B]) on, and those that follow each of them."""
    rows = torch.stack([stream[s : s + length + 1] for s in starts.tolist()]).long()
    return rows[:, :-1], rows[:, 1:]
