"""The measurements alone: one encoding on one text, every figure a view of the losses that were stored.

What is unknown is null. Losses are nats per token with a 95 % interval, and a perplexity is the exponential of one.
The document:

    kind            "pretrained"
    request         the fields of EvaluateRequest
    model, architecture, trained_length, length, text, versions, notes
    encoding        of the layers that reach furthest, as it is served at `length`
    readings        the encoding that was asked for and then the baselines, a list of
        name, role      "candidate", "unmodified" or "truncated"
        passes          the lengths that had a pass of their own: all but `length` only where positions depend on it
        by_length       [{length, loss, low, high, perplexity, tokens}]: of the first `length` tokens
        by_position     [{start, end, loss, ...}]: of the tokens between two lengths, at the end of one pass
        blocks          [{start, end, loss, se}]: the same in even blocks
        seconds
    against         [{name, start, end, nats, low, high, percent, tokens}]: the first reading minus a baseline, paired
    cliff           where the first block begins in which a baseline is clearly better by a tenth of the perplexity
    retrieval       null, or {task, total, by_distance: [{start, end, found, asked, low, high}]} of the first reading
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch

from ropewalk.errors import ConfigError, require
from ropewalk.evaluate.document import attached
from ropewalk.evaluate.forward import CHUNK
from ropewalk.evaluate.metrics.perplexity import Losses, mean
from ropewalk.evaluate.run import Ledger, check_writable
from ropewalk.evaluate.tasks.passkey import Answer
from ropewalk.evaluate.text import Text, documents_from, opening, split_text
from ropewalk.extend import summary as numbers
from ropewalk.extend.candidates import UNMODIFIED, Candidate, for_model, truncated_name
from ropewalk.extend.job import Run, Subject, Watch, retrieve, settings, task_of
from ropewalk.extend.outcome import extended_layer
from ropewalk.extend.plan import ExtendRequest, Item, Pace, Progress
from ropewalk.extend.race import Reading, Track
from ropewalk.extend.summary import Figures
from ropewalk.models.describe import describe, refuse_reordered
from ropewalk.models.load import Loaded, load
from ropewalk.spectrum import for_length
from ropewalk.written import short

SHORTEST = 256  # tokens of the shortest text: of fewer no error can be told
MOST = 16_384  # tokens that are read where nothing is said
STAGE = "reading"
# what rows depend on; encodings and tasks may be added to a folder
KEPT = ("model", "weights", "to", "dtype", "seed", "text")


@dataclass(frozen=True)
class EvaluateRequest:
    """Everything that `ropewalk evaluate` can be told of a pretrained model."""

    model: str
    encoding: str | None = None  # None: the model's own
    to: int | None = None  # tokens; None: the model's window, at most MOST
    text: str | None = None
    dataset: str | None = None
    retrieval: str = "none"
    baselines: bool = False  # also read with the model's own positions, and the last trained window by itself
    dtype: str = "bfloat16"
    chunk: int = CHUNK
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.to is None or self.to >= SHORTEST, "--to", f"at least {SHORTEST} tokens", self.to)
        self.as_extend(Path(), SHORTEST)

    def as_extend(self, folder: Path, length: int) -> ExtendRequest:
        """The same for the steps that are those of `ropewalk extend`."""
        given: dict[str, Any] = {"text": self.text, "dataset": self.dataset, "retrieval": self.retrieval}
        given |= {"dtype": self.dtype, "chunk": self.chunk, "seed": self.seed}
        return ExtendRequest(self.model, length, str(folder), **given)


def measure(request: EvaluateRequest, folder: Path, watch: Watch) -> Figures:
    """Read what is asked for, each finished reading a row in `folder`, and return the document.

    Raises RopewalkError before anything is written if the request cannot be carried out.
    """
    check_writable(folder)
    watch.say(f"loading {request.model}")
    loaded = load(request.model, request.dtype, watch.say)
    refuse_reordered(describe(loaded.folder))
    window: int = loaded.model.config.get_text_config().max_position_embeddings
    asked = request.as_extend(folder, request.to or min(window, MOST))
    track = Track(loaded.trained_length, asked.to, asked.price)
    field = entrants(request, loaded, track)
    task_of(asked)

    def tokenize(text: str) -> list[int]:
        return loaded.tokenizer(text, add_special_tokens=False).input_ids

    subject = Subject(loaded, track, text_of(request, tokenize, asked.to), field, tokenize)
    told = settings(asked, subject)
    ledger = Ledger(folder, {"kind": "evaluate"} | {key: told[key] for key in KEPT})
    progress = Progress(list(plan(asked, track, field)), work_of(loaded.model))
    run = Run(asked, subject, ledger, watch, progress, [r["name"] for r in ledger.of("note")])
    readings = [list(read(run, entrant)) for entrant in field]
    for entrant in questioned(field):
        retrieve(run, entrant)
    return document(run, request, readings)


def entrants(request: EvaluateRequest, loaded: Loaded, track: Track) -> list[Candidate]:
    """What is asked for, then the baselines. Raises ConfigError or UnsupportedError for what does not fit the model."""
    own = Candidate(UNMODIFIED, loaded.encodings, "unmodified")
    first = for_model(request.encoding, loaded, track.target) if request.encoding else own
    rivals = [] if first is own else [own]
    if track.target > track.window:
        rivals.append(Candidate(truncated_name(track.window), loaded.encodings, "truncated"))
    rule = f"given with --encoding, or with --to beyond the trained window of {track.window} tokens"
    require(bool(rivals) or not request.baselines, "--baselines", rule, track.target)
    with attached(loaded.model, for_length(first.encodings, track.target)):
        return [first, *(rivals if request.baselines else [])]


def questioned(field: list[Candidate]) -> list[Candidate]:
    """Who is asked for keys: all that read the whole text."""
    return [c for c in field if c.role != "truncated"]


def text_of(request: EvaluateRequest, tokenize: Callable[[str], list[int]], length: int) -> Text:
    """The user's own text from its beginning; else what `ropewalk extend` holds out, and the rest for haystacks."""
    source, documents = documents_from(request.text, request.dataset)
    if request.text is None and request.dataset is None:
        return split_text(source, documents, tokenize, length)
    ids = opening(documents, tokenize, length)
    if len(ids) < length:
        have = f"{len(ids)} in {source}; name more with --text, or ask for fewer with --to"
        raise ConfigError(f"text must have at least {length} tokens, got {have}")
    return Text(torch.tensor(ids), torch.tensor(ids), source)


def lengths_of(track: Track) -> list[int]:
    """The lengths that are told: powers of two, the trained window and all of the text."""
    powers = {1 << n for n in range(SHORTEST.bit_length() - 1, track.target.bit_length())}
    return sorted(n for n in {*powers, track.window, track.target} if n <= track.target)


def passes(entrant: Candidate, track: Track) -> list[int]:
    """The lengths that need a pass of their own: one, unless positions depend on the served length."""
    longest = {for_length(entrant.encodings, n): n for n in lengths_of(track)}
    return [track.target] if entrant.role == "truncated" else sorted(longest.values())


def at_length(entrant: Candidate, length: int, track: Track) -> Candidate:
    """The entrant under the name of one of its passes."""
    return entrant if length == track.target else entrant._replace(name=f"{entrant.name} at {length} tokens")


def read(run: Run, entrant: Candidate) -> Iterator[tuple[int, Reading]]:
    """Every pass of one entrant with its length, the longest last."""
    for length in passes(entrant, run.subject.track):
        ids = run.subject.text.held_out[:length]
        yield length, run.read(STAGE, at_length(entrant, length, run.subject.track), ids, None)


def plan(request: ExtendRequest, track: Track, field: list[Candidate]) -> Iterator[Item]:
    """Everything that is read."""
    for c in field:
        sizes = [track.window] if c.role == "truncated" else passes(c, track)
        yield from (Item(STAGE, c.name, n) for n in sizes)
    # questions, and for passkeys the ends of documents
    cost = {"named-keys": 1.06, "passkey": 2.7}.get(request.retrieval)
    yield from (Item("retrieval", c.name, cost * track.target) for c in questioned(field) if cost)


def work_of(model: Any) -> Pace:
    """How the time of a pass grows with its length, in multiplications: enough for the share that is done."""
    config = model.config.get_text_config()
    size = sum(x.numel() for x in model.parameters())
    return Pace(size, config.num_hidden_layers * config.hidden_size)


def document(run: Run, request: EvaluateRequest, readings: list[list[tuple[int, Reading]]]) -> Figures:
    """All that follows from what was read."""
    subject, track, (first, *rivals) = run.subject, run.subject.track, run.subject.field
    config = subject.loaded.model.config.get_text_config()
    whole = {c.name: each[-1][1] for c, each in zip(subject.field, readings, strict=True)}
    return {
        "kind": "pretrained",
        "request": asdict(request),
        "model": request.model,
        "architecture": config.model_type,
        "trained_length": track.window,
        "length": track.target,
        "encoding": short(extended_layer(Candidate("", for_length(first.encodings, track.target)))),
        "text": subject.text.source,
        "readings": [told(run, c, each) for c, each in zip(subject.field, readings, strict=True)],
        "against": [x for c in rivals for x in differences(whole, first, c, track)],
        "cliff": numbers.cliff(whole, first.name, track) if rivals else None,
        "retrieval": retrieval(run, first),
        "notes": run.notes,
        "versions": {name: version(name) for name in ("ropewalk", "torch", "transformers")},
    }


def told(run: Run, entrant: Candidate, each: list[tuple[int, Reading]]) -> Figures:
    """One entrant."""
    track, (_, longest) = run.subject.track, each[-1]
    of_all = {} if entrant.role == "truncated" else dict(each)
    edges = [0, *lengths_of(track)] if of_all else []
    served = {for_length(entrant.encodings, n): r for n, r in of_all.items()}
    by_length = [(n, served[for_length(entrant.encodings, n)]) for n in edges[1:]]
    rows = [run.ledger.find(STAGE, at_length(entrant, n, track).name) for n, _ in each]
    return {
        "name": entrant.name,
        "role": entrant.role,
        "passes": list(of_all) or [track.window],
        "by_length": [{"length": n} | figures(r.between(1, n)) for n, r in by_length],
        "by_position": [{"start": a, "end": b} | figures(longest.between(a, b)) for a, b in pairwise(edges)],
        "blocks": numbers.blocks(longest, track),
        "seconds": sum(row["seconds"] for row in rows if row),
    }


def figures(losses: Losses) -> Figures:
    """A mean loss with its 95 % interval, or without one where too little was read."""
    found = numbers.figures(mean(losses))
    return {key: x if math.isfinite(x) else None for key, x in found.items()}


def differences(whole: dict[str, Reading], first: Candidate, rival: Candidate, track: Track) -> Iterator[Figures]:
    """The first entrant minus a baseline, inside the trained window and beyond it, on the tokens that both read."""
    edges = sorted({1, min(track.window, track.target), track.target})
    for start, end in pairwise(edges):
        found = numbers.difference(numbers.against(whole[first.name], whole[rival.name], start, end))
        if found is not None:
            begin = max(start, whole[rival.name].first)
            yield {"name": rival.name, "start": begin, "end": end} | found


def retrieval(run: Run, entrant: Candidate) -> Figures | None:
    """Keys found of those asked for, by how far they lay behind the question."""
    task = run.request.retrieval
    answers = numbers.answers_of(run.ledger, task, entrant.name)
    if not answers:
        return None

    def octave(answer: Answer) -> int:
        return (answer.length - answer.position).bit_length()

    groups = [(n, list(some)) for n, some in groupby(sorted(answers, key=octave), octave)]
    by_distance = [{"start": 1 << n - 1, "end": 1 << n} | numbers.share(some) for n, some in groups]
    return {"task": task, "total": numbers.share(answers), "by_distance": by_distance}
