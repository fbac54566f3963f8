"""A checkpoint or LoRA adapter -> the same one with its queries and keys in the order of the other pairing."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.errors import ConfigError, RopewalkError, UnsupportedError, require
from ropewalk.formats.layout import inner_config
from ropewalk.formats.pairing import Projections
from ropewalk.models import shard
from ropewalk.models.describe import NOTE, noted
from ropewalk.models.files import naming, read_json
from ropewalk.models.save import KEPT, write_json
from ropewalk.rotation import PAIRINGS

INDEX, ADAPTER = "model.safetensors.index.json", "adapter_config.json"
CODE = {
    "interleaved": "channels 2i and 2i + 1 together (Meta's own layout, GPT-J's style, and llama.cpp's NORM order, "
    "which its converter makes by itself from the half order)",
    "half": "channels i and i + dim/2 together (rotate_half, llama.cpp's NEOX order, GPT-NeoX's style)",
}


class Source(NamedTuple):
    """What is converted."""

    folder: Path
    config: Mapping[str, Any]  # of the model itself; that of the base model for an adapter
    projections: Projections
    shards: tuple[Path, ...]
    adapter: bool


class Reordered(NamedTuple):
    """A finished conversion."""

    folder: Path
    before: str
    pairing: str
    tensors: int  # whose rows changed places
    shards: tuple[str, ...]
    kept: tuple[str, ...]  # the shards that an interrupted run had finished
    note: str  # which code the result is for, where no config can say so


Tell = Callable[[float, str], None]


def convert_pairing(
    folder: Path, to: str, out: Path, before: str | None = None, base: Path | None = None, tell: Tell = lambda *_: None
) -> Reordered:
    """Write `folder` once more to `out`, with rotated query and key rows in the order `to`; all other bytes stay.

    Safetensors are read tensor by tensor. `out` appears complete or not at all: until then shards are in .OUT-partial
    beside it, under their own names only once they are whole, and the next run keeps those that hold the right bytes.
    `before` is the present order where neither the config nor a note of an earlier conversion tells; `base` is the
    folder or config.json of the model that an adapter belongs to. Raises RopewalkError before anything is written.
    """
    require(to in PAIRINGS, "--to", " or ".join(PAIRINGS), to)
    require(before in (None, *PAIRINGS), "--from", " or ".join(PAIRINGS), before)
    source = look(folder, base)
    have = before or noted(folder) or source.projections.pairing
    if have == to:
        raise ConfigError(f"{folder} is in {to} order already; if it is not, say so with --from")
    check_place(out, folder)
    orders = plan(source, to)
    note = note_on(source, to)
    kept = publish(source, to, out, orders, tell)
    names = tuple(file.name for file in source.shards)
    return Reordered(out, have, to, sum(map(len, orders.values())), names, kept, note)


def look(folder: Path, base: Path | None) -> Source:
    """What is in a folder, judged by its config before any weight is opened."""
    adapter = (folder / ADAPTER).is_file()
    file = base_of(folder, base) if adapter else folder / "config.json"
    config = read_json(file)
    with naming(file):
        projections = Projections(config)
        method = inner_config(config).get("quantization_config") or config.get("quantization_config")
        if method and not adapter:
            name = method.get("quant_method") if isinstance(method, Mapping) else method
            raise UnsupportedError(f"weights quantised by {name!r} cannot be reordered; convert the model before that")
    return Source(folder, config, projections, weights(folder, adapter), adapter)


def base_of(folder: Path, base: Path | None) -> Path:
    """The config.json of the model that an adapter belongs to."""
    told = read_json(folder / ADAPTER)
    if told.get("peft_type") != "LORA":
        raise UnsupportedError(
            f"{folder / ADAPTER}: peft_type {told.get('peft_type')!r} cannot be reordered, only LORA"
        )
    named = base or Path(str(told.get("base_model_name_or_path")))
    file = named / "config.json" if named.is_dir() else named
    if not file.is_file():
        raise ConfigError(f"{folder} belongs to {named}, which is no folder here; name it, or its config, with --base")
    return file


def weights(folder: Path, adapter: bool) -> tuple[Path, ...]:
    """The safetensors files that make up a checkpoint."""
    names: list[Any] = ["adapter_model.safetensors" if adapter else "model.safetensors"]
    if not adapter and (folder / INDEX).is_file():
        places: Any = read_json(folder / INDEX).get("weight_map")
        require(isinstance(places, dict) and len(places) > 0, f"{INDEX}: weight_map", "an object with entries", places)
        names = list(places.values())
    for name in names:
        require(isinstance(name, str) and Path(name).name == name, f"{INDEX}: weight_map", "of plain file names", name)
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no {name}; pickled weights (.bin, .pt) are never read")
    return tuple(folder / name for name in sorted(set(names)))


def check_place(out: Path, source: Path) -> None:
    """Raise ConfigError if the result would meet something, or lie among what is converted."""
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"--out must not be inside the folder that is converted, got {out}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} is there already; name another folder")


Orders = dict[str, dict[str, list[int]]]  # shard -> tensor -> the old row of each new one


def plan(source: Source, to: str) -> Orders:
    """Which rows move, from the headers of all shards. Raises where that is nothing, or not the whole model."""
    inside, found, orders = source.projections, [], Orders()
    for file in source.shards:
        mine = orders.setdefault(file.name, {})
        for tensor in shard.stored(file):
            with naming(file):
                runs = inside.runs(tensor.name, tensor.dtype, tensor.shape)
            if runs:
                found.append(runs)
                mine[tensor.name] = runs.order(to)
    if not found:
        raise ConfigError(f"{source.folder} holds nothing that rotates: it fits either order as it is")
    missing = "" if source.adapter else inside.missing(found)
    if missing:
        raise ConfigError(f"{source.folder} lacks {missing}, under the names of a {inside.family}")
    return orders


def note_on(source: Source, to: str) -> str:
    """Which code the result is for; "" where stock transformers runs it as it is."""
    stock = source.projections
    if to == stock.pairing or (stock.says_so and not source.adapter):
        return ""
    what = "adapter is for a base model in the same order and for" if source.adapter else "checkpoint is for"
    by = f"Transformers pairs channels of {stock.family!r} the {stock.pairing} way, and no config can change that"
    return f"This {what} code that turns {CODE[to]}. {by}: run by it as it is, the model talks nonsense."


def publish(source: Source, to: str, out: Path, orders: Orders, tell: Tell) -> tuple[str, ...]:
    """Make the folder; the names of shards that were there."""
    out = out.resolve()
    # a name of its own, so that the next run goes on where a killed one stopped
    partial = out.with_name(f".{out.name}-partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        kept = write_shards(source, partial, orders, tell)
        fill(source, to, partial)
        partial.rename(out)
    except OSError as error:
        why = f"{error.strerror or error}"
        raise RopewalkError(f"{out} cannot be written: {why}; run again to go on, finished shards are kept") from None
    return kept


def write_shards(source: Source, partial: Path, orders: Orders, tell: Tell) -> tuple[str, ...]:
    """Put every shard into `partial`; the names of those that were there and hold what they should."""
    for stale in {file.name for file in partial.iterdir()} - {file.name for file in source.shards}:
        (partial / stale).unlink()
    sizes = [file.stat().st_size for file in source.shards]
    kept: list[str] = []
    for i, file in enumerate(source.shards):
        tell(sum(sizes[:i]) / sum(sizes), file.name)
        tensors, mine = shard.stored(file), orders[file.name]
        if shard.holds(partial / file.name, shard.reordered(file, tensors, mine)):
            kept.append(file.name)
        else:
            shard.write(partial / file.name, shard.reordered(file, tensors, mine))
    return tuple(kept)


def fill(source: Source, to: str, made: Path) -> None:
    """Put everything but the weights into the folder."""
    for file in sorted(source.folder.iterdir()):
        if file.suffix in KEPT and file.name != NOTE and not file.name.endswith(".bin.index.json"):
            shutil.copyfile(file, made / file.name)
    note = note_on(source, to)
    if note:
        write_json({"pairing": to, "model_type": source.projections.family, "note": note}, made / NOTE)
    elif source.projections.says_so and not source.adapter and to != source.projections.pairing:
        says = {"rope_interleave": to == "interleaved"}
        inner = {**inner_config(source.config), **says}
        nested = "text_config" in source.config
        write_json({**source.config, "text_config": inner} if nested else inner, made / "config.json")
