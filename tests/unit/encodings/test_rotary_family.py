"""What is particular to each way of rotating: several axes, learned rates, generators, decay, and linear attention."""

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.encodings.rotary.axes import axis_of_pair
from ropewalk.scalings import bounds
from tolerance import tolerance

EXACT = 1e-12  # float64: some thousand roundings
LENGTH = 24


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tokens(where: Tensor) -> rw.Tokens:
    """One document at these coordinates [T, A]."""
    return rw.contiguous(len(where))._replace(position=where[None])


def learned(encoding: Any) -> dict[str, Tensor]:
    """Learned tensors in float64, away from where they start."""
    start = rw.initial(encoding, seed=3)
    return {name: x.double() + 0.1 * draw(*x.shape, seed=4) for name, x in start.items()}


def images(encoding: Any, w: dict[str, Tensor], at: rw.Tokens) -> Tensor:
    """[T, D, D]: for each token the matrix that multiplies a column; one head."""
    tokens = at.position.shape[1]
    unit = torch.eye(encoding.dim, dtype=torch.float64)[None, :, None].expand(1, -1, tokens, -1)
    # unit vectors stand where heads do: [1, D, T, D]
    return encoding.rotation(w, at).query(unit)[0].permute(1, 2, 0)


def back(encoding: Any, w: dict[str, Tensor]) -> Tensor:
    """[D, D]: out of the basis in which a map leaves its images, which no logit needs."""
    if isinstance(encoding, rw.CirculantString):
        return encoding.basis()
    return encoding.basis(w) if isinstance(encoding, rw.CayleyString) else torch.eye(encoding.dim, dtype=torch.float64)


# several axes

SECTIONS = [((4, 6, 6), "chunked"), ((6, 5, 5), "interleaved"), ((2, 7, 7), "interleaved"), ((1, 1, 14), "interleaved")]


@pytest.mark.parametrize(("sections", "layout"), SECTIONS)
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_equal_coordinates_are_one_coordinate_bit_for_bit(sections: tuple[int, ...], layout: str, pairing: str) -> None:
    scaling = (rw.Yarn(4.0, 32),)
    one = rw.Rotary(32, scaling=scaling, pairing=pairing)
    several = rw.Rotary(32, scaling=scaling, pairing=pairing, sections=sections, layout=layout)
    x, line = draw(2, 3, LENGTH, 32, dtype=torch.float32), rw.contiguous(LENGTH, start=70_000, batch=2)
    expected = one.rotation({}, line).query(x)
    tripled = line._replace(position=line.position.expand(-1, -1, 3))
    assert torch.equal(several.rotation({}, tripled).query(x), expected)
    assert torch.equal(several.rotation({}, line).query(x), expected)


def test_tie_on_the_diagonal_is_one_coordinate_bit_for_bit() -> None:
    tie = rw.Rotary(16, pairing="interleaved", sections=(4, 4), layout="interleaved")
    x, line = draw(1, 1, LENGTH, 16), rw.contiguous(LENGTH)
    diagonal = line._replace(position=line.position.expand(-1, -1, 2))
    expected = rw.Rotary(16, pairing="interleaved").rotation({}, line).query(x)
    assert torch.equal(tie.rotation({}, diagonal).query(x), expected)
    assert not torch.equal(tie.rotation({}, tokens(draw(LENGTH, 2))).query(x), expected)


@pytest.mark.parametrize("rates", ["shared", "own", "dealt"])
@pytest.mark.parametrize("layout", ["chunked", "interleaved"])
@pytest.mark.parametrize("sections", [(4, 4), (2, 3, 3), (5, 2, 1), (1, 7), (8,)])
def test_each_axis_counts_by_its_differences_alone(sections: tuple[int, ...], layout: str, rates: str) -> None:
    encoding = rw.Rotary(16, sections=sections, layout=layout, rates=rates)
    where = torch.randint(0, 50, (LENGTH, len(sections)), generator=torch.Generator().manual_seed(0))
    q, k = draw(2, 1, 1, LENGTH, 16)
    here = rw.logits(q, k, encoding, {}, tokens(where), tokens(where))
    for axis in range(len(sections)):
        moved = where.clone()
        moved[:, axis] += 1009
        there = rw.logits(q, k, encoding, {}, tokens(moved), tokens(moved))
        # float32 tables
        torch.testing.assert_close(there, here, rtol=0, atol=tolerance(here.float(), 16))
        alone = rw.logits(q, k, encoding, {}, tokens(moved), tokens(where))
        assert (alone - here).abs().max() > 0.01


def test_the_rates_of_axes_by_hand() -> None:
    def rates(sections: tuple[int, ...], **fields: str) -> tuple[float, ...]:
        return rw.Rotary(12, 1e6, sections=sections, **fields).spectrum().inv_freq

    one = tuple(1e6 ** (-i / 6) for i in range(6))
    halves, thirds = (1.0, 1e-2, 1e-4), (1.0, 1e-3)
    assert rates((2, 1, 3)) == one
    assert rates((3, 3), rates="own") == pytest.approx(halves * 2)
    assert rates((2, 2, 2), rates="own", layout="interleaved") == pytest.approx((1.0,) * 3 + (1e-3,) * 3)
    assert rates((2, 4), rates="own") == pytest.approx((*thirds, *(1e6 ** (-i / 4) for i in range(4))))
    assert rates((3, 3), rates="dealt") == (*one[::2], *one[1::2])
    assert rates((3, 3), rates="dealt", layout="interleaved") == one
    # the second axis has all of its pairs after one turn
    assert rates((5, 1), rates="dealt") == (one[0], *one[2:], one[1])


def test_scalings_bend_each_axis_before_its_pairs_are_placed() -> None:
    rule = rw.NTK(3.0)
    sliced = rw.Rotary(16, scaling=(rule,), sections=(4, 4), rates="own").spectrum().inv_freq
    assert sliced == rw.Rotary(8, scaling=(rule,)).spectrum().inv_freq * 2


def test_the_turn_of_an_axis_that_has_its_pairs_goes_to_the_first() -> None:
    assert axis_of_pair(rw.Rotary(16, sections=(4, 3, 1), layout="interleaved")) == (0, 1, 2, 0, 1, 0, 0, 1)


def test_tokens_need_one_axis_or_as_many_as_the_encoding() -> None:
    at = tokens(torch.zeros(4, 2, dtype=torch.int64))
    for encoding in (rw.Rotary(16, sections=(2, 3, 3)), rw.RotaryMixed(18, 4, axes=3), rw.LieRotary(16, axes=3)):
        with pytest.raises(rw.ConfigError, match=r"Tokens.position must be along one axis or 3, got '2 axes'"):
            encoding.rotation(rw.initial(encoding), at)
    for encoding in (rw.Rotary(16), rw.XPos(16)):
        with pytest.raises(rw.ConfigError, match=r"along one axis, got '?2 axes"):
            encoding.rotation({}, at)


# learned rates and generators

MAPS = [rw.RotaryMixed(12, 1, axes=3), rw.LieRotary(12, 3, block=4), rw.CayleyString(12, 3), rw.CirculantString(12, 3)]
ABELIAN = [e for e in MAPS if not isinstance(e, rw.LieRotary)]


def at_random(axes: int) -> Tensor:
    return 5 * draw(LENGTH, axes, seed=7)


@pytest.mark.parametrize("encoding", MAPS, ids=rw.short)
def test_every_map_is_orthogonal_and_keeps_the_orientation(encoding: Any) -> None:
    w = learned(encoding)
    matrix = back(encoding, w) @ images(encoding, w, tokens(at_random(3)))
    one = torch.eye(12, dtype=torch.float64).expand_as(matrix)
    torch.testing.assert_close(matrix.mT @ matrix, one, rtol=0, atol=EXACT)
    torch.testing.assert_close(matrix.det(), torch.ones(LENGTH, dtype=torch.float64), rtol=0, atol=EXACT)


@pytest.mark.parametrize("encoding", MAPS, ids=rw.short)
def test_logits_are_relative_where_generators_commute_and_only_there(encoding: Any) -> None:
    where, w, (q, k) = at_random(3), learned(encoding), draw(2, 1, 1, LENGTH, 12)
    moved = where + torch.tensor([3.0, -1.0, 7.0])
    here = rw.logits(q, k, encoding, w, tokens(where), tokens(where))
    apart = (rw.logits(q, k, encoding, w, tokens(moved), tokens(moved)) - here).abs().max()
    assert (apart < EXACT) if encoding in ABELIAN else (apart > 0.1)


def test_lie_is_relative_along_one_axis() -> None:
    encoding, (q, k) = rw.LieRotary(8, axes=1, heads=2), draw(2, 1, 2, LENGTH, 8)
    w, at, moved = learned(encoding), rw.contiguous(LENGTH), rw.contiguous(LENGTH, start=13)
    here = rw.logits(q, k, encoding, w, at, at)
    # a generator of norm 20 is raised to 37 and squared nine times
    torch.testing.assert_close(rw.logits(q, k, encoding, w, moved, moved), here, rtol=0, atol=1e3 * EXACT)
    assert (here[:, 0] - rw.logits(q.flip(1), k.flip(1), encoding, w, at, at)[:, 1]).abs().max() > 0.1


def test_lie_in_blocks_of_two_is_mixed() -> None:
    mixed, lie = rw.RotaryMixed(8, 3), rw.LieRotary(8, heads=3, block=2)
    rates, x = draw(2, 3, 4), draw(1, 3, LENGTH, 8)
    at = tokens(at_random(2))
    turned = mixed.rotation({"mixed_rates": rates}, at).query(x)
    # above the diagonal of a generator stands the sine's minus
    torch.testing.assert_close(
        lie.rotation({"lie_generators": -rates[..., None]}, at).query(x), turned, rtol=0, atol=EXACT
    )


def test_mixed_starts_with_perpendicular_directions_in_every_head() -> None:
    for axes in (1, 2, 3):
        rates = rw.initial(rw.RotaryMixed(12 * axes, 5, axes=axes))["mixed_rates"]
        blocks = rates.unflatten(-1, (axes, 6)).permute(1, 3, 0, 2).double()
        products = blocks.mT @ blocks
        lengths = torch.tensor([10 ** (-i / 6) for i in range(6)], dtype=torch.float64) ** 2
        expected = lengths[:, None, None] * torch.eye(axes, dtype=torch.float64)
        torch.testing.assert_close(products, expected.expand_as(products), rtol=0, atol=tolerance(rates, axes))
    first, second = rw.initial(rw.RotaryMixed(8, 2))["mixed_rates"].unbind(1)
    assert (first - second).abs().max() > 0.01


def test_cayley_starts_as_axial_rotary() -> None:
    encoding, at = rw.CayleyString(16), tokens(at_random(2))
    x, axial = draw(1, 2, LENGTH, 16), rw.Rotary(16, pairing="interleaved", sections=(4, 4), rates="own")
    found = encoding.rotation(rw.initial(encoding), at).query(x)
    expected = axial.rotation({}, at).query(x)
    # rates and tables are rounded to float32 in turn, at coordinates of some ten
    torch.testing.assert_close(found, expected, rtol=0, atol=20 * tolerance(expected.float()))


def test_circulant_is_the_exponential_of_circulant_matrices() -> None:
    encoding, where = rw.CirculantString(10), at_random(2)
    w = {"circulant_columns": draw(2, 10)}
    shifted = [torch.stack([c.roll(n) for n in range(10)], dim=1) for c in w["circulant_columns"]]
    generators = torch.stack([c - c.mT for c in shifted])
    exponentials = torch.einsum("ta,aij->tij", where, generators).matrix_exp()
    in_basis = images(encoding, w, tokens(where))
    torch.testing.assert_close(encoding.basis() @ in_basis, exponentials, rtol=0, atol=EXACT)
    for still in (torch.ones(10), torch.tensor([1.0, -1.0] * 5)):
        torch.testing.assert_close(exponentials @ still.double(), still.double().expand(LENGTH, -1))


def test_circulant_starts_at_the_rates_it_says() -> None:
    encoding = rw.CirculantString(10)
    rates = encoding.rates({n: x.double() for n, x in rw.initial(encoding).items()})
    expected = torch.tensor([[0, 1, 0, 1e4 ** (-2 / 3), 0], [0, 0, 1e4 ** (-1 / 3), 0, 1e-4]], dtype=torch.float64)
    torch.testing.assert_close(rates, expected, rtol=0, atol=tolerance(expected.float(), 10))


# decay


def test_what_a_score_can_reach_falls_with_distance_and_is_reached() -> None:
    encoding, unit = rw.Rotary(64), torch.ones(32, dtype=torch.float64)
    rates = encoding.spectrum().inv_freq
    assert bounds.long_term_decay(rates, 0) == 33 / 2
    assert bounds.long_term_decay(rates, 2000) < bounds.long_term_decay(rates, 20) < bounds.long_term_decay(rates, 1)
    for seed, distance in enumerate((0, 1, 7, 50, 333, 2000)):
        sums = torch.polar(unit, distance * torch.tensor(rates, dtype=torch.float64)).cumsum(0)
        # steps of length 1, each along the partial sum that it meets, add up to products that reach the bound
        worst = (sums.conj() / sums.abs()).flip(0).cumsum(0).flip(0)
        others = torch.view_as_complex(draw(200, 32, 2, seed=seed))
        steps = (others - torch.nn.functional.pad(others, (0, 1))[:, 1:]).abs().amax(-1)
        products = torch.cat([worst[None], others / steps[:, None]])
        q = torch.cat([products.real, products.imag], dim=-1)[None, :, None]
        k = torch.cat([unit, 0 * unit]).expand_as(q)
        ats = rw.contiguous(1, start=distance), rw.contiguous(1)
        scores = rw.logits(q, k, encoding, {}, *ats, 1.0).flatten()
        reach = 32 * bounds.long_term_decay(rates, distance)
        assert scores[0] == pytest.approx(reach, rel=tolerance(q.float(), 64))
        assert (scores[1:].abs() < reach).all()


def exact_score(encoding: rw.XPos, q: Tensor, k: Tensor, distance: int) -> float:
    """The score of one query and one key, D channels in half pairs, with 50 digits."""
    with mpmath.workdps(50):
        half, total = encoding.dim // 2, mpmath.mpf(0)
        q_pairs, k_pairs = ([mpmath.mpc(*z) for z in x.double().view(2, half).T.tolist()] for x in (q, k))
        for i in range(half):
            rate = mpmath.mpf(encoding.base) ** (mpmath.mpf(-i) / half)
            zeta = (mpmath.mpf(i) / half + mpmath.mpf(encoding.gamma)) / (1 + mpmath.mpf(encoding.gamma))
            shrunk = zeta ** (mpmath.mpf(distance) / mpmath.mpf(encoding.scale_base))
            total += shrunk * (q_pairs[i] * mpmath.conj(k_pairs[i]) * mpmath.expj(distance * rate)).real
        return float(total)


FAR = 10_000_000
BEHIND = (0, 1, 2, 17, 511, 4096, 36_260, 100_000, 9_999_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_xpos_is_exact_ten_million_tokens_in_with_a_cache_of_any_age(dtype: torch.dtype) -> None:
    encoding, queries = rw.XPos(16), [FAR - 300, FAR - 5, FAR]
    keys = sorted(FAR - 300 - n for n in BEHIND)
    q, k = draw(1, 1, 3, 16, dtype=dtype), draw(1, 1, len(keys), 16, seed=1, dtype=dtype)
    ats = [tokens(torch.tensor(where)[:, None]) for where in (queries, keys)]
    found = rw.logits(q, k, encoding, {}, ats[0], ats[1], 1.0)[0, 0].double()
    rows = [
        [exact_score(encoding, q[0, 0, i], k[0, 0, j], m - n) for j, n in enumerate(keys)]
        for i, m in enumerate(queries)
    ]
    # float32 tables, whatever holds the queries
    torch.testing.assert_close(
        found, torch.tensor(rows, dtype=torch.float64), rtol=0, atol=tolerance(q.float() * 4, 16)
    )


def test_xpos_of_documents_at_very_different_places() -> None:
    encoding, starts, lengths = rw.XPos(16), (FAR, 0, 123_456_789), (9, 14, 11)
    parts = [rw.contiguous(n, start=s) for n, s in zip(lengths, starts, strict=True)]
    row = rw.packed(*lengths)._replace(position=torch.cat([p.position for p in parts], dim=1))
    q, k, v = draw(3, 1, 2, sum(lengths), 16, dtype=torch.float32)
    whole = rw.attend(q, k, v, encoding, {}, row, row)
    for part, span in zip(parts, (slice(0, 9), slice(9, 23), slice(23, 34)), strict=True):
        near = rw.contiguous(len(part.order[0]))
        alone = rw.attend(q[:, :, span], k[:, :, span], v[:, :, span], encoding, {}, near, near)
        torch.testing.assert_close(whole[:, :, span], alone, rtol=0, atol=tolerance(alone, 16))


def test_xpos_survives_keys_far_ahead_that_no_query_sees_and_their_gradients() -> None:
    encoding, ahead = rw.XPos(16), 2_000_000
    q_at = rw.contiguous(4, start=FAR)
    k_at = rw.contiguous(8, start=FAR)
    k_at = k_at._replace(position=k_at.position + torch.where(k_at.order[..., None] > FAR + 3, ahead, 0))
    q, k, v = (draw(1, 1, n, 16, seed=n, dtype=torch.float32).requires_grad_() for n in (4, 8, 8))
    assert rw.logits(q, k, encoding, {}, q_at, k_at).isfinite().all()
    out = rw.attend(q, k, v, encoding, {}, q_at, k_at)
    seen = rw.select(k_at, slice(0, 4))
    expected = rw.attend(q, k[:, :, :4], v[:, :, :4], encoding, {}, q_at, seen)
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance(expected, 16))
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))
    assert k.grad is not None
    assert torch.equal(k.grad[:, :, 4:], torch.zeros(1, 1, 4, 16))


def test_xpos_of_long_rows_works_block_by_block() -> None:
    encoding, at = rw.XPos(8), rw.contiguous(1500, start=FAR)
    q, k, v = draw(3, 1, 1, 1500, 8, dtype=torch.float32)
    # in float64 no block is needed: a row of this length stays in range as a whole
    near = rw.contiguous(1500)
    score = encoding.rotation({}, near).query(q.double()) @ encoding.rotation({}, near).key(k.double()).mT / 8**0.5
    seen = rw.masks.causal(near, near)[:, None]
    expected = score.masked_fill(~seen, -torch.inf).softmax(-1) @ v.double()
    found = rw.attend(q, k, v, encoding, {}, at, at)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance(v, 8))


def test_xpos_says_what_it_cannot_hold() -> None:
    encoding, apart = rw.XPos(16), tokens(torch.tensor([[0], [50_000]]))
    q, k = draw(2, 1, 1, 2, 16, dtype=torch.float32)
    with pytest.raises(rw.ConfigError, match="queries of a document under XPos must be at most 24522 positions apart"):
        rw.logits(q, k, encoding, {}, apart, apart)
    with pytest.raises(rw.ConfigError, match="growth must stay inside float32"):
        rw.rotate(q, k, encoding, apart)


# rates that stand still, or move


def test_hope_keeps_the_pairs_that_turn_once_or_as_many_as_it_is_told() -> None:
    plain = rw.Rotary(64).spectrum().inv_freq
    for rule, kept in (
        (rw.Hope(256), 13),
        (rw.Hope(7), 1),
        (rw.Hope(6), 0),
        (rw.Hope(1, keep=20), 20),
        (rw.Hope(9, 0), 0),
    ):
        assert rw.Rotary(64, scaling=(rule,)).spectrum().inv_freq == plain[:kept] + (0.0,) * (32 - kept)
    with pytest.raises(rw.ConfigError, match=r"Hope.keep must be of at most 4 pairs, got 5"):
        rw.Rotary(8, scaling=(rw.Hope(9, keep=5),)).spectrum()


def test_hope_decides_by_the_rates_that_are_left_by_what_came_before() -> None:
    slowed = rw.Rotary(64, scaling=(rw.Linear(2.0), rw.Hope(256))).spectrum().inv_freq
    assert slowed == rw.Rotary(64, scaling=(rw.Hope(128), rw.Linear(2.0))).spectrum().inv_freq


def test_clex_is_rotary_in_the_window_and_counts_windows_beyond() -> None:
    encoding = rw.Clex(16, 1e4, 100, longest=4)
    assert rw.for_length(encoding, 1) == rw.for_length(encoding, 100) == rw.Rotary(16)
    assert [rw.for_length(encoding, n).time for n in (101, 200, 201, 400, 9999)] == [2, 2, 3, 4, 4]
    with pytest.raises(rw.ConfigError, match=r"Clex.time must be settled by for_length\(encoding, length\) first"):
        encoding.rotation(rw.initial(encoding), rw.contiguous(2))


def test_clex_without_training_is_ntk_at_any_time() -> None:
    for time in (1.0, 1.7, 2.0, 9.5):
        encoding = rw.Clex(32, 1e5, 100, time=time, activation="silu")
        ntk = rw.Rotary(32, 1e5, (rw.NTK(2 * time - 1),)).spectrum().inv_freq
        assert encoding.rates(rw.initial(encoding)).tolist() == pytest.approx(ntk, rel=1e-13)


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_clex_solves_the_equation_of_the_rates(activation: str) -> None:
    """Against the equation as it is published, without the change of variables, in far smaller steps."""
    encoding = rw.Clex(8, 1e4, 100, time=3.0, activation=activation)
    w = {n: x.double() + 0.05 * draw(*x.shape, seed=8) for n, x in rw.initial(encoding, seed=5).items()}
    act = {"tanh": torch.tanh, "silu": torch.nn.functional.silu}[activation]
    index = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)

    def slope(t: float, logs: Tensor) -> Tensor:
        ntk = (
            -2
            * index
            / 8
            * (torch.log(torch.tensor(1e4)).double() + 8 / 6 * torch.log(torch.tensor(2 * t - 1)).double())
        )
        return act((logs + ntk) @ w["clex_up"]) @ w["clex_down"] - 2 * index / 6 * 2 / (2 * t - 1)

    logs, count = -2 * index / 8 * math.log(1e4), 4000
    for n in range(count):
        middle = logs + 1 / count * slope(1 + 2 * n / count, logs)
        logs = logs + 2 / count * slope(1 + (2 * n + 1) / count, middle)
    # the midpoint rule above is off by the square of its step, 2 / 4000
    torch.testing.assert_close(encoding.rates(w).log(), logs, rtol=0, atol=1e-6)
    apart = encoding.rates(w).log() - encoding.rates(rw.initial(encoding)).log()
    assert apart.abs().max() > 0.05


def test_layers_alternate() -> None:
    local, far = rw.Rotary(8), rw.Rotary(8, 1e6)
    assert rw.alternate(local, 3, far, 7) == [local, local, far, local, local, far, local]
    assert rw.alternate(local, 4, (), 4) == [local, local, local, ()]
    assert rw.alternate(local, 1, far, 2) == [far, far]
    with pytest.raises(rw.ConfigError, match=r"alternate.every must be at least 1, got 0"):
        rw.alternate(local, 0, far, 2)
