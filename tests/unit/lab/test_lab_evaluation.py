"""Readings against one text at a time, and protocols as views of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.lab import evaluation
from ropewalk.lab.evaluation import (
    FIXED,
    NONOVERLAPPING,
    SLIDING,
    WINDOWS,
    Plan,
    by_position,
    edges,
    pooled,
    read,
    view,
)
from ropewalk.lab.model import Decoder, Shape
from ropewalk.written import short
from tolerance import tolerance

PLAN = Plan(train_length=8, times=4, tokens=96)  # of 8, 16 and 32 tokens
ENCODINGS = [(), rw.Rotary(16), rw.XPos(16), rw.Alibi(2), rw.T5(2, max_distance=17), rw.Fire(2, threshold=4.0)]


def quiet(_: int) -> None: ...


def alone(model: Decoder, text: Tensor) -> Tensor:
    """The losses of all but the first token of Int[T], read by itself."""
    logits = model(text[None, :-1].long())[0].double()
    return -logits.log_softmax(-1).gather(1, text[1:, None].long())[:, 0].detach()


@pytest.mark.parametrize("encoding", ENCODINGS, ids=short)
@pytest.mark.parametrize("length", PLAN.lengths)
def test_readings_are_those_of_one_text_at_a_time(
    encoding: Any, length: int, tiny: Shape, stream: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "BATCH", 40)
    model, told = Decoder(tiny, encoding), list[int]()
    found = read(model, stream, PLAN, WINDOWS, length, told.append)
    exact = torch.cat([alone(model, stream[i : i + length + 1]) for i in range(0, 96, length)])
    assert found.shape == (96,)
    torch.testing.assert_close(torch.tensor(found).double(), exact, rtol=0, atol=tolerance(exact.float(), 256))
    slid = read(model, stream, PLAN, SLIDING, length, told.append)
    ends = range(32 + PLAN.stride, 32 + PLAN.slid + 1, PLAN.stride)
    exact = torch.cat([alone(model, stream[e - length : e + 1])[-PLAN.stride :] for e in ends])
    assert slid.shape == (PLAN.slid,)
    torch.testing.assert_close(torch.tensor(slid).double(), exact, rtol=0, atol=tolerance(exact.float(), 256))
    assert sum(told) == PLAN.cost(WINDOWS, length) + PLAN.cost(SLIDING, length)


def test_the_plan_of_the_recipe() -> None:
    plan = Plan(128, 16, 65_536)
    assert plan.lengths == (128, 256, 512, 1024, 2048)
    assert (plan.longest, plan.stride, plan.slid, plan.last, plan.needed) == (2048, 64, 2048, 64, 65_537)
    assert Plan(128, 1, 128).lengths == (128,)
    assert Plan(4, 2, 8).needed == 8 + 2 + 1
    assert set(plan.described()) == set(evaluation.PROTOCOLS)


@pytest.mark.parametrize("encoding", [(), rw.Alibi(2)], ids=short)
def test_a_fixed_target_is_the_same_tokens_with_more_before_them(encoding: Any, tiny: Shape, stream: Tensor) -> None:
    model = Decoder(tiny, encoding)
    for length in PLAN.lengths:
        found = view({WINDOWS: read(model, stream, PLAN, WINDOWS, length, quiet)}, FIXED, PLAN)
        assert found is not None
        texts = [stream[end - length : end + 1] for end in (32, 64, 96)]
        exact = torch.cat([alone(model, text)[-PLAN.last :] for text in texts])
        torch.testing.assert_close(torch.tensor(found).double(), exact, rtol=0, atol=tolerance(exact.float(), 256))


def test_a_protocol_without_its_reading_is_none() -> None:
    losses = np.arange(96.0)
    assert view({}, NONOVERLAPPING, PLAN) is None
    assert view({SLIDING: losses}, FIXED, PLAN) is None
    assert view({WINDOWS: losses}, SLIDING, PLAN) is None
    assert view({WINDOWS: losses}, NONOVERLAPPING, PLAN) is losses
    fixed = view({WINDOWS: losses}, FIXED, PLAN)
    assert fixed is not None
    assert fixed.tolist() == [28, 29, 30, 31, 60, 61, 62, 63, 92, 93, 94, 95]


def test_losses_by_position_are_means_over_texts() -> None:
    losses = np.concatenate([np.arange(32.0), 10 + np.arange(32.0), 5 + np.arange(32.0)])
    assert edges(PLAN) == list(range(0, 33, 2))
    found = by_position(losses, PLAN)
    means, errors = found["loss"], found["se"]
    assert means == [0.5 + 5 + 2 * i for i in range(16)]
    assert errors == pytest.approx([5 / 3**0.5] * 16)
    assert by_position(losses[:32], PLAN)["se"] == [None] * 16


def test_the_error_of_a_fixed_target_comes_from_its_places() -> None:
    losses = np.repeat([1.0, 2.0, 6.0], PLAN.last)
    found = pooled(losses, PLAN, FIXED)
    assert (found.loss, found.tokens) == (3.0, 12)
    assert found.se == pytest.approx(7**0.5 / 3**0.5)


def test_a_table_that_ends_is_refused_and_a_short_stream_too(tiny: Shape, stream: Tensor) -> None:
    model = Decoder(tiny, rw.Learned(32, 8))
    assert len(read(model, stream, PLAN, WINDOWS, 8, quiet)) == 96
    with pytest.raises(rw.ConfigError, match="from 0 to 7, got 15"):
        read(model, stream, PLAN, WINDOWS, 16, quiet)
    with pytest.raises(rw.ConfigError, match="of at least 97 tokens, got 96"):
        read(model, stream[:96], PLAN, WINDOWS, 8, quiet)
