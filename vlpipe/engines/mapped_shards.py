"""The shards of a dataset, memory-mapped when they are needed, and compared with the index."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from vlpipe.engines.gather_copy import address, gather
from vlpipe.errors import RESTORE, DatasetError
from vlpipe.files.tfrecord import HEADER_BYTES, masked_crc
from vlpipe.regular_files import open_regular
from vlpipe.storage.index import Index


class Padding(NamedTuple):
    """Bytes that follow each segment of a batch.

    Attributes:
        pattern: uint8, at least as long as the longest padding.
        sizes: int64 `[n]`, how many bytes of the pattern follow each segment.
    """

    pattern: np.ndarray
    sizes: np.ndarray


class UnreadableError(DatasetError):
    """Bytes of a shard that has its size cannot be read."""


class _Mapped(NamedTuple):
    """A shard in memory, and the address of its first byte."""

    data: np.ndarray
    start: int


class Segments(NamedTuple):
    """Segments of the shards, each with its padding, ready to be copied.

    Attributes:
        table: int64 `[n, 1 or 2, 2]`, address and bytes of each segment, and of its padding where there is any.
        shards: `[n]`, the shard of each.
        begins: int64 `[n]`, first byte of each in its shard.
        keep_alive: the objects whose memory the addresses point to.
    """

    table: np.ndarray
    shards: np.ndarray
    begins: np.ndarray
    keep_alive: tuple[object, ...]

    def part(self, begin: int, end: int) -> Segments:
        """Segments `begin` to before `end`."""
        return Segments(self.table[begin:end], self.shards[begin:end], self.begins[begin:end], self.keep_alive)


def _raise(_: int, error: DatasetError) -> None:
    raise error


class Shards:
    """The shards of an index, opened and mapped when they are needed.

    Args:
        verify: when to compare records with their checksums: at the "first" read, "always", "never".
    """

    def __init__(self, index: Index, verify: str) -> None:
        self._index, self._verify = index, verify
        self._verified = np.zeros(len(index) if verify == "first" else 0, bool)
        self._maps: OrderedDict[int, _Mapped] = OrderedDict()
        # Each mapped file holds a file descriptor.
        self._max_maps = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._lock = threading.Lock()
        self._identities = [self._identity(shard.path) for shard in index.shards]
        self._sizes = np.array([shard.bytes for shard in index.shards], np.int64)
        self._epoch = -1
        self.changes = 0  # times that a file was seen to have changed

    @property
    def can_all_be_open(self) -> bool:
        """Whether all shards may be mapped at once."""
        return len(self._identities) <= self._max_maps

    @staticmethod
    def _identity(path: str) -> tuple[int, ...]:
        stat = os.stat(path)
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns  # programs can set the first time, but not the second

    def begin(self, epoch: int, *, first: bool) -> None:
        """At the start of an epoch, compare the files with the index and with their state at the last epoch.

        Raises:
            DatasetError: a shard is missing or has another size.
        """
        if epoch == self._epoch and not first:
            return
        with self._lock:
            self._index.check_files()
            for shard, known in enumerate(self._identities):
                identity = self._identity(self._index.shards[shard].path)
                if identity != known:  # touched, written to or replaced: only the checksums show whether the records are the same
                    self._identities[shard] = identity
                    self._maps.pop(shard, None)
                    self.changes += 1
                    if self._verify == "first":
                        self._verified[self._index.rows["shard"] == shard] = False
            self._epoch = epoch

    def close(self) -> None:
        """Unmap the files that no call copies from; they are mapped again when they are needed."""
        with self._lock:
            self._maps.clear()

    def segments(self, shards: np.ndarray, begins: np.ndarray, sizes: np.ndarray, padding: Padding | None = None) -> Segments:
        """Segments of the shards, to be copied.

        Args:
            shards: `[n]`, the shard of each segment.
            begins: int64 `[n]`, its first byte in the shard.
            sizes: int64 `[n]`, its bytes.
            padding: what follows each segment.

        Raises:
            DatasetError: a shard is missing or has another size, or a segment is not inside it.
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
                f"{self._sizes[shards[wrong]]}: the index was changed while it was read. {RESTORE}"
            )
        table = np.empty((len(shards), 2 if padding else 1, 2), np.int64)
        table[:, 0, 0], table[:, 0, 1] = starts[shards] + begins, sizes
        if padding:
            table[:, 1, 0], table[:, 1, 1] = address(padding.pattern), padding.sizes
        return Segments(table, shards, begins, (opened, padding))

    def copy(self, target: np.ndarray, segments: Segments) -> None:
        """Copy segments of the shards, one after another, into an array of their total size.

        Raises:
            DatasetError: a shard became shorter while it was read.
        """
        copied = gather(target, segments.table.reshape(-1, 2))
        if copied < target.nbytes:
            self._index.check_files()
            wrong = int(np.searchsorted(np.cumsum(segments.table[..., 1].sum(1)), copied, side="right"))
            begin, size = int(segments.begins[wrong]), int(segments.table[wrong, 0, 1])
            raise UnreadableError(
                f"{self._path(segments.shards[wrong])}: bytes {begin} to {begin + size} cannot be read: the file was cut meanwhile, or its "
                f"disk fails. {RESTORE}"
            )

    def records(self, table: np.ndarray) -> np.ndarray:
        """object `[B]`: the serialized records."""
        records = np.empty(len(table), object)
        records[:] = [bytes(record) for record in self._records(table)]
        return records

    def texts(self, shards: np.ndarray, begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """object `[B]`: the bytes of one text of each record."""
        ends = np.cumsum(sizes)
        data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        self.copy(data, self.segments(shards, begins, sizes))
        joined = data.tobytes()
        texts = np.empty(len(sizes), object)
        texts[:] = [joined[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]
        return texts

    def check(self, rows: np.ndarray, table: np.ndarray, report: Callable[[int, DatasetError], None] = _raise) -> None:
        """Compare the records' checksums with those of the index, as `verify` says.

        Args:
            report: gets the row and the error of each record that is not the one that was written; the default raises the first.

        Raises:
            DatasetError: a shard is missing or has another size, or what `report` raises.
        """
        if self._verify == "never":
            return
        if self._verify == "first":
            verified = self._verified.take(rows)
            if verified.all():
                return
            new = ~verified
            rows, table = rows[new], table[new]
        damaged = []
        for row, record, expected in zip(rows.tolist(), self._records_or_errors(table), table["checksum"].tolist(), strict=True):
            try:
                if isinstance(record, DatasetError):
                    raise DatasetError(f"{self._index.where(row)}: {record}") from record
                checksum = masked_crc(record)
                if checksum != expected:
                    self._index.check_record(row, checksum)
            except DatasetError as error:
                damaged.append(row)
                report(row, error)
        if self._verify == "first":
            self._verified[rows[~np.isin(rows, damaged)] if damaged else rows] = True

    def _records_or_errors(self, table: np.ndarray) -> list[np.ndarray | UnreadableError]:
        """`_records`, with the error of each that cannot be read in its place."""
        try:
            return [*self._records(table)]
        except UnreadableError as error:
            if len(table) == 1:
                return [error]
            return [record for row in range(len(table)) for record in self._records_or_errors(table[row : row + 1])]

    def _records(self, table: np.ndarray) -> list[np.ndarray]:
        """uint8 `[bytes]` of each record's data."""
        sizes = table["bytes"].astype(np.int64)
        ends = np.cumsum(sizes)
        data = np.empty(int(ends[-1]), np.uint8)
        self.copy(data, self.segments(table["shard"], table["offset"].astype(np.int64) + HEADER_BYTES, sizes))
        return np.split(data, ends[:-1])

    def _path(self, shard: int) -> str:
        return self._index.shards[int(shard)].path

    def _open(self, shard: int) -> _Mapped:
        with self._lock:
            if shard not in self._maps:
                while len(self._maps) >= self._max_maps:
                    self._maps.popitem(last=False)  # a call that still copies from it keeps it alive
                self._maps[shard] = self._map(shard)
            return self._maps[shard]

    def _map(self, shard: int) -> _Mapped:
        entry = self._index.shards[shard]
        with _opened(entry.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.bytes:
                raise DatasetError(
                    f"{entry.path}: has {size} bytes, expected {entry.bytes} with {entry.records} records: the file changed while it was "
                    f"read. {RESTORE}"
                )
            try:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:  # it takes one more file descriptor
                raise _cannot_be_opened(entry.path, error) from error
        data = np.frombuffer(mapped, np.uint8)
        return _Mapped(data, address(data))


def _opened(path: str) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise _cannot_be_opened(path, error) from error


def _cannot_be_opened(path: str, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path}: cannot be opened ({error.strerror}). All shards of a batch are open at once: if they exceed the limit of open files, "
        "raise it (ulimit -n), use smaller batches, or write the dataset with fewer shards."
    )
