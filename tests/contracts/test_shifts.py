"""A text gets the same attention wherever it stands, by prime shifts; encodings for which that is not so are named."""

from typing import Any

import pytest
import torch

import ropewalk as rw
from contracts.cases import ENCODINGS, LENGTH, Layer, close, members, placed, words
from ropewalk.sites import Embeds
from ropewalk.written import short

# a group, a chunk or the sinks begin at a fixed place; the others read where the query stands
BY_PLACE = (rw.SelfExtend, rw.DualChunk, rw.LMInfinite, rw.StreamingLLM)
NOT_RELATIVE = (*BY_PLACE, rw.Adaptive, rw.Fire, rw.LogN, rw.Temperature, rw.Tupe, rw.LieRotary)
SHIFTS = [1009, 100_003]


def bound(encoding: Any) -> bool:
    return any(isinstance(e, Embeds) or isinstance(e, NOT_RELATIVE) for e in members(encoding))


def outputs(encoding: Any, shift: int) -> torch.Tensor:
    layer, at = Layer(encoding), placed(encoding, rw.contiguous(LENGTH))
    at = at._replace(position=at.position + shift)
    return rw.attend(*layer.qkv(words()), encoding, layer.w, at, at)


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if not bound(e)], ids=short)
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_common_shift_changes_nothing(encoding: Any, shift: int) -> None:
    close(outputs(encoding, shift), outputs(encoding, 0))


def test_a_shift_by_a_multiple_of_the_group_would_hide_that_groups_begin_at_fixed_places() -> None:
    grouped = rw.SelfExtend(rw.Rotary(16), window=6, group=4)
    close(outputs(grouped, 1000), outputs(grouped, 0))
    assert (outputs(grouped, 1009) - outputs(grouped, 0)).abs().max() > 1e-3
