"""What a node of a cluster has of what the tasks of a run need, and what it lacks."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

UNSEEN = "does not see what is written to {}: --out must be a folder that all nodes share under one path"


class Seen(NamedTuple):
    """What a node has of what a task needs."""

    sources: str  # a digest of ropewalk's, "" where it is not installed
    torch: str  # its version, "" where it is not installed
    content: str  # of the probe, "" where the node does not see it
    refused: str  # why the node cannot write beside it, "" where it can


def looker() -> Callable[[str], tuple[str, str, str, str]]:
    """What tells the fields of Seen; made here, so that Ray sends its code to nodes that have no ropewalk."""

    def look(probe: str) -> tuple[str, str, str, str]:
        import hashlib
        import importlib.metadata
        import importlib.util
        import pathlib
        import tempfile

        sources, version, content, refused = hashlib.sha256(), "", "", ""
        spec, file = importlib.util.find_spec("ropewalk"), pathlib.Path(probe)
        for source in sorted(pathlib.Path(spec.origin).parent.rglob("*.py")) if spec and spec.origin else ():
            sources.update(source.read_bytes())
        try:
            version = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            pass
        try:
            content = file.read_text()
            tempfile.TemporaryFile(dir=file.parent).close()
        except OSError as error:
            refused = error.strerror or str(error)
        return sources.hexdigest()[:8] if spec else "", version, content, refused

    return look


def lacks(seen: Seen, wanted: Seen, folder: Path) -> str:
    """What a node lacks, and what to do; "" where it lacks nothing."""
    if seen.content != wanted.content:
        return UNSEEN.format(folder)
    if seen.refused:
        return f"cannot write to {folder}: {seen.refused}"
    for name, there, here in ("torch", seen.torch, wanted.torch), ("ropewalk", seen.sources, wanted.sources):
        if there != here:
            has = f"has no {name}" if not there else f"has another {name} ({there}) than the run began with ({here})"
            return f"{has}: install the same on all"
    return ""
