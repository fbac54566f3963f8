"""`ropewalk doctor` from the command line: what it says, how it ends, how fast it is, and what it refuses."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import Command, Done

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}


def complaint(done: Done) -> str:
    """The one line that says what is wrong."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("ropewalk: ")
    assert done.err.count("\n") == 1
    return done.err


def saved(folder: Path, content: Any) -> Path:
    file = folder / "config.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_what_an_engine_computes(ropewalk: Command) -> None:
    done = ropewalk("doctor", CONFIGS / "gpt-oss-20b.json", "--engine", "llamacpp", "--json")
    assert done.code == 1
    assert "llama.cpp with this gpt_oss, texts of 131,072 tokens: would compute something else" in done.err
    assert "ramp       pairs 8 to 18 of 32" in done.err
    assert "should be slowed by" in done.err
    (told,) = json.loads(done.out)
    assert told["sound"] is False
    assert len(told["parts"][0]["inv_freq"]) == 32
    assert {finding["about"] for finding in told["findings"] if finding["wrong"]} == {"differs", "ignored key"}
    every = ropewalk("doctor", CONFIGS / "gpt-oss-20b.json", "--engine", "llamacpp", "--pairs")
    assert len(every.err.splitlines()) == len(done.err.splitlines()) + 32 - 9


def test_every_engine_is_asked(ropewalk: Command, built: Path) -> None:
    done = ropewalk("doctor", built)
    assert done.code == 0
    said = [f"{name} with this llama" for name in ("transformers", "vLLM", "SGLang", "llama.cpp", "MLX-LM")]
    assert all(line in done.err for line in said)
    assert done.err.count("computes what the config says") == 5
    unknown = ropewalk("doctor", CONFIGS / "olmo-1b.json")
    assert "- llamacpp: llama.cpp's architecture for model_type 'olmo' is not known here" in unknown.err
    mixed = ropewalk("doctor", CONFIGS / "phi-3-mini-128k.json")
    assert mixed.code == 1
    assert mixed.err.count("would compute something else") == 4


def test_an_override(ropewalk: Command, tmp_path: Path) -> None:
    config = CONFIGS / "qwen2.5-7b.json"
    override = ("--engine", "vllm", "--override")
    lost = {key: value for key, value in YARN.items() if key != "rope_theta"}
    stopped = ropewalk("doctor", config, *override, json.dumps({"rope_parameters": lost}))
    assert stopped.code == 1
    assert "stops without 'rope_theta'" in stopped.err
    file = tmp_path / "vllm.json"
    file.write_text(json.dumps({"rope_parameters": YARN, "max_position_embeddings": 131072}))
    assert ropewalk("doctor", config, *override, file).code == 0


def test_weights_that_were_converted(ropewalk: Command, model: Path, tmp_path: Path) -> None:
    ropewalk("convert", model, "--to", "interleaved", "--out", tmp_path / "other")
    done = ropewalk("doctor", tmp_path / "other", "--engine", "vllm")
    assert done.code == 1
    assert "the weights were put into the interleaved order, and vLLM pairs the half way" in done.err


@pytest.mark.slow
def test_the_demo_file(ropewalk: Command) -> None:
    done = ropewalk("doctor", "demo")
    assert done.code == 0
    assert "llama.cpp with this llama, texts of 8,192 tokens: computes what the config says" in done.err
    assert "llamacpp for a .gguf file" in complaint(ropewalk("doctor", "demo", "--engine", "mlx"))


def test_it_takes_no_weights_and_no_torch(built: Path) -> None:
    """Under two seconds of processor time for a whole folder, with the start of Python in it."""
    command = [sys.executable, "-X", "importtime", "-m", "ropewalk.cli", "doctor", str(built), "--engine", "vllm"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime"))
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "ropewalk.formats.doctor" in loaded
    assert not loaded & {"torch", "transformers", "safetensors", "numba", "matplotlib"}
    assert spent < 2


def test_bad_input(ropewalk: Command, built: Path, tmp_path: Path) -> None:
    fine = json.loads((CONFIGS / "qwen2.5-7b.json").read_text())
    zero = saved(tmp_path, {**fine, "rope_scaling": {**YARN, "factor": 0}})
    assert "factor must be a number of at least 1, got 0" in complaint(ropewalk("doctor", zero, "--engine", "vllm"))
    assert "did you mean 'vllm'" in complaint(ropewalk("doctor", built, "--engine", "vlm"))
    for length in ("0", "-3", str(10**30)):
        assert "length must be from 1" in complaint(ropewalk("doctor", built, "--engine", "hf", "--length", length))
    assert "'--length': " in (said := complaint(ropewalk("doctor", built, "--length", "1e30")))
    assert "got '1e30'" in said
    assert "must hold one JSON object, got list" in complaint(ropewalk("doctor", saved(tmp_path, [1])))
    assert "is not JSON" in complaint(ropewalk("doctor", saved(tmp_path, "{")))
    huge = saved(tmp_path, {**fine, "max_position_embeddings": 1e30})
    assert "max_position_embeddings must be a whole number" in complaint(ropewalk("doctor", huge))
    assert "no such file or folder" in complaint(ropewalk("doctor", tmp_path / "none.json"))
    assert "--override is not JSON" in complaint(ropewalk("doctor", built, "--engine", "vllm", "--override", "{"))
    assert "--engine must be given" in complaint(ropewalk("doctor", built, "--override", "{}"))
    assert "a JSON object" in complaint(ropewalk("doctor", built, "--engine", "vllm", "--override", "[]"))
    assert "is no rotation" in complaint(ropewalk("doctor", CONFIGS / "bloom-560m.json"))
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    assert "damaged or truncated" in complaint(ropewalk("doctor", bad))
    bad.write_bytes(b"FUGG" + bytes(100))
    assert "bad.gguf" in complaint(ropewalk("doctor", bad))
