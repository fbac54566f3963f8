"""llama.cpp itself, under our flags and with our files, against transformers with the same encoding attached."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from conftest import Command
from ropewalk import Rotary
from ropewalk.errors import UnsupportedError
from ropewalk.formats import gguf, gguf_copy, gguf_file, hf, llamacpp
from ropewalk.models.find import demo_file

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: no llama.cpp to compare with")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from llama_cpp_agreement import (
    Refused,
    agreement,
    attached_logits,
    llama_logits,
    transformers_model,
    unpacked,
)

WINDOW = 256  # of the tiny models; llama.cpp rounds a context up to a multiple of it
LENGTH = 520
IDS = torch.randint(64, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
LAST = 128
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 64,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}


def random_model(kind: str, **changes: Any) -> Any:
    """A tiny model of transformers, always the same one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | changes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()


def adjacent(weight: Tensor, heads: int) -> Tensor:
    """Rows of heads in halves, put into the order of llama.cpp's Llama: adjacent pairs."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def save(model: Any, file: Path, arch: str, **metadata: Any) -> Path:
    """The model as a GGUF without a vocabulary, in float32."""
    from gguf import MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map

    config = model.config
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == arch)
    names = get_tensor_name_map(kind, config.num_hidden_layers)
    writer = GGUFWriter(file, arch)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    about = {
        "vocab_size": config.vocab_size,
        "context_length": WINDOW,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "key_length": config.head_dim,
        "value_length": config.head_dim,
        "rope_dimension_count": config.head_dim,
        "layer_norm_rms_eps": getattr(config, "rms_norm_eps", 1e-5),
        "layer_norm_eps": getattr(config, "layer_norm_eps", 1e-5),
    }
    for key, value in {**about, **metadata}.items():
        getattr(writer, f"add_{key}")(value)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name, weight in model.state_dict().items():
        if name in tied:
            continue
        leaf = name.split(".")[-2]
        data = adjacent(weight, heads[leaf]) if arch == "llama" and leaf in heads else weight
        # Gemma's norms are kept as what they multiply by
        data = data + 1 if arch.startswith("gemma") and leaf.endswith("norm") else data
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), data.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def assert_same(wanted: Tensor, got: Tensor) -> None:
    """Every logit of the last tokens, within float32's rounding of angles and of 2 layers."""
    assert wanted.shape == got.shape == (LAST, 64)
    assert wanted.std() > 0.5
    assert (wanted - got).abs().max() < 2e-4 * wanted.abs().max()


def apart(wanted: Tensor, got: Tensor) -> bool:
    """Whether two sets of logits differ by far more than rounding."""
    return bool((wanted - got).abs().max() > 2e-2 * wanted.abs().max())


@pytest.fixture(scope="module")
def llama() -> Any:
    return random_model("llama")


@pytest.fixture(scope="module")
def file(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(llama, tmp_path_factory.mktemp("llama") / "plain.gguf", "llama")


def edited(file: Path, target: Path, encodings: Sequence[hf.Layer], length: int = LENGTH) -> Path:
    payload, _ = gguf.write(encodings, gguf_file.open(file).payload(), length)
    gguf_copy.rewrite(file, target, payload["metadata"], payload["tensors"])
    return target


def changed(file: Path, target: Path, tensors: dict[str, Any] | None = None, **metadata: Any) -> Path:
    """A copy with keys under llama.rope."""
    changes = {f"llama.rope.{key.replace('scaling_', 'scaling.')}": value for key, value in metadata.items()}
    gguf_copy.rewrite(file, target, changes, tensors or {})
    return target


DIVISORS = tuple(1.0 + i / 4 for i in range(16))
RULES = [
    (),
    (rw.Linear(2.0),),
    (rw.NTK(4.0),),
    (rw.Yarn(4.0, WINDOW),),
    (rw.Yarn(4.0, WINDOW, magnitude=1.0),),
    (rw.Yarn(4.0, WINDOW, 16.0, 2.0),),
    (rw.Yarn(4.0, WINDOW, truncate=False),),
    (rw.Llama3(8.0, WINDOW),),
    (rw.Rescale(DIVISORS, 1.25),),
    (rw.LongRope((1.0,) * 16, DIVISORS[::-1], WINDOW, magnitude=1.25),),
]


@pytest.mark.parametrize("rules", RULES, ids=repr)
def test_an_edited_file_runs_what_was_asked_for(rules: Any, llama: Any, file: Path, tmp_path: Path) -> None:
    e = Rotary(32, 10000.0, rules)
    new = edited(file, tmp_path / "new.gguf", (e, e))
    assert_same(attached_logits(llama, rw.for_length(e, LENGTH), IDS, LAST), llama_logits(new, IDS, LAST))


@pytest.mark.parametrize("rules", RULES, ids=repr)
def test_flags_run_what_was_asked_for(rules: Any, llama: Any, file: Path, tmp_path: Path) -> None:
    e = Rotary(32, 10000.0, rules)
    payload, _ = llamacpp.write((e, e), llama.config.to_dict(), LENGTH)
    if payload["tensors"]:
        file = changed(file, tmp_path / "new.gguf", payload["tensors"])
    got = llama_logits(file, IDS, LAST, payload["flags"])
    assert_same(attached_logits(llama, rw.for_length(e, LENGTH), IDS, LAST), got)


@pytest.mark.parametrize("rules", [RULES[3], RULES[5], RULES[7]], ids=repr)
def test_what_the_export_command_writes_is_run(
    rules: Any, llama: Any, file: Path, tmp_path: Path, ropewalk: Command
) -> None:
    """The new GGUF, and flags for the old one or, where the file must hold divisors, for the new one."""
    words = ("export", file, "--encoding", repr(rules[0]), "--to", LENGTH)
    assert ropewalk(*words, "--engine", "gguf", "--out", tmp_path / "new.gguf").code == 0
    told = ropewalk(*words, "--engine", "llamacpp", "--out", tmp_path / "flags", "--allow-loss")
    assert told.code == 0
    flags = (tmp_path / "flags" / "llamacpp.txt").read_text().split()
    assert ("lost: flags cannot hold divisors" in told.err) == (rules == RULES[7])
    wanted = attached_logits(llama, rw.for_length(Rotary(32, 10000.0, rules), LENGTH), IDS, LAST)
    assert_same(wanted, llama_logits(tmp_path / "new.gguf", IDS, LAST))
    assert_same(wanted, llama_logits(tmp_path / "new.gguf" if rules == RULES[7] else file, IDS, LAST, flags))
    # flags for the file that is there already change nothing in it
    own = ropewalk("export", tmp_path / "new.gguf", "--engine", "llamacpp").out.split()
    assert_same(wanted, llama_logits(tmp_path / "new.gguf", IDS, LAST, own))


def test_the_rules_are_told_apart(llama: Any) -> None:
    """Else the tests above could pass whatever the engine did."""
    found = [attached_logits(llama, rw.for_length(Rotary(32, 10000.0, r), LENGTH), IDS, LAST) for r in RULES]
    for i, one in enumerate(found):
        assert all(apart(one, other) for other in found[:i])


# what llama.cpp reads, and what it does not


def test_two_lists_are_chosen_by_the_context_not_by_the_text(llama: Any, file: Path, tmp_path: Path) -> None:
    e = Rotary(32, 10000.0, RULES[-1])
    short = edited(file, tmp_path / "short.gguf", (e, e), WINDOW)
    ids, last = IDS[:WINDOW], 64
    wanted = [attached_logits(llama, rw.for_length(e, n), ids, last) for n in (WINDOW, LENGTH)]
    got = [llama_logits(short, ids, last, ("-c", str(n))) for n in (WINDOW, 2 * WINDOW)]
    for mine, theirs in zip(wanted, got, strict=True):
        assert (mine - theirs).abs().max() < 2e-4 * mine.abs().max()
    assert apart(*wanted)


def test_the_flag_for_the_magnitude_is_lost_under_yarn(file: Path, tmp_path: Path) -> None:
    yarn = ["--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", str(WINDOW)]
    plain, factor = llama_logits(file, IDS, LAST, yarn), ["--yarn-attn-factor", "1.5"]
    assert torch.equal(llama_logits(file, IDS, LAST, yarn + factor), plain)
    key = ["--override-kv", "llama.rope.scaling.attn_factor=float:1.5"]
    assert apart(llama_logits(file, IDS, LAST, yarn + key), plain)
    in_file = changed(file, tmp_path / "new.gguf", scaling_attn_factor=1.5)
    assert torch.equal(llama_logits(in_file, IDS, LAST, yarn), llama_logits(file, IDS, LAST, yarn + key))
    linear = ["--rope-scaling", "linear", "--rope-scale", "2"]
    with_flag, with_key = (llama_logits(file, IDS, LAST, linear + extra) for extra in (factor, key))
    assert torch.equal(with_flag, with_key)
    assert apart(with_flag, llama_logits(file, IDS, LAST, linear))


def test_a_missing_type_is_linear(file: Path, tmp_path: Path) -> None:
    flags = llama_logits(file, IDS, LAST, ["--rope-scaling", "linear", "--rope-scale", "2"])
    assert apart(flags, llama_logits(file, IDS, LAST))
    for i, keys in enumerate([{"scaling_factor": 2.0}, {"scale_linear": 2.0}]):
        assert torch.equal(llama_logits(changed(file, tmp_path / f"{i}.gguf", **keys), IDS, LAST), flags)
    none = changed(file, tmp_path / "none.gguf", scaling_factor=2.0, scaling_type="none")
    assert torch.equal(llama_logits(none, IDS, LAST), llama_logits(file, IDS, LAST))


def test_ends_of_the_ramp_in_the_file_are_not_read(file: Path, tmp_path: Path) -> None:
    yarn = {"scaling_type": "yarn", "scaling_factor": 4.0, "scaling_original_context_length": WINDOW}
    keys = {f"scaling_yarn_{name}": 8.0 for name in ("beta_fast", "beta_slow", "attn_factor", "ext_factor")}
    plain = llama_logits(changed(file, tmp_path / "plain.gguf", **yarn), IDS, LAST)
    assert torch.equal(llama_logits(changed(file, tmp_path / "keys.gguf", **yarn, **keys), IDS, LAST), plain)
    # without a length of its own the window counts
    del yarn["scaling_original_context_length"]
    assert torch.equal(llama_logits(changed(file, tmp_path / "window.gguf", **yarn), IDS, LAST), plain)


def test_divisors_that_no_code_asks_for_are_refused_by_the_engine_too(file: Path, tmp_path: Path) -> None:
    freqs = {"rope_freqs.weight": DIVISORS}
    lists = {"rope_factors_short.weight": DIVISORS, "rope_factors_long.weight": DIVISORS}
    for i, (tensors, kind) in enumerate([(freqs, "longrope"), (lists, "yarn"), (lists, "none")]):
        new = changed(file, tmp_path / f"{i}.gguf", tensors, scaling_type=kind)
        with pytest.raises(Refused, match="wrong number of tensors"):
            llama_logits(new, IDS, LAST)
        with pytest.raises(UnsupportedError, match="refuses a llama file"):
            gguf.read(gguf_file.open(new).payload())


# other architectures


SIX = {"num_hidden_layers": 6}
HERE = Rotary(32, 1e4)
YARN = (rw.Yarn(4.0, WINDOW),)
GEMMA = {"sliding_window": 64, "query_pre_attn_scalar": 32, "tie_word_embeddings": True}
OTHERS: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[hf.Layer, ...]]] = {
    "qwen3": ("qwen3", {}, {}, (Rotary(32, 1e4, YARN),) * 2),
    "gemma3_text": ("gemma3", {**SIX, **GEMMA}, {"sliding_window": 64}, (HERE,) * 5 + (Rotary(32, 1e6, YARN),)),
    "gemma2": ("gemma2", GEMMA, {"sliding_window": 64}, (Rotary(32, 1e4, YARN),) * 2),
    "olmo3": (
        "olmo2",
        {"num_hidden_layers": 4, "sliding_window": 64},
        {"sliding_window": 64},
        (HERE,) * 3 + (Rotary(32, 1e4, YARN),),
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_run_what_their_rules_say(kind: str, tmp_path: Path) -> None:
    arch, changes, metadata, wanted = OTHERS[kind]
    model = random_model(kind, **changes)
    file = save(model, tmp_path / "plain.gguf", arch, **metadata)
    new = edited(file, tmp_path / "new.gguf", wanted)
    logits = attached_logits(model, wanted, IDS, LAST)
    assert_same(logits, llama_logits(new, IDS, LAST))
    assert apart(logits, llama_logits(file, IDS, LAST))


def test_command_r_turns_where_it_slides(tmp_path: Path) -> None:
    """Flags reach its sliding layers, the only ones with positions."""
    config = {"num_hidden_layers": 4, "sliding_window": 64, "logit_scale": 1.0, "tie_word_embeddings": True}
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    rope = {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}
    plain, bent = (
        random_model("cohere2", **config, **tokens, rope_parameters=rope)
        for rope in ({"rope_theta": 1e4, "rope_type": "default"}, rope)
    )
    file = save(plain, tmp_path / "plain.gguf", "cohere2", sliding_window=64, logit_scale=1.0)
    own = Rotary(32, 1e4, pairing="interleaved")
    assert gguf.read(gguf_file.open(file).payload()) == (own, own, own, ())
    wanted = (*[Rotary(32, 1e4, YARN, "interleaved")] * 3, ())
    with torch.inference_mode():
        logits, before = (m(torch.tensor([IDS])).logits[0, -LAST:] for m in (bent, plain))
    assert_same(before, llama_logits(file, IDS, LAST))
    flags = llamacpp.write(wanted, plain.config.to_dict(), LENGTH)[0]["flags"]
    assert_same(logits, llama_logits(file, IDS, LAST, flags))
    assert_same(logits, llama_logits(edited(file, tmp_path / "new.gguf", wanted), IDS, LAST))


DEEPSEEK = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 2,
    "num_key_value_heads": 2,
}
DEEPSEEK_FILE = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "key_length": 32,
    "value_length": 16,
    "rope_dimension_count": 16,
    "leading_dense_block_count": 2,
    "expert_feed_forward_length": 16,
    "expert_shared_count": 1,
}
DEEPSEEK_RULES = [
    rw.Yarn(4.0, WINDOW, mscale=1.0, mscale_all_dim=1.0),
    rw.Yarn(4.0, WINDOW, mscale=0.5, mscale_all_dim=0.5),
    rw.Yarn(4.0, WINDOW),
    rw.Linear(4.0),
]


@pytest.mark.parametrize("rule", DEEPSEEK_RULES, ids=repr)
def test_deepseeks_softmax_gets_what_we_say(rule: Any, tmp_path: Path) -> None:
    """Where the softmax gets another factor, transformers with just that factor makes the same logits."""
    model = random_model("deepseek_v3", **DEEPSEEK)
    file = save(model, tmp_path / "plain.gguf", "deepseek2", **DEEPSEEK_FILE)
    e = Rotary(16, 1e4, (rule,), "interleaved")
    payload, losses = gguf.write((e, e), gguf_file.open(file).payload(), LENGTH)
    gguf_copy.rewrite(file, tmp_path / "new.gguf", payload["metadata"], payload["tensors"])
    assert len(losses) == (hf.softmax_factor(e) == 1)
    got = llama_logits(tmp_path / "new.gguf", IDS, LAST)
    exact = attached_logits(model, e, IDS, LAST)
    if not losses:
        assert_same(exact, got)
        return
    assert apart(exact, got)
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1 + losses[0].logits
    with torch.inference_mode():
        assert_same(model(torch.tensor([IDS])).logits[0, -LAST:], got)


@pytest.mark.slow
def test_the_demo_model_beyond_a_short_window(tmp_path: Path) -> None:
    """With the same weights in float32; benchmarks/llama_cpp_agreement.py goes beyond the trained window."""
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    plain = tmp_path / "plain.gguf"
    unpacked(demo_file(), plain)
    tokenizer = AutoTokenizer.from_pretrained(demo_file().parent, gguf_file=demo_file().name)
    ids = tokenizer("\n\n".join(topics[name] for name in sorted(topics))[:8000]).input_ids[:768]
    model = transformers_model(plain)
    e = (Rotary(64, 1e5, (rw.Yarn(2.0, 256),)),) * 30
    wanted = attached_logits(model, e, ids, 512)
    flags = llamacpp.write(e, model.config.to_dict(), 1024)[0]["flags"]
    new = edited(plain, tmp_path / "new.gguf", e, 1024)
    assert agreement(wanted, attached_logits(model, (Rotary(64, 1e5),) * 30, ids, 512))["mean_kl"] > 1e-3
    for file, given in ((plain, flags), (new, ())):
        found = agreement(wanted, llama_logits(file, ids, 512, given))
        assert found["top1"] >= 0.99
        assert found["mean_kl"] <= 1e-6
