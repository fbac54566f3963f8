"""What cannot be done is one line on standard error and exit code 2, with nothing written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Command, Done

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
TO = ("--to", 1024)


def complaint(done: Done) -> str:
    """The one line that says what is wrong, after whatever was said while loading."""
    assert done.code == 2
    assert done.out == ""
    *before, last = done.err.splitlines()
    assert last.startswith("ropewalk: ")
    assert not any(line.startswith("ropewalk:") for line in before)
    assert all(line.startswith(("loading ", "looking for ", "converting ")) for line in before)
    return last


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever a test asks for, the folder of results is not there afterwards, nor the default one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("rows.jsonl"))


def test_a_model_that_is_not_there(ropewalk: Command, out: Path) -> None:
    for name in ("./nowhere", "/no/such/folder", "nowhere.gguf"):
        assert complaint(ropewalk("extend", name, *TO, "--out", out)) == f"ropewalk: no such file or folder: {name}"


POSITIONS = {
    "gpt2": ("gpt2", "learned table"),
    "bloom-560m": ("bloom", "ALiBi"),
    "t5-small": ("t5", "learned biases"),
    "bert-base": ("bert", "encoder"),
    "opt-125m": ("opt", "learned table"),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_a_model_without_rotary_positions(name: str, ropewalk: Command, tmp_path: Path, out: Path) -> None:
    """The config alone decides; the line says what the model uses instead."""
    (tmp_path / name).mkdir()
    shutil.copyfile(CONFIGS / f"{name}.json", tmp_path / name / "config.json")
    line = complaint(ropewalk("extend", tmp_path / name, *TO, "--out", out))
    for word in POSITIONS[name]:
        assert word in line


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def rope(**values: Any) -> Callable[[Path], None]:
    return edit(rope_parameters={"rope_theta": 1e4, **values})


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[: int(len(content) * share)])

    return change


SPOILT: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "weights cut in half": (cut("model.safetensors", 0.5), ("model.safetensors", "damaged")),
    "weights cut in the header": (cut("model.safetensors", 0.001), ("model.safetensors", "damaged")),
    "config cut": (cut("config.json", 0.5), ("config.json is not JSON",)),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), ("holds no model.safetensors",)),
    "no config": (lambda model: (model / "config.json").unlink(), ("holds no config.json",)),
    "negative factor": (rope(rope_type="linear", factor=-2.0), ("config.json", "factor", "-2.0")),
    "factor in words": (rope(rope_type="yarn", factor="two"), ("config.json", "factor", "'two'")),
    "unknown rope type": (rope(rope_type="yarm", factor=2.0), ("rope_type 'yarm'", "did you mean 'yarn'?")),
    "misspelt key": (rope(rope_type="yarn", fcator=2.0), ("'fcator'", "did you mean 'factor'?")),
    "too few factors": (
        rope(rope_type="longrope", short_factor=[1.0], long_factor=[1.0], factor=2.0),
        ("short_factor", "8 numbers"),
    ),
    "negative window": (edit(max_position_embeddings=-5), ("max_position_embeddings", "-5")),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_model_that_is_damaged(case: str, ropewalk: Command, model: Path, book: Path, out: Path) -> None:
    spoil, words = SPOILT[case]
    spoil(model)
    line = complaint(ropewalk("extend", model, *TO, "--text", book, "--out", out))
    for word in (str(model), *words):
        assert word in line


def test_a_gguf_file_that_is_cut_short(ropewalk: Command, tmp_path: Path, out: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(str(tmp_path / "whole.gguf"), "llama")
    writer.add_context_length(512)
    writer.add_rope_freq_base(1e4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    whole = (tmp_path / "whole.gguf").read_bytes()
    for size in (0, 3, 30, len(whole) - 5):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        line = complaint(ropewalk("extend", tmp_path / "cut.gguf", *TO, "--out", out))
        assert "cut.gguf" in line
        assert "damaged or truncated" in line


REFUSED: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "target inside the window": (("--to", 512), ("--to must be beyond the trained window of 512 tokens, got 512",)),
    "no target": (("--to", 0), ("--to must be a positive number of tokens, got 0",)),
    "text too short": (("--to", 100000), ("text must be at least 200000 tokens long", "name more with --text")),
    "no such text": ((*TO, "--text", "/no/text"), ("--text must be a file or folder that exists", "/no/text")),
    "text and data set": ((*TO, "--dataset", "some/data"), ("--text must be given alone",)),
    "unknown scaling": ((*TO, "--method", "Yran(2.0, 512)"), ("unknown name 'Yran'", "did you mean 'Yarn'?")),
    "unknown field": ((*TO, "--method", "Linear(facter=2.0)"), ("no field 'facter'", "did you mean 'factor'?")),
    "broken notation": ((*TO, "--method", "Yarn(factor=2.0,"), ("notation must be one value", "'Yarn(factor=2.0,'")),
    "negative scaling": ((*TO, "--method", "Linear(factor=-2.0)"), ("Linear.factor must be", "-2.0")),
    "no scaling": ((*TO, "--method", "7"), ("--method must be a scaling", "'7'")),
    "wrong width": ((*TO, "--method", "Rotary(dim=32)"), ("Rotary.dim must be 16", "32")),
    "wrong count of factors": ((*TO, "--method", "Rescale((1.0, 2.0))"), ("Rescale.factors must be 8 numbers",)),
    "unknown retrieval": ((*TO, "--retrieval", "needle"), ("--retrieval must be one of", "'needle'")),
    "passkey in too short a text": ((*TO, "--retrieval", "passkey"), ("Passkey.length", "16384", "got 1024")),
    "no price": ((*TO, "--price", 0), ("--price must be above 0",)),
    "negative price": ((*TO, "--price", -4), ("--price must be above 0",)),
    "price in words": ((*TO, "--price", "cheap"), ("--price", "number")),
    "no finalists": ((*TO, "--finalists", 0), ("--finalists must be at least 1, got 0",)),
    "tiny chunk": ((*TO, "--chunk", 4), ("--chunk must be at least 32, got 4",)),
    "unknown dtype": ((*TO, "--dtype", "int4"), ("dtype must be one of bfloat16, float16, float32, got 'int4'",)),
    "unknown option": ((*TO, "--retreival", "none"), ("--retreival", "--retrieval")),
    "target in words": (("--to", "much"), ("--to", "integer")),
    "target left out": ((), ("Missing option '--to'",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_cannot_be_carried_out(case: str, ropewalk: Command, built: Path, book: Path, out: Path) -> None:
    given, words = REFUSED[case]
    text = () if "--text" in given else ("--text", book)
    line = complaint(ropewalk("extend", built, *text, "--out", out, *given))
    for word in words:
        assert word in line


def test_no_command(ropewalk: Command) -> None:
    assert "No such command 'extent'" in complaint(ropewalk("extent", "demo", *TO))
    assert "Missing argument" in complaint(ropewalk("extend"))


@pytest.mark.parametrize("words", [(), ("--help",), ("extend", "--help")])
def test_help_is_no_mistake(words: tuple[str, ...], ropewalk: Command) -> None:
    done = ropewalk(*words)
    assert (done.code, done.err) == (0, "")
    assert "extend" in done.out


def test_a_file_where_the_results_should_go(ropewalk: Command, built: Path, book: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("thesis")
    for place in ("taken", "taken/below", "taken/further/below"):
        line = complaint(ropewalk("extend", built, *TO, "--text", book, "--out", tmp_path / place))
        assert f"cannot write {tmp_path / place}: " in line
        assert str(tmp_path / "taken") in line
    assert (tmp_path / "taken").read_text() == "thesis"


def test_a_folder_that_holds_something_else(ropewalk: Command, built: Path, book: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rows.json").touch()
    lines = tmp_path / "mine" / "rows.jsonl"
    lines.write_text("one\ntwo\n")
    line = complaint(ropewalk("extend", built, *TO, "--text", book, "--out", tmp_path / "mine"))
    assert f"{lines} is not a file of rows; choose another --out" in line
    assert lines.read_text() == "one\ntwo\n"
    lines.unlink()


def test_a_model_whose_positions_no_config_can_change(ropewalk: Command, model: Path, book: Path, out: Path) -> None:
    """Known before anything is measured, not when a winner is to be written."""
    from transformers import GPTJConfig, GPTJForCausalLM

    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "rotary_dim": 8, "vocab_size": 512, "n_positions": 512}
    GPTJForCausalLM(GPTJConfig(**shape, bos_token_id=0, eos_token_id=1)).save_pretrained(model)
    line = complaint(ropewalk("extend", model, *TO, "--text", book, "--out", out))
    assert "gptj" in line


def test_from_a_shell() -> None:
    """A program of its own: nothing but the line, and the exit code."""
    run = [sys.executable, "-m", "ropewalk.cli.__main__", "extend", "./nowhere", "--to", "1024"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    complaint(Done(done.returncode, done.stdout, done.stderr))
