"""Write shards of a dataset: their files, their rows of the index, and the statistics of their frames.

A single process has one `ShardWriter` for all shards. Of several processes, each has one for some of the shards. Nothing in a shard depends
on the other shards, and its statistics are merged with theirs only at the end: the dataset is the same, to the last bit, in both cases.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES, footer_of, header_of, masked_crc
from vlpipe.regular_files import open_to_append
from vlpipe.storage.example import encode
from vlpipe.storage.index import inline_fields, row_dtype
from vlpipe.storage.schema import Schema, Sequence
from vlpipe.storage.statistics import Moments
from vlpipe.storage.text_columns import TextCodes, TextValues, text_fields

MAX_RECORD_BYTES = 2**31 - 1  # the limit of a protocol buffer
_BUFFER_BYTES = 1 << 20
_ROWS = 4096  # rows that become an array at a time
_SHORT = 1 << 14  # records with fewer values are added to the statistics several at a time
_FRAMING = HEADER_BYTES + FOOTER_BYTES


def iterate_shard_numbers(num_shards: int) -> Iterator[int]:
    """Yield the shard of each record, without end: random numbers with a fixed seed."""
    random = np.random.default_rng(0)
    while True:
        yield from random.integers(num_shards, size=_ROWS).tolist()


def shard_numbers(records: int, num_shards: int) -> np.ndarray:
    """Return the shard of each record, int64 `[records]`: the beginning of `iterate_shard_numbers`."""
    return np.random.default_rng(0).integers(num_shards, size=records)


@dataclass(frozen=True, eq=False)
class WrittenShard:
    """A complete shard.

    Attributes:
        name: of the file.
        bytes: size of the file.
        records: number of records.
        digest: "sha256:" and the SHA-256 of the file.
        moments: statistics of each sequence; empty without records.
    """

    name: str
    bytes: int
    records: int
    digest: str
    moments: dict[str, Moments]

    def to_json(self) -> dict[str, Any]:
        """Return its entry in the table of shards of `vlpipe.json`."""
        return {"name": self.name, "bytes": self.bytes, "records": self.records, "digest": self.digest}

    def state(self) -> dict[str, Any]:
        """Return all attributes, exactly, as JSON values, for `from_state`."""
        return {**self.to_json(), "moments": {name: moments.state() for name, moments in self.moments.items()}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> WrittenShard:
        """Return the shard with this `state`."""
        return cls(**{**state, "moments": {name: Moments.from_state(entry) for name, entry in state["moments"].items()}})


class ShardWriter:
    """Writes records into some shards of a dataset.

    Args:
        directory: where to write the files.
        schema: of the records.
        names: file name of each of these shards, by its number.
    """

    def __init__(self, directory: Path, schema: Schema, names: dict[int, str]) -> None:
        self._schema = schema
        self._sequences = schema.sequences
        self._texts = {name: TextCodes() for name in text_fields(schema)}
        self._dtype = row_dtype(schema, self._texts)
        self._inline = list(inline_fields(schema))
        self._shards = {number: _ShardFile(directory / name, self._sequences) for number, name in names.items()}
        self._rows: list[np.ndarray] = []
        self._pending: list[tuple[Any, ...]] = []

    def add(self, shard: int, values: dict[str, np.ndarray | bytes], where: Callable[[], str]) -> None:
        """Add a record to a shard.

        Args:
            shard: number of the shard.
            values: the values that `Schema.check` returned.
            where: returns the name of the record, for an error.

        Raises:
            SchemaError: the record is too large for a protocol buffer.
            OSError: the file cannot be written.
        """
        data, starts = encode(self._schema, values)
        if len(data) > MAX_RECORD_BYTES:
            raise SchemaError(
                f"{where()}: takes {len(data)} bytes, a TFRecord Example can hold {MAX_RECORD_BYTES}. Cut it into shorter records."
            )
        file, checksum = self._shards[shard], masked_crc(data)
        spans: list[int] = []
        for name, start in zip(self._sequences, starts, strict=True):
            spans += len(values[name]), start
        inline = [values[name] for name in self._inline]
        codes = [entry.code(values[name]) for name, entry in self._texts.items()]  # type: ignore[arg-type]  # a text is bytes
        self._pending.append((shard, file.bytes, len(data), checksum, *spans, *inline, *codes))
        if len(self._pending) == _ROWS:
            self._pack_rows()
        file.append(data, checksum, spans)

    def _pack_rows(self) -> None:
        self._rows.append(np.array(self._pending, self._dtype))
        self._pending.clear()

    def finish(self) -> tuple[np.ndarray, TextValues, dict[int, WrittenShard]]:
        """Complete the shards.

        Returns:
            The rows of their records, in the order of `add`; the values of texts by code; and the shards by number.

        Raises:
            OSError: a file cannot be written.
        """
        self._pack_rows()
        texts = {name: entry.values() for name, entry in self._texts.items()}
        return np.concatenate(self._rows), texts, {number: shard.finish() for number, shard in self._shards.items()}


class _ShardFile:
    """A shard that grows. It appends through a buffer and keeps no file open, so that the number of shards has no limit."""

    def __init__(self, path: Path, sequences: dict[str, Sequence]) -> None:
        self.bytes = 0
        self._records = 0
        self._path = path
        self._sequences = sequences
        self._moments: dict[str, Moments] = {}  # created with the first record: there may be very many shards
        self._digest = hashlib.sha256()
        self._flushed = 0
        self._buffer: list[bytes] = []
        self._records_in_buffer: list[tuple[bytes, list[int]]] = []

    def append(self, data: bytes, checksum: int, spans: list[int]) -> None:
        """Append a record; `spans` has the number of frames of each sequence and, behind each, their first byte in the data."""
        self._buffer += header_of(len(data)), data, footer_of(checksum)
        self._records_in_buffer.append((data, spans))
        self.bytes += _FRAMING + len(data)
        self._records += 1
        if self.bytes - self._flushed >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        with open_to_append(self._path) as file:
            file.writelines(self._buffer)
        for part in self._buffer:
            self._digest.update(part)
        for position, (name, sequence) in enumerate(self._sequences.items()):
            size, dtype = math.prod(sequence.dimensions), np.dtype(sequence.dtype).newbyteorder("<")
            moments = self._moments.setdefault(name, Moments(size))
            arrays = [
                np.frombuffer(data, dtype, spans[2 * position] * size, spans[2 * position + 1]) for data, spans in self._records_in_buffer
            ]
            # Short ones together: one by one, they would take longer than everything else.
            short = [values for values in arrays if values.size < _SHORT]
            for values in [values for values in arrays if values.size >= _SHORT] + ([np.concatenate(short)] if short else []):
                moments.update(values.reshape(-1, size))
        self._flushed = self.bytes
        self._buffer.clear()
        self._records_in_buffer.clear()

    def finish(self) -> WrittenShard:
        """Write the rest of the buffer. A shard without records becomes an empty file."""
        self._flush()
        return WrittenShard(self._path.name, self.bytes, self._records, f"sha256:{self._digest.hexdigest()}", self._moments)
