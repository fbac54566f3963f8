"""Runs of keys merged by log-sum-exp: against a dense softmax over logits made pair by pair from the distances."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.attention.reference import attend
from ropewalk.attention.runs import attend_runs, plan
from ropewalk.attention.step import Step, parted
from ropewalk.tokens import Tokens
from tolerance import tolerance

HEADS, GROUPS, DIM = 4, 2, 16
PLAIN = rw.Rotary(DIM, 1e3)
YARN = rw.Rotary(8, 1e3, (rw.Yarn(2.0, 40),), "interleaved", offset=4)
RULES = [
    rw.ReRope(PLAIN, 50),
    rw.ReRope(YARN, 50),
    rw.LeakyReRope(PLAIN, 50, 2.5),
    rw.SelfExtend(PLAIN, 40, 3),
    rw.SelfExtend(YARN, 41, 3, "code"),
    rw.DualChunk(PLAIN, 100, 64, 20),
    rw.DualChunk(YARN, 100, 64, 36, "code"),
    rw.LMInfinite(PLAIN, 100, 5),
    rw.StreamingLLM(YARN, 3, 90),
    PLAIN,
]
PLACES = [rw.contiguous(600), rw.ragged(431, 600, 3), rw.packed(300, 1, 299)]


def contents(at: Tokens, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    batch, length = at.order.shape
    shapes = [(batch, n, length, DIM) for n in (HEADS, GROUPS, GROUPS)]
    q, k, v = (torch.randn(s, generator=draw, dtype=torch.float64).to(dtype) for s in shapes)
    return q, k, v


def dense(rule: Any, q: Tensor, k: Tensor, v: Tensor, q_at: Tokens, k_at: Tokens) -> Tensor:
    """Each query turned by the distance to each key, in float64: what the distance matrix alone says."""
    q, k, v = q.double(), k.double().repeat_interleave(2, 1), v.double().repeat_interleave(2, 1)
    rotary = getattr(rule, "rotary", rule)
    plain = q_at.position[:, :, None, 0] - k_at.position[:, None, :, 0]
    far = rule.effective(q_at, k_at) if rule is not rotary else plain
    rates, magnitude = torch.tensor(rotary.spectrum().inv_freq, dtype=torch.float64), rotary.spectrum().magnitude
    angle = far.double()[:, None, :, :, None] * rates
    one = (rotary.offset, 2, 1) if rotary.pairing == "interleaved" else (rotary.offset, 1, rotary.dim // 2)
    first = torch.tensor([one[0] + i * one[1] for i in range(rotary.dim // 2)])
    second = first + one[2]
    a, b, c, d = q[..., None, first], q[..., None, second], k[:, :, None][..., first], k[:, :, None][..., second]
    cos, sin = angle.cos(), angle.sin()
    turned = ((a * cos - b * sin) * c + (a * sin + b * cos) * d).sum(-1)
    rest = [i for i in range(DIM) if i not in {*first.tolist(), *second.tolist()}]
    s = (turned * magnitude**2 + q[..., rest] @ k[..., rest].mT) * DIM**-0.5
    seen = rw.masks.causal(q_at, k_at)
    if hasattr(rule, "visible"):
        seen = seen & rule.visible(q_at, k_at)
    s = s.masked_fill(~seen[:, None], -1e300)
    return s.softmax(-1).masked_fill(~seen[:, None], 0) @ v


def error(dtype: torch.dtype, v: Tensor) -> float:
    """Angles have float32's last bit at whatever size, over the sums of a logit; weights keep values in their range."""
    return tolerance(v.to(torch.promote_types(dtype, torch.float32)).float(), DIM)


@pytest.mark.parametrize("rule", RULES, ids=rw.short)
@pytest.mark.parametrize("at", PLACES, ids=["one text", "ragged", "packed"])
def test_runs_of_keys_are_the_dense_softmax_over_effective_distances(rule: Any, at: Tokens) -> None:
    q, k, v = contents(at, torch.float32)
    step = Step(at, at, [rule])
    got = step.attend(0, *step.mapped(0, q, k), v, rw.masks.causal, DIM**-0.5)
    torch.testing.assert_close(got.double(), dense(rule, q, k, v, at, at), rtol=0, atol=error(got.dtype, v))


@pytest.mark.parametrize("rule", RULES, ids=rw.short)
def test_a_chunk_after_a_cached_prefix_is_the_whole(rule: Any) -> None:
    at = rw.contiguous(600)
    q, k, v = contents(at, torch.float64)
    whole = Step(at, at, [rule])
    qs, ks = whole.mapped(0, q, k)
    want = whole.attend(0, qs, ks, v, rw.masks.causal, DIM**-0.5)
    for start, end in ((0, 301), (301, 599), (599, 600)):
        here = rw.select(at, slice(start, end))
        step = Step(here, rw.select(at, slice(end)), [rule])
        own, new = step.mapped(0, q[:, :, start:end], k[:, :, start:end])
        assert torch.equal(new, ks[:, :, start:end])
        got = step.attend(0, own, ks[:, :, :end], v[:, :, :end], rw.masks.causal, DIM**-0.5)
        torch.testing.assert_close(got, want[:, :, start:end], rtol=0, atol=tolerance(got, DIM))


def test_a_sliding_window_and_log_n_go_with_any_rule() -> None:
    at = rw.contiguous(300)
    q, k, v = contents(at, torch.float64)
    rule = rw.ReRope(PLAIN, 50)
    step = Step(at, at, [(rw.LogN(64), rule)])
    got = step.attend(0, *step.mapped(0, q, k), v, rw.masks.window(33), DIM**-0.5)
    scale = torch.tensor([max(math.log(i + 1) / math.log(64), 1.0) for i in range(300)])
    want = attend(q * scale.float()[:, None], k, v, rule, {}, at, at, mask=rw.masks.window(33))
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance(got, DIM))


def test_gradients_are_those_of_the_reference() -> None:
    at = rw.contiguous(300)
    rule, found = rw.SelfExtend(PLAIN, 40, 3), []
    for way in ("runs", "reference"):
        q, k, v = (x.requires_grad_() for x in contents(at, torch.float64))
        step = Step(at, at, [rule])
        if way == "runs":
            out = step.attend(0, *step.mapped(0, q, k), v, rw.masks.causal, 0.25)
        else:
            out = attend(q, k, v, rule, {}, at, at)
        found.append(torch.autograd.grad((out * out.detach().cos()).sum(), (q, k, v)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance(want, 300))


def kept(rule: Any, length: int) -> int:
    """The numbers in all masks of a plan."""
    blocks = plan(rule, rw.contiguous(length), rw.contiguous(length), rw.masks.causal)
    masks = {id(run.seen): run.seen.numel() for block in blocks for run in block.runs if run.seen is not None}
    return sum(masks.values())


@pytest.mark.parametrize(
    "rule", [rw.ReRope(PLAIN, 1000), rw.DualChunk(PLAIN, 1500, 1000, 500), rw.StreamingLLM(PLAIN, 4, 700)], ids=rw.short
)
def test_what_a_plan_keeps_grows_with_the_length_alone_and_few_pairs_are_computed_in_vain(rule: Any) -> None:
    # a square of the longer length would be four times that of the shorter one
    assert kept(rule, 8192) < 2.5 * kept(rule, 4096) < 4096**2
    at = rw.contiguous(4096)
    blocks = plan(rule, at, at, rw.masks.causal)
    pairs = sum((b.queries.stop - b.queries.start) * (r.keys.stop - r.keys.start) for b in blocks for r in b.runs)
    seen = rw.masks.causal(at, at)
    seen = seen & rule.visible(at, at) if hasattr(rule, "visible") else seen
    assert pairs < 1.5 * int(seen.sum())


def test_a_query_that_sees_no_key_gets_zeros() -> None:
    at = rw.ragged(2, 5)
    alone = at._replace(document=torch.where(at.document < 0, torch.arange(5) + 10, at.document))
    q, k, v = contents(at, torch.float32)
    blocks = plan(None, at, alone, rw.masks.causal)
    out = attend_runs([q], [k], v, blocks, 0.25).out
    assert (out[0, :, :3] == 0).all()
    assert (out[0, :, 3:] != 0).all()


def test_two_rotations_in_one_layer_are_refused() -> None:
    with pytest.raises(rw.ConfigError, match="encodings must be of one rotation for each layer"):
        parted((PLAIN, rw.ReRope(PLAIN, 4)))


def test_attend_takes_runs_for_distance_rules_and_what_follows_the_length() -> None:
    at = rw.contiguous(300)
    q, k, v = contents(at, torch.float32)
    moving = rw.Rotary(DIM, 1e3, (rw.DynamicYarn(64),))
    for encoding in (RULES[3], (rw.LogN(64), RULES[0]), rw.Adaptive(moving), rw.Adaptive(rw.ReRope(moving, 40), 7)):
        backend, why = rw.choose(q, k, v, encoding, {}, at, at)
        assert backend == "runs"
        assert "runs of keys" in why
        got = rw.attend(q, k, v, encoding, {}, at, at)
        torch.testing.assert_close(got, attend(q, k, v, encoding, {}, at, at), rtol=0, atol=tolerance(v, DIM))
