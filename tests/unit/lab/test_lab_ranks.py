"""One training by two processes: the losses and gradients of one process, its checkpoints, and how all of them end."""

import math
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, multiprocessing

import ropewalk as rw
from ropewalk.lab.checkpoint import load_decoder, read
from ropewalk.lab.evaluation import Plan
from ropewalk.lab.jobs import DATA, Reading, Training
from ropewalk.lab.model import Decoder, Shape
from ropewalk.lab.ranks import Ranks, row
from ropewalk.lab.together import Together, follow, joined
from ropewalk.lab.train import IGNORED, Batch, Recipe, Task, Trained, gathered, mean_loss, texts, train

TINY = Shape(vocabulary=16, width=32, layers=2, heads=2, hidden=32)
STEPS, LENGTH, BATCH, RATE = 6, 16, 4, 3e-3
ENCODINGS = {
    "RoPE": rw.Rotary(16),
    "ALiBi": rw.Alibi(2),
    "T5": rw.T5(2, max_distance=17),
    "sinusoidal": rw.Sinusoidal(32),
    "learned": rw.Learned(32, LENGTH),
    "per layer": [rw.T5(2), rw.Rotary(16)],
}
WAYS = [(name, context) for name in ENCODINGS for context in (1, 2)]
# The numbers that are added up on the way to a logit of this model, in the worst case each with a rounding of its own:
# in a layer a norm, q, a product of q and k, a softmax, one with v, out, a norm, up and down; then norm and head; the
# loss is a sum over the vocabulary and a mean of all targets. A gradient comes back the same way.
LAYER = 32 + 32 + 16 + LENGTH + LENGTH + 32 + 32 + 32 + 32
TERMS = TINY.layers * LAYER + 32 + 32 + TINY.vocabulary + BATCH * LENGTH
ROUNDING = 2.0**-24
LOSS = TERMS * ROUNDING  # relative
GRADIENT = 2 * TERMS * ROUNDING  # of the largest of its tensor


def made(folder: Path, name: str, encoding: Any, **recipe: Any) -> Task:
    told = {"steps": STEPS, "batch": BATCH, "length": LENGTH, "warmup": 2, "rate": RATE} | recipe
    return Task(encoding, 0, TINY, Recipe(**told), "numbers", folder / f"{name}.safetensors")


def numbers() -> Tensor:
    return torch.randint(16, (600,), generator=torch.Generator().manual_seed(0)).to(torch.int16)


def uneven(step: int) -> Batch:
    """A batch whose halves, of the texts and of every text, do not have the same number of targets."""
    given = texts(numbers(), Recipe(steps=STEPS, batch=BATCH, length=LENGTH), 0)(step)
    targets = given.targets.clone()
    targets[0, 3:], targets[1, :], targets[3, :7] = IGNORED, IGNORED, IGNORED
    return Batch(given.ids, targets)


def quiet(_: float) -> None: ...


def killed_at(last: int) -> Callable[[int], None]:
    return lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == last else None


class Stopped(Exception): ...


def stopped_at(last: int) -> Callable[[int], None]:
    def tell(step: int) -> None:
        if step == last:
            raise Stopped

    return tell


def trained(task: Task, ranks: Ranks | None = None, tell: Any = quiet, batches: Any = None) -> Trained:
    model = Decoder(task.shape, task.encoding, task.seed)
    return train(task, model, batches or texts(numbers(), task.recipe, task.seed), tell, 2, ranks)


def gradients(encoding: Any, ranks: Ranks | None = None) -> dict[str, Tensor]:
    """Of the first step, by parameter."""
    model, given = Decoder(TINY, encoding), texts(numbers(), Recipe(STEPS, BATCH, LENGTH), 0)(0)
    if ranks:
        model, given = ranks.spread(model), ranks.share(given)
    mean_loss(model(given.ids, at=given.at).flatten(0, 1), given)[0].backward()
    return {name: gathered(x.grad) for name, x in model.named_parameters() if x.grad is not None}


def enter(rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)


def die(rank: int, port: int, folder: Path) -> None:
    """Two processes that are killed in the middle of a training, after the checkpoint of step 4."""
    enter(rank, port)
    with joined(2) as ranks:
        trained(made(folder, "killed", ENCODINGS["T5"]), ranks, killed_at(5))


def work(rank: int, port: int, folder: Path) -> None:
    """All that two processes do in these tests; what each has found is stored."""
    enter(rank, port)
    # the way that bad input takes in the first of them
    with pytest.raises(rw.ConfigError) if rank == 0 else nullcontext(), joined(2) as tokens:
        assert tokens is not None
        found = learned(folder, Ranks(1)) | learned(folder, tokens)
        done = trained(made(folder, "killed", ENCODINGS["T5"]), tokens)
        found["model"] = done.model.state_dict()
        with pytest.raises(rw.ConfigError, match="of a training with seed = 0") as refused:
            trained(made(folder, "killed", ENCODINGS["T5"])._replace(seed=1), tokens)
        found["refused"] = str(refused.value)
        torch.save(found, folder / f"{rank}.pt")
        if rank:
            torch.save(follow(tokens), folder / "code.pt")
        else:
            torch.save(jobs(folder, tokens), folder / "jobs.pt")
            tokens.check(Recipe(length=18), [])


def learned(folder: Path, ranks: Ranks) -> dict[Any, Any]:
    """Every training that is compared with that of one process."""
    context, found = ranks.context, dict[Any, Any]()
    for name, encoding in ENCODINGS.items():
        found["gradients", name, context] = gradients(encoding, ranks)
        found["curve", name, context] = trained(made(folder, f"{name} {context}", encoding), ranks).curve
    found["uneven", context] = trained(made(folder, f"uneven {context}", ()), ranks, batches=uneven).curve
    found["begun", context] = trained(made(folder, f"begun by one {context}", ENCODINGS["T5"]), ranks).curve
    wild = trained(made(folder, f"wild {context}", (), rate=1e25), ranks)
    found["wild", context] = (wild.reason, wild.curve)
    return found


class Inline:
    """A pool of one place in this process."""

    def __init__(self) -> None:
        self.busy: dict[int, Any] = {}

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def free(self) -> int:
        return 1 - len(self.busy)

    def give(self, job: Any) -> None:
        self.busy[0] = job

    def news(self, tick: Callable[[Any, float], None]) -> Iterator[tuple[Any, Any]]:
        job = self.busy.pop(0)
        yield job, job.run(lambda done: tick(job, done))


def jobs(folder: Path, ranks: Ranks) -> tuple[list[Any], list[str]]:
    """The rows of two trainings and a reading, and who ticked."""
    tasks = [made(folder, f"job {n}", rw.Rotary(16))._replace(seed=n) for n in range(2)]
    first, second = (Training(f"job {n}", "RoPE", task, folder / DATA, 2) for n, task in enumerate(tasks))
    reading = Reading("reading", "RoPE", 0, first.task.file, folder / DATA, Plan(LENGTH, 1, 32), "windows", LENGTH)
    waiting: list[Any] = [second, first]
    rows, ticks = list[Any](), list[str]()
    with Together(ranks, Inline()) as pool:
        while waiting or pool.busy:
            while waiting and pool.free:
                pool.give(waiting.pop())
            for job, made_row in pool.news(lambda job, _: ticks.append(job.name)):
                rows.append(made_row)
                # before the second training
                waiting += [reading] if job is first else []
    return rows, ticks


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[Any, Any]]]:
    """The folder of all that two processes have trained, and what each has found."""
    folder = tmp_path_factory.mktemp("ranks")
    save_file({"train": numbers(), "held_out": numbers()}, folder / DATA)
    for context in (1, 2):
        with pytest.raises(Stopped):
            trained(made(folder, f"begun by one {context}", ENCODINGS["T5"]), tell=stopped_at(5))
    with pytest.raises(multiprocessing.ProcessExitedException, match="SIGKILL"):
        multiprocessing.spawn(die, (port(), folder), nprocs=2)
    shutil.copy(folder / "killed.safetensors", folder / "left.safetensors")
    multiprocessing.spawn(work, (port(), folder), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@cache
def alone(name: str) -> tuple[dict[str, Tensor], list[float]]:
    """The gradients of one process, and its curve."""
    with TemporaryDirectory() as folder:
        return gradients(ENCODINGS[name]), trained(made(Path(folder), name, ENCODINGS[name])).curve


def close(curve: list[float], wanted: list[float], name: str) -> bool:
    """Whether losses differ by roundings alone: their own, and what those of gradients make of the weights.

    AdamW moves a number by at most about the rate, and where its gradient is nothing but a rounding in any direction;
    the loss then changes by no more than rate and rounding, for each number and step.
    """
    moved = 2 * RATE * sum(GRADIENT * float(x.abs().max()) * x.numel() for x in alone(name)[0].values())
    off = [abs(x - y) for x, y in zip(curve, wanted, strict=True)]
    return all(d <= LOSS * y + step * moved for step, (d, y) in enumerate(zip(off, wanted, strict=True)))


@pytest.mark.parametrize(("name", "context"), WAYS)
def test_two_processes_have_the_gradients_of_one(name: str, context: int, two: Any) -> None:
    wanted, _ = alone(name)
    for found in two[1]:
        grads = found["gradients", name, context]
        assert grads.keys() == wanted.keys()
        for key, x in wanted.items():
            torch.testing.assert_close(grads[key], x, rtol=0, atol=GRADIENT * float(x.abs().max()), msg=key)


@pytest.mark.parametrize(("name", "context"), WAYS)
def test_two_processes_have_the_losses_of_one(name: str, context: int, two: Any) -> None:
    _, wanted = alone(name)
    first, second = (found["curve", name, context] for found in two[1])
    assert first == second
    assert len(first) == STEPS
    assert close(first, wanted, name)
    # and they are on the disk
    saved = read(two[0] / f"{name} {context}.safetensors")
    assert saved.tensors["curve"].tolist() == torch.tensor(first).tolist()


@pytest.mark.parametrize("context", [1, 2])
def test_all_targets_count_alike_wherever_they_are(context: int, two: Any, tmp_path: Path) -> None:
    wanted = trained(made(tmp_path, "uneven", ()), batches=uneven).curve
    assert two[1][0]["uneven", context] == pytest.approx(wanted, rel=LOSS * STEPS)


def test_a_killed_training_of_two_ends_in_the_same_bits(two: Any) -> None:
    folder, found = two
    assert read(folder / "left.safetensors").step == 4
    whole = folder / "T5 2.safetensors"
    assert (folder / "killed.safetensors").read_bytes() == whole.read_bytes()
    loaded = load_decoder(whole)
    for each in found:
        assert all(torch.equal(x, each["model"][name]) for name, x in loaded.state_dict().items())


def test_one_process_goes_on_from_what_two_have_left(two: Any, tmp_path: Path) -> None:
    folder, found = two
    task = made(tmp_path, "left", ENCODINGS["T5"])
    shutil.copy(folder / "left.safetensors", task.file)
    curve = trained(task).curve
    assert curve[:4] == torch.tensor(found[0]["curve", "T5", 2][:4]).tolist()
    assert close(curve, alone("T5")[1], "T5")


@pytest.mark.parametrize("context", [1, 2])
def test_two_go_on_from_what_one_has_left(context: int, two: Any) -> None:
    curve, wanted = two[1][0]["begun", context], alone("T5")[1]
    assert curve[:4] == torch.tensor(wanted[:4]).tolist()
    assert close(curve, wanted, "T5")


@pytest.mark.parametrize("context", [1, 2])
def test_all_stop_at_a_loss_that_is_no_number(context: int, two: Any, tmp_path: Path) -> None:
    wanted = trained(made(tmp_path, "wild", (), rate=1e25))
    (reason, curve), other = (found["wild", context] for found in two[1])
    assert (reason, curve) == other
    assert reason.split(" in step ")[1] == wanted.reason.split(" in step ")[1]
    assert len(curve) == len(wanted.curve) == read(two[0] / f"wild {context}.safetensors").step
    assert all(map(math.isfinite, curve))


def test_what_the_first_refuses_all_refuse(two: Any) -> None:
    assert two[1][0]["refused"] == two[1][1]["refused"]
    # it was the first's bad input that ended the other
    assert torch.load(two[0] / "code.pt") == 2


def test_trainings_are_shared_and_other_jobs_are_not(two: Any) -> None:
    rows, ticks = torch.load(two[0] / "jobs.pt", weights_only=False)
    assert [(row["kind"], row["name"]) for row in rows] == [
        ("training", "job 0"),
        ("reading", "reading"),
        ("training", "job 1"),
    ]
    assert ticks.count("job 0") == ticks.count("job 1") == STEPS
    assert rows[0]["steps"] == STEPS
    assert rows[0]["parameters"] == sum(x.numel() for x in Decoder(TINY, rw.Rotary(16)).parameters())
    assert len(rows[1]["losses"]) == 32


def test_shares_of_a_text_are_its_tokens_once() -> None:
    rows = [row(24, rank, 3, torch.device("cpu")) for rank in range(3)]
    assert rows[1].mine.tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert torch.cat([each.mine for each in rows])[rows[0].back].tolist() == list(range(24))


def test_several_share_a_text_only_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks is None
    with pytest.raises(rw.ConfigError, match="--context must be 1 unless torchrun") as refused, joined(2):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("world", "context", "recipe", "encoding", "message"),
    [
        (4, 3, {}, (), "--context must be a divisor of 4, the processes that were started, got 3"),
        (4, 0, {}, (), "--context must be a divisor of 4"),
        (6, 2, {}, (), "the 16 texts of a step must be shared by a divisor of 16 processes"),
        (2, 2, {"length": 126}, (), "--train-length must be divisible by 4, twice --context, got 126"),
        (2, 2, {}, rw.ConvLeak(32), "reads neighbouring tokens"),
        (2, 2, {}, [(), (rw.ConvLeak(32), rw.Rotary(16))], "reads neighbouring tokens"),
    ],
)
def test_what_cannot_be_shared_is_one_line(
    world: int, context: int, recipe: dict[str, int], encoding: Any, message: str
) -> None:
    ranks = Ranks.__new__(Ranks)
    ranks.rank, ranks.world, ranks.context = 0, world, context
    with pytest.raises(rw.RopewalkError) as refused:
        ranks.check(Recipe(**recipe), [encoding])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    ranks.context = 1
    ranks.check(Recipe(batch=world, length=9), [rw.ConvLeak(32)])
