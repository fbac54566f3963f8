"""What stock transformers makes of a config, built by its own configuration and rotary classes."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

import ropewalk as rw
from ropewalk import Rotary
from ropewalk.formats.hf import read
from ropewalk.spectrum import for_length

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"
LENGTH = 16384
ROTARY = [
    "cohere-r7b",
    "deepseek-v3",
    "gemma-3-1b",
    "gemma-3-4b",
    "gpt-oss-20b",
    "llama-3.1-8b",
    "mistral-7b-v0.1",
    "phi-3-mini-128k",
    "pythia-160m",
    "qwen2.5-7b-yarn",
    "qwen3-0.6b",
    "smollm3-3b",
]


def published(name: str) -> dict[str, Any]:
    """The facts of a published config.json."""
    return json.loads((CONFIGS / f"{name}.json").read_text())


def load(config: dict[str, Any], folder: Path) -> Any:
    """The configuration of the language model, after a trip through a file."""
    (folder / "config.json").write_text(json.dumps(config))
    return AutoConfig.from_pretrained(folder).get_text_config()


def table(config: Any, layer: int, length: int) -> tuple[Tensor, float]:
    """Float32[P] inverse frequencies and the magnitude of one layer after a forward over `length` tokens."""
    name = config.model_type.removesuffix("_text")
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    named = {n: c for n, c in vars(module).items() if n.endswith("RotaryEmbedding") and "Vision" not in n}
    found = [c for c in named.values() if c.__module__ == module.__name__]
    rotary = found[0](config)
    kinds = getattr(config, "layer_types", None)
    nested = kinds is not None and kinds[layer] in config.rope_parameters
    extra, prefix = ((kinds[layer],), f"{kinds[layer]}_") if nested else ((), "")
    rotary(torch.zeros(1), torch.tensor([[length - 1]]), *extra)
    return getattr(rotary, f"{prefix}inv_freq"), getattr(rotary, f"{prefix}attention_scaling")


def assert_same(e: Rotary, config: Any, layer: int, length: int) -> None:
    """Element by element: the encoding at `length` tokens and the tables that transformers builds for itself."""
    want = for_length(e, length).spectrum()
    inv_freq, magnitude = table(config, layer, length)
    assert inv_freq.shape == (len(want.inv_freq),)
    assert math.isclose(magnitude, want.magnitude, rel_tol=1e-12)
    for i, (theirs, ours) in enumerate(zip(inv_freq.tolist(), want.inv_freq, strict=True)):
        # a stopped pair may be written as one that is slower by 1e20
        assert math.isclose(theirs, ours, rel_tol=rounding(e), abs_tol=1e-19), (i, theirs, ours)


def rounding(e: Rotary) -> float:
    """Bound on the relative error of inverse frequencies computed in float32.

    The exponent is rounded once, which base ** x magnifies by ln(base); eight more roundings make the ramp and the
    rest.  Where a ramp meets rates divided by `factor`, its error counts `factor` times.
    """
    base = max([e.base, *(rule.base for rule in e.scaling if hasattr(rule, "base"))])
    stretch = math.prod(rule.factor for rule in e.scaling if getattr(rule, "factor", None))
    return torch.finfo(torch.float32).eps / 2 * (math.log(base * stretch) + 8) * stretch


def scalings(pairs: int, trained: int) -> list[tuple[Any, ...]]:
    """Every static scaling, with its options, alone and composed."""
    uneven = tuple(1 + i / pairs for i in range(pairs))
    return [
        (),
        (rw.Linear(2.0),),
        (rw.NTK(4.0),),
        (rw.BaseChange(3e6),),
        (rw.RadixNTK(4.0, "old"),),
        (rw.RadixNTK(4.0, "fixed"),),
        (rw.RadixNTK(4.0, "mixed"),),
        (rw.NTKByParts(4.0, trained),),
        (rw.NTKByParts(4.0, trained, 16.0, 2.0, ntk_turns=(1.25, 0.75)),),
        (rw.Yarn(4.0, trained),),
        (rw.Yarn(4.0, trained, beta_fast=16.0, beta_slow=2.0),),
        (rw.Yarn(4.0, trained, magnitude=1.0),),
        (rw.Yarn(4.0, trained, magnitude=0.87),),
        (rw.Yarn(4.0, trained, truncate=False),),
        (rw.Yarn(4.0, trained, ramp="rotations"),),
        (rw.Yarn(4.0, trained, mscale=0.707, mscale_all_dim=1.0),),
        (rw.Yarn(4.0, trained, mscale=0.0, mscale_all_dim=1.0),),
        (rw.Llama3(8.0, trained),),
        (rw.Llama3(8.0, trained, 1.5, 6.0),),
        (rw.Rescale(uneven, 1.1),),
        (rw.NTK(2.0), rw.Yarn(2.0, trained)),
        (rw.Linear(2.0), rw.Yarn(2.0, trained)),
        (rw.Llama3(8.0, trained), rw.Yarn(2.0, 2 * trained, magnitude=1.2)),
        (rw.Yarn(2.0, trained), rw.Yarn(2.0, 2 * trained)),
        (rw.Proportional(0.5),),
        (rw.Proportional(0.5), rw.Linear(2.0)),
    ]


def with_scaling(config: dict[str, Any], scaling: tuple[Any, ...]) -> tuple[Any, ...]:
    """The model's own layers; where it turns fastest apart (Gemma's local layers), those stay."""
    own = read(config)
    widest = max(e.base for e in own if e != ())
    return tuple(Rotary(e.dim, e.base, scaling, e.pairing) if e != () and e.base == widest else e for e in own)


LLAMA = {**published("mistral-7b-v0.1"), "model_type": "llama", "max_position_embeddings": 8192, "rope_theta": 5e5}


def every(*scaling: Any) -> tuple[Rotary, ...]:
    """All 32 layers of LLAMA."""
    return (Rotary(128, 5e5, scaling),) * 32
