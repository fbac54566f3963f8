"""Pairs of channels turned on a CPU in one pass over the memory: any strides, in place or out of place."""

import platform
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import llvmlite.binding
import numpy as np
import torch
from torch import Tensor

from ropewalk.kernels.cpu.lanes import LINE
from ropewalk.kernels.cpu.loops import TOGETHER, share_of, turn_tiles
from ropewalk.kernels.cpu.threads import in_threads, torch_threads

Job = tuple[Tensor, Tensor, Tensor, Tensor]  # x [B, H, T, D], out like x, cos and sin [B or 1, (H or 1,) T, P]

TILE = 256  # tokens whose tables stay near the processor while all heads pass
SHARE = 8  # tiles for each thread, at least, so that none waits for long
ALONE = 1 << 18  # elements that one thread turns before another one has woken
LARGE = 1 << 24  # bytes from which results are written past the caches, which could not keep them
# what the loops are specialised by: integers stand for the types that numba lacks
SAMPLES = {
    torch.bfloat16: np.uint16(0),
    torch.float16: np.int16(0),
    torch.float32: np.float32(0),
    torch.float64: np.float64(0),
}


def unserved(dtype: torch.dtype) -> str | None:
    """Why these loops cannot turn such a tensor here, or None."""
    if dtype not in SAMPLES:
        return f"no loop for {dtype}"
    if sys.byteorder != "little":
        return "the loops are for processors that put the low byte first"
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if dtype == torch.float16 and x86 and not llvmlite.binding.get_host_cpu_features().get("f16c", False):
        return "this processor does not convert float16"
    return None


class Plan(NamedTuple):
    """What follows from shapes, strides and dtypes alone."""

    elements: int
    large: bool  # written past the caches, if the result begins where a cache line does
    address: int  # of sizes
    sizes: np.ndarray  # what the loops read
    x: np.generic
    table: np.generic


def launch(jobs: Sequence[Job], pairing: str, offset: int = 0, inverse: bool = False) -> None:
    """Turn channels offset .. offset + 2P of every x, the others passing to `out`.

    `out` is x itself (in place) or shares no memory with it.  Arithmetic is in float32, or float64 where x or the
    tables are.  `inverse` turns by minus the angle.
    """
    threads, sign, elements = torch.get_num_threads(), -1.0 if inverse else 1.0, 0
    calls: list[tuple] = []
    # what addresses point to has to last until the end
    kept: list[object] = [jobs]
    for x, out, cos, sin in jobs:
        s_table = cos.stride()
        if s_table[-1] != 1 or sin.stride() != s_table:
            cos, sin = cos.contiguous(), sin.contiguous()
            s_table = cos.stride()
            kept.append((cos, sin))
        dtype = x.dtype
        here = plan(x.shape, x.stride(), out.stride(), cos.shape, s_table, dtype, cos.dtype, offset, pairing, threads)
        count, large, sizes, _, x_sample, table_sample = here
        p_out = out.data_ptr()
        # lines that are read and written need no detour past the caches
        large = large and out is not x and (p_out + offset * dtype.itemsize) % LINE == 0
        calls.append((p_out, x.data_ptr(), cos.data_ptr(), sin.data_ptr(), sign, large, sizes, x_sample, table_sample))
        kept.append(here)
        elements += count
    if threads == 1 or elements <= ALONE:
        for call in calls:
            turn_tiles(0, *call)
    else:
        share_out(calls, threads, kept)


def share_out(calls: list[tuple], threads: int, kept: object) -> None:
    """Let several threads work on the tiles of all calls; what is `kept` lives as long as they do."""
    counters = np.zeros(len(calls), np.int64)
    counted = [(counters.ctypes.data + i * counters.itemsize, *call) for i, call in enumerate(calls)]
    if (parallel := torch_threads()) and len({tuple(map(type, call[-2:])) for call in calls}) == 1:
        # the samples are the same throughout, so one function does all calls
        numbers = np.array([len(calls), *(int(n) for call in counted for n in call[:-2])], np.int64)
        parallel(share_of(*calls[0][-2:]), numbers.ctypes.data, threads, 0)
        return

    def work(_: object = kept) -> None:
        for call in counted:
            turn_tiles(*call)

    in_threads(work, threads)


@lru_cache(maxsize=1024)
def plan(
    shape: torch.Size, s_x: tuple[int, ...], s_out: tuple[int, ...], table: torch.Size, s_table: tuple[int, ...],
    dtype: torch.dtype, table_dtype: torch.dtype, offset: int, pairing: str, threads: int,
) -> Plan:  # fmt: skip
    """How to go over one x: tiles of tokens, small enough that their tables stay in a cache while all heads pass."""
    rows, tokens, pairs = shape[0], shape[2], table[-1]
    # tables that are shared are read again
    by_row = s_table[0] if table[0] > 1 else 0
    by_head = s_table[1] if len(table) == 4 and table[1] > 1 else 0
    share = rows * tokens // (SHARE * threads) if threads > 1 else tokens
    tile = max(1, min(TILE, tokens, share))
    starts = (pairs * dtype.itemsize, *(s * dtype.itemsize for s in s_out[:3]))
    large = shape.numel() * dtype.itemsize >= LARGE and s_out[3] == 1 and not any(start % LINE for start in starts)
    # a few heads go together, those with tables of their own alone; where heads lie side by side, token by token
    group, run = 1 if by_head else TOGETHER, 1 if s_x[1] <= s_x[2] else tile
    strides = *s_x, *s_out, by_row, by_head, s_table[-2]
    counts = rows * -(-tokens // tile), tile, group, pairing == "interleaved", *shape[1:], offset, pairs
    sizes = np.array((*counts, *strides, run), np.int64)
    return Plan(shape.numel(), large, sizes.ctypes.data, sizes, SAMPLES[dtype], SAMPLES[table_dtype])
