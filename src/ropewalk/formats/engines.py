"""What the engines that serve a model are given, read back under each engine's rules before it is handed out."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ropewalk.errors import RopewalkError, UnsupportedError, did_you_mean
from ropewalk.formats import gguf, hf, llamacpp, mlx, sglang, vllm
from ropewalk.formats.compare import comparable, disagreement
from ropewalk.formats.losses import Loss, covers, measure


class Engine(NamedTuple):
    """How one engine is told."""

    title: str
    module: ModuleType
    file: str  # that says it; "" for a GGUF, which is named by the user
    # {model} is served, {said} is a command that prints the file, {out} holds what was written
    command: str


ENGINES = {
    "hf": Engine("Transformers", hf, "config.json", "AutoModelForCausalLM.from_pretrained({out!r})"),
    "vllm": Engine("vLLM", vllm, "vllm.json", 'vllm serve {model} --hf-overrides "$({said})" --max-model-len {length}'),
    "sglang": Engine(
        "SGLang",
        sglang,
        "sglang.json",
        "python -m sglang.launch_server --model-path {model} "
        '--json-model-override-args "$({said})" --context-length {length}',
    ),
    "llamacpp": Engine("llama.cpp", llamacpp, "llamacpp.txt", "llama-server -m {model} $({said})"),
    "gguf": Engine("llama.cpp", gguf, "", "llama-server -m {out} -c {length}"),
    "mlx": Engine("MLX-LM", mlx, "config.json", "mlx_lm.server --model {out}"),
}
# where only a config.json was written, for a model that is elsewhere
BARE = {
    "hf": "AutoModelForCausalLM.from_pretrained({model!r}, config=AutoConfig.from_pretrained({file!r}))",
    "mlx": "mlx_lm.server --model {model}  # once {file} has taken the place of its config.json",
}
SERVERS = ("vllm", "sglang", "llamacpp")  # which are told something beside the model


def known_engine(name: str) -> Engine:
    """The engine of that name. Raises UnsupportedError with the nearest known one."""
    if name not in ENGINES:
        near = did_you_mean(name, ENGINES)
        raise UnsupportedError(f"--engine must be one of {', '.join(ENGINES)}, got {name!r}{near}")
    return ENGINES[name]


def written(
    engine: str, encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int
) -> tuple[dict[str, Any], tuple[Loss, ...]]:
    """The payload of one engine and what is lost; `config` is that of the original model.

    Raises UnsupportedError for what the engine cannot serve, and RopewalkError if the payload reads back further from
    what was asked for than its losses admit.
    """
    module = known_engine(engine).module
    payload, losses = module.write(encodings, config, length)
    got = hf.read(payload) if module is hf else module.read(payload, config)
    check(engine, encodings, got, losses, length)
    return payload, tuple(losses)


def check(
    target: str, wanted: Sequence[hf.Layer], got: Sequence[hf.Layer], losses: Sequence[Loss], length: int
) -> None:
    """Raise RopewalkError where what a target reads back is further from what was wanted than its losses admit."""
    if not (differs := disagreement(wanted, got, length)):
        return
    if comparable(wanted, got) and covers(losses, measure(wanted, got, length)):
        return
    raise RopewalkError(f"{target} would not run what was asked for, and nothing says so: {differs}")


def render(engine: str, payload: Mapping[str, Any]) -> dict[str, str]:
    """A payload as files, the one that the engine is told with first; a GGUF is no text, and has none."""
    file = ENGINES[engine].file
    match engine:
        case "gguf":
            return {}
        case "llamacpp":
            tensors = {"llamacpp.tensors.json": json.dumps(payload["tensors"]) + "\n"} if payload["tensors"] else {}
            return {file: " ".join(payload["flags"]) + "\n", **tensors}
        case "mlx":
            ropes = {"ropes.json": json.dumps(payload["ropes"]) + "\n"} if payload["ropes"] else {}
            return {file: json.dumps(payload["config"], indent=2, ensure_ascii=False) + "\n", **ropes}
        case "hf":
            return {file: json.dumps(payload, indent=2, ensure_ascii=False) + "\n"}
        case _:
            return {file: json.dumps(payload) + "\n"}


def command(engine: str, length: int, out: str = "", model: str = "", said: str = "") -> str:
    """The line that serves `length` tokens of `model` with what was written to `out`, or with what `said` prints.

    For Transformers and MLX-LM `out` is a checkpoint, or else `model` one that lacks its config.json. Words are quoted
    for a shell; the line for Transformers is Python.
    """
    told = ENGINES[engine]
    file, name = str(Path(out) / told.file), model or placeholder(engine)
    words = {"file": file, "out": out, "model": name}
    if engine != "hf":
        words = {key: shlex.quote(word) for key, word in words.items()}
    line = BARE[engine] if model and engine in BARE else told.command
    return line.format(**words, length=length, said=said or f"cat {shlex.quote(file)}")


def engine_files(encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int) -> dict[str, str]:
    """File name -> content: one file per engine that can serve these encodings, its losses, and a README.md.

    `config` is that of the original model.  Raises RopewalkError as `written`: no file disagrees in silence.
    """
    files: dict[str, str] = {}
    sections = []
    for engine in SERVERS:
        try:
            payload, losses = written(engine, encodings, config, length)
        except UnsupportedError as error:
            files[f"{engine}.notes.txt"] = f"cannot be served: {error}\n"
            sections.append(f"## {engine}\n\nCannot be served: {error}.\n")
            continue
        files |= render(engine, payload)
        if losses:
            files[f"{engine}.notes.txt"] = "".join(f"{loss}\n" for loss in losses)
        lost = "".join(f"\n- {loss}" for loss in losses) or " nothing."
        sections.append(f"## {engine}\n\n    {command(engine, length)}\n\nLost:{lost}\n")
    title = f"# Serving {length} tokens\n\nThe commands are for the original model, run in this folder.\n\n"
    return {**files, "README.md": title + "\n".join(sections)}


def placeholder(engine: str) -> str:
    """What stands for the model in a command that is not for a certain one."""
    return "MODEL.gguf" if engine == "llamacpp" else "MODEL"
