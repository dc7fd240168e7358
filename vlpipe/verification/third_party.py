"""Compare third-party TFRecord files with their own checksums, a layout, and an index that was built before.

With an index that was built while the file was intact, records are located by the index, and the one after a corrupt length is read all
the same. Without an index only the file tells where the next record begins: a corrupt length ends it there, as for every reader.
"""

from __future__ import annotations

import itertools
import mmap
import os
from array import array
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vlpipe.errors import NOT_TFRECORD, PREPARE_AGAIN, DatasetError
from vlpipe.files.compression import compression_of, uncompressed
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES, RecordFrame, length_in, masked_crc
from vlpipe.layouts.base import Layout, Listed
from vlpipe.layouts.sidecars import stated_count
from vlpipe.protobuf import vectorized
from vlpipe.protobuf.wire import WireError, walk
from vlpipe.sources.foreign.build_index import combined
from vlpipe.sources.foreign.cache import load
from vlpipe.sources.foreign.chunk import MisfitError
from vlpipe.sources.foreign.index_file import CHUNK_RECORDS, Table, fill, row_dtype
from vlpipe.sources.records import Records
from vlpipe.storage.field_access import column
from vlpipe.storage.not_finite import fields_of_floats
from vlpipe.verification.files import Defect, FileCheck, Meter, UnreadableError, finite_defects, frame_defects, is_data_intact, open_regular

_FRAMING = HEADER_BYTES + FOOTER_BYTES
_CUT = Defect("cut", "the file was cut while it was read", "the whole record")
_REBUILD = "Remove the entries of the file in .vlpipe-index, beside it or in the user's cache: they are rebuilt on the next use."


def intact_records(path: str | os.PathLike[str]) -> Iterator[RecordFrame]:
    """Yield the reachable records of a file that are intact Examples: they show the layout, even if the rest is damaged."""
    try:
        with open_content(os.fspath(path)) as file:
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


def open_content(path: str) -> BinaryIO:
    """Open the uncompressed content of a file.

    Raises:
        UnreadableError: the file is missing, cannot be read, or is compressed and damaged.
        DatasetError: the disk has no room for the uncompressed content.
    """
    with open_regular(path):  # what cannot be opened at all
        pass
    compression = ""
    try:
        compression = compression_of(path)
        return uncompressed(path, compression) if compression else open_regular(path)
    except DatasetError as error:
        if error.strerror:  # the disk fails
            raise UnreadableError(error.strerror) from error
        if isinstance(error.__cause__, OSError):
            raise
        if error.__cause__ is None:
            raise UnreadableError(f"its uncompressed {compression} content does not begin with a record") from error
        raise UnreadableError(f"its {compression} stream is damaged or was cut: {error.__cause__}") from error
    except OSError as error:
        raise UnreadableError(error.strerror or error) from error


def why_lost(header: bytes, left: int, at: int) -> Defect | None:
    """Return why a file cannot be read from a byte on; None where a record can be read there.

    Args:
        header: the 12 bytes from there on, or fewer.
        left: bytes of the file from there on.
        at: the byte.
    """
    if left < _FRAMING:
        return Defect("cut", f"only {left} bytes until the end of the file", f"a record, of at least {_FRAMING}")
    if len(header) < HEADER_BYTES:
        return _CUT
    length = length_in(header)
    if length is None:
        found = f"its header is corrupt: the {left} bytes from here on cannot be read"
        return Defect("header", found, "a length and its checksum", *[] if at else [NOT_TFRECORD])
    if length > left - _FRAMING or length >= 1 << 32:
        return Defect("cut", f"{left - _FRAMING} bytes of data until the end of the file", f"{length} (at most {(1 << 32) - 1})")
    return None


class ThirdPartyCheck(FileCheck):
    """A check of one third-party file.

    Args:
        path: the file.
        layout: the layout of its records; None: unknown.
        meter: counts the bytes that are read.
        finite: whether NaN and infinities are problems, too.
    """

    def __init__(self, path: str, layout: Layout | None, meter: Meter, *, finite: bool) -> None:
        super().__init__(path, meter)
        self._layout, self._finite = layout, finite
        self._offsets, self._sizes, self._checksums = array("Q"), array("Q"), array("Q")
        self._intact, self._defective = bytearray(), bytearray()  # of each record: its data are intact; it has a problem

    def open(self) -> BinaryIO:
        """Open the uncompressed content of the file."""
        return open_content(self.path)

    def give_up(self, error: UnreadableError) -> None:
        """Count the remaining bytes as lost; the number of records among them is unknown."""
        size = os.path.getsize(self.path) if os.path.isfile(self.path) else 0
        self.lost += max(0, size - self._bytes_read)
        self.add(None, None, Defect("unreadable", f"it cannot be read ({error})", "a TFRecord file"))

    def examine(self, file: BinaryIO, size: int) -> None:
        """Check every record by its checksums, then the intact ones by the layout."""
        self.meter.raise_total(size - os.path.getsize(self.path))
        index = None if self._layout is None else load(self.path, self._layout)
        if index is not None and int(index.rows["bytes"].sum(dtype=np.int64)) + _FRAMING * len(index.rows) != size:
            index = None  # the file was replaced since it was opened
        self._read_records(file, size, index)
        if self._layout is not None and self.records and not self.meter.stopped:
            self._compare(file, self._layout, index)
        expected, sidecar = stated_count(self.path) or (self.records, "")
        if expected != self.records and not self.lost and not self.meter.stopped:
            expected_text = f"{expected}, according to {sidecar}"
            self.add(None, None, Defect("records", f"{self.records} records", expected_text, PREPARE_AGAIN))
        self.problems.sort(key=lambda problem: (problem.record is None, problem.record))

    def _read_records(self, file: BinaryIO, size: int, index: Table | None) -> None:
        entries: Iterator[tuple[int, int] | None] = itertools.repeat(None)
        if index is not None:
            entries = zip(index.rows["bytes"].tolist(), index.rows["checksum"].tolist(), strict=True)
        at = 0
        while at < size and not self.meter.stopped:
            length = self._read_record(file, at, size - at, next(entries))
            if length is None:
                self.lost += size - at
                return
            at += _FRAMING + length

    def _read_record(self, file: BinaryIO, at: int, left: int, entry: tuple[int, int] | None) -> int | None:
        """Check the record at a byte of the file; return the bytes of its data, or None where neither it nor the rest can be read.

        Args:
            entry: bytes and checksum of its data in the index; None without an index.
        """
        header = self.read(file, HEADER_BYTES)
        lost = why_lost(header, left, at) if entry is None else None
        length, checksum = entry or (0 if lost else length_in(header) or 0, None)
        data, footer = (self.read(file, length), self.read(file, FOOTER_BYTES)) if lost is None else (b"", b"")
        if lost is None and len(header + footer) + len(data) < _FRAMING + length:
            lost = _CUT
        defects = [lost] if lost else list(frame_defects(header, data, footer, checksum))
        self._offsets.append(at)
        self._sizes.append(length)
        self._checksums.append(int.from_bytes(footer, "little") if checksum is None else checksum)
        self._intact.append(lost is None and is_data_intact(defects))
        self._defective.append(0)
        self.records += 1
        for defect in defects:
            self._add_to_record(self.records - 1, defect)
        return None if lost else length

    def _add_to_record(self, record: int, defect: Defect) -> None:
        self.add(record, self._offsets[record], defect)
        self.damaged += not self._defective[record]
        self._defective[record] = 1

    def _compare(self, file: BinaryIO, layout: Layout, index: Table | None) -> None:
        """Compare the intact records with the layout, and those that fit the layout with the index."""
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        rows = np.zeros(self.records, row_dtype(layout))
        rows["offset"], rows["bytes"] = self._offsets, np.minimum(self._sizes, (1 << 32) - 1)
        rows["checksum"] = self._checksums
        fitting = np.array(self._intact, bool)
        reader = _LayoutReader(data, os.path.basename(self.path), layout, rows)
        records = np.flatnonzero(fitting)
        for first in range(0, len(records), CHUNK_RECORDS):
            for record, found, action in sorted(reader.read(records[first : first + CHUNK_RECORDS])):
                self._add_to_record(record, Defect("example", found, f"a record of the layout {layout.name}", action))
                fitting[record] = False
        for record, defect in reader.differences(index, np.flatnonzero(fitting)) if index is not None else ():
            self._add_to_record(record, defect)
        if self._finite:
            self._find_not_finite(layout, rows, np.flatnonzero(fitting))

    def _find_not_finite(self, layout: Layout, rows: np.ndarray, fitting: np.ndarray) -> None:
        """Find NaN and infinities in the records that fit the layout."""
        lists = {field.key: np.zeros(0, np.int64) for field in layout.fields if isinstance(field, Listed)}  # integers are finite
        index = combined([self.path], [Table(rows, lists, compression_of(self.path))], layout)
        names = fields_of_floats(index.schema)
        with Records(index) as records:
            for record in fitting.tolist() if names else ():
                if self.meter.stopped:
                    return
                try:
                    defects = list(finite_defects(index.schema, records.values(record, names)))
                except DatasetError as error:  # values that only a decoder reads, such as audio
                    defects = [Defect("example", f"values that cannot be read ({error})", f"a record of the layout {layout.name}")]
                for defect in defects:
                    self._add_to_record(record, defect)


class _LayoutReader:
    """Reads records of a file by a layout, into rows of an index and the values of their lists."""

    def __init__(self, data: np.ndarray, name: str, layout: Layout, rows: np.ndarray) -> None:
        self._data, self._name, self._layout, self._rows = data, name, layout, rows
        self._lists: dict[str, list[np.ndarray]] = {field.key: [] for field in layout.fields if isinstance(field, Listed)}

    def read(self, records: np.ndarray) -> Iterator[tuple[int, str, str]]:
        """Read these records; yield those that do not fit the layout: their numbers, what was found, and what to do."""
        rows = self._rows[records]
        try:
            values = fill(self._data, self._name, self._layout, rows, 0, len(rows))
        except MisfitError as error:
            yield from ((int(records[position]), error.found(position), error.action) for position in error.records)
            rest = np.delete(records, error.records)
            # Where one test refuses many records at once, the rest is read as a whole. Where it refuses few, the rest is halved: otherwise
            # each single misfit would cost another reading of all the others.
            for part in [rest] if len(error.records) > len(rest) // 8 else np.array_split(rest, 2):
                yield from self.read(part)
        else:
            self._rows[records] = rows
            for key, part in values.items():
                self._lists[key].append(part)

    def differences(self, index: Table, fitting: np.ndarray) -> Iterator[tuple[int, Defect]]:
        """Yield where the index differs from the records that fit the layout."""
        rows, indexed, schema = self._rows[fitting], index.rows[fitting], self._layout.schema
        list_starts = {"shard", *(column(schema, "start", key) for key in index.lists)}
        for name in rows.dtype.names or ():
            if name in list_starts:
                continue  # the values of lists are compared below, wherever they begin
            columns = [np.ascontiguousarray(table[name]) for table in (rows, indexed)]
            differ = columns[0].view(np.uint8) != columns[1].view(np.uint8)  # as bytes, in which a NaN is equal to itself
            for position in np.flatnonzero(differ.reshape(len(fitting), -1).any(axis=1)).tolist():
                value, indexed_value = (column[position] for column in columns)
                yield int(fitting[position]), Defect("index", f'"{name}" is {value}', f"{indexed_value}, according to the index", _REBUILD)
        for key, parts in self._lists.items():
            starts, counts = indexed[column(schema, "start", key)].astype(np.int64), rows[column(schema, "frames", key)].astype(np.int64)
            if np.array_equal(counts, indexed[column(schema, "frames", key)]):
                values = np.concatenate([np.zeros(0, np.int64), *parts])
                indexed_values = index.lists[key][vectorized.ranges(starts, counts)]
                for record in np.unique(np.repeat(fitting, counts)[values != indexed_values]).tolist():
                    yield record, Defect("index", f'the values of "{key}" differ', "those in the index", _REBUILD)
