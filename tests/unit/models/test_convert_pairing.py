"""Queries and keys in the other order: the same logits where code pairs channels so, and every other byte as it was."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from parity.tiny_models import ALTERNATING, MLA, VARIANTS, YARN, tiny, words
from ropewalk.errors import ConfigError, RopewalkError, UnsupportedError
from ropewalk.formats import hf
from ropewalk.formats.pairing import KNOWN, Projections
from ropewalk.models.attach import SERVED, attach
from ropewalk.models.reorder import NOTE, convert_pairing

AGREE, DIFFER = 2e-5, 1e-2
OTHER = {"half": "interleaved", "interleaved": "half"}
FALCON = {"num_kv_heads": 2, "multi_query": False, "alibi": False}
MORE: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "cohere": {"use_qk_norm": True},
    "cohere2": {"layer_types": ALTERNATING, "sliding_window": 8},
    "deepseek_v2": {**MLA, "topk_method": "greedy", "head_dim": 16},
    "deepseek_v3 whole queries": {**MLA, "q_lora_rank": None, "rope_parameters": YARN},
    "ernie4_5": {"head_dim": 16, "use_bias": True},
    "exaone4": {"layer_types": ALTERNATING, "sliding_window": 8},
    "falcon": {**FALCON, "new_decoder_architecture": True, "bias": True},
    "falcon one key head": {**FALCON, "multi_query": True},
    "falcon per head": {**FALCON, "num_kv_heads": 4},
    "glm4": {"head_dim": 16, "attention_bias": True},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "layer_types": ALTERNATING, "sliding_window": 8},
    "helium": {"head_dim": 16},
    "nemotron": {},
    "persimmon": {"qk_layernorm": True},
    "phi normed": {"qk_layernorm": True},
    "qwen3 bias": {"head_dim": 32, "attention_bias": True},
    "seed_oss": {"head_dim": 16},
    "stablelm normed": {"qk_layernorm": True, "use_qkv_bias": True},
}
PLAIN = [v for v in VARIANTS if v.split()[0] in KNOWN and v not in ("llama dynamic", "phi3 longrope")]
ALL = [*PLAIN, *MORE]


def made(variant: str) -> PreTrainedModel:
    """A random model in which no gain is one and no bias zero, so that one in the wrong place would show."""
    model = tiny(variant) if variant in VARIANTS else tiny_of(variant)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 or "norm" in name:
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def tiny_of(variant: str) -> PreTrainedModel:
    VARIANTS[variant] = MORE[variant]
    try:
        return tiny(variant)
    finally:
        del VARIANTS[variant]


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=words(2, 24)).logits


def gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def turned(x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> Tensor:
    """x [..., D] with its first 2P channels turned by cos and sin [..., P], spelled out pair by pair."""
    pairs = cos.shape[-1]
    out = x.clone()
    for i in range(pairs):
        a, b = (i, i + pairs) if pairing == "half" else (2 * i, 2 * i + 1)
        out[..., a] = x[..., a] * cos[..., i] - x[..., b] * sin[..., i]
        out[..., b] = x[..., b] * cos[..., i] + x[..., a] * sin[..., i]
    return out


@pytest.fixture
def code_pairs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the modelling code of a model pair channels so, whatever it does by itself."""

    def change(model: PreTrainedModel, pairing: str) -> None:
        family = model.config.model_type
        module = sys.modules[type(model).__module__]

        def of_heads(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
            # every angle stands twice, side by side or in either half, or once
            step = slice(0, None, 2) if family.startswith("cohere") else slice(0, cos.shape[-1] // 2)
            step = slice(None) if family == "gpt_oss" else step
            cos, sin = (t[..., step].unsqueeze(unsqueeze_dim) for t in (cos, sin))
            return turned(q, cos, sin, pairing), turned(k, cos, sin, pairing)

        def of_complex(q: Tensor, k: Tensor, turns: Tensor) -> Any:
            cos, sin = turns.real.unsqueeze(1), turns.imag.unsqueeze(1)
            return turned(q, cos, sin, pairing), turned(k, cos, sin, pairing)

        def of_rows(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
            return turned(x, cos[:, :, None], sin[:, :, None], pairing)

        if family == "deepseek_v2":
            monkeypatch.setattr(module, "apply_rotary_emb", of_complex)
            return
        monkeypatch.setattr(module, "apply_rotary_pos_emb", of_rows if family == "gptj" else of_heads)
        monkeypatch.setattr(module, "apply_rotary_pos_emb_interleave", of_heads, raising=False)

    return change


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("variant", ALL)
def test_the_logits_are_those_of_before(variant: str, tmp_path: Path, code_pairs: Any) -> None:
    model = made(variant)
    model.save_pretrained(tmp_path / "old")
    own = Projections(model.config.to_dict()).pairing
    done = convert_pairing(tmp_path / "old", OTHER[own], tmp_path / "new")
    assert (done.before, done.pairing) == (own, OTHER[own])
    wanted = logits(model)
    # a float32 product sums the same terms in another order
    limit = AGREE * max(1.0, wanted.abs().max().item())
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "new").eval()
    says_so = variant.startswith("deepseek_v3")
    assert (gap(logits(new), wanted) < limit) == says_so
    if not says_so:
        assert gap(logits(new), wanted) > DIFFER
    if model.config.model_type in SERVED:
        # under the config of before, which says nothing of this
        model.load_state_dict(new.state_dict())
        attach(model, [e and replace(e, pairing=OTHER[own]) for e in hf.read(model.config.to_dict())])
        assert gap(logits(model), wanted) < limit
    code_pairs(new, OTHER[own])
    assert gap(logits(new), wanted) < limit
    check_way_back(tmp_path, own, says_so)


def check_way_back(place: Path, own: str, says_so: bool) -> None:
    """Only the weights differ there, and nothing after the way back, but for a config that says so."""
    back = convert_pairing(place / "new", own, place / "back")
    assert back.before == OTHER[own]
    old, new, again = (contents(place / name) for name in ("old", "new", "back"))
    if says_so:
        interleave = [json.loads(files.pop("config.json"))["rope_interleave"] for files in (old, new, again)]
        assert interleave == [own == "interleaved", own == "half", own == "interleaved"]
    assert again == old
    assert {name for name in old if new[name] != old[name]} == {"model.safetensors"}
    assert set(new) - set(old) == (set() if says_so else {NOTE})


def test_every_known_family_is_tested() -> None:
    assert {variant.split()[0] for variant in ALL} == KNOWN


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_bytes_are_moved_whatever_they_mean(dtype: torch.dtype, tmp_path: Path) -> None:
    made("qwen2").to(dtype).save_pretrained(tmp_path / "old")
    there = convert_pairing(tmp_path / "old", "interleaved", tmp_path / "new")
    back = convert_pairing(tmp_path / "new", "half", tmp_path / "back")
    assert (there.tensors, back.tensors, back.before) == (12, 12, "interleaved")
    assert contents(tmp_path / "back") == contents(tmp_path / "old")


def test_only_rotated_rows_of_queries_and_keys_change(tmp_path: Path) -> None:
    """Partial rotary, and a layer without positions: 8 of 16 channels of each head, in layers 0 and 2."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    tiny("smollm3", rope_parameters=rope, attention_bias=True).save_pretrained(tmp_path / "old")
    model = load_file(tmp_path / "old/model.safetensors")
    convert_pairing(tmp_path / "old", "interleaved", tmp_path / "new")
    new = load_file(tmp_path / "new/model.safetensors")
    order = [0, 4, 1, 5, 2, 6, 3, 7, *range(8, 16)]
    for name, old in model.items():
        moved = any(f"layers.{i}.self_attn.{p}_proj.weight" in name for i in (0, 2) for p in "qk")
        wanted = old.view(-1, 16, old.shape[-1])[:, order].flatten(0, 1) if moved else old
        assert torch.equal(new[name], wanted), name


def save_sharded(folder: Path) -> list[str]:
    """A Llama in several files; their names."""
    made("llama").save_pretrained(folder, max_shard_size="60KB")
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(names) > 2
    return names


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from ropewalk.models import shard
from ropewalk.models.reorder import convert_pairing

source, out, victim = sys.argv[1:]
write = shard.write

def dying(file, pieces):
    # some bytes are on the disk when the end comes
    def some():
        yield next(pieces)
        os.sync()
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, some() if file.name == victim else pieces)

shard.write = dying
convert_pairing(Path(source), "interleaved", Path(out))
"""


def test_a_killed_conversion_goes_on(tmp_path: Path) -> None:
    names = save_sharded(tmp_path / "old")
    run = [sys.executable, "-c", KILLED, str(tmp_path / "old"), str(tmp_path / "new"), names[1]]
    done = subprocess.run(
        run, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "new").exists()
    partial = tmp_path / ".new-partial"
    assert sorted(file.name for file in partial.iterdir()) == [f".{names[1]}.part", names[0]]
    finished = (partial / names[0]).stat().st_mtime_ns
    whole = convert_pairing(tmp_path / "old", "interleaved", tmp_path / "whole")
    again = convert_pairing(tmp_path / "old", "interleaved", tmp_path / "new")
    assert (whole.kept, again.kept) == ((), (names[0],))
    assert (tmp_path / "new" / names[0]).stat().st_mtime_ns == finished
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")
    assert not partial.exists()


@pytest.mark.parametrize("spoil", ["another byte", "cut short", "longer", "another order"])
def test_a_finished_shard_is_kept_only_if_it_is_right(spoil: str, tmp_path: Path) -> None:
    names = save_sharded(tmp_path / "old")
    whole = convert_pairing(tmp_path / "old", "interleaved", tmp_path / "whole")
    partial = tmp_path / ".new-partial"
    partial.mkdir()
    good = (tmp_path / "whole" / names[0]).read_bytes()
    bad = {
        "another byte": good[:-3] + bytes([good[-3] ^ 1]) + good[-2:],
        "cut short": good[:-1],
        "longer": good + b"x",
        "another order": (tmp_path / "old" / names[0]).read_bytes(),
    }[spoil]
    assert bad != good
    (partial / names[0]).write_bytes(bad)
    (partial / "stale.safetensors").touch()
    assert convert_pairing(tmp_path / "old", "interleaved", tmp_path / "new").kept == ()
    assert contents(tmp_path / "new") == contents(whole.folder)


def test_metadata_of_a_file_and_the_order_of_its_tensors_stay(tmp_path: Path) -> None:
    made("llama").save_pretrained(tmp_path / "old")
    tensors = load_file(tmp_path / "old/model.safetensors")
    save_file(tensors, tmp_path / "old/model.safetensors", metadata={"format": "pt", "made by": "hand"})
    convert_pairing(tmp_path / "old", "interleaved", tmp_path / "new")

    def header(folder: str) -> bytes:
        content = (tmp_path / folder / "model.safetensors").read_bytes()
        return content[: 8 + int.from_bytes(content[:8], "little")]

    assert header("new") == header("old")
    assert b"by hand" not in header("old")
    assert b'"made by":"hand"' in header("new")


RANK, SCALE = 4, 0.5


def adapter(folder: Path, base: Path, dora: bool) -> dict[str, Tensor]:
    """A LoRA of rank 4 on queries, keys and values as PEFT stores it; its tensors."""
    weights = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    tensors: dict[str, Tensor] = {}
    for name in [n for n in weights if n.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        rows, columns = weights[name].shape
        tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * 0.3
        tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.3
        if dora:
            tensors[f"{stem}.lora_magnitude_vector"] = torch.rand(rows, generator=generator) + 0.5
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    told = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "use_dora": dora}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return tensors


def merged(base: Path, folder: Path) -> PreTrainedModel:
    """The base model with an adapter worked into its weights."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for name in [n for n in tensors if n.endswith("lora_A.weight")]:
            stem = name.removesuffix(".lora_A.weight")
            weight = model.get_submodule(stem.removeprefix("base_model.model.")).weight
            weight += SCALE * tensors[f"{stem}.lora_B.weight"] @ tensors[name]
            magnitude = tensors.get(f"{stem}.lora_magnitude_vector")
            if magnitude is not None:
                weight *= (magnitude / weight.norm(dim=1))[:, None]
    return model


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_follows_its_base(dora: bool, tmp_path: Path, code_pairs: Any) -> None:
    made("qwen2").save_pretrained(tmp_path / "base")
    old = adapter(tmp_path / "lora", tmp_path / "base", dora)
    wanted = logits(merged(tmp_path / "base", tmp_path / "lora"))
    convert_pairing(tmp_path / "base", "interleaved", tmp_path / "new base")
    done = convert_pairing(tmp_path / "lora", "interleaved", tmp_path / "new lora")
    assert done.tensors == 3 * 2 * (2 if dora else 1)
    new = load_file(tmp_path / "new lora/adapter_model.safetensors")
    assert all(torch.equal(new[n], old[n]) == ("lora_A" in n or "v_proj" in n) for n in old)
    stock = logits(merged(tmp_path / "base", tmp_path / "lora"))
    half = logits(merged(tmp_path / "new base", tmp_path / "lora"))
    model = merged(tmp_path / "new base", tmp_path / "new lora")
    code_pairs(model, "interleaved")
    assert gap(stock, wanted) == 0
    assert gap(half, wanted) > DIFFER
    assert gap(logits(model), wanted) < AGREE * max(1.0, wanted.abs().max().item())
    assert gap(logits(merged(tmp_path / "new base", tmp_path / "lora")), wanted) > DIFFER


def test_an_adapter_needs_its_base(tmp_path: Path) -> None:
    made("llama").save_pretrained(tmp_path / "base")
    adapter(tmp_path / "lora", tmp_path / "base", False)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="name it, or its config, with --base"):
        convert_pairing(tmp_path / "lora", "interleaved", tmp_path / "new")
    for base in (tmp_path / "moved", tmp_path / "moved" / "config.json"):
        done = convert_pairing(tmp_path / "lora", "interleaved", tmp_path / f"new {base.name}", base=base)
        assert "adapter" in done.note


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "old"
    made("llama").save_pretrained(folder)
    return folder


def test_the_order_of_before_is_known_or_told(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in half order already; if it is not, say so with --from"):
        convert_pairing(llama, "half", tmp_path / "new")
    forced = convert_pairing(llama, "half", tmp_path / "new", before="interleaved")
    assert (forced.before, forced.note) == ("interleaved", "")
    with pytest.raises(ConfigError, match="in interleaved order already"):
        convert_pairing(llama, "interleaved", tmp_path / "other", before="interleaved")
    there = convert_pairing(llama, "interleaved", tmp_path / "other")
    with pytest.raises(ConfigError, match="in interleaved order already"):
        convert_pairing(there.folder, "interleaved", tmp_path / "third")
    assert "llama.cpp's NORM order" in there.note
    assert json.loads((there.folder / NOTE).read_text()) == {
        "pairing": "interleaved",
        "model_type": "llama",
        "note": there.note,
    }


def test_places_that_are_taken(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    before = contents(llama)
    for place, says in (
        (llama, "must not be inside the folder that is converted"),
        (llama / "deeper" / "still", "must not be inside the folder that is converted"),
        (tmp_path / "taken", "is there already; name another folder"),
        (tmp_path / "file", "is there already; name another folder"),
    ):
        with pytest.raises(ConfigError, match=says):
            convert_pairing(llama, "interleaved", place)
    with pytest.raises(RopewalkError, match="cannot be written"):
        convert_pairing(llama, "interleaved", tmp_path / "file" / "below")
    assert contents(llama) == before
    assert convert_pairing(llama, "interleaved", tmp_path / "empty").folder == tmp_path / "empty"


def spoilt(folder: Path, llama: Path, tensors: Any = None, **changes: Any) -> Path:
    """A copy of the Llama with other tensors or another config."""
    folder.mkdir()
    config = {**json.loads((llama / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(llama / "model.safetensors")
    save_file(dict((tensors or dict)(weights)), folder / "model.safetensors")
    return folder


Q = "model.layers.1.self_attn.q_proj"


def gptq(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from ((n, w) for n, w in weights.items() if n != f"{Q}.weight")
    yield f"{Q}.qweight", torch.zeros(8, 64, dtype=torch.int32)


def bits(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from ((n, w.to(torch.uint8) if n == f"{Q}.weight" else w) for n, w in weights.items())


def shapeless(shape: tuple[int, ...]) -> Any:
    return lambda weights: {n: torch.zeros(shape) if n == f"{Q}.weight" else w for n, w in weights.items()}


def scaled(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from weights.items()
    yield f"{Q}.weight_scale_inv", torch.ones(1, 1)


def unnamed(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from ((n.replace("q_proj", "wq"), w) for n, w in weights.items())


def one_gone(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from ((n, w) for n, w in weights.items() if n != "model.layers.2.self_attn.k_proj.weight")


def nothing(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from ((n, w) for n, w in weights.items() if "_proj" not in n)


@pytest.mark.parametrize(
    ("tensors", "changes", "says"),
    [
        (None, {"quantization_config": {"quant_method": "awq"}}, "quantised by 'awq'"),
        (gptq, {}, r"q_proj\.qweight \(I32\) is no weight"),
        (bits, {}, r"q_proj\.weight \(U8\) is no weight"),
        (scaled, {}, r"weight_scale_inv \(F32\) is no weight"),
        (shapeless(()), {}, r"the rows of .*q_proj\.weight must be groups of 1 heads of 16, got 1"),
        (shapeless((0, 64)), {}, r"the rows of .*q_proj\.weight must be groups of 1 heads of 16, got 0"),
        (shapeless((48, 64)), {}, r"the heads of .*q_proj\.weight must be 4, as the config says, got 3"),
        (unnamed, {}, "lacks the queries of layer 0, under the names of a llama"),
        (one_gone, {}, "lacks the keys of layer 2"),
        (nothing, {}, "holds nothing that rotates"),
        (None, {"num_attention_heads": 8, "head_dim": 16}, r"the heads of .*q_proj\.weight must be 8, .* got 4"),
        (None, {"head_dim": 24}, r"the rows of .*proj\.weight must be groups of 1 heads of 24, got"),
        (None, {"model_type": "gemma4_text", "head_dim": 16}, "'gemma4_text' cannot be reordered; known are"),
        (None, {"model_type": "gpt2"}, "'gpt2' cannot be reordered"),
        (None, {"num_attention_heads": "four"}, "num_attention_heads must be"),
    ],
)
def test_what_cannot_be_reordered(tensors: Any, changes: Any, says: str, llama: Path, tmp_path: Path) -> None:
    folder = spoilt(tmp_path / "bad", llama, tensors, **changes)
    with pytest.raises((ConfigError, UnsupportedError), match=says) as caught:
        convert_pairing(folder, "interleaved", tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad"]


def test_a_vision_tower_stays(llama: Path, tmp_path: Path) -> None:
    tower = "vision_tower.model.layers.0.self_attn.q_proj.weight"

    def with_tower(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from ((n.replace("model.", "model.language_model.", 1), w) for n, w in weights.items())
        yield tower, torch.randn(64, 64)

    folder = spoilt(tmp_path / "old", llama, with_tower)
    inner = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": inner}))
    assert convert_pairing(folder, "interleaved", tmp_path / "new").tensors == 6
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("old", "new"))
    assert torch.equal(old[tower], new[tower])


@pytest.mark.parametrize("cut", [0, 5, 100, -5])
def test_a_damaged_shard(cut: int, llama: Path, tmp_path: Path) -> None:
    folder = spoilt(tmp_path / "bad", llama)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ConfigError, match="damaged safetensors file"):
        convert_pairing(folder, "interleaved", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_index_that_leads_elsewhere(llama: Path, tmp_path: Path) -> None:
    folder = spoilt(tmp_path / "bad", llama)
    for places, says in (
        ({"a": "../secret.safetensors"}, "of plain file names"),
        ({"a": 3}, "of plain file names"),
        ({"a": ["list"]}, "of plain file names"),
        ({"a": "gone.safetensors"}, "holds no gone.safetensors; pickled weights"),
        ({}, "an object with entries"),
        ([1], "an object with entries"),
    ):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        with pytest.raises(ConfigError, match=says):
            convert_pairing(folder, "interleaved", tmp_path / "new")
