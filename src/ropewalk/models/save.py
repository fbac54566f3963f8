"""A checkpoint -> the same weights under another config, which stock transformers loads alone."""

import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropewalk.errors import ConfigError, RopewalkError
from ropewalk.formats import hf
from ropewalk.formats.layers import Layer
from ropewalk.models.files import read_json

KEPT = (".json", ".txt", ".model", ".jinja", ".tiktoken")
SIDECARS = ("config.json", "tokenizer_config.json")  # written, not copied


def save_extended(source: Path, encodings: Sequence[Layer], length: int, folder: str | Path) -> tuple[str, ...]:
    """Write a checkpoint whose config carries `encodings` up to `length` tokens; what it cannot carry comes back.

    `source` is the folder of the original. The result appears complete or not at all; a checkpoint that stood there is
    replaced, anything else is left alone and refused with ConfigError.
    """
    folder = Path(folder)
    config, losses = hf.write(encodings, read_json(source / "config.json"), length)
    refuse_to_replace(folder, source)
    with appearing(folder) as made:
        write_json(config, made / "config.json")
        bring_along(source, made, length)
    return tuple(map(str, losses))


@contextmanager
def appearing(folder: Path) -> Generator[Path]:
    """An empty folder to fill, which takes the name and the place of `folder` once that has gone well.

    Until then nothing is seen under that name. Raises RopewalkError if something cannot be written.
    """
    # a name of its own, so that the next run clears away what a killed one left
    partial = folder.with_name(f".{folder.name}-partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "new").mkdir(parents=True)
        yield partial / "new"
        if folder.exists():
            folder.rename(partial / "old")
        (partial / "new").rename(folder)
    except OSError as error:
        raise RopewalkError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_to_replace(folder: Path, source: Path) -> None:
    """Raise ConfigError if something stands at `folder` that must stay."""
    if folder.exists() and folder.resolve() == source.resolve():
        raise ConfigError(f"{folder} is the folder that the model was loaded from; name another one")
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is there already and is no checkpoint; name another folder")


def bring_along(source: Path, made: Path, length: int) -> None:
    """Put the weights and the tokenizer of a checkpoint beside a new config.json, the tokenizer with another limit.

    The safetensors are the same bytes, hard-linked where the file system allows it.
    """
    for file in sorted(source.iterdir()):
        if file.suffix == ".safetensors":
            link(file.resolve(), made / file.name)
        elif file.suffix in KEPT and file.name not in SIDECARS and not file.name.endswith(".bin.index.json"):
            shutil.copyfile(file, made / file.name)
    if (source / "tokenizer_config.json").is_file():
        settings = read_json(source / "tokenizer_config.json")
        limit: Any = settings.get("model_max_length")
        write_json(
            settings | ({"model_max_length": length} if type(limit) in (int, float) and limit < length else {}),
            made / "tokenizer_config.json",
        )


def link(file: Path, name: Path) -> None:
    """Give `file` a second name, or copy it where a file system has no hard links or ends between the two."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def write_json(content: Mapping[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
