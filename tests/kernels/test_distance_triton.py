"""Triton's attention with a table of distances, element by element, against dense attention in float64.

Runs on a GPU, or on the CPU under Triton's interpreter where TRITON_INTERPRET=1 is set (test_triton.py does that).
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tolerance import tolerance

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU; test_triton.py runs this file under the interpreter", allow_module_level=True)
pytest.importorskip("triton")

from ropewalk.kernels.triton.distance_attention import attend_table_into  # noqa: E402 - reads the environment

pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
DEVICE = "cpu" if INTERPRETED else "cuda"


class Case(NamedTuple):
    """Sizes of one call: batch, query heads, key heads, queries, keys, channels of keys, channels of values."""

    B: int = 1
    H: int = 2
    G: int = 2
    Q: int = 20
    K: int = 20
    D: int = 8
    V: int = 8
    dtype: torch.dtype = torch.float32


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE, dtype)


def operands(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and a table for as many tokens as there are queries or keys."""
    torch.manual_seed(0)
    q = draw(case.B, case.H, case.Q, case.D, dtype=case.dtype)
    k, v = (draw(case.B, case.G, case.K, n, dtype=case.dtype) for n in (case.D, case.V))
    return q, k, v, 2 * draw(case.H, 2 * max(case.Q, case.K, 1) - 1)


def dense(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, causal: bool, scale: float | None = None
) -> tuple[Tensor, float]:
    """Attention in float64 from all logits at once, and the largest of those that are finite."""
    q, k, v, table = (t.double() for t in (q, k, v, table))
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    queries, keys = q.shape[2], k.shape[2]
    row, column = (torch.arange(n, device=q.device) for n in (queries, keys))
    distance = row[:, None] + keys - queries - column
    s = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + table[:, distance + table.shape[1] // 2]
    if causal:
        s = s.masked_fill(distance < 0, -torch.inf)
    largest = s[s.isfinite()].abs().max().item() if bool(s.isfinite().any()) else 0.0
    return s.softmax(-1).nan_to_num(0.0) @ v, largest


def compare(out: Tensor, exact: Tensor, largest: float, v: Tensor, channels: int) -> None:
    # a logit is off by its size times an eps, and moves weights by as much; narrow types round weights and outputs
    atol = tolerance(v.float(), channels) * max(1.0, largest) + (tolerance(v) if v.dtype != torch.float32 else 0.0)
    assert bool(((out.double() - exact).abs() <= atol).all())


def check(q: Tensor, k: Tensor, v: Tensor, table: Tensor, causal: bool, scale: float | None = None) -> None:
    """Every element right, nothing else written, nothing that was read changed."""
    shape = (*q.shape[:3], v.shape[3])
    buffer = torch.full([n + 2 for n in shape], torch.nan, dtype=q.dtype, device=q.device)
    out = buffer[tuple(slice(1, n + 1) for n in shape)]
    before = [t.clone() for t in (q, k, v, table)]
    attend_table_into(q, k, v, table, out, causal, scale)
    exact, largest = dense(q, k, v, table, causal, scale)
    if v.numel():
        compare(out, exact, largest, v, q.shape[3])
    else:
        assert bool((out == 0).all())
    assert int((~buffer.isnan()).sum()) == out.numel()
    assert all(torch.equal(now, then) for now, then in zip((q, k, v, table), before, strict=True))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "case",
    [
        Case(B=2, H=4, G=2, Q=70, K=70),
        Case(H=8, G=2, Q=1, K=33, D=6, V=10),
        Case(Q=17, K=100, D=80, V=80),
        Case(Q=5, K=3),
        Case(Q=1, K=1, D=2, V=2),
        Case(Q=0, K=3),
        Case(Q=3, K=0),
        Case(H=1, G=1, Q=18, K=18, D=256, V=256),
    ],
    ids=str,
)
def test_sizes(case: Case, causal: bool) -> None:
    check(*operands(case), causal)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types(dtype: torch.dtype, causal: bool) -> None:
    check(*operands(Case(Q=40, K=70, dtype=dtype)), causal)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "tokens first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels first": lambda x: x.mT.contiguous().mT,
    "every other channel": lambda x: x.repeat_interleave(2, dim=3)[..., 1::2],
    "one head for all": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout: str) -> None:
    q, k, v, table = operands(Case(B=2))
    check(*(LAYOUTS[layout](x) for x in (q, k, v)), table, True)


def test_tables_of_other_widths_and_strides() -> None:
    q, k, v, _ = operands(Case())
    wide = 2 * draw(2, 61)
    check(q, k, v, wide, True)
    check(q, k, v, wide.mT.contiguous().mT, False)
    check(q, k, v, wide[:1], False)
    check(q, k, v, wide[:1].expand(2, -1), False)


def test_a_scale() -> None:
    check(*operands(Case()), True, 1.0)


@pytest.mark.parametrize("causal", [True, False])
def test_distances_that_are_hidden(causal: bool) -> None:
    q, k, v, table = operands(Case(Q=70, K=70))
    centre = table.shape[1] // 2
    # a window of three; and a head whose queries see keys of the first block only where those are far enough away
    table[0, : centre - 2] = table[0, centre + 3 :] = -torch.inf
    table[1, : centre + 40] = -torch.inf
    check(q, k, v, table, causal)


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_comparison_sees_a_table_that_is_off_by_one(shift: int) -> None:
    q, k, v, table = operands(Case())
    exact, largest = dense(q, k, v, table, True)
    compare(exact.float(), exact, largest, v, 8)
    with pytest.raises(AssertionError):
        compare(dense(q, k, v, table.roll(shift, 1), True)[0], exact, largest, v, 8)
    with pytest.raises(AssertionError):
        compare(exact.float().index_fill(3, torch.tensor(0, device=DEVICE), torch.nan), exact, largest, v, 8)
