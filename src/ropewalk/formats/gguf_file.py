"""The header of a GGUF file, read without the weights. Layout: docs/gguf.md of ggml, versions 2 and 3.

A file is a header (counts, metadata, one line per tensor), padding, and the tensors' bytes back to back, each padded.
"""

import math
import os
import struct
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.errors import ConfigError, RopewalkError, require

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
STRING, ARRAY, BOOL, UINT32, FLOAT32 = 8, 9, 7, 4, 6
# struct codes of the scalar types of metadata
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", 5: "i", FLOAT32: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
# no key, chat template or description is longer, and no list of a rotary parameter
TEXT, LISTED = 2**24, 4096
F32 = 0
FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
LARGEST_ALIGNMENT = 2**20


class Field(NamedTuple):
    """One metadata entry: how its value is stored, and where the entry lies in the file."""

    kind: int
    item: int  # kind of the items of a list
    start: int
    end: int


class TensorInfo(NamedTuple):
    """One tensor: its shape in GGUF's order (fastest first), its type, where its bytes start in the file, how many."""

    shape: tuple[int, ...]
    type: int
    start: int
    size: int


class Header(NamedTuple):
    """What a GGUF file says before its weights."""

    path: Path
    version: int
    alignment: int
    metadata: dict[str, Any]  # without lists of more than 4,096 items, such as a vocabulary
    fields: dict[str, Field]
    tensors: dict[str, TensorInfo]
    factors: dict[str, tuple[float, ...]]  # values of the tensors of divisors per pair

    def payload(self) -> dict[str, Any]:
        """Metadata and divisors, as `gguf.read` takes them."""
        return {"metadata": self.metadata, "tensors": {name: list(values) for name, values in self.factors.items()}}


def open(path: str | Path) -> Header:
    """The header of a GGUF file; of the weights nothing is read but divisors per pair.

    Raises ConfigError for a file that is damaged, truncated or of another kind, RopewalkError if it cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            require(os.fstat(file.fileno()).st_size > 0, f"{path}: the file", "a GGUF file", "an empty one")
            with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                return parse(path, Cursor(path, content))
    except OSError as error:
        raise RopewalkError(f"{path} cannot be read ({error.strerror or error})") from None


class Cursor:
    """Reads forward through a file; what lies past its end is a ConfigError, whatever the file claims to hold."""

    def __init__(self, path: Path, content: mmap) -> None:
        self.path, self.content, self.at, self.size = path, content, 0, len(content)

    def need(self, size: int, what: str) -> None:
        if size > self.size - self.at:
            found = self.size - self.at
            raise ConfigError(f"{self.path}: damaged or truncated: {what} takes {size} bytes, {found} are left")

    def take(self, code: str, what: str) -> Any:
        self.need(struct.calcsize(f"<{code}"), what)
        values = struct.unpack_from(f"<{code}", self.content, self.at)
        self.at += struct.calcsize(f"<{code}")
        return values[0] if len(values) == 1 else values

    def text(self, what: str) -> str:
        size = self.take("Q", what)
        require(size <= TEXT, f"{self.path}: the length of {what}", f"at most {TEXT}", size)
        self.need(size, what)
        self.at += size
        try:
            return self.content[self.at - size : self.at].decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{self.path}: damaged: {what} is not UTF-8 text") from None

    def skip(self, size: int, what: str) -> None:
        self.need(size, what)
        self.at += size


def parse(path: Path, cursor: Cursor) -> Header:
    cursor.need(24, "the header")
    magic = cursor.content[:4]
    require(magic == MAGIC, f"{path}: the first four bytes", f"{MAGIC!r} (a GGUF file)", magic)
    cursor.at = 4
    version, tensors, entries = cursor.take("IQQ", "the header")
    require(version in VERSIONS, f"{path}: the GGUF version", "2 or 3, little-endian", version)
    metadata, fields = parse_metadata(cursor, entries)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    good = type(alignment) is int and 0 < alignment <= LARGEST_ALIGNMENT and alignment & (alignment - 1) == 0
    require(good, f"{path}: general.alignment", "a power of two", alignment)
    infos = parse_tensors(cursor, tensors, alignment)
    factors = {name: factor_values(cursor, name, infos[name]) for name in FACTORS if name in infos}
    return Header(path, version, alignment, metadata, fields, infos, factors)


def parse_metadata(cursor: Cursor, entries: int) -> tuple[dict[str, Any], dict[str, Field]]:
    # an entry has at least the lengths and types of key and value
    cursor.need(entries * 13, f"metadata of {entries} entries")
    metadata: dict[str, Any] = {}
    fields: dict[str, Field] = {}
    for _ in range(entries):
        start = cursor.at
        key = cursor.text("a metadata key")
        require(key not in fields, f"{cursor.path}: metadata key {key!r}", "there once", "another one")
        kind = cursor.take("I", key)
        item = kind
        if kind == ARRAY:
            item, count = cursor.take("IQ", key)
            values = parse_list(cursor, key, item, count)
        else:
            values = parse_value(cursor, key, kind)
        if values is not None:
            metadata[key] = values
        fields[key] = Field(kind, item, start, cursor.at)
    return metadata, fields


def parse_value(cursor: Cursor, key: str, kind: int) -> Any:
    if kind == STRING:
        return cursor.text(key)
    require(kind in SCALARS, f"{cursor.path}: the type of {key}", "a metadata type", kind)
    return cursor.take(SCALARS[kind], key)


def parse_list(cursor: Cursor, key: str, item: int, count: int) -> list[Any] | None:
    """The items; None if they are many, and then no memory is taken for them."""
    require(item == STRING or item in SCALARS, f"{cursor.path}: the type of the items of {key}", "a scalar type", item)
    size = 8 if item == STRING else struct.calcsize(f"<{SCALARS[item]}")
    cursor.need(count * size, f"{key}, a list of {count} items,")
    if count <= LISTED:
        return [parse_value(cursor, key, item) for _ in range(count)]
    if item != STRING:
        cursor.skip(count * size, key)
        return None
    for _ in range(count):
        cursor.skip(cursor.take("Q", key), key)
    return None


def parse_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    cursor.need(count * 24, f"a table of {count} tensors")
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = cursor.text("a tensor's name")
        require(name not in found, f"{cursor.path}: tensor {name!r}", "there once", "another one")
        axes = cursor.take("I", name)
        require(1 <= axes <= 4, f"{cursor.path}: the number of axes of {name}", "1 to 4", axes)
        shape = tuple(cursor.take("Q", name) for _ in range(axes))
        found[name] = (shape, *cursor.take("IQ", name))
    start = padded(cursor.at, alignment)
    infos: dict[str, TensorInfo] = {}
    for name, (shape, kind, offset) in found.items():
        size = bytes_of(f"{cursor.path}: tensor {name}", shape, kind)
        require(offset % alignment == 0, f"{cursor.path}: the offset of {name}", f"a multiple of {alignment}", offset)
        cursor.at = min(start + offset, cursor.size)
        cursor.need(size, f"tensor {name}")
        infos[name] = TensorInfo(shape, kind, start + offset, size)
    return infos


def bytes_of(what: str, shape: Sequence[int], kind: int) -> int:
    """How many bytes a tensor of this shape and type has."""
    from gguf.constants import GGML_QUANT_SIZES

    sizes = {int(known): size for known, size in GGML_QUANT_SIZES.items()}
    require(kind in sizes, f"{what}: its type", "a type that the gguf package knows", kind)
    block, size = sizes[kind]
    require(shape[0] % block == 0, f"{what}: its rows", f"a multiple of {block} long", shape[0])
    return math.prod(shape) // block * size


def factor_values(cursor: Cursor, name: str, info: TensorInfo) -> tuple[float, ...]:
    known = info.type == F32 and len(info.shape) == 1 and info.shape[0] <= LISTED
    require(known, f"{cursor.path}: tensor {name}", f"a list of at most {LISTED} float32 numbers", tuple(info.shape))
    return struct.unpack_from(f"<{info.shape[0]}f", cursor.content, info.start)


def padded(size: int, alignment: int) -> int:
    return size + -size % alignment
