"""A server that answers as a test says, in a thread of this process."""

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """What goes over the wire."""

    body: bytes
    status: int = 200
    missing: int = 0  # bytes that are announced and never come
    delay: float = 0.0


Script = Callable[[dict[str, Any], int], "Reply | str | list[str]"]  # of a request and its number


class Fake:
    """Where the server is, and what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script, self.lock = script, threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""

    def reply(self, path: str, headers: dict[str, str], request: dict[str, Any]) -> Reply:
        with self.lock:
            number = len(self.asked)
            self.asked.append(request)
            self.headers.append(headers)
            self.paths.append(path)
        said = self.script(request, number)
        return said if isinstance(said, Reply) else completions(said)


def completions(texts: str | list[str], logprob: float = -0.5, **usage: int) -> Reply:
    """The reply of a server that completes."""
    texts = [texts] if isinstance(texts, str) else texts
    choices = [
        {
            "text": text,
            "index": i,
            "finish_reason": "stop",
            "logprobs": {"token_logprobs": [logprob] * len(text.split())},
        }
        for i, text in enumerate(texts)
    ]
    return Reply(json.dumps({"choices": choices, "usage": usage}).encode())


@contextmanager
def serving(script: Script, port: int = 0) -> Generator[Fake]:
    """The server for the duration; every connection is closed after one reply."""
    fake = Fake(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            reply = fake.reply(self.path, dict(self.headers), json.loads(content))
            time.sleep(reply.delay)
            if reply.status == 0:
                return
            try:
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(reply.body) + reply.missing))
                self.end_headers()
                self.wfile.write(reply.body)
            except OSError:
                # who asked is gone
                pass

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
