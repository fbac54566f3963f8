"""The measurement: problems answered at once, with a chain of thought, and by a vote over several; a row per sample."""

import hashlib
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ropewalk.errors import ConfigError
from ropewalk.evaluate.run import Ledger, Row, check_writable
from ropewalk.evaluate.text import documents_from
from ropewalk.reason.answers import EXTRACT
from ropewalk.reason.exemplars import read_exemplars
from ropewalk.reason.needle import needle
from ropewalk.reason.problems import Problem, Task, addition, last_letter, problems
from ropewalk.reason.prompts import TRIGGERS, Prompt, conclusion, direct, few_shot, zero_shot, zero_shot_direct
from ropewalk.reason.request import ReasonRequest
from ropewalk.reason.sampler import Sample, Sampler, Sampling
from ropewalk.reason.vote import settled

METHODS = ("direct", "cot", "vote")  # at once; one greedy chain; several drawn chains that vote
SLACK = 32  # tokens beyond what a right answer takes
FREELY = 160  # tokens of a chain that no exemplar guides
ROUND = 5  # samples after which a vote is looked at, where it may stop early
PROBE = 8  # tokens written to find out how long things take
CONCLUSION = 24  # tokens of an answer after a chain without exemplars


class Watch(Protocol):
    """What a run tells the one who waits."""

    def say(self, line: str) -> None:
        """Something worth a line."""

    def at(self, share: float, what: str) -> None:
        """So much of the run is done, and this is going on."""


@dataclass(frozen=True)
class Source:
    """Where samples come from."""

    sampler: Sampler
    count: Callable[[str], int]  # tokens of a text
    about: dict[str, Any]  # what is known of the model, for rows and report


class Job(NamedTuple):
    """All samples of one problem under one method."""

    task: Task
    problem: Problem
    method: str
    prompt: Prompt
    sampling: Sampling
    samples: int

    @property
    def name(self) -> str:
        return f"{self.task.name} {self.problem.length} {self.problem.index} {self.method}"

    @property
    def digest(self) -> str:
        """What tells its prompt from another."""
        return hashlib.sha256(self.prompt.text.encode()).hexdigest()[:16]


@dataclass
class Run:
    """A request being carried out."""

    request: ReasonRequest
    source: Source
    ledger: Ledger
    tasks: list[Task]
    jobs: list[Job]
    rows: dict[tuple[str, int], Row]  # finished samples by job and number
    seconds: float = 0.0

    def of(self, job: Job) -> list[Row]:
        """The finished samples of a job, in order and without a gap."""
        found = list[Row]()
        while len(found) < job.samples and (row := self.rows.get((job.name, len(found)))):
            found.append(row)
        return found

    def missing(self, job: Job) -> list[int]:
        """The samples that are still to be drawn; none where the vote cannot turn any more and may be stopped."""
        if self.request.early_stop and job.method == "vote":
            answers = [row["answer"] for row in self.of(job)]
            if settled(answers, job.samples - len(answers), self.request.tie):
                return []
        return [i for i in range(job.samples) if (job.name, i) not in self.rows]


def reason(request: ReasonRequest, folder: Path, source: Source, watch: Watch) -> Run:
    """Measure what the request asks for; finished samples are rows in `folder` and are never drawn again.

    Raises RopewalkError before anything is written if the request cannot be carried out.
    """
    check_writable(folder)
    shown = read_exemplars(request.exemplars) if request.exemplars else None
    tasks = [task_of(name, request, source.count) for name in request.tasks()]
    tasks = [task._replace(exemplars=shown) for task in tasks] if shown else tasks
    jobs = [job for task in tasks for job in jobs_of(task, request)]
    ledger = Ledger(folder, settings(request, source))
    run = Run(request, source, ledger, tasks, jobs, finished(ledger, jobs))
    started = time.perf_counter()
    carry_out(run, watch)
    run.seconds = time.perf_counter() - started
    return run


def task_of(name: str, request: ReasonRequest, count: Callable[[str], int]) -> Task:
    """A task by its name."""
    if name == "needle":
        return needle(documents_from(request.text, None)[1], count)
    return {"addition": addition, "last-letter": last_letter}[name]()


def jobs_of(task: Task, request: ReasonRequest) -> Iterator[Job]:
    """Everything that is asked: direct answers first, then chain and vote of a problem together, for one reading."""
    asked = problems(task, request.lengths or task.lengths, request.problems, request.seed)
    for problem in asked:
        yield job_of(task, problem, "direct", request)
    for problem in asked:
        yield job_of(task, problem, "cot", request)
        yield job_of(task, problem, "vote", request)


def job_of(task: Task, problem: Problem, method: str, request: ReasonRequest) -> Job:
    """One problem under one method."""
    if method == "direct":
        words = [problem.answer, *(e.answer for e in task.exemplars)]
        trigger = TRIGGERS[task.kind]
        prompt = (
            zero_shot_direct(problem.question, trigger)
            if request.zero_shot
            else direct(task.exemplars, problem.question)
        )
    else:
        words = [problem.rationale, *(e.rationale for e in task.exemplars)]
        prompt = zero_shot(problem.question) if request.zero_shot else few_shot(task.exemplars, problem.question)
    # even where most of it is digits, a text has fewer tokens than two thirds of its letters
    most = request.max_tokens or SLACK + 3 * max(map(len, words)) // 4
    most = max(most, FREELY) if request.zero_shot and method != "direct" and not request.max_tokens else most
    seed = zlib.crc32(f"{request.seed} {task.name} {problem.length} {problem.index}".encode()) >> 1
    sampling = replace(request.sampling(most), seed=seed)
    if method == "vote":
        return Job(task, problem, method, prompt, sampling, request.samples)
    return Job(task, problem, method, prompt, sampling.greedy(), 1)


def settings(request: ReasonRequest, source: Source) -> dict[str, Any]:
    """What rows depend on beside their prompts; tasks, lengths, problems and samples may be added to a folder."""
    kept = ("model", "server", "chat", "zero_shot", "encoding", "dtype", "temperature", "top_k", "top_p")
    kept += ("max_tokens", "seed")
    given = {name: getattr(request, name) for name in kept}
    return {"kind": "reason"} | given | {"weights": source.about.get("weights")}


def finished(ledger: Ledger, jobs: list[Job]) -> dict[tuple[str, int], Row]:
    """The samples of a folder. Raises ConfigError if a prompt is not what it was: other exemplars, or another text."""
    prompts = {job.name: job.digest for job in jobs}
    rows = ledger.of("sample")
    changed = next((row["name"] for row in rows if prompts.get(row["name"], row["prompt"]) != row["prompt"]), None)
    if changed is not None:
        raise ConfigError(f"{ledger.folder} holds samples of another prompt for {changed}; choose another --out")
    return {(row["name"], row["index"]): row for row in rows}


def carry_out(run: Run, watch: Watch) -> None:
    """Draw every sample that is missing."""
    left = [job for job in run.jobs if run.missing(job)]
    costs = estimate(run, left, watch) if left else []
    total, done = sum(costs), 0.0
    for job, cost in zip(left, costs, strict=True):
        watch.at(done / total, said(job))
        while wanted := run.missing(job):
            batch = [i for i in wanted if i // size(run, job) == wanted[0] // size(run, job)]
            for i, sample in run.source.sampler.sample(job.prompt, batch, job.sampling):
                keep(run, job, i, sample)
            watch.at((done + cost * (1 - len(run.missing(job)) / job.samples)) / total, said(job))
        done += cost


def size(run: Run, job: Job) -> int:
    """Samples of a job that are drawn together: always the same ones, however often a run is interrupted."""
    return min(run.request.batch, ROUND if run.request.early_stop else job.samples)


def keep(run: Run, job: Job, index: int, sample: Sample) -> None:
    """Judge a sample and write its row; a chain without exemplars is asked for its answer first."""
    text, extra, told = sample.text, dict[str, Any](), f"The answer is {sample.text.strip()}"
    if run.request.zero_shot and job.method != "direct":
        prompt = conclusion(job.prompt, sample.text, TRIGGERS[job.task.kind])
        short = replace(job.sampling.greedy(), max_tokens=CONCLUSION)
        _, final = next(iter(run.source.sampler.sample(prompt, [0], short)))
        told = f"The answer is {final.text.strip()}"
        extra = {"conclusion": final.text, "tokens": sample.tokens + final.tokens}
    answer = EXTRACT[job.task.kind](told if run.request.zero_shot else text)
    problem = job.problem
    row: Row = {"kind": "sample", "name": job.name, "index": index, "prompt": job.digest}
    row |= {"task": job.task.name, "method": job.method}
    row |= {"length": problem.length, "problem": problem.index, "truth": problem.answer, "answer": answer}
    row |= {"correct": answer == problem.answer, **sample._asdict(), **extra}
    if job.method == "direct":
        row |= {"about": problem.about}
    if job.method == "direct" and job.task.name != "needle":
        row |= {"question": problem.question}
    run.rows[job.name, index] = run.ledger.add(row)


def said(job: Job) -> str:
    """What is going on."""
    words = {"direct": "answers at once", "cot": "a chain of thought", "vote": f"{job.samples} chains that vote"}
    return (
        f"{job.task.name}, {job.problem.length} {job.task.unit}, problem {job.problem.index + 1}: {words[job.method]}"
    )


def estimate(run: Run, left: list[Job], watch: Watch) -> list[float]:
    """About how many seconds each job takes, from a few tokens written for nothing; says what is ahead."""
    completions = sum(len(run.missing(job)) for job in left)
    watch.say(f"{completions:,} completions to draw, {len(run.rows):,} there already")
    paces = dict[tuple[str, bool], float]()
    for job in left:
        key = job.task.name, job.method == "vote"
        if key not in paces:
            paces[key] = pace(run, job)
    costs = list[float]()
    for job in left:
        right = job.problem.answer if job.method == "direct" else job.problem.rationale
        tokens = run.source.count(right) + PROBE
        calls = len({i // size(run, job) for i in run.missing(job)})
        costs.append(paces[job.task.name, job.method == "vote"] * min(tokens, job.sampling.max_tokens) * calls)
    seconds = sum(costs)
    watch.say(f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s")
    return costs


def pace(run: Run, job: Job) -> float:
    """Seconds that a token takes in the samples of a job that are drawn together, once the prompt is known."""
    short = replace(job.sampling, max_tokens=PROBE)
    batch = list(range(min(size(run, job), job.samples)))
    written = 1
    started = time.perf_counter()
    for _ in range(2):
        started = time.perf_counter()
        written = max(sample.tokens for _, sample in run.source.sampler.sample(job.prompt, batch, short))
    return (time.perf_counter() - started) / max(written, 1)
