"""Learned positions sharded over two processes give the same output and the same gradients as whole ones."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ropewalk as rw

WORLD, ENCODING = 2, rw.Shaw(16)


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    whole, sharded = rw.Positions(ENCODING), rw.Positions(ENCODING)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (WORLD,)))
    q, k, v = torch.randn(3, 1, 4, 9, 16, generator=torch.Generator().manual_seed(0))
    at = rw.contiguous(9)
    outputs = [module(q, k, v, at, at) for module in (whole, sharded)]
    for out in outputs:
        out.square().sum().backward()
    mine = {name: p.to_local().shape[0] for name, p in sharded.named_parameters()}
    grads = {name: p.grad.full_tensor() for name, p in sharded.named_parameters()}
    same = {name: bool(torch.equal(grads[name], p.grad)) for name, p in whole.named_parameters()}
    torch.save((torch.equal(*outputs), mine, same), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    assert all(outputs_equal for outputs_equal, _, _ in found)
    assert all(all(same.values()) and len(same) == 2 for _, _, same in found)
    rows = 2 * 16 + 1
    for name in found[0][1]:
        assert sum(mine[name] for _, mine, _ in found) == rows
        assert all(0 < mine[name] < rows for _, mine, _ in found)
