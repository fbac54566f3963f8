import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ropewalk import ConfigError, RopewalkError, Rotary, UnsupportedError, Yarn
from ropewalk.models import save
from ropewalk.models.load import Loaded, load
from ropewalk.models.save import save_extended

YARN = (Rotary(16, scaling=(Yarn(2.0, 64),)),) * 2


@pytest.fixture
def loaded(folder: Path) -> Loaded:
    return load(folder)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_the_result_is_a_checkpoint_with_the_same_files_and_weights(loaded: Loaded, tmp_path: Path) -> None:
    assert save_extended(loaded.folder, YARN, 128, tmp_path / "a" / "out") == ()
    out = tmp_path / "a" / "out"
    assert names(out) == names(loaded.folder)
    assert (out / "model.safetensors").samefile(loaded.folder / "model.safetensors")
    again = load(out)
    assert (again.encodings, again.trained_length) == (YARN, 64)
    assert again.model.config.max_position_embeddings == 128
    assert names(tmp_path / "a") == {"out"}


def test_weights_are_copied_where_links_do_not_reach(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_device(*names: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(save.os, "link", another_device)
    save_extended(loaded.folder, YARN, 128, tmp_path / "out")
    copy, original = tmp_path / "out" / "model.safetensors", loaded.folder / "model.safetensors"
    assert not copy.samefile(original)
    assert copy.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(("limit", "after"), [(64, 128), (500, 500), (None, None)])
def test_the_tokenizers_limit_grows_with_the_window(
    loaded: Loaded, tmp_path: Path, limit: int | None, after: int | None
) -> None:
    file = loaded.folder / "tokenizer_config.json"
    settings = {**json.loads(file.read_text()), "model_max_length": limit}
    file.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    save_extended(loaded.folder, YARN, 128, tmp_path / "out")
    assert json.loads((tmp_path / "out" / file.name).read_text()).get("model_max_length") == after


def test_pickles_code_and_other_files_stay_behind(loaded: Loaded, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "modeling_x.py", "README.md", "model.gguf"):
        (loaded.folder / name).write_text("{}")
    (loaded.folder / "onnx").mkdir()
    (loaded.folder / "merges.txt").write_text("a b")
    save_extended(loaded.folder, YARN, 128, tmp_path / "out")
    expected = {"config.json", "generation_config.json", "merges.txt", "model.safetensors"}
    assert names(tmp_path / "out") == expected | {"tokenizer.json", "tokenizer_config.json"}


def test_a_checkpoint_is_replaced_and_nothing_else_is(loaded: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for factor, length in ((2.0, 128), (4.0, 256)):
        save_extended(loaded.folder, (Rotary(16, scaling=(Yarn(factor, 64),)),) * 2, length, out)
    assert load(out).encodings[0] == Rotary(16, scaling=(Yarn(4.0, 64),))
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="papers is there already and is no checkpoint"):
        save_extended(loaded.folder, YARN, 128, tmp_path / "papers")
    with pytest.raises(ConfigError, match="tiny is the folder that the model was loaded from"):
        save_extended(loaded.folder, YARN, 128, loaded.folder)
    assert names(tmp_path) == {"tiny", "out", "papers"}
    assert load(loaded.folder).encodings == loaded.encodings


def test_a_full_disk_leaves_nothing_half_written(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*names: Any) -> None:
        raise OSError(28, "No space left on device")

    save_extended(loaded.folder, YARN, 128, tmp_path / "out")
    before = (tmp_path / "out" / "config.json").read_text()
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(RopewalkError, match="out cannot be written: No space left on device"):
        save_extended(loaded.folder, (Rotary(16, scaling=(Yarn(4.0, 64),)),) * 2, 256, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == before
    assert names(tmp_path) == {"tiny", "out"}


def test_what_a_killed_run_left_is_cleared_away(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / ".out-partial" / "new").mkdir(parents=True)
    (tmp_path / ".out-partial" / "new" / "half.safetensors").touch()
    save_extended(loaded.folder, YARN, 128, tmp_path / "out")
    assert names(tmp_path / "out") == names(loaded.folder)
    assert names(tmp_path) == {"tiny", "out"}


def test_what_no_config_can_say_is_refused_before_anything_is_written(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        save_extended(loaded.folder, (Rotary(16), ()), 128, tmp_path / "out")
    assert names(tmp_path) == {"tiny"}
