"""What a run has found, as one document; what is unknown is null.

kind        "reason"
tool, request, source, seconds
tasks       a list of
    name, unit, shown, lengths, chance    `shown` is the length of the longest exemplar
    methods     {direct, cot, vote}: each a share {found, asked, low, high} `total`, `by_length` and `unanswered`,
                tokens written for a problem and for a completion, tokens of a prompt and those not shared
    paired      [{name, gained, lost, asked, difference, low, high}]
    curve       [{n, accuracy, se, problems_se}], or null where votes were stopped early
    weighted    shares of votes by weight: equal, mean and sum of log-probabilities; null where nobody told them
    agreement   mean share of the winner, among right votes and among wrong ones
    drawn       samples that voted, of so many asked for
    digits      of addition: right digits by length and method, and right sums by the longest chain of carries
    examples    [{question, truth, length, chain, answer, votes}]: the first right and the first wrong vote
verdict     {gained, text}
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from statistics import fmean
from typing import Any

from ropewalk.errors import UnsupportedError
from ropewalk.evaluate.metrics.accuracy import wilson
from ropewalk.evaluate.run import Row
from ropewalk.reason.curve import Pool, curve
from ropewalk.reason.paired import difference
from ropewalk.reason.problems import Problem, Task
from ropewalk.reason.run import METHODS, Job, Run
from ropewalk.reason.vote import Tie, agreement, vote, weights

Figures = dict[str, Any]
SHOWN = 600  # letters of a question in an example
PAIRS = (("cot", "direct"), ("vote", "cot"), ("vote", "direct"))


def summarise(run: Run) -> Figures:
    """The document of a finished run."""
    tasks = [of_task(run, task) for task in run.tasks]
    request = asdict(run.request)
    document: Figures = {"kind": "reason", "tool": f"ropewalk {version('ropewalk')}", "request": request}
    document |= {"source": run.source.about, "seconds": run.seconds, "tasks": tasks}
    return document | {"verdict": verdict(tasks)}


def of_task(run: Run, task: Task) -> Figures:
    """One task under every method."""
    jobs = {method: [j for j in run.jobs if j.task.name == task.name and j.method == method] for method in METHODS}
    given = {method: [answered(run, job) for job in some] for method, some in jobs.items()}
    right = {m: [a == j.problem.answer for a, j in zip(given[m], jobs[m], strict=True)] for m in METHODS}
    asked = [job.problem for job in jobs["direct"]]
    lengths = list(dict.fromkeys(p.length for p in asked))
    ballots = [run.of(job) for job in jobs["vote"]]
    whole = all(len(rows) == job.samples for rows, job in zip(ballots, jobs["vote"], strict=True))
    pools = [Pool([row["answer"] for row in rows], p.answer) for rows, p in zip(ballots, asked, strict=True)]
    return {
        "name": task.name,
        "unit": task.unit,
        "shown": task.shown,
        "lengths": lengths,
        "chance": [task.chance(n) for n in lengths],
        "methods": {m: of_method(run, jobs[m], given[m], right[m]) for m in METHODS},
        "paired": [{"name": f"{a} - {b}", **difference(right[a], right[b])._asdict()} for a, b in PAIRS],
        "curve": curve(pools, run.request.seed) if whole else None,
        "weighted": weighted(ballots, asked),
        "agreement": agreed(pools, right["vote"]),
        "drawn": {"voted": sum(map(len, ballots)), "asked": sum(job.samples for job in jobs["vote"])},
        "digits": digits(asked, given, right) if task.name == "addition" else None,
        "examples": [example(run, jobs, right["vote"].index(r)) for r in (True, False) if r in right["vote"]],
    }


def answered(run: Run, job: Job) -> str | None:
    """The answer of a job: that of its sample, or the one that won the vote."""
    rows = run.of(job)
    answers = [row["answer"] for row in rows]
    if job.method != "vote" or run.request.tie != "max_logprob":
        return vote(answers, tie=Tie("random" if run.request.tie == "random" else "first", job.sampling.seed)).winner
    known = [row["mean_logprob"] for row in rows]
    if None in known:
        raise UnsupportedError("--tie max_logprob needs log-probabilities, and --server gives none")
    return vote(answers, tie=Tie("max_logprob", logprobs=known)).winner


def of_method(run: Run, jobs: Sequence[Job], given: Sequence[str | None], right: Sequence[bool]) -> Figures:
    """Accuracy and cost of one method."""
    lengths = list(dict.fromkeys(job.problem.length for job in jobs))
    rows = [row for job in jobs for row in run.of(job)]
    by_length = {n: [r for r, job in zip(right, jobs, strict=True) if job.problem.length == n] for n in lengths}
    return {
        "total": share(right),
        "by_length": [{"length": n, **share(some)} for n, some in by_length.items()],
        "unanswered": share([row["answer"] is None for row in rows]),
        "undecided": sum(answer is None for answer in given),
        "cut": sum(row["finish"] == "length" for row in rows),
        "tokens_per_problem": sum(row["tokens"] for row in rows) / max(len(jobs), 1),
        "tokens_per_completion": fmean(row["tokens"] for row in rows),
        "prompt_tokens": mean(row["prompt_tokens"] for row in rows),
        "read_tokens": mean(row["read_tokens"] for row in rows),
    }


def share(right: Sequence[bool]) -> Figures:
    """How many, with a Wilson interval."""
    return wilson(sum(right), len(right))._asdict()


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [x for x in values if x is not None]
    return fmean(known) if known else None


def weighted(ballots: Sequence[Sequence[Row]], asked: Sequence[Problem]) -> Figures | None:
    """Votes that count as likely as they are, beside votes that count alike."""
    if any(row["mean_logprob"] is None for rows in ballots for row in rows):
        return None
    found: dict[str, list[bool]] = {"equal": [], "mean": [], "sum": []}
    for rows, problem in zip(ballots, asked, strict=True):
        answers = [row["answer"] for row in rows]
        for name, right in found.items():
            each = None if name == "equal" else weights([row[f"{name}_logprob"] for row in rows])
            right.append(vote(answers, each).winner == problem.answer)
    return {name: share(right) for name, right in found.items()}


def agreed(pools: Sequence[Pool], right: Sequence[bool]) -> Figures:
    """How much voters agree where they are right, and where they are wrong."""
    each = [(agreement(pool.answers), r) for pool, r in zip(pools, right, strict=True)]
    return {name: mean(a for a, r in each if r == wanted) for name, wanted in (("right", True), ("wrong", False))}


def digits(asked: Sequence[Problem], given: dict[str, list[str | None]], right: dict[str, list[bool]]) -> Figures:
    """Right digits by length, the last digits one below the other, and right sums by the longest chain of carries."""
    found: Figures = {}
    for method, answers in given.items():
        counted: dict[int, list[bool]] = {}
        for problem, answer in zip(asked, answers, strict=True):
            counted.setdefault(problem.length, []).extend(aligned(problem.answer, answer or ""))
        chains: dict[int, list[bool]] = {}
        for problem, r in zip(asked, right[method], strict=True):
            chains.setdefault(problem.about["chain"], []).append(r)
        found[method] = {
            "by_length": [{"length": n, **share(some)} for n, some in counted.items()],
            "by_chain": [{"chain": n, **share(chains[n])} for n in sorted(chains)],
        }
    return found


def aligned(truth: str, answer: str) -> list[bool]:
    """Whether each digit of the truth stands in the answer at the same distance from its end."""
    return [c == d for c, d in zip(reversed(truth), answer[::-1].ljust(len(truth)), strict=False)]


def example(run: Run, jobs: dict[str, list[Job]], at: int) -> Figures:
    """One problem, the greedy chain, and how votes fell; a long question without its middle."""
    problem, (chain, *_) = jobs["vote"][at].problem, run.of(jobs["cot"][at])
    votes = Counter(row["answer"] for row in run.of(jobs["vote"][at]))
    question = problem.question
    question = question if len(question) <= SHOWN else f"{question[: SHOWN // 2]} […] {question[-SHOWN // 2 :]}"
    told: Figures = {"question": question, "truth": problem.answer, "length": problem.length}
    told |= {"chain": chain["text"].strip(), "answer": chain["answer"]}
    return told | {"votes": [{"answer": answer, "votes": n} for answer, n in votes.most_common()]}


NAMES = {"cot": "a chain of thought", "vote": "a vote over chains"}


def verdict(tasks: Sequence[Figures]) -> Figures:
    """Whether thinking step by step gained anything that can be told from chance, in a sentence for every task."""
    lines, gained = list[str](), False
    for task in tasks:
        against = {p["name"].split(" - ")[0]: p for p in task["paired"] if p["name"].endswith(" - direct")}
        better = [NAMES[m] for m, p in against.items() if p["low"] > 0]
        worse = [NAMES[m] for m, p in against.items() if p["high"] < 0]
        gained = gained or bool(better)
        told = [f"{' and '.join(some)} clearly {how}" for how, some in (("better", better), ("worse", worse)) if some]
        counts = ", ".join(f"{m} {x['total']['found']}" for m, x in task["methods"].items())
        asked = task["methods"]["direct"]["total"]["asked"]
        lines.append(f"{task['name']}: {'; '.join(told) or 'no clear difference'} ({counts} of {asked})")
    start = "Thinking step by step gains" if gained else "No gain from thinking step by step"
    return {"gained": gained, "text": f"{start}. {'. '.join(lines)}."}
