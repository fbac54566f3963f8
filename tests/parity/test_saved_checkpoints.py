"""A written checkpoint, loaded by stock transformers alone, gives the logits of the attached model."""

from pathlib import Path

import pytest
import torch
from tiny_models import tiny, words
from transformers import AutoModelForCausalLM, PreTrainedModel

from ropewalk import NTK, DynamicNTK, Linear, Llama3, NTKByParts, RadixNTK, Rotary, Yarn, for_length
from ropewalk.models.attach import Encoding, attach, detach
from ropewalk.models.config import read_positions
from ropewalk.models.load import Loaded
from ropewalk.models.save import save_extended

TRAINED, LENGTH = 16, 40
SCALINGS = [
    Linear(4.0),
    NTK(4.0),
    NTKByParts(4.0, TRAINED, beta_fast=4.0),
    Yarn(4.0, TRAINED),
    Yarn(4.0, TRAINED, magnitude=1.3),
    Yarn(4.0, TRAINED, beta_fast=4.0, ramp="rotations"),
    Yarn(4.0, TRAINED, truncate=False),
    Llama3(4.0, TRAINED),
    RadixNTK(4.0, "old"),
    RadixNTK(4.0, "fixed"),
    RadixNTK(4.0, "mixed"),
    DynamicNTK(2.0, TRAINED),
]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt_neox", "phi3", "deepseek_v3"]


def on_disk(variant: str, folder: Path) -> Loaded:
    model = tiny(variant, max_position_embeddings=TRAINED)
    model.save_pretrained(folder)
    positions = read_positions(model.config.to_dict())
    return Loaded(model, None, positions.encodings, folder, variant, positions.trained_length)  # type: ignore[arg-type]


def extended(encodings: tuple[Encoding, ...], scaling: object) -> tuple[Encoding, ...]:
    return tuple(e and Rotary(e.dim, e.base, (scaling,), e.pairing) for e in encodings)  # type: ignore[arg-type]


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=words(1, LENGTH)).logits


def stock(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def compare(loaded: Loaded, encodings: tuple[Encoding, ...], folder: Path) -> None:
    before = logits(loaded.model)
    attach(loaded.model, for_length(encodings, LENGTH))
    ours = logits(loaded.model)
    assert (ours - before).abs().max() > 1e-2
    assert (logits(stock(folder)) - ours).abs().max() < 1e-5
    detach(loaded.model)


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_every_scaling(scaling: object, tmp_path: Path) -> None:
    loaded = on_disk("llama", tmp_path / "source")
    encodings = extended(loaded.encodings, scaling)
    notes = save_extended(loaded.folder, encodings, LENGTH, tmp_path / "out")
    assert bool(notes) == isinstance(scaling, DynamicNTK)
    compare(loaded, encodings, tmp_path / "out")


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize("scaling", [Yarn(4.0, TRAINED), NTKByParts(4.0, TRAINED, beta_fast=4.0)], ids=repr)
def test_every_family(variant: str, scaling: object, tmp_path: Path) -> None:
    loaded = on_disk(variant, tmp_path / "source")
    encodings = extended(loaded.encodings, scaling)
    save_extended(loaded.folder, encodings, LENGTH, tmp_path / "out")
    compare(loaded, encodings, tmp_path / "out")
