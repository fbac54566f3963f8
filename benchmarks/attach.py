"""Models of transformers with Ropewalk attached, against the same models as they come: a long prompt, and decoding.

Each family has its own layer widths and few layers, with random weights; positions are the model's own, so logits must
agree within rounding before anything is timed.  Both sides run in turn.

    python benchmarks/attach.py --length 8192 --runs 7
"""

import argparse
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

from common import demand, seconds, show
from ropewalk.formats import hf
from ropewalk.models.attach import attach, detach

CHECKED = 300  # tokens
STEPS = 32  # tokens that are decoded after a short prompt
PROMPT = 64
SIZES = {"vocab_size": 1000, "num_hidden_layers": 6, "max_position_embeddings": 32768}
WIDTHS = "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"
# those of SmolLM2 135M, Qwen3 0.6B and Gemma 3 1B
FAMILIES = {
    "Llama": (LlamaConfig, (576, 1536, 9, 3, 64)),
    "Qwen3": (Qwen3Config, (1024, 3072, 16, 8, 128)),
    "Gemma 3": (Gemma3TextConfig, (1152, 6912, 4, 1, 256)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192, help="tokens of the prompt [8192]")
    parser.add_argument("--runs", type=int, default=7, help="times that each side is timed [7]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="[bfloat16]")
    args = parser.parse_args()
    for name, (config, widths) in FAMILIES.items():
        torch.manual_seed(0)
        sizes = SIZES | dict(zip(WIDTHS, widths, strict=True))
        stock = AutoModelForCausalLM.from_config(config(**sizes)).eval().to(getattr(torch, args.dtype))
        compare(name, stock, torch.randint(SIZES["vocab_size"], (1, args.length)), args.runs)


@torch.inference_mode()
def compare(name: str, model: Any, ids: Tensor, runs: int) -> None:
    """One model, with its own positions attached and without."""
    encodings = hf.read(model.config.to_dict())
    theirs = model(ids[:, :CHECKED]).logits.float()
    attach(model, encodings)
    ours = model(ids[:, :CHECKED]).logits.float()
    detach(model)
    # turned queries and keys are rounded elsewhere, and what follows rounds other numbers
    allowed = 4 * torch.finfo(model.dtype).eps * float(theirs.abs().max()) * SIZES["num_hidden_layers"] ** 0.5
    off = float((ours - theirs).abs().max())
    demand(off <= allowed, f"{name}: logits off by {off:.2g} at most ({allowed:.2g} may)")
    for what, function in (("prompt", prefill), ("decoding", decode)):
        run, times = partial(function, model, ids), list[tuple[float, float]]()
        run()
        for _ in range(runs):
            attach(model, encodings)
            mine = seconds(run)
            detach(model)
            times.append((mine, seconds(run)))
        mine, stock = (median(side) for side in zip(*times, strict=True))
        print(f"{name}, {what}: {mine:.3f} s attached, {stock:.3f} s stock")
        show(f"{name}, {what}: attached / stock", median(a / b for a, b in times), 1.0)


def prefill(model: Any, ids: Tensor) -> None:
    model(ids, logits_to_keep=1)


def decode(model: Any, ids: Tensor) -> None:
    past = model(ids[:, :PROMPT], use_cache=True, logits_to_keep=1).past_key_values
    for i in range(PROMPT, PROMPT + STEPS):
        past = model(ids[:, i : i + 1], past_key_values=past, use_cache=True).past_key_values


if __name__ == "__main__":
    main()
