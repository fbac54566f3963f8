"""`ropewalk convert` from the command line: what it writes, what it says, and what it refuses in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Command, Done

TO = ("--to", "interleaved")


def complaint(done: Done) -> str:
    """The one line that says what is wrong."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("ropewalk: ")
    assert done.err.count("\n") == 1
    return done.err


def test_there_and_back(ropewalk: Command, built: Path, tmp_path: Path) -> None:
    done = ropewalk("convert", built, *TO, "--out", tmp_path / "there", "--json")
    told = json.loads(done.out)
    assert done.code == 0
    assert told["folder"] == str(tmp_path / "there")
    assert (told["before"], told["pairing"], told["tensors"]) == ("half", "interleaved", 4)
    assert (told["shards"], told["kept"]) == (["model.safetensors"], [])
    note = json.loads((tmp_path / "there" / "pairing.json").read_text())
    assert note == {"pairing": "interleaved", "model_type": "llama", "note": told["note"]}
    assert told["note"] in done.err
    assert "Transformers pairs channels of 'llama' the half way" in told["note"]
    names = {file.name for file in built.iterdir()}
    assert {"tokenizer.json", "config.json", "generation_config.json"} <= names
    assert {file.name for file in (tmp_path / "there").iterdir()} == names | {"pairing.json"}
    refused = ropewalk("extend", tmp_path / "there", "--to", "128", "--out", tmp_path / "run")
    assert refused.code == 2
    assert "are in interleaved order, and stock code would pair" in refused.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    back = ropewalk("convert", tmp_path / "there", "--to", "half", "--out", tmp_path / "back")
    assert (back.code, back.out) == (0, "")
    assert {file.name for file in (tmp_path / "back").iterdir()} == names
    assert all((tmp_path / "back" / name).read_bytes() == (built / name).read_bytes() for name in names)


def test_an_adapter(ropewalk: Command, built: Path, tmp_path: Path) -> None:
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{stem}.lora_A.weight": torch.randn(2, 32), f"{stem}.lora_B.weight": torch.randn(32, 2)}
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/hub"}')
    there = ("convert", tmp_path / "lora", *TO, "--out", tmp_path / "new")
    assert "belongs to a/hub, which is no folder here; name it, or its config, with --base" in complaint(
        ropewalk(*there)
    )
    done = ropewalk(*there, "--base", built)
    assert (done.code, done.out) == (0, "")
    assert "This adapter is for a base model in the same order" in done.err
    new = load_file(tmp_path / "new" / "adapter_model.safetensors")
    order = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
    wanted = tensors[f"{stem}.lora_B.weight"].view(2, 16, 2)[:, order].flatten(0, 1)
    assert torch.equal(new[f"{stem}.lora_B.weight"], wanted)
    assert torch.equal(new[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_A.weight"])
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "peft_type 'IA3' cannot be reordered, only LORA" in complaint(ropewalk(*there, "--out", tmp_path / "newer"))


def test_a_model_that_learned_nothing_is_not_judged(ropewalk: Command, built: Path, book: Path) -> None:
    done = ropewalk("convert", built, "--detect", "--text", book, "--json")
    told = json.loads(done.out)
    assert (done.code, told["pairing"]) == (1, None)
    assert set(told["losses"]) == {"half", "interleaved"}
    # not 1,023: the window has 512
    assert told["margin"]["tokens"] == 511
    assert "too close to tell" in done.err
    assert "an answer takes 0.5 nats and 5 standard errors" in done.err


def test_what_cannot_be_carried_out(ropewalk: Command, built: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(built, tmp_path / "model"))
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    out = ("--out", tmp_path / "out")
    for words, says in (
        ((model, "--to", "halved", *out), "--to must be half or interleaved, got 'halved'"),
        ((model, *TO, "--from", "left", *out), "--from must be half or interleaved, got 'left'"),
        ((model, "--to", "half", *out), "is in half order already; if it is not, say so with --from"),
        ((model, *TO, "--out", model), "--out must not be inside the folder that is converted"),
        ((model, *TO, "--out", model / "below"), "--out must not be inside the folder that is converted"),
        ((model, *TO, "--out", built), f"{built} is there already; name another folder"),
        ((model, *TO), "convert takes --to and --out, or --detect which may take --text"),
        ((model, *out), "convert takes --to and --out"),
        ((model, *TO, *out, "--text", "x"), "convert takes --to and --out"),
        ((model, "--detect", *TO), "--detect must be given without --to"),
        ((model, "--detect", "--text", tmp_path / "no"), "--text must be a file or folder that exists"),
        ((tmp_path / "nowhere", *TO, *out), "no such file or folder"),
        ((tmp_path, *TO, *out), f"{tmp_path} holds no config.json"),
    ):
        assert says in complaint(ropewalk("convert", *words))
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_quantised_weights(method: str, ropewalk: Command, model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    line = complaint(ropewalk("convert", model, *TO, "--out", tmp_path / "out"))
    assert f"weights quantised by '{method}' cannot be reordered" in line
    assert not (tmp_path / "out").exists()
