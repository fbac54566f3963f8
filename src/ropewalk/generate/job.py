"""What `ropewalk generate` does: load, read, write, and say what came of it.

The document:

    kind            "generated"
    model, encoding, trained_length, dtype, sampling
    prompt_tokens   what was read before anything was written; with questions what all of them share
    prefill_seconds
    text, tokens, seconds, tokens_per_second, perplexity, stopped
    answers         [{question, question_tokens, read_seconds, text, tokens, ...}], where questions were asked
    interrupted     whether control-C ended it
    peak_memory_bytes

`tokens` are those written. `perplexity` is the model's own of what it wrote, at temperature 1; null where nothing was.
`stopped` is "end of text", "stop string", "limit" or "interrupted". Without questions there are no answers, with them
the text stands in the answers.
"""

import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from torch import Tensor

from ropewalk.errors import RopewalkError
from ropewalk.extend.candidates import for_model
from ropewalk.extend.outcome import peak_memory
from ropewalk.generate.prompt import Prompt, tokens_of
from ropewalk.generate.request import GenerateRequest
from ropewalk.generate.session import Session
from ropewalk.generate.trace import Trace, opened, put
from ropewalk.generate.write import Step, Stop, end_of_text, write
from ropewalk.models.attach import Encoding
from ropewalk.models.describe import describe, refuse_reordered
from ropewalk.models.load import Loaded, load

INTERRUPTED = "interrupted"


class Listener:
    """Who is told while a job goes on; this one hears nothing."""

    def say(self, line: str) -> None:
        """Something worth a line."""

    def reading(self, done: int, total: int) -> None:
        """So many tokens of the prompt are read."""

    def read(self) -> None:
        """The prompt is read, and text follows."""

    def text(self, piece: str) -> None:
        """Some more of the text."""


@dataclass
class Written:
    """One text as it grows."""

    pieces: list[str] = field(default_factory=list)
    tokens: int = 0
    loss: float = 0.0  # of all tokens together, in nats
    seconds: float = 0.0
    stopped: str = "limit"

    def add(self, step: Step) -> float:
        """One more token; its loss."""
        loss = -float(step.logprobs[0])
        self.pieces.append(step.text[0])
        self.tokens, self.loss = self.tokens + 1, self.loss + loss
        return loss

    def figures(self) -> dict[str, Any]:
        """What the document says of it."""
        return {
            "text": "".join(self.pieces),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else None,
            "perplexity": math.exp(self.loss / self.tokens) if self.tokens else None,
            "stopped": self.stopped,
        }


@dataclass
class Job:
    """A model that has read its prompt, and where text goes."""

    request: GenerateRequest
    session: Session
    listener: Listener
    window: int | None  # beyond so many tokens the model was not trained, and nothing is done about it
    trace: Trace
    file: FileIO | None

    def put(self, piece: str) -> None:
        """Text for those who listen; it is in the file when they hear of it."""
        if piece and self.file:
            put(self.file, piece)
        if piece:
            self.listener.text(piece)

    def write(self, session: Session, logits: Tensor, strings: Sequence[str]) -> Written:
        """One text from `logits` to its end, or until it is interrupted."""
        request, out = self.request, Written()
        stop = Stop((*request.stop, *strings), () if request.ignore_eos else end_of_text(session.loaded))
        begun = time.perf_counter()
        try:
            for step in write(session, logits, request.sampling, stop, request.max_new_tokens):
                loss = out.add(step)
                self.put(step.text[0])
                self.trace.add(loss, session.length)
                self.window = warned(self.listener, request.model, session.length, self.window)
                if step.finished[0]:
                    out.stopped = "end of text" if int(step.ids[0]) in stop.ids else "stop string"
        except KeyboardInterrupt:
            out.stopped = INTERRUPTED
        out.seconds = time.perf_counter() - begun
        return out


def generate(request: GenerateRequest, listener: Listener) -> dict[str, Any]:
    """Write what is asked for and return the document; see the top of this file.

    Raises RopewalkError before anything is written if the request cannot be carried out. KeyboardInterrupt while text
    is written ends it: the document then holds what there is.
    """
    for path in (request.out, request.trace):
        check_writable(path)
    listener.say(f"loading {request.model}")
    loaded = load(request.model, request.dtype, listener.say)
    refuse_reordered(describe(loaded.folder))
    prompt = tokens_of(request, loaded.tokenizer)
    encodings = positions(request, loaded, len(prompt.shared) + (request.max_new_tokens or 0))
    window = None if encodings else int(loaded.model.config.get_text_config().max_position_embeddings)
    window = warned(listener, request.model, len(prompt.shared), window)
    with Session(loaded, encodings) as session:
        begun = time.perf_counter()
        logits = session.read(prompt.shared, listener.reading)
        prefill = time.perf_counter() - begun
        listener.read()
        out = nullcontext() if request.out is None else opened(request.out, "ab")
        with Trace(request.trace) as trace, out as file:
            job = Job(request, session, listener, window, trace, file)
            found = answers(job, prompt) if prompt.parts else one_text(job, logits)
    told = {"kind": "generated", "model": request.model, "encoding": repr((encodings or loaded.encodings)[0])}
    told |= {"dtype": request.dtype, "trained_length": loaded.trained_length, "sampling": asdict(request.sampling)}
    told |= {"prompt_tokens": len(prompt.shared), "prefill_seconds": prefill}
    return told | found | {"peak_memory_bytes": peak_memory()}


def warned(listener: Listener, model: str, length: int, window: int | None) -> int | None:
    """Say that a text of `length` tokens is beyond what the model was trained on; the window, or None once said."""
    if window is None or length <= window:
        return window
    line = f"the text is now longer than the {window:,} tokens that {model} was trained on, and may fall apart; "
    ways = f'--encoding "Yarn(2, {window})" reads twice as many, "StreamingLLM(recent=1020)" has no end'
    listener.say(line + ways)
    return None


def answers(job: Job, prompt: Prompt) -> dict[str, Any]:
    """Every question answered from the document that was read once."""
    found: list[dict[str, Any]] = []
    try:
        for question, part in zip(job.request.questions, prompt.parts, strict=True):
            found.append({"question": question} | answer(job, question, part, prompt.stop))
            if found[-1]["stopped"] == INTERRUPTED:
                break
    except KeyboardInterrupt:
        return {"answers": found, "interrupted": True}
    return {"answers": found, "interrupted": found[-1]["stopped"] == INTERRUPTED}


def answer(job: Job, question: str, part: Tensor, strings: Sequence[str]) -> dict[str, Any]:
    """One question answered, beside the document's own session."""
    job.put(f"Question: {question}\nAnswer: ")
    with job.session.branch() as branch:
        begun = time.perf_counter()
        logits = branch.read(part)
        seconds = time.perf_counter() - begun
        written = job.write(branch, logits, strings)
    job.put("\n\n")
    return {"question_tokens": len(part), "read_seconds": seconds} | written.figures()


def one_text(job: Job, logits: Tensor) -> dict[str, Any]:
    """The prompt gone on with."""
    written = job.write(job.session, logits, ())
    return written.figures() | {"interrupted": written.stopped == INTERRUPTED}


def positions(request: GenerateRequest, loaded: Loaded, length: int) -> tuple[Encoding, ...] | None:
    """One encoding per layer as asked for; None for the model's own.

    Raises ConfigError for one that does not fit the model, or that cannot hold a text of `length` tokens.
    """
    if request.encoding is None:
        return None
    return for_model(request.encoding, loaded, length).encodings


def check_writable(path: str | None) -> None:
    """Raise RopewalkError unless that file could be written, without making it."""
    if path is None:
        return
    file = Path(path).expanduser()
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise RopewalkError(f"cannot write {path}: it must be a file in a folder that can be written")
