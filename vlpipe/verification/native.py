"""Compare the shards of a vlpipe dataset with the index, the schema and `vlpipe.json`.

Records are located by the index, not by the lengths in the file: after a corrupt header the next record is read all the same. The index
covers the shards without gaps (`open_source` has checked that), so that no byte is skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vlpipe.errors import RESTORE_ALL
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.storage.example import decode
from vlpipe.storage.field_access import column
from vlpipe.storage.index import Index, inline_fields
from vlpipe.storage.not_finite import fields_of_floats
from vlpipe.verification.files import Defect, FileCheck, Meter, UnreadableError, finite_defects, frame_defects, is_data_intact

_BLOCK = 1 << 20


class ShardCheck(FileCheck):
    """A check of one shard.

    Args:
        index: the index of the dataset.
        number: number of the shard in the index.
        part: rows of the shard in the index, in the order of the file.
        meter: counts the bytes that are read.
        finite: whether NaN and infinities are problems, too.
    """

    def __init__(self, index: Index, number: int, part: np.ndarray, meter: Meter, *, finite: bool) -> None:
        self._shard, self._number = index.shards[number], number
        super().__init__(self._shard.path, meter)
        self.records = len(part)
        self._index, self._part, self._finite = index, part, finite
        self._digest = hashlib.sha256()
        self._checked = 0
        self._complete = False

    def examine(self, file: BinaryIO, size: int) -> None:
        """Check every record, and that nothing follows the last."""
        self._read_records(file, size)
        self._read_rest(file, size)

    def give_up(self, error: UnreadableError) -> None:
        """Count the remaining records as lost."""
        expected = f"{self._shard.bytes} bytes with {self.records} records"
        self.add(None, None, Defect("unreadable", f"it cannot be read ({error})", expected))
        self.damaged += self.records - self._checked

    def read(self, file: BinaryIO, count: int) -> bytes:
        """Read as `FileCheck.read` does, and update the digest."""
        data = super().read(file, count)
        self._digest.update(data)
        return data

    def _read_records(self, file: BinaryIO, size: int) -> None:
        content_defects = _ContentCheck(self._index, self._number, finite=self._finite)
        for record, row in enumerate(self._index.rows[self._part]):
            if self.meter.stopped:
                return
            offset, length = int(row["offset"]), int(row["bytes"])
            end = offset + HEADER_BYTES + length + FOOTER_BYTES
            # Of a shard that was cut, nothing is read: the index may claim gigabytes, for which memory would be allocated.
            parts = [self.read(file, count) for count in (HEADER_BYTES, length, FOOTER_BYTES)] if end <= size else []
            if sum(map(len, parts)) < end - offset:
                lost = self.records - record
                expected = f"{lost} more records, to byte {self._shard.bytes}"
                self.add(record, offset, Defect("cut", f"the file ends at byte {size}: from here on it cannot be read", expected))
                self.damaged += lost
                self._checked = self.records
                return
            header, data, footer = parts
            defects = list(frame_defects(header, data, footer, int(row["checksum"])))
            if is_data_intact(defects):
                defects += content_defects(row, data)
            for defect in defects:
                self.add(record, offset, defect)
            self.damaged += bool(defects)
            self._checked += 1

    def _read_rest(self, file: BinaryIO, size: int) -> None:
        while not self.meter.stopped and self.read(file, _BLOCK):
            pass
        self._complete = not self.meter.stopped
        if size > self._shard.bytes:
            found = f"{size - self._shard.bytes} bytes follow the last record"
            self.add(None, self._shard.bytes, Defect("size", found, f"a file of {self._shard.bytes} bytes"))

    def check_digest(self, name_by_digest: dict[str, str]) -> None:
        """Compare the digest of the whole file with `vlpipe.json`.

        A wrong digest is reported only where no other problem explains it, or where it is that of another shard.

        Args:
            name_by_digest: names of all shards of the dataset that have records.
        """
        digest = f"sha256:{self._digest.hexdigest()}"
        if not self._complete or digest == self._shard.digest:
            return
        if digest in name_by_digest:
            self.problems, self.count, self.damaged = [], 0, self.records
            self.add(None, None, Defect("digest", f"the content of {name_by_digest[digest]}", f"that of {self._shard.name}", RESTORE_ALL))
        elif self.count == self.not_finite:  # these are as they were written
            expected = f"{self._shard.digest}, according to vlpipe.json"
            self.add(None, None, Defect("digest", f"the digest {digest}", expected, RESTORE_ALL))


class _ContentCheck:
    """Compares the data of a record with its row in the index.

    Args:
        index: the index of the dataset.
        number: number of the shard in the index.
        finite: whether NaN and infinities are problems, too.
    """

    def __init__(self, index: Index, number: int, *, finite: bool) -> None:
        self._schema = schema = index.schema
        self._written = index.written[number] if index.written else schema
        self._renumbered, self._number = index.renumbered, number
        self._sequences = [(name, column(schema, "frames", name), column(schema, "start", name)) for name in schema.sequences]
        numbered = index.numbered and index.numbered.label  # a text in the records
        self._inlined = [name for name in inline_fields(schema) if name != numbered]
        self._texts = index.texts
        self._floats = fields_of_floats(schema) if finite else []

    def __call__(self, row: np.void, data: bytes) -> Iterator[Defect]:
        try:
            values, starts = decode(self._written, data)
        except ValueError as error:
            yield Defect("example", str(error), "an Example of the schema", RESTORE_ALL)
            return
        yield from finite_defects(self._schema, {name: values[name] for name in self._floats})
        start_of = dict(zip(self._written.sequences, starts, strict=True))
        for name, frames, start in self._sequences:
            begin = start_of[name]
            read, indexed = (len(values[name]), begin), (int(row[frames]), int(row[start]))
            if read != indexed:
                expected = f"{indexed[0]} from byte {indexed[1]}, according to the index"
                yield Defect("index", f'{read[0]} frames of "{name}" from byte {read[1]} of the data', expected, RESTORE_ALL)
        for name in self._inlined:
            value, indexed_value = np.asarray(values[name]), np.asarray(row[column(self._schema, "value", name)])
            if self._renumbered is not None and name == self._renumbered.label:
                indexed_value = np.asarray(self._renumbered.written(self._number, int(indexed_value)), indexed_value.dtype)
            if not _same_bits(value, indexed_value):
                expected = f"{_text(indexed_value)}, according to the index"
                yield Defect("index", f'"{name}" is {_text(value)}', expected, RESTORE_ALL)
        for name, known in self._texts.items():
            text, indexed_text = bytes(values[name]).decode("utf-8", "replace"), known[int(row[column(self._schema, "code", name)])]
            if text != indexed_text:
                yield Defect("index", f'"{name}" is {text[:40]!r}', f"{indexed_text[:40]!r}, according to the index", RESTORE_ALL)


def _same_bits(value: np.ndarray, other: np.ndarray) -> bool:
    """Whether the bits are the same, apart from NaN: a float16 went through a float32, which may turn it into a quiet one."""
    if value.tobytes() == other.tobytes():
        return True
    both_nan = np.isnan(value) & np.isnan(other)
    return bool(np.all(both_nan | (value == other) & (np.signbit(value) == np.signbit(other))))


def _text(value: np.ndarray) -> str:
    return np.array2string(value, threshold=8)
