"""The rotation and its loops for the CPU, against the plain formula in float64."""

import ctypes
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ropewalk.errors import ConfigError
from ropewalk.kernels import naive
from ropewalk.kernels import rotate as ops
from ropewalk.kernels.cpu import lanes
from ropewalk.kernels.cpu import rotate as cpu
from ropewalk.kernels.cpu.memory import LARGE as PAGES
from ropewalk.kernels.cpu.memory import fresh_like
from ropewalk.kernels.cpu.threads import in_threads, torch_threads
from ropewalk.kernels.rotate import PAIRINGS, rotate, rotate_, rotate_pair

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
both_pairings = pytest.mark.parametrize("pairing", PAIRINGS)
whose_threads = pytest.mark.parametrize("found", [True, False], ids=["torch's threads", "Python's threads"])
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Reproducible, and other numbers for another shape."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def tables(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    angle = 100 * draw(*shape, dtype=torch.float64)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def close(got: Tensor, x: Tensor, cos: Tensor, sin: Tensor, pairing: str = "half", offset: int = 0) -> None:
    """Demand the rotation of x in float64, but for the rounding of each element: two products, their sum, the result.

    Channels that pass have to be equal. An element is bounded by the magnitudes of its own terms.
    """
    exact = naive.rotate(x.double(), cos.double(), sin.double(), pairing, offset)
    # magnitudes add up in the second member of a pair, and so they do in the first one for -|sin|
    size = torch.maximum(
        naive.rotate(x.abs().double(), cos.abs().double(), sin.abs().double(), pairing, offset),
        naive.rotate(x.abs().double(), cos.abs().double(), -sin.abs().double(), pairing, offset),
    )
    wide = torch.float64 if torch.float64 in (x.dtype, cos.dtype) else torch.float32
    allowed = 2 * torch.finfo(wide).eps * size
    if x.dtype != wide:
        info = torch.finfo(x.dtype)
        # half a unit in the last place; below the normal range units no longer shrink
        allowed = allowed + info.eps / 2 * exact.abs() + info.smallest_normal * info.eps
    allowed[..., :offset] = allowed[..., offset + 2 * cos.shape[-1] :] = 0
    assert got.dtype == x.dtype
    assert got.shape == x.shape
    assert bool(((got.double() - exact).abs() <= allowed).all())


def test_the_comparison_sees_small_faults() -> None:
    x, (cos, sin) = draw(1, 2, 3, 8), tables(1, 3, 2)
    good = naive.rotate(x, cos, sin, offset=1)
    close(good, x, cos, sin, offset=1)
    for channel in range(8):
        bad = good.clone()
        bad[0, 1, 2, channel] *= 1 + 2**-18
        with pytest.raises(AssertionError):
            close(bad, x, cos, sin, offset=1)
    with pytest.raises(AssertionError):
        close(good, x, cos, sin, "interleaved", offset=1)


def into_nan(x: Tensor, cos: Tensor, sin: Tensor, pairing: str = "half", offset: int = 0) -> Tensor:
    """The loops' result in memory that held NaN; x must stay what it was."""
    before, out = x.clone(), torch.full_like(x, torch.nan)
    cpu.launch([(x, out, cos, sin)], pairing, offset)
    assert torch.equal(x, before)
    return out


@all_dtypes
@both_pairings
@pytest.mark.parametrize("dim", [2, 4, 6, 16, 30, 34, 64, 80, 96, 128, 136, 254, 256])
def test_every_head_dim(dim: int, pairing: str, dtype: torch.dtype) -> None:
    x, (cos, sin) = draw(2, 3, 5, dim, dtype=dtype), tables(2, 5, dim // 2)
    close(into_nan(x, cos, sin, pairing), x, cos, sin, pairing)


@all_dtypes
@both_pairings
@pytest.mark.parametrize(("dim", "pairs", "offset"), [(7, 2, 3), (80, 16, 0), (80, 16, 48), (160, 33, 5), (9, 0, 4)])
def test_channels_before_and_after_pass(dim: int, pairs: int, offset: int, pairing: str, dtype: torch.dtype) -> None:
    x, (cos, sin) = draw(1, 2, 3, dim, dtype=dtype), tables(1, 3, pairs)
    close(into_nan(x, cos, sin, pairing, offset), x, cos, sin, pairing, offset)


@pytest.mark.parametrize("tokens", [0, 1, 2, 255, 256, 257, 1031])
@pytest.mark.parametrize("threads", [1, 3])
@whose_threads
def test_every_length(tokens: int, threads: int, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not found:
        monkeypatch.setattr(cpu, "torch_threads", lambda: None)
    monkeypatch.setattr(cpu, "ALONE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, (cos, sin) = draw(2, 3, tokens, 6), tables(2, tokens, 3)
    close(into_nan(x, cos, sin), x, cos, sin)
    assert torch.equal(rotate_(x.clone(), cos, sin), naive.rotate(x, cos, sin))


def test_nothing_to_turn() -> None:
    for shape in ((0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4)):
        x, (cos, sin) = draw(*shape), tables(1, shape[2], 2)
        assert rotate(x, cos, sin).shape == shape
        assert rotate_(x, cos, sin) is x


LAYOUTS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "tokens before heads": lambda dtype: draw(2, 5, 3, 64, dtype=dtype).transpose(1, 2),
    "heads out of a fused projection": lambda dtype: (
        draw(2, 5, 7 * 64, dtype=dtype).unflatten(2, (7, 64))[:, :, 2:5].transpose(1, 2)
    ),
    "every second token": lambda dtype: draw(2, 3, 10, 64, dtype=dtype)[:, :, ::2],
    "channels apart": lambda dtype: draw(2, 3, 64, 5, dtype=dtype).mT,
    "every third channel": lambda dtype: draw(2, 3, 5, 192, dtype=dtype)[..., ::3],
    "one head for all": lambda dtype: draw(2, 1, 5, 64, dtype=dtype).expand(2, 3, 5, 64),
    "one row for all": lambda dtype: draw(1, 3, 5, 64, dtype=dtype).expand(2, 3, 5, 64),
    "starts anywhere": lambda dtype: draw(2, 3, 5, 67, dtype=dtype)[..., 3:],
}


@all_dtypes
@both_pairings
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, pairing: str, dtype: torch.dtype) -> None:
    x, (cos, sin) = LAYOUTS[layout](dtype), tables(2, 5, 32)
    before = x.clone()
    got = rotate(x, cos, sin, pairing)
    close(got, x, cos, sin, pairing)
    assert torch.equal(x, before)
    assert got.stride() == torch.empty_like(x).stride()


@both_pairings
def test_every_form_of_tables(pairing: str) -> None:
    x = draw(2, 3, 5, 36)
    wide = [t.repeat_interleave(2, -1)[..., ::2] for t in tables(2, 5, 18)]
    turned = [t.mT for t in tables(2, 18, 5)]
    mixed = tables(2, 5, 18)[0], turned[1]
    for cos, sin in (
        tables(2, 5, 18),
        tables(1, 5, 18),
        tables(2, 3, 5, 18),
        tables(1, 3, 5, 18),
        tables(2, 1, 5, 18),
        tables(2, 5, 18, dtype=torch.float64),
        tuple(t.expand(2, 5, 18) for t in tables(1, 1, 18)),
        wide,
        turned,
        mixed,
    ):
        close(rotate(x, cos, sin, pairing), x, cos, sin, pairing)
    cos, sin = tables(2, 5, 18, dtype=torch.bfloat16)
    close(rotate(x, cos, sin.double(), pairing), x, cos, sin.double(), pairing)


@all_dtypes
@both_pairings
def test_the_same_bits_as_the_plain_formula(pairing: str, dtype: torch.dtype) -> None:
    x, (cos, sin) = draw(2, 3, 37, 80, dtype=dtype), tables(2, 37, 35)
    assert torch.equal(rotate(x, cos, sin, pairing, 3), naive.rotate(x, cos, sin, pairing, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1 + 2**-8, 2.0**-20, 3e38])
def test_rounding_of_every_narrow_number(dtype: torch.dtype, scale: float) -> None:
    """Infinities, NaN and numbers below the normal range among them; a product in float32 rounds as torch rounds.

    A processor that rounds to bfloat16 by itself makes zeros of numbers below the normal range.
    """
    every = torch.arange(2**16).to(torch.uint16).view(dtype).view(1, 1, 512, 128)
    cos, sin = torch.full((1, 512, 64), scale), torch.zeros(1, 512, 64)
    for pairing in PAIRINGS:
        got, want = rotate(every, cos, sin, pairing), naive.rotate(every, cos, sin, pairing)
        same = (got == want) | (got.isnan() & want.isnan())
        if dtype == torch.bfloat16 and lanes.ROUNDS:
            below = (every.double() * scale).abs() < torch.finfo(dtype).smallest_normal
            same |= (got == 0) & below
        assert bool(same.all())
    ties = naive.rotate(every, cos, sin).double() != every.double() * cos.double()[:, :, :1]
    assert scale in (1.0, 2.0**-20) or bool(ties.any())


def test_no_nan_becomes_a_number() -> None:
    worst = torch.tensor([0x7FFFFFFF, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)
    for pairs in (1, 32):
        cos = worst[:, None].expand(1, 3, pairs).contiguous()
        got = rotate(torch.ones(1, 1, 3, 2 * pairs, dtype=torch.bfloat16), cos, torch.zeros_like(cos))
        assert bool(got[..., :pairs].isnan().all())


def test_far_positions() -> None:
    position = torch.tensor([0, 1, 2**20 + 1, 2**24 - 1, 2**24], dtype=torch.float64)
    angle = position[:, None] * 10000.0 ** (-torch.linspace(0, 1, 32, dtype=torch.float64))
    exact = angle.cos()[None], angle.sin()[None]
    x = draw(1, 2, 5, 64)
    cos, sin = (t.float() for t in exact)
    got, want = rotate(x, cos, sin), naive.rotate(x.double(), *exact)
    pair = x.double().unflatten(-1, (2, 32)).norm(dim=-2)
    # one rounding of the tables, two of products and one of their sum, each of at most the length of the pair
    assert bool(((got - want).unflatten(-1, (2, 32)).abs().amax(-2) <= 4 * 2**-24 * 2**0.5 * pair).all())


@all_dtypes
@both_pairings
def test_in_place(pairing: str, dtype: torch.dtype) -> None:
    for x in (draw(2, 3, 5, 70, dtype=dtype), draw(2, 5, 3, 140, dtype=dtype).transpose(1, 2)[..., ::2]):
        before, (cos, sin) = x.clone(), tables(2, 5, 33)
        version = x._version
        assert rotate_(x, cos, sin, pairing, 1) is x
        assert torch.equal(x, naive.rotate(before, cos, sin, pairing, 1))
        assert x._version > version


def test_in_place_refuses_what_it_would_spoil() -> None:
    cos, sin = tables(1, 3, 2)
    with pytest.raises(ConfigError, match="without gradients"):
        rotate_(draw(1, 2, 3, 4).requires_grad_(), cos, sin)
    for shared in (draw(1, 1, 3, 4).expand(1, 2, 3, 4), draw(9).as_strided((1, 2, 3, 4), (9, 1, 2, 1))):
        with pytest.raises(ConfigError, match="elements of its own"):
            rotate_(shared, cos, sin)
    x = draw(1, 2, 3, 4).requires_grad_()
    squared = x * 1
    loss = (squared * squared).sum()
    with torch.no_grad():
        rotate_(squared, cos, sin)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_results_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that begin at a cache line, and others that do not."""
    monkeypatch.setattr(cpu, "LARGE", 0)
    cpu.plan.cache_clear()
    for dtype in DTYPES:
        for pairing in PAIRINGS:
            for offset in (0, 1, 64):
                x, (cos, sin) = draw(1, 2, 9, 256, dtype=dtype), tables(1, 9, 64)
                close(into_nan(x, cos, sin, pairing, offset), x, cos, sin, pairing, offset)
                turned = x.clone()
                cpu.launch([(turned, turned, cos, sin)], pairing, offset)
                close(turned, x, cos, sin, pairing, offset)
    cpu.plan.cache_clear()


def test_large_memory_is_ordinary_memory() -> None:
    x = torch.zeros(PAGES // 4 + 3)
    out = fresh_like(x)
    out.fill_(2.0)
    assert out.shape == x.shape
    assert bool((out == 2).all())


def test_inverse_turns_back() -> None:
    x, (cos, sin) = draw(1, 2, 3, 40), tables(1, 3, 20)
    out = torch.full_like(x, torch.nan)
    cpu.launch([(x, out, cos, sin)], "half", 0, inverse=True)
    close(out, x, cos, -sin)


@all_dtypes
@both_pairings
@pytest.mark.parametrize("growing", [False, True])
def test_queries_and_keys_together(growing: bool, pairing: str, dtype: torch.dtype) -> None:
    q, k, t = draw(2, 6, 5, 40, dtype=dtype), draw(2, 2, 5, 40, dtype=dtype), tables(2, 5, 18)
    k_tables = (t[0] * 2, t[1] / 2) if growing else t
    for got, x, (cos, sin) in zip(rotate_pair(q, k, t, k_tables, pairing, 3), (q, k), (t, k_tables), strict=True):
        close(got, x, cos, sin, pairing, 3)
    # more keys than queries is nothing that one launch serves
    for got, x in zip(rotate_pair(q, k[:, :, :5], t, t, pairing), (q, k), strict=True):
        close(got, x, *t, pairing)
    by_head = tables(2, 6, 5, 18), tables(2, 2, 5, 18)
    for got, x, of in zip(rotate_pair(q, k, *by_head, pairing), (q, k), by_head, strict=True):
        close(got, x, *of, pairing)


def test_queries_and_keys_of_different_lengths() -> None:
    q, k, ends = draw(1, 4, 1, 8), draw(1, 2, 3, 8), (tables(1, 1, 4), tables(1, 3, 4))
    for got, x, of in zip(rotate_pair(q, k, *ends), (q, k), ends, strict=True):
        close(got, x, *of)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@both_pairings
def test_gradients(pairing: str, dtype: torch.dtype) -> None:
    """The transpose of a rotation is its inverse, in float64 by differentiating the formula."""
    q, k = draw(2, 5, 4, 40, dtype=dtype).transpose(1, 2), draw(2, 2, 5, 40, dtype=dtype)
    of = tables(2, 5, 17), tuple(3 * t for t in tables(1, 5, 17))
    grads = draw(2, 4, 5, 40, dtype=dtype), draw(1, 2, 5, 1, dtype=dtype).expand(2, 2, 5, 40)
    q.requires_grad_()
    k.requires_grad_()
    outs = rotate_pair(q, k, *of, pairing, 3)
    gots = torch.autograd.grad(outs, (q, k), grads, retain_graph=True)
    for x, (cos, sin), grad, got in zip((q, k), of, grads, gots, strict=True):
        close(got, grad, cos, -sin, pairing, 3)
        wide = x.detach().double().requires_grad_()
        (exact,) = torch.autograd.grad(
            naive.rotate(wide, cos.double(), sin.double(), pairing, 3), wide, grad.double().contiguous()
        )
        # `close` measures against the formula that is differentiated here
        torch.testing.assert_close(naive.rotate(grad.double(), cos.double(), -sin.double(), pairing, 3), exact)
        (alone,) = torch.autograd.grad(rotate(x, cos, sin, pairing, 3), x, grad)
        assert torch.equal(alone, got)
    (only,) = torch.autograd.grad(outs[0].sum(), q)
    close(only, torch.ones_like(q), of[0][0], -of[0][1], pairing, 3)


def test_gradients_reach_learned_tables() -> None:
    x, (cos, sin) = draw(1, 2, 3, 8), tables(1, 3, 4)
    cos.requires_grad_()
    got, want = (torch.autograd.grad(f(x, cos, sin).square().sum(), cos)[0] for f in (rotate, naive.rotate))
    assert torch.equal(got, want)
    pair = rotate_pair(x, x, (cos, sin), (cos, sin))
    assert torch.equal(torch.autograd.grad(sum(t.square().sum() for t in pair), cos)[0], 2 * want)
    with torch.no_grad():
        assert not rotate(x, cos, sin).requires_grad


def test_second_gradients() -> None:
    x, (cos, sin) = draw(1, 1, 2, 4, dtype=torch.float64).requires_grad_(), tables(1, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda t: rotate(t, cos, sin) ** 3, x)


@pytest.mark.parametrize("op", ["rotate", "rotate_pair", "rotate_"])
def test_ops_are_registered_well(op: str) -> None:
    x, (cos, sin) = draw(2, 5, 3, 8).transpose(1, 2), tables(2, 5, 3)
    q = x.clone().requires_grad_()
    calls: dict[str, tuple[Any, ...]] = {
        "rotate": (q, cos, sin, "half", 1, False),
        "rotate_pair": (q, draw(2, 2, 5, 8).requires_grad_(), cos, sin, cos, sin, "interleaved", 0, False),
        "rotate_": (x.clone(), cos, sin, "half", 1),
    }
    torch.library.opcheck(getattr(torch.ops.ropewalk, op), calls[op])


# torch, when it imports its compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_one_graph(backend: str) -> None:
    cos, sin = tables(1, 5, 4)

    @torch.compile(fullgraph=True, backend=backend)
    def layer(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        a, b = rotate_pair(q * 2, k * 2, (cos, sin), (cos, sin))
        a = rotate(a, cos, sin, "interleaved")
        return a, rotate_(b + 0, cos, sin) if not b.requires_grad else b

    for learning in (False, True):
        q, k = draw(1, 5, 3, 8).transpose(1, 2), draw(1, 2, 5, 8)
        leaves = [t.detach().requires_grad_(learning) for t in (q, k)]
        got = layer(*leaves)
        want = naive.rotate(2 * q, cos, sin), naive.rotate(2 * k, cos, sin)
        want = naive.rotate(want[0], cos, sin, "interleaved"), want[1] if learning else naive.rotate(want[1], cos, sin)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)
        if learning:
            grads = torch.autograd.grad(got, leaves, [torch.ones_like(t) for t in got])
            ones = naive.rotate(torch.ones_like(got[0]), cos, -sin, "interleaved")
            torch.testing.assert_close(grads[0], 2 * naive.rotate(ones, cos, -sin))


def test_what_follows_torch_op_by_op_is_followed() -> None:
    x, (cos, sin) = draw(4, 2, 3, 8), tables(1, 3, 4)
    want = naive.rotate(x, cos, sin)
    assert torch.equal(torch.vmap(lambda t: rotate(t[None], cos, sin)[0])(x), want)
    _, tangent = torch.func.jvp(lambda t: rotate(t, cos, sin), (x,), (2 * x,))
    assert torch.equal(tangent, 2 * want)
    gradient = torch.func.grad(lambda t: rotate(t, cos, sin).sum())(x)
    close(gradient, torch.ones_like(x), cos, -sin)
    with torch._subclasses.FakeTensorMode() as mode:
        assert rotate(*(mode.from_tensor(t) for t in (x, cos, sin))).shape == x.shape
    conjugate = torch.complex(cos, -sin).conj()
    assert conjugate.imag.is_neg()
    assert torch.equal(rotate(x, conjugate.real, conjugate.imag), want)
    assert torch.equal(rotate(torch.complex(x, -x).conj().imag, cos, sin), want)
    with forward_ad.dual_level():
        turned = forward_ad.unpack_dual(rotate(forward_ad.make_dual(x, 2 * x), cos, sin))
        assert torch.equal(turned.primal, want)
        assert torch.equal(turned.tangent, 2 * want)


def test_inference_tensors() -> None:
    with torch.inference_mode():
        x, (cos, sin) = draw(1, 2, 3, 8), tables(1, 3, 4)
        want = rotate(x, cos, sin)
        assert torch.equal(want, naive.rotate(x, cos, sin))
        assert torch.equal(rotate_(x, cos, sin), want)


@whose_threads
def test_many_callers_at_once(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ALONE", 0)
    if not found:
        monkeypatch.setattr(cpu, "torch_threads", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    cos, sin = tables(1, 300, 8)
    inputs = [draw(1, n, 300, 16 + n) for n in range(1, 5)]
    wrong: list[int] = []

    def call(i: int) -> None:
        want = naive.rotate(inputs[i], cos, sin, "interleaved")
        wrong.extend(i for _ in range(25) if not torch.equal(rotate(inputs[i], cos, sin, "interleaved"), want))

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other OpenMP libraries")
def test_torch_threads_are_found_and_work_at_once() -> None:
    parallel, here, seen = torch_threads(), threading.get_native_id(), set[int]()
    assert parallel
    both = threading.Barrier(2)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def work(_: object) -> None:
        both.wait(60)
        seen.add(threading.get_native_id())

    parallel(ctypes.cast(work, ctypes.c_void_p).value or 0, 0, 2, 0)
    assert len(seen) == 2
    assert here in seen


def test_who_started_is_waited_for() -> None:
    here, done, started = threading.current_thread(), list[str](), threading.Event()

    def work() -> None:
        if threading.current_thread() is here:
            assert started.wait(60)
        else:
            started.set()
            time.sleep(0.1)
        done.append("one")

    in_threads(work, 2)
    assert len(done) == 2


FORK = """
import os, sys, threading, warnings
import torch
from ropewalk.kernels import naive
from ropewalk.kernels.cpu import rotate as cpu
from ropewalk.kernels.cpu.threads import in_threads, torch_threads
from ropewalk.kernels.rotate import rotate

cpu.ALONE = 0
torch.set_num_threads(2)
angle = torch.rand(1, 600, 8)
x, cos, sin = torch.rand(1, 3, 600, 16), angle.cos(), angle.sin()
want = naive.rotate(x, cos, sin)
assert torch.equal(rotate(x, cos, sin), want)
torch.ones(2000, 2000).sin()
assert torch_threads() or not sys.platform.startswith("linux")
# newer Pythons warn of any fork beside threads, which is what is tried here
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    same = (rotate(x, cos, sin).numpy() == want.numpy()).all()
    both = threading.Barrier(2)
    in_threads(lambda: both.wait(60), 2)
    os._exit(0 if same and torch_threads() is None else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)


COMPILED = """
import sys
import torch
from ropewalk.kernels.cpu import rotate as cpu
from ropewalk.kernels.cpu.loops import share_of, turn_tiles
from ropewalk.kernels.rotate import rotate

torch.set_num_threads(2)
angle = torch.rand(1, 3, 8)
for tokens, dim in ((3, 16), (1, 20), (2, 40)):
    for pairing in ("half", "interleaved"):
        for x in (torch.rand(1, 2, tokens, dim), torch.rand(1, tokens, 2, dim).transpose(1, 2)):
            rotate(x, angle.cos()[:, :tokens], angle.sin()[:, :tokens], pairing)
            cpu.ALONE = 0 if pairing == "half" else 100
stats = turn_tiles.stats
sys.stdout.write(f"{len(turn_tiles.signatures)} {sum(stats.cache_hits.values())} {sum(stats.cache_misses.values())} ")
sys.stdout.write(str(share_of.cache_info().currsize))
"""


def test_compiled_once_and_kept(tmp_path: Any) -> None:
    """One signature for a dtype, whatever the shapes; the second process finds it on disk."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", COMPILED],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    shared = 1 if torch_threads() else 0
    assert runs == [f"1 0 1 {shared}", f"1 1 0 {shared}"]


def test_bad_input_is_refused() -> None:
    x, (cos, sin) = draw(2, 3, 5, 8), tables(2, 5, 4)
    for bad, message in (
        ((x[0], cos, sin), "what is turned must be"),
        ((x.int(), cos, sin), "floating point"),
        ((x, cos[0], sin[0]), "cos must be"),
        ((x, cos, sin[:1]), "sin must be"),
        ((x, cos[:, :1], sin[:, :1]), "as many tokens as it turns, 5"),
        ((x, *tables(3, 5, 4)), "as many rows as it turns, 2"),
        ((x, *tables(1, 2, 5, 4)), "as many heads as it turns, 3"),
        ((x, cos, sin, "both"), "pairing must be"),
        ((x, cos, sin, "half", 1), "offset must be"),
        ((x, cos, sin, "half", -1), "offset must be"),
        ((x, cos.to("meta"), sin), "on one device"),
    ):
        with pytest.raises(ConfigError, match=message):
            rotate(*bad)
    with pytest.raises(ConfigError, match="as many heads"):
        rotate_pair(x, x[:, :2], *[tables(2, 3, 5, 4)] * 2)


def test_what_no_loop_serves_falls_back_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, (cos, sin) = draw(1, 2, 3, 8), tables(1, 3, 4)
    monkeypatch.setattr(cpu, "unserved", lambda dtype: "today it rests")
    ops.kernel_of.cache_clear()
    with caplog.at_level(logging.INFO, "ropewalk"):
        for _ in range(2):
            close(rotate(x, cos, sin), x, cos, sin)
            close(rotate_(x.clone(), cos, sin), x, cos, sin)
    ops.kernel_of.cache_clear()
    assert [r.getMessage() for r in caplog.records] == ["rotation on cpu falls back to plain torch: today it rests"]
    monkeypatch.undo()
    assert cpu.unserved(torch.float8_e5m2) is not None
    assert [cpu.unserved(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)] == [None] * 3
