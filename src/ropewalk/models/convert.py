"""GGUF to a folder of bfloat16 safetensors, once for each file."""

import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from ropewalk.errors import ConfigError, RopewalkError, UnsupportedError
from ropewalk.models.config import read_positions
from ropewalk.models.files import first_line, naming, read_json
from ropewalk.models.quiet import quiet


def converted(file: Path, report: Callable[[str], None]) -> Path:
    """The folder with what `file` holds, in the user's cache; the first call makes it, and says so to `report`.

    The folder appears complete or not at all. A file with another size or time of change is converted anew.
    Raises ConfigError for a damaged file, UnsupportedError for what a checkpoint could not carry.
    """
    folder = place(file)
    if folder.is_dir():
        return folder
    with quiet(), naming(file):
        check(file)
    report(f"converting {file.name} to bfloat16 safetensors, once, into {folder}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="partial-") as partial:
            with quiet(), naming(file):
                convert(file, Path(partial) / "model")
            publish(Path(partial) / "model", folder)
    except OSError as error:
        raise RopewalkError(
            f"{folder.parent} cannot be written ({error}); XDG_CACHE_HOME names another cache"
        ) from None
    return folder


def config_of(file: Path) -> dict[str, Any]:
    """The config.json that a conversion of `file` has, or would have, without its weights."""
    made = place(file) / "config.json"
    with quiet(), naming(file):
        return read_json(made) if made.is_file() else check(file)


def place(file: Path) -> Path:
    """The folder that `file` is converted to."""
    stat = file.stat()
    return cache() / f"{file.stem}-{stat.st_size}-{stat.st_mtime_ns}"


def cache() -> Path:
    """Where converted models are kept: ropewalk/ in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ropewalk"


def publish(made: Path, folder: Path) -> None:
    """Give a finished folder its name, unless another process was faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def check(file: Path) -> dict[str, Any]:
    """The config.json of the checkpoint that `file` would be converted to.

    Raises unless the file is whole and its positions are such that the conversion keeps them.
    """
    from transformers import AutoConfig

    refuse_scaled(read_gguf(file))
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError) as error:
        raise UnsupportedError(f"cannot be converted: {first_line(error)}") from None
    read_positions(config.to_dict())
    return json.loads(config.to_json_string())


def read_gguf(file: Path) -> Any:
    """The parsed header and the table of tensors."""
    from gguf import GGUFReader

    try:
        return GGUFReader(file)
    # the parser trips over a damaged file in many ways: wrong shapes, missing parts, unknown types
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(f"damaged or truncated, not a whole GGUF file: {first_line(error)}") from None


def refuse_scaled(reader: Any) -> None:
    """Raise UnsupportedError for rotary scaling, which transformers leaves out when it reads GGUF."""
    said = {key.split(".", 1)[1]: field.contents() for key, field in reader.fields.items() if ".rope.sc" in key}
    factor = said.get("rope.scaling.factor", said.get("rope.scale_linear", 1.0))
    tables = sorted({tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_f")})
    if factor != 1.0 or tables:
        what = tables[0] if tables else f"a rotary scaling by {factor:g}"
        raise UnsupportedError(f"holds {what}, which a conversion would lose; take the model's safetensors instead")


def convert(file: Path, folder: Path) -> None:
    """Write the weights, unpacked in float32 and rounded once to bfloat16, and the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # the progress bar of this loader has no switch
    with redirect_stderr(io.StringIO()):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            output_loading_info=True,
        )
    model, info = loaded
    if info["missing_keys"]:
        raise ConfigError(f"lacks the weights {sorted(info['missing_keys'])[0]} and perhaps more")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
