"""A name -> a model in memory, its tokenizer and its positions."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ropewalk.errors import ConfigError, require
from ropewalk.models.attach import Encoding
from ropewalk.models.config import read_positions
from ropewalk.models.files import first_line, naming, read_json
from ropewalk.models.locate import locate
from ropewalk.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.bfloat16, torch.float16, torch.float32)}
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


class Loaded(NamedTuple):
    """A pretrained causal language model and what is known of it."""

    model: "PreTrainedModel"  # in evaluation mode
    tokenizer: "PreTrainedTokenizerBase"
    encodings: tuple[Encoding, ...]  # as its config says, one per layer
    folder: Path  # config.json, tokenizer and safetensors
    name: str
    trained_length: int  # tokens, before any scaling


def load(
    name: str | Path, dtype: str | torch.dtype = "bfloat16", report: Callable[[str], None] = lambda line: None
) -> Loaded:
    """Load a local Hugging Face folder, a `.gguf` file, a name on the hub, or "demo".

    Reads safetensors and GGUF only and runs no code that comes with a model. What takes long is said to `report`.
    Raises RopewalkError, in one line that names the file, for anything missing, damaged or not supported; positions are
    judged first and weights last.
    """
    kind = str(dtype).removeprefix("torch.")
    require(kind in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", kind)
    folder = locate(name, report)
    config = read_json(folder / "config.json")
    with naming(folder / "config.json"):
        positions = read_positions(config)
    check_weights(folder)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, DTYPES[kind])
    return Loaded(model, tokenizer, positions.encodings, folder, str(name), positions.trained_length)


def check_weights(folder: Path) -> None:
    """Raise ConfigError unless every safetensors file that belongs to the checkpoint is there and whole."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.is_file():
        places = read_json(index).get("weight_map", {})
        require(isinstance(places, dict) and len(places) > 0, f"{index}: weight_map", "an object with entries", places)
        shards = sorted(set(places.values()))
    for shard in shards:
        file = folder / shard
        if not file.is_file():
            raise ConfigError(f"{folder} holds no {shard}; pickled weights (.bin, .pt) are never read")
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ConfigError(f"{file} is a damaged safetensors file: {first_line(error)}") from None


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ConfigError(f"{folder} holds no tokenizer: none of {', '.join(VOCABULARIES)}")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # a damaged tokenizer fails in the code of its own class, in any way
    except Exception as error:
        raise ConfigError(f"{folder}: the tokenizer cannot be read: {first_line(error)}") from error
    # texts longer than the trained window are the point; no warning about them
    tokenizer.model_max_length = 10**30
    return tokenizer


def load_model(folder: Path, dtype: torch.dtype) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    # a config that contradicts the weights fails in the code of its architecture, in any way
    except Exception as error:
        raise ConfigError(f"{folder}: the weights cannot be loaded: {first_line(error)}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(
            f"{folder}: the safetensors lack {len(missing)} tensors that the model needs: {missing[0]}, ..."
        )
    return model.eval()
