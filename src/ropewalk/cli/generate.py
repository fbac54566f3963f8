"""`ropewalk generate MODEL`: text from a model as it comes, without end, or answers about a long document."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from ropewalk.cli.bar import Bar
from ropewalk.errors import ConfigError, require

EXAMPLES = """
Examples, each a line:

  ropewalk generate demo "Once upon a time there was a ropemaker"

  ropewalk generate demo "Write a short story about a lighthouse." --chat --max-new-tokens none

  ropewalk generate demo --file book.txt --encoding "Yarn(2, 8192)" --ask "Who is Anna?" --ask "Where does she live?"

  ropewalk generate ./my-model - --temperature 0 --json < prompt.txt

Text goes to standard output as it comes, everything else to standard error. Sampling is at temperature 0.7, and with
--ask always the likeliest token; the same seed writes the same text. A document with questions is read once, and every
answer goes on from there. Control-C ends the text: what was written stays, and with --json is told, with exit code 130.

The chat template of the model is applied with --ask where there is one, and to a prompt only with --chat.

A scaling is added to the positions that the model has. Exit code 2: bad input.
"""
TEMPERATURE = 0.7  # of a text; answers are the likeliest
STOPPED = 130
SHORT = 1024  # tokens that are read in a moment


def generate_command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub name, a .gguf file, or demo.")],
    prompt: Annotated[str | None, typer.Argument(help="What the text begins with; - reads standard input.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Read the prompt or document from here; - is standard input.")
    ] = None,
    ask: Annotated[list[str] | None, typer.Option(help="A question about the document; may be given again.")] = None,
    ask_file: Annotated[str | None, typer.Option(help="A file with a question on each line.")] = None,
    encoding: Annotated[
        str | None, typer.Option(help="A scaling or an encoding; the model's own if not given.")
    ] = None,
    max_new_tokens: Annotated[str, typer.Option(help="Tokens of each text at most; none is without limit.")] = "256",
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token. 0.7 if not given, with --ask 0.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that have this probability together.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes what was said less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="For the draws.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends the text; may be given again.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Write on where the model would end.")] = False,
    chat: Annotated[bool | None, typer.Option(help="Apply the model's chat template, or not.")] = None,
    out: Annotated[str | None, typer.Option(help="A file to add the text to as it is written.")] = None,
    trace: Annotated[str | None, typer.Option(help="A file for memory and loss, a line every 256 new tokens.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead, at the end.")] = False,
) -> None:
    """Write on from a prompt as long as you like, or answer questions about a long document."""
    from ropewalk.generate.request import GenerateRequest
    from ropewalk.generate.sampling import Sampling

    questions = asked(ask, ask_file)
    text = given(prompt, file)
    heat = temperature if temperature is not None else 0.0 if questions else TEMPERATURE
    sampling = Sampling(heat, top_k, top_p, repetition_penalty, seed)
    request = GenerateRequest(
        *(model, text, questions, encoding, chat, sampling, limit(max_new_tokens)),
        *(tuple(stop or ()), ignore_eos, dtype, out, trace),
    )
    carry_out(request, as_json)


def given(prompt: str | None, file: str | None) -> str:
    """The prompt, from wherever it comes."""
    from ropewalk.generate.request import read_text

    require(prompt is None or file is None, "--file", "left out where a prompt is given", file)
    if prompt is not None and prompt != "-":
        return prompt
    if file is None and prompt is None:
        raise ConfigError('a prompt must be given: ropewalk generate MODEL "Once upon a time", or --file FILE')
    return read_text(file or "-", "--file")


def asked(ask: list[str] | None, ask_file: str | None) -> tuple[str, ...]:
    """The questions, those of the file last."""
    from ropewalk.generate.request import read_text

    lines = [] if ask_file is None else read_text(ask_file, "--ask-file").splitlines()
    more = [line.strip() for line in lines if line.strip()]
    require(ask_file is None or bool(more), "--ask-file", "a file with a question on each line", ask_file)
    return (*(ask or ()), *more)


def limit(text: str) -> int | None:
    """Tokens at most, or None for no limit."""
    if text == "none":
        return None
    require(text.isdecimal() and int(text) > 0, "--max-new-tokens", "a whole number of at least 1, or none", text)
    return int(text)


def carry_out(request: Any, as_json: bool) -> None:
    """The job, and what is said of it."""
    found = written(request, as_json)
    if as_json:
        print(json.dumps(found))
    elif not request.questions:
        print()
    for line in lines(found, request.out):
        print(line, file=sys.stderr)
    if found["interrupted"]:
        sys.exit(STOPPED)


def written(request: Any, as_json: bool) -> dict[str, Any]:
    """The job, with a bar while the prompt is read and then the text as it comes."""
    from ropewalk.generate.job import Listener, generate

    with ExitStack() as shown:
        bar = shown.enter_context(Bar())

        class Seen(Listener):
            writing = False

            def say(self, line: str) -> None:
                # on a terminal the text has not come to the end of its line
                bar.say(f"\n{line}" if self.writing and bar.console.is_terminal else line)

            def reading(self, done: int, total: int) -> None:
                if total > SHORT:
                    bar.tell(done / total, f"reading {total:,} tokens")

            def read(self) -> None:
                # text and a bar cannot share a terminal
                shown.close()

            def text(self, piece: str) -> None:
                self.writing = True
                if not as_json:
                    print(piece, end="", flush=True)

        try:
            return generate(request, Seen())
        except KeyboardInterrupt:
            shown.close()
            bar.say("ropewalk: stopped before anything was written")
            sys.exit(STOPPED)


def lines(found: dict[str, Any], out: str | None) -> Iterator[str]:
    """What came of it: one line for a text, or for the document and for each answer."""
    read = f"{found['prompt_tokens']:,} tokens read in {found['prefill_seconds']:,.1f} s"
    kept = f"; what was written is in {out}" if out else ""
    begin = "ropewalk: stopped; " if found["interrupted"] else ""
    memory = f"{found['peak_memory_bytes'] / 2**30:.2f} GiB at most"
    if "answers" not in found:
        yield f"{begin}{read}, {told(found)}; {memory}{kept}"
        return
    for i, answer in enumerate(found["answers"], 1):
        asked = f"{answer['question_tokens']} tokens read in {answer['read_seconds']:,.1f} s"
        yield f"question {i}: {asked}, {told(answer)}"
    yield f"{begin}{read}, once for all questions; {memory}{kept}"


def told(text: dict[str, Any]) -> str:
    """Speed and perplexity of one text."""
    if not text["tokens"]:
        return "none written"
    rate, seconds = text["tokens_per_second"], text["seconds"]
    wrote = f"{text['tokens']:,} written in {seconds:,.1f} s ({rate:,.1f} a second)"
    return f"{wrote}, perplexity {text['perplexity']:.2f} under the model itself, up to the {text['stopped']}"


generate_command.__doc__ = f"{generate_command.__doc__}\n{EXAMPLES}"
