"""FlexAttention under a table of distances gives what the reference gives, and where it cannot, something else does.

torch has no gradient of it on a CPU and says so at once; without that refusal its unfused form has one, which is what
is compared here. One test compiles the kernel.
"""

import logging
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import ropewalk as rw
from ropewalk.attention import attend as dispatch
from ropewalk.attention import call as call_of
from ropewalk.attention import flex, reference
from ropewalk.attention.call import Call
from ropewalk.masks import Mask, bidirectional, causal, prefix, window
from ropewalk.tokens import Tokens
from tolerance import tolerance

# torch looks at the gradient of each tensor that a kernel reads, and hides the warning that comes of it from users
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

DIM, LENGTH = 16, 300  # three tiles, the last one not full
LINE = rw.contiguous(LENGTH)
PACKED = rw.packed(90, 1, 209)
ENCODINGS = (rw.T5(4), rw.Sandwich(4, 16), (rw.Rotary(16), rw.KerpleLog(4), rw.Alibi(4)), rw.T5(1))
CASES: dict[str, tuple[Tokens, Tokens, Mask]] = {
    "one document": (LINE, LINE, causal),
    "encoder": (LINE, LINE, bidirectional),
    "a chunk": (rw.contiguous(140, 160), LINE, causal),
    "packed": (PACKED, PACKED, causal),
    "a window": (PACKED, PACKED, window(20)),
    "a prefix": (PACKED, PACKED, prefix(30)),
    "left padding": (rw.ragged(180, LENGTH), rw.ragged(180, LENGTH), causal),
    "a shard": (rw.shard(LINE, 1, 2), LINE, causal),
    "another document": (LINE, LINE._replace(document=LINE.document + (LINE.order < 150)), causal),
}


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Nothing is known of earlier calls."""
    flex.refusals.clear()
    flex.tiles.cache_clear()


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not compiled, and not refused for being on a CPU."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *of: None)
    monkeypatch.setattr(torch_flex, "_WARNINGS_SHOWN", {"flex_attention_performance"})
    many = torch._dynamo.config.patch(recompile_limit=flex.SIGNATURES)
    monkeypatch.setattr(flex, "compiled", lambda: many(torch_flex.flex_attention))


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose products of narrow numbers are the fast ones."""
    monkeypatch.setattr(call_of, "accelerated", lambda device: True)


def made(encoding: Any, case: str, dtype: torch.dtype = torch.float32) -> Call:
    q_at, k_at, mask = CASES[case]
    batch = max(q_at.order.shape[0], 2)
    draw = torch.Generator().manual_seed(len(case))
    shapes = [(batch, h, at.order.shape[1], DIM) for h, at in ((4, q_at), (2, k_at), (2, k_at))]
    q, k, v = (torch.randn(s, generator=draw).to(dtype).requires_grad_() for s in shapes)
    w = {name: x.requires_grad_() for name, x in rw.initial(encoding).items()}
    return Call(q, k, v, encoding, w, q_at, k_at, mask)


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize(
    ("encoding", "case"),
    [(ENCODINGS[0], case) for case in CASES] + [(e, "packed") for e in ENCODINGS[1:]],
    ids=rw.short,
)
def test_outcomes_and_gradients_equal_those_of_the_reference(encoding: Any, case: str) -> None:
    call = made(encoding, case)
    found, exact = flex.attend_flex(call), reference.attend(*call)
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance(exact.detach(), DIM))
    assert case != "another document" or torch.equal(found[:, :, :150], torch.zeros_like(found[:, :, :150]))
    leaves = [*call[:3], *call.w.values()]
    seed = torch.randn(exact.shape, generator=torch.Generator().manual_seed(7))
    for one, other in zip(*(torch.autograd.grad(x, leaves, seed) for x in (found, exact)), strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other, LENGTH))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, on its compiler's import
def test_the_kernel_itself() -> None:
    call = made(ENCODINGS[2], "a prefix")
    call = call._replace(q=call.q.detach(), k=call.k.detach(), v=call.v.detach())
    with torch.no_grad():
        found, exact = flex.attend_flex(call), reference.attend(*call)
    assert not flex.refusals
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance(exact, DIM))


@pytest.mark.parametrize("case", CASES)
def test_tiles_cover_what_is_seen_and_those_seen_whole_hold_nothing_else(case: str) -> None:
    q_at, k_at, mask = CASES[case]
    listed = flex.tiles(q_at, k_at, mask, (2, torch.device("cpu")))
    seen = mask(q_at, k_at)
    for b, q, k in torch.cartesian_prod(*(torch.arange(n) for n in listed.kv_indices[:, 0].shape)).tolist():
        part, whole = (
            k in where[b, 0, q, : int(count[b, 0, q])]
            for count, where in (
                (listed.kv_num_blocks, listed.kv_indices),
                (listed.full_kv_num_blocks, listed.full_kv_indices),
            )
        )
        tile = seen[b, q * flex.TILE : (q + 1) * flex.TILE, k * flex.TILE : (k + 1) * flex.TILE]
        assert (part or whole) == bool(tile.any())
        assert whole == (tile.numel() == flex.TILE**2 and bool(tile.all()))
    assert listed is flex.tiles(q_at, k_at, mask, (2, torch.device("cpu")))


def test_tiles_never_hold_a_square(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = flex.tiles(PACKED, PACKED, causal, (1, torch.device("cpu")))
    monkeypatch.setattr(flex, "HELD", 1)
    flex.tiles.cache_clear()
    rows = []

    def watched(q_at: Tokens, k_at: Tokens) -> Tensor:
        rows.append(q_at.order.shape[1])
        return causal(q_at, k_at)

    some = flex.tiles(PACKED, PACKED, watched, (1, torch.device("cpu")))
    assert rows == [128, 128, 44]
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
        assert torch.equal(getattr(some, name), getattr(whole, name))


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize(
    ("encoding", "case", "dtype", "backend"),
    [
        (rw.Alibi(4), "one document", torch.bfloat16, "folded"),
        (rw.Alibi(4), "a chunk", torch.float16, "folded"),
        ((rw.Rotary(16), rw.Alibi(4)), "one document", torch.bfloat16, "folded"),
        (rw.Alibi(4), "one document", torch.float32, "flex"),
        (rw.Alibi(4), "encoder", torch.bfloat16, "flex"),
        (rw.Alibi(4), "packed", torch.bfloat16, "flex"),
        ((rw.Alibi(4), rw.T5(4)), "one document", torch.bfloat16, "flex"),
        (rw.T5(4), "a window", torch.bfloat16, "flex"),
        (rw.T5(4), "left padding", torch.float32, "flex"),
        (rw.T5(4), "one document", torch.float64, "strips"),
        (rw.Rotary(16), "one document", torch.bfloat16, "sdpa"),
        (rw.Fire(4), "one document", torch.bfloat16, "blocks"),
        ((rw.XPos(16), rw.Alibi(4)), "one document", torch.bfloat16, "blocks"),
    ],
    ids=str,
)
def test_what_is_chosen_where_narrow_products_are_fast(
    encoding: Any, case: str, dtype: torch.dtype, backend: str
) -> None:
    found, why = rw.choose(*made(encoding, case, dtype))
    assert found == backend
    assert len(why) > 20


def test_on_a_cpu_strips_stay() -> None:
    for encoding in (rw.Alibi(4), rw.T5(4)):
        assert rw.choose(*made(encoding, "one document", torch.bfloat16))[0] == "strips"


@pytest.mark.usefixtures("accelerated")
def test_few_queries_and_positions_far_apart_are_left_to_others() -> None:
    call = made(rw.T5(4), "one document")
    last = rw.contiguous(flex.TILE - 1, LENGTH - flex.TILE + 1)
    assert rw.choose(*call._replace(q=call.q[:, :, : flex.TILE - 1], q_at=last))[0] == "strips"
    apart = LINE._replace(position=LINE.position * 50)
    assert rw.choose(*call._replace(q_at=apart, k_at=apart))[0] == "blocks"
    between = LINE._replace(position=LINE.position.double())
    assert rw.choose(*call._replace(encoding=rw.Alibi(4), q_at=between, k_at=between))[0] == "blocks"


@pytest.mark.usefixtures("accelerated")
def test_what_does_not_compile_is_told_once_and_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torch refuses gradients of this kernel on a CPU: as good a reason as a compiler that is not there."""
    asked = []
    kernel = flex.compiled()
    monkeypatch.setattr(flex, "compiled", lambda: asked.append(1) or kernel)
    call = made(rw.T5(4), "one document")
    assert rw.choose(*call)[0] == "flex"
    with caplog.at_level(logging.WARNING, logger="ropewalk"):
        for each in (call, call, call._replace(q=call.q[..., :8], k=call.k[..., :8])):
            found, exact = rw.attend(*each), reference.attend(*each)
            torch.testing.assert_close(found, exact, rtol=0, atol=tolerance(exact.detach(), DIM))
    # once for each number of channels
    assert len(asked) == 2
    assert len(caplog.records) == 1
    assert "FlexAttention does not compile for cpu" in caplog.text
    assert rw.choose(*call)[0] == "strips"
    with pytest.raises(rw.UnsupportedError, match="is compiled by torch alone: "):
        flex.attend_flex(call)
    with torch.no_grad():
        assert rw.choose(*call)[0] == "flex"


@pytest.mark.usefixtures("accelerated", "unfused")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("encoding", "case"),
    [
        (rw.Rotary(16), "one document"),
        ((), "packed"),
        (rw.Rotary(16), "a window"),
        ((rw.Rotary(8), rw.Rotary(8, offset=8), rw.T5(4)), "packed"),
        (rw.Alibi(4), "a chunk"),
    ],
    ids=str,
)
def test_narrow_tensors_stay_narrow(
    encoding: Any, case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped queries and keys, the weights and the outcome are each rounded to their dtype once."""
    call = made(encoding, case, dtype)
    seen = set()
    for name, way in dispatch.BACKENDS.items():
        monkeypatch.setitem(dispatch.BACKENDS, name, lambda c, way=way: seen.add(c.rotated().q.dtype) or way(c))
    found = rw.attend(*call)
    assert seen == {dtype}
    assert found.dtype == dtype
    wide = [x.detach().double().requires_grad_() for x in call[:3]]
    exact = reference.attend(*wide, encoding, call.w, *call[5:])
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance(call.v.detach(), DIM))
    both = [torch.autograd.grad(x.sum(), of) for x, of in ((found, call[:3]), (exact, wide))]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance(other.to(dtype), LENGTH))
