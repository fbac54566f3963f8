"""One training: its order, its rate, what an interruption costs, and how it ends where numbers fail."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ropewalk as rw
from ropewalk.lab import train as training
from ropewalk.lab.checkpoint import load_decoder, read
from ropewalk.lab.model import Decoder
from ropewalk.lab.train import EVERY, Recipe, Task, Trained, starts, texts, thinned

Tasks = Callable[..., Task]


def quiet(_: int) -> None: ...


def train(task: Task, stream: Tensor, tell: Callable[[int], None], every: int = EVERY) -> Trained:
    """A new model on pieces of a stream."""
    model = Decoder(task.shape, task.encoding, task.seed)
    return training.train(task, model, texts(stream, task.recipe, task.seed), tell, every)


class Interrupted(Exception): ...


def after(steps: int) -> Callable[[int], None]:
    def tell(step: int) -> None:
        if step == steps:
            raise Interrupted

    return tell


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    recipe = Recipe(steps=110, warmup=10, rate=2.0)
    assert [recipe.rate_at(n) for n in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert recipe.rate_at(60) == pytest.approx(2.0 * 0.55)
    assert recipe.rate_at(35) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert recipe.rate_at(109) == pytest.approx(0.2, rel=0.01)


def test_every_step_has_the_rate_of_its_number(task: Tasks, stream: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = list[list[float]]()

    def seen(model: Decoder, optimiser: torch.optim.Optimizer, _: Any) -> tuple[float, str]:
        rates.append([group["lr"] for group in optimiser.param_groups])
        return 1.0, ""

    monkeypatch.setattr(training, "update", seen)
    job = task()
    with pytest.raises(Interrupted):
        train(job, stream, after(5), every=1)
    train(job, stream, quiet)
    # the step that was interrupted is made again
    assert rates == [[job.recipe.rate_at(n)] * 2 for n in (0, 1, 2, 3, 4, 4, 5, 6, 7)]
    assert len({rate for rate, _ in rates}) == 7


def test_the_order_of_texts_is_the_seed_s_alone(task: Tasks, stream: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[Any, list[Tensor]] = {}

    def seen(model: Decoder, optimiser: Any, pair: tuple[Tensor, Tensor]) -> tuple[float, str]:
        given.setdefault(now, []).append(pair[0])
        return 1.0, ""

    monkeypatch.setattr(training, "update", seen)
    for now in ((), rw.Rotary(16)):
        train(task(now), stream, quiet)
        (task(now).file).unlink()
    a, b = given.values()
    assert len(a) == 8
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    recipe = Recipe(steps=4)
    assert not torch.equal(starts(10**6, recipe, 0), starts(10**6, recipe, 1))
    # the last text ends with the stream, whose last token it does not predict from
    assert int(starts(200, Recipe(steps=500), 0).max()) == 200 - 128 - 1


@pytest.mark.parametrize("encoding", [(), rw.T5(2, max_distance=17)], ids=repr)
def test_it_learns(encoding: Any, task: Tasks, stream: Tensor) -> None:
    done = train(task(encoding, steps=60, rate=1e-2), stream, quiet)
    assert done.reason == ""
    assert sum(done.curve[:3]) / 3 > 2.4
    assert sum(done.curve[-10:]) / 10 < 1.9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_interrupted_training_ends_in_the_same_bits(dtype: str, task: Tasks, stream: Tensor) -> None:
    job = task(rw.T5(2, max_distance=17), dtype=dtype)
    whole = train(job, stream, quiet)
    kept = job.file.read_bytes()
    job.file.unlink()
    for stop in (3, 4, 7):
        with pytest.raises(Interrupted):
            train(job, stream, after(stop), every=1)
    again = train(job, stream, quiet)
    assert job.file.read_bytes() == kept
    assert again.curve == whole.curve
    # and what is on the disk is the model
    loaded = load_decoder(job.file)
    assert all(torch.equal(x, y) for x, y in zip(loaded.parameters(), whole.model.parameters(), strict=True))
    assert loaded.encoding == job.encoding


def test_an_interrupted_step_is_lost_and_nothing_else(task: Tasks, stream: Tensor) -> None:
    job, told = task(), list[int]()
    with pytest.raises(Interrupted):
        train(job, stream, after(5), every=1)
    assert read(job.file).step == 4
    train(job, stream, told.append)
    assert told == [5, 6, 7, 8]
    assert not list(job.file.parent.glob("*.part"))


def test_a_loss_that_is_no_number_ends_it(task: Tasks, stream: Tensor) -> None:
    job = task(rate=1e25)
    done = train(job, stream, quiet)
    assert "in step" in done.reason
    assert 0 < len(done.curve) < 8
    assert all(map(math.isfinite, done.curve))
    saved = read(job.file)
    assert saved.step == len(done.curve)
    # going on from there ends in the same place
    assert train(job, stream, quiet).reason == done.reason


def test_a_gradient_that_is_no_number_ends_it(task: Tasks, stream: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(training.nn.utils, "clip_grad_norm_", lambda *given: clip(*given) * math.nan)
    done = train(task(), stream, quiet)
    assert (done.reason, done.curve) == ("a gradient that is nan in step 1 of 8", [])


@pytest.mark.parametrize("change", [{"seed": 1}, {"corpus": "other"}, {"steps": 9}, {"encoding": rw.Rotary(16)}])
def test_a_checkpoint_of_other_settings_is_refused(change: dict[str, Any], task: Tasks, stream: Tensor) -> None:
    job = task()
    train(job, stream, quiet)
    before = job.file.read_bytes()
    other = task(**change)._replace(file=job.file)
    key = "recipe" if "steps" in change else next(iter(change))
    with pytest.raises(rw.ConfigError, match=f"of a training with {key} = "):
        train(other, stream, quiet)
    assert job.file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_checkpoint_is_one_line(content: bytes, task: Tasks, stream: Tensor) -> None:
    job = task()
    job.file.write_bytes(content)
    with pytest.raises(rw.ConfigError, match="is no checkpoint of the lab") as found:
        train(job, stream, quiet)
    assert "\n" not in str(found.value)


def test_only_matrices_of_layers_decay(task: Tasks) -> None:
    model = Decoder(task().shape, (rw.Learned(32, 16), rw.T5(2)))
    pulled, free = (group["params"] for group in training.adam(model).param_groups)
    names = {id(x): name for name, x in model.named_parameters()}
    assert len(pulled) + len(free) == len(names)
    assert {names[id(x)] for x in free} == {
        n for n in names.values() if n.startswith("positions.") or "norm" in n or "before" in n
    }


def test_a_curve_is_thinned_to_means() -> None:
    assert list(thinned([1.0, 2.0, 3.0], 5)) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert list(thinned([1.0, 3.0, 5.0, 7.0, 8.0], 3)) == [(2, 2.0), (4, 6.0), (5, 8.0)]
    assert len(list(thinned([0.0] * 1220))) <= 200
