"""The shards of a dataset, mapped into memory as they are needed, and whether they still are what was written."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections import OrderedDict

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.index import Index
from vlpipe.tfrecord import HEADER_BYTES, masked_crc


class Shards:
    """The shards, mapped into memory as they are needed, and what was found out about them."""

    def __init__(self, index: Index, verify: str) -> None:
        self._index, self._verify = index, verify
        self._verified = np.zeros(len(index) if verify == "first" else 0, bool)
        self._maps: OrderedDict[int, tuple[memoryview, np.ndarray]] = OrderedDict()
        # Each mapped file holds a file descriptor.
        self._most_maps = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._lock = threading.Lock()
        self._known = [self._identity(shard.path) for shard in index.shards]
        self._epoch = -1

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
                    if self._verify == "first":
                        self._verified[self._index.rows["shard"] == shard] = False
            self._epoch = epoch

    def views(self, shards: np.ndarray) -> list[memoryview]:
        """The bytes of the shard of each record."""
        numbers = shards.tolist()
        opened = {shard: self._open(shard)[0] for shard in set(numbers)}
        return [opened[shard] for shard in numbers]

    def records(self, table: np.ndarray) -> np.ndarray:
        """object `[B]`: the serialized records."""
        begins = table["offset"].astype(np.int64) + HEADER_BYTES
        places = zip(self.views(table["shard"]), begins.tolist(), (begins + table["bytes"]).tolist(), strict=True)
        found = np.empty(len(table), object)
        found[:] = [bytes(view[begin:end]) for view, begin, end in places]
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
        begins = table["offset"].astype(np.int64) + HEADER_BYTES
        columns = (table["shard"], begins, begins + table["bytes"], table["checksum"])
        for row, shard, begin, end, expected in zip(rows.tolist(), *(values.tolist() for values in columns), strict=True):
            found = masked_crc(self._open(shard)[1][begin:end])
            if found != expected:
                self._index.check_record(row, found)
        if self._verify == "first":
            self._verified[rows] = True

    def _open(self, shard: int) -> tuple[memoryview, np.ndarray]:
        with self._lock:
            if shard not in self._maps:
                while len(self._maps) >= self._most_maps:
                    self._maps.popitem(last=False)  # whoever still copies from it holds it
                self._maps[shard] = self._map(shard)
            return self._maps[shard]

    def _map(self, shard: int) -> tuple[memoryview, np.ndarray]:
        entry = self._index.shards[shard]
        with open(entry.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.bytes:
                raise DatasetError(
                    f"{entry.path}: found {size} bytes, expected {entry.bytes} with {entry.records} records: it was changed while it was "
                    "read. Restore it from a copy, or write the dataset again."
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(mapped), np.frombuffer(mapped, np.uint8)
