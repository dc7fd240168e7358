"""Some shards of a dataset as they grow: their files, the rows of the index, and the statistics of what is in them.

Whoever writes a dataset alone has one portion, of all its shards; of processes that write one together each has its own. Nothing in a
shard depends on the others, and its statistics are its own until the end: so the dataset is the same, to the last bit, whoever wrote what.
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
from vlpipe.storage.example import encode
from vlpipe.storage.index import row_dtype
from vlpipe.storage.schema import Schema, Sequence
from vlpipe.storage.statistics import Moments

MAX_RECORD_BYTES = 2**31 - 1  # a protocol buffer may not be larger
_BUFFER_BYTES = 1 << 20
_ROWS = 4096  # that are put into an array at a time
_SHORT = 1 << 14  # values of a record; statistics of fewer are made of several records at a time
_FRAMING = HEADER_BYTES + FOOTER_BYTES


def shard_numbers(num_shards: int) -> Iterator[int]:
    """The shard of each record, without end: at random, by a fixed seed."""
    random = np.random.default_rng(0)
    while True:
        yield from random.integers(num_shards, size=_ROWS).tolist()


def shards_of(records: int, num_shards: int) -> np.ndarray:
    """int64 `[records]`: the first of `shard_numbers`."""
    return np.random.default_rng(0).integers(num_shards, size=records)


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard that is complete: what the table of shards says of it, and the statistics of each sequence, if it has records."""

    name: str
    bytes: int
    records: int
    digest: str
    moments: dict[str, Moments]

    def to_json(self) -> dict[str, Any]:
        """Its entry in the table."""
        return {"name": self.name, "bytes": self.bytes, "records": self.records, "digest": self.digest}

    def state(self) -> dict[str, Any]:
        """All of it, to the last bit, as Python's numbers and texts; `from_state` gives it back."""
        return {**self.to_json(), "moments": {name: moments.state() for name, moments in self.moments.items()}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Shard:
        """What had this `state`."""
        return cls(**{**state, "moments": {name: Moments.from_state(entry) for name, entry in state["moments"].items()}})


class Portion:
    """Some shards of a dataset, to which records are added; their files grow in `directory`.

    Args:
        names: the file of each shard, by its number.
    """

    def __init__(self, directory: Path, schema: Schema, names: dict[int, str]) -> None:
        self._schema = schema
        self._sequences = schema.sequences
        self._dtype = row_dtype(schema)
        self._inline = [name.removeprefix("value:") for name in self._dtype.names or () if name.startswith("value:")]
        self._shards = {number: _ShardFile(directory / name, self._sequences) for number, name in names.items()}
        self._arrays: list[np.ndarray] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(self, shard: int, values: dict[str, np.ndarray | bytes], where: Callable[[], str]) -> None:
        """Add a record to a shard.

        Args:
            values: as `schema.check` gives them.
            where: names the record in an error.

        Raises:
            SchemaError: a record cannot be so large.
            OSError: the file cannot be written.
        """
        data, starts = encode(self._schema, values)
        if len(data) > MAX_RECORD_BYTES:
            raise SchemaError(
                f"{where()}: takes {len(data)} bytes, a TFRecord Example can hold {MAX_RECORD_BYTES}. Cut it into shorter records."
            )
        file, checksum = self._shards[shard], masked_crc(data)
        places: list[int] = []
        for name, start in zip(self._sequences, starts, strict=True):
            places += len(values[name]), start
        inline = [values[name] for name in self._inline]
        self._rows.append((shard, file.bytes, len(data), checksum, *places, *inline))
        if len(self._rows) == _ROWS:
            self._to_array()
        file.append(data, checksum, places)

    def _to_array(self) -> None:
        self._arrays.append(np.array(self._rows, self._dtype))
        self._rows.clear()

    def finish(self) -> tuple[np.ndarray, dict[int, Shard]]:
        """The rows of the records in the order in which they were added, and the shards by number; nothing can be added any more.

        Raises:
            OSError: a file cannot be written.
        """
        self._to_array()
        return np.concatenate(self._arrays), {number: shard.finish() for number, shard in self._shards.items()}


class _ShardFile:
    """One shard as it grows. Appends through a buffer and keeps no file open, so that their number is not limited."""

    def __init__(self, path: Path, sequences: dict[str, Sequence]) -> None:
        self.bytes = 0
        self._records = 0
        self._path = path
        self._sequences = sequences
        self._moments: dict[str, Moments] = {}  # made with the first record: there may be very many shards
        self._digest = hashlib.sha256()
        self._flushed = 0
        self._parts: list[bytes] = []
        self._frames: list[tuple[bytes, list[int]]] = []

    def append(self, data: bytes, checksum: int, places: list[int]) -> None:
        """Append a record; `places` are the frames of each sequence, and where in the data they start."""
        self._parts += header_of(len(data)), data, footer_of(checksum)
        self._frames.append((data, places))
        self.bytes += _FRAMING + len(data)
        self._records += 1
        if self.bytes - self._flushed >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        with self._path.open("ab") as file:
            file.writelines(self._parts)
        for part in self._parts:
            self._digest.update(part)
        for position, (name, sequence) in enumerate(self._sequences.items()):
            size, dtype = math.prod(sequence.dimensions), np.dtype(sequence.dtype).newbyteorder("<")
            moments = self._moments.setdefault(name, Moments(size))
            arrays = [np.frombuffer(data, dtype, at[2 * position] * size, at[2 * position + 1]) for data, at in self._frames]
            # Short ones together: each by itself, they would cost more than all the rest.
            short = [values for values in arrays if values.size < _SHORT]
            for values in [values for values in arrays if values.size >= _SHORT] + ([np.concatenate(short)] if short else []):
                moments.update(values.reshape(-1, size))
        self._flushed = self.bytes
        self._parts.clear()
        self._frames.clear()

    def finish(self) -> Shard:
        """Write what is left, and in any case a file."""
        self._flush()
        return Shard(self._path.name, self.bytes, self._records, f"sha256:{self._digest.hexdigest()}", self._moments)
