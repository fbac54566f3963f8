"""One safetensors file: what is in it, and the same file with rows of some tensors in another order, as a stream."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ropewalk.errors import ConfigError
from ropewalk.models.files import first_line

Piece = bytes | memoryview
PIECE = 1 << 24  # bytes that are copied at a time


class Stored(NamedTuple):
    """One tensor of a file."""

    name: str
    dtype: str  # as safetensors spells it: BF16
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file
    end: int


def stored(file: Path) -> list[Stored]:
    """The tensors of a safetensors file as they follow each other. Raises ConfigError for a file that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        # the library knows every way in which a header can lie
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise ConfigError(f"{file} is a damaged safetensors file: {first_line(error)}") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from None
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        header: dict[str, Any] = json.loads(source.read(length))
    first = 8 + length
    tensors = [
        Stored(name, told["dtype"], tuple(told["shape"]), *(first + offset for offset in told["data_offsets"]))
        for name, told in header.items()
        if name != "__metadata__"
    ]
    return sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))


def reordered(file: Path, tensors: Sequence[Stored], orders: Mapping[str, Sequence[int]]) -> Iterator[Piece]:
    """The bytes of `file` with the rows of some of its `tensors` in another order; the largest piece is one tensor.

    `orders` maps the name of a tensor to the old row of each new one; rows are as many equal parts of its bytes.
    """
    with file.open("rb") as source:
        done = 0
        for tensor in tensors:
            if tensor.name in orders:
                yield from copied(source, done, tensor.begin)
                yield rows_in_order(source, tensor, orders[tensor.name])
                done = tensor.end
        yield from copied(source, done, file.stat().st_size)


def copied(source: BinaryIO, begin: int, end: int) -> Iterator[Piece]:
    """The bytes from `begin` to `end`."""
    source.seek(begin)
    for at in range(begin, end, PIECE):
        yield source.read(min(PIECE, end - at))


def rows_in_order(source: BinaryIO, tensor: Stored, order: Sequence[int]) -> memoryview:
    """The bytes of one tensor with its rows in another order."""
    import numpy as np

    source.seek(tensor.begin)
    content = np.frombuffer(source.read(tensor.end - tensor.begin), np.uint8)
    return content.reshape(len(order), -1)[np.asarray(order)].reshape(-1).data


def holds(file: Path, pieces: Iterator[Piece]) -> bool:
    """Whether the file is there and consists of exactly these bytes."""
    if not file.is_file():
        return False
    with file.open("rb") as there:
        return all(there.read(len(piece)) == piece for piece in pieces) and not there.read(1)


def write(file: Path, pieces: Iterator[Piece]) -> None:
    """Write a file under another name first: under its own it is complete, and on the disk, or not there."""
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as made:
            for piece in pieces:
                made.write(piece)
            made.flush()
            os.fsync(made.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
