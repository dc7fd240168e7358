"""TFRecord files that vlpipe did not write, held against their own checksums, a layout, and what an index has noted of them before.

Where an index was made while a file was sound, records are found by it, and one behind a damaged length is read all the same. Without one
the file alone says where the next record is: a damaged length ends it there, as it does for every reader.
"""

from __future__ import annotations

import itertools
import mmap
import os
from array import array
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.compression import compression_of, uncompressed
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES, RecordFrame, length_in, masked_crc
from vlpipe.layouts.base import Layout, Listed
from vlpipe.layouts.sidecars import stated_count
from vlpipe.protobuf import vectorized
from vlpipe.protobuf.wire import WireError, walk
from vlpipe.sources.foreign.cache import load
from vlpipe.sources.foreign.chunk import MisfitError
from vlpipe.sources.foreign.index_file import CHUNK_RECORDS, Table, fill, row_dtype
from vlpipe.verification.files import FileCheck, Finding, Meter, UnreadableError, frame_findings, is_whole, opened

_FRAMING = HEADER_BYTES + FOOTER_BYTES
_REPLACE = "It is no TFRecord file, or its beginning is damaged: pass another, or restore it from a copy."
_CUT = Finding("cut", "the file was cut while it was read", "all of it")
_AGAIN = "Remove what .vlpipe-index has of the file, beside it or in the user's cache: it is made anew."


def sound_records(path: str | os.PathLike[str]) -> Iterator[RecordFrame]:
    """The records of a file that are whole Examples, as far as they can be reached: a layout can be told by them, whatever the rest is."""
    try:
        with content_of(os.fspath(path)) as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            while why_lost(header := file.read(HEADER_BYTES), size - at, at) is None:
                data = file.read(length_in(header) or 0)
                checksum = int.from_bytes(file.read(FOOTER_BYTES), "little")
                if masked_crc(data) == checksum and _is_example(data):
                    yield RecordFrame(at, data, checksum)
                at += _FRAMING + len(data)
    except (UnreadableError, OSError):
        return


def _is_example(data: bytes) -> bool:
    try:
        walk(data)
    except WireError:
        return False
    return True


def content_of(path: str) -> BinaryIO:
    """What is in a file, uncompressed.

    Raises:
        UnreadableError: there is none.
        DatasetError: there is no room for what is in it.
    """
    file = opened(path)
    try:
        compression = compression_of(path)
        if not compression:
            return file
        file.close()
        return uncompressed(path, compression)
    except DatasetError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise UnreadableError(f"what {compression} compressed is damaged or was cut: {error.__cause__}") from error
    except OSError as error:
        raise UnreadableError(error.strerror or error) from error


def why_lost(header: bytes, left: int, at: int) -> Finding | None:
    """Why nothing can be read from a byte of a file on, of which so many bytes are left; None where a record can."""
    if left < _FRAMING:
        return Finding("cut", f"the file ends after {left} bytes of it", f"a record, of at least {_FRAMING}")
    if len(header) < HEADER_BYTES:
        return _CUT
    length = length_in(header)
    if length is None:
        found = f"its header is damaged: the {left} bytes from here on cannot be read"
        return Finding("header", found, "a length and its checksum", *[] if at else [_REPLACE])
    if length > left - _FRAMING or length >= 1 << 32:
        return Finding("cut", f"{left - _FRAMING} bytes of data are left of the file", f"{length} (at most {(1 << 32) - 1})")
    return None


class ForeignCheck(FileCheck):
    """One file.

    Args:
        layout: how its records are laid out; None: nobody knows.
    """

    def __init__(self, path: str, layout: Layout | None, meter: Meter) -> None:
        super().__init__(path, meter)
        self._layout = layout
        self._offsets, self._sizes, self._checksums = array("Q"), array("Q"), array("Q")
        self._whole, self._bad = bytearray(), bytearray()  # of each record: its data are sound; something is wrong with it

    def open(self) -> BinaryIO:
        """The file, or what it holds compressed."""
        return content_of(self.path)

    def give_up(self, error: UnreadableError) -> None:
        """How many records the rest would have had, nobody knows."""
        size = os.path.getsize(self.path) if os.path.isfile(self.path) else 0
        self.lost += max(0, size - self._read)
        self.add(None, None, Finding("unreadable", f"it cannot be read ({error})", "a TFRecord file"))

    def examine(self, file: BinaryIO, size: int) -> None:
        """Every record by its checksums, then those that are whole by the layout."""
        self.meter.expect(size - os.path.getsize(self.path))
        known = None if self._layout is None else load(self.path, self._layout)
        if known is not None and int(known.rows["bytes"].sum(dtype=np.int64)) + _FRAMING * len(known.rows) != size:
            known = None  # the file was replaced since it was opened
        self._read_records(file, size, known)
        if self._layout is not None and self.records and not self.meter.stopped:
            self._compare(file, self._layout, known)
        expected, sidecar = stated_count(self.path) or (self.records, "")
        if expected != self.records and not self.lost and not self.meter.stopped:
            said = f"{expected}, as {sidecar} says"
            self.add(None, None, Finding("records", f"{self.records} records", said, "Prepare the dataset again."))
        self.problems.sort(key=lambda problem: (problem.record is None, problem.record))

    def _read_records(self, file: BinaryIO, size: int, known: Table | None) -> None:
        noted: Iterator[tuple[int, int] | None] = itertools.repeat(None)
        if known is not None:
            noted = zip(known.rows["bytes"].tolist(), known.rows["checksum"].tolist(), strict=True)
        at = 0
        while at < size and not self.meter.stopped:
            length = self._read_record(file, at, size - at, next(noted))
            if length is None:
                self.lost += size - at
                return
            at += _FRAMING + length

    def _read_record(self, file: BinaryIO, at: int, left: int, noted: tuple[int, int] | None) -> int | None:
        """The bytes of data of the record at a byte of the file; None where it, and so the rest, cannot be read.

        Args:
            noted: bytes and checksum of its data, as the index has them.
        """
        header = self.take(file, HEADER_BYTES)
        lost = why_lost(header, left, at) if noted is None else None
        length, checksum = noted or (0 if lost else length_in(header) or 0, None)
        data, footer = (self.take(file, length), self.take(file, FOOTER_BYTES)) if lost is None else (b"", b"")
        if lost is None and len(header + footer) + len(data) < _FRAMING + length:
            lost = _CUT
        findings = [lost] if lost else list(frame_findings(header, data, footer, checksum))
        self._offsets.append(at)
        self._sizes.append(length)
        self._checksums.append(int.from_bytes(footer, "little") if checksum is None else checksum)
        self._whole.append(lost is None and is_whole(findings))
        self._bad.append(0)
        self.records += 1
        for finding in findings:
            self._note(self.records - 1, finding)
        return None if lost else length

    def _note(self, record: int, finding: Finding) -> None:
        self.add(record, self._offsets[record], finding)
        self.damaged += not self._bad[record]
        self._bad[record] = 1

    def _compare(self, file: BinaryIO, layout: Layout, known: Table | None) -> None:
        """The records that are whole with the layout, and those that it fits with the index."""
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        rows = np.zeros(self.records, row_dtype(layout))
        rows["offset"], rows["bytes"] = self._offsets, np.minimum(self._sizes, (1 << 32) - 1)
        rows["checksum"] = self._checksums
        whole = np.array(self._whole, bool)
        fitted = _Fitted(data, os.path.basename(self.path), layout, rows)
        records = np.flatnonzero(whole)
        for first in range(0, len(records), CHUNK_RECORDS):
            for record, found, action in sorted(fitted.take(records[first : first + CHUNK_RECORDS])):
                self._note(record, Finding("example", found, f"what the layout {layout.name} says", action))
                whole[record] = False
        for record, finding in fitted.differences(known, np.flatnonzero(whole)) if known is not None else ():
            self._note(record, finding)


class _Fitted:
    """Records of a file as the layout reads them: rows of an index, and the values of the lists of those that it fits."""

    def __init__(self, data: np.ndarray, name: str, layout: Layout, rows: np.ndarray) -> None:
        self._data, self._name, self._layout, self._rows = data, name, layout, rows
        self._lists: dict[str, list[np.ndarray]] = {field.key: [] for field in layout.fields if isinstance(field, Listed)}

    def take(self, records: np.ndarray) -> Iterator[tuple[int, str, str]]:
        """Read these records; yields those that the layout does not fit, what they have instead, and what to do."""
        rows = self._rows[records]
        try:
            values = fill(self._data, self._name, self._layout, rows, 0, len(rows))
        except MisfitError as error:
            yield from ((int(records[place]), error.found(place), error.action) for place in error.records)
            rest = np.delete(records, error.records)
            # One test may refuse many at once. Those that are refused one by one do not each cost a reading of all the others.
            for part in [rest] if len(error.records) > len(rest) // 8 else np.array_split(rest, 2):
                yield from self.take(part)
        else:
            self._rows[records] = rows
            for key, part in values.items():
                self._lists[key].append(part)

    def differences(self, known: Table, fitting: np.ndarray) -> Iterator[tuple[int, Finding]]:
        """Where the index has something else of the records that the layout fits."""
        found, noted = self._rows[fitting], known.rows[fitting]
        for name in found.dtype.names or ():
            if name == "shard" or name.removeprefix("start:") in known.lists:
                continue  # the values of a list are compared below, wherever they begin
            columns = [np.ascontiguousarray(rows[name]) for rows in (found, noted)]
            differ = columns[0].view(np.uint8) != columns[1].view(np.uint8)  # as bytes, in which a NaN is equal to itself
            for place in np.flatnonzero(differ.reshape(len(fitting), -1).any(axis=1)).tolist():
                what, said = (column[place] for column in columns)
                yield int(fitting[place]), Finding("index", f'"{name}" is {what}', f"{said}, as the index says", _AGAIN)
        for key, parts in self._lists.items():
            counts = found[f"frames:{key}"].astype(np.int64)
            if np.array_equal(counts, noted[f"frames:{key}"]):
                values = np.concatenate([np.zeros(0, np.int64), *parts])
                others = known.lists[key][vectorized.ranges(noted[f"start:{key}"].astype(np.int64), counts)]
                for record in np.unique(np.repeat(fitting, counts)[values != others]).tolist():
                    yield record, Finding("index", f'the values of "{key}"', "others, as the index says", _AGAIN)
