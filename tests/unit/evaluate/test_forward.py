"""Losses in chunks against stock forward passes that keep every logit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.tiny_models import VARIANTS, YARN, tiny, words
from ropewalk import ConfigError, DynamicNTK, DynamicYarn, Rotary, Yarn, for_length
from ropewalk.evaluate.document import attached, document_losses, fixed_target_losses, losses_at, windowed_losses
from ropewalk.evaluate.forward import ROWS, Trunk, prefix_attention, token_losses
from ropewalk.evaluate.metrics.perplexity import by_prefix
from ropewalk.formats import hf
from ropewalk.models.attach import attach

AGREE = 1e-5  # as for logits: what float32 leaves of a few layers
DIFFER = 1e-2
LENGTH = 60


@torch.no_grad()
def naive(model: Any, ids: Tensor) -> Tensor:
    """Float32[T - 1]: one call of the model as it is, all logits at once."""
    logits = model(input_ids=ids[None]).logits[0]
    return F.cross_entropy(logits[:-1], ids[1:], reduction="none")


def chunked(model: Any, ids: Tensor, chunk: int) -> Tensor:
    return torch.cat(list(token_losses(Trunk(model, chunk), ids)))


def encodings_of(model: Any) -> tuple[Any, ...]:
    return hf.read(model.config.to_dict())


def gap(a: Any, b: Any) -> float:
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    assert a.shape == b.shape
    return (a - b).abs().max().item()


class Calls:
    """What a model is called with, and what it returns, in order."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: list[int] = []
        self.rows: list[int] = []
        inner = model.forward

        def forward(**given: Any) -> Any:
            out = inner(**given)
            self.tokens.append(given["input_ids"].shape[1])
            self.rows.append(out.logits.shape[1])
            return out

        monkeypatch.setattr(model, "forward", forward)


@pytest.mark.parametrize("chunk", [1, 7, 16, 59, 60, 1000])
def test_losses_in_chunks_are_those_of_one_pass(chunk: int) -> None:
    ids = words(1, LENGTH)[0]
    with prefix_attention(model := tiny("llama")):
        parts = list(token_losses(Trunk(model, chunk), ids))
    # 59 leaves one token, which predicts nothing, for the last chunk
    assert [len(p) for p in parts] == [min(chunk, LENGTH - 1 - at) for at in range(0, LENGTH, chunk)]
    assert gap(torch.cat(parts), naive(tiny("llama"), ids)) < AGREE


def test_more_rows_than_are_float32_at_a_time() -> None:
    ids = words(1, 2 * ROWS + 70)[0]
    with prefix_attention(model := tiny("llama")):
        assert gap(chunked(model, ids, 2 * ROWS + 10), naive(tiny("llama"), ids)) < AGREE


def test_another_text_and_other_positions_have_other_losses() -> None:
    model, ids = tiny("llama"), words(1, LENGTH)[0]
    stock = naive(model, ids)
    assert gap(naive(model, ids.flip(0)), stock) > DIFFER
    other = tuple(replace(e, base=77.0) for e in encodings_of(model))
    assert gap(document_losses(model, other, ids), stock) > DIFFER


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_reads_in_chunks_what_it_reads_at_once(variant: str) -> None:
    """Among them windows that slide over 8 tokens, smaller and larger than a chunk, and attention that is not plain."""
    model, ids = tiny(variant), words(1, LENGTH)[0]
    stock = naive(tiny(variant), ids)
    before = model.config._attn_implementation
    for chunk in (5, 8, 23, LENGTH):
        assert gap(document_losses(model, encodings_of(model), ids, chunk), stock) < AGREE
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_answers_questions_apart(variant: str) -> None:
    """Questions in one call have the logits of each alone after the whole text, and leave no trace."""
    model, ids = tiny(variant), words(1, LENGTH)[0]
    settled = for_length(encodings_of(model), LENGTH)
    asked, keep = [ids[40:45], ids[45:54], ids[50:60], ids[7:8]], [3, 9, 5, 1]
    with attached(model, settled):
        trunk = Trunk(model, 13)
        for _ in trunk.read(ids[:40], scored=False):
            pass
        found = trunk.branch(asked, keep)
        after = torch.cat(list(token_losses(trunk, ids[40:])))
    attach(model, settled)
    with torch.no_grad():
        for question, rows, logits in zip(asked, keep, found, strict=True):
            whole = torch.cat((ids[:40], question))
            assert gap(logits, model(input_ids=whole[None]).logits[0, -rows:]) < AGREE
    assert gap(after, naive(model, ids)[40:]) < AGREE


def test_questions_leave_the_trunk_as_it_was() -> None:
    model, ids = tiny("llama"), words(1, LENGTH)[0]
    with prefix_attention(model):
        trunk = Trunk(model, 16)
        list(trunk.read(ids[:40]))
        before = [(layer.keys.clone(), layer.values.clone()) for layer in trunk.cache.layers]
        first = trunk.branch([ids[40:47], ids[3:9]], [2, 6])
        second = trunk.branch([ids[3:9], ids[40:47]], [6, 2])
    assert trunk.length == 40
    for layer, (keys, values) in zip(trunk.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
    assert gap(first[0], second[1]) < AGREE
    assert gap(first[1], second[0]) < AGREE


@pytest.mark.parametrize("back", [0, 1, 25, 40])
def test_a_rewound_trunk_reads_on_as_if_it_had_never_gone_further(back: int) -> None:
    model, ids = tiny("llama"), words(1, LENGTH)[0]
    with prefix_attention(model):
        straight, wound = Trunk(model, 8), Trunk(model, 8)
        list(straight.read(ids[:back]))
        list(wound.read(ids[:back]))
        list(wound.read(ids[:40] if back == 0 else ids[back - 1 : 40]))
        wound.rewind(back)
        one, other = (torch.cat(list(t.read(ids[back:]))) for t in (straight, wound))
    assert torch.equal(one, other)
    assert wound.length == LENGTH


def test_sixty_four_prefix_lengths_come_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama"), words(1, 200)[0]
    lengths = [200 * (i + 1) // 64 for i in range(64)]
    calls = Calls(model, monkeypatch)
    losses = document_losses(model, encodings_of(model), ids)
    assert calls.tokens == [200]
    each = [naive(tiny("llama"), ids[:n]).double().mean().item() for n in lengths]
    np.testing.assert_allclose(by_prefix(losses, lengths), each, rtol=1e-5)
    assert len({round(x, 3) for x in each}) > 32


def stock_dynamic(length: int) -> Any:
    return tiny("llama dynamic")


def stock_yarn(length: int) -> Any:
    return tiny("llama yarn", rope_parameters={**YARN, "factor": max(length / 16, 1.0)})


def stock_longrope(length: int) -> Any:
    return tiny("phi3 longrope")


# what adapts to the length -> the encodings, stock models that do the same, passes that these lengths need
SERVED = [9, 16, 17, 30, 45]
ADAPTS: dict[str, tuple[str, tuple[Any, ...] | None, Callable[[int], Any], list[int]]] = {
    "DynamicNTK": ("llama dynamic", (Rotary(16, scaling=(DynamicNTK(2.0, 16),)),) * 3, stock_dynamic, [16, 17, 30, 45]),
    "DynamicYarn": ("llama", (Rotary(16, scaling=(DynamicYarn(16),)),) * 3, stock_yarn, [16, 17, 30, 45]),
    "LongRope": ("phi3 longrope", None, stock_longrope, [16, 45]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ADAPTS)
def test_what_follows_the_length_is_read_once_for_each_value_it_takes(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, encodings, stock, passes = ADAPTS[rule]
    model, ids = tiny(variant), words(1, LENGTH)[0]
    calls = Calls(model, monkeypatch)
    found = losses_at(model, encodings or encodings_of(model), ids, SERVED)
    assert sorted(calls.tokens) == passes
    assert list(found) == SERVED
    for n in SERVED:
        assert gap(found[n], naive(stock(n), ids[:n])) < AGREE
    assert gap(found[45][:15], found[16]) > DIFFER


@pytest.mark.parametrize("scaling", [(), (Yarn(4.0, 16),)])
def test_what_is_static_is_read_once(scaling: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama"), words(1, LENGTH)[0]
    calls = Calls(model, monkeypatch)
    encodings = (Rotary(16, scaling=scaling),) * 3
    found = losses_at(model, encodings, ids, SERVED)
    assert calls.tokens == [45]
    reference = tiny("llama")
    attach(reference, encodings)
    for n in SERVED:
        assert gap(found[n], naive(reference, ids[:n])) < AGREE


@pytest.mark.parametrize("lengths", [[], [20, LENGTH + 1]])
def test_lengths_beyond_the_text_are_refused(lengths: Sequence[int]) -> None:
    with pytest.raises(ConfigError, match=r"losses_at\.lengths must be within 60 tokens"):
        losses_at(tiny("llama"), (Rotary(16),) * 3, words(1, LENGTH)[0], lengths)


@pytest.mark.parametrize(("width", "stride"), [(20, 20), (20, 6), (20, 1), (100, 50), (17, 16)])
def test_windows_are_read_at_positions_from_zero(width: int, stride: int) -> None:
    model, ids = tiny("llama"), words(1, LENGTH)[0]
    each: dict[int, float] = {}
    # the window that counts a token is the first one that holds it
    for begin in range(0, LENGTH, stride):
        part = naive(model, ids[begin : begin + width])
        for token, loss in enumerate(part.tolist(), start=begin + 1):
            each.setdefault(token, loss)
    found = windowed_losses(model, encodings_of(model), ids, width, stride)
    # where windows do not overlap, nothing predicts the first token of one
    expected = [each[t] for t in range(1, LENGTH) if stride < width or t % stride]
    assert gap(found, torch.tensor(expected)) < AGREE


def test_fixed_targets_are_read_after_each_context() -> None:
    model, ids = tiny("llama"), words(1, LENGTH)[0]
    found = fixed_target_losses(model, encodings_of(model), ids, 12, [1, 5, 30, 48])
    assert list(found) == [1, 5, 30, 48]
    for context, losses in found.items():
        assert gap(losses, naive(model, ids[-12 - context :])[-12:]) < AGREE
    assert gap(found[5], found[48]) > DIFFER
    for context in (0, 49):
        with pytest.raises(ConfigError, match=rf"fixed_target\.context must be from 1 to 48, got {context}"):
            fixed_target_losses(model, encodings_of(model), ids, 12, [context])


def test_logits_are_made_for_a_chunk_at_most_and_for_no_token_that_is_not_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids = tiny("llama"), words(1, LENGTH)[0]
    calls = Calls(model, monkeypatch)
    with prefix_attention(model):
        trunk = Trunk(model, 16)
        list(trunk.read(ids))
        assert calls.rows == calls.tokens == [16, 16, 16, 12]
        trunk.rewind(0)
        list(trunk.read(ids, scored=False))
        assert calls.rows[4:] == [1, 1, 1, 1]
        trunk.branch([ids[:9], ids[:5]], [3, 2])
        assert (calls.tokens[8:], calls.rows[8:]) == ([14], [5])


STARVED: dict[str, RuntimeError] = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:116] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                        "tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"),
}  # fmt: skip


def starve(layer: Any, error: RuntimeError, room: Callable[[int, int], bool], patch: pytest.MonkeyPatch) -> None:
    """Let the layer fail, after those before it have kept their keys, unless there is `room` for new after past."""
    inner = layer.forward

    def forward(states: Tensor, *args: Any, **given: Any) -> Any:
        if not room(states.shape[1], int(given["position_ids"][0, 0])):
            raise error
        return inner(states, *args, **given)

    patch.setattr(layer, "forward", forward)


@pytest.mark.parametrize("error", STARVED)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_chunks_shrink_until_they_fit(error: str, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, said = tiny("llama"), words(1, 300)[0], list[str]()
    with prefix_attention(model):
        small = chunked(model, ids, 64)
        starve(model.model.layers[layer], STARVED[error], lambda new, past: new <= 100, monkeypatch)
        trunk = Trunk(model, 256, said.append)
        shrunk = torch.cat(list(token_losses(trunk, ids)))
    assert trunk.chunk == 64
    assert torch.equal(shrunk, small)
    assert said == [f"out of memory: chunks of {n} tokens from position 0 on" for n in (128, 64)]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_memory_may_run_out_in_the_middle(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, said = tiny("llama"), words(1, 300)[0], list[str]()
    with prefix_attention(model):
        starve(model.model.layers[layer], STARVED["cpu"], lambda new, past: new + past <= 200 or new <= 40, monkeypatch)
        found = torch.cat(list(token_losses(Trunk(model, 128, said.append), ids)))
    assert gap(found, naive(tiny("llama"), ids)) < AGREE
    assert said == [
        "out of memory: chunks of 64 tokens from position 128 on",
        "out of memory: chunks of 32 tokens from position 192 on",
    ]


@pytest.mark.parametrize("error", STARVED)
@pytest.mark.parametrize("layer", [0, 2])
def test_questions_are_parted_until_they_fit(error: str, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, said = tiny("llama"), words(1, LENGTH)[0], list[str]()
    asked = [ids[n : n + 6] for n in range(40, 50)]
    with prefix_attention(model):
        trunk = Trunk(model, 16, said.append)
        list(trunk.read(ids[:40]))
        together = trunk.branch(asked, [2] * 10)
        calls = Calls(model, monkeypatch)
        starve(model.model.layers[layer], STARVED[error], lambda new, past: new <= 20, monkeypatch)
        apart = trunk.branch(asked, [2] * 10)
        # halves of ten, then of five
        assert calls.tokens == [12, 18, 12, 18]
        starve(model.model.layers[layer], STARVED[error], lambda new, past: False, monkeypatch)
        with pytest.raises(type(STARVED[error])):
            trunk.branch(asked, [2] * 10)
        assert trunk.cache.get_seq_length() == trunk.length == 40
    for one, other in zip(together, apart, strict=True):
        assert gap(one, other) < AGREE
    assert set(said) == {"out of memory: fewer questions in a call"}


def test_a_chunk_that_cannot_shrink_further_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    starve(model.model.layers[1], STARVED["cuda"], lambda new, past: False, monkeypatch)
    with prefix_attention(model), pytest.raises(torch.OutOfMemoryError):
        chunked(model, words(1, 300)[0], 128)
    assert model.config._attn_implementation == "sdpa"


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = tiny("llama"), list[str]()
    starve(model.model.layers[1], RuntimeError("shapes differ"), lambda new, past: past < 64, monkeypatch)
    with prefix_attention(model), pytest.raises(RuntimeError, match="shapes differ"):
        list(Trunk(model, 64, said.append).read(words(1, 300)[0]))
    assert said == []
