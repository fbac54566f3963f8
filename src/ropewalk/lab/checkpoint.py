"""What a training needs to go on where it stopped, in one safetensors file that is there whole or not at all."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.errors import ConfigError
from ropewalk.evaluate.run import put_file
from ropewalk.lab.model import Decoder, Shape
from ropewalk.notation import parse

MODEL, MOMENTS, CURVE, STATE = "model.", "optimiser.", "curve", "rng"
TOLD = "ropewalk"


class Saved(NamedTuple):
    """A training after `step` steps."""

    tensors: dict[str, Tensor]  # model.NAME, optimiser.NUMBER.NAME, curve Float32[step], rng
    step: int
    settings: dict[str, Any]  # all that it depends on


def kept_at(folder: Path, name: str, encoding: Any, seed: int) -> Path:
    """Where a model is kept: what it is called, with a digest of how its encoding is written."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60]
    digest = hashlib.sha256(repr(encoding).encode()).hexdigest()[:6]
    return folder / "checkpoints" / f"{word}-{digest}-seed{seed}.safetensors"


def save(file: Path, saved: Saved) -> None:
    """Write it, whole or not at all."""
    from safetensors.torch import save as serialized

    # one entry: the order of several would differ from file to file
    told = {TOLD: json.dumps({"step": saved.step, "settings": saved.settings}, sort_keys=True)}
    put_file(file, serialized(saved.tensors, told))


def read(file: Path) -> Saved:
    """What a file holds. Raises ConfigError where it is no checkpoint of the lab."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            told: Mapping[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        about = json.loads(told[TOLD])
        return Saved(tensors, about["step"], about["settings"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ConfigError(f"{file} is no checkpoint of the lab: {why}") from None


def resumed(file: Path, settings: Mapping[str, Any]) -> Saved | None:
    """What to go on from; None where nothing is there. Raises ConfigError where its settings are others."""
    if not file.is_file():
        return None
    saved, wanted = read(file), json.loads(json.dumps(dict(settings)))
    for key in sorted(wanted.keys() | saved.settings.keys()):
        was, wants = saved.settings.get(key), wanted.get(key)
        if was != wants:
            rule = f"{file} is of a training with {key} = {was!r}, this one has {wants!r}"
            raise ConfigError(f"{rule}; choose another --out")
    return saved


def load_decoder(file: Path) -> Decoder:
    """The trained model that a checkpoint holds."""
    saved = read(file)
    model = Decoder(Shape(**saved.settings["shape"]), parse(saved.settings["encoding"]))
    put(model, saved.tensors)
    return model


def put(model: Decoder, tensors: Mapping[str, Tensor]) -> None:
    """Copy the weights of a checkpoint into a model of its settings."""
    model.load_state_dict({name.removeprefix(MODEL): x for name, x in tensors.items() if name.startswith(MODEL)})


def moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as flat tensors, by the number of the parameter and the name of the state."""
    state = optimiser.state_dict()["state"]
    return {f"{MOMENTS}{number}.{name}": x for number, each in state.items() for name, x in each.items()}


def put_moments(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `moments`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        if name.startswith(MOMENTS):
            number, field = name.removeprefix(MOMENTS).split(".")
            state.setdefault(int(number), {})[field] = x
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
