"""Jobs as tasks of a Ray cluster on this machine: their rows and files, what they raise, and who may not take part."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ropewalk import ConfigError, RopewalkError
from ropewalk.lab import cluster as tested
from ropewalk.lab.cluster import PROBE, Cluster
from ropewalk.lab.jobs import Training
from ropewalk.lab.nodes import Seen, lacks, looker
from ropewalk.lab.train import Task
from ropewalk.lab.workers import Pool, Progress, Workers, pool

ray = pytest.importorskip("ray")
pytest.importorskip("grpc")


class Counts(NamedTuple):
    """Says how far it is, and with how many threads."""

    name: str
    cost: float = 4.0

    def run(self, tell: Any) -> Any:
        for _ in range(4):
            tell(1.0)
        return {"name": self.name, "threads": torch.get_num_threads(), "drawn": torch.linspace(0, 1, 5).exp().tolist()}


class Refuses(NamedTuple):
    name: str
    cost: float = 1.0

    def run(self, tell: Any) -> Any:
        raise ConfigError("steps must be few")


class Dies(NamedTuple):
    """Leaves a mark in a folder whenever it is tried."""

    name: str
    folder: Path
    cost: float = 1.0

    def run(self, tell: Any) -> Any:
        (self.folder / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Outlives(NamedTuple):
    """Goes on after the run has ended, which it is shown by a probe that is gone."""

    name: str
    folder: Path
    cost: float = 1.0

    def run(self, tell: Any) -> Any:
        next(self.folder.glob(f"{PROBE}*")).unlink()
        tell(0.5)
        return {"name": self.name}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    # the jobs of this file, which no node could import
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Cluster("local", folder, 2) as started:
        yield started


def rows(given: Pool, jobs: list[Any], tick: Callable[[Any, float], None] = lambda job, done: None) -> dict[str, Any]:
    for job in jobs:
        given.give(job)
    found = {}
    while given.busy:
        found |= {job.name: row for job, row in given.news(tick)}
    return found


def test_tasks_do_what_workers_do(cluster: Cluster) -> None:
    told = list[tuple[float, str]]()
    progress = Progress(lambda share, what: told.append((share, what)))
    jobs: list[Any] = [Counts("one"), Counts("two")]
    progress.plan(jobs)
    assert cluster.free == 2
    for job in jobs:
        cluster.give(job)
    assert cluster.free == 0
    found = {}
    while cluster.busy:
        for job, row in cluster.news(progress.tick):
            progress.close(job)
            found[job.name] = row
    assert cluster.free == 2
    with Workers(1) as workers:
        known = {job.name: rows(workers, [job])[job.name] for job in jobs}
    assert found == known
    assert found["one"]["threads"] == 1
    # of each task the first step is told at once, and the last share when its row is there
    assert [what for _, what in told].count("one") == 2
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_training_ends_with_the_same_bytes(
    cluster: Cluster, task: Callable[..., Task], stream: Tensor, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    data, ended = tmp_path / "data.safetensors", dict[str, Any]()
    save_file({"train": stream}, data)
    with Workers(1) as workers:
        for name, given in (("here", workers), ("there", cluster)):
            started: Task = task(steps=12)
            file = tmp_path / name / "one.safetensors"
            row = rows(given, [Training("one", "NoPE", started._replace(file=file), data, 5)])["one"]
            del row["seconds"], row["checkpoint"]
            ended[name] = file.read_bytes(), row
    assert ended["here"][1]["steps"] == 12
    assert ended["here"] == ended["there"]


def test_what_a_task_raises_is_raised_here(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"^steps must be few$"):
        rows(cluster, [Refuses("bad")])
    assert rows(cluster, [Counts("next")])["next"]["threads"] == 1


def test_a_task_whose_process_is_gone_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(
        RopewalkError, match=r"^the task of 'ill' was ended on the Ray cluster .*again to go on$"
    ) as told:
        rows(cluster, [Dies("ill", tmp_path)])
    assert "\n" not in str(told.value)
    assert not cluster.busy
    assert len(list(tmp_path.iterdir())) == 1


def test_who_has_no_folder_does_no_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # nodes see another folder under the path that this machine has written to
    monkeypatch.setattr(cluster, "probe", tmp_path / cluster.probe.name)
    monkeypatch.setattr(cluster, "checked", set())
    with pytest.raises(RopewalkError, match=r"^node [\d.]+ of the Ray cluster does not see what is written to .*share"):
        cluster.check(cluster.nodes())
    with pytest.raises(RopewalkError, match=r"^the node that 'lost' was given to does not see what is written to"):
        rows(cluster, [Counts("lost")])


def test_who_has_other_software_does_no_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "checked", set())
    monkeypatch.setattr(cluster, "wanted", cluster.wanted._replace(torch="0.1"))
    with pytest.raises(
        RopewalkError, match=r"^node .* has another torch \(.*\) than the run began with \(0.1\): install"
    ):
        assert cluster.free


def test_a_task_that_outlived_its_run_ends(cluster: Cluster, folder: Path) -> None:
    content = cluster.probe.read_text()
    try:
        with pytest.raises(RopewalkError, match="the run of 'late' is over"):
            rows(cluster, [Outlives("late", folder)])
    finally:
        cluster.probe.write_text(content)


def test_what_a_node_lacks() -> None:
    whole = Seen("abc", "2.13", "word", "")
    assert lacks(whole, whole, Path("out")) == ""
    for seen, says in (
        (whole._replace(content=""), "does not see what is written to out"),
        (whole._replace(refused="Read-only file system"), "cannot write to out: Read-only file system"),
        (
            whole._replace(torch="2.12"),
            r"has another torch (2.12) than the run began with (2.13): install the same on all",
        ),
        (whole._replace(sources=""), "has no ropewalk: install the same on all"),
    ):
        assert lacks(seen, whole, Path("out")).startswith(says)


def test_looking_at_a_folder(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    look = looker()
    assert Seen(*look(str(probe))).content == ""
    probe.write_text("word")
    seen = Seen(*look(str(probe)))
    assert (seen.content, seen.refused, seen.torch) == ("word", "", torch.__version__)
    assert len(seen.sources) == 8


@pytest.mark.parametrize("address", ["", "nowhere", "10.0.0.1", ":6379", "host:port", "http://host:80", "host:70000"])
def test_what_is_no_address_is_one_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--cluster must be local, auto, HOST:PORT or ray://HOST:PORT, got"):
        pool(None, address, tmp_path)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_answers_is_one_line(
    scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tested, "PATIENCE", 1)
    with socket.socket() as taken:
        # nobody accepts
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RopewalkError, match=f"^cannot use the Ray cluster '{address}': nothing answers") as told:
            pool(None, address, tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_without_ray_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(tested, "import_module", absent)
    with pytest.raises(RopewalkError, match=r"^--cluster needs Ray: pip install"):
        pool(None, "local", tmp_path)


def test_without_a_cluster_jobs_go_to_processes(tmp_path: Path) -> None:
    given = pool(3, None, tmp_path)
    assert isinstance(given, Workers)
    assert given.free == 3
    given = pool(None, None, tmp_path)
    assert given.free == len(os.sched_getaffinity(0))
