"""Index one third-party file: the rows of its records, from the file and the layout of the records.

Only labels and lengths are read; frames are neither read nor copied. The engines verify the checksum of the data at the first read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from vlpipe.files.compression import compression_of, on_disk
from vlpipe.files.tfrecord import HEADER_BYTES, named_errors, scan
from vlpipe.layouts.base import Layout, Listed, Number, Value
from vlpipe.sources.foreign.chunk import Chunk
from vlpipe.sources.foreign.content import content_of
from vlpipe.sources.foreign.custom import count_frames, is_counted
from vlpipe.sources.foreign.fill_rows import fill_rows
from vlpipe.storage.field_access import column

CHUNK_RECORDS, CHUNK_BYTES = 1 << 16, 1 << 28  # limits of a chunk
Load = Callable[[int, int], None]
CUSTOM_CHUNK_BYTES = 1 << 24  # limit of a chunk for custom functions, whose records are copied


class Table(NamedTuple):
    """The index of one file.

    Attributes:
        rows: `[records]`, dtype `row_dtype(layout)`; `shard` is 0.
        lists: the int64 values of each `Listed` key, one record after another.
        compression: of the file, see `storage.index.Shard`.
        others: the keys that the layout does not have, each with the number of the first record that has it.
    """

    rows: np.ndarray
    lists: dict[str, np.ndarray]
    compression: str = ""
    others: tuple[tuple[str, int], ...] = ()


@functools.lru_cache
def row_dtype(layout: Layout) -> np.dtype:
    """Return the dtype of the rows of an index of third-party files.

    The columns are those of vlpipe's own files (`storage.index.row_dtype`), with `frames` and `start` of every sequence, and in addition:

    - for a `Number`: `value:KEY`;
    - for further sequences (`Frames` among the fields, and those that a custom function returns): `frames:KEY` and `start:KEY`;
    - for a `Listed` key: `frames:KEY`, the number of values, and `start:KEY`, the position of the first one in the values of all records;
    - for `Words`: `frames:KEY`, the number of bytes, and `start:KEY`, their position in the data.
    """
    columns: list[tuple] = [("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("checksum", "<u4")]
    schema = layout.schema
    for entry in layout.frames:
        columns += [(column(schema, "frames", entry.key), "<u4"), (column(schema, "start", entry.key), "<u4")]
    for field in layout.fields:
        if isinstance(field, Number):
            columns.append((column(schema, "value", field.key), np.dtype(field.dtype).newbyteorder("<").str, field.shape))
        elif not isinstance(field, Value) or is_counted(layout, field):
            start = "<u8" if isinstance(field, Listed) else "<u4"
            columns += [(column(schema, "frames", field.key), "<u4"), (column(schema, "start", field.key), start)]
    return np.dtype(columns)


def extract(path: str | os.PathLike[str], layout: Layout) -> Table:
    """Index every record of a file.

    Args:
        path: the file.
        layout: a complete layout, see `layouts.resolve`.

    Raises:
        DatasetError: the file cannot be read or is damaged, or a record does not match the layout; the message names record and byte.
    """
    name = os.path.basename(path)
    compression = compression_of(path)
    with on_disk(path, compression) as file, named_errors(path):
        scanned = scan(file, name)
        rows = np.zeros(len(scanned.offsets), row_dtype(layout))
        rows["offset"], rows["bytes"], rows["checksum"] = scanned
        content = content_of(file, path, len(rows))
        others: dict[str, int] = {}
        lists = fill(content.data, name, layout, rows, 0, len(rows), others, content.load)
    for key in lists:
        counts = rows[column(layout.schema, "frames", key)].astype(np.int64)
        rows[column(layout.schema, "start", key)] = np.cumsum(counts) - counts
    return Table(rows, lists, compression, tuple(others.items()))


def fill(
    data: np.ndarray,
    name: str,
    layout: Layout,
    rows: np.ndarray,
    first: int,
    end: int,
    others: dict[str, int] | None = None,
    load: Load = lambda begin, end: None,
) -> dict[str, np.ndarray]:
    """Fill in `rows[first:end]`.

    Args:
        data: uint8, the file.
        name: the name of the file in errors.
        layout: a complete layout.
        rows: the rows of the file, with `offset`, `bytes` and `checksum`.
        first: the first row to fill in.
        end: the row after the last one to fill in.
        others: is told of the keys that the layout does not have, each with the number of its first record.
        load: is called before bytes of `data` are read, with the first byte and the end.

    Returns:
        The int64 values of each `Listed` key of these records.

    Raises:
        MisfitError: records do not match the layout.
        DatasetError: the data of the first of them are damaged.
    """
    lists: dict[str, list[np.ndarray]] = {field.key: [] for field in layout.fields if isinstance(field, Listed)}
    for begin, stop in _chunks(rows["bytes"][first:end], CHUNK_BYTES if layout.given is None else CUSTOM_CHUNK_BYTES):
        load(int(rows["offset"][first + begin]), int(rows["offset"][first + stop - 1] + rows["bytes"][first + stop - 1]) + HEADER_BYTES)
        if layout.given is None:
            fill_rows(Chunk(data, name, layout, rows, first + begin, first + stop, others), lists)
        else:
            _fill_custom(data, name, layout, rows, first + begin, first + stop)
    return {key: np.concatenate([np.zeros(0, np.int64), *parts]) for key, parts in lists.items()}


def _fill_custom(data: np.ndarray, name: str, layout: Layout, rows: np.ndarray, first: int, end: int) -> None:
    """Fill in the rows of records that only custom functions can read."""
    begins = rows["offset"][first:end].astype(np.int64) + HEADER_BYTES
    records = [data[at : at + size].tobytes() for at, size in zip(begins.tolist(), rows["bytes"][first:end].tolist(), strict=True)]
    count_frames(layout, rows[first:end], records, name, first)


def _chunks(sizes: np.ndarray, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the first record and the end of each chunk of records with these sizes in bytes; a larger record is a chunk alone."""
    ends = np.cumsum(sizes, dtype=np.int64)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        end = int(np.searchsorted(ends, before + max_bytes, side="right"))
        end = min(max(end, first + 1), first + CHUNK_RECORDS)
        yield first, min(end, len(sizes))
        first = end
