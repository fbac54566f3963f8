"""What each bias promises of its own: slopes, buckets, kernels, fractions, windows."""

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.masks import bidirectional, causal

EPS32, EPS64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps


def row(encoding: Any, *distances: int, w: dict[str, Tensor] | None = None) -> Tensor:
    """[H, N]: the bias at these distances."""
    return encoding.of_distance(w or {}, torch.tensor(distances))


def in_image(height: int, width: int, document: Tensor | None = None) -> rw.Tokens:
    """The tokens of an image, row by row, at their row and column."""
    where = torch.cartesian_prod(torch.arange(height), torch.arange(width))[None]
    order = torch.arange(height * width)[None]
    return rw.Tokens(where, order, torch.zeros_like(order) if document is None else document)


@pytest.mark.parametrize("max_exponent", [8.0, 5.0])
def test_the_order_of_mpt_is_no_other_order(max_exponent: float) -> None:
    for heads in range(1, 129):
        larger = 2 ** math.ceil(math.log2(heads))
        slopes = [1 / 2 ** (k * max_exponent / larger) for k in range(1, larger + 1)]
        theirs = slopes if larger == heads else (slopes[1::2] + slopes[0::2])[:heads]
        assert list(rw.Alibi(heads, max_exponent).slopes()) == pytest.approx(theirs, rel=8 * EPS64, abs=0)


def test_slopes_of_a_power_of_two_are_a_geometric_row_and_others_borrow_from_the_next() -> None:
    assert rw.Alibi(4).slopes() == (2**-2, 2**-4, 2**-6, 2**-8)
    assert rw.Alibi(1).slopes() == (2**-8,)
    assert rw.Alibi(6).slopes() == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)


@pytest.mark.parametrize(("heads", "ranks"), [(12, 4), (8, 2), (71, 71), (6, 1)])
def test_ranks_that_share_the_heads_out_hold_all_of_them_in_order(heads: int, ranks: int) -> None:
    each, at = heads // ranks, rw.contiguous(9)
    held = [rw.Alibi(heads, first=rank * each, count=each) for rank in range(ranks)]
    together = torch.cat([e.bias({}, at, at) for e in held], dim=1)
    assert torch.equal(together, rw.Alibi(heads).bias({}, at, at))
    assert rw.Alibi(heads, first=heads - 1).slopes() == rw.Alibi(heads).slopes()[-1:]


def test_a_slice_beyond_the_heads_is_refused() -> None:
    with pytest.raises(rw.ConfigError, match=r"^Alibi.first must be a whole number .* of at most 3, got 4$"):
        rw.Alibi(4, first=4)
    with pytest.raises(rw.ConfigError, match=r"^Alibi.count must be a whole number .* of at most 2, got 3$"):
        rw.Alibi(4, first=2, count=3)


@pytest.mark.parametrize("ahead", [0.0, 0.25, 1.0, 3.0])
def test_keys_ahead_cost_a_multiple_and_keys_behind_stay(ahead: float) -> None:
    behind, before = row(rw.Alibi(4, ahead=ahead), 0, 1, 7, 1000), row(rw.Alibi(4, ahead=ahead), 0, -1, -7, -1000)
    assert torch.equal(behind, row(rw.Alibi(4), 0, 1, 7, 1000))
    assert torch.equal(before, ahead * behind)


@pytest.mark.parametrize("far", [1, 255, 2**24 + 1, 10**9 + 7, 2**40 + 3])
@pytest.mark.parametrize("ahead", [1.0, 0.3])
def test_alibi_is_off_by_one_rounding_at_any_distance(far: int, ahead: float) -> None:
    found = row(rw.Alibi(12, ahead=ahead), far, -far).double()
    for head, of in enumerate((*range(2, 17, 2), 1, 3, 5, 7)):
        with mpmath.workdps(40):
            cost = far * mpmath.mpf(2) ** (-mpmath.mpf(of) / 2)
            exact = torch.tensor([-float(cost), -float(cost * mpmath.mpf(ahead))], dtype=torch.float64)
        # half a unit in the last place of float32, and a few of float64 before it
        assert ((found[head] - exact).abs() <= exact.abs() * (EPS32 / 2 + 8 * EPS64)).all()


def test_a_bias_per_key_is_the_same_after_the_softmax() -> None:
    at = rw.contiguous(30, start=5)
    logits = torch.randn(1, 6, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes = torch.tensor(rw.Alibi(6).slopes(), dtype=torch.float64)[:, None, None]
    hidden = ~causal(at, at)[:, None]
    ours = (logits + rw.Alibi(6).bias({}, at, at)).masked_fill(hidden, -math.inf).softmax(-1)
    column = (logits + slopes * at.order[0]).masked_fill(hidden, -math.inf).softmax(-1)
    # the costs, of up to 15, are rounded to float32
    torch.testing.assert_close(ours, column, rtol=15 * EPS32, atol=0)


@pytest.mark.parametrize(
    ("buckets", "max_distance"), [(32, 128), (64, 256), (16, 10**6), (256, 4096), (8, 16), (2, 5), (33, 1000)]
)
def test_every_bucket_of_t5_begins_where_the_logarithm_says(buckets: int, max_distance: int) -> None:
    encoding, near = rw.T5(1, buckets, max_distance), buckets // 2
    begins = encoding.begins()
    distances = sorted({max(n + step, near) for n in begins for step in (-1, 0, 1)})
    with mpmath.workdps(60):
        share = (buckets - near) / mpmath.log(mpmath.mpf(max_distance) / near)
        # what falls on a whole number must not be rounded below it
        exact = [
            near + int(mpmath.floor(mpmath.log(mpmath.mpf(n) / near) * share + mpmath.mpf(10) ** -40))
            for n in distances
        ]
    assert encoding.bucket(-torch.tensor(distances)).tolist() == [min(n, buckets - 1) for n in exact]
    assert encoding.bucket(-torch.tensor([*range(near), max_distance, 2**40])).tolist() == [
        *range(near),
        buckets - 1,
        buckets - 1,
    ]


def test_the_sides_of_t5() -> None:
    rel = torch.tensor([-200, -5, 0, 5, 200])
    assert rw.T5(1).bucket(rel).tolist() == [31, 5, 0, 0, 0]
    assert rw.T5(1, bidirectional=True).bucket(rel).tolist() == [15, 5, 0, 21, 31]
    assert rw.T5(1).bucket(rel.int()).dtype == torch.int64


def test_t5_reads_whole_numbers_only_and_needs_room_for_its_buckets() -> None:
    with pytest.raises(rw.ConfigError, match=r"T5 reads must be a whole number, got torch.float64$"):
        rw.T5(1).bucket(torch.tensor([1.0], dtype=torch.float64))
    with pytest.raises(rw.ConfigError, match=r"^T5.max_distance must be a whole number above 16, got 16$"):
        rw.T5(1, 32, 16)
    with pytest.raises(rw.ConfigError, match=r"^T5.buckets must be a whole number of at least 4, got 3$"):
        rw.T5(1, 3, bidirectional=True)


def test_the_table_of_t5_starts_as_wide_as_the_model_says() -> None:
    table = rw.initial(rw.T5(64, 256, 1024, width=100))["t5_bias"]
    assert table.shape == (256, 64)
    # the deviation of n draws is itself off by its value over sqrt(2 n)
    assert float(table.std()) == pytest.approx(0.1, rel=5 / (2 * table.numel()) ** 0.5)


@pytest.mark.parametrize("encoding", [rw.KerpleLog(500), rw.KerplePower(500)], ids=repr)
def test_a_kernel_is_finite_at_distance_zero_and_so_are_its_gradients(encoding: Any) -> None:
    w = {name: x.requires_grad_() for name, x in rw.initial(encoding).items()}
    bias = row(encoding, 0, 1, -1, 10**6, w=w)
    bias.sum().backward()
    assert bool(bias.isfinite().all())
    assert bool((bias[:, 0] == 0).all())
    assert torch.equal(bias[:, 1], bias[:, 2])
    for name, x in w.items():
        assert x.grad is not None, name
        assert bool(x.grad.isfinite().all()), name
        assert bool((x.grad != 0).all()), name


@pytest.mark.parametrize("encoding", [rw.KerpleLog(500), rw.KerplePower(500)], ids=repr)
def test_a_kernel_stays_positive_definite_up_to_a_constant(encoding: Any) -> None:
    w = {name: x.double() for name, x in rw.initial(encoding).items()}
    at = rw.contiguous(12)
    bias = encoding.bias(w, at, at)[0]
    # among vectors that sum to nothing, where a constant does not show
    centred = bias - bias.mean(-1, keepdim=True) - bias.mean(-2, keepdim=True) + bias.mean((-1, -2), keepdim=True)
    lowest = torch.linalg.eigvalsh(centred)[:, 0]
    assert (lowest >= -64 * EPS64 * centred.abs().amax((-1, -2))).all()


def test_kernels_start_inside_their_ranges() -> None:
    w = rw.initial((rw.KerpleLog(2000), rw.KerplePower(2000)))
    ranges = {
        "kerple_log_rate": (w["kerple_log_rate"].exp(), 2.0),
        "kerple_log_sharpness": (w["kerple_log_sharpness"].exp(), 1.0),
        "kerple_power_rate": (w["kerple_power_rate"].exp(), 1.0),
        "kerple_power_exponent": (2 * w["kerple_power_exponent"].sigmoid(), 2.0),
    }
    assert set(ranges) == set(w)
    for name, (found, top) in ranges.items():
        assert 0.0099 < float(found.min()) < 0.02 * top, name
        assert 0.98 * top < float(found.max()) <= top, name


@pytest.mark.parametrize("encoding", [rw.KerpleLog(3), rw.KerplePower(3), rw.Fire(3)], ids=repr)
def test_distances_are_not_rounded_to_the_dtype_of_coarse_weights(encoding: Any) -> None:
    w = {name: x.bfloat16() for name, x in rw.initial(encoding).items()}
    wide = {name: x.double() for name, x in w.items()}
    at = rw.contiguous(300)
    found, exact = (encoding.bias(each, at, at)[0] for each in (w, wide))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=64 * EPS32, atol=64 * EPS32)


def test_sandwich_is_the_inner_product_of_sinusoids() -> None:
    heads, dim, base = 3, 16, 500.0
    where = torch.arange(50, dtype=torch.float64)
    angle = where[:, None] * torch.tensor(
        [base ** (-i / (dim / 2)) for i in range(1, dim // 2 + 1)], dtype=torch.float64
    )
    waves = torch.cat((angle.sin(), angle.cos()), dim=-1)
    share = torch.tensor([heads / 8, heads / 16, heads / 24], dtype=torch.float64)[:, None, None]
    at = rw.contiguous(50)
    ours = rw.Sandwich(heads, dim, base).bias({}, at, at)[0]
    # products of up to dim / 2, divided by 8 / heads, then rounded to float32
    torch.testing.assert_close(ours.double(), share * (waves @ waves.T - dim / 2), rtol=EPS32, atol=64 * EPS64)
    assert torch.equal(row(rw.Sandwich(2), 3, 900), row(rw.Sandwich(2), -3, -900))


def straight(c: float, reach: float = 1.0) -> dict[str, Tensor]:
    """FIRE with a network that hands its input on."""
    one = torch.ones(1, dtype=torch.float64)
    return {
        "fire_c": c * one,
        "fire_reach": reach * one,
        "fire_in": one,
        "fire_in_shift": 0 * one,
        "fire_out": one[None],
        "fire_out_shift": 0 * one,
    }


@pytest.mark.parametrize(("query", "key"), [(3, 0), (3, 3), (40, 7), (900, 0), (900, 899), (40, 50)])
@pytest.mark.parametrize(("c", "reach"), [(0.1, 1.0), (-0.5, 1.0), (0.1, -2.0), (0.1, 0.1)])
def test_fire_takes_the_distance_as_a_fraction_of_the_query(query: int, key: int, c: float, reach: float) -> None:
    at = [rw.contiguous(1, start=n) for n in (query, key)]
    found = float(rw.Fire(1, hidden=1, threshold=20.0, eps=1e-9).bias(straight(c, reach), *at))
    whole = max(abs(20 * reach), query)
    fraction = math.log(abs(c) * abs(query - key) + 1) / (math.log(abs(c) * whole + 1) + 1e-9)
    assert found == pytest.approx(fraction, rel=1e-12)
    assert key > query or 0 <= found <= 1


def test_fire_moves_with_the_text_up_to_the_threshold_and_not_beyond() -> None:
    encoding, w = rw.Fire(4, threshold=64.0), rw.initial(rw.Fire(4))
    at = [rw.contiguous(20, start) for start in (0, 31, 1009)]
    start, near, far = (encoding.bias(w, each, each) for each in at)
    assert torch.equal(start, near)
    assert float((start - far).abs().max()) > 0.01
    long = rw.contiguous(1, start=10**7)
    assert bool(encoding.bias(w, long, at[0]).isfinite().all())


@pytest.mark.parametrize("kind", [rw.Swin, rw.SwinV2])
def test_an_offset_that_no_window_holds_is_refused(kind: Any) -> None:
    encoding = kind(2, 3, 4)
    q = torch.ones(1, 2, 20, 8)
    w = rw.initial(encoding)
    for height, width, offset in ((3, 5, r"\[\[0, -4\]\]"), (4, 4, r"\[\[-3, 0\]\]")):
        at = in_image(height, width)
        q = torch.ones(1, 2, height * width, 8)
        wrong = (
            rf"^the offset between two tokens that {kind.__name__} reads must be inside a window of 3 by 4 tokens, got"
        )
        with pytest.raises(rw.ConfigError, match=rf"{wrong} {offset}$"):
            rw.attend(q, q, q, encoding, w, at, at)


def test_a_compiled_lookup_refuses_it_too() -> None:
    w, at = rw.initial(rw.Swin(2, 3, 4)), in_image(3, 5)
    compiled = torch.compile(rw.Swin(2, 3, 4).bias, fullgraph=True, backend="eager")
    assert torch.equal(compiled(w, in_image(3, 4), in_image(3, 4)), rw.Swin(2, 3, 4).bias(w, *[in_image(3, 4)] * 2))
    with pytest.raises(IndexError, match="out of bounds"):
        compiled(w, at, at)


@pytest.mark.parametrize("kind", [rw.Swin, rw.SwinV2])
def test_a_window_wants_a_row_and_a_column_in_whole_numbers(kind: Any) -> None:
    encoding, q, line = kind(2, 3, 4), torch.ones(1, 2, 6, 8), rw.contiguous(6)
    w, at = rw.initial(encoding), in_image(2, 3)
    with pytest.raises(rw.ConfigError, match=rf"{kind.__name__} reads must be a row and a column, got '1 axes'$"):
        rw.attend(q, q, q, encoding, w, line, line)
    with pytest.raises(rw.ConfigError, match=rf"{kind.__name__} reads must be a whole number, got torch.float32$"):
        rw.attend(q, q, q, encoding, w, at._replace(position=at.position.float()), at)


@pytest.mark.parametrize("kind", [rw.Swin, rw.SwinV2])
def test_windows_of_an_image_are_documents_of_one_row(kind: Any) -> None:
    encoding = kind(2, 3, 4)
    w = {
        name: x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        for name, x in rw.initial(encoding).items()
    }
    rows, columns = in_image(6, 8).position.unbind(-1)
    image = in_image(6, 8, document=rows // 3 * 2 + columns // 4)
    q, k, v = torch.randn(3, 1, 2, 48, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole = rw.attend(q, k, v, encoding, w, image, image, bidirectional)
    for window in range(4):
        mine = image.document[0] == window
        parts, at = (x[:, :, mine] for x in (q, k, v)), in_image(3, 4)
        alone = rw.attend(*parts, encoding, w, at, at, bidirectional)
        torch.testing.assert_close(whole[:, :, mine], alone, rtol=0, atol=1e-12)


def test_swin_v2_sees_directions_alone_and_its_bias_is_bounded() -> None:
    encoding, at = rw.SwinV2(2, 3, 4), in_image(3, 4)
    w = {name: x.double() * 30 for name, x in rw.initial(encoding).items()} | {
        "swin_v2_scale": torch.tensor([0.0, 99.0])
    }
    q, k = torch.randn(2, 1, 2, 12, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = encoding.logits(w, q, k, at, at)
    torch.testing.assert_close(encoding.logits(w, 3 * q, 0.2 * k, at, at), found, rtol=1e-12, atol=1e-12)
    # nothing is left of the dot product but the bias, between 0 and 16
    bias = encoding.logits(w, 0 * q, k, at, at)
    assert 0 <= float(bias.min()) < float(bias.max()) <= 16
    cosine = torch.nn.functional.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    torch.testing.assert_close(
        (found - bias) / cosine, torch.tensor([1.0, 100.0]).double()[:, None, None].expand_as(bias)
    )


def test_a_larger_window_of_swin_v2_sees_near_offsets_as_the_trained_one_did() -> None:
    small, large = rw.SwinV2(1, 4, 5).offsets(), rw.SwinV2(1, 6, 9, trained=(4, 5)).offsets()
    assert torch.equal(large[2:-2, 4:-4], small)
    assert float(large.max()) > float(small.max()) == pytest.approx(math.log(9) / math.log(8))
