"""A GGUF file copied with other metadata and other divisors per pair, the weights byte by byte."""

import math
import shutil
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ropewalk.errors import ConfigError, RopewalkError, require
from ropewalk.formats import gguf_file
from ropewalk.formats.gguf_file import BOOL, F32, FLOAT32, MAGIC, SCALARS, STRING, UINT32, Header, TensorInfo, padded

CHUNK = 2**20


def rewrite(
    source: str | Path, target: str | Path, changes: Mapping[str, Any], tensors: Mapping[str, Sequence[float] | None]
) -> None:
    """Copy a GGUF with other metadata and other small float32 tensors; None takes a key or a tensor away.

    Everything else is byte-identical and in its old order.  `source` is not touched; `target` appears complete or not
    at all.  Raises ConfigError for a bad source or value, RopewalkError if `target` cannot be written.
    """
    source, target = Path(source), Path(target)
    header = gguf_file.open(source)
    same = target.exists() and target.samefile(source)
    require(not same, "the new GGUF", "another file than the one it is made from", str(target))
    entries = {**dict.fromkeys(header.fields), **{key: encode(key, header, value) for key, value in changes.items()}}
    kept = {name: info for name, info in header.tensors.items() if name not in tensors}
    added = {name: packed(name, values) for name, values in tensors.items() if values is not None}
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as new:
            partial = Path(new.name)
            try:
                with source.open("rb") as old:
                    write_header(new, old, header, entries, {**kept, **sized(added)})
                    copy_tensors(new, old, header.alignment, kept)
                for data in added.values():
                    new.write(data + bytes(-len(data) % header.alignment))
                new.close()
                shutil.copymode(source, partial)
                partial.replace(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise RopewalkError(f"{target} cannot be written ({error.strerror or error})") from None


def packed(name: str, values: Sequence[float]) -> bytes:
    good = len(values) > 0 and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    require(good, f"tensor {name}", "a list of finite numbers", values)
    return b"".join(pack(name, "f", value) for value in values)


def pack(what: str, code: str, value: Any) -> bytes:
    try:
        return struct.pack(f"<{code}", value)
    except (struct.error, OverflowError):
        raise ConfigError(f"{what} must be a value that fits into its type in the file, got {value!r}") from None


def sized(added: Mapping[str, bytes]) -> dict[str, TensorInfo]:
    return {name: TensorInfo((len(data) // 4,), F32, 0, len(data)) for name, data in added.items()}


def encode(key: str, header: Header, value: Any) -> bytes:
    """An entry as it will stand in the file: of the old type, or else the usual one; nothing for None."""
    if value is None:
        return b""
    kinds = {str: STRING, bool: BOOL, int: UINT32, float: FLOAT32}
    require(type(value) in kinds, f"metadata {key}", "a text, a number, true or false", value)
    kind = header.fields[key].kind if key in header.fields else kinds[type(value)]
    start = text(key) + struct.pack("<I", kind)
    if kind == STRING:
        require(isinstance(value, str), f"metadata {key}", "a text", value)
        return start + text(value)
    number = kind in SCALARS and not isinstance(value, str) and (kind == BOOL) == isinstance(value, bool)
    require(number, f"metadata {key}", "of the type that it has in the file", value)
    return start + pack(f"metadata {key}", SCALARS[kind], value)


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def write_header(
    new: Any,
    old: BinaryIO,
    header: Header,
    entries: Mapping[str, bytes | None],
    tensors: Mapping[str, TensorInfo],
) -> None:
    """Everything before the tensors' bytes; entries without new content are copied."""
    there = {key: entry for key, entry in entries.items() if entry != b""}
    new.write(MAGIC + struct.pack("<IQQ", header.version, len(tensors), len(there)))
    for key, entry in there.items():
        if entry is None:
            field = header.fields[key]
            old.seek(field.start)
            entry = old.read(field.end - field.start)
        new.write(entry)
    offset = 0
    for name, info in tensors.items():
        axes = len(info.shape)
        new.write(text(name) + struct.pack(f"<I{axes}QIQ", axes, *info.shape, info.type, offset))
        offset += padded(info.size, header.alignment)
    new.write(bytes(-new.tell() % header.alignment))


def copy_tensors(new: Any, old: BinaryIO, alignment: int, tensors: Mapping[str, TensorInfo]) -> None:
    for info in tensors.values():
        old.seek(info.start)
        left = info.size
        while left:
            data = old.read(min(left, CHUNK))
            require(bool(data), "the source", "left alone while it is copied", "one that became shorter")
            new.write(data)
            left -= len(data)
        new.write(bytes(-info.size % alignment))
