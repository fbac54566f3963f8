"""`ropewalk reason` as a user runs it: on a tiny model, on servers that misbehave, and on a real llama.cpp."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from fake_server import Reply, completions, serving
from ropewalk.evaluate.run import read_rows
from ropewalk.models.find import demo_file
from ropewalk.reason.problems import addition

RIGHT = 0.6


def oracle(request: dict[str, Any], number: int) -> Reply:
    """Knows every sum of a prompt; drawn chains are right six times of ten, and else all wrong in one way."""
    words = request["prompt"].rpartition("What is ")[2].split("?")[0].split(" + ")
    total = sum(map(int, words))
    texts = []
    for i in range(request["n"]):
        draw = random.Random(f"{total} {request['seed'] + i}").random()
        wrong = request["temperature"] == 0 or draw > RIGHT
        texts.append(f" Well. The answer is {total - wrong}.")
    return completions(texts, prompt_tokens=50)


def sums(url: str, out: Path, *more: object) -> tuple[object, ...]:
    given = ("--server", url, "--lengths", "2,5", "--problems", 6, "--samples", 9, "--out", out)
    return ("reason", "m", *given, *more)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.reason.http.PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than everything else."""
    monkeypatch.setattr("ropewalk.report.reason.write_reason_report", lambda _, folder: [folder / "report.html"])


def test_a_run_on_a_server_is_what_the_server_said(tmp_path: Path, ropewalk: Command) -> None:
    out = tmp_path / "out"
    with serving(oracle) as fake:
        done = ropewalk(*sums(fake.url, out), "--json")
    # greedy answers are all wrong, most votes are right
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((out / "summary.json").read_text())
    (task,) = found["tasks"]
    rows = [r for r in read_rows(out / "rows.jsonl") if r["kind"] == "sample"]
    assert len(rows) == 2 * 6 * (1 + 1 + 9)
    assert all(r["correct"] == (r["answer"] == r["truth"]) for r in rows)
    drawn = [r for r in rows if r["method"] == "vote"]
    assert task["curve"][0]["accuracy"] == pytest.approx(sum(r["correct"] for r in drawn) / len(drawn))
    assert [p["n"] for p in task["curve"]] == [1, 2, 5, 9]
    assert task["methods"]["direct"]["total"]["found"] == task["methods"]["cot"]["total"]["found"] == 0
    by_hand = 0
    for name in {r["name"] for r in drawn}:
        right = sum(r["correct"] for r in drawn if r["name"] == name)
        by_hand += right > 4
    vote = task["methods"]["vote"]
    assert vote["total"]["found"] == by_hand > 6
    assert (vote["tokens_per_problem"], vote["tokens_per_completion"]) == (9 * 5, 5)
    assert task["weighted"]["equal"] == task["weighted"]["mean"] == vote["total"]
    assert found["verdict"]["gained"]
    assert "a vote over chains clearly better" in found["verdict"]["text"]
    assert [x["length"] for x in task["digits"]["vote"]["by_length"]] == [2, 5]
    page = (out / "report.html").read_text()
    assert found["verdict"]["text"] in page
    assert (out / "figures" / "lengths.png").stat().st_size > 5000
    assert (out / "figures" / "votes.png").stat().st_size > 5000
    assert "by a vote over 9" in page
    assert "sk-" not in page


@pytest.mark.usefixtures("undrawn")
def test_the_same_command_again_asks_for_nothing_and_more_samples_only_for_those(
    tmp_path: Path, ropewalk: Command
) -> None:
    out = tmp_path / "out"
    with serving(oracle) as fake:
        first = ropewalk(*sums(fake.url, out), "--json")
        asked = len(fake.asked)
        again = ropewalk(*sums(fake.url, out), "--json")
        assert len(fake.asked) == asked
        assert json.loads(again.out) | {"seconds": 0} == json.loads(first.out) | {"seconds": 0}
        before = (out / "rows.jsonl").read_bytes()
        assert ropewalk(*sums(fake.url, out), "--samples", 11).code == 0
        after = (out / "rows.jsonl").read_bytes()
        assert after.startswith(before)
        assert len(after.splitlines()) - len(before.splitlines()) == 2 * 6 * 2
        other = ropewalk(*sums(fake.url, out), "--temperature", 1)
    assert (other.code, other.out) == (2, "")
    assert "holds a run with temperature = 0.7, this one has 1.0; choose another --out" in other.err
    shown = tmp_path / "shown.json"
    shown.write_text(json.dumps([e._asdict() for e in addition().exemplars[:2]]))
    prompt = ropewalk(*sums(fake.url, out), "--exemplars", shown)
    assert prompt.code == 2
    assert f"{out} holds samples of another prompt for addition 2 0 direct; choose another --out" in prompt.err
    assert (out / "rows.jsonl").read_bytes() == after


@pytest.mark.usefixtures("undrawn")
def test_a_server_that_dies_midway_and_comes_back(tmp_path: Path, ropewalk: Command) -> None:
    out = tmp_path / "out"

    def one_by_one(request: dict[str, Any], number: int) -> Reply:
        return oracle(request | {"n": 1}, number)

    with serving(lambda r, n: one_by_one(r, n) if n < 50 else Reply(b"", 0)) as fake:
        done = ropewalk(*sums(fake.url, out))
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"ropewalk: --server {fake.url}: it hung up without an answer"
    assert "trying again in" in done.err
    kept = [(r["name"], r["index"]) for r in read_rows(out / "rows.jsonl") if r["kind"] == "sample"]
    assert len(kept) > 20
    assert not (out / "summary.json").exists()
    # another port is another server: the settings of the folder are those of the first
    host, _, port = fake.url.rpartition(":")
    assert host == "http://127.0.0.1"
    with serving(one_by_one, int(port)) as back:
        resumed = ropewalk(*sums(back.url, out), "--json")
    assert resumed.code == 0, resumed.err
    rows = [(r["name"], r["index"]) for r in read_rows(out / "rows.jsonl") if r["kind"] == "sample"]
    assert rows[: len(kept)] == kept
    assert len(rows) == len(set(rows)) == 2 * 6 * 11
    # a run without a break finds the same
    with serving(one_by_one) as third:
        whole = json.loads(ropewalk(*sums(third.url, tmp_path / "whole"), "--json").out)
    assert json.loads(resumed.out)["tasks"] == whole["tasks"]


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_is_killed_goes_on(tmp_path: Path, ropewalk: Command) -> None:
    out, killed = tmp_path / "out", False

    def slow(request: dict[str, Any], number: int) -> Reply:
        return oracle(request, number)._replace(delay=0.0 if killed else 0.03)

    with serving(slow) as fake:
        code = [sys.executable, "-m", "ropewalk.cli", *map(str, sums(fake.url, out))]
        with subprocess.Popen(code, stderr=subprocess.DEVNULL, env=dict(os.environ)) as process:
            deadline = time.monotonic() + 120
            while not (out / "rows.jsonl").exists() or len(read_bytes(out).splitlines()) < 20:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        # the last line may be half there
        with (out / "rows.jsonl").open("ab") as file:
            file.write(b'{"kind": "sam')
        killed, before = True, read_bytes(out)
        assert not (out / "summary.json").exists()
        assert ropewalk(*sums(fake.url, out)).code == 0
    kept = before[: before.rfind(b"\n") + 1]
    assert read_bytes(out).startswith(kept)
    rows = [(r["name"], r["index"]) for r in read_rows(out / "rows.jsonl") if r["kind"] == "sample"]
    assert len(rows) == len(set(rows)) == 2 * 6 * 11


def read_bytes(out: Path) -> bytes:
    return (out / "rows.jsonl").read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_vote_that_is_stopped_early_wins_the_same(tmp_path: Path, ropewalk: Command) -> None:
    with serving(oracle) as fake:
        whole = json.loads(ropewalk(*sums(fake.url, tmp_path / "a"), "--json").out)["tasks"][0]
        done = ropewalk(*sums(fake.url, tmp_path / "b"), "--early-stop", "--json")
    short = json.loads(done.out)["tasks"][0]
    assert short["methods"]["vote"]["by_length"] == whole["methods"]["vote"]["by_length"]
    assert short["drawn"]["voted"] < short["drawn"]["asked"] == whole["drawn"]["voted"] == 2 * 6 * 9
    assert short["curve"] is None


@pytest.mark.usefixtures("undrawn")
def test_without_examples_a_second_call_asks_for_the_answer(tmp_path: Path, ropewalk: Command) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        prompt = request["prompt"]
        if "Therefore, the answer (arabic numerals) is" in prompt:
            total = sum(map(int, prompt.partition("What is ")[2].split("?")[0].split(" + ")))
            assert "step by step. I think of 3 things.\nTherefore" in prompt
            assert request["temperature"] == 0
            return completions(f" {total}, I believe, or 9.")
        return completions([" I think of 3 things."] * request["n"])

    out = tmp_path / "out"
    with serving(script) as fake:
        done = ropewalk(
            "reason", "m", "--server", fake.url, "--zero-shot", "--problems", 6, "--lengths", 3, "--out", out
        )
    assert done.code == 0, done.err
    rows = [r for r in read_rows(out / "rows.jsonl") if r["kind"] == "sample"]
    assert {(r["method"], r["answer"] == r["truth"]) for r in rows} == {
        ("direct", False),
        ("cot", True),
        ("vote", True),
    }
    assert {r["answer"] for r in rows if r["method"] == "direct"} == {"3"}
    assert {(r["text"], r["tokens"]) for r in rows if r["method"] == "vote"} == {(" I think of 3 things.", 10)}


TINY = ("--problems", 1, "--samples", 3, "--max-tokens", 8, "--dtype", "float32")


def test_a_model_in_this_process(built: Path, tmp_path: Path, ropewalk: Command) -> None:
    """A random model finds nothing, at every task and with a scaling; batches of another size draw the same."""
    words = ("reason", built, "--task", "all", *TINY, "--json")
    done = ropewalk(*words, "--out", tmp_path / "a")
    assert done.code == 1, done.err
    found = json.loads(done.out)
    assert [t["name"] for t in found["tasks"]] == ["addition", "last-letter", "needle"]
    assert found["verdict"]["text"].startswith("No gain from")
    rows = {(r["name"], r["index"]): r for r in read_rows(tmp_path / "a" / "rows.jsonl") if r["kind"] == "sample"}
    assert all(r["tokens"] <= 8 and r["mean_logprob"] < 0 for r in rows.values())
    one = ("reason", built, "--lengths", 4, *TINY, "--batch", 1, "--out", tmp_path / "b")
    assert ropewalk(*one).code == 1
    same = {(r["name"], r["index"]): r for r in read_rows(tmp_path / "b" / "rows.jsonl") if r["kind"] == "sample"}
    assert {key: r["text"] for key, r in same.items()} == {key: rows[key]["text"] for key in same}
    assert len(same) == 5
    scaled = ropewalk("reason", built, "--lengths", 4, *TINY, "--encoding", "Linear(4.0)", "--out", tmp_path / "c")
    assert scaled.code == 1
    other = {(r["name"], r["index"]): r for r in read_rows(tmp_path / "c" / "rows.jsonl") if r["kind"] == "sample"}
    assert any(other[key]["text"] != r["text"] for key, r in same.items())


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "unknown task": (("--task", "chess"), "--task must be all or some of addition, last-letter, needle, got 'chess'"),
    "lengths of several": (("--task", "all", "--lengths", "2"), "--lengths must be given with one --task"),
    "no lengths": (("--lengths", "2,x"), "--lengths must be whole numbers such as 2,4,6, got '2,x'"),
    "no such length": (("--lengths", "0"), "--lengths of addition must be from 1 to 100 digits, got 0"),
    "no samples": (("--samples", 0), "ReasonRequest.samples must be a whole number of at least 1"),
    "cold": (("--temperature", -1), "Sampling.temperature must be a number of at least 0, got -1.0"),
    "no such tie": (("--tie", "last"), "ReasonRequest.tie must be 'first' or 'random' or 'max_logprob', got 'last'"),
    "both kinds of prompt": (("--zero-shot", "--exemplars", "x"), "--exemplars must be given without --zero-shot"),
    "no exemplars": (("--exemplars", "/nowhere.json"), "--exemplars must be a file that exists"),
    "chat with nobody": (("--chat",), "--chat must be given with --server"),
    "no address": (("--server", "localhost"), "--server must be an address such as http://127.0.0.1:8080/v1"),
    "nobody there": (("--server", "http://127.0.0.1:9"), "--server http://127.0.0.1:9: nothing listens there"),
    "positions of a server": (("--server", "http://x", "--encoding", "Linear(2.0)"), "--encoding must be left out"),
    "no scaling": (("--encoding", "7"), "--encoding must be a scaling such as"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done(case: str, built: Path, tmp_path: Path, ropewalk: Command) -> None:
    given, says = REFUSED[case]
    done = ropewalk("reason", built, "--out", tmp_path / "out", *given)
    assert (done.code, done.out) == (2, "")
    last = done.err.splitlines()[-1]
    assert last.startswith(f"ropewalk: {says}")
    assert "Traceback" not in done.err
    assert not (tmp_path / "out" / "summary.json").exists()
    if case != "nobody there":
        assert not (tmp_path / "out").exists()


def test_help_tells_how(ropewalk: Command) -> None:
    done = ropewalk("reason", "--help")
    assert (done.code, done.err) == (0, "")
    for words in ("Examples", "ropewalk reason demo --task last-letter", "OPENAI_API_KEY", "--early-stop"):
        assert words in done.out


def installed(name: str) -> bool:
    return find_spec(name) is not None


SERVED = all(map(installed, ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context")))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.skipif(not SERVED, reason="llama-cpp-python[server] is not installed: no llama.cpp server to ask")
def test_a_real_server_of_llama_cpp(tmp_path: Path, ropewalk: Command) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shown = tmp_path / "shown.jsonl"
    shown.write_text("\n".join(json.dumps(e._asdict()) for e in addition().exemplars[:2]))
    given = [
        "--model",
        str(demo_file()),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--n_ctx",
        "1024",
        "--n_threads",
        "1",
    ]
    log = (tmp_path / "log").open("wb")
    with log, subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *given], stdout=log, stderr=log) as server:
        try:
            wait_for(port, server)
            words = ("--server", f"http://127.0.0.1:{port}", "--lengths", 1, "--problems", 1, "--samples", 3)
            words += ("--exemplars", shown)
            done = ropewalk("reason", "demo", *words, "--max-tokens", 24, "--out", tmp_path / "out", "--json")
        finally:
            server.kill()
    assert done.code in (0, 1), done.err
    rows = [r for r in read_rows(tmp_path / "out" / "rows.jsonl") if r["kind"] == "sample"]
    assert sorted((r["method"], r["index"]) for r in rows) == [
        ("cot", 0),
        ("direct", 0),
        *(("vote", i) for i in range(3)),
    ]
    # chains follow the exemplars, and have seeds of their own
    assert sum("Add digit by digit" in r["text"] for r in rows) >= 2
    assert len({r["text"] for r in rows if r["method"] == "vote"}) > 1
    assert all(0 < r["tokens"] <= 24 and r["mean_logprob"] < 0 and r["prompt_tokens"] > 40 for r in rows)
    direct = next(r for r in rows if r["method"] == "direct")
    assert "The answer is" in direct["text"]


def wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the server did not start")
