"""A session reads what a plain forward pass reads, and texts that go on from it see only their own."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ropewalk.encodings import Rotary
from ropewalk.errors import ConfigError, RopewalkError
from ropewalk.generate import session as module
from ropewalk.generate.session import Session
from ropewalk.models.attach import attach, detach
from ropewalk.models.load import Loaded
from ropewalk.scalings import Linear
from tolerance import tolerance

TERMS = 64  # products summed on the way through two layers of width 32


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 320, (count,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def plain(loaded: Loaded, ids: Tensor) -> Tensor:
    """Float32[V]: what a stock forward pass says after ids."""
    return loaded.model(ids[None]).logits[0, -1]


def assert_close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance(wanted, TERMS))


def test_chunks_read_what_one_pass_reads(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 48)
    ids, told = tokens(200), list[tuple[int, int]]()
    with Session(loaded) as session:
        got = session.read(ids[:130], lambda done, total: told.append((done, total)))
        assert_close(got[0], plain(loaded, ids[:130]))
        assert told == [(48, 130), (96, 130), (130, 130)]
        got = session.read(ids[130:].tolist())
        assert (got.dtype, got.shape, session.length) == (torch.float32, (1, 320), 200)
        assert_close(got[0], plain(loaded, ids))
        assert session.ids.tolist() == [ids.tolist()]
        # far from what another text says
        assert (got[0] - plain(loaded, ids[1:])).abs().max() > 0.01


def test_rows_of_a_branch_read_as_if_alone(loaded: Loaded) -> None:
    trunk, more = tokens(40), torch.stack([tokens(9, seed) for seed in (1, 2, 3)])
    with Session(loaded) as session:
        session.read(trunk)
        branch = session.branch(3)
        assert (branch.rows, branch.length) == (3, 40)
        both = branch.read(more[:, :5]), branch.read(more[:, 5:])
        for i in range(3):
            assert_close(both[0][i], plain(loaded, torch.cat((trunk, more[i, :5]))))
            assert_close(both[1][i], plain(loaded, torch.cat((trunk, more[i]))))
        # the same for all rows
        again = session.branch(2).read(more[0])
        assert_close(again[1], plain(loaded, torch.cat((trunk, more[0]))))
        # rows of rows: every one is followed by its copies
        twice = branch.branch(2)
        assert twice.ids[:, 40:].tolist() == [more[i // 2].tolist() for i in range(6)]
        got = twice.read(tokens(2, 9))
        assert_close(got[3], plain(loaded, torch.cat((trunk, more[1], tokens(2, 9)))))


def test_a_branch_leaves_the_session_as_it_is(loaded: Loaded) -> None:
    ids = tokens(60)
    for rows in (1, 4):
        with Session(loaded) as session:
            session.read(ids[:50])
            with session.branch(rows) as branch:
                branch.read(tokens(7, 5))
            assert session.length == 50
            assert_close(session.read(ids[50:])[0], plain(loaded, ids))


def test_a_session_goes_back(loaded: Loaded) -> None:
    ids = tokens(60)
    with Session(loaded) as session:
        session.read(ids[:50])
        session.read(tokens(20, 4))
        session.rewind(50)
        assert session.ids.tolist() == [ids[:50].tolist()]
        assert_close(session.read(ids[50:])[0], plain(loaded, ids))
        session.rewind(0)
        assert_close(session.read(ids[:9])[0], plain(loaded, ids[:9]))


def test_other_positions_while_it_lasts(loaded: Loaded) -> None:
    ids = tokens(30)
    before = plain(loaded, ids)
    slower = tuple(replace(e, scaling=(Linear(3.0),)) for e in loaded.encodings if isinstance(e, Rotary))
    attach(loaded.model, slower)
    wanted = plain(loaded, ids)
    detach(loaded.model)
    with Session(loaded, slower) as session:
        session.read(ids[:20])
        with session.branch() as branch:
            branch.read(ids[:3])
        assert_close(session.read(ids[20:])[0], wanted)
    assert plain(loaded, ids).equal(before)
    assert (wanted - before).abs().max() > 0.01


WRONG: dict[str, tuple[Callable[[Session], object], str]] = {
    "nothing": (lambda s: s.read([]), "Session.read.ids must be at least one token, got 0"),
    "other rows": (lambda s: s.read(torch.ones(2, 3)), "Session.read.ids must be in 1 rows, got 2"),
    "no rows": (lambda s: s.branch(0), "Session.branch.rows must be at least 1, got 0"),
    "ahead": (lambda s: s.rewind(6), "Session.rewind.length must be from 0 to 5, got 6"),
    "before": (lambda s: s.rewind(-1), "Session.rewind.length must be from 0 to 5, got -1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_session_refuses(case: str, loaded: Loaded) -> None:
    act, says = WRONG[case]
    with Session(loaded) as session:
        session.read(tokens(5))
        with pytest.raises(ConfigError) as refused:
            act(session)
        assert str(refused.value) == says
        assert session.length == 5


def test_memory_that_runs_out_is_one_line(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def starving(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("much too much\nin many lines")

    with Session(loaded) as session:
        session.read(tokens(5))
        monkeypatch.setattr(type(loaded.model), "forward", starving)
        with pytest.raises(RopewalkError, match=r"memory ran out after 5 tokens in 1 rows$"):
            session.read(tokens(5))
        monkeypatch.setattr(type(loaded.model), "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.read(tokens(5))
