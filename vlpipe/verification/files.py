"""Reading one file from its first byte to its last: what the checks of native and of third-party files have in common."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vlpipe import regular_files
from vlpipe.errors import RESTORE, RESTORE_ALL
from vlpipe.files.tfrecord import length_in, masked_crc
from vlpipe.storage.not_finite import EXPECTED, LEAVE_OUT, describe
from vlpipe.storage.schema import Schema, Sequence
from vlpipe.text_tables import Show
from vlpipe.verification.report import MAX_PROBLEMS, Damage, Problem

REPORT_EVERY = 1 << 23  # bytes between two calls of `progress`


class Defect(NamedTuple):
    """A problem without its place; the fields are those of `Problem`."""

    kind: str
    found: str
    expected: str
    action: str = RESTORE


class UnreadableError(Exception):
    """The operating system cannot read a file. Not an OSError, which `progress` might raise too."""


class Meter:
    """Adds up the bytes that all threads have read, and reports them to `progress`."""

    def __init__(self, total: int, progress: Show) -> None:
        self.done, self.stopped = 0, False
        self._total, self._progress, self._lock = total, progress, threading.Lock()

    def raise_total(self, count: int) -> None:
        """Expect more bytes: the content of a compressed file is larger than the file."""
        with self._lock:
            self._total += count

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        with self._lock:
            self.done += count
            if not self.stopped:
                self._progress(self.done, self._total)


class FileCheck:
    """A check of one file.

    Attributes:
        problems: the first `MAX_PROBLEMS` of them.
        count: number of problems.
        not_finite: of these, values that are not finite.
        records, damaged, lost: as in `Report`.
    """

    def __init__(self, path: str, meter: Meter) -> None:
        self.path, self.meter = path, meter
        self.problems: list[Problem] = []
        self.count = self.not_finite = self.records = self.damaged = self.lost = 0
        self._damaged_records, self._lost_from = array("q"), -1
        self._bytes_read = self._bytes_reported = 0

    def run(self) -> None:
        """Check the file."""
        try:
            with self.open() as file:
                self.examine(file, os.fstat(file.fileno()).st_size)
        except UnreadableError as error:  # also halfway: a failing disk
            self.give_up(error)
        self._report_progress()

    def open(self) -> BinaryIO:
        """Open the file; raises `UnreadableError`."""
        return open_regular(self.path)

    def examine(self, file: BinaryIO, size: int) -> None:
        """Find all problems of an open file."""
        raise NotImplementedError

    def give_up(self, error: UnreadableError) -> None:
        """Record that the file, or the rest of it, cannot be read."""
        raise NotImplementedError

    def read(self, file: BinaryIO, count: int) -> bytes:
        """Return the next bytes; fewer at the end of the file. Raises `UnreadableError`."""
        try:
            data = file.read(count)
        except OSError as error:
            raise UnreadableError(error.strerror or error) from error
        self._bytes_read += len(data)
        if self._bytes_read - self._bytes_reported >= REPORT_EVERY:
            self._report_progress()
        return data

    def _report_progress(self) -> None:
        self.meter.add(self._bytes_read - self._bytes_reported)
        self._bytes_reported = self._bytes_read

    def add(self, record: int | None, offset: int | None, defect: Defect) -> None:
        """Record a problem."""
        self.count += 1
        self.not_finite += defect.kind == "finite"
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.path, record, offset, *defect))
        if defect.kind in ("cut", "unreadable", "digest"):  # that and all that follows, or without a record the whole file
            self._lost_from = record or 0
        elif record is not None:
            self._damaged_records.append(record)

    def damage(self) -> Damage | None:
        """Return which records are damaged; None: none is known to be."""
        if not self._damaged_records and self._lost_from < 0:
            return None
        records = np.unique(np.frombuffer(self._damaged_records, np.int64))
        return Damage(self.path, records, None if self._lost_from < 0 else self._lost_from)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        UnreadableError: it is missing, not a regular file, or cannot be opened.
    """
    try:
        return regular_files.open_regular(path)
    except OSError as error:
        raise UnreadableError(error.strerror or error) from error


def is_data_intact(defects: list[Defect]) -> bool:
    """Whether the data of a record are those that were written; its header and footer may be corrupt."""
    return not any(defect.kind in ("length", "replaced", "data") for defect in defects)


def frame_defects(header: bytes, data: bytes, footer: bytes, indexed: int | None) -> Iterator[Defect]:
    """Yield what is wrong with a record and the checksums around it.

    Args:
        header: the 12 bytes before the data.
        data: as many bytes as the index specifies, or without an index the header.
        footer: the 4 bytes after the data.
        indexed: the checksum of the data in the index; None: the data are compared with the footer alone.
    """
    length = length_in(header)
    if length is None:
        found = "its header is corrupt: a reader without the index cannot continue from here"
        yield Defect("header", found, f"the length {len(data)} and its checksum")
    elif length != len(data):
        yield Defect("length", f"a record of {length} bytes of data", f"one of {len(data)}, according to the index", RESTORE_ALL)
        return
    checksum, stored = masked_crc(data), int.from_bytes(footer, "little")
    found = f"{len(data)} bytes of data with checksum {checksum:08x}"
    if indexed is None:
        if checksum != stored:
            yield Defect("data", found, f"{stored:08x}, the checksum that follows them in the file")
    elif checksum != indexed:
        expected = f"{indexed:08x}, according to the index"
        if checksum == stored:
            yield Defect("replaced", f"another record: {found}", expected, RESTORE_ALL)
        else:
            yield Defect("data", found, expected)
    elif stored != checksum:
        yield Defect("footer", f"the checksum {stored:08x} after its data", f"{checksum:08x}")


def finite_defects(schema: Schema, values: Mapping[str, Any]) -> Iterator[Defect]:
    """Yield the fields of a record that have a value that is not finite, each with the first one.

    Args:
        values: of fields of floats, by name.
    """
    for name, value in values.items():
        found = describe(name, np.asarray(value), in_frames=isinstance(schema.fields[name], Sequence))
        if found is not None:
            yield Defect("finite", found, EXPECTED, f"{LEAVE_OUT}.")
