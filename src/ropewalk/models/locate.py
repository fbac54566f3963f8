"""What a user calls a model -> a folder with its config.json, tokenizer and safetensors."""

from collections.abc import Callable
from pathlib import Path

from ropewalk.errors import ConfigError
from ropewalk.models.config import read_positions
from ropewalk.models.convert import converted
from ropewalk.models.files import naming, read_json
from ropewalk.models.find import demo_file, fetched_config, looks_local, snapshot

FETCHED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.tiktoken"]
# repositories of some makers hold the same weights a second time under these names
SKIPPED = ["*/*", "consolidated*"]


def locate(name: str | Path, report: Callable[[str], None]) -> Path:
    """The folder behind a folder, a `.gguf` file, "demo" or a name on the Hugging Face hub.

    Raises RopewalkError if there is no such thing; what looks like a path is never looked up on the hub.
    """
    if str(name) == "demo":
        return converted(demo_file(), report)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file() and path.suffix == ".gguf":
        return converted(path, report)
    if path.exists():
        raise ConfigError(f"{path} is neither a folder with a config.json nor a .gguf file")
    if isinstance(name, Path) or looks_local(name):
        raise ConfigError(f"no such file or folder: {name}")
    return fetched(name, report)


def fetched(name: str, report: Callable[[str], None]) -> Path:
    """The hub's files for `name`, from the local cache where they are there; config.json is judged before the rest."""
    file = fetched_config(name, report)
    config = read_json(file)
    with naming(file):
        read_positions(config)
    return snapshot(name, FETCHED, SKIPPED)
