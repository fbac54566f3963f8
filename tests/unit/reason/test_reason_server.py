import json
import socket
from typing import Any

import pytest

from fake_server import Fake, Reply, Script, completions, serving
from ropewalk.errors import ConfigError
from ropewalk.reason.http import KEY, Client, ServerError, address
from ropewalk.reason.prompts import Prompt
from ropewalk.reason.sampler import Sample, Sampling
from ropewalk.reason.server import Server

PROMPT = Prompt("Q: 1 + 1?\nA: 2.\n\n", "Q: 2 + 2?\nA:")
SAMPLING = Sampling(0.7, 40, 0.9, seed=100, max_tokens=33)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.reason.http.PAUSES", (0.0, 0.001, 0.001))
    monkeypatch.delenv(KEY, raising=False)


class Asked:
    """A server that was asked for samples."""

    def __init__(self, script: Script, wanted: list[int], chat: bool = False, timeout: float = 20.0) -> None:
        self.told: list[str] = []
        self.samples: dict[int, Sample] = {}
        self.error = ""
        with serving(script) as fake:
            self.fake: Fake = fake
            server = Server(Client(fake.url, timeout, self.told.append), "m", chat)
            try:
                for i, sample in server.sample(PROMPT, wanted, SAMPLING):
                    assert i not in self.samples
                    self.samples[i] = sample
            except ServerError as error:
                self.error = str(error)

    @property
    def seeds(self) -> list[int]:
        return sorted(request["seed"] for request in self.fake.asked)


def by_seed(request: dict[str, Any], number: int) -> str:
    """What llama.cpp does: one choice, whatever n is."""
    return f" sample {request['seed']}"


def all_of_them(request: dict[str, Any], number: int) -> list[str]:
    return [f" sample {request['seed'] + i}" for i in range(request["n"])]


def test_a_server_that_gives_several_samples_is_asked_once() -> None:
    found = Asked(all_of_them, [3, 4, 5])
    assert len(found.fake.asked) == 1
    assert {i: s.text for i, s in found.samples.items()} == {i: f" sample {100 + i}" for i in (3, 4, 5)}
    assert found.told == []


def test_what_is_sent() -> None:
    (request,) = Asked(all_of_them, [3, 4]).fake.asked
    assert request == {
        "model": "m",
        "prompt": PROMPT.text,
        "n": 2,
        "max_tokens": 33,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 103,
        "stop": ["\nQ:"],
        "logprobs": 1,
    }


def test_a_server_that_gives_one_is_asked_for_each_with_a_seed_of_its_own() -> None:
    found = Asked(by_seed, [0, 1, 2, 3, 7])
    assert found.seeds == [100, 101, 102, 103, 107]
    assert [r["n"] for r in found.fake.asked] == [5, 1, 1, 1, 1]
    assert {i: s.text for i, s in found.samples.items()} == {i: f" sample {100 + i}" for i in (0, 1, 2, 3, 7)}


def test_a_server_that_refuses_several_is_asked_for_each() -> None:
    def script(request: dict[str, Any], number: int) -> Reply | str:
        if request["n"] > 1:
            return Reply(b'{"error": {"message": "Only one completion choice is allowed"}}', 400)
        return by_seed(request, number)

    found = Asked(script, [0, 1, 2])
    assert sorted(found.samples) == [0, 1, 2]
    assert len(found.told) == 1
    assert "Only one completion choice is allowed; asking for one sample at a time" in found.told[0]


def test_a_server_that_gives_some_is_asked_for_the_rest() -> None:
    found = Asked(lambda request, number: all_of_them(request, number)[:2], [0, 1, 2, 3])
    assert {i: s.text for i, s in found.samples.items()} == {i: f" sample {100 + i}" for i in range(4)}
    assert found.seeds == [100, 102, 103]


def test_what_a_sample_holds() -> None:
    sample = Asked(lambda r, n: completions(" so it is 4.\n\nQ: more", -0.25, prompt_tokens=21), [0]).samples[0]
    assert sample == Sample(" so it is 4.\n", 6, "stop", -0.25, -1.5, 21)


FORMS: dict[str, tuple[Any, tuple[int, float | None]]] = {
    "of llama.cpp's own server": ({"content": [{"logprob": -1.0}, {"logprob": -2.0}]}, (2, -1.5)),
    "without": (None, (9, None)),
    "with a gap": ({"token_logprobs": [None, -1.0, -3.0]}, (2, -2.0)),
    "of another kind": ([1], (9, None)),
    "no numbers": ({"token_logprobs": [float("nan"), "x", True]}, (9, None)),
}


@pytest.mark.parametrize("form", FORMS)
def test_log_probabilities_in_every_form(form: str) -> None:
    told, (tokens, mean) = FORMS[form]
    choice = {"text": " 4", "finish_reason": "length", "logprobs": told}
    body = json.dumps({"choices": [choice], "usage": {"completion_tokens": 9}}).encode()
    sample = Asked(lambda r, n: Reply(body), [0]).samples[0]
    assert (sample.tokens, sample.mean_logprob, sample.finish) == (tokens, mean, "length")


def test_a_chat_is_asked_only_where_it_is_wanted() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        choice = {"message": {"content": f"said {request['messages'][0]['content'][-4:]}"}, "finish_reason": "stop"}
        return Reply(json.dumps({"choices": [choice]}).encode())

    found = Asked(script, [0], chat=True)
    assert found.fake.paths == ["/v1/chat/completions"]
    assert "prompt" not in found.fake.asked[0]
    assert found.samples[0].text == "said ?\nA:"
    assert Asked(by_seed, [0]).fake.paths == ["/v1/completions"]


def test_the_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Authorization" not in Asked(by_seed, [0]).fake.headers[0]
    monkeypatch.setenv(KEY, "sk-secret")
    found = Asked(lambda r, n: Reply(b"{}", 401), [0])
    assert found.fake.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "HTTP 401" in found.error
    assert "secret" not in found.error + repr(found.told)


def test_a_state_that_passes_is_tried_again_and_told() -> None:
    failing = [Reply(b'{"error": {"message": "busy"}}', 500), Reply(b"", 503), Reply(b"", 0)]
    found = Asked(lambda r, n: failing[n] if n < 3 else " fine", [0])
    assert found.samples[0].text == " fine"
    assert len(found.fake.asked) == 4
    first, second, third = (line.removeprefix(f"--server {found.fake.url}: ") for line in found.told)
    assert first == "HTTP 500: busy; trying again in 0 s"
    assert second == "HTTP 503: nothing; trying again in 0.001 s"
    assert third == "it hung up without an answer; trying again in 0.001 s"


def test_there_are_few_tries() -> None:
    found = Asked(lambda r, n: Reply(b"overloaded", 503), [0])
    assert found.error == f"--server {found.fake.url}: HTTP 503: overloaded"
    assert len(found.fake.asked) == 4


WRONG: dict[str, tuple[Reply, str]] = {
    "no JSON": (Reply(b"<html>\nhello"), "POST /v1/completions should answer with a JSON object, got <html> hello"),
    "a list": (Reply(b"[1]"), "should answer with a JSON object, got [1]"),
    "nothing": (Reply(b""), "should answer with a JSON object, got nothing"),
    "no choices": (Reply(b'{"a": 1}'), "its answer should hold a list 'choices' with something in it, got {'a': 1}"),
    "empty choices": (Reply(b'{"choices": []}'), "should hold a list 'choices'"),
    "choices of another type": (Reply(b'{"choices": {"0": 1}}'), "should hold a list 'choices'"),
    "no text": (
        Reply(b'{"choices": [{"t": 1}]}'),
        "its answer should hold a text 'text' in every choice, got {'t': 1}",
    ),
    "text of another type": (Reply(b'{"choices": [{"text": 1}]}'), "a text 'text' in every choice"),
    "no choice": (Reply(b'{"choices": [7]}'), "a text 'text' in every choice, got 7"),
    "unknown model": (
        Reply(b'{"error": {"message": "no model m"}}', 404),
        "POST /v1/completions was refused with HTTP 404: no model m",
    ),
    "a detail": (Reply(b'{"detail": [{"msg": "x"}]}', 422), 'refused with HTTP 422: [{"msg": "x"}]'),
    "elsewhere": (Reply(b"", 302), "refused with HTTP 302: nothing"),
    "binary": (Reply(bytes(range(256))), "should answer with a JSON object, got "),
    "very long": (Reply(b"x" * 10**6), f"got {'x' * 160}…"),
}


@pytest.mark.parametrize("case", WRONG)
def test_garbage_is_one_clear_line_at_the_first_try(case: str) -> None:
    reply, says = WRONG[case]
    found = Asked(lambda r, n: reply, [0])
    assert found.error.startswith(f"--server {found.fake.url}: ")
    assert says in found.error
    assert found.error.isprintable()
    assert len(found.error) < 320
    assert len(found.fake.asked) == 1


ENDS = {
    "it hung up in the middle of an answer": Reply(b'{"cho', missing=50),
    "POST /v1/completions was refused with HTTP 401: no": Reply(b'{"error": "no"}', 401),
}


@pytest.mark.parametrize("says", ENDS)
def test_a_server_that_dies_midway_keeps_what_is_there(says: str) -> None:
    """Four at a time: what was answered comes, what was not begun is not asked for."""
    found = Asked(lambda r, n: by_seed(r, n) if n < 6 else ENDS[says], list(range(20)))
    assert len(found.samples) == 6
    assert found.error == f"--server {found.fake.url}: {says}"
    assert len(set(found.seeds)) < 20
    assert all(s.text == f" sample {100 + i}" for i, s in found.samples.items())


def test_who_was_given_up_is_not_asked_again() -> None:
    with serving(lambda r, n: Reply(b"", 503)) as fake:
        client = Client(fake.url, 5.0, lambda _: None)
        for tries in (4, 4):
            with pytest.raises(ServerError, match="HTTP 503: nothing"):
                client.post("/completions", {})
            assert len(fake.asked) == tries


def test_a_server_that_is_slow_is_given_up() -> None:
    found = Asked(lambda r, n: completions(" late")._replace(delay=0.3), [0], timeout=0.05)
    assert found.error == f"--server {found.fake.url}: no answer within 0.05 s"


def test_a_server_that_is_not_there_is_given_up_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    told: list[str] = []
    with pytest.raises(ServerError, match="nothing listens there"):
        Client(url, 5.0, told.append).post("/completions", {})
    assert told == []


@pytest.mark.parametrize(
    "url",
    [
        "localhost:80",
        "",
        "ftp://x",
        "http://",
        "http://a:b@c",
        "http://x?a=1",
        "http://x:99999",
        "http://[::1",
        "http://x#y",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        address(url)
    assert str(error.value).startswith("--server must be ")
    assert "a:b" not in str(error.value)


def test_a_path_is_kept() -> None:
    with serving(by_seed) as fake:
        Client(f"{fake.url}/api/v3/", 5.0, print).post("/completions", {"seed": 1})
        Client(f"{fake.url}/", 5.0, print).post("/completions", {"seed": 1})
    assert fake.paths == ["/api/v3/completions", "/v1/completions"]
