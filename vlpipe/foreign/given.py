"""How many frames each record has that only the user's own functions can read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.index import column
from vlpipe.layouts.base import Layout

MOST_FRAMES = 2**31 - 2


def count_frames(layout: Layout, rows: np.ndarray, records: list[bytes], where: Callable[[int], str]) -> None:
    """Fill in the rows of some records.

    Args:
        where: names the record of a row.

    Raises:
        DatasetError: a function of the user's fails, or gives no number of frames; the message names the record.
    """
    names = [column(layout.schema, "frames", entry.key) for entry in layout.frames]
    counted = _by_length(layout, records) if layout.given and layout.given.length else _by_parsing(layout, records)
    for row in range(len(records)):
        try:
            counts = next(counted)
        except Exception as error:  # a user's function raises what it will
            raise DatasetError(
                f"{where(row)}: the layout's own function fails ({type(error).__name__}: {error}). Mend it, or leave the file out."
            ) from error
        for name, count in zip(names, counts, strict=True):
            if not 0 <= count <= MOST_FRAMES:
                raise DatasetError(
                    f"{where(row)}: the layout's own function gives {count} frames, expected a number from 0 to {MOST_FRAMES}."
                )
            rows[name][row] = count


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
