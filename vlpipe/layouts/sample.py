"""Statistics of each key in the first records of some files, to guess and to complete layouts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vlpipe.errors import DatasetError
from vlpipe.files.compression import compression_of, uncompressed
from vlpipe.files.tfrecord import HEADER_BYTES, RecordFrame, read_frames
from vlpipe.protobuf.other_messages import EXAMPLE_LIST, is_example_list, other_message
from vlpipe.protobuf.vectorized import integers
from vlpipe.protobuf.wire import Feature, Message, WireError, walk

Reader = Callable[[str | os.PathLike[str]], Iterable[RecordFrame]]

MAX_FILES, MAX_RECORDS, MAX_BYTES = 4, 32, 1 << 24  # files; records per file; bytes of all records, except that one is always read
MAX_KEYS = 1 << 16  # of all records, with the same exception: each takes 10 microseconds


@dataclass(frozen=True)
class SampleRecord:
    """A record of the sample.

    Attributes:
        where: file, record number and byte, for errors.
        data: the serialized record.
        message: its content.
    """

    where: str
    data: bytes
    message: Message

    def numbers(self, key: str) -> list[int] | None:
        """Return the values of an int64 key, None if the record has no such key."""
        feature = self.message.features.get(key)
        return integers(self.data, feature).tolist() if feature is not None and feature.kind == "int64" else None

    def bytes_of(self, key: str) -> bytes | None:
        """Return the bytes value of a key, None if it does not have exactly one."""
        feature = self.message.features.get(key)
        return self.data[slice(*feature.ranges[0])] if feature is not None and feature.kind == "bytes" and feature.count == 1 else None


@dataclass
class KeyStats:
    """Statistics of one key over the records of the sample.

    Attributes:
        key: the key.
        place: "features" (also the context of a SequenceExample) or "lists".
        kinds: the kinds of its values.
        records: the number of records that have the key.
        counts: the smallest and largest number of values, or of frames of a feature list.
        sizes: the smallest and largest size of a value or a frame, in bytes.
        values: the smallest and largest integer, None for other kinds.
        packed: whether its numbers are contiguous in every record.
        head: the first bytes of the first value.
        is_text: whether its bytes are printable UTF-8.
        is_shadowed: whether a feature list has the same key as a feature of the context, so that its values are not read.
    """

    key: str
    place: str
    kinds: set[str] = field(default_factory=set)
    records: int = 0
    counts: tuple[int, int] = (1 << 62, 0)
    sizes: tuple[int, int] = (1 << 62, 0)
    values: tuple[int, int] | None = None
    packed: bool = True
    head: bytes = b""
    is_text: bool = True
    is_shadowed: bool = False

    @property
    def kind(self) -> str:
        """The kind of all values, "" if there are no values, "mixed" if there are several kinds."""
        return next(iter(self.kinds), "") if len(self.kinds) < 2 else "mixed"

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON values."""
        document = {"key": self.key, "place": self.place, "kind": self.kind, "records": self.records, "counts": list(self.counts)}
        document |= {"bytes": list(self.sizes)} if self.sizes[0] <= self.sizes[1] else {}
        return document | ({"values": list(self.values)} if self.values else {})

    def add(self, record: SampleRecord, feature: Feature) -> None:
        """Add the feature of one record."""
        if feature.kind:
            self.kinds.add(feature.kind)
        self.packed &= feature.whole is not None or feature.kind == "bytes"
        for begin, end in feature.ranges if feature.kind == "bytes" else ():
            self.sizes = _widened(self.sizes, end - begin)
            value = record.data[begin:end]
            self.head = self.head or value[:16]
            self.is_text &= _is_text(value)
        if feature.kind == "int64" and feature.count:
            numbers = integers(record.data, feature)
            least, most = int(numbers.min()), int(numbers.max())
            low, high = self.values or (least, most)
            self.values = min(low, least), max(high, most)


def _widened(span: tuple[int, int], value: int) -> tuple[int, int]:
    return min(span[0], value), max(span[1], value)


def _is_text(value: bytes) -> bool:
    try:
        return len(value) < 1 << 16 and value.decode("utf-8").replace("\n", "").replace("\t", "").isprintable()
    except UnicodeDecodeError:
        return False


@dataclass(frozen=True)
class Sample:
    """The first records of some files, and the statistics of each key."""

    records: tuple[SampleRecord, ...]
    key_stats: dict[str, KeyStats]

    @property
    def is_sequence(self) -> bool:
        """Whether the records are SequenceExamples."""
        return any(record.message.is_sequence for record in self.records)


def read_records(path: str | os.PathLike[str]) -> Iterator[RecordFrame]:
    """Yield the records of a file, compressed or not.

    Raises:
        DatasetError: the file cannot be read, or is damaged.
    """
    with uncompressed(path, compression_of(path)) as content:
        yield from read_frames(path, content)


def read_sample(paths: Iterable[str | os.PathLike[str]], read: Reader = read_records) -> Sample:
    """Read the first records of the first files.

    Args:
        paths: the files.
        read: a function from a path to the records of the file.

    Raises:
        DatasetError: one of these records cannot be read, is damaged or is not an Example, or there is no record in any file.
    """
    records: list[SampleRecord] = []
    size = keys = 0
    paths = list(paths)
    for path in paths:
        if len(records) >= MAX_FILES * MAX_RECORDS:
            break
        for number, frame in enumerate(itertools.islice(read(path), MAX_RECORDS)):
            size += len(frame.data)
            if records and (size > MAX_BYTES or keys > MAX_KEYS):
                break
            records.append(_record(os.path.basename(path), number, frame))
            keys += len(records[-1].message.features) + len(records[-1].message.lists)
    if not records:
        raise DatasetError(f"{paths[0]}: none of {len(paths)} files holds a record. Pass files with records.")
    key_stats: dict[str, KeyStats] = {}
    for record in records:
        _add(record, key_stats)
    return Sample(tuple(records), key_stats)


def _record(name: str, number: int, frame: RecordFrame) -> SampleRecord:
    where = f"{name}, record {number} at byte {frame.offset}"
    try:
        message = walk(frame.data)
    except WireError as error:
        if is_example_list(frame.data):
            raise DatasetError(_no_example(where, EXAMPLE_LIST)) from error
        raise DatasetError(
            f"{where}: not a tf.train.Example or SequenceExample: byte {frame.offset + HEADER_BYTES + error.at} of the file has {error}. "
            "Rewrite the records with vlpipe.Writer, or pass layout=vlpipe.layouts.Layout.custom(...)."
        ) from error
    other = other_message(frame.data, message)
    if other:
        raise DatasetError(_no_example(where, other))
    return SampleRecord(where, frame.data, message)


def _no_example(where: str, what: str) -> str:
    return (
        f"{where}: the record is {what}, and not a tf.train.Example or SequenceExample. Pass a function that parses it: "
        "layout=vlpipe.layouts.Layout.custom(...)."
    )


def _add(record: SampleRecord, key_stats: dict[str, KeyStats]) -> None:
    for key, feature in record.message.features.items():
        stats = key_stats.setdefault(key, KeyStats(key, "features"))
        if stats.place == "lists":  # an earlier record has a feature list of this name
            stats.is_shadowed = True
            continue
        stats.records += 1
        stats.counts = _widened(stats.counts, feature.count)
        stats.add(record, feature)
    for key, frames in record.message.lists.items():
        stats = key_stats.setdefault(key, KeyStats(key, "lists"))
        if stats.place != "lists":
            stats.is_shadowed = True  # the context has this key too and takes precedence
            continue
        stats.records += 1
        stats.counts = _widened(stats.counts, len(frames))
        for frame in {id(frame): frame for frame in frames}.values():  # empty ones are one object, see `wire`
            stats.add(record, frame)
            if frame.kind != "bytes":
                stats.sizes = _widened(stats.sizes, frame.count * (4 if frame.kind == "float" else 8))
            elif frame.count != 1:
                stats.kinds.add(f"{frame.count} values a frame")
