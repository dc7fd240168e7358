"""Memory of batches, lent to TensorFlow and taken back: a batch that is returned to the system pays for page faults, not for copying."""

from __future__ import annotations

import math
import threading
import weakref

import numpy as np

# TensorFlow takes over an array without copying it where its data are aligned like this (Eigen's AVX-512 packets).
ALIGNMENT = 64
MAX_BYTES = 1 << 30  # of a buffer that is kept


class Pool:
    """Buffers of one size for arrays of up to that size, used again as soon as nobody refers to the array any more.

    It keeps at most `keep` of them; those that are lent beyond that are returned to the system when they come back. So the memory
    held is that of `keep` batches, plus whatever batches the user holds. Pages of a buffer that no array reached cost nothing.

    Args:
        capacity: bytes of a buffer; larger arrays (and any beyond 1 GiB) get memory of their own that is not kept.
        keep: buffers to keep.
    """

    def __init__(self, capacity: int, keep: int) -> None:
        self._capacity, self._keep = min(capacity, MAX_BYTES), keep
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with undefined content, in C order, its data aligned to 64 bytes."""
        size = math.prod(shape) * dtype.itemsize
        if size > self._capacity:
            return _aligned(size)[:size].view(dtype).reshape(shape)
        with self._lock:
            buffer = self._free.pop() if self._free else None  # the last that came back is the warmest
        if buffer is None:
            buffer = _aligned(self._capacity)
        lease = _Lease(buffer, size)
        weakref.finalize(lease, self._give_back, buffer).atexit = False
        return np.asarray(lease).view(dtype).reshape(shape)

    def clear(self) -> None:
        """Return to the system what is not lent."""
        with self._lock:
            self._free.clear()

    def _give_back(self, buffer: np.ndarray) -> None:
        with self._lock:
            if len(self._free) < self._keep:
                self._free.append(buffer)


class _Lease:
    """Lives as long as any array on the buffer: a view of an array refers to the object that owns the memory, not to that array."""

    def __init__(self, buffer: np.ndarray, size: int) -> None:
        self.__array_interface__ = {"version": 3, "data": (buffer.ctypes.data, False), "shape": (size,), "typestr": "|u1"}


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + ALIGNMENT, np.uint8)
    return raw[-raw.ctypes.data % ALIGNMENT :][:size]
