"""Requests to a server that speaks OpenAI's protocol: few tries, and one clear line for whatever goes wrong."""

import http.client
import json
import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ropewalk.errors import ConfigError, RopewalkError, require

PAUSES = (1.0, 2.0, 4.0)  # seconds before each further try
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states of a server that may be over soon
KEY = "OPENAI_API_KEY"
SHOWN = 160  # letters of an answer that a message repeats


class ServerError(RopewalkError):
    """A server that does not answer as it should; what it has answered before is kept."""


class Passing(Exception):
    """Something that may go well at the next try."""


class Client:
    """Posts JSON to one server; a state that may pass is tried again, and `tell` hears of it. Safe for threads."""

    def __init__(self, url: str, timeout: float, tell: Callable[[str], None]) -> None:
        self.url, self.timeout, self.tell = url, timeout, tell
        self.parts = address(url)
        self.path = self.parts.path.rstrip("/") or "/v1"
        self.met = False  # whether it has ever answered
        self.lost = ""  # why a request was given up: then all are

    def post(self, path: str, document: dict[str, Any], patient: bool = True) -> dict[str, Any]:
        """The answer to one request, at the first try unless `patient`. Raises ServerError in one line."""
        pauses = list(PAUSES) if patient else []
        while not self.lost:
            try:
                answer = self.once(f"{self.path}{path}", json.dumps(document).encode())
            except Passing as error:
                # who never answered is not there; who did may come back, but is waited for once
                if not pauses or not self.met:
                    self.lost = str(error) if patient else ""
                    raise self.fault(str(error)) from None
                self.tell(f"--server {self.url}: {error}; trying again in {pauses[0]:g} s")
                time.sleep(pauses.pop(0))
                continue
            self.met = True
            return answer
        raise self.fault(self.lost)

    def once(self, path: str, content: bytes) -> dict[str, Any]:
        """One try."""
        secure = self.parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self.parts.hostname or "", self.parts.port, timeout=self.timeout)
        try:
            connection.request("POST", path, content, headers())
            reply = connection.getresponse()
            body = reply.read()
        except TimeoutError as error:
            raise Passing(f"no answer within {self.timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise Passing(described(error)) from error
        finally:
            connection.close()
        return self.read(path, reply.status, body)

    def read(self, path: str, status: int, body: bytes) -> dict[str, Any]:
        """What a reply holds, if it is one."""
        if status in PASSING:
            self.met = True
            raise Passing(f"HTTP {status}: {message(body)}")
        if status != 200:
            raise self.fault(f"POST {path} was refused with HTTP {status}: {message(body)}")
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self.fault(f"POST {path} should answer with a JSON object, got {shortened(body)}")
        return answer

    def fault(self, what: str) -> ServerError:
        """One line that names the server."""
        return ServerError(f"--server {self.url}: {what}")


def address(url: str) -> SplitResult:
    """The parts of a server's address. Raises ConfigError for what is none."""
    rule = "an address such as http://127.0.0.1:8080/v1"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise ConfigError(f"--server must be {rule}, got {url!r}") from None
    require(bool(good), "--server", rule, url)
    # it is written into rows and messages
    require("@" not in parts.netloc, "--server", f"without a user or password: a key is read from {KEY}", "one with")
    require(not parts.query and not parts.fragment, "--server", f"{rule}, and nothing after it", url)
    return parts


def headers() -> dict[str, str]:
    key = os.environ.get(KEY)
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def described(error: Exception) -> str:
    """What went wrong with a connection, in words."""
    known = {
        ConnectionRefusedError: "nothing listens there (connection refused)",
        http.client.RemoteDisconnected: "it hung up without an answer",
        http.client.IncompleteRead: "it hung up in the middle of an answer",
        ConnectionResetError: "it hung up",
    }
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return next((words for kind, words in known.items() if isinstance(error, kind)), shortened(said.encode()))


def message(body: bytes) -> str:
    """What a server says of an error: its message, or how its reply begins."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return shortened(body)
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and name in said:
            said = said[name]
    return shortened((said if isinstance(said, str) else json.dumps(said)).encode())


def shortened(body: bytes) -> str:
    """The beginning of a text on one line."""
    text = " ".join(body[: 4 * SHOWN].decode("utf-8", "replace").split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return f"{text[:SHOWN]}…" if len(text) > SHOWN else text or "nothing"
