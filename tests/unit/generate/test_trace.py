"""Memory and loss as a text grows: a line every so many tokens, of the last ones alone."""

import json
import math
from pathlib import Path

import psutil
import pytest

from ropewalk.errors import RopewalkError
from ropewalk.generate.trace import Trace, opened, put


def test_a_line_every_256_tokens_and_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("of before")
    with Trace(str(file)) as trace:
        for i in range(1000):
            trace.add(float(i), 7 + i)
            if i == 600:
                assert len(file.read_text().splitlines()) == 2
        held = psutil.Process().memory_info().rss
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["tokens"], r["length"]) for r in rows] == [(n, 6 + n) for n in (256, 512, 768, 1000)]
    first, last = [0, 0, 256, 488], [255, 511, 767, 999]
    assert all(math.isclose(r["loss"], (a + b) / 2) for r, a, b in zip(rows, first, last, strict=True))
    assert all(abs(r["resident_bytes"] - held) < 2e8 for r in rows)


def test_a_last_line_is_not_told_twice(tmp_path: Path) -> None:
    with Trace(str(tmp_path / "trace.jsonl")) as trace:
        for _ in range(256):
            trace.add(1.0, 1)
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == 1
    with Trace(None) as nowhere:
        nowhere.add(1.0, 1)


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    with opened("/dev/full", "ab") as file, pytest.raises(RopewalkError, match="cannot write /dev/full: No space left"):
        put(file, "text")
    with pytest.raises(RopewalkError, match=r"cannot write .*: Is a directory"):
        opened(str(tmp_path), "ab")
