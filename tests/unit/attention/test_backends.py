"""Every way of computing attention gives what the reference gives, and says why it was taken."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.attention import attend as dispatch
from ropewalk.attention import reference, sdpa, strip_gradient, strips
from ropewalk.attention.call import Call
from ropewalk.masks import Mask, bidirectional, causal, prefix, window
from ropewalk.tokens import Tokens
from ropewalk.written import short
from tolerance import tolerance

DIM = 16
FREE = ((), rw.Rotary(16), rw.Rotary(8, offset=4, pairing="interleaved"))
DISTANCE = (
    rw.Alibi(4),
    rw.Alibi(4, ahead=0.5),
    rw.T5(4, max_distance=40),
    rw.KerpleLog(4),
    rw.Sandwich(4, 16),
    (rw.Rotary(16), rw.Alibi(4)),
    (rw.T5(4), rw.KerplePower(4), rw.Alibi(4)),
)
OTHER = (rw.XPos(16), rw.Fire(4), rw.Shaw(16), (rw.XPos(16), rw.Alibi(4)))
each = pytest.mark.parametrize("encoding", [*FREE, *DISTANCE, *OTHER], ids=short)
distance = pytest.mark.parametrize("encoding", DISTANCE, ids=short)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes under which rows of some dozen tokens have several strips, tiles, slabs and blocks, and ragged ends."""
    for owner, name, size in (
        (strips, "SHORT", 16),
        (strips, "HELD", 2048),
        (strips, "TILED", 4),
        (strip_gradient, "QUERIES", 8),
        (strip_gradient, "KEYS", 12),
        (sdpa, "ROWS", 16),
    ):
        monkeypatch.setattr(owner, name, size)


def qkv(queries: int, keys: int, batch: int = 1, heads: int = 4, groups: int = 2, values: int = DIM) -> list[Tensor]:
    draw = torch.Generator().manual_seed(queries + keys)
    shapes = ((batch, heads, queries, DIM), (batch, groups, keys, DIM), (batch, groups, keys, values))
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


def learned(encoding: Any) -> dict[str, Tensor]:
    return {name: x.double() for name, x in rw.initial(encoding).items()}


def moved(at: Tokens, by: int) -> Tokens:
    return at._replace(position=at.position + by)


def joined(*rows: Tokens) -> Tokens:
    return Tokens(*(torch.cat(field) for field in zip(*rows, strict=True)))


# name: queries, keys, mask, and what serves rotations and distance biases
LINE = rw.contiguous(41)
FRACTIONS = LINE._replace(position=LINE.position.double())
HALVES = rw.packed(17, 24)._replace(position=rw.packed(17, 24).position.double())
# a document that another one interrupts, a document with a hole, and one whose halves are swapped
APART = LINE._replace(document=((LINE.order > 10) & (LINE.order < 20)).long())
GAP = rw.packed(17, 24)._replace(position=rw.packed(17, 24).position + 3 * (LINE.position > 30))
MIXED = rw.select(rw.packed(17, 24), torch.cat((LINE.order[0, :17], LINE.order[0, 29:], LINE.order[0, 17:29])))
CASES: dict[str, tuple[Tokens, Tokens, Mask, str, str]] = {
    "one document": (LINE, LINE, causal, "sdpa", "strips"),
    "written twice": (LINE, rw.contiguous(41), causal, "sdpa", "strips"),
    "further on": (rw.contiguous(33, 70_000), rw.contiguous(33, 70_000), causal, "sdpa", "strips"),
    "encoder": (LINE, LINE, bidirectional, "sdpa", "strips"),
    "one token": (rw.contiguous(1), rw.contiguous(1), causal, "sdpa", "strips"),
    "decoding": (rw.contiguous(1, 40), LINE, causal, "sdpa", "strips"),
    "a chunk": (rw.contiguous(19, 22), LINE, causal, "blocks", "strips"),
    "a chunk that sees all": (rw.contiguous(19, 22), LINE, bidirectional, "sdpa", "strips"),
    "rows elsewhere": (joined(LINE, moved(LINE, 7)), joined(LINE, moved(LINE, 7)), causal, "sdpa", "strips"),
    "places in between": (
        LINE._replace(position=LINE.position * 1.5),
        LINE._replace(position=LINE.position * 1.5),
        causal,
        "sdpa",
        "blocks",
    ),
    "places kept as fractions": (FRACTIONS, FRACTIONS, causal, "sdpa", "blocks"),
    "packed places kept as fractions": (HALVES, HALVES, causal, "documents", "blocks"),
    "a gap": (rw.contiguous(5, 30), rw.contiguous(20), causal, "blocks", "blocks"),
    "earlier queries": (rw.contiguous(20), LINE, causal, "blocks", "blocks"),
    "packed": (rw.packed(17, 1, 23), rw.packed(17, 1, 23), causal, "documents", "documents"),
    "packed encoder": (rw.packed(17, 24), rw.packed(17, 24), bidirectional, "documents", "documents"),
    "taken apart": (APART, APART, causal, "blocks", "blocks"),
    "packed with a gap": (GAP, GAP, causal, "documents", "blocks"),
    "packed out of order": (MIXED, MIXED, causal, "blocks", "blocks"),
    "packed and cut": (rw.select(rw.packed(17, 24), slice(9, None)), rw.packed(17, 24), causal, "blocks", "blocks"),
    "left padding": (rw.ragged(30, 41), rw.ragged(30, 41), causal, "blocks", "blocks"),
    "a window": (LINE, LINE, window(6), "blocks", "blocks"),
    "a prefix": (LINE, LINE, prefix(9), "blocks", "blocks"),
    "a shard": (rw.shard(rw.contiguous(40), 1, 2), rw.contiguous(40), causal, "blocks", "blocks"),
    "another document": (
        LINE,
        LINE._replace(document=torch.ones_like(LINE.document)),
        causal,
        "blocks",
        "blocks",
    ),
}
cases = pytest.mark.parametrize("case", CASES)


def arguments(encoding: Any, case: str, heads: int = 4, groups: int = 2, values: int = DIM) -> tuple[list[Any], Call]:
    q_at, k_at, mask, *_ = CASES[case]
    tensors = qkv(q_at.order.shape[1], k_at.order.shape[1], q_at.order.shape[0], heads, groups, values)
    return tensors, Call(*tensors, encoding, learned(encoding), q_at, k_at, mask)


def expected(encoding: Any, case: str) -> str:
    if encoding in OTHER:
        return "reference" if rw.parts(encoding, rw.Shaw) else "blocks"
    return CASES[case][3 if encoding in FREE else 4]


@each
@cases
def test_outcomes_equal_those_of_the_reference(encoding: Any, case: str) -> None:
    if rw.parts(encoding, (rw.T5, rw.Shaw)) and case.split()[-1] in ("between", "fractions"):
        with pytest.raises(rw.ConfigError, match="a whole number"):
            rw.attend(*arguments(encoding, case)[1])
        return
    _, call = arguments(encoding, case)
    before = [x.clone() for x in call[:3]]
    backend, why = rw.choose(*call)
    assert backend == expected(encoding, case), why
    found, exact = rw.attend(*call), reference.attend(*call)
    # tables are float32 in both, but those of XPos depend on where a block ends
    drift = tolerance(exact.float(), DIM) if rw.parts(encoding, rw.XPos) else tolerance(exact, DIM)
    torch.testing.assert_close(found, exact, rtol=0, atol=drift)
    assert all(torch.equal(a, b) for a, b in zip(before, call[:3], strict=True))


@distance
@pytest.mark.parametrize("case", ["one document", "a chunk", "encoder", "packed", "a window"])
@pytest.mark.parametrize(("heads", "groups", "values"), [(4, 2, DIM), (4, 1, DIM), (4, 4, 5)])
def test_gradients_equal_those_of_the_reference(encoding: Any, case: str, heads: int, groups: int, values: int) -> None:
    tensors, call = arguments(encoding, case, heads, groups, values)
    leaves = [x.requires_grad_() for x in (*tensors, *call.w.values())]
    seed = torch.randn(*call.q.shape[:3], values, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    exact = torch.autograd.grad(reference.attend(*call), leaves, seed)
    found = torch.autograd.grad(rw.attend(*call), leaves, seed)
    for one, other in zip(found, exact, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other, 41 * DIM))


@pytest.mark.parametrize("encoding", FREE, ids=short)
@cases
def test_gradients_without_a_bias_equal_those_of_the_reference(encoding: Any, case: str) -> None:
    tensors, call = arguments(encoding, case)
    leaves = [x.requires_grad_() for x in tensors]
    outcome = reference.attend(*call)
    seed = torch.randn(outcome.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    exact = torch.autograd.grad(outcome, leaves, seed)
    found = torch.autograd.grad(rw.attend(*call), leaves, seed)
    for one, other in zip(found, exact, strict=True):
        # a softmax over one key has no slope, and leaves what rounding leaves
        torch.testing.assert_close(one, other, rtol=0, atol=max(tolerance(other, 41 * DIM), tolerance(seed)))


@pytest.mark.parametrize("encoding", [(), rw.T5(4), rw.Alibi(4)], ids=short)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", ["one document", "decoding", "a chunk", "packed"])
def test_narrow_inputs_are_rounded_once(encoding: Any, dtype: torch.dtype, case: str) -> None:
    tensors, call = arguments(encoding, case)
    narrow = [x.to(dtype) for x in tensors]
    exact = reference.attend(*(x.double() for x in narrow), *call[3:])
    found = rw.attend(*narrow, *call[3:])
    assert found.dtype == dtype
    before = 64 * torch.finfo(torch.float32).eps * exact.abs().max()
    half_ulp = torch.finfo(dtype).eps / 2
    assert ((found.double() - exact).abs() <= half_ulp * (exact.abs() + before) + before).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_gradients_are_rounded_once(dtype: torch.dtype) -> None:
    tensors, call = arguments(rw.T5(4), "one document")
    w = {name: x.float().requires_grad_() for name, x in call.w.items()}
    leaves = [x.to(dtype).requires_grad_() for x in tensors]
    seed = torch.ones(1, 4, 41, DIM)
    found = torch.autograd.grad(rw.attend(*leaves, rw.T5(4), w, *call[5:]), [*leaves, *w.values()], seed.to(dtype))
    wide = [x.detach().float().requires_grad_() for x in leaves]
    exact = torch.autograd.grad(rw.attend(*wide, rw.T5(4), w, *call[5:]), [*wide, *w.values()], seed)
    # the outcome was rounded too, and enters the gradient of each logit
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0, atol=tolerance(other.to(dtype), 41))


@distance
@pytest.mark.parametrize("case", ["one document", "decoding", "a chunk", "encoder", "rows elsewhere"])
@pytest.mark.parametrize(("heads", "groups", "values"), [(4, 2, DIM), (4, 4, DIM), (4, 1, 5)])
def test_short_texts_are_worked_on_at_once(
    encoding: Any, case: str, heads: int, groups: int, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, call = arguments(encoding, case, heads, groups, values)
    monkeypatch.setattr(strips, "SHORT", call.k.shape[2])
    monkeypatch.setattr(strips, "HELD", 2**22)
    monkeypatch.setattr(strips.Strips, "apply", None)
    leaves = [x.requires_grad_() for x in (*tensors, *call.w.values())]
    exact, found = reference.attend(*call), rw.attend(*call)
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance(exact, DIM))
    seed = torch.randn(exact.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    into = [torch.autograd.grad(x, leaves, seed) for x in (exact, found)]
    for other, one in zip(*into, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other, 41 * DIM))
    with torch.no_grad():
        torch.testing.assert_close(rw.attend(*call), exact, rtol=0, atol=tolerance(exact, DIM))


@pytest.mark.parametrize(("name", "size"), [("SHORT", 40), ("HELD", 4 * 41 * 41 - 1)])
def test_longer_texts_or_many_rows_are_not(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "SHORT", 41)
    monkeypatch.setattr(strips, "HELD", 4 * 41 * 41)
    _, call = arguments(rw.T5(4), "one document")
    call = call._replace(w={name: x.requires_grad_() for name, x in call.w.items()})
    assert strips.brief(call, strips.table(call))
    monkeypatch.setattr(strips, name, size)
    assert not strips.brief(call, strips.table(call))
    # nothing is kept where nothing learns
    still = call._replace(w={name: x.detach() for name, x in call.w.items()})
    assert strips.brief(still, strips.table(still)) == (name == "HELD")


def test_a_chunk_over_a_prefix_is_worked_on_in_two_parts_where_nothing_learns() -> None:
    tensors, call = arguments(rw.Rotary(16), "a chunk")
    call = call._replace(**{name: x.float() for name, x in zip("qkv", tensors, strict=True)})
    assert rw.choose(*call)[0] == "sdpa"
    exact = reference.attend(*call)
    torch.testing.assert_close(rw.attend(*call), exact, rtol=0, atol=tolerance(exact, DIM))
    call.q.requires_grad_()
    assert rw.choose(*call)[0] == "blocks"
    with torch.no_grad():
        assert rw.choose(*call)[0] == "sdpa"


@pytest.mark.parametrize("view", ["transposed", "every other channel", "expanded"])
@pytest.mark.parametrize("encoding", [(), rw.Rotary(16), rw.T5(4)], ids=short)
def test_any_strides(encoding: Any, view: str) -> None:
    make: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "every other channel": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
        "expanded": lambda x: x[:, :1].expand_as(x),
    }
    tensors, call = arguments(encoding, "one document")
    odd = [make[view](x).requires_grad_() for x in tensors]
    found, exact = rw.attend(*odd, *call[3:]), reference.attend(*odd, *call[3:])
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance(exact, DIM))
    both = [torch.autograd.grad(x.square().sum(), odd, retain_graph=True) for x in (found, exact)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other, 41 * DIM))


@pytest.mark.parametrize("encoding", [(), rw.Alibi(4), rw.Shaw(16)], ids=short)
@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (0, 5), (3, 0)])
def test_nothing_to_do_gives_zeros(encoding: Any, queries: int, keys: int) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(queries, keys, values=7))
    call = Call(q, k, v, encoding, learned(encoding), rw.contiguous(queries, keys), rw.contiguous(keys))
    assert rw.choose(*call)[0] == "empty"
    out = rw.attend(*call)
    assert torch.equal(out, torch.zeros(1, 4, queries, 7))
    out.sum().backward()
    assert q.grad is not None


def test_a_learned_bias_in_blocks_keeps_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def kept(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return x

    for case, backend in (("one document", "strips"), ("packed", "documents"), ("left padding", "blocks")):
        _, call = arguments(rw.T5(4), case)
        w = {name: x.requires_grad_() for name, x in call.w.items()}
        assert rw.choose(*call)[0] == backend
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
            rw.attend(*call._replace(w=w))
        assert 0 < largest <= call.q.numel() < call.q.shape[0] * 4 * 41 * 41
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
        reference.attend(*call._replace(w=w))
    assert largest >= 2 * 4 * 41 * 41


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 30.0])
def test_keys_are_left_out_only_where_rounding_loses_them(spread: float) -> None:
    """Of the weights that all keys would have, those left out are below a quarter of the last bit of 1."""
    q, k, _ = (x.float() * spread for x in qkv(700, 700, heads=4, groups=2))
    e = rw.Alibi(4)
    table = strips.table(Call(q, k, k, e, {}, rw.contiguous(700), rw.contiguous(700)))
    found = strips.reaches(q, k, table, 0.25)
    assert all(1 <= reach <= 700 for reach in found)
    # the first two heads share a key head; the larger reach is that of the smaller slope
    if spread <= 1:
        assert found[0] < 700
    if spread == 0:
        # nothing but the biases: the tightest that can be
        slopes = [rw.Alibi(4).slopes()[h] for h in (1, 3)]
        edge = math.log(torch.finfo(torch.float32).eps / 4)
        tight = [min(700, math.ceil((-edge - math.log(-math.expm1(-s))) / s)) for s in slopes]
        assert all(abs(reach - one) <= 1 for reach, one in zip(found, tight, strict=True))
    behind = (rw.contiguous(700).position - rw.contiguous(700).position.mT)[0].double()
    slopes = torch.tensor(e.slopes(), dtype=torch.float64)[:, None, None]
    logits = q.double() @ k.double().repeat_interleave(2, dim=1).mT * 0.25 - slopes * behind
    weights = logits.masked_fill(behind < 0, -torch.inf).softmax(-1)[0]
    far = behind >= torch.tensor(found).repeat_interleave(2)[:, None, None]
    assert float((weights * far).sum(-1).max()) <= torch.finfo(torch.float32).eps / 4


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_no_key_is_left_out_beside_one_that_is_no_number(bad: float) -> None:
    q, k, _ = (x.float() for x in qkv(700, 700, heads=4, groups=2))
    k[0, 0, 3] = bad
    table = strips.table(Call(q, k, k, rw.Alibi(4), {}, rw.contiguous(700), rw.contiguous(700)))
    found = strips.reaches(q, k, table, 0.25)
    assert found[0] == 700
    assert found[1] <= 700


@pytest.mark.parametrize("encoding", [rw.Alibi(4), rw.T5(4)], ids=short)
def test_a_device_without_the_kernel_works_on_strips_too(encoding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(strips, "fused", lambda q, v: bool(asked.append(1)))
    _, call = arguments(encoding, "one document")
    exact = reference.attend(*call)
    torch.testing.assert_close(rw.attend(*call), exact, rtol=0, atol=tolerance(exact, DIM))
    assert asked


def test_the_module_takes_the_same_way() -> None:
    module, (q, k, v) = rw.Positions(rw.T5(4)), qkv(41, 41)
    assert torch.equal(module(q, k, v, LINE, LINE), rw.attend(q, k, v, rw.T5(4), module.learned(), LINE, LINE))


def test_a_compiler_is_given_plain_torch() -> None:
    tensors, call = arguments(rw.Alibi(4), "one document")
    seen = []

    def chosen(q: Tensor) -> Tensor:
        seen.append(rw.choose(q, *call[1:])[0])
        return rw.attend(q, *call[1:])

    compiled = torch.compile(chosen, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(tensors[0]), chosen(tensors[0]), rtol=0, atol=1e-12)
    assert seen == ["reference", "strips"]


def test_every_reason_is_a_sentence_and_every_backend_known() -> None:
    found = set()
    for encoding in (*FREE, *DISTANCE, *OTHER):
        for case in CASES:
            backend, why = rw.choose(*arguments(encoding, case)[1])
            assert "\n" not in why
            assert len(why) > 20
            found.add(backend)
    # the other ones are for distance rules and for accelerators
    assert found == set(dispatch.BACKENDS) - {"runs", "empty", "folded", "flex"}


@pytest.mark.parametrize("heads", [8, 12])
@pytest.mark.parametrize("start", [65_532, 30_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_alibi_is_exact_far_out(heads: int, start: int, dtype: torch.dtype) -> None:
    """Some queries with all keys up to them, against float64 throughout: slopes, distances, logits and softmax."""
    keys = start + 4
    leaves = [x.to(dtype).requires_grad_() for x in qkv(4, keys, heads=heads, groups=1)]
    call = Call(*leaves, rw.Alibi(heads), {}, rw.contiguous(4, start), rw.contiguous(keys))
    assert rw.choose(*call)[0] == "strips"
    found = rw.attend(*call)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    slopes = torch.tensor(rw.Alibi(heads).slopes(), dtype=torch.float64)
    behind = (call.q_at.position - call.k_at.position.mT)[0].double()
    logits = wide[0] @ wide[1].mT * DIM**-0.5 - slopes[:, None, None] * behind
    exact = logits.masked_fill(behind < 0, -torch.inf).softmax(-1) @ wide[2]
    # a logit that weighs anything is off by a few roundings of numbers below 100, one that is farther down weighs none
    before = 128 * torch.finfo(torch.float32).eps * exact.detach().abs().max()
    assert ((found.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * (exact.abs() + before) + before).all()
    grads = torch.autograd.grad(found.sum(), leaves)
    for one, other in zip(grads, torch.autograd.grad(exact.sum(), wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance(other.to(dtype), heads * DIM))
