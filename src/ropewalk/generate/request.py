"""What `ropewalk generate` can be asked for."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.errors import ConfigError, require, require_number
from ropewalk.generate.sampling import Sampling
from ropewalk.notation import parse


@dataclass(frozen=True)
class GenerateRequest:
    """Everything that `ropewalk generate` can be told."""

    model: str
    prompt: str  # to be gone on from; with questions the document that they are about
    questions: tuple[str, ...] = ()
    encoding: str | None = None  # a scaling or an encoding, as written; the model's own if not given
    chat: bool | None = None  # whether the model's chat template is applied; with questions where there is one
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int | None = 256  # of each text; None is without limit
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    dtype: str = "bfloat16"
    out: str | None = None  # a file that texts are added to as they are written
    trace: str | None = None  # a file for memory and loss as the text grows

    def __post_init__(self) -> None:
        require(bool(self.prompt.strip()), "the prompt", "some text", self.prompt)
        require(all(q.strip() for q in self.questions), "a question", "some text", self.questions)
        require(all(self.stop), "--stop", "some text", self.stop)
        if self.max_new_tokens is not None:
            require_number(self, "max_new_tokens", at_least=1, whole=True)
        if self.encoding is not None:
            parse(self.encoding, Rotary(2))


def read_text(path: str, option: str) -> str:
    """A file's text, or what comes on standard input for "-"; without the line break at its very end.

    Raises ConfigError, naming the option, for a file that is missing or not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).expanduser().read_bytes()
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigError(f"{option} must be a file that can be read, got {path!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option} must be UTF-8, got {path!r}: {error}") from None
