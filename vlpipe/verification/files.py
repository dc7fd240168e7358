"""One file read from its first byte to its last: what every check has in common, whoever wrote the file."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from vlpipe.files.tfrecord import length_in, masked_crc
from vlpipe.verification.report import MAX_PROBLEMS, Problem

REPORT_EVERY = 1 << 23  # bytes between two calls of `progress`

RESTORE = "Restore the file from a copy, or write the dataset again."
TOGETHER = "Bring back the shards, index.npy and vlpipe.json of one and the same writing, or write the dataset again."


class Finding(NamedTuple):
    """A problem without its place."""

    kind: str
    found: str
    expected: str
    action: str = RESTORE


class UnreadableError(Exception):
    """What the system says of a file; no OSError, which `progress` might raise too."""


class Meter:
    """Counts what all threads have read, and tells it."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self.done, self.stopped = 0, False
        self._total, self._tell, self._lock = total, tell, threading.Lock()

    def expect(self, more: int) -> None:
        """So many bytes more than was known: a compressed file holds more than it takes."""
        with self._lock:
            self._total += more

    def add(self, read: int) -> None:
        """So many bytes were read."""
        with self._lock:
            self.done += read
            if self._tell is not None and not self.stopped:
                self._tell(self.done, self._total)


class FileCheck:
    """A check of one file.

    Attributes:
        problems: the first of them.
        count: how many there are.
        records, damaged, lost: as in `Report`.
    """

    def __init__(self, path: str, meter: Meter) -> None:
        self.path, self.meter = path, meter
        self.problems: list[Problem] = []
        self.count = self.records = self.damaged = self.lost = 0
        self._told = self._read = 0

    def run(self) -> None:
        """Read the file."""
        try:
            with self.open() as file:
                self.examine(file, os.fstat(file.fileno()).st_size)
        except UnreadableError as error:  # also in the middle of it: a disk that fails
            self.give_up(error)
        self.tell()

    def open(self) -> BinaryIO:
        """The file; raises `UnreadableError`."""
        return opened(self.path)

    def examine(self, file: BinaryIO, size: int) -> None:
        """Find all problems of a file that is open."""
        raise NotImplementedError

    def give_up(self, error: UnreadableError) -> None:
        """Note that the file, or the rest of it, cannot be read."""
        raise NotImplementedError

    def take(self, file: BinaryIO, count: int) -> bytes:
        """The next bytes; fewer at the end. Raises `UnreadableError`."""
        try:
            data = file.read(count)
        except OSError as error:
            raise UnreadableError(error.strerror or error) from error
        self._read += len(data)
        if self._read - self._told >= REPORT_EVERY:
            self.tell()
        return data

    def tell(self) -> None:
        """Tell the meter what was read."""
        self.meter.add(self._read - self._told)
        self._told = self._read

    def add(self, record: int | None, offset: int | None, finding: Finding) -> None:
        """Note a problem."""
        self.count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.path, record, offset, *finding))


def opened(path: str) -> BinaryIO:
    """A file open for reading.

    Raises:
        UnreadableError: there is none.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for somebody who writes into it
            raise UnreadableError("no regular file")
        return open(path, "rb")
    except OSError as error:
        raise UnreadableError(error.strerror or error) from error


def is_whole(findings: list[Finding]) -> bool:
    """Whether the data of a record are those that were written, whatever became of what stands around them."""
    return not any(finding.kind in ("length", "replaced", "data") for finding in findings)


def frame_findings(header: bytes, data: bytes, footer: bytes, known: int | None) -> Iterator[Finding]:
    """What is wrong with a record and the checksums around it.

    Args:
        data: as many bytes as the index says, or where there is none as the header does.
        known: the checksum of the data as the index has it; None: only the file itself can tell.
    """
    length = length_in(header)
    if length is None:
        found = "its header is damaged: a reader without the index cannot go on from here"
        yield Finding("header", found, f"the length {len(data)} and its checksum")
    elif length != len(data):
        yield Finding("length", f"a record of {length} bytes of data", f"one of {len(data)}, as the index says", TOGETHER)
        return
    checksum, stored = masked_crc(data), int.from_bytes(footer, "little")
    found = f"{len(data)} bytes of data of checksum {checksum:08x}"
    if known is None:
        if checksum != stored:
            yield Finding("data", found, f"{stored:08x}, as the file says behind them")
    elif checksum != known:
        expected = f"{known:08x}, as the index says"
        if checksum == stored:
            yield Finding("replaced", f"another record: {found}", expected, TOGETHER)
        else:
            yield Finding("data", found, expected)
    elif stored != checksum:
        yield Finding("footer", f"the checksum {stored:08x} after its data", f"{checksum:08x}")
