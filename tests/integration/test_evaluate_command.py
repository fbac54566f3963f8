"""The measurements alone: the figures of a lab run to the last bit, a stock model's losses, and what is refused."""

import io
import json
import math
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from conftest import Command
from ropewalk import Linear, Rotary, for_length
from ropewalk.cli.__main__ import main
from ropewalk.evaluate.run import Ledger
from ropewalk.extend.race import Reader
from ropewalk.formats import hf
from ropewalk.lab.checkpoint import Saved, put, save
from ropewalk.lab.checkpoint import read as read_checkpoint
from ropewalk.lab.evaluation import SLIDING, WINDOWS, Plan, read
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.request import LabRequest
from ropewalk.lab.run import lab
from ropewalk.lab.summary import summarise, write
from ropewalk.models.attach import attach
from ropewalk.notation import parse

LENGTHS = [16, 32, 64]
AGREE = 1e-5  # as for logits: what float32 leaves of a few layers, as a share
FIGURES = ("loss", "se", "low", "high", "tokens", "perplexity", "ratio")
Floats = NDArray[np.float64]


class Quiet:
    """A watch that listens to nothing."""

    def say(self, line: str) -> None: ...

    def at(self, share: float, what: str) -> None: ...


@pytest.fixture(scope="module")
def lab_run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab run of two steps, and its checkpoint of RoPE."""
    out = tmp_path_factory.mktemp("lab") / "run"
    sizes = {"train_length": 16, "times": 4, "steps": 2, "held_out": 1024}
    run = lab(LabRequest(str(out), encodings="Rotary(32)", text=str(book), quick=True, workers=1, **sizes), Quiet())
    write(run, summarise(run))
    return out


def checkpoint(run: Path) -> Path:
    return next((run / "checkpoints").glob("RoPE-*.safetensors"))


def stored(out: Path) -> dict[tuple[str, int], Floats]:
    """The losses of every reading of a folder, lab's or ours."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return {(r["reading"], r["length"]): np.load(out / r["losses"]) for r in rows if r["kind"] == "reading"}


@pytest.fixture(scope="module")
def again(lab_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """The checkpoint read again, and how the command ended."""
    out, said, told = tmp_path_factory.mktemp("again") / "out", io.StringIO(), io.StringIO()
    words = ["ropewalk", "evaluate", str(checkpoint(lab_run)), "--out", str(out), "--json"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(told):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
    return out, int(ended.value.code or 0), said.getvalue(), told.getvalue()


def test_a_checkpoint_of_the_lab_reads_as_its_run_did(lab_run: Path, again: tuple[Path, int, str, str]) -> None:
    out, code, said, seen = again
    assert code == 0, seen
    found = json.loads(said)
    assert found == json.loads((out / "summary.json").read_text())
    told = next(e for e in json.loads((lab_run / "summary.json").read_text())["encodings"] if e["name"] == "RoPE")
    assert found["lengths"] == LENGTHS
    for protocol, entries in told["losses"].items():
        ours = found["losses"][protocol]
        assert [x["length"] for x in ours] == LENGTHS
        assert [[x[f] for f in FIGURES] for x in ours] == [[x[f] for f in FIGURES] for x in entries]
    assert found["by_position"] == told["by_position"]
    before, after = stored(lab_run), stored(out)
    assert before.keys() == after.keys() == {(r, n) for r in (WINDOWS, SLIDING) for n in LENGTHS}
    for where, losses in before.items():
        assert len(losses) > 8
        assert np.array_equal(after[where], losses), where
    for word in ("100 %", "nonoverlapping", "sliding", "fixed target", "held out in its training"):
        assert word in seen


def test_a_reading_that_was_killed_goes_on_where_it_stopped(
    lab_run: Path, again: tuple[Path, int, str, str], tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = again[0], tmp_path / "out"
    shutil.copytree(whole, out)
    lines = (out / "rows.jsonl").read_text().splitlines(keepends=True)
    kept = "".join(lines[:5])
    (out / "rows.jsonl").write_text(kept + lines[5][:20])
    words = ("evaluate", checkpoint(lab_run), "--out", out)
    assert ropewalk(*words).code == 0
    text = (out / "rows.jsonl").read_text()
    assert text.startswith(kept)
    assert len(text.splitlines()) == len(lines)
    before, after = stored(whole), stored(out)
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[where], losses) for where, losses in before.items())
    # what is finished is only read
    monkeypatch.setattr("ropewalk.lab.workers.Workers.start", None)
    done = ropewalk(*words, "--json")
    assert (done.code, (out / "rows.jsonl").read_text()) == (0, text)
    assert json.loads(done.out) == json.loads((out / "summary.json").read_text())
    # and another text has no place in the folder
    other = ropewalk(*words, "--held-out", 512)
    assert other.code == 2
    assert "holds a run with held_out = 1024, this one has 512; choose another --out" in other.err


def test_another_encoding_on_another_text(lab_run: Path, book: Path, tmp_path: Path, ropewalk: Command) -> None:
    text = tmp_path / "text.txt"
    text.write_text((book / "03.txt").read_text())
    words = ("--encoding", "Linear(2.0)", "--text", text, "--to", 32, "--held-out", 128, "--out", tmp_path / "out")
    done = ropewalk("evaluate", checkpoint(lab_run), *words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    wanted = Rotary(32, scaling=(Linear(2.0),))
    assert (parse(found["encoding"]), parse(found["trained"])) == (wanted, Rotary(32))
    assert (found["lengths"], found["tokens"], found["text"]) == ([16, 32], 128, str(text))
    saved = read_checkpoint(checkpoint(lab_run))
    ids = torch.tensor(list(text.read_bytes()))
    plan, ours = Plan(16, 2, 128), stored(tmp_path / "out")
    for encoding, same in ((wanted, True), (Rotary(32), False)):
        model = Decoder(Shape(**saved.settings["shape"]), encoding)
        put(model, saved.tensors)
        for (reading, length), losses in ours.items():
            expected = read(model, ids, plan, reading, length, lambda _: None)
            assert np.array_equal(losses, expected) is same


@pytest.fixture(scope="module")
def other_models(lab_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that cannot be read as they are: of strings, without its text, and with another text."""
    folder = tmp_path_factory.mktemp("others")
    saved = read_checkpoint(checkpoint(lab_run))
    for name in ("strings", "alone", "moved"):
        made_of = "strings of at most 40 tokens" if name == "strings" else saved.settings["corpus"]
        settings = saved.settings | {"corpus": made_of}
        save(folder / name / "checkpoints" / "x.safetensors", saved._replace(settings=settings))
    streams = {name: torch.zeros(2000, dtype=torch.int16) for name in ("train", "held_out")}
    save(folder / "moved" / "data.safetensors", Saved(streams, 0, {}))
    return folder


LAB_REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "to be learned": (("--encoding", "T5(4)"), "--encoding must be one that learns nothing"),
    "no encoding": (("--encoding", "7"), "--encoding must be a scaling or an encoding (`ropewalk list`), got '7'"),
    "too wide": (("--encoding", "Rotary(64)"), "Rotary.dim must be at most 32"),
    "too few layers": (("--encoding", "[Alibi(4), ()]"), "encodings must be one, or one per layer, 4, got 2"),
    "no power of two": (("--to", 48), "--to must be the trained length of 16 times a power of two, up to 4096, got 48"),
    "less than trained": (("--to", 8), "--to must be the trained length of 16"),
    "nothing to predict": (("--held-out", 63), "--held-out must be at least 64, the longest text, got 63"),
    "too much to predict": (("--held-out", 10**6), "text must have at least 1,000,001 tokens, got "),
    "no such text": (("--text", "/nowhere"), "--text must be a file or folder that exists, got '/nowhere'"),
    "keys": (("--retrieval", "passkey"), "--retrieval must be left out: it is for pretrained models"),
    "baselines": (("--baselines",), "--baselines must be left out: it is for pretrained models"),
}


def refused(done: Any, says: str, out: Path) -> None:
    assert (done.code, done.out) == (2, "")
    *before, last = done.err.splitlines()
    assert last.startswith("ropewalk: ")
    assert says in last
    assert all(line.startswith("loading ") for line in before)
    assert not out.exists()


@pytest.mark.parametrize("case", LAB_REFUSED)
def test_what_a_checkpoint_of_the_lab_cannot_do(case: str, lab_run: Path, tmp_path: Path, ropewalk: Command) -> None:
    given, says = LAB_REFUSED[case]
    refused(ropewalk("evaluate", checkpoint(lab_run), *given, "--out", tmp_path / "out"), says, out=tmp_path / "out")


def test_what_is_no_checkpoint_of_a_language_model(
    other_models: Path, built: Path, tmp_path: Path, ropewalk: Command
) -> None:
    said = {
        other_models / "strings": "is no language model of the lab: it was trained on strings of at most 40 tokens",
        other_models / "alone": "alone holds no data.safetensors, the text of the training: name another with --text",
        other_models
        / "moved": f"the text in {other_models / 'moved' / 'data.safetensors'} must be that of the training",
        other_models / "none": "no such file or folder: ",
    }
    for folder, says in said.items():
        file = folder / "checkpoints" / "x.safetensors"
        refused(ropewalk("evaluate", file, "--out", tmp_path / "out"), says, out=tmp_path / "out")
    done = ropewalk("evaluate", built / "model.safetensors", "--out", tmp_path / "out")
    refused(done, "model.safetensors is no checkpoint of the lab", out=tmp_path / "out")


def own_text(built: Path, book: Path, tokens: int) -> torch.Tensor:
    """The first tokens of the book, one file after the other."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built)
    pieces = [f.read_text() + "\n\n" for f in sorted(book.iterdir())]
    ids = [i for piece in pieces for i in tokenizer(piece, add_special_tokens=False).input_ids]
    return torch.tensor(ids[:tokens])


@torch.no_grad()
def stock(built: Path, ids: torch.Tensor, encoding: str | None, length: int) -> Floats:
    """Losses of a stock forward pass over the first `length` tokens, every logit at once."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(built, dtype=torch.float32)
    if encoding is not None:
        own = hf.read(model.config.to_dict())[0]
        assert isinstance(own, Rotary)
        attach(model, for_length(Rotary(own.dim, own.base, scaling=(parse(encoding),)), length))
    logits = model(input_ids=ids[None, :length]).logits[0]
    return F.cross_entropy(logits[:-1], ids[1:length], reduction="none").double().numpy()


def pretrained(built: Path, book: Path, out: Path) -> tuple[object, ...]:
    return ("evaluate", built, "--to", 1024, "--text", book, "--dtype", "float32", "--out", out, "--json")


def test_a_pretrained_model_is_read_as_the_stock_one_reads(
    built: Path, book: Path, tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a random model finds nothing
    monkeypatch.setattr("ropewalk.evaluate.tasks.passkey.answers", lambda _, asked: [len(asked) > 6] * len(asked))
    out = tmp_path / "out"
    words = (*pretrained(built, book, out), "--encoding", "Linear(2.0)", "--baselines", "--retrieval", "named-keys")
    done = ropewalk(*words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((out / "summary.json").read_text())
    assert [r["role"] for r in found["readings"]] == ["candidate", "unmodified", "truncated"]
    ids, ledger = own_text(built, book, 1024), Ledger(out, {})
    kept = {r["name"]: ledger.losses(r) for r in ledger.of("reading")}
    for told, encoding in zip(found["readings"], ("Linear(2.0)", None), strict=False):
        expected, losses = stock(built, ids, encoding, 1024), kept[told["name"]]
        np.testing.assert_allclose(losses, expected, rtol=AGREE)
        assert [x["length"] for x in told["by_length"]] == [256, 512, 1024]
        for x in told["by_length"]:
            assert x["loss"] == pytest.approx(expected[: x["length"] - 1].mean(), rel=AGREE)
            assert x["perplexity"] == pytest.approx(math.exp(x["loss"]))
            assert x["low"] < x["loss"] < x["high"]
        for x in told["by_position"]:
            inside = expected[max(x["start"] - 1, 0) : x["end"] - 1]
            assert (x["loss"], x["tokens"]) == (pytest.approx(inside.mean(), rel=AGREE), len(inside))
    apart = {(x["name"], x["start"], x["end"]): x["nats"] for x in found["against"]}
    gap = kept["Linear(factor=2.0)"] - kept["unmodified"].astype(float)
    assert apart["unmodified", 1, 512] == pytest.approx(gap[:511].mean())
    assert apart["unmodified", 512, 1024] == pytest.approx(gap[511:].mean())
    tail = kept["Linear(factor=2.0)"][767:] - kept["last 512 tokens"].astype(float)
    assert apart["last 512 tokens", 768, 1024] == pytest.approx(tail.mean())
    answers = [a for r in ledger.of("retrieval named-keys", "Linear(factor=2.0)") for a in r["answers"]]
    for x in found["retrieval"]["by_distance"]:
        here = [hit for length, _, place, hit in answers if x["start"] <= length - place < x["end"]]
        assert (x["asked"], x["found"]) == (len(here), sum(here))
    assert 0 < found["retrieval"]["total"]["found"] < found["retrieval"]["total"]["asked"]
    assert found["retrieval"]["total"]["asked"] == sum(x["asked"] for x in found["retrieval"]["by_distance"]) > 40
    # the same again is read from its rows
    before = (out / "rows.jsonl").read_bytes()
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("read again"))
    assert json.loads(ropewalk(*words).out) == found
    assert (out / "rows.jsonl").read_bytes() == before


def test_positions_that_depend_on_the_length_have_a_pass_for_each(
    built: Path, book: Path, tmp_path: Path, ropewalk: Command
) -> None:
    out, rule = tmp_path / "out", "DynamicNTK(factor=2.0, trained_length=256)"
    assert ropewalk(*pretrained(built, book, out)).code == 0
    done = ropewalk(*pretrained(built, book, out), "--encoding", rule)
    assert done.code == 0, done.err
    first = json.loads(done.out)["readings"][0]
    assert first["passes"] == [256, 512, 1024]
    assert "each length had a pass of its own: 256, 512, 1,024" in done.err
    ids = own_text(built, book, 1024)
    whole = stock(built, ids, rule, 1024)
    for x in first["by_length"]:
        expected = stock(built, ids, rule, x["length"])
        assert x["loss"] == pytest.approx(expected.mean(), rel=AGREE)
        assert x["length"] == 1024 or abs(x["loss"] - whole[: x["length"] - 1].mean()) > 10 * AGREE * x["loss"]
    # both encodings are in one folder
    names = [json.loads(line).get("name") for line in (out / "rows.jsonl").read_text().splitlines()]
    assert names == [None, "unmodified", f"{rule} at 256 tokens", f"{rule} at 512 tokens", rule]


def test_what_is_read_where_nothing_is_said(built: Path, ropewalk: Command) -> None:
    """As far as the window, and the text that extend holds out."""
    from ropewalk.evaluate.text import documents_from, split_text
    from ropewalk.models.load import load_tokenizer

    done = ropewalk("evaluate", built, "--dtype", "float32", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["length"], found["trained_length"], found["retrieval"], found["cliff"]) == (512, 512, None, None)
    tokenizer = load_tokenizer(built)
    text = split_text(*documents_from(None, None), lambda t: tokenizer(t, add_special_tokens=False).input_ids, 512)
    assert found["readings"][0]["by_length"][-1]["loss"] == pytest.approx(
        stock(built, text.held_out, None, 512).mean(), rel=AGREE
    )


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "next to nothing": (("--to", 255), "--to must be at least 256 tokens, got 255"),
    "text too short": (("--to", 10**6), "text must have at least 1000000 tokens, got "),
    "no scaling": (("--encoding", "7"), "--encoding must be a scaling such as Yarn(factor=2.0, trained_length=8192)"),
    "unknown": (("--encoding", "Yran(2.0, 512)"), "unknown name 'Yran'; did you mean 'Yarn'?"),
    "too wide": (("--encoding", "Rotary(dim=32)"), "Rotary.dim must be 16"),
    "nothing to compare": (("--baselines",), "--baselines must be given with --encoding, or with --to beyond the"),
    "unknown task": (("--retrieval", "needle"), "--retrieval must be one of named-keys, passkey, none, got 'needle'"),
    "passkey in too short a text": (("--retrieval", "passkey"), "Passkey.length must be at least 16384, got 512"),
    "tiny chunk": (("--chunk", 4), "--chunk must be at least 32, got 4"),
    "of the lab": (("--held-out", 64), "--held-out must be left out: it is for checkpoints of the lab"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_pretrained_model_cannot_do(
    case: str, built: Path, book: Path, tmp_path: Path, ropewalk: Command
) -> None:
    given, says = REFUSED[case]
    refused(ropewalk("evaluate", built, "--text", book, "--out", tmp_path / "out", *given), says, out=tmp_path / "out")


def test_help_shows_how(ropewalk: Command) -> None:
    done = ropewalk("evaluate", "--help")
    assert (done.code, done.err) == (0, "")
    for words in ("Examples", "ropewalk evaluate demo", "out/lab/checkpoints/"):
        assert words in done.out
    assert "evaluate" in ropewalk("--help").out
