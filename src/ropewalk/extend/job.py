"""The main job: race, proof on held-out text, retrieval; every finished reading is a row, and a killed run goes on."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ropewalk.evaluate.document import attached
from ropewalk.evaluate.forward import Trunk
from ropewalk.evaluate.run import Ledger, check_writable
from ropewalk.evaluate.tasks.passkey import NamedKeys, Passkey, ask_named_keys, ask_passkey
from ropewalk.evaluate.text import Text, documents_from, split_text
from ropewalk.extend import candidates as field_of
from ropewalk.extend.candidates import Candidate, reaching_layers
from ropewalk.extend.plan import ExtendRequest, Item, Progress, expected, measure_pace
from ropewalk.extend.race import Reader, Reading, Standing, Track, judge, ranking
from ropewalk.formats import hf
from ropewalk.models.attach import is_table
from ropewalk.models.describe import describe, refuse_reordered
from ropewalk.models.load import Loaded, load
from ropewalk.spectrum import for_length


class Watch:
    """What a run tells the one who waits; this one listens to nothing."""

    def say(self, line: str) -> None:
        """Something worth a line."""

    def plan(self, items: list[Item], seconds: float) -> None:
        """What will be read, and about how long that takes."""

    def at(self, stage: str, name: str, tokens: int, share: float) -> None:
        """A reading of a stage has come this far; `share` of the whole run is done."""


@dataclass
class Subject:
    """The model and text of one run."""

    loaded: Loaded
    track: Track
    text: Text
    field: list[Candidate]
    tokenize: Callable[[str], list[int]]

    def entrant(self, name: str) -> Candidate:
        return next(c for c in self.field if c.name == name)


@dataclass
class Run:
    """A request being carried out: where rows go, who watches, how far it is."""

    request: ExtendRequest
    subject: Subject
    ledger: Ledger
    watch: Watch
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Keep a line for the report, once."""
        if line in self.notes:
            return
        self.notes.append(line)
        self.ledger.add({"kind": "note", "name": line})
        self.watch.say(line)

    def read(self, stage: str, entrant: Candidate, ids: torch.Tensor, standing: Standing | None) -> Reading:
        """One reading, from its row if it is finished; with `standing` it stops as soon as it is out."""
        kind = stage.replace(" ", "-")
        if (row := self.ledger.find(kind, entrant.name)) is not None:
            self.progress.close(stage)
            return Reading(self.ledger.losses(row), row["first"], row["outcome"], row["reason"])
        reader = Reader(self.subject.loaded.model, self.subject.track, self.note, self.request.chunk)

        def stop(reading: Reading) -> Reading | None:
            return None if standing is None else judge(reading, standing, self.subject.track, entrant.role)

        def seen(tokens: int) -> None:
            nonlocal read
            read = tokens
            self.watch.at(stage, entrant.name, tokens, self.progress.at(tokens))

        read, start = 0, time.perf_counter()
        reading = reader.read(entrant, ids, stop, seen)
        self.progress.close(stage)
        seconds = time.perf_counter() - start
        place = f"{kind}-{len(self.ledger.of(kind)):02d}"
        row = {"kind": kind, "name": entrant.name, "tokens": read, "first": reading.first, "seconds": seconds}
        row |= {"outcome": reading.outcome, "reason": reading.reason, "encoding": repr(entrant.encodings[0])}
        self.ledger.add(row | {"losses": self.ledger.keep_losses(place, reading.losses), "role": entrant.role})
        return reading


def extend(request: ExtendRequest, watch: Watch) -> Run:
    """Measure everything the request asks for; the rows in its folder then hold all that a summary needs.

    Raises RopewalkError before anything is written if the request cannot be carried out.
    """
    out = Path(request.out)
    check_writable(out)
    watch.say(f"loading {request.model}")
    subject = prepare(request, load(request.model, request.dtype, watch.say))
    ledger = Ledger(out, settings(request, subject))
    pace = measure_pace(subject.loaded.model, subject.text.search)
    track = subject.track
    items = expected([c.name for c in subject.field], track.window, track.target, request)
    watch.plan(items, sum(pace.seconds(i.tokens) for i in items))
    run = Run(request, subject, ledger, watch, Progress(items, pace), [r["name"] for r in ledger.of("note")])
    finalists = [subject.field[0]] if request.method else race(run)
    chosen = prove(run, finalists)
    if ledger.find("chosen", "") is None:
        ledger.add({"kind": "chosen", "name": "", "chosen": chosen.name if chosen else None})
    for entrant in [chosen, subject.field[1]]:
        if entrant is not None:
            retrieve(run, entrant)
    return run


def prepare(request: ExtendRequest, loaded: Loaded) -> Subject:
    """Settle what is read and what competes; raises ConfigError for a target or text that does not fit."""
    refuse_reordered(describe(loaded.folder))
    config = loaded.model.config.get_text_config()
    window = config.max_position_embeddings
    reaching = reaching_layers(config, window)
    rivals = field_of.field(loaded.encodings, window, request.to, reaching, request.method, request.methods)
    check_writes(loaded, rivals[0], request.to)
    task_of(request)

    def tokenize(text: str) -> list[int]:
        return loaded.tokenizer(text, add_special_tokens=False).input_ids

    text = split_text(*documents_from(request.text, request.dataset), tokenize, request.to)
    return Subject(loaded, Track(window, request.to, request.price), text, rivals, tokenize)


def check_writes(loaded: Loaded, candidate: Candidate, length: int) -> None:
    """Fail before hours of measurement, not after, if a candidate does not fit the model or a checkpoint."""
    with attached(loaded.model, for_length(candidate.encodings, length)):
        if all(map(is_table, candidate.encodings)):
            hf.write(candidate.encodings, loaded.model.config.to_dict(), length)


def task_of(request: ExtendRequest) -> NamedKeys | Passkey | None:
    """The retrieval that is asked for. Raises ConfigError where the target is too short for its grid."""
    if request.retrieval == "passkey":
        return Passkey(request.to, request.seed)
    return None if request.retrieval == "none" else NamedKeys(request.to, seed=request.seed)


def settings(request: ExtendRequest, subject: Subject) -> dict[str, Any]:
    """All that a row depends on; a run with others must not go on in the same folder."""
    streams = b"".join(ids.numpy().tobytes() for ids in (subject.text.search, subject.text.held_out))
    weights = sorted(subject.loaded.folder.glob("*.safetensors"))
    return {
        "model": request.model,
        "weights": [[f.name, f.stat().st_size] for f in weights],
        "to": request.to,
        "method": request.method,
        "methods": request.methods,
        "price": request.price,
        "finalists": request.finalists,
        "retrieval": request.retrieval,
        "dtype": request.dtype,
        "seed": request.seed,
        "text": f"{subject.text.source} {hashlib.sha256(streams).hexdigest()[:16]}",
    }


def race(run: Run) -> list[Candidate]:
    """All entrants along the search text; the finalists, best first, or none that is affordable."""
    track, search = run.subject.track, run.subject.text.search
    unmodified, order, finished = None, list[str](), dict[str, Reading]()
    for entrant in run.subject.field:
        leader = finished[order[0]] if order else None
        reading = run.read("race", entrant, search, Standing(unmodified, leader))
        if entrant.role == "unmodified":
            unmodified = reading
        if entrant.role != "truncated" and not reading.outcome:
            finished[entrant.name] = reading
        # the first candidate ran before there was anything to hold its price against
        order = ranking(finished, unmodified, track)
    entrants = [run.subject.entrant(name) for name in order]
    return [c for c in entrants if c.role == "candidate"][: run.request.finalists]


def prove(run: Run, finalists: list[Candidate]) -> Candidate | None:
    """The finalists and both baselines on held-out text; the affordable one that reads it best, or None."""
    track, held_out = run.subject.track, run.subject.text.held_out
    unmodified = run.read("held-out text", run.subject.field[1], held_out, None)
    run.read("held-out text", run.subject.field[2], held_out, None)
    readings = {c.name: run.read("held-out text", c, held_out, None) for c in finalists}
    if run.request.method:
        return finalists[0]
    return next((run.subject.entrant(name) for name in ranking(readings, unmodified, track)), None)


def retrieve(run: Run, entrant: Candidate) -> None:
    """Fill the retrieval grid of one candidate; a row for every length, or every key position, as it is known."""
    request, subject, task = run.request, run.subject, task_of(run.request)
    kind = f"retrieval {request.retrieval}"
    done = [row["at"] for row in run.ledger.of(kind, entrant.name)]
    trunk = Trunk(subject.loaded.model, request.chunk, run.note)
    if isinstance(task, Passkey):
        groups, todo = ask_passkey(trunk, task, subject.tokenize, done), list(task.cells())
    elif task is not None:
        hay = subject.text.search.tolist()
        groups, todo = ask_named_keys(trunk, task, subject.tokenize, hay, done), task.lengths()
    else:
        return
    if set(todo) <= set(done):
        run.progress.close("retrieval")
        return
    with attached(subject.loaded.model, for_length(entrant.encodings, request.to)):
        start = time.perf_counter()
        for place, group in zip([t for t in todo if t not in done], groups, strict=True):
            row = {"kind": kind, "name": entrant.name, "at": place, "seconds": time.perf_counter() - start}
            run.ledger.add(row | {"answers": [list(a) for a in group]})
            start = time.perf_counter()
            run.watch.at("retrieval", entrant.name, trunk.length, run.progress.at(trunk.length))
    run.progress.close("retrieval")
