"""Results as rows of an append-only file: written and flushed when known, found again after a kill."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import ConfigError, RopewalkError
from ropewalk.evaluate.metrics.perplexity import Losses

Row = dict[str, Any]
ROWS = "rows.jsonl"


class Ledger:
    """The rows of one run, in `folder`/rows.jsonl; the first one holds the settings that every other depends on.

    Opening a folder whose settings differ raises ConfigError and changes nothing in it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / ROWS
        self.rows = read_rows(self.path)
        wanted = json.loads(json.dumps(dict(settings)))
        if self.rows:
            check_same(self.rows[0].get("settings", {}), wanted, folder)
        else:
            make_folder(folder)
            self.add({"kind": "settings", "settings": wanted})

    def find(self, kind: str, name: str) -> Row | None:
        """The finished row of that kind and name."""
        return next((r for r in self.rows if r["kind"] == kind and r.get("name") == name), None)

    def of(self, kind: str, name: str | None = None) -> list[Row]:
        """All rows of a kind, and of a name if given."""
        return [r for r in self.rows if r["kind"] == kind and name in (None, r.get("name"))]

    def add(self, row: Row) -> Row:
        """Append one row; it is on the disk when this returns."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from None
        self.rows.append(row)
        return row

    def keep_losses(self, name: str, losses: Losses) -> str:
        """Store per-token losses beside the rows, whole or not at all; returns the file's name for a row."""
        content = io.BytesIO()
        np.save(content, losses.astype(np.float32))
        put_file(self.folder / "losses" / f"{name}.npy", content.getbuffer())
        return f"losses/{name}.npy"

    def losses(self, row: Row) -> Losses:
        """The per-token losses that a row names."""
        return np.load(self.folder / row["losses"], allow_pickle=False)


def read_rows(path: Path) -> list[Row]:
    """The complete rows of a file; a last line that a kill cut short is taken off the file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        rows: list[Any] = [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        rows = [None]
    if not all(isinstance(row, dict) and "kind" in row for row in rows):
        raise ConfigError(f"{path} is not a file of rows; choose another --out")
    return rows


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for key in now:
        if before.get(key) != now[key]:
            was, wants = before.get(key), now[key]
            raise ConfigError(
                f"{folder} holds a run with {key} = {was!r}, this one has {wants!r}; choose another --out"
            )


def put_file(file: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all, and its folder if need be; it is on the disk when this returns."""
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(file, error) from None


def put_json(file: Path, document: Mapping[str, Any]) -> None:
    """The same of a document without infinities."""
    put_file(file, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def check_writable(folder: Path) -> None:
    """Raise RopewalkError unless `folder` could be written, without making it."""
    nearest = next(p for p in [folder, *folder.resolve().parents] if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise RopewalkError(f"cannot write {folder}: {nearest} is not a folder that can be written")


def unwritable(path: Path, error: OSError) -> RopewalkError:
    return RopewalkError(f"cannot write {path}: {error.strerror or error}; finished rows are kept, run again to go on")
