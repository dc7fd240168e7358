"""What the first records of some files have: the facts that layouts are guessed from and completed by."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vlpipe.errors import DatasetError
from vlpipe.files.compression import compression_of, uncompressed
from vlpipe.files.tfrecord import HEADER_BYTES, RecordFrame, read_frames
from vlpipe.protobuf.vectorized import integers
from vlpipe.protobuf.wire import Feature, Walked, WireError, walk

Reader = Callable[[str | os.PathLike[str]], Iterable[RecordFrame]]

FILES, RECORDS, MAX_BYTES = 4, 32, 1 << 24  # that are looked at; bytes: of all, after the first record


@dataclass(frozen=True)
class Record:
    """A record that was looked at."""

    where: str
    data: bytes
    walked: Walked

    def numbers(self, key: str) -> list[int] | None:
        """The values of an int64 key, None where it has none."""
        found = self.walked.features.get(key)
        return integers(self.data, found).tolist() if found is not None and found.kind == "int64" else None

    def bytes_of(self, key: str) -> bytes | None:
        """The one bytes value of a key, None where it has not one."""
        found = self.walked.features.get(key)
        return self.data[slice(*found.ranges[0])] if found is not None and found.kind == "bytes" and found.count == 1 else None


@dataclass
class Fact:
    """What was seen of one key.

    Attributes:
        key: the key.
        place: "features" (also the context of a SequenceExample) or "lists".
        kinds: the kinds that its values had.
        records: records that have it.
        counts: fewest and most values; of a list: frames.
        sizes: least and most bytes of a value, or of a frame.
        values: least and greatest integer, None for other kinds.
        packed: its numbers stand together in every record.
        head: the first bytes of the first value.
        is_text: its bytes are UTF-8 that can be printed.
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

    @property
    def kind(self) -> str:
        """The one kind, "" where there is none, or "mixed"."""
        return next(iter(self.kinds), "") if len(self.kinds) < 2 else "mixed"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        known = {"key": self.key, "place": self.place, "kind": self.kind, "records": self.records, "counts": list(self.counts)}
        known |= {"bytes": list(self.sizes)} if self.sizes[0] <= self.sizes[1] else {}
        return known | ({"values": list(self.values)} if self.values else {})

    def see(self, record: Record, feature: Feature) -> None:
        """Take in the feature of one record."""
        if feature.kind:
            self.kinds.add(feature.kind)
        self.packed &= feature.whole is not None or feature.kind == "bytes"
        for begin, end in feature.ranges if feature.kind == "bytes" else ():
            self.sizes = _widened(self.sizes, end - begin)
            value = record.data[begin:end]
            self.head = self.head or value[:16]
            self.is_text &= _is_text(value)
        if feature.kind == "int64" and feature.count:
            found = integers(record.data, feature)
            least, most = int(found.min()), int(found.max())
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
    """The records that were looked at, and the facts about each key."""

    records: tuple[Record, ...]
    facts: dict[str, Fact]

    @property
    def is_sequence(self) -> bool:
        """They are SequenceExamples."""
        return any(record.walked.is_sequence for record in self.records)


def read_records(path: str | os.PathLike[str]) -> Iterator[RecordFrame]:
    """The records of a file, compressed or not.

    Raises:
        DatasetError: it cannot be read, or is damaged.
    """
    with uncompressed(path, compression_of(path)) as content:
        yield from read_frames(path, content)


def look(paths: Iterable[str | os.PathLike[str]], read: Reader = read_records) -> Sample:
    """The first records of the first files.

    Args:
        read: the records of a file.

    Raises:
        DatasetError: a file cannot be read or is damaged there, or its records are no Examples; or there is no record at all.
    """
    records: list[Record] = []
    size = 0
    paths = list(paths)
    for path in paths:
        if len(records) >= FILES * RECORDS:
            break
        for number, frame in enumerate(itertools.islice(read(path), RECORDS)):
            size += len(frame.data)
            if records and size > MAX_BYTES:
                break
            records.append(_record(os.path.basename(path), number, frame))
    if not records:
        raise DatasetError(f"{paths[0]}: holds no record, and neither do the others of {len(paths)} files. Pass files with records.")
    facts: dict[str, Fact] = {}
    for record in records:
        _see(record, facts)
    return Sample(tuple(records), facts)


def _record(name: str, number: int, frame: RecordFrame) -> Record:
    where = f"{name}, record {number} at byte {frame.offset}"
    try:
        return Record(where, frame.data, walk(frame.data))
    except WireError as error:
        raise DatasetError(
            f"{where}: no tf.train.Example or SequenceExample: byte {frame.offset + HEADER_BYTES + error.at} of the file has {error}. "
            "Only these are read: convert the file, with vlpipe.Writer."
        ) from error


def _see(record: Record, facts: dict[str, Fact]) -> None:
    for key, feature in record.walked.features.items():
        fact = facts.setdefault(key, Fact(key, "features"))
        fact.records += 1
        fact.counts = _widened(fact.counts, feature.count)
        fact.see(record, feature)
    for key, frames in record.walked.lists.items():
        fact = facts.setdefault(key, Fact(key, "lists"))
        if fact.place != "lists":
            continue  # a key of the context too: that one counts
        fact.records += 1
        fact.counts = _widened(fact.counts, len(frames))
        for frame in frames:
            fact.see(record, frame)
            if frame.kind != "bytes":
                fact.sizes = _widened(fact.sizes, frame.count * (4 if frame.kind == "float" else 8))
            elif frame.count != 1:
                fact.kinds.add(f"{frame.count} values a frame")
