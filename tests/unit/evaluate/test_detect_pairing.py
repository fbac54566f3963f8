"""The pairing that weights were trained for, told from losses alone: on a model that has to look three tokens back."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ropewalk.errors import ConfigError
from ropewalk.evaluate import pairing
from ropewalk.evaluate.pairing import NATS, SIGMAS, detect_pairing
from ropewalk.formats import hf
from ropewalk.models.load import Loaded
from ropewalk.models.reorder import convert_pairing

WORDS, BACK = 32, 3
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": WORDS,
    "max_position_embeddings": 512,
    # few wavelengths, all short: what lies three tokens back is soon found
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
}


def text(rows: int, length: int, seed: int) -> Tensor:
    """Int[rows, length] in which nine of ten tokens are that of three places before."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, WORDS, (rows, length), generator=generator)
    again = torch.rand(rows, length, generator=generator) < 0.9
    for i in range(BACK, length):
        ids[:, i] = torch.where(again[:, i], ids[:, i - BACK], ids[:, i])
    return ids


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(120):
        ids = text(1, 512, step)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("trained") / "half"
    model.save_pretrained(folder)
    convert_pairing(folder, "interleaved", folder.with_name("interleaved"))
    return folder.parent


def loaded(folder: Path) -> Loaded:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return of(model)


def of(model: PreTrainedModel) -> Loaded:
    return Loaded(model, None, hf.read(model.config.to_dict()), Path(), "", 512)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["half", "interleaved"])
def test_the_order_is_told_without_being_said(order: str, trained: Path) -> None:
    subject = loaded(trained / order)
    stock = subject.model(input_ids=text(1, 64, 999)).logits
    found = detect_pairing(subject, text(1, 512, 1000)[0])
    assert found.pairing == order
    other = "half" if order == "interleaved" else "interleaved"
    assert found.losses[other] - found.losses[order] == pytest.approx(found.margin.loss, abs=1e-9)
    assert found.margin.loss > max(NATS, SIGMAS * found.margin.se)
    # the model is left as it was
    assert torch.equal(subject.model(input_ids=text(1, 64, 999)).logits, stock)


def test_read_as_they_were_trained_both_orders_have_the_same_loss(trained: Path) -> None:
    ids = text(1, 512, 1000)[0]
    one, two = (detect_pairing(loaded(trained / order), ids) for order in ("half", "interleaved"))
    assert one.losses["half"] == pytest.approx(two.losses["interleaved"], abs=1e-5)


def test_a_model_that_learned_nothing_gets_no_answer() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.1)).eval()
    found = detect_pairing(of(model), text(1, 512, 1000)[0])
    assert found.pairing is None
    assert all(math.isfinite(loss) for loss in found.losses.values())


def test_too_little_text(trained: Path) -> None:
    with pytest.raises(ConfigError, match="the text must be more than 128 tokens long, got 128"):
        detect_pairing(loaded(trained / "half"), text(1, 128, 0)[0])


def test_a_clear_margin_with_a_wide_error_is_no_answer(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = text(1, 512, 1000)[0]
    for rule, limit in (("SIGMAS", 1e3), ("NATS", 1e2)):
        with monkeypatch.context() as patch:
            patch.setattr(pairing, rule, limit)
            assert detect_pairing(loaded(trained / "half"), ids).pairing is None
