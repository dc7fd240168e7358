"""Every byte of a dataset held against what the index, the schema and `vlpipe.json` say of it.

The records are found by the index, not by the lengths that the file states: after a damaged header the next record is read all the same.
The index tiles the shards (`open_source` has checked that), so that no byte is passed over.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.index import Index, Shard, column, row_dtype
from vlpipe.opening import Source
from vlpipe.options import integer
from vlpipe.record import decode
from vlpipe.remote import open_local
from vlpipe.reporting import verification_table
from vlpipe.schema import Schema
from vlpipe.tfrecord import FOOTER_BYTES, HEADER_BYTES, length_in, masked_crc

MOST_PROBLEMS = 100  # that a report lists; a shard that was replaced has as many as records
MOST_WORKERS = 1024
_BLOCK = 1 << 20
_REPORT_EVERY = 1 << 23  # bytes between two calls of `progress`

_RESTORE = "Restore the shard from a copy, or write the dataset again."
_TOGETHER = "Bring back the shards, index.npy and vlpipe.json of one and the same writing, or write the dataset again."


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was written.

    Attributes:
        shard: path of the file.
        record: its number in the file, from 0; None where the file as a whole is meant.
        offset: byte of the file at which the record begins, or from which on the problem lasts; None for the whole file.
        kind: one of

            - `"unreadable"`: the file is missing, is no file, or the disk fails;
            - `"cut"`: the file ends in or before the record; `"size"`: bytes follow its last record;
            - `"header"`: the length of the record is damaged, and readers that have no index cannot go on from there;
            - `"length"`: there is another record, of another length; `"replaced"`: another one of the same length;
            - `"data"`: the data are damaged; `"footer"`: only the checksum that stands after them is;
            - `"example"`: the data are not what the schema describes; `"index"`: the index says something else of them;
            - `"digest"`: the SHA-256 of the whole file is another.
        found: what is there.
        expected: what should be.
        action: what to do next.
    """

    shard: str
    record: int | None
    offset: int | None
    kind: str
    found: str
    expected: str
    action: str

    def __str__(self) -> str:
        place = os.path.basename(self.shard)
        if self.record is not None:
            place += f", record {self.record}"
        if self.offset is not None:
            place += f" at byte {self.offset}"
        return f"{place}: {self.found}, expected {self.expected}. {self.action}"


@dataclass(frozen=True)
class Report:
    """What `vlpipe.verify` found.

    Attributes:
        shards: files of the dataset.
        records: records of the dataset.
        bytes: bytes that were read.
        damaged: records that cannot be read, or are not what was written.
        problems: by shard and place, at most 100.
        unlisted: how many more there are.
    """

    shards: int
    records: int
    bytes: int
    damaged: int
    problems: tuple[Problem, ...]
    unlisted: int

    @property
    def ok(self) -> bool:
        """Whether everything is as it was written."""
        return not self.problems

    def report(self) -> str:
        """The report as a table."""
        return verification_table(self)


def verify(source: Source, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read a whole dataset and tell all that is not as it was written; it does not stop at the first damage.

    Of every record: the length and both checksums in the file, against themselves and against the index; every field of its Example,
    against the schema, and against the frames and values that the index has of it. Of every shard: its size, and its SHA-256 in
    `vlpipe.json`. TensorFlow is not needed.

    Args:
        source: directory, glob, file, or a list of them, on a local file system.
        workers: shards that are read at the same time, each by a thread that holds one record in memory; None: one a core.
        progress: called now and then with the bytes that were read and those that there are, by one thread at a time.

    Raises:
        DatasetError: `vlpipe.json` or `index.npy` are missing, damaged or do not agree: there is nothing to hold the shards against.
        ArgumentError: the source is no path, or an argument has no meaning.

    Example:
        >>> report = vlpipe.verify("data/train")
        >>> if not report.ok:
        ...     print(report.report())
    """
    if progress is not None and not callable(progress):
        raise ArgumentError(f"progress: came as {progress!r}, expected a function of two numbers of bytes, or None.")
    workers = os.cpu_count() or 1 if workers is None else integer("workers", workers, 1, MOST_WORKERS)
    index = open_local(source, check_files=False)
    order = index.by_shard()
    ends = np.searchsorted(index.rows["shard"][order], np.arange(len(index.shards)), side="right")
    meter = _Meter(sum(shard.bytes for shard in index.shards), progress)

    def check(number: int) -> _ShardCheck:
        rows = index.rows[order[ends[number - 1] if number else 0 : ends[number]]]
        try:
            return _ShardCheck(index, index.shards[number], rows, meter).run()
        except BaseException:  # what `progress` raises
            meter.stopped = True
            raise

    # Threads, not processes: reading and SHA-256, most of the work, let go of the interpreter (1.1 GB a second and core). Only with records
    # of a few KB, 35,000 a second, does the rest count.
    with ThreadPoolExecutor(min(workers, len(index.shards))) as pool:
        try:
            found = list(pool.map(check, range(len(index.shards))))
        except BaseException:  # Ctrl-C too: the other threads stop at their next record
            meter.stopped = True
            raise
    return _report(index, found, meter.done)


def _report(index: Index, found: list[_ShardCheck], read: int) -> Report:
    by_digest = {shard.digest: shard.name for shard in index.shards if shard.records}
    for check in found:
        check.judge_digest(by_digest)
    problems = [problem for check in found for problem in check.problems][:MOST_PROBLEMS]
    return Report(
        shards=len(index.shards),
        records=len(index),
        bytes=read,
        damaged=sum(check.damaged for check in found),
        problems=tuple(problems),
        unlisted=sum(check.count for check in found) - len(problems),
    )


class _Meter:
    """Counts what all threads have read, and tells it."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self.done, self.stopped = 0, False
        self._total, self._tell, self._lock = total, tell, threading.Lock()

    def add(self, read: int) -> None:
        with self._lock:
            self.done += read
            if self._tell is not None and not self.stopped:
                self._tell(self.done, self._total)


class _Finding(NamedTuple):
    """A problem without its place."""

    kind: str
    found: str
    expected: str
    action: str = _RESTORE


class _ShardCheck:
    """One shard, read from its first byte to its last: how many problems there are, and the first of them."""

    def __init__(self, index: Index, shard: Shard, rows: np.ndarray, meter: _Meter) -> None:
        self.problems: list[Problem] = []
        self.count = self.damaged = 0
        self._shard, self._rows, self._meter = shard, rows, meter
        self._check_record = _RecordCheck(index.schema)
        self._digest = hashlib.sha256()
        self._checked = self._told = self._read = 0
        self._whole = False

    def run(self) -> _ShardCheck:
        try:
            with _open(self._shard.path) as file:
                size = os.fstat(file.fileno()).st_size
                self._read_records(file, size)
                self._read_rest(file, size)
        except _UnreadableError as error:  # also in the middle of it: a disk that fails
            expected = f"{self._shard.bytes} bytes with {len(self._rows)} records"
            self._add(None, None, _Finding("unreadable", f"it cannot be read ({error})", expected))
            self.damaged += len(self._rows) - self._checked
        self._tell()
        return self

    def _read_records(self, file: BinaryIO, size: int) -> None:
        for record, row in enumerate(self._rows):
            if self._meter.stopped:
                return
            offset, length = int(row["offset"]), int(row["bytes"])
            end = offset + HEADER_BYTES + length + FOOTER_BYTES
            # Nothing is read, and no memory taken, on the word of an index whose shard is cut.
            parts = [self._take(file, count) for count in (HEADER_BYTES, length, FOOTER_BYTES)] if end <= size else []
            if sum(map(len, parts)) < end - offset:
                lost = len(self._rows) - record
                expected = f"{lost} more records, to byte {self._shard.bytes}"
                self._add(record, offset, _Finding("cut", f"the file ends at byte {size}: from here on it cannot be read", expected))
                self.damaged += lost
                self._checked = len(self._rows)
                return
            findings = list(self._check_record(row, *parts))
            for finding in findings:
                self._add(record, offset, finding)
            self.damaged += bool(findings)
            self._checked += 1
            if self._read - self._told >= _REPORT_EVERY:
                self._tell()

    def _read_rest(self, file: BinaryIO, size: int) -> None:
        while not self._meter.stopped and self._take(file, _BLOCK):
            pass
        self._whole = not self._meter.stopped
        if size > self._shard.bytes:
            found = f"{size - self._shard.bytes} bytes follow the last record"
            self._add(None, self._shard.bytes, _Finding("size", found, f"a file of {self._shard.bytes} bytes"))

    def judge_digest(self, by_digest: dict[str, str]) -> None:
        """Compare the digest of the file: it is news only if nothing else was found, or if another shard is known by it."""
        digest = f"sha256:{self._digest.hexdigest()}"
        if not self._whole or digest == self._shard.digest:
            return
        if digest in by_digest:
            self.problems, self.count, self.damaged = [], 0, len(self._rows)
            self._add(None, None, _Finding("digest", f"the content of {by_digest[digest]}", f"that of {self._shard.name}", _TOGETHER))
        elif not self.count:
            self._add(None, None, _Finding("digest", f"the digest {digest}", f"{self._shard.digest}, as vlpipe.json says", _TOGETHER))

    def _take(self, file: BinaryIO, count: int) -> bytes:
        try:
            data = file.read(count)
        except OSError as error:
            raise _UnreadableError(error.strerror or error) from error
        self._digest.update(data)
        self._read += len(data)
        return data

    def _tell(self) -> None:
        self._meter.add(self._read - self._told)
        self._told = self._read

    def _add(self, record: int | None, offset: int | None, finding: _Finding) -> None:
        self.count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(self._shard.path, record, offset, *finding))


class _UnreadableError(Exception):
    """What the system says of a file; no OSError, which `progress` might raise too."""


def _open(path: str) -> BinaryIO:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for somebody who writes into it
            raise _UnreadableError("no regular file")
        return open(path, "rb")
    except OSError as error:
        raise _UnreadableError(error.strerror or error) from error


class _RecordCheck:
    """Compares the bytes of a record with its row in the index."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._sequences = [(name, column(schema, "frames", name), column(schema, "start", name)) for name in schema.sequences]
        self._inlined = [name.removeprefix("value:") for name in row_dtype(schema).names or () if name.startswith("value:")]

    def __call__(self, row: np.void, header: bytes, data: bytes, footer: bytes) -> Iterator[_Finding]:
        length = length_in(header)
        if length is None:
            found = "its header is damaged: a reader without the index cannot go on from here"
            yield _Finding("header", found, f"the length {len(data)} and its checksum")
        elif length != len(data):
            yield _Finding("length", f"a record of {length} bytes of data", f"one of {len(data)}, as the index says", _TOGETHER)
            return
        checksum, stored, known = masked_crc(data), int.from_bytes(footer, "little"), int(row["checksum"])
        if checksum != known:
            found, expected = f"{len(data)} bytes of data of checksum {checksum:08x}", f"{known:08x}, as the index says"
            if checksum == stored:
                yield _Finding("replaced", f"another record: {found}", expected, _TOGETHER)
            else:
                yield _Finding("data", found, expected)
            return
        if stored != checksum:
            yield _Finding("footer", f"the checksum {stored:08x} after its data", f"{checksum:08x}")
        yield from self._check_content(row, data)

    def _check_content(self, row: np.void, data: bytes) -> Iterator[_Finding]:
        try:
            values, starts = decode(self._schema, data)
        except ValueError as error:
            yield _Finding("example", str(error), "an Example of the schema", _TOGETHER)
            return
        for (name, frames, start), begin in zip(self._sequences, starts, strict=True):
            found, known = (len(values[name]), begin), (int(row[frames]), int(row[start]))
            if found != known:
                said = f"{known[0]} from byte {known[1]}, as the index says"
                yield _Finding("index", f'{found[0]} frames of "{name}" from byte {found[1]} of the data', said, _TOGETHER)
        for name in self._inlined:
            value, noted = np.asarray(values[name]), np.asarray(row[f"value:{name}"])
            if not _same(value, noted):
                yield _Finding("index", f'"{name}" is {_shown(value)}', f"{_shown(noted)}, as the index says", _TOGETHER)


def _same(value: np.ndarray, noted: np.ndarray) -> bool:
    """The same bits, except in a NaN: that of a float16 went through a float32, which may make it a quiet one."""
    if value.tobytes() == noted.tobytes():
        return True
    both_nan = np.isnan(value) & np.isnan(noted)
    return bool(np.all(both_nan | (value == noted) & (np.signbit(value) == np.signbit(noted))))


def _shown(value: np.ndarray) -> str:
    return np.array2string(value, threshold=8)
