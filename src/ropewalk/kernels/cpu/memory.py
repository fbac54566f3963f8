"""Memory for large results.  Most of the time of writing a fresh tensor is spent in the system, page by page."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LARGE = 1 << 23  # bytes from which large pages are asked for, as PyTorch does under THP_MEM_ALLOC_ENABLE


def fresh_like(x: Tensor) -> Tensor:
    """What `empty_like` gives, in large pages where the system has some: they take it a fraction of the time."""
    out = torch.empty_like(x)
    size = out.nbytes
    if size >= LARGE and (advise := advice()):
        start = -(-out.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        # nothing depends on whether the advice is taken
        advise(start, (out.data_ptr() + size - start) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
    return out


@cache
def advice() -> Callable[[int, int, int], int] | None:
    """The system's call, where it knows large pages."""
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    call = ctypes.CDLL(None).madvise
    call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return call
