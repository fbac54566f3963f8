"""Who takes part: each contestant makes itself ready for a problem, tables included, and returns what will be timed.

Letters: B batch, H query heads, G key heads, T tokens, D head channels, P pairs.
"""

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropewalk.bench.case import BASE, FORWARD, Problem
from ropewalk.bench.formula import angles
from ropewalk.encodings.rotary.rotary import Rotary
from ropewalk.kernels.rotate import kernel_of, rotate_, rotate_pair

NO_GRADIENTS = "what writes over memory carries no gradients"

Op = Callable[..., tuple[Tensor, ...]]  # of q and k, or of q, k and v; it may be run any number of times


class Absent(Exception):
    """Takes no part, for the reason given."""


class Contestant(NamedTuple):
    """Somebody's way to rotate, or to attend."""

    name: str
    prepare: Callable[[Problem], Op]  # may raise Absent; nothing in it is timed
    package: str = ""  # the distribution that it comes from
    pairing: str = "half"  # of a rotation; "" of what leaves everything as it is
    own_angles: bool = False  # makes float32 angles itself instead of taking tables
    limit: bool = False  # what others are divided by
    ready: bool = False  # writes into memory that is there, not into fresh memory
    plain: bool = False  # attends without a bias
    gpu: bool = False  # cannot do without
    compiled: bool = False  # by torch.compile, anew for every case

    def version(self) -> str | None:
        """Of the package, None where it is not installed."""
        return installed(self.package) if self.package else ""


def installed(package: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def loaded(name: str) -> Any:
    """A module, imported only now. Raises Absent where that fails, which some packages do in their own ways."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise Absent(f"cannot be imported: {error}") from None
    except Exception as error:
        # a library that does not fit what else is installed fails on import in any way
        raise Absent(f"cannot be imported: {type(error).__name__}: {error}") from None


def tables(given: Problem) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, P] of the exact angles, in the dtype of the inputs."""
    angle = angles(given.case)
    like: dict[str, Any] = {"dtype": given.dtype, "device": given.case.device}
    return angle.cos().to(**like), angle.sin().to(**like)


def clone(given: Problem) -> Op:
    """The same tensors copied into fresh memory, as whoever returns new tensors takes it."""
    return lambda q, k: (q.clone(), k.clone())


def copy(given: Problem) -> Op:
    """The same tensors copied into memory that is there: without what fresh pages cost, which varies by machine."""
    ready = [torch.zeros_like(x) for x in given.inputs]
    return lambda q, k: (ready[0].copy_(q), ready[1].copy_(k))


def ours(pairing: str) -> Callable[[Problem], Op]:
    """A `Rotation` that is held ready, applied to queries and to keys."""

    def prepare(given: Problem) -> Op:
        rotation = Rotary(given.case.dim, base=BASE, pairing=pairing).rotation({}, given.at)
        return lambda q, k: (rotation.query(q), rotation.key(k))

    return prepare


def ours_at_once(given: Problem) -> Op:
    """The op that takes queries and keys together."""
    rotation = Rotary(given.case.dim, base=BASE).rotation({}, given.at)
    both = (rotation.tables(1), rotation.tables(-1))
    return lambda q, k: rotate_pair(q, k, *both, rotation.pairing)


def ours_into_ready(given: Problem) -> Op:
    """The kernel behind these ops, which also writes to where it is told."""
    if given.case.stage != FORWARD:
        raise Absent(NO_GRADIENTS)
    found = kernel_of(given.case.device, given.dtype)
    if not found:
        raise Absent("no kernel serves this")
    kernel, _ = found
    rotation = Rotary(given.case.dim, base=BASE).rotation({}, given.at)
    ready = [torch.full_like(x, torch.nan) for x in given.inputs]

    def turn(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        jobs = [(x, out, rotation.cos, rotation.sin) for x, out in zip((q, k), ready, strict=True)]
        kernel(jobs, rotation.pairing, 0, False)
        return tuple(ready)

    return turn


def ours_in_place(given: Problem) -> Op:
    """The op that writes to what it is given."""
    if given.case.stage != FORWARD:
        raise Absent(NO_GRADIENTS)
    rotation = Rotary(given.case.dim, base=BASE).rotation({}, given.at)

    def turn(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        rotate_(q, rotation.cos, rotation.sin, rotation.pairing)
        rotate_(k, rotation.cos, rotation.sin, rotation.pairing)
        return q, k

    return turn


def transformers(compiled: bool) -> Callable[[Problem], Op]:
    """The function that its Llama calls."""

    def prepare(given: Problem) -> Op:
        apply = loaded("transformers.models.llama.modeling_llama").apply_rotary_pos_emb
        cos, sin = (torch.cat((t, t), dim=-1)[None] for t in tables(given))
        turn = torch.compile(apply, dynamic=False) if compiled else apply
        return lambda q, k: turn(q, k, cos, sin)

    return prepare


def rotary_embedding_torch(given: Problem) -> Op:
    """Its method, with angles that it keeps of a first call over the whole row."""
    module, case, like = loaded("rotary_embedding_torch"), given.case, given.inputs[0]
    rotary = module.RotaryEmbedding(case.dim, theta=BASE, cache_max_seq_len=case.first + case.length)
    turn = rotary.to(case.device).requires_grad_(requires_grad=False).rotate_queries_or_keys
    turn(like.new_zeros(1, 1, case.first + case.length, case.dim))
    return lambda q, k: (turn(q, offset=case.first), turn(k, offset=case.first))


def x_transformers(given: Problem) -> Op:
    """Its function, with angles held ready as its attention layers do."""
    module = loaded("x_transformers.x_transformers")
    rotary = module.RotaryEmbedding(given.case.dim, base=BASE).to(given.case.device)
    freqs, scale = rotary(given.at.position[..., 0])
    turn = module.apply_rotary_pos_emb
    return lambda q, k: (turn(q, freqs, scale), turn(k, freqs, scale))


def torchtune(given: Problem) -> Op:
    """Its module, which takes [B, T, H, D]."""
    module, case = loaded("torchtune.modules"), given.case
    made = module.RotaryPositionalEmbeddings(case.dim, max_seq_len=case.first + case.length, base=int(BASE))
    turn = made.to(case.device)
    where = given.at.position[..., 0] if case.first else None
    return lambda q, k: tuple(turn(x.transpose(1, 2), input_pos=where).transpose(1, 2) for x in (q, k))


def liger(given: Problem) -> Op:
    """Its kernel behind transformers' signature."""
    turn = loaded("liger_kernel.transformers.rope").liger_rotary_pos_emb
    cos, sin = (torch.cat((t, t), dim=-1)[None] for t in tables(given))
    return lambda q, k: turn(q, k, cos, sin)


def flash_attn(given: Problem) -> Op:
    """Its kernel, which takes [B, T, H, D]."""
    turn = loaded("flash_attn.layers.rotary").apply_rotary_emb
    cos, sin = tables(given)
    return lambda q, k: tuple(turn(x.transpose(1, 2), cos, sin).transpose(1, 2) for x in (q, k))


ROTATE: tuple[Contestant, ...] = (
    Contestant("clone", clone, pairing="", limit=True),
    Contestant("copy_", copy, pairing="", limit=True, ready=True),
    Contestant("ropewalk", ours("half")),
    Contestant("ropewalk interleaved", ours("interleaved"), pairing="interleaved"),
    Contestant("ropewalk q+k at once", ours_at_once),
    Contestant("ropewalk into ready memory", ours_into_ready, ready=True),
    Contestant("ropewalk in place", ours_in_place, ready=True),
    Contestant("transformers", transformers(compiled=False), "transformers"),
    Contestant("transformers compiled", transformers(compiled=True), "transformers", compiled=True),
    Contestant("rotary-embedding-torch", rotary_embedding_torch, "rotary-embedding-torch", "interleaved", True),
    Contestant("x-transformers", x_transformers, "x-transformers", "interleaved", True),
    Contestant("torchtune", torchtune, "torchtune", "interleaved", True),
    Contestant("Liger-Kernel", liger, "liger-kernel", gpu=True),
    Contestant("flash-attn", flash_attn, "flash-attn", gpu=True),
)
