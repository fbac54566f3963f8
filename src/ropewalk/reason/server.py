"""Samples from any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp and others."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from ropewalk.reason.http import Client, ServerError, shortened
from ropewalk.reason.prompts import Prompt
from ropewalk.reason.sampler import Sample, Sampling, cut

ABREAST = 4  # requests at a time


class Server:
    """Completions of `model` from a server, or replies of a chat.

    Several samples are asked for in one request; a server that gives only one, as llama.cpp may, or refuses, is then
    asked for each in a request of its own, a few at a time.
    """

    def __init__(self, client: Client, model: str, chat: bool = False) -> None:
        self.client, self.model, self.chat = client, model, chat
        self.several = True  # until it turns out otherwise

    def sample(self, prompt: Prompt, wanted: Sequence[int], sampling: Sampling) -> Iterator[tuple[int, Sample]]:
        """Each of the samples `wanted` as soon as it is there. Raises ServerError; what was yielded stands."""
        left = list(wanted)
        if len(left) > 1 and self.several:
            found = self.together(prompt, left, sampling)
            yield from zip(left, found, strict=False)
            left = left[len(found) :]
        if len(left) == 1:
            yield left[0], self.ask(prompt, left[0], 1, sampling)[0]
        elif left:
            yield from self.abreast(prompt, left, sampling)

    def together(self, prompt: Prompt, wanted: Sequence[int], sampling: Sampling) -> list[Sample]:
        """As many of the samples as one request gives; none from a server that refuses to give several."""
        try:
            found = self.ask(prompt, wanted[0], len(wanted), sampling)
        except ServerError as error:
            self.client.tell(f"{error}; asking for one sample at a time")
            found = []
        self.several = len(found) > 1
        return found

    def abreast(self, prompt: Prompt, wanted: Sequence[int], sampling: Sampling) -> Iterator[tuple[int, Sample]]:
        """One request for each sample; after a failure those that are on their way are still taken."""
        pool, failed = ThreadPoolExecutor(ABREAST), None
        waiting = {pool.submit(self.ask, prompt, i, 1, sampling): i for i in wanted}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    i = waiting.pop(future)
                    if (error := future.exception()) is None:
                        yield i, future.result()[0]
                        continue
                    failed = failed or error
                    waiting = drop_those_not_begun(waiting)
        finally:
            pool.shutdown(cancel_futures=True)
        if failed:
            raise failed

    def ask(self, prompt: Prompt, index: int, n: int, sampling: Sampling) -> list[Sample]:
        """One request for n samples, of which at least one comes."""
        path = "/chat/completions" if self.chat else "/completions"
        answer = self.client.post(path, self.request(prompt, index, n, sampling), patient=n == 1)
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise self.wrong("a list 'choices' with something in it", answer)
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return [self.read(choice, usage, len(choices), sampling) for choice in choices[:n]]

    def request(self, prompt: Prompt, index: int, n: int, sampling: Sampling) -> dict[str, Any]:
        """What is posted. A server draws a sample by the sum of the seed and its number."""
        said = {"messages": [{"role": "user", "content": prompt.text}]} if self.chat else {"prompt": prompt.text}
        asked = {
            "model": self.model,
            "n": n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed + index,
            "stop": list(sampling.stop),
            "logprobs": True if self.chat else 1,
        }
        # not every server knows it
        return said | asked | ({"top_k": sampling.top_k} if sampling.top_k else {})

    def read(self, choice: Any, usage: dict[str, Any], count: int, sampling: Sampling) -> Sample:
        """One sample of a reply."""
        holder = choice.get("message") if self.chat and isinstance(choice, dict) else choice
        name = "content" if self.chat else "text"
        text = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(text, str):
            raise self.wrong(f"a text {name!r} in every choice", choice)
        text, stopped = cut(text, sampling.stop)
        known = logprobs(choice.get("logprobs"))
        total, prompt = usage.get("completion_tokens"), usage.get("prompt_tokens")
        tokens = len(known) or (round(total / count) if isinstance(total, int) else len(text.split()))
        finish = "length" if choice.get("finish_reason") == "length" and not stopped else "stop"
        mean, whole = (sum(known) / len(known), sum(known)) if known else (None, None)
        return Sample(text, tokens, finish, mean, whole, prompt if isinstance(prompt, int) else None)

    def wrong(self, expected: str, got: object) -> Exception:
        return self.client.fault(f"its answer should hold {expected}, got {shortened(repr(got).encode())}")


def drop_those_not_begun(waiting: dict[Future[list[Sample]], int]) -> dict[Future[list[Sample]], int]:
    """The same without what could be called off."""
    return {future: i for future, i in waiting.items() if not future.cancel()}


def logprobs(told: Any) -> list[float]:
    """Log-probabilities of the tokens, in either of the two forms that servers write; empty if there are none."""
    if not isinstance(told, dict):
        return []
    listed, content = told.get("token_logprobs"), told.get("content")
    if isinstance(content, list):
        listed = [entry.get("logprob") for entry in content if isinstance(entry, dict)]
    found: list[Any] = listed if isinstance(listed, list) else []
    return [float(x) for x in found if type(x) in (int, float) and math.isfinite(x)]
