"""What each encoding of the embeddings promises of its own."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.encodings.absolute.sinusoidal import LAYOUTS
from tolerance import tolerance

EPS = torch.finfo(torch.float32).eps
RTOL64 = 1e-12


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at_positions(*positions: float) -> rw.Tokens:
    where = torch.tensor([positions], dtype=torch.float64 if any(p % 1 for p in positions) else torch.int64)
    order = torch.ones(1, len(positions), dtype=torch.int64).cumsum(1)
    return rw.Tokens(where[..., None], order, torch.zeros_like(order))


def vectors(encoding: Any, *positions: float, w: dict[str, Tensor] | None = None) -> Tensor:
    """[T, C]: what is added at these positions."""
    return encoding.embed(w or {}, at_positions(*positions))[0]


# sinusoidal


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("position", [0, 3, -5, 2.5, -0.75, 4095])
def test_sines_and_cosines_of_any_real_position(layout: str, position: float) -> None:
    found = vectors(rw.Sinusoidal(6, 100.0, layout), position).tolist()[0]
    steps = 2 if layout == "t2t" else 3
    turns = [position / 100.0 ** (i / steps) for i in range(3)]
    sines, cosines = [math.sin(a) for a in turns], [math.cos(a) for a in turns]
    both = [n for pair in zip(sines, cosines, strict=True) for n in pair]
    expected = both if layout == "interleaved" else sines + cosines
    assert found == pytest.approx(expected, abs=EPS)


def test_a_step_is_the_same_rotation_of_every_sinusoidal_vector() -> None:
    encoding, places, step = rw.Sinusoidal(16), (-40, 0, 1, 17, 1000), 7
    for channel, rate in enumerate(encoding.spectrum().inv_freq):
        pair = slice(2 * channel, 2 * channel + 2)
        before, after = (vectors(encoding, *(p + n for p in places))[:, pair].double() for n in (0, step))
        c, s = math.cos(step * rate), math.sin(step * rate)
        # two roundings to float32, of numbers up to 1
        torch.testing.assert_close(before @ torch.tensor([[c, s], [-s, c]]).double().mT, after, rtol=0, atol=2 * EPS)


def test_sinusoidal_vectors_are_as_long_everywhere_and_their_product_sees_distance_alone() -> None:
    x = vectors(rw.Sinusoidal(32), *range(60)).double()
    products = x @ x.mT
    torch.testing.assert_close(products.diagonal(), torch.full((60,), 16.0).double(), rtol=0, atol=16 * EPS)
    for d in (1, 5, 30):
        line = products.diagonal(d)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=0, atol=16 * EPS)


def test_each_axis_of_a_sinusoid_has_its_own_channels() -> None:
    where = torch.tensor([[[0, 3], [2, 3], [2, -1]]])
    order = torch.tensor([[0, 1, 2]])
    found = rw.Sinusoidal(16, axes=2).embed({}, rw.Tokens(where, order, torch.zeros_like(order)))[0]
    rows, columns = vectors(rw.Sinusoidal(8), 0, 2, 2), vectors(rw.Sinusoidal(8), 3, 3, -1)
    assert torch.equal(found, torch.cat((rows, columns), dim=-1))


def test_channels_that_do_not_pair_up_and_tokens_on_other_axes_are_refused() -> None:
    with pytest.raises(rw.ConfigError, match=r"Sinusoidal.dim must be even, got 7"):
        rw.Sinusoidal(7)
    with pytest.raises(rw.ConfigError, match=r"Sinusoidal.dim must be divisible by 6, got 16"):
        rw.Sinusoidal(16, axes=3)
    at = rw.contiguous(2)
    plane = at._replace(position=at.position.expand(-1, -1, 2))
    with pytest.raises(rw.ConfigError, match="along one axis, got '2 axes'"):
        rw.Sinusoidal(16).embed({}, plane)


# tables: learned, hierarchical


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_first_rows_of_a_stretched_table_are_the_trained_ones(dtype: torch.dtype) -> None:
    for encoding in (rw.Learned(16, 12), rw.Learned(16, 12, first_row=2)):
        w = {"table": drawn(12 + encoding.first_row, 16).to(dtype)}
        stretched = rw.Hierarchical(16, 12, first_row=encoding.first_row)
        assert rw.initial(stretched)["table"].shape == w["table"].shape
        assert torch.equal(vectors(stretched, *range(12), w=w), vectors(encoding, *range(12), w=w))


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.75])
def test_a_stretched_table_is_the_weighted_sum_of_two_digits(alpha: float) -> None:
    table = drawn(5, 8)
    base = (table - alpha * table[0]) / (1 - alpha)
    expected = torch.stack([alpha * base[i] + (1 - alpha) * base[j] for i in range(5) for j in range(5)])
    found = vectors(rw.Hierarchical(8, 5, alpha), *range(25), w={"table": table})
    torch.testing.assert_close(found, expected, rtol=0, atol=RTOL64)


def test_no_two_positions_of_a_stretched_table_share_a_vector() -> None:
    found = vectors(rw.Hierarchical(16, 9), *range(81), w={"table": drawn(9, 16)})
    apart = torch.cdist(found, found) + torch.eye(81)
    assert apart.min() > 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_a_half_would_make_two_digits_exchangeable(alpha: float) -> None:
    with pytest.raises(rw.ConfigError, match=r"Hierarchical.alpha must be .*, other than 0.5, got"):
        rw.Hierarchical(16, 9, alpha)


@pytest.mark.parametrize(
    ("encoding", "last"), [(rw.Learned(16, 9), 8), (rw.Learned(16, 9, first_row=2), 8), (rw.Hierarchical(16, 9), 80)]
)
def test_nothing_stands_beyond_a_table(encoding: Any, last: int) -> None:
    w = rw.initial(encoding)
    vectors(encoding, 0, last, w=w)
    for outside in (-1, last + 1):
        rule = rf"{type(encoding).__name__} reads must be a row of its table, from 0 to {last}, got {outside}$"
        with pytest.raises(rw.ConfigError, match=rule):
            vectors(encoding, 0, outside, w=w)
    with pytest.raises(rw.ConfigError, match=r"reads must be a whole number, got torch.float64"):
        vectors(encoding, 0.5, w=w)


# one after the other: recurrent, floater


@pytest.mark.parametrize("encoding", [rw.Recurrent(4), rw.Floater(4)])
def test_steps_reach_any_position_but_none_before_the_first(encoding: Any) -> None:
    w = {name: x + 0.1 for name, x in rw.initial(encoding).items()}
    whole = vectors(encoding, *range(200), w=w)
    assert torch.equal(vectors(encoding, 150, 3, 150, 0, w=w), whole[[150, 3, 150, 0]])
    assert (whole[1:] != whole[:-1]).any(dim=1)[:20].all()
    assert encoding.embed(w, rw.contiguous(0)).shape == (1, 0, 4)
    name = type(encoding).__name__
    with pytest.raises(rw.ConfigError, match=f"position that {name} reads must be at least 0, got -1"):
        vectors(encoding, 2, -1, w=w)
    with pytest.raises(rw.ConfigError, match=f"position that {name} reads must be a whole number"):
        vectors(encoding, 1.5, w=w)


def test_a_recurrent_vector_follows_from_the_one_before() -> None:
    w = {name: drawn(*x.shape, seed=n) for n, (name, x) in enumerate(rw.initial(rw.Recurrent(5)).items())}
    x = vectors(rw.Recurrent(5), *range(6), w=w)
    assert torch.equal(x[0], w["recurrent_start"])
    for before, after in pairwise(x):
        sums = [sum(m * b for m, b in zip(row, before.tolist(), strict=True)) for row in w["recurrent_matrix"].tolist()]
        expected = [math.tanh(s + b) for s, b in zip(sums, w["recurrent_bias"].tolist(), strict=True)]
        assert after.tolist() == pytest.approx(expected, rel=RTOL64)


def test_recurrent_steps_start_as_a_slightly_shrinking_rotation() -> None:
    matrix = rw.initial(rw.Recurrent(16))["recurrent_matrix"].double()
    torch.testing.assert_close(matrix @ matrix.T, 0.81 * torch.eye(16).double(), rtol=0, atol=16 * EPS)


def flow(matrix: float, bias: float, time: float) -> dict[str, Tensor]:
    names = ("floater_start", "floater_matrix", "floater_bias", "floater_time")
    values = ([0.3], [[matrix]], [bias], [time])
    return {n: torch.tensor(v, dtype=torch.float64) for n, v in zip(names, values, strict=True)}


# equations with a known path: dp/dt = tanh(p), and dp/dt = tanh(b + c t)
KNOWN = [
    (flow(1, 0, 0), lambda t: math.asinh(math.sinh(0.3) * math.exp(t))),
    (flow(0, 0.2, 0.5), lambda t: 0.3 + math.log(math.cosh(0.2 + 0.5 * t) / math.cosh(0.2)) / 0.5),
]


@pytest.mark.parametrize(("w", "path"), KNOWN)
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("rk4", 4)])
def test_a_solver_approaches_the_known_path_at_its_own_order(w: Any, path: Any, solver: str, order: int) -> None:
    def worst(substeps: int) -> float:
        found = vectors(rw.Floater(1, 0.5, solver, substeps), *range(7), w=w)[:, 0].tolist()
        return max(abs(x - path(0.5 * n)) for n, x in enumerate(found))

    # halving the step divides the error by 2 to the order, up to terms of the next order
    assert worst(8) / worst(16) == pytest.approx(2**order, rel=0.1)


def test_a_flow_starts_at_zero_throughout_so_that_a_trained_model_is_left_alone() -> None:
    assert torch.equal(vectors(rw.Floater(8), *range(50), w=rw.initial(rw.Floater(8))), torch.zeros(50, 8))


def test_projection_biases_are_three_paths_of_one_equation_in_the_order_query_key_value() -> None:
    encoding, at = rw.Floater(4, inject="qkv"), rw.contiguous(9)
    w = {name: x + 0.3 * drawn(*x.shape) for name, x in rw.initial(encoding).items()}
    projected = drawn(1, 9, 12)
    found = rw.embed(projected, encoding, w, at, inject="qkv") - projected
    for part, start in zip(found.chunk(3, dim=-1), w["floater_start"], strict=True):
        alone = rw.Floater(4).embed(w | {"floater_start": start}, at)
        torch.testing.assert_close(part, alone, rtol=0, atol=RTOL64)
    x = drawn(1, 9, 4)
    assert rw.embed(x, encoding, w, at) is x


# multiplied and complex


def test_learned_factors_start_by_changing_nothing() -> None:
    encoding, x = rw.Multiplicative(rw.Learned(16, 9)), drawn(1, 9, 16)
    w = rw.initial(encoding)
    assert torch.equal(rw.embed(x, encoding, w, rw.contiguous(9)), x)
    w["table"][4] = 3
    assert torch.equal(rw.embed(x, encoding, w, rw.contiguous(9))[0, 4], 3 * x[0, 4])


def test_sines_as_factors_erase_half_of_the_first_token() -> None:
    x = drawn(1, 2, 8)
    found = rw.embed(x, rw.Multiplicative(rw.Sinusoidal(8, layout="concat")), {}, rw.contiguous(2))
    assert torch.equal(found[0, 0], torch.cat((torch.zeros(4).double(), x[0, 0, 4:])))
    torch.testing.assert_close(found[0, 1, 0], x[0, 1, 0] * math.sin(1), rtol=EPS, atol=0)


@pytest.mark.parametrize("wrong", [rw.Alibi(4), rw.Recurrent(16), rw.Sinusoidal, None])
def test_factors_come_from_a_table_or_from_sines(wrong: Any) -> None:
    with pytest.raises(rw.ConfigError, match=r"Multiplicative.of must be a Learned or a Sinusoidal, got"):
        rw.Multiplicative(wrong)


def as_complex(x: Tensor) -> Tensor:
    return torch.complex(*x.chunk(2, dim=-1))


def test_a_complex_embedding_keeps_its_size_and_turns_by_the_offset() -> None:
    encoding, x = rw.ComplexOrder(6), drawn(1, 1, 6)
    w = {name: drawn(6, seed=n) for n, name in enumerate(rw.initial(encoding), 1)}
    places = (-3, 0, 2.5, 40)
    z, moved = (
        as_complex(encoding.onto(w, x.expand(1, 4, 6), at_positions(*(p + n for p in places)))) for n in (0, 11)
    )
    torch.testing.assert_close(z.abs(), x.abs().expand(1, 4, 6), rtol=RTOL64, atol=0)
    torch.testing.assert_close(moved, z * torch.exp(11j * w["complex_frequency"]), rtol=0, atol=40 * RTOL64)
    torch.testing.assert_close(z[0, 1], x[0, 0] * torch.exp(1j * w["complex_phase"]), rtol=0, atol=RTOL64)


def test_each_word_may_have_its_own_wave() -> None:
    encoding, ids = rw.ComplexOrder(6, words=5), torch.tensor([[4, 0, 4], [2, 2, 1]])
    assert [x.shape for x in rw.initial(encoding).values()] == [(5, 6), (5, 6)]
    w = {name: drawn(5, 6, seed=n) for n, name in enumerate(rw.initial(encoding), 1)}
    x, at = drawn(2, 3, 6), rw.contiguous(3, batch=2)
    found = as_complex(rw.embed(x, encoding, encoding.lookup(w, ids), at))
    for b in range(2):
        for t in range(3):
            frequency, phase = (w[name][ids[b, t]] for name in ("complex_frequency", "complex_phase"))
            expected = x[b, t] * torch.exp(1j * (frequency * t + phase))
            torch.testing.assert_close(found[b, t], expected, rtol=0, atol=RTOL64)
    with pytest.raises(rw.ConfigError, match=r"complex_frequency must be picked by lookup\(w, ids\) first, got"):
        rw.embed(x, encoding, w, at)


def test_frequencies_and_phases_may_be_shared_by_channels() -> None:
    one = {"complex_frequency": torch.tensor([0.3]), "complex_phase": torch.zeros(1)}
    found = as_complex(rw.ComplexOrder(4).embed(one, rw.contiguous(5)))[0]
    expected = torch.exp(0.3j * torch.tensor([[0.0], [1], [2], [3], [4]])).expand(5, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=2 * EPS)


def test_a_wave_of_float32_weights_is_exact_far_out() -> None:
    w = {"complex_frequency": torch.tensor([0.7, 0.123]), "complex_phase": torch.tensor([0.1, -2.0])}
    found = vectors(rw.ComplexOrder(2), 1_000_003, w=w)[0].tolist()
    turns = [1_000_003 * f + p for f, p in zip(*(x.tolist() for x in w.values()), strict=True)]
    assert found == pytest.approx([math.cos(a) for a in turns] + [math.sin(a) for a in turns], abs=EPS)


# convolution


def convolved(x: Tensor, taps: Tensor, before: int, after: int) -> Tensor:
    """torch's own depthwise convolution of one row, after padding with zeros."""
    padded = torch.nn.functional.pad(x.mT, (before, after))
    return torch.nn.functional.conv1d(padded, taps.T[:, None], groups=taps.shape[1]).mT


@pytest.mark.parametrize(("kernel", "causal"), [(1, True), (3, True), (4, True), (3, False), (5, False)])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_neighbours_are_weighted_as_by_a_convolution(kernel: int, causal: bool, length: int) -> None:
    encoding, taps, x = rw.ConvLeak(4, kernel, causal), drawn(kernel, 4), drawn(2, length, 4, seed=1)
    ahead = 0 if causal else kernel // 2
    found = rw.embed(x, encoding, {"conv_leak": taps}, rw.contiguous(length, batch=2))
    torch.testing.assert_close(found, convolved(x, taps, kernel - 1 - ahead, ahead), rtol=0, atol=RTOL64)


def test_a_constant_stays_constant_only_where_the_ends_meet() -> None:
    w, x, at = {"conv_leak": torch.ones(3, 4)}, torch.ones(1, 8, 4), rw.contiguous(8)
    for causal, padding, leaks in ((False, "circular", []), (False, "zero", [0, 7]), (True, "zero", [0, 1])):
        found = rw.embed(x, rw.ConvLeak(4, 3, causal, padding), w, at)[0, :, 0]
        assert [t for t, y in enumerate(found.tolist()) if y != 3] == leaks
    assert torch.equal(rw.ConvLeak(4).embed(w, at), rw.ConvLeak(4).onto(w, x, at))


@pytest.mark.parametrize("encoding", [rw.ConvLeak(4, 5), rw.ConvLeak(4, 5, causal=False)])
def test_nothing_is_read_from_other_documents_or_from_padding(encoding: Any) -> None:
    w, x = {"conv_leak": drawn(5, 4)}, drawn(1, 9, 4, seed=1)
    alone = [rw.embed(part, encoding, w, rw.contiguous(part.shape[1])) for part in x.split((3, 6), dim=1)]
    assert torch.equal(rw.embed(x, encoding, w, rw.packed(3, 6)), torch.cat(alone, dim=1))
    x[0, :3] = math.nan
    padded = rw.embed(x.expand(2, -1, -1), encoding, w, rw.ragged(6, 9))
    assert torch.equal(padded[:1, 3:], alone[1])


def test_a_convolution_starts_by_changing_nothing() -> None:
    for encoding in (rw.ConvLeak(4, 4), rw.ConvLeak(4, 5, causal=False)):
        x = drawn(1, 7, 4)
        assert torch.equal(rw.embed(x, encoding, rw.initial(encoding), rw.contiguous(7)), x)


def test_shapes_that_a_convolution_cannot_have_are_refused() -> None:
    with pytest.raises(rw.ConfigError, match=r"ConvLeak.kernel must be odd unless causal, got 4"):
        rw.ConvLeak(4, 4, causal=False)
    with pytest.raises(rw.ConfigError, match=r"ConvLeak.padding must be 'zero' where causal, got 'circular'"):
        rw.ConvLeak(4, padding="circular")


# where they enter


@pytest.mark.parametrize(
    "late",
    [
        rw.Learned(16, 9, inject="pre_head"),
        rw.Hierarchical(16, 3, inject="pre_head"),
        rw.Sinusoidal(16, inject="pre_head"),
        rw.Multiplicative(rw.Learned(16, 9, inject="pre_head")),
    ],
)
def test_what_enters_before_the_head_is_not_at_the_input(late: Any) -> None:
    x, at = drawn(1, 9, 16), rw.contiguous(9)
    w = {name: x + drawn(*x.shape) for name, x in rw.initial(late).items()}
    both = (rw.Sinusoidal(16, base=100.0), late)
    assert torch.equal(rw.embed(x, both, w, at), x + vectors(both[0], *range(9)))
    told = rw.embed(x, both, w, at, inject="pre_head")
    assert torch.equal(told, late.onto(w, x, at) if hasattr(late, "onto") else x + late.embed(w, at))
    assert not torch.equal(told, x)
    module = rw.Positions(late)
    assert torch.equal(module.embed(x, at), x)
    assert torch.equal(module.embed(x, at, "pre_head"), rw.embed(x, late, rw.initial(late), at, "pre_head"))


EVERY = [
    rw.Sinusoidal(16),
    rw.Learned(16, 64),
    rw.Hierarchical(16, 7),
    rw.Recurrent(16),
    rw.Floater(16),
    rw.Multiplicative(rw.Sinusoidal(16)),
    rw.ComplexOrder(16),
    rw.ConvLeak(16),
]


# with weights of either precision; the others work in that of their weights
CASES = [(e, torch.float32) for e in EVERY] + [(e, torch.bfloat16) for e in (rw.ComplexOrder(16), rw.ConvLeak(16, 7))]


@pytest.mark.parametrize(("encoding", "dtype"), CASES, ids=str)
def test_half_precision_embeddings_are_rounded_once(encoding: Any, dtype: torch.dtype) -> None:
    x, at = drawn(1, 40, 16).bfloat16(), rw.contiguous(40)
    w = {name: (t + 0.1 * drawn(*t.shape)).to(dtype) for name, t in rw.initial(encoding).items()}
    found = rw.embed(x, encoding, w, at)
    exact = rw.embed(x.double(), encoding, {name: t.double() for name, t in w.items()}, at)
    assert found.dtype == torch.bfloat16
    half_ulp = torch.finfo(torch.bfloat16).eps / 2
    # float32 arithmetic before it: a term for each channel of a sum, carried through 40 steps at most
    before = tolerance(exact.float(), terms=16 * 40)
    assert ((found.double() - exact).abs() <= half_ulp * exact.abs() + 2 * before).all()


# none at all


def test_without_positions_the_order_of_what_came_before_does_not_matter() -> None:
    q, k, v = drawn(3, 1, 2, 10, 8)
    at, order = rw.contiguous(10), [*torch.randperm(9, generator=torch.Generator().manual_seed(1)).tolist(), 9]

    def last(encoding: Any, *qkv: Tensor) -> Tensor:
        return rw.attend(*qkv, encoding, {}, at, at)[:, :, -1]

    shuffled = [x[:, :, order] for x in (q, k, v)]
    torch.testing.assert_close(last((), *shuffled), last((), q, k, v), rtol=0, atol=RTOL64)
    # the same with positions is another result
    assert (last(rw.Rotary(8), *shuffled) - last(rw.Rotary(8), q, k, v)).abs().max() > 0.01


def test_without_positions_and_mask_attention_moves_along_with_its_tokens() -> None:
    q, k, v = drawn(3, 1, 2, 10, 8)
    at, order = rw.contiguous(10), torch.randperm(10, generator=torch.Generator().manual_seed(1))
    whole = rw.attend(q, k, v, (), {}, at, at, rw.masks.bidirectional)
    mixed = rw.attend(*(x[:, :, order] for x in (q, k, v)), (), {}, at, at, rw.masks.bidirectional)
    torch.testing.assert_close(mixed, whole[:, :, order], rtol=0, atol=RTOL64)
