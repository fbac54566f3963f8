"""Jobs carried out as tasks of one CPU and one thread on a Ray cluster, to the same bits as in local processes.

What a task reads and writes are files, so all nodes must see the run's folder under one path. A file of random content
lies in it while the run lasts. Who starts a task or goes on with it reads that file first: a node without the folder is
found out, and a task that outlived its run ends before the next run needs its files.
"""

import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch

from ropewalk.errors import RopewalkError, UnsupportedError, require
from ropewalk.evaluate.run import Row, make_folder, unwritable
from ropewalk.lab.jobs import Job
from ropewalk.lab.nodes import UNSEEN, Seen, lacks, looker
from ropewalk.lab.workers import AGAIN, DONE, RAISED, keep_memory

LOCAL, AUTO, CLIENT = "local", "auto", "ray://"
PAUSE = 0.5  # seconds between two messages of a task, and at most between two looks at all of them
PATIENCE = 10  # seconds that a cluster has for its first answer
LOOK = 60  # seconds that a node has to start a process and look
STORE = 128 * 2**20  # bytes that a local Ray keeps results in
PROBE = ".cluster-"
# read by Ray when it is imported or started
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "4",
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "4",
}


class Cluster:
    """Tasks on the Ray cluster at `address`, as many at a time as it has CPUs, and at most `most`.

    `address` is that of a running cluster, as HOST:PORT or ray://HOST:PORT; "auto": of the one that runs on this
    machine; "local": one is started, and stopped in the end. Raises RopewalkError, in one line, where Ray is not
    installed, nothing answers at the address, or a node lacks what its tasks need.
    """

    def __init__(self, address: str, folder: Path, most: int | None = None) -> None:
        rule = f"{LOCAL}, {AUTO}, HOST:PORT or {CLIENT}HOST:PORT"
        host, _, port = address.removeprefix(CLIENT).rpartition(":")
        known = address in (LOCAL, AUTO) or (host and "://" not in host and port.isdecimal() and int(port) < 2**16)
        require(bool(known), "--cluster", rule, address)
        self.address, self.folder, self.most = address, folder.absolute(), most
        self.busy: dict[Any, Job] = {}
        self.checked = set[str]()
        self.ray = loaded()
        if address not in (LOCAL, AUTO):
            self.reach(f"{host}:{port}")

    def __enter__(self) -> "Cluster":
        with ExitStack() as ends:
            self.connect()
            ends.callback(self.ray.shutdown)
            self.probe = self.share()
            ends.callback(self.probe.unlink, missing_ok=True)
            self.wanted = Seen(*looker()(str(self.probe)))
            self.check(self.nodes())
            self.ticks = import_module("ray.util.queue").Queue(actor_options={"num_cpus": 0})
            self.task = self.ray.remote(num_cpus=1, max_retries=0)(carry_out)
            ends.callback(self.cancel)
            self.ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.close()

    def reach(self, place: str) -> None:
        """Raise RopewalkError unless something that may be Ray answers; Ray itself would take minutes to find out."""
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        grpc = import_module("grpc")
        with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                grpc.channel_ready_future(channel).result(PATIENCE)
            except grpc.FutureTimeoutError:
                raise self.unusable(f"nothing answers there like Ray within {PATIENCE} seconds") from None

    def connect(self) -> None:
        """Become a driver of the cluster."""
        told: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
        if self.address == LOCAL:
            count = self.most or len(os.sched_getaffinity(0))
            told |= {"num_cpus": count, "include_dashboard": False, "object_store_memory": STORE}
        try:
            with hushed():
                self.ray.init(self.address, **told)
        except (RuntimeError, ValueError, OSError) as error:
            token = "" if self.address in (LOCAL, AUTO) else "; if it asks for a token, set RAY_AUTH_MODE=token"
            raise self.unusable(line(error) + token) from None

    def unusable(self, why: str) -> RopewalkError:
        return RopewalkError(f"cannot use the Ray cluster {self.address!r}: {why}")

    def share(self) -> Path:
        """A new probe in the folder, instead of those of runs that were killed."""
        make_folder(self.folder)
        probe = self.folder / f"{PROBE}{token_hex(8)}"
        try:
            for old in self.folder.glob(f"{PROBE}*"):
                old.unlink(missing_ok=True)
            probe.write_text(token_hex(16))
        except OSError as error:
            raise unwritable(probe, error) from None
        return probe

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes with a CPU, by their ids. Raises RopewalkError where there is none."""
        found = {n["NodeID"]: n for n in self.ray.nodes() if n["Alive"] and cpus(n)}
        if not found:
            raise self.unusable(f"no node of it has a CPU; {AGAIN}")
        return found

    def check(self, nodes: dict[str, dict[str, Any]]) -> None:
        """Raise RopewalkError unless every node that was not looked at yet has what its tasks need."""
        new = {node: n["NodeManagerAddress"] for node, n in nodes.items() if node not in self.checked}
        if not new:
            return
        at = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        look = self.ray.remote(num_cpus=0, max_retries=0)(looker())
        out = {node: look.options(scheduling_strategy=at(node, soft=False)).remote(str(self.probe)) for node in new}
        self.ray.wait(list(out.values()), num_returns=len(out), timeout=LOOK)
        for node, ref in out.items():
            try:
                seen = Seen(*self.ray.get(ref, timeout=0))
            except self.ray.exceptions.RayError as error:
                raise RopewalkError(f"node {new[node]} of the Ray cluster cannot run tasks: {line(error)}") from None
            if fault := lacks(seen, self.wanted, self.folder):
                raise RopewalkError(f"node {new[node]} of the Ray cluster {fault}")
        self.checked |= new.keys()

    @property
    def free(self) -> int:
        """How many more jobs may be given; nodes may join, which are looked at, and leave."""
        nodes = self.nodes()
        self.check(nodes)
        count = sum(map(cpus, nodes.values()))
        return max(min(count, self.most or count) - len(self.busy), 0)

    def give(self, job: Job) -> None:
        """Have a job carried out by a task."""
        self.busy[self.task.remote(job, self.probe, self.wanted.content, self.ticks)] = job

    def news(self, tick: Callable[[Job, float], None]) -> Iterator[tuple[Job, Row]]:
        """Wait a moment: what was finished, while `tick` hears what was done."""
        try:
            ready, _ = self.ray.wait(list(self.busy), timeout=PAUSE)
            ticks = self.ticks.get_nowait_batch(self.ticks.qsize())
        except (ConnectionError, self.ray.exceptions.RayError) as error:
            raise self.unusable(f"{line(error)}; {AGAIN}") from None
        # before what is finished, whose share is then counted as a whole
        out = {job.name: job for job in self.busy.values()}
        for name, done in ticks:
            if name in out:
                tick(out[name], done)
        for ref in ready:
            job = self.busy.pop(ref)
            yield job, self.row(job, ref)

    def row(self, job: Job, ref: Any) -> Row:
        """What a task has found. Raises what it raised, and RopewalkError where it has ended otherwise."""
        try:
            what, value = self.ray.get(ref)
        except (ConnectionError, self.ray.exceptions.RayError) as error:
            why = f"{type(error).__name__}: {line(error)}"
            raise RopewalkError(f"the task of {job.name!r} was ended on the Ray cluster ({why}); {AGAIN}") from None
        if what == RAISED:
            raise value
        return value

    def cancel(self) -> None:
        """End what is still going on."""
        for ref in self.busy:
            with suppress(ConnectionError, self.ray.exceptions.RayError):
                self.ray.cancel(ref, force=True)


class Ticks:
    """Adds up what is done, and sends the sum now and then. Raises RopewalkError once the run is over."""

    def __init__(self, name: str, queue: Any, alive: Callable[[], bool]) -> None:
        self.name, self.queue, self.alive = name, queue, alive
        self.sum, self.sent = 0.0, 0.0

    def __call__(self, done: float) -> None:
        self.sum += done
        if time.monotonic() - self.sent < PAUSE:
            return
        if not self.alive():
            raise RopewalkError(f"the run of {self.name!r} is over")
        self.queue.put((self.name, self.sum))
        self.sum, self.sent = 0.0, time.monotonic()


def carry_out(job: Job, probe: Path, content: str, ticks: Any) -> tuple[str, Any]:
    """The task: a row, or what was raised instead."""
    torch.set_num_threads(1)
    keep_memory()

    def there() -> bool:
        with suppress(OSError):
            # read, as shared storage may go on telling of a file that is gone
            return probe.read_text() == content
        return False

    try:
        if not there():
            raise RopewalkError(f"the node that {job.name!r} was given to {UNSEEN.format(probe.parent)}")
        return DONE, job.run(Ticks(job.name, ticks, there))
    # whatever a job raises is raised again in the parent, which says it or shows the traceback
    except Exception as error:
        return RAISED, error


def cpus(node: dict[str, Any]) -> int:
    """How many tasks of one CPU a node has room for."""
    return int(node["Resources"].get("CPU", 0))


def line(error: Exception) -> str:
    """One sentence of what Ray says: the first, or the last line where it shows the traceback of another process."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) else 0].split(". ")[0].rstrip(".:")


@contextmanager
def hushed() -> Generator[None]:
    """Lose what is written to standard error meanwhile: Ray's own code in C++ knows no other way to be silent."""
    with warnings.catch_warnings(action="ignore"), Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def loaded() -> Any:
    """Ray, which says nothing by itself. Raises UnsupportedError where it is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import_module("grpc")
        return import_module("ray")
    except ModuleNotFoundError:
        raise UnsupportedError('--cluster needs Ray: pip install "ray[client]"') from None
