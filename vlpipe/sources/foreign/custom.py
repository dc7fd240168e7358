"""How many frames each record has that only the user's own functions can read."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vlpipe.layouts.base import Layout
from vlpipe.sources.foreign.chunk import MisfitError
from vlpipe.storage.index import column

MAX_FRAMES = 2**31 - 2


def count_frames(layout: Layout, rows: np.ndarray, records: list[bytes], name: str, first: int) -> None:
    """Fill in the rows of some records.

    Args:
        name: of the file.
        first: number of the first of the records in it.

    Raises:
        MisfitError: a function of the user's fails, or gives no number of frames; the message names the record.
    """
    names = [column(layout.schema, "frames", entry.key) for entry in layout.frames]
    counted = _by_length(layout, records) if layout.given and layout.given.length else _by_parsing(layout, records)
    for row in range(len(records)):
        counts, problem = _next(counted)
        if problem:
            where = f"{name}, record {first + row} at byte {rows['offset'][row]}"
            raise MisfitError(where, [first + row], functools.partial(_found, problem), "Mend it, or leave the file out.")
        for entry, count in zip(names, counts, strict=True):
            rows[entry][row] = count


def _next(counted: Iterator[Sequence[int]]) -> tuple[Sequence[int], str]:
    """The frames of each sequence of the next record, and what is wrong with them."""
    try:
        counts = next(counted)
    except Exception as error:  # a user's function raises what it will
        return (), f"fails ({type(error).__name__}: {error})"
    wrong = [count for count in counts if not 0 <= count <= MAX_FRAMES]
    return counts, f"gives {wrong[0]} frames, expected a number from 0 to {MAX_FRAMES}" if wrong else ""


def _found(problem: str, _record: int) -> str:
    return f"the layout's own function {problem}"


def _by_length(layout: Layout, records: list[bytes]) -> Iterator[tuple[int]]:
    length: Any = layout.given and layout.given.length
    for record in records:
        yield (_whole(length(record)),)


def _whole(count: Any) -> int:
    number = int(count)
    if number != count:
        raise ValueError(f"{count!r} is no whole number")
    return number


def _by_parsing(layout: Layout, records: list[bytes]) -> Iterator[list[int]]:
    import tensorflow as tf

    def count(data: tf.Tensor) -> tf.Tensor:
        values = layout.given.parse(data) if layout.given else {}
        return tf.stack([tf.shape(values[entry.key], tf.int64)[0] for entry in layout.frames])

    with tf.device("CPU:0"):
        counts = tf.data.Dataset.from_tensor_slices(records).map(count, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
        yield from map(np.ndarray.tolist, counts.as_numpy_iterator())
