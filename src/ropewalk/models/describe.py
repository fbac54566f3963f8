"""What a model says about its positions, read without its weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.errors import ConfigError, UnsupportedError, require
from ropewalk.formats import gguf_file
from ropewalk.kernels import PAIRINGS
from ropewalk.models.files import read_json
from ropewalk.models.find import demo_file, fetched_config, looks_local

NOTE = "pairing.json"  # what a conversion of the weights says of their order


class Described(NamedTuple):
    """A model's config.json or the header of its GGUF: one of the two is None."""

    name: str
    config: Mapping[str, Any] | None
    gguf: gguf_file.Header | None
    file: Path  # the config.json, or the GGUF
    pairing: str | None = None  # of the weights, where a conversion left a note of it


def describe(name: str | Path, report: Callable[[str], None] = lambda line: None) -> Described:
    """Read a folder with a config.json, such a file by itself, a GGUF, "demo" or the config of a name on the hub.

    Raises RopewalkError, in one line that names the file, for anything missing or damaged. No weights are read.
    """
    path = demo_file() if str(name) == "demo" else Path(name).expanduser()
    try:
        path.exists()
    except OSError as error:
        raise ConfigError(f"no model can have this name: {error.strerror}") from None
    if path.is_dir():
        return Described(str(name), read_json(path / "config.json"), None, path / "config.json", noted(path))
    if path.is_file() and path.suffix == ".gguf":
        return Described(str(name), None, gguf_file.open(path), path)
    if path.is_file() and path.suffix == ".json":
        return Described(str(name), read_json(path), None, path)
    if path.exists():
        raise ConfigError(f"{path} is neither a folder with a config.json nor a .json or .gguf file")
    if isinstance(name, Path) or looks_local(name):
        raise ConfigError(f"no such file or folder: {name}")
    file = fetched_config(name, report)
    return Described(name, read_json(file), None, file)


def refuse_reordered(source: Described) -> None:
    """Raise UnsupportedError for weights in the order of code that pairs channels the other way."""
    if source.pairing:
        raise UnsupportedError(
            f"the weights in {source.file.parent} are in {source.pairing} order, and stock code would pair "
            "their channels the other way: put them back with ropewalk convert first"
        )


def noted(folder: Path) -> str | None:
    """The order that an earlier conversion has noted."""
    if not (folder / NOTE).is_file():
        return None
    said = read_json(folder / NOTE).get("pairing")
    require(said in PAIRINGS, f"{folder / NOTE}: pairing", " or ".join(PAIRINGS), said)
    return said
