"""Logits of llama.cpp under our flags, and with our GGUF, against transformers with the same encoding attached.

    pip install llama-cpp-python
    python benchmarks/llama_cpp_agreement.py --length 8704 --last 512

Both sides read the same float32 weights, unpacked from the demo model's GGUF; keys and values are cached in float32.
"""

import argparse
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as engine
import numpy as np
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.formats import gguf, gguf_copy, gguf_file, llamacpp
from ropewalk.models.attach import attach
from ropewalk.models.find import demo_file

BATCH = 512
F32 = 0
# flag -> field of llama.cpp's context parameters, as common/arg.cpp does it
FIELDS = {
    "--rope-freq-base": "rope_freq_base",
    "--rope-freq-scale": "rope_freq_scale",
    "--yarn-orig-ctx": "yarn_orig_ctx",
    "--yarn-ext-factor": "yarn_ext_factor",
    "--yarn-attn-factor": "yarn_attn_factor",
    "--yarn-beta-fast": "yarn_beta_fast",
    "--yarn-beta-slow": "yarn_beta_slow",
}
KINDS = {"none": 0, "linear": 1, "yarn": 2}


class Refused(Exception):
    """llama.cpp does not load a file; what it said."""


def parameters(flags: Sequence[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """Fields of llama.cpp's context parameters, and metadata that the flags override."""
    fields: dict[str, Any] = {}
    metadata: dict[str, float] = {}
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        if name == "--rope-scaling":
            fields["rope_scaling_type"] = KINDS[value]
        elif name == "--rope-scale":
            fields["rope_freq_scale"] = 1 / float(value)
        elif name == "--override-kv":
            key, _, number = value.partition("=float:")
            metadata[key] = float(number)
        elif name == "-c":
            fields["n_ctx"] = int(value)
        else:
            fields[FIELDS[name]] = int(value) if name == "--yarn-orig-ctx" else float(value)
    return fields, metadata


def llama_logits(file: Path, ids: Sequence[int], last: int, flags: Sequence[str] = (), threads: int = 1) -> Tensor:
    """Float32[last, V]: what llama.cpp makes of the last of `ids`. Raises Refused for a file that it does not load."""
    said: list[str] = []
    hear = engine.llama_log_callback(lambda level, text, _: said.append(text.decode()))
    engine.llama_log_set(hear, ctypes.c_void_p(0))
    engine.llama_backend_init()
    fields, metadata = parameters(flags)
    settings = engine.llama_model_default_params()
    settings.kv_overrides = overrides(metadata)
    model = engine.llama_model_load_from_file(str(file).encode(), settings)
    if not model:
        raise Refused("".join(said))
    context = engine.llama_context_default_params()
    own = {"n_ctx": len(ids), "n_batch": BATCH, "n_ubatch": BATCH, "n_threads": threads, "n_threads_batch": threads}
    for name, value in {**own, "type_k": F32, "type_v": F32, "flash_attn_type": 0, **fields}.items():
        setattr(context, name, value)
    state = engine.llama_init_from_model(model, context)
    width = engine.llama_vocab_n_tokens(engine.llama_model_get_vocab(model))
    rows = []
    batch = engine.llama_batch_init(BATCH, 0, 1)
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, start + i, 1, 0
            batch.logits[i] = start + i >= len(ids) - last
        if engine.llama_decode(state, batch):
            raise Refused("".join(said))
        for i in range(max(0, len(ids) - last - start), len(part)):
            row = np.ctypeslib.as_array(engine.llama_get_logits_ith(state, i), (width,))
            rows.append(torch.from_numpy(row.copy()))
    engine.llama_batch_free(batch)
    engine.llama_free(state)
    engine.llama_model_free(model)
    engine.llama_log_set(engine.llama_log_callback(0), ctypes.c_void_p(0))
    return torch.stack(rows)


def overrides(metadata: Mapping[str, float]) -> Any:
    """`--override-kv` in the form that the model parameters take, closed by an empty entry."""
    if not metadata:
        return None
    entries = (engine.llama_model_kv_override * (len(metadata) + 1))()
    for entry, (key, value) in zip(entries, metadata.items(), strict=False):
        entry.key, entry.tag = key.encode(), engine.LLAMA_KV_OVERRIDE_TYPE_FLOAT
        entry.value.val_f64 = value
    return entries


def unpacked(source: Path, target: Path) -> None:
    """A GGUF with the same metadata and every tensor in float32."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            item = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, item)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def transformers_model(file: Path) -> Any:
    """The model in a GGUF, in float32."""
    from transformers import AutoModelForCausalLM, GgufConfig

    unpack = GgufConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=unpack
    ).eval()


@torch.inference_mode()
def attached_logits(model: Any, encoding: Any, ids: Sequence[int], last: int) -> Tensor:
    """Float32[last, V] of the model with `encoding` attached."""
    attach(model, encoding)
    return model(torch.tensor([ids]), use_cache=False, logits_to_keep=last).logits[0].float()


def agreement(wanted: Tensor, got: Tensor) -> dict[str, float]:
    """The share of equal first choices, KL(wanted | got) in nats, and the largest difference of two logits."""
    p, q = wanted.double().log_softmax(-1), got.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    return {
        "top1": (wanted.argmax(-1) == got.argmax(-1)).double().mean().item(),
        "mean_kl": kl.mean().item(),
        "max_kl": kl.max().item(),
        "max_logit": (wanted - got).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8704, help="tokens of the text [8704]")
    parser.add_argument("--last", type=int, default=512, help="tokens at its end that are compared [512]")
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp [2]")
    parser.add_argument("--packed", action="store_true", help="run the quantised GGUF as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    plain, edited = folder / "plain.gguf", folder / "edited.gguf"
    unpacked(demo_file(), plain)
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    text = "\n\n".join(topics[name] for name in sorted(topics))
    tokenizer = AutoTokenizer.from_pretrained(demo_file().parent, gguf_file=demo_file().name)
    ids = tokenizer(text[:200000], add_special_tokens=False).input_ids[: options.length]
    model = transformers_model(plain)
    encoding = rw.Rotary(64, 1e5, (rw.Yarn(2.0, 8192),))
    begun = time.perf_counter()
    wanted = attached_logits(model, encoding, ids, options.last)
    report("transformers", begun, {})
    own = attached_logits(model, rw.Rotary(64, 1e5), ids, options.last)
    report("transformers without YaRN", begun, agreement(wanted, own))
    each = (encoding,) * model.config.num_hidden_layers
    flags = llamacpp.write(each, model.config.to_dict(), 16384)[0]["flags"]
    payload = gguf.write(each, gguf_file.open(plain).payload(), 16384)[0]
    gguf_copy.rewrite(plain, edited, payload["metadata"], payload["tensors"])
    runs = {"flags": (plain, flags), "edited GGUF": (edited, ("-c", "16384"))}
    if options.packed:
        runs["flags, quantised weights"] = (demo_file(), flags)
    for name, (file, given) in runs.items():
        begun = time.perf_counter()
        got = llama_logits(file, ids, options.last, given, options.threads)
        report(name, begun, agreement(wanted, got))


def report(name: str, begun: float, figures: dict[str, float]) -> None:
    sys.stdout.write(json.dumps({"run": name, "seconds": round(time.perf_counter() - begun, 1), **figures}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
