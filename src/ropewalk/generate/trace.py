"""Memory and loss of a growing text, a line of JSON every so many tokens and at its end."""

import json
import statistics
from collections import deque
from io import FileIO
from pathlib import Path
from typing import Literal, Self

import psutil

from ropewalk.errors import RopewalkError

EVERY = 256  # new tokens between two lines
LAST = 512  # new tokens whose mean loss is told


class Trace:
    """A new file of lines {"tokens", "length", "resident_bytes", "loss"}.

    `tokens` were written so far and the session is `length` tokens long; `loss` is the mean of the last 512 in nats,
    under the model itself, or of as many as there are.
    """

    def __init__(self, path: str | None) -> None:
        self.file = None if path is None else opened(path, "wb")
        self.losses: deque[float] = deque(maxlen=LAST)
        self.tokens = self.length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            if self.tokens % EVERY:
                self.tell()
            self.file.close()

    def add(self, loss: float, length: int) -> None:
        """One more token, with which the session is so long."""
        self.losses.append(loss)
        self.tokens, self.length = self.tokens + 1, length
        if self.tokens % EVERY == 0:
            self.tell()

    def tell(self) -> None:
        """A line, on its way to the disk when this returns."""
        row = {"tokens": self.tokens, "length": self.length, "resident_bytes": resident()}
        if self.file:
            put(self.file, json.dumps(row | {"loss": statistics.fmean(self.losses)}) + "\n")


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return psutil.Process().memory_info().rss


def opened(path: str, mode: Literal["ab", "wb"]) -> FileIO:
    """A file to write to, with nothing held back. Raises RopewalkError where that cannot be."""
    try:
        return Path(path).expanduser().open(mode, buffering=0)
    except OSError as error:
        raise RopewalkError(f"cannot write {path}: {error.strerror or error}") from None


def put(file: FileIO, text: str) -> None:
    """Write text as UTF-8, at once. Raises RopewalkError where the disk takes no more."""
    try:
        file.write(text.encode())
    except OSError as error:
        raise RopewalkError(f"cannot write {file.name}: {error.strerror or error}") from None
