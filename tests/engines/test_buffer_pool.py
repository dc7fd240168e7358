"""The pool of buffers: aligned, reused, but never while an array refers to one."""

from __future__ import annotations

import threading

import numpy as np

from vlpipe.engines.buffer_pool import ALIGNMENT, MAX_BYTES, Pool


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_arrays_are_aligned_and_as_asked_for() -> None:
    pool = Pool(1000, 2)
    for shape, dtype in (((3, 5), "float32"), ((0, 4), "int64"), ((7,), "uint8"), ((), "float64"), ((300,), "float64")):
        array = pool.empty(shape, np.dtype(dtype))
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert address(array) % ALIGNMENT == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_memory_is_used_again_when_nobody_looks() -> None:
    pool = Pool(400, 2)
    first = pool.empty((100,), np.dtype("f4"))
    place = address(first)
    part = first[3:].reshape(-1)
    del first
    second = pool.empty((10,), np.dtype("f4"))
    assert address(second) != place  # a view still refers to it
    del part
    third = pool.empty((50,), np.dtype("f8"))
    assert address(third) == place


def test_no_more_is_kept_than_was_said() -> None:
    pool = Pool(400, 2)
    held = [pool.empty((100,), np.dtype("f4")) for _ in range(5)]
    assert len({address(array) for array in held}) == 5
    held.clear()
    assert len(pool._free) == 2


def test_what_is_larger_than_a_buffer_is_not_kept() -> None:
    pool = Pool(64, 2)
    array = pool.empty((1000,), np.dtype("f4"))
    assert address(array) % ALIGNMENT == 0
    del array
    assert pool._free == []
    assert Pool(MAX_BYTES * 100, 1)._capacity == MAX_BYTES


def test_threads_never_share_a_buffer() -> None:
    pool = Pool(4000, 4)
    wrong = []

    def work(number: int) -> None:
        for _ in range(300):
            array = pool.empty((1000,), np.dtype("i4"))
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(pool._free) <= 4
