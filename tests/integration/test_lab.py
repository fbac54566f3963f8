"""A comparison of seconds: what it writes, what a kill costs, what it refuses."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Command
from ropewalk.lab.checkpoint import load_decoder, read

STEPS = 40
ENCODINGS = "[(), Alibi(4), Learned(128, 16), Fire(4, threshold=1e39)]"
LIMIT = 1800  # seconds that a shared machine may take for what takes one


def words(book: Path, out: Path, **changes: Any) -> list[str]:
    given = {"text": book, "train-length": 16, "times": 4, "steps": STEPS, "held-out": 1024, "encodings": ENCODINGS}
    given |= {"tasks": "text", "out": out} | {name.replace("_", "-"): value for name, value in changes.items()}
    return ["lab", *(str(word) for name, value in given.items() for word in (f"--{name}", value))]


def shell(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "ropewalk.cli.__main__", *arguments]


def done(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(shell(arguments), capture_output=True, text=True, check=False, timeout=LIMIT)


@pytest.fixture(scope="module")
def finished(book: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """A run from a shell with two workers, and how it ended."""
    out = tmp_path_factory.mktemp("finished") / "lab"
    run = done([*words(book, out, workers=2), "--json"])
    return out, run.returncode, run.stdout, run.stderr


def test_a_run_leaves_everything_it_promised(finished: tuple[Path, int, str, str]) -> None:
    out, code, said, told = finished
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(said) == summary
    # nothing is told of models that have learned next to nothing
    assert (code, summary["verdict"]["passed"], summary["verdict"]["failed"]) == (1, 0, 0)
    assert [e["name"] for e in summary["encodings"]] == [
        "NoPE",
        "ALiBi",
        "learned",
        "Fire(heads=4, threshold=1e+39)",
    ]
    assert summary["lengths"] == [16, 32, 64]
    assert not list(out.rglob("*.part"))
    assert "100 %" in told
    assert json.loads((out / "request.json").read_text()) == summary["request"]
    assert "What does not hold, and what is not known" in (out / "report.html").read_text()
    assert {"perplexity.png", "speed.png"} <= {file.name for file in (out / "figures").iterdir()}
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows].count("training") == 4
    for row in rows:
        if "losses" in row:
            stored = np.load(out / row["losses"])
            assert len(stored) == row["tokens"] == (1024 if row["reading"] == "windows" else 32)
            assert float(stored.mean(dtype=np.float64)) == row["loss"]


def test_figures_are_those_of_the_stored_losses(finished: tuple[Path, int, str, str]) -> None:
    out = finished[0]
    summary = json.loads((out / "summary.json").read_text())
    nope, alibi = summary["encodings"][:2]

    def stored(name: str, reading: str, length: int) -> Any:
        return np.load(next((out / "losses").glob(f"{name}-*-{reading}-{length}.npy"))).astype(np.float64)

    for i, length in enumerate(summary["lengths"]):
        losses = stored("ALiBi", "windows", length)
        found = {name: alibi["losses"][name][i] for name in summary["protocols"]}
        assert found["nonoverlapping"]["loss"] == pytest.approx(losses.mean())
        assert found["nonoverlapping"]["perplexity"] == pytest.approx(math.exp(losses.mean()))
        assert found["nonoverlapping"]["ratio"] == pytest.approx(
            math.exp(losses.mean() - stored("ALiBi", "windows", 16).mean())
        )
        assert found["sliding"]["loss"] == pytest.approx(stored("ALiBi", "sliding", length).mean())
        assert found["fixed target"]["loss"] == pytest.approx(losses.reshape(16, 64)[:, -8:].mean())
        apart = next(p for p in summary["paired"] if p["protocol"] == "nonoverlapping" and p["length"] == length)
        assert (apart["first"], apart["second"]) == ("NoPE", "ALiBi")
        difference = stored("NoPE", "windows", length) - losses
        assert apart["difference"] == pytest.approx(difference.mean())
        runs = difference.reshape(-1, 64).mean(axis=1)
        assert apart["se"] == pytest.approx(runs.std(ddof=1) / len(runs) ** 0.5)
    speeds = {(s["stage"], s["length"]): s for s in nope["speed"]}
    assert len(speeds) == 6
    assert all(s["tokens_per_second"] > 0 and s["of_nope"] == 1 for s in speeds.values())


def test_a_table_that_ends_and_a_training_that_fails_stop_nobody(finished: tuple[Path, int, str, str]) -> None:
    out, _, _, told = finished
    learned, fire = json.loads((out / "summary.json").read_text())["encodings"][2:]
    home, *beyond = learned["losses"]["nonoverlapping"]
    assert home["perplexity"] > 1
    assert [x["reason"] for x in beyond] == [
        f"the position that Learned reads must be a row of its table, from 0 to 15, got {n - 1}" for n in (32, 64)
    ]
    assert [s["length"] for s in learned["speed"]] == [16, 16]
    assert (fire["trainings"][0]["outcome"], fire["trainings"][0]["steps"]) == ("stopped", 0)
    assert fire["trainings"][0]["reason"] == f"a gradient that is nan in step 1 of {STEPS}"
    assert {x["reason"] for rows in fire["losses"].values() for x in rows} == {
        f"training stopped: a gradient that is nan in step 1 of {STEPS}"
    }
    assert "the others go on" in told
    row = next(line for line in told.splitlines() if line.strip().startswith("learned "))
    assert row.split()[-2:] == ["-", "-"]


def children(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def wait(condition: Any) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def steps_of(out: Path) -> int:
    files = list((out / "checkpoints").glob("*.safetensors")) if out.is_dir() else []
    return max((read(file).step for file in files), default=0)


def test_a_killed_run_goes_on_to_the_same_bits(
    finished: tuple[Path, int, str, str], book: Path, tmp_path: Path
) -> None:
    out, arguments = tmp_path / "lab", words(book, tmp_path / "lab", workers=1, checkpoint_every=1)
    run = subprocess.Popen(shell(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: 3 <= steps_of(out))
    orphans = children(run.pid)
    assert orphans
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    wait(lambda: not any(map(alive, orphans)))
    reached = steps_of(out)
    assert reached < STEPS
    assert not (out / "summary.json").exists()
    again = done(arguments)
    assert again.returncode == 1, again.stderr
    whole = finished[0]
    for part in ("checkpoints", "losses"):
        names = sorted(file.name for file in (whole / part).iterdir())
        assert sorted(file.name for file in (out / part).iterdir()) == names
        assert len(names) == (4 if part == "checkpoints" else 14)
        for name in names:
            assert (out / part / name).read_bytes() == (whole / part / name).read_bytes(), name
    rows = [[json.loads(line) for line in (f / "rows.jsonl").read_text().splitlines()] for f in (out, whole)]
    told_once = [{r["name"]: r.get("curve") for r in some if r["kind"] == "training"} for some in rows]
    assert told_once[0] == told_once[1]


def test_a_finished_run_reads_its_rows_and_trains_nothing(
    finished: tuple[Path, int, str, str], book: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished[0]
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != "summary.json"}
    summary = json.loads((out / "summary.json").read_text())
    monkeypatch.setattr("ropewalk.lab.workers.Workers.start", None)
    ended = ropewalk(*words(book, out, workers=2), "--json")
    assert (ended.code, json.loads(ended.out)) == (1, summary)
    assert {file: file.read_bytes() for file in before} == before
    model = load_decoder(next((out / "checkpoints").glob("ALiBi-*")))
    assert model(torch.zeros(1, 64, dtype=torch.int64)).isfinite().all()


def test_a_folder_is_gone_on_with_by_its_name_alone(
    finished: tuple[Path, int, str, str], tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = finished[0], tmp_path / "moved"
    shutil.copytree(out, other)
    monkeypatch.setattr("ropewalk.lab.workers.Workers.start", None)
    ended = ropewalk("lab", "--resume", other, "--json")
    summary = json.loads((out / "summary.json").read_text())
    summary["request"]["out"] = str(other)
    assert (ended.code, json.loads(ended.out)) == (1, summary)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--steps", 3), "--resume must be without what the run has settled, got '--steps'"),
        ((), "--resume must be the folder of a lab run, with a request.json in it, got "),
    ],
)
def test_a_folder_without_a_run_is_one_line(
    arguments: tuple[Any, ...], says: str, tmp_path: Path, ropewalk: Command
) -> None:
    ended = ropewalk("lab", "--resume", tmp_path, *arguments)
    assert ended.code == 2
    assert says in ended.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_side_tasks_and_scaling_stand_beside_the_text(
    book: Path, tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("strings", "numbers"):
        monkeypatch.setattr(f"ropewalk.lab.{module}.QUICK_STEPS", 2)
    monkeypatch.setattr("ropewalk.lab.scaling.QUICK_STAGES", (1, 2))
    given = words(book, tmp_path / "lab", steps=4, encodings="[(), Rotary(32)]", tasks="text,strings,numbers,scaling")
    ended = ropewalk(*given, "--quick", "--json")
    assert ended.code == 1, ended.err
    summary = json.loads(ended.out)
    strings, numbers, scaling = (summary[name] for name in ("strings", "numbers", "scaling"))
    assert {t: [e["name"] for e in some] for t, some in strings["tasks"].items()} == {
        task: ["NoPE", "RoPE"] for task in ("copying", "recall", "passkey")
    }
    assert {form: len(some) for form, some in numbers["formats"].items()} == {"reversed": 2, "all reversed": 2}
    assert (scaling["name"], scaling["lengths"], scaling["stages"]) == ("RoPE", [16, 32, 64, 128], [1, 2])
    assert all(v["stages"] for v in scaling["variants"])
    page = (tmp_path / "lab" / "report.html").read_text()
    titles = (
        "Retrieval beside perplexity",
        "Numbers past the trained range",
        "Stretching a trained RoPE model 4 times",
    )
    assert all(title in page and title in ended.err for title in titles)
    # everything has its row, so that nothing is left to be done
    monkeypatch.setattr("ropewalk.lab.workers.Workers.start", None)
    assert json.loads(ropewalk(*given, "--quick", "--json").out) == summary


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 41}, "holds a run with recipe = .*'steps': 40.*this one has .*'steps': 41.*choose another --out"),
        ({"held_out": 512}, "holds a run with held_out = 1024, this one has 512"),
        ({"text": __file__, "held_out": 256}, "holds a run with text = "),
    ],
)
def test_a_folder_of_other_settings_is_one_line(
    changes: dict[str, Any], says: str, finished: tuple[Path, int, str, str], book: Path, ropewalk: Command
) -> None:
    out = finished[0]
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    ended = ropewalk(*words(book, out, **changes))
    assert ended.code == 2
    assert re.search(says, ended.err.splitlines()[-1])
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encodings": "[Alibbi(4)]"}, "unknown name 'Alibbi'; did you mean 'Alibi'?"),
        ({"encodings": "[Alibi(8)]"}, "Alibi.heads must be 4"),
        ({"held_out": 65_536}, "text must have at least 65,537 tokens held out, got"),
        (
            {"train_length": 1024, "held_out": 4096, "encodings": "()"},
            "text must have at least 65,536 tokens to train on",
        ),
        (
            {"tasks": "text,maths"},
            "--tasks must be of text, strings, numbers, pictures, clips, scaling, or all, got 'maths'",
        ),
        ({"tasks": "scaling"}, "--tasks must be with text where there is scaling, which needs it, got 'scaling'"),
        ({"tasks": "text,scaling"}, "--encodings must be with plain RoPE among them, which scaling stretches, got"),
        ({"text": "/nowhere"}, "--text must be a file or folder that exists, got '/nowhere'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], says: str, book: Path, tmp_path: Path, ropewalk: Command
) -> None:
    out = tmp_path / "lab"
    ended = ropewalk(*words(book, out, **changes))
    assert ended.code == 2
    assert says in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert not out.exists()
