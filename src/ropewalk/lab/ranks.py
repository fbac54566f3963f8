"""One training by several processes: each holds a part of every parameter, some texts of a batch, some tokens of each.

Parameters lie on all ranks in equal parts (FSDP). So many neighbouring ranks, `context`, hold the same texts, and each
of them other tokens. Letters: B batch, T tokens, S tokens of a share, N shares, H heads, D head channels.
"""

import copy
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from ropewalk.attention.attend import attend
from ropewalk.errors import RopewalkError, UnsupportedError, require
from ropewalk.lab.model import Decoder
from ropewalk.lab.train import IGNORED, Batch, Recipe, Whole
from ropewalk.sites import Embeds, Weights, parts
from ropewalk.tokens import Tokens, contiguous, select, shard
from ropewalk.written import short

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # how long ranks wait for what the first one does alone


class Ranks:
    """This process among all of its process group; `context` of them share a text."""

    def __init__(self, context: int = 1) -> None:
        self.rank, self.world, self.context = dist.get_rank(), dist.get_world_size(), context
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
        self.waiting: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def check(self, recipe: Recipe, encodings: Iterable[Any]) -> None:
        """Raise RopewalkError, in one line, unless texts and tokens can be shared like that."""
        rule = f"a divisor of {self.world}, the processes that were started"
        require(self.context >= 1 and self.world % self.context == 0, "--context", rule, self.context)
        data = self.world // self.context
        rule = f"shared by a divisor of {recipe.batch} processes (those that were started, divided by --context)"
        require(recipe.batch % data == 0, f"the {recipe.batch} texts of a step", rule, data)
        if self.context == 1:
            return
        rule = f"divisible by {2 * self.context}, twice --context"
        require(recipe.length % (2 * self.context) == 0, "--train-length", rule, recipe.length)
        each = [one for given in encodings for one in (given if isinstance(given, list) else [given])]
        for e in (e for one in each for e in parts(one, Embeds)):
            if getattr(e, "context", 0):
                raise UnsupportedError(f"{short(e)} reads neighbouring tokens, which --context puts on other processes")

    @cached_property
    def mesh(self) -> DeviceMesh:
        """All ranks in a line."""
        return init_device_mesh(self.device.type, (self.world,))

    @cached_property
    def beside(self) -> DeviceMesh:
        """Those that hold the same texts."""
        shape = (self.world // self.context, self.context)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("texts", "tokens"))["tokens"]

    def first(self, act: Callable[[], T]) -> T:
        """What `act` gives the first rank, on every rank; a RopewalkError that it raises is raised by all."""
        found: list[Any] = [None, None]
        if self.rank == 0:
            try:
                found[0] = act()
            except RopewalkError as error:
                found[1] = error
        dist.broadcast_object_list(found, 0, group=self.waiting)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def spread(self, model: Decoder) -> Decoder:
        """A copy of the same model on every rank, of which each holds a part of all parameters."""
        model = copy.deepcopy(model).to(self.device)
        if self.context > 1:
            model.divide(self.context, self.attention)
        for module in (*cast(Iterable[nn.Module], model.layers), model):
            sharded = fully_shard(module, mesh=self.mesh)
            # losses are parts of a mean, so that gradients are to be added up
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
        return model

    def spread_moments(self, optimiser: torch.optim.Optimizer) -> None:
        """Leave of every whole moment what belongs to this rank's part of its parameter."""
        for parameter, state in optimiser.state.items():
            for name, x in state.items():
                if isinstance(parameter, DTensor) and x.shape == parameter.shape:
                    state[name] = distribute_tensor(x, parameter.device_mesh, parameter.placements)

    def share(self, given: Batch) -> Batch:
        """What this rank takes of a batch of texts, whose tokens stand in a row: all ranks are given the same."""
        if given.at is not None:
            raise UnsupportedError("texts are shared among processes where their tokens stand in a row alone")
        whole = Whole(int((given.targets != IGNORED).sum()), self.total)
        own = row(given.ids.shape[1], self.rank % self.context, self.context, self.device)
        ids, targets = (
            x.tensor_split(self.world // self.context)[self.rank // self.context].to(self.device)[:, own.mine]
            for x in (given.ids, given.targets)
        )
        plain = self.context == 1 and self.device.type == "cpu"
        return Batch(ids, targets, None if plain else select(own.at, own.mine), whole)

    def total(self, x: Tensor) -> Tensor:
        """The sum of what all ranks give."""
        x = x.clone()
        dist.all_reduce(x)
        return x

    def attention(self, q: Tensor, k: Tensor, v: Tensor, encoding: Any, w: Weights, at: Tokens) -> Tensor:
        """Attention of this rank's queries [B, H, S, D] to the keys of whole texts, of which k and v are its share."""
        own = row(q.shape[2] * self.context, self.rank % self.context, self.context, self.device)
        # gradients are added up in float32, whatever k and v are
        held = DTensor.from_local(torch.stack((k, v)).float(), self.beside, [Shard(3)], run_check=False)
        k, v = held.full_tensor(grad_placements=[Partial()])[:, :, :, own.back].to(k.dtype)
        out, half = list[Tensor](), q.shape[2] // 2
        # two runs of the row, each with the keys that it can see
        for run in (slice(half), slice(half, None)):
            seen = slice(int(own.mine[run][-1]) + 1)
            here, there = select(at, run), select(own.at, seen)
            out.append(attend(q[:, :, run], k[:, :, seen], v[:, :, seen], encoding, w, here, there))
        return torch.cat(out, dim=2)


class Row(NamedTuple):
    """How the tokens of a text lie on the ranks that share it."""

    at: Tokens  # of them all
    mine: Tensor  # Int64[S]: where in the row those of this rank are
    back: Tensor  # Int64[T]: those of the row, among the shares of all ranks one after the other


@cache
def row(length: int, rank: int, world: int, device: torch.device) -> Row:
    """Texts of so many tokens on `world` ranks; causal attention is then the same work for each."""
    at = contiguous(length)
    shares = [shard(at, each, world).order[0] for each in range(world)] if world > 1 else [at.order[0]]
    back = torch.cat(shares).argsort()
    return Row(Tokens(*(x.to(device) for x in at)), shares[rank].to(device), back.to(device))
