"""The rows of an index, from a file that vlpipe did not write and the layout of its records.

The records of a file are walked together (`bulk`); those that its writer encoded in another way than usual one by one (`wire`). Data are
not copied and not read, except for labels and lengths; whether they are whole, the engines test at the first read.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.compression import compression_of, on_disk
from vlpipe.files.tfrecord import HEADER_BYTES, data_checksums, scan
from vlpipe.layouts.base import Layout, Listed, Number, Value
from vlpipe.sources.foreign.chunk import Chunk
from vlpipe.sources.foreign.custom import count_frames
from vlpipe.storage.index import column

CHUNK_RECORDS, CHUNK_BYTES = 1 << 16, 1 << 28  # that are walked together
GIVEN_BYTES = 1 << 24  # that are copied for the user's own functions


class Table(NamedTuple):
    """What an index knows of one file.

    Attributes:
        rows: `[records]`, dtype `row_dtype(layout)`; `shard` is 0.
        lists: int64, the values of each `Listed` key, one record after another.
        compression: of the file, as `Shard` has it.
    """

    rows: np.ndarray
    lists: dict[str, np.ndarray]
    compression: str = ""


@functools.lru_cache
def row_dtype(layout: Layout) -> np.dtype:
    """The columns of an index of foreign files.

    Those of vlpipe's own (`index.row_dtype`), `frames` and `start` of every sequence; `value:KEY` of every `Number`; of a `Listed`
    key `frames:KEY`, how many values, and `start:KEY`, where among those of all records they begin; of `Words` `frames:KEY`, how many
    bytes, and `start:KEY`, where in the data.
    """
    columns: list[tuple] = [("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("checksum", "<u4")]
    schema = layout.schema
    for entry in layout.frames:
        columns += [(column(schema, "frames", entry.key), "<u4"), (column(schema, "start", entry.key), "<u4")]
    for field in layout.fields:
        if isinstance(field, Number):
            columns.append((f"value:{field.key}", np.dtype(field.dtype).newbyteorder("<").str, field.shape))
        elif not isinstance(field, Value):
            columns += [(f"frames:{field.key}", "<u4"), (f"start:{field.key}", "<u8" if isinstance(field, Listed) else "<u4")]
    return np.dtype(columns)


def extract(path: str | os.PathLike[str], layout: Layout) -> Table:
    """Every record of a file.

    Args:
        layout: a complete one, as `layouts.resolve` gives.

    Raises:
        DatasetError: the file cannot be read, is damaged, or a record is not as the layout says; the message names the record and the byte.
    """
    name = os.path.basename(path)
    compression = compression_of(path)
    with on_disk(path, compression) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: cannot be mapped into memory ({error}), expected a TFRecord file.") from error
    data = np.frombuffer(mapped, np.uint8)
    offsets, sizes = scan(data, name)
    rows = np.zeros(len(offsets), row_dtype(layout))
    rows["offset"], rows["bytes"] = offsets, sizes
    rows["checksum"] = data_checksums(data, offsets, sizes)
    lists = fill(data, name, layout, rows, 0, len(rows))
    for key in lists:  # counts are there; where they begin follows
        counts = rows[f"frames:{key}"].astype(np.int64)
        rows[f"start:{key}"] = np.cumsum(counts) - counts
    return Table(rows, lists, compression)


def fill(data: np.ndarray, name: str, layout: Layout, rows: np.ndarray, first: int, end: int) -> dict[str, np.ndarray]:
    """Fill in the rows from the first to before the end, of which place and checksum are known; the values of their lists.

    Args:
        data: uint8, the file.
        name: what to call it in an error.

    Raises:
        MisfitError: records are not as the layout says.
        DatasetError: the data of the first of them are damaged.
    """
    lists: dict[str, list[np.ndarray]] = {field.key: [] for field in layout.fields if isinstance(field, Listed)}
    for begin, stop in _chunks(rows["bytes"][first:end], CHUNK_BYTES if layout.given is None else GIVEN_BYTES):
        if layout.given is None:
            Chunk(data, name, layout, rows, first + begin, first + stop).fill(lists)
        else:
            _fill_given(data, name, layout, rows, first + begin, first + stop)
    return {key: np.concatenate([np.zeros(0, np.int64), *parts]) for key, parts in lists.items()}


def _fill_given(data: np.ndarray, name: str, layout: Layout, rows: np.ndarray, first: int, end: int) -> None:
    """Fill in the rows of records that only the user's own functions can read."""
    begins = rows["offset"][first:end].astype(np.int64) + HEADER_BYTES
    records = [data[at : at + size].tobytes() for at, size in zip(begins.tolist(), rows["bytes"][first:end].tolist(), strict=True)]
    count_frames(layout, rows[first:end], records, name, first)


def _chunks(sizes: np.ndarray, most_bytes: int) -> Iterator[tuple[int, int]]:
    ends = np.cumsum(sizes, dtype=np.int64)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        end = int(np.searchsorted(ends, before + most_bytes, side="right"))
        end = min(max(end, first + 1), first + CHUNK_RECORDS)
        yield first, min(end, len(sizes))
        first = end
