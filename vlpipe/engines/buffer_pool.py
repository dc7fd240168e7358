"""Reusable memory for batches, lent to TensorFlow.

Memory that is returned to the system after each batch costs page faults for the next one, which take longer than the copying itself.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from vlpipe.engines.gather_copy import address

# TensorFlow takes over an array without a copy if its data have this alignment (Eigen's AVX-512 packets).
ALIGNMENT = 64
MAX_BYTES = 1 << 30  # larger buffers are not kept


class Pool:
    """Buffers of one size for arrays of up to that size; a buffer is reused as soon as no reference to its array is left.

    At most `keep` free buffers are kept, further ones are returned to the system. So the pool holds the memory of at most `keep` batches,
    in addition to the batches that the user holds. Pages of a buffer that no array has used cost nothing.

    Args:
        capacity: bytes of a buffer; larger arrays (and any beyond 1 GiB) get their own memory, which is not kept.
        keep: free buffers to keep.
    """

    def __init__(self, capacity: int, keep: int) -> None:
        self._capacity, self._keep = min(capacity, MAX_BYTES), keep
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with undefined content, in C order, with its data aligned to 64 bytes."""
        size = math.prod(shape) * dtype.itemsize
        if size > self._capacity:
            return aligned(size)[:size].view(dtype).reshape(shape)
        with self._lock:
            buffer = self._free.pop() if self._free else None  # the one that was returned last is the warmest in the cache
        if buffer is None:
            buffer = aligned(self._capacity)
        return np.asarray(_Lease(self, buffer, size)).view(dtype).reshape(shape)

    def clear(self) -> None:
        """Return all free buffers to the system."""
        with self._lock:
            self._free.clear()

    def give_back(self, buffer: np.ndarray) -> None:
        """Take back a buffer on which there are no arrays."""
        with self._lock:
            if len(self._free) < self._keep:
                self._free.append(buffer)


class _Lease:
    """Lives as long as any array on the buffer: a view refers to the object that owns the memory, not to the array it was made from."""

    def __init__(self, pool: Pool, buffer: np.ndarray, size: int) -> None:
        self._pool, self._buffer = pool, buffer
        self.__array_interface__ = {"version": 3, "data": (address(buffer), False), "shape": (size,), "typestr": "|u1"}

    def __del__(self) -> None:
        self._pool.give_back(self._buffer)


def aligned(size: int) -> np.ndarray:
    raw = np.empty(size + ALIGNMENT, np.uint8)
    return raw[-raw.ctypes.data % ALIGNMENT :][:size]
