"""The whole job on a checkpoint of a few kilobytes: what it writes, what a kill costs, what it refuses."""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import Command
from ropewalk import RopewalkError, for_length, parse
from ropewalk.evaluate.run import Ledger
from ropewalk.extend import job, outcome
from ropewalk.extend.candidates import rules
from ropewalk.extend.job import Watch, extend
from ropewalk.extend.outcome import deliver, summarise
from ropewalk.extend.plan import ExtendRequest
from ropewalk.extend.race import Reader
from ropewalk.formats import hf, llamacpp, sglang, vllm
from ropewalk.models.attach import attach, detach
from ropewalk.models.load import load
from ropewalk.report import page

YARN = "Yarn(factor=2.0, trained_length=512)"
# as the plan of a whole run: this many candidates race, with two baselines
RACERS = 2 + len(rules(2.0, 512))  # the baselines and the candidates
HELD_OUT, LENGTHS = 4, 8


def arguments(model: Path, book: Path, out: Path) -> list[str]:
    return ["extend", str(model), "--to", "1024", "--text", str(book), "--out", str(out), "--dtype", "float32"]


def request(model: Path, book: Path, out: Path, **changes: Any) -> ExtendRequest:
    settings = {"model": str(model), "to": 1024, "out": str(out), "text": str(book), "dtype": "float32"}
    return ExtendRequest(**settings | changes)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def timeless(value: Any) -> Any:
    """A summary without anything that a clock or the machine decides."""
    told = ("seconds", "passes", "race_passes", "stages", "peak_memory_bytes", "deploy", "request")
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in told}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(built: Path, book: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run from a shell, and how it ended."""
    out = tmp_path_factory.mktemp("finished") / "out"
    words = [sys.executable, "-m", "ropewalk.cli.__main__", *arguments(built, book, out), "--json"]
    return out, subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_run_leaves_everything_it_promised(finished: tuple[Path, Any]) -> None:
    out, done = finished
    summary = json.loads((out / "summary.json").read_text())
    assert done.returncode == (0 if summary["gained"] else 1)
    assert summary["verdict"] in (out / "report.html").read_text().replace("&#39;", "'")
    assert summary["verdict"].startswith("Nothing helped") != summary["gained"]
    for figure in ("held_out_loss", "race", "retrieval", "spectrum"):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert ((out / "extended").is_dir(), (out / "engines").is_dir()) == (summary["gained"],) * 2
    assert not list(out.rglob("*.part"))
    keys = "model trained_length target_length chosen candidates verdict seconds peak_memory_bytes versions seed"
    assert set(keys.split()) <= set(summary)
    assert (summary["trained_length"], summary["target_length"], summary["seed"]) == (512, 1024, 0)


def test_the_only_thing_on_standard_output_is_the_summary(finished: tuple[Path, Any]) -> None:
    out, done = finished
    assert json.loads(done.stdout) == json.loads((out / "summary.json").read_text())
    assert "Traceback" not in done.stderr
    # what a person reads comes on the other stream
    for word in ("loading", "plan: ", "race: unmodified", "retrieval: unmodified", "report.html"):
        assert word in done.stderr


def test_every_figure_has_its_row(finished: tuple[Path, Any]) -> None:
    out, _ = finished
    summary = json.loads((out / "summary.json").read_text())
    kinds = [row["kind"] for row in rows(out)]
    chosen = next(row["chosen"] for row in rows(out) if row["kind"] == "chosen")
    assert kinds[0] == "settings"
    assert kinds.count("race") == RACERS
    assert kinds.count("held-out-text") == HELD_OUT
    assert kinds.count("retrieval named-keys") == LENGTHS * (2 if chosen else 1)
    assert kinds.count("chosen") == 1
    by_name = {c["name"]: c for c in summary["candidates"]}
    for row in rows(out):
        if row["kind"] == "race":
            assert by_name[row["name"]]["search"]["tokens"] == row["tokens"]
    names = [row["losses"] for row in rows(out) if "losses" in row]
    assert sorted(names) == sorted(f"losses/{f.name}" for f in (out / "losses").iterdir())


def test_a_finished_run_is_not_measured_again(
    finished: tuple[Path, Any], built: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = finished
    before = (out / "rows.jsonl").read_bytes()
    monkeypatch.setattr(Reader, "read", lambda *args: pytest.fail("read again"))
    run = extend(request(built, book, out), Watch())
    again = deliver(run, summarise(run, started=0.0))
    assert timeless(again) == timeless(json.loads((out / "summary.json").read_text()))
    assert (out / "rows.jsonl").read_bytes() == before


KILL = """
import os, signal, sys
from ropewalk.cli.__main__ import main
from ropewalk.evaluate.run import Ledger

add, left = Ledger.add, [int(sys.argv.pop(1))]

def fatal(self, row):
    if not left[0]:
        with self.path.open("a") as file:
            file.write('{"kind": "race", "name": "half a')
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return add(self, row)

Ledger.add = fatal
main()
"""


def test_a_run_that_was_killed_goes_on_where_it_stopped(
    finished: tuple[Path, Any], built: Path, book: Path, tmp_path: Path, ropewalk: Command
) -> None:
    """The kill comes with six rows finished and the seventh half written."""
    out = tmp_path / "out"
    words = [sys.executable, "-c", KILL, "6", *arguments(built, book, out)]
    killed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = (out / "rows.jsonl").read_bytes()
    kept = left[: left.rindex(b"\n") + 1]
    assert len(kept.splitlines()) == 6
    assert len(left) > len(kept)
    stamps = {row["losses"]: (out / row["losses"]).stat().st_mtime_ns for row in map(json.loads, kept.splitlines()[1:])}
    done = ropewalk(*arguments(built, book, out))
    # every finished row is there byte by byte, its seconds among them: it was not measured again
    assert (out / "rows.jsonl").read_bytes().startswith(kept)
    assert {name: (out / name).stat().st_mtime_ns for name in stamps} == stamps
    names = [(row["kind"], row.get("name"), row.get("at")) for row in rows(out)]
    assert len(set(names)) == len(names)
    whole, whole_done = finished
    assert done.code == whole_done.returncode
    assert timeless(json.loads((out / "summary.json").read_text())) == timeless(
        json.loads((whole / "summary.json").read_text())
    )


class Killed(BaseException):
    """Nothing in a program catches this, as nothing catches a kill."""


@pytest.fixture
def once_loaded(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the model one time for several runs in this process."""
    loaded = load(built, "float32")
    monkeypatch.setattr(job, "load", lambda *args: loaded)


@pytest.mark.usefixtures("once_loaded")
def test_it_may_be_killed_anywhere_and_often(
    finished: tuple[Path, Any], built: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows at a time: in the race, on held-out text, before and in the middle of retrieval."""
    add, asked = Ledger.add, request(built, book, tmp_path / "out")

    for at_once in (1, 2, 3, 5, 5, 2, 1, 1, 2, 3, 6):
        left = [at_once]

        def fatal(self: Ledger, row: Any, left: list[int] = left) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return add(self, row)

        monkeypatch.setattr(Ledger, "add", fatal)
        with pytest.raises(Killed):
            extend(asked, Watch())
    monkeypatch.setattr(Ledger, "add", add)
    run = extend(asked, Watch())
    found = deliver(run, summarise(run, started=0.0))
    whole, _ = finished
    assert timeless(found) == timeless(json.loads((whole / "summary.json").read_text()))
    assert [(r["kind"], r.get("name")) for r in rows(tmp_path / "out")] == [
        (r["kind"], r.get("name")) for r in rows(whole)
    ]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--seed", "1"], "seed"),
        (["--price", "5"], "price"),
        (["--method", YARN], "method"),
        (["--to", "1100"], "to"),
        (["--finalists", "3"], "finalists"),
        (["--retrieval", "none"], "retrieval"),
        (["--dtype", "bfloat16"], "dtype"),
    ],
)
def test_other_settings_leave_a_folder_alone(
    finished: tuple[Path, Any], built: Path, book: Path, ropewalk: Command, words: list[str], key: str
) -> None:
    out, _ = finished
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    done = ropewalk(*arguments(built, book, out), *words)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith(f"ropewalk: {out} holds a run with {key} = ")
    assert last.endswith("; choose another --out")
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before


def test_other_text_or_other_weights_leave_a_folder_alone(
    finished: tuple[Path, Any], model: Path, built: Path, book: Path, tmp_path: Path, ropewalk: Command
) -> None:
    out, _ = finished
    (tmp_path / "other.txt").write_text("\n".join(f.read_text() for f in sorted(book.iterdir(), reverse=True)))
    for words, key in (
        (arguments(built, tmp_path / "other.txt", out), "text"),
        (arguments(model, book, out), "model"),
    ):
        done = ropewalk(*words)
        assert done.code == 2
        assert f"holds a run with {key} = " in done.err.splitlines()[-1]


@pytest.mark.parametrize("helps", [True, False])
def test_one_named_method_is_measured(
    built: Path, book: Path, tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch, helps: bool
) -> None:
    monkeypatch.setattr(outcome.numbers, "helped", lambda *told: helps)
    monkeypatch.setattr(page, "write_report", lambda summary, out: [])
    out = tmp_path / "out"
    done = ropewalk(*arguments(built, book, out), "--method", YARN, "--retrieval", "none", "--json")
    assert done.code == (0 if helps else 1)
    summary = json.loads(done.out)
    names = [YARN, "unmodified", "last 512 tokens"]
    assert [c["name"] for c in summary["candidates"]] == names
    assert [c["search"] for c in summary["candidates"]] == [None] * 3
    assert all(c["held_out"] for c in summary["candidates"])
    assert {row["kind"] for row in rows(out)} == {"settings", "held-out-text", "chosen"}
    assert summary["chosen_name"] == (YARN if helps else None)
    assert summary["verdict"].startswith(f"{YARN} reads 1,024 tokens" if helps else "Nothing helped")
    assert [(out / name).is_dir() for name in ("extended", "engines")] == [helps, helps]


@pytest.mark.usefixtures("once_loaded")
def test_rules_without_training_race_and_one_that_wins_says_how_it_is_used(
    built: Path, book: Path, tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome.numbers, "helped", lambda *told: True)
    out, rule = tmp_path / "out", "ReRope(window=256)"
    done = ropewalk(*arguments(built, book, out), "--method", rule, "--retrieval", "none", "--json")
    assert done.code == 0
    summary = json.loads(done.out)
    assert (summary["chosen_name"], summary["candidates"][0]["encoding"]) == (
        rule,
        repr(parse("ReRope(Rotary(16), 256)")),
    )
    assert summary["deploy"] == [
        {"title": "Ropewalk", "path": "", "command": f'ropewalk generate {built} --encoding "{rule}" "..."'}
    ]
    assert "No engine's config can express the chosen rule" in " ".join(summary["notes"])
    assert not (out / "extended").exists()
    assert f"to use it: {summary['deploy'][0]['command']}" in done.err
    assert "checkpoint:" not in done.err
    page = (out / "report.html").read_text()
    assert rule in page
    assert "original checkpoint" not in page
    every = tmp_path / "every"
    done = ropewalk(*arguments(built, book, every), "--methods", "all", "--retrieval", "none", "--json")
    raced = {c["name"] for c in json.loads(done.out)["candidates"]}
    assert {"ReRope(window=256)", "LMInfinite(window=512)", "StreamingLLM(recent=508)"} <= raced
    assert len([name for name in raced if "Adaptive(" in name]) == 2


METHODS = [YARN, "Yarn(factor=3.0, trained_length=512, magnitude=1.03)", "NTK(factor=2.0)", "Linear(factor=2.0)"]
METHODS += ["NTKByParts(factor=2.0, trained_length=512)", "Llama3(factor=2.0, trained_length=512)"]
ENGINES: dict[str, Callable[[Path, Any], Any]] = {
    "vllm": lambda folder, config: vllm.read(json.loads((folder / "vllm.json").read_text()), config),
    "sglang": lambda folder, config: sglang.read(json.loads((folder / "sglang.json").read_text()), config),
    "llamacpp": lambda folder, config: llamacpp.read(flags(folder), config),
}


def flags(folder: Path) -> dict[str, Any]:
    tensors = folder / "llamacpp.tensors.json"
    return {
        "flags": (folder / "llamacpp.txt").read_text().split(),
        "tensors": json.loads(tensors.read_text()) if tensors.is_file() else {},
    }


@pytest.mark.usefixtures("once_loaded")
@pytest.mark.parametrize("method", METHODS)
def test_what_was_gained_can_be_deployed(
    method: str, built: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome.numbers, "helped", lambda *told: True)
    run = extend(request(built, book, tmp_path, method=method, retrieval="none"), Watch())
    summary = deliver(run, summarise(run, started=0.0))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    encodings = run.subject.field[0].encodings
    ids = run.subject.text.held_out[None]
    # stock code on the written checkpoint, ours on the loaded one
    model = run.subject.loaded.model
    with torch.no_grad():
        before = model(input_ids=ids).logits
        attach(model, for_length(encodings, 1024))
        ours = model(input_ids=ids).logits
        detach(model)
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "extended", dtype=torch.float32)
        theirs = stock(input_ids=ids).logits
    assert (ours - before).abs().max() > 1
    # stock angles are float32: their error grows with the position, and logits turn with them
    for length in (64, 1024):
        angle = length * torch.finfo(torch.float32).eps
        assert (ours - theirs)[:, :length].abs().max() < angle * ours.abs().max()
    assert stock.config.max_position_embeddings == 1024
    assert_same(hf.read(json.loads((tmp_path / "extended" / "config.json").read_text())), encodings)
    config = json.loads((built / "config.json").read_text())
    for engine, read in ENGINES.items():
        lost = (tmp_path / "engines" / f"{engine}.notes.txt").is_file()
        assert lost or (assert_same(read(tmp_path / "engines", config), encodings) is None)
    for row in summary["deploy"]:
        assert (tmp_path / row["path"]).exists()
    notes = [f.read_text().splitlines() for f in (tmp_path / "engines").glob("*.notes.txt")]
    assert {line for lines in notes for line in lines} <= set(summary["notes"])


def assert_same(found: Any, wanted: Any) -> None:
    for a, b in zip(found, wanted, strict=True):
        one, other = (for_length(e, 1024).spectrum() for e in (a, b))
        assert one.inv_freq == pytest.approx(other.inv_freq, rel=1e-6)
        assert one.magnitude == pytest.approx(other.magnitude, rel=1e-6)


@pytest.mark.usefixtures("once_loaded")
def test_yarn_needs_no_note(built: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the comparison above cannot be skipped for every engine."""
    monkeypatch.setattr(outcome.numbers, "helped", lambda *told: True)
    run = extend(request(built, book, tmp_path, method=YARN, retrieval="none"), Watch())
    deliver(run, summarise(run, started=0.0))
    assert list((tmp_path / "engines").glob("*.notes.txt")) == []


@pytest.mark.usefixtures("once_loaded")
def test_too_little_memory_is_a_note_and_not_a_crash(
    built: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    inner = LlamaMLP.forward

    def forward(self: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(self, x)

    plenty = summarise(extend(request(built, book, tmp_path / "a", method=YARN), Watch()), started=0.0)
    monkeypatch.setattr(LlamaMLP, "forward", forward)
    scarce = summarise(extend(request(built, book, tmp_path / "b", method=YARN), Watch()), started=0.0)
    assert plenty["notes"] == []
    chunks = [f"out of memory: chunks of {n} tokens from position 0 on" for n in (512, 256, 128)]
    assert scarce["notes"] == [*chunks, "out of memory: fewer questions in a call"]
    for one, other in zip(plenty["candidates"], scarce["candidates"], strict=True):
        assert one["held_out"]["beyond"]["loss"] == pytest.approx(other["held_out"]["beyond"]["loss"], abs=1e-5)
        assert one["retrieval"] == other["retrieval"]


@contextmanager
def room_for(size: int) -> Generator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("once_loaded")
@pytest.mark.parametrize("room", [300, 1500, 4000])
def test_a_disk_that_fills_up_leaves_readable_rows_and_can_go_on(
    built: Path, book: Path, tmp_path: Path, room: int
) -> None:
    asked = request(built, book, tmp_path, method=YARN, retrieval="none")
    with room_for(room), pytest.raises(RopewalkError, match=r"cannot write .*; finished rows are kept") as caught:
        extend(asked, Watch())
    assert "\n" not in str(caught.value)
    whole = (tmp_path / "rows.jsonl").read_bytes()
    finished = [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]
    extend(asked, Watch())
    assert rows(tmp_path)[: len(finished)] == finished


@pytest.mark.usefixtures("once_loaded")
@pytest.mark.parametrize("late", ["summary.json", "report.html"])
def test_a_disk_that_fills_up_at_the_end_costs_no_row(
    finished: tuple[Path, Any], built: Path, book: Path, tmp_path: Path, ropewalk: Command, late: str
) -> None:
    words = [*arguments(built, book, tmp_path), "--method", YARN, "--retrieval", "none"]
    # more than any row or losses take, and less than the last file
    room = 9000 if late == "summary.json" else (finished[0] / "summary.json").stat().st_size
    with room_for(room):
        done = ropewalk(*words)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("ropewalk: cannot write ")
    assert "Traceback" not in done.err
    assert (tmp_path / "summary.json").exists() == (late == "report.html")
    assert not (tmp_path / "report.html").exists()
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert ropewalk(*words).code in (0, 1)
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert (tmp_path / "report.html").exists()


def test_control_c_says_how_to_go_on(
    built: Path, book: Path, tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "load", interrupted)
    done = ropewalk(*arguments(built, book, tmp_path / "out"))
    assert done.code == 130
    assert done.err.splitlines()[-1] == "ropewalk: stopped; run the same command again to go on"
