"""A trained model made to read further: what is made of it, how it is tuned, what is judged."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import ropewalk as rw
from ropewalk.evaluate.run import Ledger, Row
from ropewalk.lab import scaling
from ropewalk.lab.checkpoint import load_decoder, read
from ropewalk.lab.evaluation import FIXED, NONOVERLAPPING, Plan
from ropewalk.lab.jobs import Reading
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.scaling import CONTROL, FULL, NONE, NTK_AWARE, PI, POSE, UNTUNED, YARN, Stretching, Tuning, Variant
from ropewalk.lab.scaling import stretching as settle
from ropewalk.lab.scaling_sheet import Found, Read, sheet
from ropewalk.lab.scaling_summary import summarise
from ropewalk.lab.train import Task, texts, train

LENGTH, ROPE = 16, rw.Rotary(16)
Tasks = Callable[..., Task]
Made = Callable[..., Stretching]


def quiet(_: float) -> None: ...


class Interrupted(Exception): ...


@pytest.fixture
def data(tmp_path: Path, stream: Tensor) -> Path:
    file = tmp_path / "data.safetensors"
    save_file({"train": stream[:2000].clone(), "held_out": stream[2000:].clone()}, file)
    return file


@pytest.fixture
def made(task: Tasks, data: Path, stream: Tensor, monkeypatch: pytest.MonkeyPatch) -> Made:
    """What is made of a model of eight steps, tuned for four."""
    monkeypatch.setattr(scaling, "STAGES", (2, 4))
    monkeypatch.setattr(scaling, "WHOLE", (CONTROL, Variant(PI, FULL), Variant(YARN, POSE)))

    def make(encoding: Any = ROPE, held_out: int = 256) -> Stretching:
        job = task(encoding)
        if not job.file.is_file():
            train(job, Decoder(job.shape, encoding, job.seed), texts(stream[:2000], job.recipe, job.seed), quiet)
        return settle("RoPE", job.file, data, held_out=held_out)

    return make


def carry_out(made: Stretching, ledger: Ledger) -> Iterator[Tuning | Reading]:
    """Every job, each with its row kept before the next."""
    tunings, readings = made.outstanding(ledger)
    for job in tunings:
        keep(ledger, job.run(quiet))
        yield job
        readings += made.left(job.variant, ledger)
    for job in readings:
        keep(ledger, job.run(quiet))
        yield job


def keep(ledger: Ledger, row: Row) -> None:
    if "losses" in row:
        row["losses"] = ledger.keep_losses(row["name"].replace(" ", "-"), row["losses"])
    ledger.add(row)


def test_every_job_has_one_row_and_then_there_is_none(made: Made, tmp_path: Path) -> None:
    it, ledger = made(), Ledger(tmp_path / "out", {})
    assert [len(jobs) for jobs in it.outstanding(ledger)] == [3, 16]
    done = [job.name for job in carry_out(it, ledger)]
    # four lengths in the end; two of them after each stage before
    assert len(done) == len(set(done)) == 3 + 4 * 4 + 3 * (4 + 2)
    assert not any("reason" in row for row in ledger.of("reading"))
    assert it.outstanding(ledger) == ([], [])
    assert it.outstanding(Ledger(tmp_path / "out", {})) == ([], [])
    # a model that was lost is made again only where it is still to be read
    it.file(CONTROL).unlink()
    assert it.outstanding(ledger) == ([], [])
    ledger.rows = [r for r in ledger.rows if "none, native, 4 steps" not in r.get("name", "")]
    tunings, readings = it.outstanding(ledger)
    assert [job.variant for job in tunings] == [CONTROL]
    assert readings == []


def test_the_document_is_arithmetic_on_the_rows(made: Made, tmp_path: Path) -> None:
    it, ledger = made(), Ledger(tmp_path / "out", {})
    list(carry_out(it, ledger))
    told = json.loads(json.dumps(summarise(it, ledger), allow_nan=False))
    assert (told["lengths"], told["multiples"], told["stages"]) == ([16, 32, 64, 128], [1, 2, 4, 8], [2, 4])
    assert [len(v["stages"]) for v in told["variants"]] == [1] * 4 + [2] * 3
    untouched, yarn = told["variants"][0]["stages"][0]["losses"], told["variants"][-1]
    for protocol in (NONOVERLAPPING, FIXED):
        home = untouched[protocol][0]
        assert (home["ratio"], home["low"], home["high"]) == (1.0, 1.0, 1.0)
        assert home["loss"] == told["native"][protocol]["loss"]
    assert (yarn["method"], yarn["tuning"], yarn["outcome"]) == (YARN, POSE, "finished")
    assert yarn["recipe"] | {"dtype": 0} == {
        "steps": 4,
        "batch": 4,
        "length": 16,
        "rate": 1e-3,
        "warmup": 0,
        "dtype": 0,
    }
    assert told["variants"][-2]["recipe"]["length"] == 64
    assert told["variants"][-2]["recipe"]["batch"] == 1
    ends = [{x["multiple"] for x in stage["losses"][FIXED]} for stage in yarn["stages"]]
    assert ends == [{1, 4}, {1, 2, 4, 8}]
    # the two sides of a pair are the same tokens, so that the ratio is the quotient of perplexities
    far = yarn["stages"][-1]["losses"]
    for protocol in (NONOVERLAPPING, FIXED):
        x = far[protocol][2]
        assert x["ratio"] == pytest.approx(x["perplexity"] / told["native"][protocol]["perplexity"], rel=1e-12)
        row = ledger.find("reading", "RoPE seed 0 YaRN, PoSE, 4 steps windows 64")
        assert row is not None
        losses = ledger.losses(row).astype(np.float64)
        counted = losses if protocol == NONOVERLAPPING else losses.reshape(2, 128)[:, -8:]
        assert x["loss"] == pytest.approx(counted.mean(), rel=1e-6)


def test_what_is_untuned_has_the_weights_and_another_encoding(made: Made) -> None:
    it = made()
    it.prepare()
    base, found = load_decoder(it.checkpoint), [load_decoder(it.file(v)) for v in it.variants[:4]]
    for model in found:
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), base.parameters(), strict=True))
    scalings = [(), (rw.Linear(4),), (rw.NTK(4),), (rw.Yarn(4, LENGTH),)]
    assert [model.encoding for model in found] == [rw.Rotary(16, scaling=s) for s in scalings]


def test_texts_of_skipped_positions_are_plain_texts_elsewhere(made: Made) -> None:
    job = made().tuning(Variant(PI, POSE))
    first, again, second = job.places(0), job.places(0), job.places(1)
    assert first is not None
    assert again is not None
    assert second is not None
    where = first.position[..., 0]
    assert torch.equal(where, again.position[..., 0])
    assert not torch.equal(where, second.position[..., 0])
    # each text has one jump, to somewhere below four trained lengths
    steps = where.diff()
    assert ((steps > 1).sum(dim=1) <= 1).all()
    assert int(where.max()) < 4 * LENGTH
    drawn = torch.cat([p.position[..., 0] for n in range(64) if (p := job.places(n)) is not None])
    assert int(drawn.max()) > 3.7 * LENGTH
    assert len({tuple(row.tolist()) for row in drawn}) > 200
    # and all tokens before one are seen, in one document
    assert torch.equal(first.order, torch.arange(LENGTH).expand(4, -1))
    assert int(first.document.abs().max()) == 0
    assert job.task.recipe.length == LENGTH
    assert made().tuning(Variant(PI, FULL)).places(0) is None


def test_a_model_reads_at_the_places_that_it_is_given(tiny: Shape) -> None:
    ids = torch.randint(16, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    near, far = Decoder(tiny, ROPE), Decoder(tiny, rw.Rotary(16, scaling=(rw.Linear(4),)))
    row = rw.contiguous(LENGTH)
    assert not torch.allclose(near(ids), far(ids, at=row), atol=1e-3)
    spread = row._replace(position=4 * row.position)
    assert torch.allclose(near(ids), far(ids, at=spread), atol=1e-5)
    assert torch.equal(far(ids, 3, spread), far(ids, at=spread)[:, -3:])


def test_a_tuning_takes_the_places_and_texts_of_its_steps(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()
    it.prepare()
    seen, base = list[tuple[Any, Tensor]](), load_decoder(it.checkpoint)

    def tune(task: Task, model: Any, batches: Any, tell: Any, every: float) -> Any:
        for step in range(2):
            ids, targets, at, *_ = batches(step)
            assert torch.equal(ids[:, 1:], targets[:, :-1])
            seen.append((at, ids))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), base.parameters(), strict=True))
        raise Interrupted

    monkeypatch.setattr(scaling, "train", tune)
    for tuning in (POSE, FULL):
        with pytest.raises(Interrupted):
            it.tuning(Variant(PI, tuning)).run(quiet)
    job = it.tuning(Variant(PI, POSE))
    for step, (at, ids) in enumerate(seen[:2]):
        places = job.places(step)
        assert places is not None
        assert torch.equal(at.position, places.position)
        assert ids.shape == (4, LENGTH)
    assert all(at is None and ids.shape == (1, 4 * LENGTH) for at, ids in seen[2:])
    assert not torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[2][1], seen[3][1])


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_tuning_ends_in_the_same_bits(stop: int, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()
    it.prepare()
    job = it.tuning(Variant(YARN, POSE))
    files = [job.task.file, scaling.staged(job.task.file, 2)]
    whole = job.run(quiet)
    kept = [f.read_bytes() for f in files]
    for f in files:
        f.unlink()
    heard = 0

    def tell(_: float) -> None:
        nonlocal heard
        heard += 1
        if heard == stop:
            raise Interrupted

    monkeypatch.setattr(scaling, "EVERY", 1)
    with pytest.raises(Interrupted):
        job.run(tell)
    # the step that was told of is not in a checkpoint yet
    assert (read(job.task.file).step if stop > 1 else 0) == stop - 1
    assert job.run(quiet) == whole
    assert [f.read_bytes() for f in files] == kept


def test_a_tuning_that_fails_is_told_and_the_others_go_on(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, ledger = made(), Ledger(tmp_path / "out", {})
    it.prepare()
    monkeypatch.setattr(scaling, "RATE", 1e25)
    job = it.tuning(Variant(PI, FULL))
    keep(ledger, job.run(quiet))
    monkeypatch.undo()
    tunings, readings = it.outstanding(ledger)
    assert job.variant not in [other.variant for other in tunings]
    assert not any("PI, full" in reading.name for reading in readings)
    told = next(v for v in summarise(it, ledger)["variants"] if (v["method"], v["tuning"]) == (PI, FULL))
    assert (told["outcome"], told["stages"]) == ("stopped", [])
    assert "in step" in told["reason"]


@pytest.mark.parametrize("encoding", [(), rw.Alibi(2), rw.Rotary(16, scaling=(rw.Linear(2),))], ids=repr)
def test_a_model_without_plain_rope_is_refused(encoding: Any, made: Made) -> None:
    with pytest.raises(rw.ConfigError, match="the model to be stretched must be one with RoPE that is not rescaled"):
        made(encoding)


def test_no_more_is_read_than_there_is(made: Made, data: Path) -> None:
    assert made(held_out=300).plan == Plan(LENGTH, 8, 256)
    assert made(held_out=10**9).plan.tokens % 128 == 0
    assert 0 < made(held_out=10**9).plan.tokens < 10**6


def test_a_quick_one_reads_and_tunes_less(made: Made, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()
    quick = settle("RoPE", it.checkpoint, data, quick=True)
    monkeypatch.undo()
    assert set(quick.tuned) < set(scaling.WHOLE)
    assert quick.stages == (50, 100)


# what holds if published findings hold: losses at 1, 2, 4 and 8 trained lengths, after the first stage, in the end
GOOD: dict[tuple[str, str], list[float]] = {
    (NONE, UNTUNED): [1.0, 1.3, 1.9, 2.4],
    (PI, UNTUNED): [2.0, 2.0, 2.0, 3.0],
    (NTK_AWARE, UNTUNED): [1.1, 1.1, 1.36, 2.0],
    (YARN, UNTUNED): [1.1, 1.1, 1.12, 2.0],
    (NONE, FULL): [1.0, 1.0, 1.05, 2.0],
    **{(m, FULL): [1.0, 1.0, 0.98, 1.5] for m in (PI, NTK_AWARE, YARN)},
    **{(m, POSE): [1.0, 1.0, 1.0, 1.5] for m in (PI, NTK_AWARE, YARN)},
}
CHANGES: list[tuple[str, tuple[str, str], int, float]] = [
    ("RoPE as it is ends with its window", (NONE, UNTUNED), 4, 1.4),
    ("PI is poor untuned", (PI, UNTUNED), 1, 1.39),
    ("PI is poor untuned", (PI, UNTUNED), 4, 1.39),
    ("PI is poor untuned", (NTK_AWARE, UNTUNED), 4, 2.1),
    ("NTK untuned falls off before its factor", (NTK_AWARE, UNTUNED), 2, 1.16),
    ("NTK untuned falls off before its factor", (NTK_AWARE, UNTUNED), 4, 1.3),
    ("YaRN untuned is flat to its factor", (YARN, UNTUNED), 4, 1.16),
    ("PI reads 4 times as far after a few steps on long texts", (PI, FULL), 4, 1.04),
    ("YaRN reads 4 times as far after a few steps on skipped positions", (YARN, POSE), 1, 1.02),
    ("YaRN reads 4 times as far after a few steps on skipped positions", (NONE, UNTUNED), 4, 1.4),
    ("skipped positions do for NTK what long texts do", (NTK_AWARE, FULL), 4, 0.96),
    ("the first steps do most of it", (PI, "first"), 4, 1.1),
    ("tuning RoPE as it is falls behind", (NONE, FULL), 4, 1.0),
    ("nothing is won beyond the factor", (PI, FULL), 8, 1.1),
]


def found(change: tuple[tuple[str, str], int, float] | None = None, add: float = 0.0) -> Found:
    """Losses of 256 tokens, the same jitter in all."""
    plan, jitter = Plan(LENGTH, 8, 256), np.sin(np.linspace(0, 50, 256)) / 100
    means = {key: dict(zip((1, 2, 4, 8), row, strict=True)) for key, row in GOOD.items()} | {(PI, "first"): {4: 1.0}}
    if change is not None:
        key, times, value = change
        means[key] = means[key] | {times: value}
    losses: dict[Read, Any] = {}
    for (method, tuning), row in means.items():
        step = 2 if tuning == "first" else 0 if tuning == UNTUNED else 4
        for times, value in row.items():
            variant = Variant(method, FULL if tuning == "first" else tuning)
            losses[Read(variant, step, LENGTH * times)] = (value + add + jitter).astype(np.float32)
    return Found(plan, 2, 4, losses)


def test_the_sheet_holds_where_the_findings_do() -> None:
    lines = sheet(found(), 1.0)
    assert [line.name for line in lines if line.passed is not True] == []
    assert len({line.name for line in lines}) == len(lines) == 16
    assert {name for name, *_ in CHANGES} <= {line.name for line in lines}


@pytest.mark.parametrize(("name", "who", "times", "value"), CHANGES)
def test_a_line_falls_with_what_it_is_about(name: str, who: tuple[str, str], times: int, value: float) -> None:
    failed = {line.name for line in sheet(found((who, times, value)), 1.0) if line.passed is False}
    assert name in failed


def test_a_line_without_its_readings_has_no_verdict() -> None:
    whole = found()
    del whole.losses[whole.of(PI, FULL, 4)]
    lines = {line.name: line for line in sheet(whole, 1.0)}
    line = lines["PI reads 4 times as far after a few steps on long texts"]
    assert (line.passed, line.values, line.reason) == (
        None,
        {},
        "PI, full, was not read at 4 times the trained length after 4 steps",
    )
    assert lines["YaRN untuned is flat to its factor"].passed is True


def test_nothing_is_judged_of_a_poor_model() -> None:
    assert all(line.passed is None for line in sheet(found(add=1.31), 1.0))
    assert all(line.passed is not None for line in sheet(found(add=1.29), 1.0))
    assert all(line.passed is not None for line in sheet(found(add=1.31), 1.1))


def test_a_difference_is_paired() -> None:
    it = found()
    a, b = it.of(PI, UNTUNED, 4), it.of(YARN, UNTUNED, 4)
    moved = it.difference(a, b)
    assert moved.loss == pytest.approx(2.0 - 1.12, abs=1e-6)
    # the jitter is in both
    assert moved.se is not None
    assert moved.se < 1e-6
    assert it.ratio(a) == pytest.approx(math.exp(1.0), rel=1e-6)
