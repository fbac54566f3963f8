"""`ropewalk bench` with tensors of a few kilobytes; what is compiled takes long and stays out."""

import json
from pathlib import Path

import pytest
from torch import Tensor

from conftest import Command
from ropewalk.bench.case import Problem
from ropewalk.bench.contestants import ROTATE, Contestant, Op
from ropewalk.bench.request import EVERYBODY

TINY = ("--heads", 4, "--kv-heads", 2, "--dim", 8, "--repeats", 2)
NAMES = "ropewalk,ropewalk interleaved,transformers,rotary-embedding-torch,x-transformers,torchtune,Liger-Kernel"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everybody_side_by_side_as_one_document(ropewalk: Command, here: Path) -> None:
    done = ropewalk("bench", "rotate", *TINY, "--length", "1,300", "--only", NAMES, "--plot", "x.png", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert (told["request"]["lengths"], told["request"]["heads"]) == ([1, 300], 4)
    assert set(told["machine"]) >= {"device", "threads", "torch", "date"}
    rows = {(r["length"], r["dtype"], r["contestant"]): r for r in told["rows"]}
    assert len(rows) == len(told["rows"]) == 2 * 2 * 9
    for length, dtype in ((1, "float32"), (300, "float32"), (1, "bfloat16"), (300, "bfloat16")):
        copy = rows[length, dtype, "clone"]
        assert (copy["ratio"], copy["limit"], rows[length, dtype, "copy_"]["ratio"]) == (1.0, True, 1.0)
        for name in ("ropewalk", "ropewalk interleaved", "transformers", "x-transformers"):
            row = rows[length, dtype, name]
            assert row["status"] == "timed"
            assert row["ratio"] == row["seconds"] / copy["seconds"]
            assert 0 < row["low"] <= row["seconds"] <= row["high"]
            # bytes: read and written, of 4 + 2 heads of 8 channels
            moved = 2 * 6 * 8 * length * (4 if dtype == "float32" else 2)
            assert row["gb_per_s"] == pytest.approx(moved / row["seconds"] / 1e9)
        assert rows[length, dtype, "Liger-Kernel"]["status"] == "absent"
        # it counts positions in the dtype of what it turns, and bfloat16 does not hold all of them
        counted = rows[length, dtype, "rotary-embedding-torch"]
        assert counted["status"] == ("timed" if dtype == "float32" else "wrong")
        assert (counted["seconds"] is None) == (dtype == "bfloat16")
    assert [p.name for p in here.iterdir()] == ["x.png"]
    assert (here / "x.png").read_bytes().startswith(b"\x89PNG")


def test_attention_for_eyes(ropewalk: Command, here: Path) -> None:
    names = "ropewalk,dense mask per call,dense mask cached"
    done = ropewalk("bench", "attend", *TINY, "--length", 20, "--dtype", "float32", "--only", names, "--gradients")
    assert (done.code, done.out) == (0, "")
    for words in ("Attend with ALiBi, forward", "Attend with T5, forward and backward", "Attend with KERPLE, forward"):
        assert words in done.err
    assert done.err.count("1.00x") >= 6
    assert max(map(len, done.err.splitlines())) <= 140
    assert list(here.iterdir()) == []


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "what": (("dance",), "what to compare must be one of rotate, attend, all, got 'dance'"),
    "words": (("--length", "many"), "--length must be whole numbers separated by commas, got 'many'"),
    "none": (("--length", 0), "--length must be at least 1 each, got '0'"),
    "below none": (("--heads", "-1"), "--heads must be at least 1, got -1"),
    "more than memory": (("--length", 10**12), "--length must be less: "),
    "half a head": (("--heads", "1.5"), "Invalid value for '--heads'"),
    "odd": (("--dim", 7), "--dim must be even"),
    "groups": (("--heads", 6, "--kv-heads", 4), "--heads must be a multiple of --kv-heads 4, got 6"),
    "dtype": (("--dtype", "int8"), "--dtype must be among"),
    "nobody": (("--only", "somebody"), "--only must be among clone, copy_, ropewalk, "),
    "format": (("--plot", "x.gif"), "--plot must be a name that ends in .png, .svg, .pdf"),
    "folder": (("--plot", "none/x.png"), "cannot write none/x.png: "),
    "unknown": (("--sizes", 3), "No such option"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_before_anything_runs(
    case: str, ropewalk: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr("ropewalk.bench.run.bench", never)
    given, words = REFUSED[case]
    done = ropewalk("bench", *given)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("ropewalk: ")
    assert done.err.count("\n") == 1
    assert words in done.err
    assert list(here.iterdir()) == []


def test_ours_being_wrong_is_exit_code_one(ropewalk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.rotation.Rotation.key", lambda self, x: x.clone())
    done = ropewalk("bench", *TINY, "--length", 5, "--only", "ropewalk", "--dtype", "float32")
    assert (done.code, done.out) == (1, "")
    assert "wrong" in done.err


def test_a_planted_error_is_reported_and_never_timed(ropewalk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else being wrong is no failure of the command, and chatter does not reach the document."""

    def planted(given: Problem) -> Op:
        def turn(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
            print("chatter")
            return q.clone(), k.clone()

        return turn

    left = tuple(c for c in ROTATE if c.limit or c.name == "ropewalk")
    monkeypatch.setitem(EVERYBODY, "rotate", (*left, Contestant("planted", planted)))
    done = ropewalk("bench", *TINY, "--length", 5, "--dtype", "float32", "--json")
    assert done.code == 0
    row = next(r for r in json.loads(done.out)["rows"] if r["contestant"] == "planted")
    assert (row["status"], row["seconds"], row["ratio"], row["gb_per_s"], row["peak_bytes"]) == ("wrong", *[None] * 4)
    assert row["error"] > row["allowed"]
    assert "planted is wrong here and was not timed: off by " in done.err
    # once, to be checked
    assert done.err.count("chatter") == 1


def test_help_has_examples(ropewalk: Command) -> None:
    done = ropewalk("bench", "--help")
    assert (done.code, done.err) == (0, "")
    assert "Examples" in done.out
    assert "ropewalk bench attend" in done.out
    # what stands in square brackets is taken for markup
    assert "if not given 32 to rotate, 8 to attend" in " ".join(done.out.replace("\u2502", " ").split())
