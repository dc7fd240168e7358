"""Shards that vlpipe wrote, held against the index, the schema and `vlpipe.json`.

The records are found by the index, not by the lengths that the file states: after a damaged header the next record is read all the same.
The index tiles the shards (`open_source` has checked that), so that no byte is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.storage.example import decode
from vlpipe.storage.index import Index, column, row_dtype
from vlpipe.storage.schema import Schema
from vlpipe.verification.files import TOGETHER, FileCheck, Finding, Meter, UnreadableError, frame_findings, is_whole

_BLOCK = 1 << 20


class ShardCheck(FileCheck):
    """One shard.

    Args:
        part: its rows in the index, in the order in which they stand in the file.
    """

    def __init__(self, index: Index, number: int, part: np.ndarray, meter: Meter) -> None:
        self._shard = index.shards[number]
        super().__init__(self._shard.path, meter)
        self.records = len(part)
        self._index, self._part = index, part
        self._digest = hashlib.sha256()
        self._checked = 0
        self._complete = False

    def examine(self, file: BinaryIO, size: int) -> None:
        """Every record, and what follows the last."""
        self._read_records(file, size)
        self._read_rest(file, size)

    def give_up(self, error: UnreadableError) -> None:
        """The records that were not read yet are lost."""
        expected = f"{self._shard.bytes} bytes with {self.records} records"
        self.add(None, None, Finding("unreadable", f"it cannot be read ({error})", expected))
        self.damaged += self.records - self._checked

    def take(self, file: BinaryIO, count: int) -> bytes:
        """As `FileCheck.take`; all of it makes the digest."""
        data = super().take(file, count)
        self._digest.update(data)
        return data

    def _read_records(self, file: BinaryIO, size: int) -> None:
        check_content = _ContentCheck(self._index.schema)
        for record, row in enumerate(self._index.rows[self._part]):
            if self.meter.stopped:
                return
            offset, length = int(row["offset"]), int(row["bytes"])
            end = offset + HEADER_BYTES + length + FOOTER_BYTES
            # Nothing is read, and no memory taken, on the word of an index whose shard is cut.
            parts = [self.take(file, count) for count in (HEADER_BYTES, length, FOOTER_BYTES)] if end <= size else []
            if sum(map(len, parts)) < end - offset:
                lost = self.records - record
                expected = f"{lost} more records, to byte {self._shard.bytes}"
                self.add(record, offset, Finding("cut", f"the file ends at byte {size}: from here on it cannot be read", expected))
                self.damaged += lost
                self._checked = self.records
                return
            header, data, footer = parts
            findings = list(frame_findings(header, data, footer, int(row["checksum"])))
            if is_whole(findings):
                findings += check_content(row, data)
            for finding in findings:
                self.add(record, offset, finding)
            self.damaged += bool(findings)
            self._checked += 1

    def _read_rest(self, file: BinaryIO, size: int) -> None:
        while not self.meter.stopped and self.take(file, _BLOCK):
            pass
        self._complete = not self.meter.stopped
        if size > self._shard.bytes:
            found = f"{size - self._shard.bytes} bytes follow the last record"
            self.add(None, self._shard.bytes, Finding("size", found, f"a file of {self._shard.bytes} bytes"))

    def judge_digest(self, by_digest: dict[str, str]) -> None:
        """Compare the digest of the file: it is news only if nothing else was found, or if another shard is known by it."""
        digest = f"sha256:{self._digest.hexdigest()}"
        if not self._complete or digest == self._shard.digest:
            return
        if digest in by_digest:
            self.problems, self.count, self.damaged = [], 0, self.records
            self.add(None, None, Finding("digest", f"the content of {by_digest[digest]}", f"that of {self._shard.name}", TOGETHER))
        elif not self.count:
            self.add(None, None, Finding("digest", f"the digest {digest}", f"{self._shard.digest}, as vlpipe.json says", TOGETHER))


class _ContentCheck:
    """Compares the data of a record with its row in the index."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._sequences = [(name, column(schema, "frames", name), column(schema, "start", name)) for name in schema.sequences]
        self._inlined = [name.removeprefix("value:") for name in row_dtype(schema).names or () if name.startswith("value:")]

    def __call__(self, row: np.void, data: bytes) -> Iterator[Finding]:
        try:
            values, starts = decode(self._schema, data)
        except ValueError as error:
            yield Finding("example", str(error), "an Example of the schema", TOGETHER)
            return
        for (name, frames, start), begin in zip(self._sequences, starts, strict=True):
            found, known = (len(values[name]), begin), (int(row[frames]), int(row[start]))
            if found != known:
                said = f"{known[0]} from byte {known[1]}, as the index says"
                yield Finding("index", f'{found[0]} frames of "{name}" from byte {found[1]} of the data', said, TOGETHER)
        for name in self._inlined:
            value, noted = np.asarray(values[name]), np.asarray(row[f"value:{name}"])
            if not _same(value, noted):
                yield Finding("index", f'"{name}" is {_shown(value)}', f"{_shown(noted)}, as the index says", TOGETHER)


def _same(value: np.ndarray, noted: np.ndarray) -> bool:
    """The same bits, except in a NaN: that of a float16 went through a float32, which may make it a quiet one."""
    if value.tobytes() == noted.tobytes():
        return True
    both_nan = np.isnan(value) & np.isnan(noted)
    return bool(np.all(both_nan | (value == noted) & (np.signbit(value) == np.signbit(noted))))


def _shown(value: np.ndarray) -> str:
    return np.array2string(value, threshold=8)
