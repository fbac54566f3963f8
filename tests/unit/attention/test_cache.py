"""A cache whose tokens move: keys are what the encoding makes of raw keys where their tokens stand now."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ropewalk as rw
from ropewalk.attention import cache as module
from ropewalk.attention.cache import Cache
from ropewalk.attention.turnings import mapped
from ropewalk.encodings.mix.branches import standing
from ropewalk.kernels.rotate import rotate
from ropewalk.tokens import PADDING

DIM, HEADS = 16, 2
PLAIN = rw.Rotary(DIM, 1000.0)
YARN = rw.Rotary(DIM, 1000.0, (rw.Yarn(4.0, 8),))
LONG = rw.for_length(rw.Rotary(DIM, scaling=(rw.LongRope((1.0,) * 8, (2.0,) * 8, 8, factor=4.0),)), 100)
PARTIAL = rw.Rotary(8, 100.0, (rw.Linear(2.0),), pairing="interleaved", offset=4)
GRID = rw.Rotary(DIM, 100.0, sections=(2, 3, 3))
ONE_VIEW = (PLAIN, YARN, LONG, PARTIAL, rw.Rotary(DIM, scaling=(rw.Linear(2.0),), unscaled=3), (YARN, rw.LogN(8)), ())
RULES = (
    rw.ReRope(YARN, 4),
    rw.LeakyReRope(PARTIAL, 4, 2.5),
    rw.SelfExtend(PLAIN, 4, 3),
    rw.DualChunk(PLAIN, 8, 6, 2),
    rw.LMInfinite(PLAIN, 4, 2),
    rw.StreamingLLM(YARN, 2, 3),
)
every = pytest.mark.parametrize("encoding", [*ONE_VIEW, GRID, *RULES], ids=str)
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
in_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def drawn(at: rw.Tokens, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    shape = (len(at.order), HEADS, at.order.shape[1], DIM)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tokens(encoding: Any) -> rw.Tokens:
    """Two rows, the first one padded; of three axes two texts with an image of 2 x 2 patches at 3 and 4."""
    if encoding != GRID:
        return rw.ragged(9, 12)
    image = [(3, 3, 3), (3, 3, 4), (3, 4, 3), (3, 4, 4)]
    places = [(n,) * 3 for n in range(3)] + image + [(n,) * 3 for n in range(5, 10)]
    return rw.contiguous(12, batch=2)._replace(position=torch.tensor([places, places]))


def filled(encoding: Any, dtype: torch.dtype = torch.float32, at: rw.Tokens | None = None) -> Cache:
    """Layer 0 holds mapped keys, layer 1 the raw ones, as values too: they go where their columns go."""
    at = at or tokens(encoding)
    held, k = Cache([encoding, ()]), drawn(at, dtype)
    held.append(at)
    held.write(0, mapped(encoding, k, at), k)
    held.write(1, k, k)
    return held


def rounding(dtype: torch.dtype) -> float:
    """The most that a rotation moves a pair of length 1: half a unit in its last place, or where tables and sums are no
    wider than keys 2 sqrt(2) + 1 halves, for each table, product and sum."""
    return torch.finfo(dtype).eps * (0.51 if dtype.itemsize < 4 else 2)


def assert_rounded(found: Tensor, exact: Tensor, roundings: int = 2, reach: float = 64) -> None:
    """Equal to Float64 `exact` but for so many rotations, with half a unit in the last place of angles up to reach."""
    assert found.shape == exact.shape
    longest = exact.abs().max().item() * 2**0.5
    bound = (roundings * rounding(found.dtype) + reach * torch.finfo(torch.float64).eps) * longest
    assert (found.double() - exact).abs().max().item() <= bound


def assert_in_place(held: Cache) -> None:
    keys, values = held.read(0)
    raw, _ = held.read(1)
    assert torch.equal(raw, values)
    assert keys.dtype == raw.dtype
    assert_rounded(keys, mapped(held.encodings[0], raw.double(), held.at))


OPERATIONS: dict[str, Callable[[Cache], object]] = {
    "nothing": lambda c: None,
    "shift": lambda c: c.shift(7),
    "shift by row": lambda c: c.shift(torch.tensor([3, 20])),
    "shift by axis": lambda c: c.shift(torch.tensor([[2], [5]]).expand(2, c.at.position.shape[2])),
    "keep": lambda c: c.keep(2, 3),
    "keep in place": lambda c: c.keep(2, 3, close=False),
    "drop": lambda c: c.drop(3, 5),
    "drop and close": lambda c: c.drop(torch.tensor([3, 1]), torch.tensor([5, 7]), close=True),
    "move": lambda c: c.move(5, 8, torch.tensor([30, 11])),
    "rows": lambda c: (c.shift(2), c.rows([1, 0, 1])),
    "crop": lambda c: (c.shift(4), c.read(0), c.crop(6)),
    "join": lambda c: Cache.join([c, copy.deepcopy(c)]),
}


@every
@in_each_dtype
@pytest.mark.parametrize("operation", OPERATIONS)
def test_keys_are_those_of_where_their_tokens_stand_now(encoding: Any, dtype: torch.dtype, operation: str) -> None:
    held = filled(encoding, dtype)
    found = OPERATIONS[operation](held)
    held = found if isinstance(found, Cache) else held
    assert_in_place(held)
    new = rw.append(held.at, 2)
    k = drawn(new, dtype, seed=1)
    held.append(new)
    held.write(0, mapped(encoding, k, new), k)
    held.write(1, k, k)
    # what has been written at once stands as it was written
    assert torch.equal(held.read(0)[0][:, :, -2:], mapped(encoding, k, new))
    assert_in_place(held)
    held.shift(3)
    assert_in_place(held)


@every
def test_mapping_is_what_the_rotation_does_to_keys(encoding: Any) -> None:
    at = tokens(encoding)
    k = drawn(at)
    e = encoding[0] if isinstance(encoding, tuple) and encoding else encoding
    if e == ():
        expected = [k]
    elif isinstance(e, rw.Rotary):
        expected = [e.rotation({}, at).key(k)]
    else:
        places = e.keys(at)
        expected = [e.rotary.rotation({}, standing(x)).key(k) for x in places if x is places[0] or x is places[-1]]
        expected = expected[:1] if places[0] is places[-1] else expected
    assert torch.equal(mapped(encoding, k, at), torch.cat(expected, dim=-1))
    # three tables, each rounded to float32, made float64 keys less exact than this
    assert_rounded(torch.cat(expected, dim=-1), mapped(encoding, k.double(), at), roundings=1)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_float64_keys_are_turned_by_float64_angles(pairing: str) -> None:
    rotary, at = rw.Rotary(8, 100.0, (rw.Yarn(2.0, 8),), pairing, offset=4), rw.contiguous(40)
    k = drawn(at, torch.float64)
    rates, magnitude = rotary.spectrum()
    x = k[..., 4:12].unflatten(-1, (2, 4) if pairing == "half" else (4, 2)).movedim(-2 if pairing == "half" else -1, 0)
    angle = at.position.double() * torch.tensor(rates, dtype=torch.float64)
    z = torch.complex(*x) * torch.polar(torch.full_like(angle, magnitude), angle)
    turned = torch.stack((z.real, z.imag), dim=-2 if pairing == "half" else -1).flatten(-2)
    assert_rounded(mapped(rotary, k, at), torch.cat((k[..., :4], turned, k[..., 12:]), dim=-1), roundings=3)


@every
@in_each_dtype
def test_what_has_not_moved_is_read_bit_for_bit(
    encoding: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = filled(encoding, dtype)
    written = held.read(0)[0].clone()
    monkeypatch.setattr(module, "turned_on", None)  # a call would fail
    held.shift(0)
    held.retune([encoding, ()])
    held.move(2, 5, 2)
    held.keep(8, 8)
    assert torch.equal(held.read(0)[0], written)
    held.shift(9)
    held.retune([(), ()] if written.shape[-1] == DIM else [(encoding, rw.LogN(4)), ()])
    held.shift(-9)
    held.retune([encoding, ()])
    assert torch.equal(held.read(0)[0], written)


@in_each_dtype
def test_only_tokens_that_moved_are_turned(dtype: torch.dtype) -> None:
    held = filled(YARN, dtype)
    written = held.read(0)[0].clone()
    held.move(6, 9, 40)
    moved = held.at.position[..., 0] >= 40
    still = ~moved[:, None, :, None].expand_as(written)
    assert torch.equal(held.read(0)[0][still], written[still])
    assert not torch.equal(held.read(0)[0], written)


@in_each_dtype
def test_a_thousand_shifts_are_one(dtype: torch.dtype) -> None:
    held, once = filled(YARN, dtype), filled(YARN, dtype)
    by_key, where = held.read(0)[0], 0
    wide = torch.promote_types(dtype, torch.float32)
    rates = torch.tensor(YARN.spectrum().inv_freq, dtype=torch.float64)
    for step in torch.randint(-50, 51, (1000,), generator=torch.Generator().manual_seed(0)).tolist():
        step = step if where + step >= 0 else -step
        where += step
        held.shift(step)
        angle = (rates * step).expand(1, 12, -1)
        by_key = rotate(by_key, angle.cos().to(wide), angle.sin().to(wide))
        if where % 16 == 0:
            held.read(0)
    once.shift(where)
    found, exact = held.read(0)[0], mapped(YARN, held.read(1)[0].double(), held.at)
    assert torch.equal(found, once.read(0)[0])
    assert_rounded(found, exact, reach=where)
    # turning keys again and again adds an error each time; the second row holds no padding
    if dtype != torch.float64:
        with pytest.raises(AssertionError):
            assert_rounded(by_key[1:], exact[1:], reach=where)


# what a row holds: the number that each token was given, and where it stands
Row = list[tuple[int, int]]
LAYERS = (
    [YARN, rw.SelfExtend(PLAIN, 4, 3), ()],
    [rw.Rotary(DIM, 500.0, (rw.NTK(2.0),)), rw.ReRope(YARN, 6), PLAIN],
    [(), rw.SelfExtend(PLAIN, 4, 3), YARN],
)
CONTENT = torch.randn(2000, DIM, generator=torch.Generator().manual_seed(0))


class Model:
    """A cache, and lists that go through the same operations."""

    def __init__(self, lengths: list[int]) -> None:
        self.count = 0
        self.rows: list[Row] = [[] for _ in lengths]
        self.held = self.read_in(LAYERS[0], self.rows, rw.ragged(*lengths))

    def read_in(self, encodings: list[Any], rows: list[Row], at: rw.Tokens, held: Cache | None = None) -> Cache:
        """Write new tokens, numbered on, to a cache and to rows."""
        held = held or Cache(encodings)
        number = torch.arange(at.order.numel()).view(at.order.shape) + self.count
        self.count += at.order.numel()
        raw = CONTENT[number][:, None]
        held.append(at)
        for n, e in enumerate(held.encodings):
            held.write(n, mapped(e, raw, at), number[:, None, :, None].double())
        for b, row in enumerate(rows):
            own = at.document[b] != PADDING
            row += zip(number[b][own].tolist(), at.position[b, own, 0].tolist(), strict=True)
        return held

    def check(self) -> None:
        own = self.held.at.document != PADDING
        for n, e in enumerate(self.held.encodings):
            keys, values = self.held.read(n)
            number = values[:, 0, :, 0].long()
            for b, row in enumerate(self.rows):
                where = self.held.at.position[b, own[b], 0].tolist()
                assert list(zip(number[b, own[b]].tolist(), where, strict=True)) == row
            exact = mapped(e, CONTENT[number][:, None].double(), self.held.at)
            if exact.numel():
                assert_rounded(keys, exact, reach=1000)

    def spans(self, draw: Any) -> list[tuple[int, int]]:
        """For each row a run of positions that it holds."""
        out: list[tuple[int, int]] = []
        for row in self.rows:
            known = {p for _, p in row}
            end = start = draw(st.sampled_from(sorted(known))) if known else 0
            while end in known and draw(st.integers(0, 3)):
                end += 1
            out.append((start, end))
        return out

    def append(self, draw: Any) -> None:
        count = draw(st.integers(0, 3))
        start = [max((p for _, p in row), default=-1) + 1 for row in self.rows]
        where = torch.tensor(start)[:, None] + torch.arange(count)
        order = 1000 + self.count + torch.arange(count).expand_as(where)
        self.read_in([], self.rows, rw.Tokens(where[..., None], order, torch.zeros_like(where)), self.held)

    def shift(self, draw: Any) -> None:
        delta = [draw(st.integers(-min((p for _, p in row), default=0), 20)) for row in self.rows]
        self.held.shift(torch.tensor(delta))
        self.rows = [[(n, p + d) for n, p in row] for row, d in zip(self.rows, delta, strict=True)]

    def keep(self, draw: Any) -> None:
        sinks, recent, close = draw(st.integers(0, 3)), draw(st.integers(0, 6)), draw(st.booleans())
        self.held.keep(sinks, recent, close)
        for b, row in enumerate(self.rows):
            ranked = sorted(row, key=lambda token: token[1])
            if len(row) <= sinks + recent:
                continue
            first, last = ranked[:sinks], ranked[len(row) - recent :]
            end = first[-1][1] + 1 if first else ranked[0][1]
            gap = last[0][1] - end if close and last else 0
            moved = dict(first) | {n: p - gap for n, p in last}
            self.rows[b] = [(n, moved[n]) for n, _ in row if n in moved]

    def drop(self, draw: Any) -> None:
        spans, close = self.spans(draw), draw(st.booleans())
        self.held.drop(*map(torch.tensor, zip(*spans, strict=True)), close=close)
        for b, (start, end) in enumerate(spans):
            gap = end - start if close else 0
            self.rows[b] = [(n, p - gap * (p >= end)) for n, p in self.rows[b] if not start <= p < end]

    def move(self, draw: Any) -> None:
        spans, to = self.spans(draw), draw(st.integers(0, 40))
        self.held.move(*map(torch.tensor, zip(*spans, strict=True)), to)
        for b, (start, end) in enumerate(spans):
            self.rows[b] = [(n, p - start + to if start <= p < end else p) for n, p in self.rows[b]]

    def crop(self, draw: Any) -> None:
        gone = draw(st.integers(0, min(3, self.held.length)))
        self.held.crop(self.held.length - gone)
        self.rows = [row[: max(0, len(row) - gone)] for row in self.rows]

    def reorder(self, draw: Any) -> None:
        index = draw(st.lists(st.integers(0, len(self.rows) - 1), min_size=1, max_size=3))
        self.held.rows(index)
        self.rows = [list(self.rows[i]) for i in index]

    def retune(self, draw: Any) -> None:
        self.held.retune(draw(st.sampled_from(LAYERS)))

    def join(self, draw: Any) -> None:
        more: list[Row] = [[] for _ in self.rows]
        lengths = [draw(st.integers(1, 5)) for _ in more]
        other = self.read_in(self.held.encodings, more, rw.ragged(*lengths))
        start = draw(st.integers(0, 30))
        other.shift(start)
        if self.held.length:
            self.held = Cache.join([self.held, other])
            for row, new in zip(self.rows, more, strict=True):
                after = max((p for _, p in row), default=-1) + 1
                row += [(n, p + after) for n, p in new]


ACTIONS = (
    Model.append,
    Model.shift,
    Model.keep,
    Model.drop,
    Model.move,
    Model.crop,
    Model.reorder,
    Model.retune,
    Model.join,
)


@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.lists(st.sampled_from(ACTIONS), max_size=8))
def test_any_operations_do_to_a_cache_what_they_do_to_lists(data: Any, lengths: list[int], actions: list[Any]) -> None:
    model = Model(lengths)
    for action in actions:
        action(model, data.draw)
        if data.draw(st.booleans()):
            model.check()
    model.check()


@pytest.mark.parametrize("encoding", [e for e in ONE_VIEW if e != () and not isinstance(e, tuple)], ids=str)
@in_each_dtype
def test_attention_over_what_is_read_is_attention_over_raw_keys_where_they_stand(
    encoding: rw.Rotary, dtype: torch.dtype
) -> None:
    held = filled(encoding, dtype)
    held.shift(torch.tensor([30, 4]))
    held.drop(torch.tensor([33, 7]), torch.tensor([36, 9]), close=True)
    at = held.at
    (keys, v), (raw, _) = held.read(0), held.read(1)
    q = drawn(at, dtype, seed=2)
    found = rw.attend(mapped(encoding, q, at), keys, v, (), {}, at, at)
    expected = rw.attend(*(x.double() for x in (q, raw, v)), encoding, {}, at, at)
    longest = q.norm(dim=-1).max().item() * raw.norm(dim=-1).max().item() * encoding.spectrum().magnitude ** 2
    # a query is off by one rotation and a key by two, which moves each logit and so every weight by a share; float32
    # tables of the expectation by one each
    share = (3 * rounding(dtype) + 4 * rounding(torch.float32)) * longest * DIM**-0.5
    bound = (2 * share + 2 * torch.finfo(dtype).eps * (1 + DIM**0.5)) * v.abs().max().item()
    assert (found.double() - expected).abs().max().item() <= bound


def test_a_distance_rule_meets_its_views() -> None:
    held, rule = filled(RULES[2]), RULES[2]
    held.shift(5)
    (keys, _), (raw, _), at = held.read(0), held.read(1), held.at
    q = drawn(at, seed=2)
    near, far = keys.chunk(2, dim=-1)
    places = rule.queries(at)
    products = [rule.rotary.rotation({}, standing(x)).query(q) @ k.mT for x, k in zip(places, (near, far), strict=True)]
    beyond = rule.takes(at, at)[1][:, None]
    expected = rule.logits({}, q, raw, at, at)
    found = torch.where(beyond, products[1], products[0]) * DIM**-0.5
    longest = q.norm(dim=-1).max() * raw.norm(dim=-1).max() * DIM**-0.5
    # three rotations of either side, and sums of DIM products
    assert (found - expected).abs().max() <= (5 * rounding(torch.float32) + DIM * 2**-23) * longest


def test_keeping_sinks_and_the_last_is_streaming() -> None:
    rule, at = rw.Streaming(2, 4), rw.ragged(3, 8, 12)
    held = filled(PLAIN, at=at)
    held.keep(2, 4)
    assert all(torch.equal(a, b) for a, b in zip(held.at, rule(at), strict=True))
    for _ in range(20):
        new = rw.append(held.at, 1)
        k = drawn(new)
        held.append(new)
        for n, e in enumerate(held.encodings):
            held.write(n, mapped(e, k, new), k)
        held.keep(2, 4)
        assert held.length == 6
    assert held.at.position[..., 0].tolist() == [[0, 1, 2, 3, 4, 5]] * 3
    assert_in_place(held)


def test_documents_follow_one_another_and_keep_what_they_are() -> None:
    first, second = filled(YARN, at=rw.ragged(2, 4)), filled(YARN, at=rw.ragged(3, 1))
    second.shift(10)
    both = Cache.join([first, second, first])
    assert both.at.position[..., 0].tolist() == [[0, 0, *range(7)], [*range(9)]]
    assert both.at.document.tolist() == [[PADDING, PADDING, *[0] * 7], [0] * 9]
    assert (both.at.order.diff() > 0)[both.at.document[:, :-1] == 0].all()
    assert_in_place(both)
    # the caches that were joined are as they were, and go their own ways
    second.shift(1)
    assert second.at.position[..., 0].tolist() == [[11, 12, 13], [0, 0, 11]]
    assert_in_place(both)
    assert_in_place(second)
    both.drop(5, 7, close=True)
    assert [x[x_own].tolist() for x, x_own in zip(both.at.position[..., 0], both.at.document == 0, strict=True)] == [
        [*range(5)],
        [*range(7)],
    ]


def test_joined_caches_that_were_retuned_before_remember_how_their_keys_were_written() -> None:
    first, second = filled(YARN), filled(PLAIN)
    second.retune([YARN, ()])
    both = Cache.join([second, first])
    assert_in_place(both)
    both.retune([PLAIN, ()])
    assert_in_place(both)


def test_decoding_after_a_move_turns_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    turned_on = module.turned_on

    def counted(k: Tensor, *rest: Any) -> Tensor:
        calls.append(k.shape[2])
        return turned_on(k, *rest)

    monkeypatch.setattr(module, "turned_on", counted)
    held = filled(YARN)
    for _ in range(3):
        held.shift(4)
        for _ in range(5):
            new = rw.append(held.at, 1)
            k = drawn(new)
            held.append(new)
            for n, e in enumerate(held.encodings):
                held.write(n, mapped(e, k, new), k)
                held.read(n)
    assert calls == [13, 18, 23]
    assert_in_place(held)


def test_room_doubles() -> None:
    held, rooms = filled(YARN), set()
    for _ in range(100):
        new = rw.append(held.at, 1)
        k = drawn(new)
        held.append(new)
        for n, e in enumerate(held.encodings):
            held.write(n, mapped(e, k, new), k)
        rooms.add(held.read(0)[0].data_ptr())
    # 12, 24, 48, 96, 192
    assert len(rooms) <= 5
    assert_in_place(held)


def test_a_cache_filled_in_inference_mode_goes_on_outside_and_can_be_copied() -> None:
    with torch.inference_mode():
        held = filled(YARN)
        held.shift(3)
        held.read(0)
    other = copy.deepcopy(held)
    for cache, start in ((held, 20), (other, 30)):
        new = rw.contiguous(2, start, batch=2)
        k = drawn(new).requires_grad_()
        cache.append(new)
        for n, e in enumerate(cache.encodings):
            cache.write(n, mapped(e, k, new), k)
        assert not cache.read(0)[0].requires_grad
        cache.move(start, start + 2, 15)
        cache.rows([1])
        assert_in_place(cache)


def test_what_is_announced_and_not_written_can_be_taken_back() -> None:
    held = filled(YARN)
    new = rw.append(held.at, 3)
    held.append(new)
    held.write(1, drawn(new), drawn(new))
    held.crop(12)
    assert_in_place(held)


X = torch.zeros(2, HEADS, 12, DIM)


def started(*encodings: Any) -> Cache:
    """Only the last layer has been written."""
    held = Cache(encodings)
    held.append(rw.contiguous(12, batch=2))
    held.write(len(encodings) - 1, X, X)
    return held


BAD: list[tuple[Callable[[Cache], object], str]] = [
    (lambda c: c.drop(5, 10), "the positions from 5 up to 10 to drop must be all held by row 0 .*, got 'none at 9'"),
    (lambda c: (c.drop(3, 5), c.move(2, 6, 20)), "the positions from 2 up to 6 to move must be .* row 0 .*none at 3"),
    (lambda c: (c.keep(2, 3), c.drop(0, 10**12)), "from 0 up to 1000000000000 to drop .* at 5"),
    (lambda c: c.drop(4, 3), "drop.end must be at least its start, 4, got 3"),
    (lambda c: c.drop(torch.zeros(3).long(), 2), "drop.start must be one number, or one for each of 2 rows"),
    (lambda c: c.keep(-1, 3), "keep.sinks must be a whole number of at least 0, got -1"),
    (lambda c: c.keep(4, -3), "keep.recent must be a whole number of at least 0, got -3"),
    (lambda c: c.shift(-1), "a position must be at least 0 after every operation, got .-1"),
    (lambda c: c.move(3, 5, -2), "a position must be at least 0"),
    (lambda c: c.shift(torch.zeros(3).long()), r"shift.delta must be one number, \[B\] or \[B, A\]"),
    (lambda c: c.shift(torch.tensor(0.5)), "the position that shift reads must be a whole number"),
    (lambda c: c.crop(13), "crop.length must be from 0 to 12, got 13"),
    (lambda c: c.rows([2]), r"rows.index must be one or more rows from 0 to 1, got \[2\]"),
    (lambda c: c.rows([]), "rows.index must be one or more rows"),
    (lambda c: c.read(2), "layer must be from 0 to 1, got 2"),
    (lambda c: c.write(0, X, X), "the keys of layer 0 must be of the 0 tokens announced by append .*, got 12"),
    (lambda c: (c.append(rw.contiguous(3, batch=2)), c.write(0, X, X)), "must be of the 3 tokens announced"),
    (lambda c: (c.append(rw.contiguous(12, batch=2)), c.write(0, X[:, :1], X)), r"layer 0 must be \[2, 2, T, 16\]"),
    (lambda c: (c.append(rw.contiguous(12, batch=2)), c.write(0, X, X.double())), "values of layer 0 .*float64"),
    (lambda c: (c.append(rw.contiguous(3, batch=2)), c.shift(1)), "written to layer 0 before shift .* got 12"),
    (lambda c: c.append(rw.contiguous(3)), "the tokens to append must be in 2 rows, got 1"),
    (lambda c: started(YARN, ()).read(0), "the tokens written to layer 0 before it is read must be all 12"),
    (lambda c: started(YARN, ()).append(rw.contiguous(1, batch=2)), "written to layer 0 before append"),
    (lambda c: started(YARN, ()).write(0, X[..., :3], X), "the keys of layer 0 must be of at least 16 channels, got 3"),
    (lambda c: Cache.join([]), "join.caches must be at least one"),
    (lambda c: Cache.join([c, Cache([YARN, ()])]), "the tokens of a cache to join must be at least one"),
    (lambda c: Cache.join([c, started(YARN)]), "the number of layers of a cache to join must be 2, .* got 1"),
    (
        lambda c: Cache.join([c, filled(YARN, at=rw.ragged(3, 4, 5))]),
        "the number of rows of a cache to join must be 2, .* got 3",
    ),
    (lambda c: Cache.join([c, filled(GRID)]), "the number of axes of a cache to join must be 1, .* got 3"),
    (lambda c: Cache.join([c, filled(PLAIN)]), "the encoding of layer 0 of a cache to join must be Rotary"),
    (
        lambda c: Cache.join([c, filled(YARN, torch.float64)]),
        "the form of layer 0 of a cache to join .*float32, .*float64",
    ),
    (lambda c: filled(PLAIN, at=rw.packed(3, 4)).keep(1, 2), "a row of the cache to keep must be a single document"),
    (lambda c: c.retune([YARN]), "retune.encodings must be one for each of 2 layers, got 1"),
    (lambda c: c.retune([RULES[0], ()]), r"encodings\[0\] must be one that stores keys as often as the former"),
    (lambda c: c.retune([PARTIAL, ()]), r"encodings\[0\] must be one that turns the same channels, dim 16, got 8"),
    (lambda c: Cache([]), "Cache.encodings must be one for each layer"),
    (lambda c: Cache([(PLAIN, YARN)]), "a layer's encoding must be of at most one part that maps keys"),
    (lambda c: filled(GRID).drop(3, 4), "the positions to drop must be all coordinates of a token, or none"),
]


@pytest.mark.parametrize(("act", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_line(act: Callable[[Cache], object], message: str) -> None:
    held = filled(YARN)
    with pytest.raises(rw.ConfigError, match=message) as error:
        act(held)
    assert "\n" not in str(error.value)
    assert held.encodings == [YARN, ()]


def test_what_is_refused_leaves_the_cache_as_it_was() -> None:
    held, before = filled(YARN), filled(YARN)
    held.append(rw.append(held.at, 12))
    for k, v in ((X, X.double()), (X.double(), X), (X, X[:, :, :3])):
        with pytest.raises(rw.ConfigError):
            held.write(0, k, v)
    held.crop(12)
    for refused in (lambda: held.shift(-1), lambda: held.move(0, 5, -1), lambda: held.drop(7, 30, close=True)):
        with pytest.raises(rw.ConfigError):
            refused()
    assert all(torch.equal(a, b) for a, b in zip(held.at, before.at, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(held.read(0), before.read(0), strict=True))


@pytest.mark.parametrize(
    "encoding",
    [
        rw.XPos(DIM),
        rw.RotaryMixed(DIM, 2),
        rw.Rotary(DIM, scaling=(rw.DynamicNTK(2.0, 8),)),
        rw.ReRope(rw.Rotary(DIM, scaling=(rw.DynamicYarn(8),)), 4),
        rw.Adaptive(PLAIN),
        rw.Sinusoidal(DIM),
        rw.Shaw(DIM, 4),
    ],
    ids=str,
)
def test_keys_that_cannot_be_turned_on_are_to_be_cached_raw(encoding: Any) -> None:
    with pytest.raises(rw.UnsupportedError, match="cache them raw, with \\(\\) as encoding"):
        Cache([encoding])
    with pytest.raises(rw.UnsupportedError, match="cache them raw"):
        filled(YARN).retune([encoding, ()])


def test_parts_that_leave_keys_alone_may_stand_beside_a_rotation() -> None:
    held = filled((rw.LogN(8), YARN, rw.Temperature(), rw.Alibi(2)))
    held.shift(9)
    assert_in_place(held)
