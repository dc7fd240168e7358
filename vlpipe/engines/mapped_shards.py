"""The shards of a dataset, mapped into memory as they are needed, and whether they still are what was written."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections import OrderedDict
from typing import BinaryIO, NamedTuple

import numpy as np

from vlpipe.engines.gather_copy import address, gather
from vlpipe.engines.python_calls import collector
from vlpipe.errors import DatasetError
from vlpipe.files.tfrecord import HEADER_BYTES, masked_crc
from vlpipe.storage.index import Index

_RESTORE = "Restore it from a copy, or write the dataset again."


class Padding(NamedTuple):
    """What follows each piece of a batch: so many bytes (int64 `[n]`) of a pattern (uint8) that is at least as long."""

    pattern: np.ndarray
    sizes: np.ndarray


class _Mapped(NamedTuple):
    """A shard in memory, and its address."""

    data: np.ndarray
    start: int


class Pieces(NamedTuple):
    """Pieces of the shards, each with its padding: where they stand in memory, and in their files.

    Attributes:
        table: int64 `[n, 1 or 2, 2]`, address and bytes.
        shards: `[n]`.
        begins: int64 `[n]`, where each begins in its shard.
        kept: whatever has to stay in memory.
    """

    table: np.ndarray
    shards: np.ndarray
    begins: np.ndarray
    kept: tuple[object, ...]

    def part(self, begin: int, end: int) -> Pieces:
        """Those from `begin` up to `end`."""
        return Pieces(self.table[begin:end], self.shards[begin:end], self.begins[begin:end], self.kept)


class Shards:
    """The shards, mapped into memory as they are needed, and what was found out about them."""

    def __init__(self, index: Index, verify: str) -> None:
        self._index, self._verify = index, verify
        self._verified = np.zeros(len(index) if verify == "first" else 0, bool)
        self._maps: OrderedDict[int, _Mapped] = OrderedDict()
        # Each mapped file holds a file descriptor.
        self._most_maps = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._lock = threading.Lock()
        self._known = [self._identity(shard.path) for shard in index.shards]
        self._sizes = np.array([shard.bytes for shard in index.shards], np.int64)
        self._epoch = -1
        self.changes = 0  # of the files, that were noticed

    @property
    def fit(self) -> bool:
        """Whether all may be mapped at once."""
        return len(self._known) <= self._most_maps

    @staticmethod
    def _identity(path: str) -> tuple[int, int, int]:
        found = os.stat(path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def begin(self, epoch: int, *, first: bool) -> None:
        """Compare the files with the index and with what they were, at the start of an epoch.

        Raises:
            DatasetError: a shard is missing or has another size.
        """
        if epoch == self._epoch and not first:
            return
        with self._lock:
            self._index.check_files()
            for shard, known in enumerate(self._known):
                found = self._identity(self._index.shards[shard].path)
                if found != known:  # touched, written to or replaced: whether it is the same, the checksums tell
                    self._known[shard] = found
                    self._maps.pop(shard, None)
                    self.changes += 1
                    if self._verify == "first":
                        self._verified[self._index.rows["shard"] == shard] = False
            self._epoch = epoch

    def close(self) -> None:
        """Let go of the mapped files, as far as nobody copies from them; they are mapped again when they are needed."""
        with self._lock:
            self._maps.clear()

    def pieces(self, shards: np.ndarray, begins: np.ndarray, sizes: np.ndarray, padding: Padding | None = None) -> Pieces:
        """Pieces of the shards, to be copied.

        Args:
            shards: `[n]`, the shard of each piece.
            begins: int64 `[n]`, where it begins in its shard.
            sizes: int64 `[n]`, its bytes.
            padding: what follows each piece.

        Raises:
            DatasetError: a shard is missing or has another size, or a piece is not inside it.
        """
        opened = {shard: self._open(shard) for shard in set(shards.tolist())}
        starts = np.zeros(len(self._sizes), np.int64)
        for shard, mapped in opened.items():
            starts[shard] = mapped.start
        outside = (begins < 0) | (sizes < 0) | (begins + sizes > self._sizes[shards])
        if outside.any():
            wrong = int(np.argmax(outside))
            raise DatasetError(
                f"{self._path(shards[wrong])}: the index names the bytes {begins[wrong]} to {begins[wrong] + sizes[wrong]} of its "
                f"{self._sizes[shards[wrong]]}: the index was changed while it was read. {_RESTORE}"
            )
        table = np.empty((len(shards), 2 if padding else 1, 2), np.int64)
        table[:, 0, 0], table[:, 0, 1] = starts[shards] + begins, sizes
        if padding:
            table[:, 1, 0], table[:, 1, 1] = address(padding.pattern), padding.sizes
        return Pieces(table, shards, begins, (opened, padding))

    def copy(self, target: np.ndarray, pieces: Pieces) -> None:
        """Copy pieces of the shards into an array of as many bytes, one after another.

        Raises:
            DatasetError: a shard became shorter while it was read.
        """
        collector.resume()  # copying takes most of a call, and makes no objects
        try:
            copied = gather(target, pieces.table.reshape(-1, 2))
        finally:
            collector.pause()
        if copied < target.nbytes:
            self._index.check_files()
            wrong = int(np.searchsorted(np.cumsum(pieces.table[..., 1].sum(1)), copied, side="right"))
            begin, size = int(pieces.begins[wrong]), int(pieces.table[wrong, 0, 1])
            raise DatasetError(
                f"{self._path(pieces.shards[wrong])}: the bytes {begin} to {begin + size} cannot be read: it was cut while it was read, or "
                f"its disk fails. {_RESTORE}"
            )

    def records(self, table: np.ndarray) -> np.ndarray:
        """object `[B]`: the serialized records."""
        found = np.empty(len(table), object)
        found[:] = [bytes(record) for record in self._records(table)]
        return found

    def texts(self, shards: np.ndarray, begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """object `[B]`: the bytes of a text of each record."""
        ends = np.cumsum(sizes)
        data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        self.copy(data, self.pieces(shards, begins, sizes))
        whole = data.tobytes()
        found = np.empty(len(sizes), object)
        found[:] = [whole[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]
        return found

    def check(self, rows: np.ndarray, table: np.ndarray) -> None:
        """Compare the records' checksums with those of the index, as `verify` says.

        Raises:
            DatasetError: one is not the record that was written; the message names it.
        """
        if self._verify == "never":
            return
        if self._verify == "first":
            new = ~self._verified[rows]
            if not new.any():
                return
            rows, table = rows[new], table[new]
        for row, record, expected in zip(rows.tolist(), self._records(table), table["checksum"].tolist(), strict=True):
            found = masked_crc(record)
            if found != expected:
                self._index.check_record(row, found)
        if self._verify == "first":
            self._verified[rows] = True

    def _records(self, table: np.ndarray) -> list[np.ndarray]:
        """uint8 `[bytes]` of each record's data."""
        sizes = table["bytes"].astype(np.int64)
        ends = np.cumsum(sizes)
        data = np.empty(int(ends[-1]), np.uint8)
        self.copy(data, self.pieces(table["shard"], table["offset"].astype(np.int64) + HEADER_BYTES, sizes))
        return np.split(data, ends[:-1])

    def _path(self, shard: int) -> str:
        return self._index.shards[int(shard)].path

    def _open(self, shard: int) -> _Mapped:
        with self._lock:
            if shard not in self._maps:
                while len(self._maps) >= self._most_maps:
                    self._maps.popitem(last=False)  # whoever still copies from it holds it
                self._maps[shard] = self._map(shard)
            return self._maps[shard]

    def _map(self, shard: int) -> _Mapped:
        entry = self._index.shards[shard]
        with _opened(entry.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.bytes:
                raise DatasetError(
                    f"{entry.path}: found {size} bytes, expected {entry.bytes} with {entry.records} records: it was changed while it was "
                    "read. Restore it from a copy, or write the dataset again."
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = np.frombuffer(mapped, np.uint8)
        return _Mapped(data, address(data))


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be opened ({error.strerror}). Of a batch all shards are open at once: if there are too many, raise the limit "
            "(ulimit -n), take smaller batches, or write the dataset with fewer shards."
        ) from error
