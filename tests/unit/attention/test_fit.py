"""An encoding made for other heads is refused in one line."""

from typing import Any

import pytest
import torch

import ropewalk as rw

LENGTH, HEADS, DIM = 9, 4, 16


def attended(encoding: Any, w: dict[str, torch.Tensor]) -> torch.Tensor:
    q, k, v = torch.randn(3, 1, HEADS, LENGTH, DIM, generator=torch.Generator().manual_seed(0))
    at = rw.contiguous(LENGTH)
    return rw.attend(q, k, v, encoding, w, at, at)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (rw.Alibi(8), "Alibi.heads must be 4, the heads of the queries, got 8"),
        (rw.Alibi(8, first=6), "Alibi.heads must be 4, the heads of the queries, got 2"),
        (rw.Urpe(8), "Urpe.heads must be 4, the heads of the queries, got 8"),
        (rw.Shaw(12), "Shaw.dim must be 16, the channels of a head, got 12"),
        (rw.Rotary(32), "Rotary.dim must be at most 16, the channels of a head, got 32"),
        (rw.Rotary(16, offset=2), "Rotary.dim must be at most 16, the channels of a head, got 18"),
        ((rw.Shaw(16), rw.Cope(16)), r"encoding must be at most one part that replaces the dot product, got \[Shaw"),
    ],
    ids=repr,
)
def test_what_does_not_fit(encoding: Any, message: str) -> None:
    with pytest.raises(rw.ConfigError, match=f"^{message}"):
        attended(encoding, rw.initial(encoding))


def test_rotating_alone_is_checked_too() -> None:
    q = torch.zeros(1, 4, 9, 16)
    with pytest.raises(rw.ConfigError, match=r"^Rotary\.dim must be at most 16"):
        rw.rotate(q, q, rw.Rotary(32), rw.contiguous(9))


@pytest.mark.parametrize(
    "encoding", [rw.Alibi(8, first=4), rw.Alibi(16, first=2, count=4), rw.T5(1), rw.Rotary(8, offset=8)], ids=repr
)
def test_what_does_fit(encoding: Any) -> None:
    assert attended(encoding, rw.initial(encoding)).isfinite().all()
