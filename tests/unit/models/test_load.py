import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ropewalk import ConfigError, RopewalkError, Rotary, UnsupportedError, Yarn
from ropewalk.models.load import load


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of config.json; None removes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_a_folder_yields_model_tokenizer_and_positions(folder: Path) -> None:
    loaded = load(folder)
    assert loaded.encodings == (Rotary(16),) * 2
    assert (loaded.folder, loaded.name, loaded.trained_length) == (folder, str(folder), 64)
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert loaded.tokenizer.encode("w5 w7") == [5, 7]
    assert load(str(folder), dtype="float32").model.dtype == torch.float32
    assert load(folder, dtype=torch.float16).model.dtype == torch.float16


def test_loading_writes_nothing_to_the_terminal(folder: Path) -> None:
    run = f"from ropewalk.models.load import load; load({str(folder)!r}).tokenizer('w3 ' * 200)"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_trained_window_is_the_one_before_scaling(folder: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    edit(folder, rope_parameters=yarn)
    loaded = load(folder)
    assert loaded.trained_length == 16
    assert loaded.encodings[0] == Rotary(16, scaling=(Yarn(4.0, 16),))


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/model", "nowhere.gguf", "a/b/c", "~/nowhere", "tests/nowhere", "what is this"]
)
def test_a_missing_path_is_one_line_at_once(name: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"no such file or folder: .*(nowhere|a/b/c|what)") as caught:
        load(name)
    assert time.perf_counter() - start < 1
    assert "\n" not in str(caught.value)


def test_a_hub_name_without_a_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []

    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError("no route\nand a second line")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(RopewalkError, match=r"no folder or file 'maker/model' here, nor a model on the hub: no route$"):
        load("maker/model", report=said.append)
    assert said == ["looking for maker/model on the Hugging Face hub"]


def test_a_hub_model_is_judged_by_its_config_before_its_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    asked: list[Any] = []

    def snapshot(name: str, allow_patterns: list[str], **rest: Any) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load("maker/model").folder == folder
    assert asked[0] == ["config.json"]
    assert "*.safetensors" in asked[1]
    edit(folder, model_type="bert")
    with pytest.raises(UnsupportedError, match="bert"):
        load("maker/model")
    assert asked[2:] == [["config.json"]]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"model\.bin is neither a folder with a config\.json nor a \.gguf file"):
        load(tmp_path / "model.bin")


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def rope(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, rope_parameters={"rope_theta": 1e4, **values})


def one_tensor_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (without("config.json"), r"tiny holds no config\.json"),
    "config cut": (cut("config.json", 40), r"config\.json is not JSON"),
    "config a list": (lambda f: f.joinpath("config.json").write_text("[]"), r"config\.json must hold one JSON object"),
    "weights cut in the header": (cut("model.safetensors", 100), r"model\.safetensors is a damaged safetensors file"),
    "weights cut in half": (cut("model.safetensors", 9000), r"model\.safetensors is a damaged safetensors file"),
    "no weights": (without("model.safetensors"), r"holds no model\.safetensors; pickled weights"),
    "a shard is missing": (missing_shard, r"holds no model-00002-of-00002\.safetensors"),
    "a tensor is missing": (one_tensor_less, r"lack 1 tensors .*up_proj"),
    "another width": (lambda f: edit(f, intermediate_size=40), r"tiny: the weights cannot be loaded"),
    "no tokenizer": (without("tokenizer.json"), r"tiny holds no tokenizer"),
    "tokenizer cut": (cut("tokenizer.json", 50), r"tiny: the tokenizer cannot be read"),
    "encoder": (lambda f: edit(f, model_type="bert"), r"config\.json: bert is an encoder"),
    "learned table": (lambda f: edit(f, model_type="gpt2"), r"config\.json: gpt2 uses a learned table"),
    "alibi": (lambda f: edit(f, model_type="bloom"), r"config\.json: bloom uses ALiBi"),
    "buckets": (lambda f: edit(f, model_type="t5"), r"config\.json: t5 is an encoder-decoder with learned biases"),
    "not served": (lambda f: edit(f, model_type="gpt_oss"), r"config\.json: cannot attach to architecture 'gpt_oss'"),
    "unknown rope type": (rope(rope_type="yarm", factor=2.0), r"config\.json: .*'yarm'.*did you mean 'yarn'"),
    "misspelt key": (rope(rope_type="yarn", factor=2.0, beta_fsat=32), r"config\.json: .*beta_fsat.*'beta_fast'"),
    "negative factor": (rope(rope_type="linear", factor=-4.0), r"config\.json: .*factor.*-4\.0"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_in_one_line(case: str, folder: Path) -> None:
    spoil, says = BROKEN[case]
    spoil(folder)
    with pytest.raises(RopewalkError, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("spoil", [lambda f: edit(f, model_type="t5"), rope(rope_type="linear", factor=-4.0)])
def test_positions_are_judged_before_the_weights(spoil: Callable[[Path], None], folder: Path) -> None:
    without("model.safetensors")(folder)
    without("tokenizer.json")(folder)
    spoil(folder)
    with pytest.raises(RopewalkError, match=r"config\.json: "):
        load(folder)


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="dtype must be one of bfloat16, float16, float32, got 'int8'"):
        load(folder, dtype="int8")
