"""The framing of records: the length and the checksum before the data of each, and the checksum behind them, compared with the index.

TensorFlow's reader allocates whatever length it finds under a right checksum, and a length of 2^40 ends the process (SIGSEGV). It compares
the data with the checksum behind them, which is that of another record where a file was exchanged.
"""

from __future__ import annotations

import os

import numpy as np

from vlpipe.engines.mapped_shards import Shards
from vlpipe.errors import REWRITTEN, DatasetError
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES, headers_of, length_in, named_errors
from vlpipe.regular_files import open_regular
from vlpipe.storage.index import Index

_BLOCK = 1 << 16  # records that are looked at together


def other_frames(index: Index, rows: np.ndarray) -> np.ndarray:
    """Return those of some rows (int64 `[n]`) whose framing in the local file is not the one that the index says. No data are read.

    Raises:
        DatasetError: a shard is missing or has another size.
    """
    shards, found = Shards(index, "never"), []
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        table = np.asarray(index.rows).take(block)
        begins, sizes = table["offset"].astype(np.int64), table["bytes"].astype(np.int64)
        begins = np.stack([begins, begins + HEADER_BYTES + sizes], 1)
        frames = np.empty((len(block), HEADER_BYTES + FOOTER_BYTES), np.uint8)
        pairs = np.full(begins.shape, [HEADER_BYTES, FOOTER_BYTES])
        shards.copy(frames, shards.segments(np.repeat(table["shard"], 2), begins.ravel(), pairs.ravel()))
        checksums = np.ascontiguousarray(table["checksum"], "<u4")[:, None].view(np.uint8)
        found.append(block[(frames != np.concatenate([headers_of(sizes), checksums], 1)).any(1)])
    return np.concatenate([np.zeros(0, np.int64), *found])


def other_frame(index: Index, row: int) -> DatasetError:
    """The error that names a record with another framing."""
    entry = index.rows[row]
    return DatasetError(
        f"{index.where(row)}: the length or a checksum around its {entry['bytes']} bytes of data is not the one in the index. {REWRITTEN}"
    )


def check_lengths(index: Index, rows: np.ndarray) -> None:
    """Compare the lengths before the records of one local file with the index, before TensorFlow allocates them.

    A header that is cut, or whose checksum is wrong, is left to TensorFlow's reader, which refuses it without reading on.

    Args:
        rows: int64 `[n]`, rows of the index.

    Raises:
        DatasetError: a record has another length, or the file cannot be read; the message names it.
    """
    table = np.asarray(index.rows).take(rows)
    if not len(table):
        return
    path = index.shards[int(table["shard"][0])].path
    with named_errors(path), open_regular(path) as file:
        descriptor = file.fileno()
        for row, offset, size in zip(rows.tolist(), table["offset"].tolist(), table["bytes"].tolist(), strict=True):
            header = os.pread(descriptor, HEADER_BYTES, offset)
            length = length_in(header) if len(header) == HEADER_BYTES else None
            if length is None:
                return
            if length != size:
                raise DatasetError(f"{index.where(row)}: announces {length} bytes of data, but {size} were indexed. {REWRITTEN}")
