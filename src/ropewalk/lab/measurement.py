"""A checkpoint of the lab read again: the same protocols, on its own held-out text or another, under any encoding.

What is unknown is null. Losses are nats per token with a 95 % interval, and a perplexity is the exponential of one.
The document:

    kind            "lab"
    request         the fields of RereadRequest
    checkpoint, step, steps, seed, corpus, versions
    trained         the encoding of the training
    encoding        the one that was read with
    text, tokens    what was read, and how many tokens of it are predicted
    train_length, lengths, multiples, protocols     as in the summary of a lab run
    losses          {protocol: [{length, multiple, loss, se, low, high, tokens, perplexity, ratio} or {length, multiple,
                    reason}]}: the entries that `ropewalk lab` makes of the same readings
    by_position     {edges, loss, se} in the longest texts, or null
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.attention.module import initial
from ropewalk.encodings import Rotary
from ropewalk.errors import ConfigError, require
from ropewalk.evaluate.metrics.perplexity import Losses
from ropewalk.evaluate.run import ROWS, Ledger, check_writable
from ropewalk.evaluate.text import documents_from, opening
from ropewalk.lab.checkpoint import MODEL, Saved, read, save
from ropewalk.lab.data import Corpus, as_bytes, learned
from ropewalk.lab.estimates import described
from ropewalk.lab.evaluation import NONOVERLAPPING, PROTOCOLS, SLIDING, WINDOWS, Plan, by_position, view
from ropewalk.lab.jobs import DATA, Job, Reading, stream
from ropewalk.lab.model import Shape, check
from ropewalk.lab.request import HELD_OUT, MOST, LabRequest
from ropewalk.lab.run import TOKENIZER, Watch
from ropewalk.lab.workers import Progress, Workers
from ropewalk.notation import parse
from ropewalk.sites import Biases, Embeds, Mixes, Rotates
from ropewalk.spectrum import Adapts, Scaling
from ropewalk.written import short

TIMES = 16  # trained lengths, where neither the request nor the run says how many
LANGUAGE = re.compile(r"[0-9a-f]{16}\b")  # how the corpus of a language model begins: with the digest of its text
START = 4.0  # seconds that another process should save before it is worth starting
OWN = "held out in its training"


@dataclass(frozen=True)
class RereadRequest:
    """Everything that `ropewalk evaluate` can be told of a checkpoint of the lab."""

    checkpoint: str
    encoding: str | None = None  # None: that of the training
    to: int | None = None  # tokens of the longest text; None: as its run, or 16 trained lengths
    text: str | None = None  # None: what its run held out
    dataset: str | None = None
    held_out: int | None = None  # tokens that are predicted; None: as its run, or as many as there are up to 65,536


class Subject(NamedTuple):
    """A trained model, and what it reads."""

    file: Path
    saved: Saved
    encoding: Any
    plan: Plan
    text: Corpus

    @property
    def name(self) -> str:
        return short(self.encoding)

    def settings(self) -> dict[str, Any]:
        """All that a reading depends on but the encoding; a run with others must not go on in the same folder."""
        told = {"kind": "evaluate lab", "checkpoint": hashlib.sha256(self.file.read_bytes()).hexdigest()[:16]}
        told |= {"text": f"{self.text.source} {self.text.digest}", "train_length": self.plan.train_length}
        return told | {"times": self.plan.times, "held_out": self.plan.tokens}


def reread(request: RereadRequest, folder: Path, watch: Watch) -> dict[str, Any]:
    """Read what is asked for, each finished reading a row in `folder`, and return the document.

    Raises RopewalkError before anything is written if the request cannot be carried out.
    """
    check_writable(folder)
    subject = prepare(request)
    ledger = Ledger(folder, subject.settings())
    with TemporaryDirectory(prefix="ropewalk-") as work:
        jobs = [job for job in readings(subject, Path(work)) if ledger.find("reading", job.name) is None]
        if jobs:
            save(Path(work) / DATA, Saved({"held_out": subject.text.held_out}, 0, {}))
            save(jobs[0].checkpoint, replaced(subject))
            carry_out(jobs, ledger, watch)
    return document(request, subject, ledger)


def prepare(request: RereadRequest) -> Subject:
    """Settle the model and what it reads; raises ConfigError for what does not fit."""
    file = Path(request.checkpoint).expanduser()
    if not file.is_file():
        raise ConfigError(f"no such file or folder: {request.checkpoint}")
    saved = read(file)
    made_of = str(saved.settings.get("corpus"))
    if not LANGUAGE.match(made_of):
        raise ConfigError(f"{file} is no language model of the lab: it was trained on {made_of}")
    shape, length = Shape(**saved.settings["shape"]), saved.settings["recipe"]["length"]
    encoding = parse(saved.settings["encoding"])
    if request.encoding is not None:
        encoding = given(request.encoding, encoding)
        check(shape, encoding, length)
    run = file.parent.parent
    told = settings_of(run, made_of[:16])
    longest = length * told.get("times", TIMES) if request.to is None else request.to
    times = longest // length
    rule = f"the trained length of {length} times a power of two, up to {MOST}"
    require(longest == times * length and 0 < times <= MOST and times & (times - 1) == 0, "--to", rule, request.to)
    wanted = request.held_out
    require(wanted is None or wanted >= longest, "--held-out", f"at least {longest}, the longest text", wanted)
    plan = Plan(length, times, max((request.held_out or told.get("held_out", HELD_OUT)) // longest, 1) * longest)
    text = text_of(request, run, shape.vocabulary, plan, made_of[:16])
    there = (len(text.held_out) - 1) // longest * longest
    if request.held_out is None and 0 < there < plan.tokens:
        plan = plan._replace(tokens=there)
    if len(text.held_out) < plan.needed:
        short_of = f"got {len(text.held_out):,} from {text.source}; name more with --text, or ask for less with --to"
        raise ConfigError(f"text must have at least {plan.needed:,} tokens, {short_of} or --held-out")
    return Subject(file, saved, encoding, plan, text)


def settings_of(run: Path, digest: str) -> Mapping[str, Any]:
    """What the run of a checkpoint was told, where its rows are there and are of the text with that digest."""
    try:
        with (run / ROWS).open(encoding="utf-8") as rows:
            told: dict[str, Any] = json.loads(rows.readline())["settings"]
    except (OSError, ValueError, KeyError):
        return {}
    return told if str(told.get("text")).endswith(digest) else {}


def text_of(request: RereadRequest, run: Path, vocabulary: int, plan: Plan, digest: str) -> Corpus:
    """What is read: what the run held out, or the beginning of another text, in the tokens of the training."""
    nothing = torch.empty(0, dtype=torch.int16)
    if request.text is None and request.dataset is None:
        if not (run / DATA).is_file():
            raise ConfigError(f"{run} holds no {DATA}, the text of the training: name another with --text")
        whole = Corpus(stream(run / DATA, "train"), stream(run / DATA, "held_out"), vocabulary, 0.0, OWN)
        require(whole.digest == digest, f"the text in {run / DATA}", f"that of the training, {digest}", whole.digest)
        return whole._replace(train=nothing)
    source, documents = documents_from(request.text, request.dataset)
    encode = as_bytes
    if vocabulary != 256:
        if not (run / TOKENIZER).is_file():
            raise ConfigError(f"{run} holds no {TOKENIZER}, and the model knows {vocabulary} pieces, not bytes")
        pieces = learned([], vocabulary, run / TOKENIZER)
        rule = f"as many pieces as the model knows, {vocabulary}"
        require(pieces.vocabulary == vocabulary, str(run / TOKENIZER), rule, pieces.vocabulary)
        encode = pieces.encode
    ids: Tensor = torch.tensor(opening(documents, encode, plan.needed), dtype=torch.int16)
    return Corpus(nothing, ids, vocabulary, 0.0, source)


def given(text: str, own: Any) -> Any:
    """The encoding that a user writes, for a model that was trained with `own`: a scaling goes into its rotary parts.

    Raises ConfigError, in one line, for what is no encoding and for what would have to be learned first.
    """
    value = parse(text)
    if isinstance(value, (Scaling, Adapts)):
        scaled = with_scaling(own, value)
        rule = f"an encoding, for there is no Rotary in {short(own)} that a scaling could bend"
        require(scaled != own, "--encoding", rule, text)
        return scaled
    layers: list[Any] = value if isinstance(value, list) else [value]
    for part in (p for one in layers for p in (one if isinstance(one, tuple) else (one,))):
        known = isinstance(part, (Embeds, Rotates, Biases, Mixes))
        require(known, "--encoding", "a scaling or an encoding (`ropewalk list`)", text)
    if value != own:
        names = sorted({name for one in layers for name in initial(one)})
        rule = f"one that learns nothing, for this one's {', '.join(names)} would never have been trained"
        require(not names, "--encoding", rule, short(value))
    return value


def with_scaling(encoding: Any, rule: Any) -> Any:
    """The same with one more scaling in every Rotary that is an encoding by itself or a part of one."""
    if isinstance(encoding, (list, tuple)):
        return type(encoding)(with_scaling(each, rule) for each in encoding)  # pyright: ignore[reportUnknownVariableType]
    return replace(encoding, scaling=(*encoding.scaling, rule)) if isinstance(encoding, Rotary) else encoding


def readings(subject: Subject, work: Path) -> Iterator[Reading]:
    """Every length under both readings, the longest first, with the model and the text that are in `work`."""
    for length in reversed(subject.plan.lengths):
        for reading in (WINDOWS, SLIDING):
            name, seed = f"{subject.name} {reading} {length}", subject.saved.settings["seed"]
            places = work / subject.file.name, work / DATA
            yield Reading(name, subject.name, seed, *places, subject.plan, reading, length)


def replaced(subject: Subject) -> Saved:
    """The weights under the encoding that is read with."""
    saved, encoding = subject.saved, subject.encoding
    layers: list[Any] = encoding if isinstance(encoding, list) else [encoding]
    # what another encoding has learned is of no use to one that learns nothing
    gone = () if any(map(initial, layers)) else (f"{MODEL}positions.",)
    weights = {n: x for n, x in saved.tensors.items() if n.startswith(MODEL) and not n.startswith(gone)}
    return Saved(weights, saved.step, saved.settings | {"encoding": subject.name})


def carry_out(jobs: list[Reading], ledger: Ledger, watch: Watch) -> None:
    """Do them all, in as many processes as are worth their start, in each just as a lab run would."""
    progress, waiting = Progress(watch.at), list[Job](jobs)
    progress.plan(waiting)
    worth = round(sum(job.cost for job in jobs) / START)
    with Workers(max(1, min(worth, LabRequest().processes()))) as workers:
        while waiting or workers.busy:
            while waiting and workers.free:
                workers.give(waiting.pop(0))
            for job, row in workers.news(progress.tick):
                progress.close(job)
                if "losses" in row:
                    place = f"{len(ledger.of('reading')):02d}-{row['reading']}-{row['length']}"
                    row["losses"] = ledger.keep_losses(place, row["losses"])
                ledger.add(row)


def document(request: RereadRequest, subject: Subject, ledger: Ledger) -> dict[str, Any]:
    """All that follows from what was read."""
    saved, plan = subject.saved, subject.plan
    rows = {(r["reading"], r["length"]): r for r in ledger.of("reading") if r["entrant"] == subject.name}
    found: dict[tuple[str, int], Losses] = {}
    for length in plan.lengths:
        stored = {r: ledger.losses(row) for (r, n), row in rows.items() if n == length and "losses" in row}
        views = {(p, length): view(stored, p, plan) for p in PROTOCOLS}
        found |= {where: losses for where, losses in views.items() if losses is not None}
    longest = found.get((NONOVERLAPPING, plan.longest))
    return {
        "kind": "lab",
        "request": asdict(request),
        "checkpoint": str(subject.file),
        "step": saved.step,
        "steps": saved.settings["recipe"]["steps"],
        "seed": saved.settings["seed"],
        "corpus": saved.settings["corpus"],
        "trained": saved.settings["encoding"],
        "encoding": subject.name,
        "text": subject.text.source,
        "tokens": plan.tokens,
        "train_length": plan.train_length,
        "lengths": list(plan.lengths),
        "multiples": [n // plan.train_length for n in plan.lengths],
        "protocols": plan.described(),
        "losses": {p: [entry(found, rows, p, n, plan) for n in plan.lengths] for p in PROTOCOLS},
        "by_position": None if longest is None else by_position(longest, plan),
        "versions": {name: version(name) for name in ("ropewalk", "torch")},
    }


def entry(
    found: Mapping[tuple[str, int], Losses], rows: Mapping[tuple[str, int], Any], protocol: str, length: int, plan: Plan
) -> dict[str, Any]:
    """One protocol at one length, or why there is nothing."""
    told: dict[str, Any] = {"length": length, "multiple": length // plan.train_length}
    if (protocol, length) not in found:
        return told | {"reason": rows[SLIDING if protocol == SLIDING else WINDOWS, length]["reason"]}
    home = found.get((protocol, plan.train_length))
    known = described([found[protocol, length]], None if home is None else [home], plan, protocol)
    return told | {field: x for field, x in known.items() if field not in ("seeds", "seed_se")}
