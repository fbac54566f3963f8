"""Rows on disk: what a kill, a full disk or other settings do to them."""

import json
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk import ConfigError, RopewalkError
from ropewalk.evaluate.run import Ledger, check_writable

SETTINGS = {"model": "tiny", "to": 1024, "seed": 0, "weights": [("a.safetensors", 9)]}


@contextmanager
def room_for(size: int) -> Generator[None]:
    """No file may grow beyond `size` bytes: the system itself refuses, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_rows_are_found_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a" / "b", SETTINGS)
    rows = [{"kind": "race", "name": n, "tokens": i} for i, n in enumerate("xyx")] + [{"kind": "note", "name": "x"}]
    for row in rows:
        assert ledger.add(row) == row
    for found in (ledger, Ledger(tmp_path / "a" / "b", SETTINGS)):
        assert found.rows[1:] == rows
        assert found.of("race") == rows[:3]
        assert found.of("race", "x") == [rows[0], rows[2]]
        assert found.find("race", "x") == rows[0]
        assert found.find("race", "z") is None
        assert found.find("chosen", "x") is None


def test_a_row_is_on_the_disk_when_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[list[Any]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(lines(tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    ledger = Ledger(tmp_path, SETTINGS)
    ledger.add({"kind": "race", "name": "x"})
    assert [len(s) for s in synced] == [1, 2]
    assert lines(tmp_path)[0] == {"kind": "settings", "settings": json.loads(json.dumps(SETTINGS))}


@pytest.mark.parametrize("tail", ['{"kind": "race", "na', "{", '{"kind": "race", "name": "y"}'])
def test_a_line_that_was_cut_off_is_taken_away(tmp_path: Path, tail: str) -> None:
    """The last one is whole but for the end of its line: its row was never reported as written."""
    Ledger(tmp_path, SETTINGS).add({"kind": "race", "name": "x"})
    before = (tmp_path / "rows.jsonl").read_bytes()
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(tail)
    again = Ledger(tmp_path, SETTINGS)
    assert again.of("race") == [{"kind": "race", "name": "x"}]
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    again.add({"kind": "race", "name": "z"})
    assert [r.get("name") for r in lines(tmp_path)[1:]] == ["x", "z"]


def test_a_first_line_that_was_cut_off_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"kind": "settings", "set')
    assert len(Ledger(tmp_path, SETTINGS).rows) == 1
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("key", SETTINGS)
def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path: Path, key: str) -> None:
    Ledger(tmp_path, SETTINGS).add({"kind": "race", "name": "x"})
    before = (tmp_path / "rows.jsonl").read_bytes()
    says = rf"holds a run with {key} = .*, this one has 'other'; choose another --out$"
    with pytest.raises(ConfigError, match=says) as caught:
        Ledger(tmp_path, {**SETTINGS, key: "other"})
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize("content", ["not rows at all\n", '{"kind": "settings"\n{"a": 1}\n', "\x00\x01\n"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=r"rows\.jsonl is not a file of rows; choose another --out$"):
        Ledger(tmp_path, SETTINGS)
    assert (tmp_path / "rows.jsonl").read_text() == content


@pytest.mark.parametrize("row", ["3", "[]", '{"name": "x"}'])
def test_json_that_is_no_row_is_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    with pytest.raises(ConfigError, match=r"rows\.jsonl is not a file of rows; choose another --out$"):
        Ledger(tmp_path, SETTINGS)


def test_a_disk_that_fills_up_keeps_the_finished_rows(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS)
    ledger.add({"kind": "race", "name": "x"})
    size = (tmp_path / "rows.jsonl").stat().st_size
    with room_for(size + 20), pytest.raises(RopewalkError) as caught:
        ledger.add({"kind": "race", "name": "y" * 100})
    said = str(caught.value)
    assert said.startswith(f"cannot write {tmp_path / 'rows.jsonl'}: ")
    assert said.endswith("; finished rows are kept, run again to go on")
    assert "\n" not in said
    assert ledger.of("race") == [{"kind": "race", "name": "x"}]
    # part of the row is in the file, which a run that goes on takes off again
    assert (tmp_path / "rows.jsonl").stat().st_size == size + 20
    again = Ledger(tmp_path, SETTINGS)
    again.add({"kind": "race", "name": "z"})
    assert [r.get("name") for r in lines(tmp_path)[1:]] == ["x", "z"]


def test_losses_are_kept_as_they_are(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS)
    losses = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    row = {"losses": ledger.keep_losses("race-00", losses)}
    assert row == {"losses": "losses/race-00.npy"}
    found = Ledger(tmp_path, SETTINGS).losses(row)
    assert found.dtype == np.float32
    assert found.tobytes() == losses.tobytes()
    assert [f.name for f in (tmp_path / "losses").iterdir()] == ["race-00.npy"]


def test_losses_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS)
    first = np.zeros(100, dtype=np.float32)
    row = {"losses": ledger.keep_losses("race-00", first)}
    with room_for(2000):
        for name in ("race-00", "race-01"):
            says = rf"^cannot write .*losses/{name}\.npy: .*; finished rows are kept"
            with pytest.raises(RopewalkError, match=says):
                ledger.keep_losses(name, np.ones(1000, dtype=np.float32))
    assert [f.name for f in (tmp_path / "losses").iterdir()] == ["race-00.npy"]
    assert ledger.losses(row).tobytes() == first.tobytes()


def test_nothing_but_numbers_is_read_as_losses(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS)
    (tmp_path / "losses").mkdir()
    np.save(tmp_path / "losses" / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        ledger.losses({"losses": "losses/x.npy"})


def test_a_loss_that_is_no_number_is_no_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Ledger(tmp_path, SETTINGS).add({"kind": "race", "name": "x", "loss": float("nan")})
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("name", ["file", "file/below", "file/further/below"])
def test_a_file_in_the_way_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("thesis")
    says = rf"^cannot write .*{name}: .*/file is not a folder that can be written$"
    with pytest.raises(RopewalkError, match=says):
        check_writable(tmp_path / name)
    with pytest.raises(RopewalkError, match=r"^cannot write .*file"):
        Ledger(tmp_path / name, SETTINGS)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "thesis"


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(RopewalkError, match="is not a folder that can be written"):
        check_writable(tmp_path / "new")


def test_looking_whether_a_folder_can_be_written_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "a" / "b", Path("c/d"), tmp_path):
        check_writable(folder)
    assert list(tmp_path.iterdir()) == []
