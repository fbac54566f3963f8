"""`ropewalk generate`: the text of stock transformers as it comes, answers from one prefix, and clean ends."""

import io
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from conftest import Command
from ropewalk.generate.sampling import Sampler
from ropewalk.generate.session import Session

PROMPT = "The import statement binds a name"
EXACT = ("--dtype", "float32", "--temperature", 0, "--ignore-eos")
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} [me]{% endif %}"
)


def stock(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def greedy(folder: Path, ids: list[int], count: int) -> tuple[str, float]:
    """What stock transformers writes after ids, and its perplexity under the model."""
    model, tokenizer = stock(folder)
    told = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    whole = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **told)
    with torch.inference_mode():
        logprobs = model(whole).logits[0].log_softmax(-1)
    new = whole[0, len(ids) :]
    loss = -logprobs[len(ids) - 1 : -1].gather(1, new[:, None]).mean()
    before = tokenizer.decode(ids, skip_special_tokens=True)
    return tokenizer.decode(whole[0], skip_special_tokens=True)[len(before) :].rstrip("\ufffd"), math.exp(loss)


def test_a_prompt_is_gone_on_with(built: Path, tmp_path: Path, ropewalk: Command) -> None:
    ids = stock(built)[1](PROMPT).input_ids
    text, perplexity = greedy(built, ids, 30)
    files = ("--out", tmp_path / "text.txt", "--trace", tmp_path / "trace.jsonl")
    done = ropewalk("generate", built, PROMPT, *EXACT, "--max-new-tokens", 30, *files)
    assert (done.code, done.out) == (0, text + "\n")
    assert (tmp_path / "text.txt").read_text() == text
    *_, last = done.err.splitlines()
    for words in (
        f"{len(ids)} tokens read",
        "30 written",
        f"perplexity {perplexity:.2f}",
        "up to the limit",
        "text.txt",
    ):
        assert words in last
    (row,) = map(json.loads, (tmp_path / "trace.jsonl").read_text().splitlines())
    assert (row["tokens"], row["length"]) == (30, len(ids) + 29)
    assert math.isclose(math.exp(row["loss"]), perplexity, rel_tol=1e-5)
    assert 1e7 < row["resident_bytes"] < 1e11
    # a file is added to
    again = ropewalk("generate", built, PROMPT, *EXACT, "--max-new-tokens", 30, *files, "--json")
    assert (tmp_path / "text.txt").read_text() == text * 2
    found = json.loads(again.out)
    assert (found["text"], found["tokens"], found["stopped"], found["interrupted"]) == (text, 30, "limit", False)
    assert math.isclose(found["perplexity"], perplexity, rel_tol=1e-5)
    assert found["prompt_tokens"] == len(ids)
    assert math.isclose(found["tokens_per_second"] * found["seconds"], 30)
    assert found["peak_memory_bytes"] > 1e7


def test_a_prompt_from_elsewhere(
    built: Path, tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_bytes(PROMPT.encode() + b"\r\n")
    words = (*EXACT, "--max-new-tokens", 5)
    wanted = ropewalk("generate", built, PROMPT, *words).out
    assert ropewalk("generate", built, "--file", tmp_path / "prompt.txt", *words).out == wanted
    for given in (("-",), ("--file", "-")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROMPT.encode())))
        assert ropewalk("generate", built, *given, *words).out == wanted


def test_a_seed_makes_the_text(built: Path, ropewalk: Command) -> None:
    def text(*words: object) -> str:
        return ropewalk("generate", built, PROMPT, "--ignore-eos", "--max-new-tokens", 12, *words).out

    assert text() == text("--seed", 0, "--temperature", 0.7) != text("--seed", 1)
    # a limit of one choice is the likeliest
    assert text("--top-k", 1, "--seed", 3) == text("--temperature", 0) == text("--top-p", 1e-9)


def test_a_string_ends_the_text(built: Path, ropewalk: Command) -> None:
    text = ropewalk("generate", built, PROMPT, *EXACT, "--max-new-tokens", 40).out
    end = text[20:23]
    found = json.loads(ropewalk("generate", built, PROMPT, *EXACT, "--stop", end, "--json").out)
    assert (found["text"], found["stopped"]) == (text[: text.index(end)], "stop string")


def with_template(folder: Path) -> Path:
    """The same model with a chat template, and an end of text that it never writes."""
    tokenizer = stock(folder)[1]
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_special_tokens({"eos_token": AddedToken("</s>", special=True)})
    tokenizer.save_pretrained(folder)
    return folder


def test_questions_share_one_prefix(model: Path, prose: list[str], tmp_path: Path, ropewalk: Command) -> None:
    with_template(model)
    (tmp_path / "book.txt").write_text(prose[0][:600])
    (tmp_path / "questions.txt").write_text("Which one?\n\n  Why so? \n")
    read = list[int]()
    with pytest.MonkeyPatch.context() as patch:
        whole = Session.read

        def counted(self: Session, ids: Any, *rest: Any) -> torch.Tensor:
            read.append(torch.as_tensor(ids).shape[-1])
            return whole(self, ids, *rest)

        patch.setattr(Session, "read", counted)
        words = ("--file", tmp_path / "book.txt", "--ask", "What is it?", "--ask-file", tmp_path / "questions.txt")
        said = {}
        for chat in ("--chat", "--no-chat"):
            limit = ("--max-new-tokens", 8, "--dtype", "float32", "--ignore-eos", "--json")
            said[chat] = json.loads(ropewalk("generate", model, *words, *limit, chat).out)
    tokenizer = stock(model)[1]
    forms = {
        "--chat": (f"[user] {prose[0][:600]}\n\n", " [me]"),
        "--no-chat": (f"{prose[0][:600]}\n\nQuestion: ", "\nAnswer:"),
    }
    questions = ["What is it?", "Which one?", "Why so?"]
    for chat, (before, after) in forms.items():
        shared = tokenizer(before).input_ids
        assert said[chat]["prompt_tokens"] == len(shared)
        assert read.count(len(shared)) == 1
        assert [a["question"] for a in said[chat]["answers"]] == questions
        for a in said[chat]["answers"]:
            part = tokenizer(a["question"] + after, add_special_tokens=False).input_ids
            text, perplexity = greedy(model, shared + part, 8)
            assert (a["text"], a["question_tokens"]) == (text, len(part))
            assert math.isclose(a["perplexity"], perplexity, rel_tol=1e-5)
    # the template is what happens where there is one, and answers stand under their questions
    told = ropewalk("generate", model, *words, *limit[:-1], "--out", tmp_path / "answers.txt")
    wanted = "".join(f"Question: {a['question']}\nAnswer: {a['text']}\n\n" for a in said["--chat"]["answers"])
    assert told.out == (tmp_path / "answers.txt").read_text() == wanted
    for line in ("question 3: ", "once for all questions"):
        assert line in told.err


def test_a_chat_template_is_for_those_who_ask(model: Path, ropewalk: Command) -> None:
    with_template(model)
    words = (*EXACT, "--max-new-tokens", 8, "--json")
    tokenizer = stock(model)[1]
    for chat, text in (((), PROMPT), (("--chat",), f"[user] {PROMPT} [me]")):
        found = json.loads(ropewalk("generate", model, PROMPT, *words, *chat).out)
        ids = tokenizer(text).input_ids
        assert (found["prompt_tokens"], found["text"]) == (len(ids), greedy(model, ids, 8)[0])


def test_who_leaves_the_trained_window_is_told(built: Path, prose: list[str], ropewalk: Command) -> None:
    text = stock(built)[1].decode(stock(built)[1](prose[0]).input_ids[:508])
    says = "longer than the 512 tokens that"
    words = ("generate", built, text, *EXACT, "--max-new-tokens")
    assert says not in ropewalk(*words, 5).err
    done = ropewalk(*words, 12)
    assert done.err.count(says) == 1
    assert '--encoding "Yarn(2, 512)" reads twice as many' in done.err
    assert ropewalk("generate", built, text + PROMPT, *EXACT, "--max-new-tokens", 2).err.count(says) == 1
    bent = ropewalk(*words, 12, "--encoding", "Yarn(2, 512)")
    assert (bent.code, says in bent.err) == (0, False)
    assert bent.out != done.out


LONG = """
import sys
from ropewalk.cli.__main__ import main
sys.argv = ["ropewalk", *sys.argv[1:]]
main()
"""


def test_control_c_keeps_what_was_written(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.txt"
    words = ["generate", str(built), PROMPT, "--max-new-tokens", "none", "--ignore-eos", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # where the tests run in the background the signal is ignored, and children would do as their parent
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while not (out.exists() and len(out.read_bytes()) > 20) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, seen = process.communicate(timeout=300)
    assert process.returncode == 130
    assert len(said) > 10
    assert said == out.read_text(encoding="utf-8") + "\n"
    loading, last = seen.splitlines()
    assert loading.startswith("loading ")
    assert last.startswith("ropewalk: stopped; ")
    assert f"what was written is in {out}" in last


def test_control_c_with_json_tells_what_there_is(
    built: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, draw = list[int](), Sampler.draw

    def stopping(self: Sampler, *given: Any) -> Any:
        draws.append(1)
        if len(draws) == 5:
            raise KeyboardInterrupt
        return draw(self, *given)

    monkeypatch.setattr(Sampler, "draw", stopping)
    words = (*EXACT, "--max-new-tokens", 3, "--ask", "What?", "--ask", "Who?", "--ask", "Why?", "--json")
    done = ropewalk("generate", built, PROMPT, *words)
    found = json.loads(done.out)
    assert (done.code, found["interrupted"]) == (130, True)
    assert [(a["tokens"], a["stopped"]) for a in found["answers"]] == [(3, "limit"), (1, "interrupted")]


def test_control_c_before_anything_is_written(
    built: Path, tmp_path: Path, ropewalk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "read", stopping)
    done = ropewalk("generate", built, PROMPT, "--out", tmp_path / "text.txt", "--trace", tmp_path / "trace.jsonl")
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[1:] == ["ropewalk: stopped before anything was written"]
    assert not list(tmp_path.iterdir())


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "nothing": ((), "a prompt must be given: "),
    "two prompts": ((PROMPT, "--file", "x.txt"), "--file must be left out where a prompt is given, got 'x.txt'"),
    "empty": (("  ",), "the prompt must be some text, got '  '"),
    "no such file": (
        ("--file", "/nowhere/x"),
        "--file must be a file that can be read, got '/nowhere/x': No such file",
    ),
    "not UTF-8": (("--file", "{bytes}"), "--file must be UTF-8, got "),
    "no questions": ((PROMPT, "--ask-file", "{empty}"), "--ask-file must be a file with a question on each line, got "),
    "an empty question": ((PROMPT, "--ask", " "), "a question must be some text, got "),
    "cold": ((PROMPT, "--temperature", -1), "Sampling.temperature must be a number of at least 0, got -1.0"),
    "no share": ((PROMPT, "--top-p", 0), "Sampling.top_p must be a number above 0 and of at most 1, got 0.0"),
    "no choice": ((PROMPT, "--top-k", 0), "Sampling.top_k must be a whole number of at least 1, got 0"),
    "nothing new": ((PROMPT, "--max-new-tokens", 0), "--max-new-tokens must be a whole number of at least 1, or none"),
    "some new": (
        (PROMPT, "--max-new-tokens", "some"),
        "--max-new-tokens must be a whole number of at least 1, or none",
    ),
    "no string": ((PROMPT, "--stop", ""), "--stop must be some text, got ('',)"),
    "no template": ((PROMPT, "--chat"), "--chat needs a chat template, and the tokenizer of "),
    "unknown": ((PROMPT, "--encoding", "Yern(2, 512)"), "unknown name 'Yern'; did you mean 'Yarn'?"),
    "no scaling": ((PROMPT, "--encoding", "7"), "--encoding must be a scaling such as Yarn("),
    "too wide": ((PROMPT, "--encoding", "Rotary(64)"), "Rotary.dim must be 16, the channels that this model rotates"),
    "too small groups": (
        (PROMPT, "--encoding", "SelfExtend(window=500, group=2)", "--max-new-tokens", 600),
        "SelfExtend.group must be at least so large that ",
    ),
    "nowhere to write": ((PROMPT, "--out", "/nowhere/x"), "cannot write /nowhere/x: it must be a file in a folder"),
    "a folder": ((PROMPT, "--trace", "{folder}"), "cannot write "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_generated(case: str, built: Path, tmp_path: Path, ropewalk: Command) -> None:
    given, says = REFUSED[case]
    (tmp_path / "bytes").write_bytes(b"caf\xe9")
    (tmp_path / "empty").write_text("\n \n")
    places = {"bytes": tmp_path / "bytes", "empty": tmp_path / "empty", "folder": tmp_path}
    words = [w.format(**places) if isinstance(w, str) else w for w in given]
    out = () if "--out" in words else ("--out", tmp_path / "out.txt")
    done = ropewalk("generate", built, *words, *out)
    assert (done.code, done.out) == (2, "")
    *before, last = done.err.splitlines()
    assert last.startswith("ropewalk: ")
    assert says in last
    assert all(line.startswith("loading ") for line in before)
    assert not (tmp_path / "out.txt").exists()


def test_help_shows_examples(ropewalk: Command) -> None:
    done = ropewalk("generate", "--help")
    assert (done.code, done.err) == (0, "")
    for words in ("Examples", 'ropewalk generate demo "Once upon a time', "only with --chat"):
        assert words in done.out
    assert "generate" in ropewalk("--help").out
