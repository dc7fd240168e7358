"""Count the frames of records with a custom layout, by the user's own functions."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from vlpipe.arguments import MAX_FRAMES
from vlpipe.layouts.base import Layout, LayoutField, Value
from vlpipe.sources.foreign.chunk import MisfitError
from vlpipe.storage.field_access import column
from vlpipe.storage.schema import Sequence


def count_frames(layout: Layout, rows: np.ndarray, records: list[bytes], name: str, first: int) -> None:
    """Fill in the numbers of frames of some records.

    Args:
        layout: a custom layout.
        rows: the rows of the records.
        records: the serialized records.
        name: the name of the file.
        first: the number of the first record in the file.

    Raises:
        MisfitError: a custom function fails or returns an invalid number of frames; the message names the record.
    """
    names = [column(layout.schema, "frames", key) for key in _counted_keys(layout)]
    results = _by_length(layout, records) if layout.given and layout.given.length else _by_parsing(layout, records)
    for row in range(len(records)):
        counts, problem = _next(results)
        if problem:
            where = f"{name}, record {first + row} at byte {rows['offset'][row]}"
            raise MisfitError(where, [first + row], functools.partial(_problem, problem), "Fix the function, or leave the file out.")
        for entry, count in zip(names, counts, strict=True):
            rows[entry][row] = count


def is_counted(layout: Layout, field: LayoutField) -> bool:
    """Whether the frames of a field beside those of a custom layout are counted: of a sequence, unless the user's `length_fn` counts."""
    return isinstance(field, Value) and isinstance(field.kind, Sequence) and layout.given is not None and layout.given.length is None


def _counted_keys(layout: Layout) -> list[str]:
    """The keys whose frames are counted: those of the layout, then the other sequences."""
    return [entry.key for entry in layout.frames] + [field.key for field in layout.fields if is_counted(layout, field)]


def _next(results: Iterator[Many[int]]) -> tuple[Many[int], str]:
    """Return the number of frames of each sequence of the next record, and their problem, "" for none."""
    try:
        counts = next(results)
    except Exception as error:  # a custom function may raise anything
        return (), f"fails ({type(error).__name__}: {error})"
    wrong = [count for count in counts if not 0 <= count <= MAX_FRAMES]
    return counts, f"returns {wrong[0]} frames, expected a number from 0 to {MAX_FRAMES}" if wrong else ""


def _problem(problem: str, _record: int) -> str:
    return f"the layout's custom function {problem}"


def _by_length(layout: Layout, records: list[bytes]) -> Iterator[tuple[int]]:
    length: Any = layout.given and layout.given.length
    for record in records:
        yield (_integral(length(record)),)


def _integral(count: Any) -> int:
    number = int(count)
    if number != count:
        raise ValueError(f"{count!r} is not an integer")
    return number


def _by_parsing(layout: Layout, records: list[bytes]) -> Iterator[list[int]]:
    import tensorflow as tf

    def count(data: tf.Tensor) -> tf.Tensor:
        values = layout.given.parse(data) if layout.given else {}
        return tf.stack([tf.shape(values[key], tf.int64)[0] for key in _counted_keys(layout)])

    with tf.device("CPU:0"):
        counts = tf.data.Dataset.from_tensor_slices(records).map(count, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
        yield from map(np.ndarray.tolist, counts.as_numpy_iterator())
