"""Files for the engines that serve a model, each read back under that engine's rules before it is handed out."""

import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ropewalk.errors import RopewalkError, UnsupportedError
from ropewalk.formats import hf, llamacpp, sglang, vllm
from ropewalk.formats.compare import comparable, disagreement
from ropewalk.formats.losses import Loss, covers, measure

ENGINES: dict[str, ModuleType] = {"vllm": vllm, "sglang": sglang, "llamacpp": llamacpp}
COMMANDS = {
    "vllm": 'vllm serve MODEL --hf-overrides "$(cat vllm.json)" --max-model-len {length}',
    "sglang": "python -m sglang.launch_server --model-path MODEL "
    '--json-model-override-args "$(cat sglang.json)" --context-length {length}',
    "llamacpp": "llama-server -m MODEL.gguf $(cat llamacpp.txt)",
}


def engine_files(encodings: Sequence[hf.Layer], config: Mapping[str, Any], length: int) -> dict[str, str]:
    """File name -> content: one file per engine that can serve these encodings, its losses, and a README.md.

    `config` is that of the original model.  Raises RopewalkError if a file reads back further from what was asked for
    than its losses admit: no file disagrees in silence.
    """
    files: dict[str, str] = {}
    sections = []
    for engine, module in ENGINES.items():
        try:
            payload, losses = module.write(encodings, config, length)
        except UnsupportedError as error:
            files[f"{engine}.notes.txt"] = f"cannot be served: {error}\n"
            sections.append(f"## {engine}\n\nCannot be served: {error}.\n")
            continue
        check(engine, encodings, module.read(payload, config), losses, length)
        files |= render(engine, payload)
        if losses:
            files[f"{engine}.notes.txt"] = "".join(f"{loss}\n" for loss in losses)
        lost = "".join(f"\n- {loss}" for loss in losses) or " nothing."
        sections.append(f"## {engine}\n\n    {COMMANDS[engine].format(length=length)}\n\nLost:{lost}\n")
    title = f"# Serving {length} tokens\n\nThe commands are for the original model, run in this folder.\n\n"
    return {**files, "README.md": title + "\n".join(sections)}


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
    """A payload as files that the engine's own command line takes."""
    if engine != "llamacpp":
        return {f"{engine}.json": json.dumps(payload) + "\n"}
    tensors = {"llamacpp.tensors.json": json.dumps(payload["tensors"]) + "\n"} if payload["tensors"] else {}
    return {"llamacpp.txt": " ".join(payload["flags"]) + "\n", **tensors}
