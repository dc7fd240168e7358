"""The rows of an index, from a file that vlpipe did not write and the layout of its records.

The records of a file are walked together (`bulk`); those that its writer encoded in another way than usual one by one (`wire`). Data are
not copied and not read, except for labels and lengths; whether they are whole, the engines test at the first read.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from vlpipe import bulk
from vlpipe.bulk import BYTES_LIST, FLOAT_LIST, INT64_LIST, Payloads, Spans
from vlpipe.errors import DatasetError
from vlpipe.index import column
from vlpipe.layouts.base import Frames, Layout, Listed, Number, Words
from vlpipe.layouts.tensors import contents
from vlpipe.record import varint
from vlpipe.tfrecord import HEADER_BYTES, data_checksums, masked_crc, scan
from vlpipe.wire import Feature, WireError, integers, walk

CHUNK_RECORDS, CHUNK_BYTES = 1 << 16, 1 << 28  # that are walked together
_TAGS = {"": 0, "bytes": BYTES_LIST, "float": FLOAT_LIST, "int64": INT64_LIST}
_KINDS = {tag: kind or "empty" for kind, tag in _TAGS.items()}


class MisfitError(DatasetError):
    """Records are not as the layout says; the message names the first of them.

    Attributes:
        records: numbers of all that one and the same test refuses.
        found: what each has instead, by its number.
        action: what to do next.
    """

    action = (
        "Pass the layout that these records have (vlpipe inspect FILE shows what is in them; LAYOUT.only() passes over all keys that are "
        "not needed), or leave the file out."
    )

    def __init__(self, where: str, records: list[int], found: Callable[[int], str]) -> None:
        super().__init__(f"{where}: {found(records[0])}. {self.action}")
        self.records, self.found = records, found


class Table(NamedTuple):
    """What an index knows of one file: its rows (`shard` is 0), and the values of each `Listed` key, one record after another."""

    rows: np.ndarray
    lists: dict[str, np.ndarray]


@functools.lru_cache
def row_dtype(layout: Layout) -> np.dtype:
    """The columns of an index of foreign files.

    Those of vlpipe's own (`index.row_dtype`), `frames` and `start` of every sequence; `value:KEY` of every `Number`; of a `Listed`
    key `frames:KEY`, how many values, and `start:KEY`, where among those of all records they begin; of `Words` `frames:KEY`, how many
    bytes, and `start:KEY`, where in the data.
    """
    columns: list[tuple] = [("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("checksum", "<u4")]
    schema = layout.schema
    for entry in layout.frames:
        columns += [(column(schema, "frames", entry.key), "<u4"), (column(schema, "start", entry.key), "<u4")]
    for field in layout.fields:
        if isinstance(field, Number):
            columns.append((f"value:{field.key}", np.dtype(field.dtype).newbyteorder("<").str, field.shape))
        else:
            columns += [(f"frames:{field.key}", "<u4"), (f"start:{field.key}", "<u8" if isinstance(field, Listed) else "<u4")]
    return np.dtype(columns)


def frame_header(entry: Frames) -> bytes:
    """What stands before each frame of a feature list: the beginnings of Feature, of its list, and of the value."""
    inner = b"\x0a" + varint(entry.frame_bytes)
    kind = (b"\x0a" if entry.form == "byte_frames" else b"\x12") + varint(len(inner) + entry.frame_bytes) + inner
    return b"\x0a" + varint(len(kind) + entry.frame_bytes) + kind


def gap(entry: Frames) -> int:
    """Bytes before each frame that do not belong to it."""
    return len(frame_header(entry)) if entry.form in ("byte_frames", "float_frames") else 0


def extract(path: str | os.PathLike[str], layout: Layout) -> Table:
    """Every record of a file.

    Args:
        layout: a complete one, as `layouts.resolve` gives.

    Raises:
        DatasetError: the file cannot be read, is damaged, or a record is not as the layout says; the message names the record and the byte.
    """
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}), expected an uncompressed TFRecord file.") from error
    data = np.frombuffer(mapped, np.uint8)
    offsets, sizes = scan(data, name)
    rows = np.zeros(len(offsets), row_dtype(layout))
    rows["offset"], rows["bytes"] = offsets, sizes
    rows["checksum"] = data_checksums(data, offsets, sizes)
    lists = fill(data, name, layout, rows, 0, len(rows))
    for key in lists:  # counts are there; where they begin follows
        counts = rows[f"frames:{key}"].astype(np.int64)
        rows[f"start:{key}"] = np.cumsum(counts) - counts
    return Table(rows, lists)


def fill(data: np.ndarray, name: str, layout: Layout, rows: np.ndarray, first: int, end: int) -> dict[str, np.ndarray]:
    """Fill in the rows from the first to before the end, of which place and checksum are known; the values of their lists.

    Args:
        data: uint8, the file.
        name: what to call it in an error.

    Raises:
        MisfitError: records are not as the layout says.
        DatasetError: the data of the first of them are damaged.
    """
    lists: dict[str, list[np.ndarray]] = {field.key: [] for field in layout.fields if isinstance(field, Listed)}
    for begin, stop in _chunks(rows["bytes"][first:end]):
        _Chunk(data, name, layout, rows, first + begin, first + stop).fill(lists)
    return {key: np.concatenate([np.zeros(0, np.int64), *parts]) for key, parts in lists.items()}


def _chunks(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    ends = np.cumsum(sizes, dtype=np.int64)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        end = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
        end = min(max(end, first + 1), first + CHUNK_RECORDS)
        yield first, min(end, len(sizes))
        first = end


class _Chunk:
    """Some records of a file that are walked together."""

    def __init__(self, data: np.ndarray, name: str, layout: Layout, rows: np.ndarray, first: int, end: int) -> None:
        self.data, self.name, self.layout, self.first = data, name, layout, first
        self.rows = rows[first:end]
        self.begins = self.rows["offset"].astype(np.int64) + HEADER_BYTES
        self.ends = self.begins + self.rows["bytes"]
        self.loose: dict[str, dict[int, list[int]]] = {}
        counted = [entry.count_key for entry in layout.frames if entry.count_key]
        keys = [*([] if layout.is_sequence else [entry.key for entry in layout.frames]), *counted, *(field.key for field in layout.fields)]
        context, lists = bulk.messages(data, self.begins, self.ends)
        features = bulk.entries(data, context, dict.fromkeys(keys))
        self.there = {key: span.begins >= 0 for key, span in features.items()}
        self.values = {key: bulk.payloads(data, span) for key, span in features.items()}
        self.spans = bulk.entries(data, lists, [entry.key for entry in layout.frames] if layout.is_sequence else [])
        self._walk_odd([context, *self.spans.values(), *self.values.values()])

    def fill(self, lists: dict[str, list[np.ndarray]]) -> None:
        """Fill in the rows, and add the values of the lists."""
        for entry in self.layout.frames:
            starts, frames = self._in_lists(entry) if self.layout.is_sequence else self._in_features(entry)
            schema = self.layout.schema
            self.rows[column(schema, "frames", entry.key)] = frames
            self.rows[column(schema, "start", entry.key)] = np.where(frames > 0, starts - self.begins, 0)
        for field in self.layout.fields:
            if isinstance(field, Number):
                self.rows[f"value:{field.key}"] = self._numbers(field)
            elif isinstance(field, Words):
                found = self.values[field.key]
                self._expect(field.key, BYTES_LIST)
                self.rows[f"frames:{field.key}"] = found.ends - found.begins
                self.rows[f"start:{field.key}"] = np.where(found.ends > found.begins, found.begins - self.begins, 0)
            else:
                values, self.rows[f"frames:{field.key}"] = self._list(field)
                lists[field.key].append(values)

    def _walk_odd(self, found: list[Spans | Payloads]) -> None:
        odd = np.zeros(len(self.rows), bool)
        for entry in found:
            odd |= entry.odd
        for row in np.flatnonzero(odd).tolist():
            begin = int(self.begins[row])
            record = self.data[begin : self.ends[row]].tobytes()
            try:
                walked = walk(record)
                for key in self.values:
                    self._mend(row, key, walked.features.get(key), record)
            except WireError as error:
                self.fail(row, f"no tf.train.Example or SequenceExample: byte {begin + error.at} of the file has {error}")
            for key, span in self.spans.items():
                first, last = walked.spans.get(key, (-1 - begin, -1 - begin))
                span.begins[row], span.ends[row] = begin + first, begin + last

    def _mend(self, row: int, key: str, feature: Feature | None, record: bytes) -> None:
        """What the bulk walk would have found, had it known how."""
        values = self.values[key]
        self.there[key][row] = feature is not None
        feature = feature or Feature()
        values.tags[row] = _TAGS[feature.kind]
        whole = feature.whole
        if whole is None and feature.kind == "int64":
            self.loose.setdefault(key, {})[row] = integers(record, feature)
            whole = 0, 0
        if whole is None:
            what = "values" if feature.kind == "bytes" else "numbers, which are not packed: they do not stand together"
            self.fail(row, f'"{key}" has {feature.count} {what}, expected one value, or packed numbers')
            return
        begin = int(self.begins[row])
        values.begins[row], values.ends[row] = (begin + whole[0], begin + whole[1]) if feature.count else (0, 0)

    def _in_features(self, entry: Frames) -> tuple[np.ndarray, np.ndarray]:
        """Where the frames begin, and how many there are, of a sequence that is one value or one list of numbers."""
        found = self.values[entry.key]
        self._present(entry.key)
        self._expect(entry.key, FLOAT_LIST if entry.form == "floats" else BYTES_LIST)
        begins, ends = found.begins, found.ends
        if entry.form == "tensor":
            tensors = contents(self.data, begins, ends, entry.dtype or "", entry.shape or ())
            what = f"a serialized tensor of {entry.dtype} [T, {', '.join(map(str, entry.shape or ()))}]"
            self.refuse(tensors.odd, lambda row: f'"{entry.key}", at byte {begins[row]}, is not {what}, as in the first records')
            begins = tensors.at
        sizes = ends - begins
        width = np.dtype(entry.dtype).itemsize
        unit = ("values", width) if entry.form == "floats" else ("bytes", 1)
        expected = f"not a multiple of {entry.frame_bytes // unit[1]} (d = {' x '.join(map(str, entry.shape or (1,)))}, {entry.dtype})"
        self.refuse(
            sizes % entry.frame_bytes != 0,
            lambda row: f'"{entry.key}", at byte {begins[row]}, has {sizes[row] // unit[1]} {unit[0]}, {expected}',
        )
        frames = sizes // entry.frame_bytes
        if entry.count_key:
            self._counts(entry, frames)
        return begins, frames

    def _counts(self, entry: Frames, frames: np.ndarray) -> None:
        """The key that says how many frames there are has to agree."""
        key = entry.count_key or ""
        self._present(key)
        values, counts = self._integers(key)
        firsts = np.cumsum(counts) - counts
        if entry.count == "row_lengths":
            wrong = values != entry.values
            bad = counts != frames
            bad[np.repeat(np.arange(len(counts)), counts)[wrong]] = True
            expected = f"one length for each of its frames, each {entry.values}"
        else:
            most = 1 if entry.count == "length" else 1 + len(entry.shape or ())
            bad = counts != most
            good = np.flatnonzero(~bad)
            bad[good] = values[firsts[good]] != frames[good]
            for axis, size in enumerate((entry.shape or ())[: most - 1], 1):
                bad[good] |= values[firsts[good] + axis] != size
            expected = "T" if most == 1 else f"[T, {', '.join(map(str, entry.shape or ()))}]"

        def text(row: int) -> str:
            said = values[firsts[row] : firsts[row] + min(counts[row], 8)].tolist()
            return f'"{key}" says {said}, but "{entry.key}" has {frames[row]} frames of {entry.values} values; expected {expected}'

        self.refuse(bad, text)

    def _in_lists(self, entry: Frames) -> tuple[np.ndarray, np.ndarray]:
        """The same, of a feature list, where a header of a few bytes stands before each frame."""
        span = self.spans[entry.key]
        self.refuse(span.begins < 0, lambda row: f'has no feature list "{entry.key}"')
        header = frame_header(entry)
        stride = len(header) + entry.frame_bytes
        frames, rest = np.divmod(span.ends - span.begins, stride)
        bad = rest != 0
        frames = np.where(bad, 0, frames)
        at = bulk.ranges(np.zeros_like(frames), frames) * stride + np.repeat(span.begins, frames)
        bad[np.repeat(np.arange(len(frames)), frames)[~_have(self.data, at, header)]] = True
        kind = "bytes value" if entry.form == "byte_frames" else "FloatList"
        self.refuse(
            bad,
            lambda row: (
                f'the feature list "{entry.key}", at byte {span.begins[row]}, has {span.ends[row] - span.begins[row]} bytes, which are not '
                f"frames of one {kind} of {entry.frame_bytes} bytes each (d = {entry.values}, {entry.dtype})"
            ),
        )
        return span.begins + len(header), frames

    def _numbers(self, field: Number) -> np.ndarray:
        self._present(field.key)
        self._expect(field.key, FLOAT_LIST if field.dtype == "float32" else INT64_LIST)
        count = int(np.prod(field.shape, dtype=np.int64))
        found = self.values[field.key]
        if field.dtype == "float32":
            values, counts = np.zeros(0), (found.ends - found.begins) // 4
        else:
            values, counts = self._integers(field.key)
        self.refuse(
            counts != count,
            lambda row: f'"{field.key}" has {counts[row]} values, expected {count} in every record (or name it in lists=)',
        )
        if field.dtype == "float32":
            bytes_at = found.begins[:, None] + np.arange(4 * count)
            values = self.data[bytes_at].view("<f4")
        return values.reshape(-1, *field.shape)

    def _list(self, field: Listed) -> tuple[np.ndarray, np.ndarray]:
        values, counts = self._integers(field.key)
        if field.classes is not None:
            outside = np.zeros(len(counts), bool)
            outside[np.repeat(np.arange(len(counts)), counts)[(values < 0) | (values >= field.classes)]] = True
            self.refuse(outside, lambda row: f'"{field.key}" has a class that is not one of 0 to {(field.classes or 0) - 1}')
        return values, counts

    def _integers(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of an int64 key in all records, one after another, and how many each has."""
        self._expect(key, INT64_LIST)
        found = self.values[key]
        values, counts, odd = bulk.packed_integers(self.data, found.begins, found.ends)
        self.refuse(odd, lambda row: f'"{key}", at byte {found.begins[row]}, holds a number that does not end')
        loose = self.loose.get(key)
        if loose:
            rows = np.array(sorted(loose))
            more = np.array([len(loose[row]) for row in rows])
            before = np.cumsum(counts)[rows]
            values = np.insert(values, np.repeat(before, more), np.concatenate([np.array(loose[row], np.int64) for row in rows]))
            counts[rows] = more
        return values, counts

    def _present(self, key: str) -> None:
        self.refuse(~self.there[key], lambda row: f'has no feature "{key}"')

    def _expect(self, key: str, tag: int) -> None:
        tags = self.values[key].tags
        self.refuse(
            (tags != tag) & (tags != 0), lambda row: f'"{key}" holds values of kind {_KINDS[int(tags[row])]}, expected {_KINDS[tag]}'
        )

    def refuse(self, bad: np.ndarray, text: Callable[[int], str]) -> None:
        """Raise for these records, if there is one."""
        if bad.any():
            self._raise(np.flatnonzero(bad).tolist(), text)

    def fail(self, row: int, text: str) -> None:
        """Raise for one record.

        Raises:
            DatasetError: always.
        """
        self._raise([row], lambda _: text)

    def _raise(self, rows: list[int], text: Callable[[int], str]) -> None:
        """Raise an error that names the first record; if its data are damaged, that is the error."""
        row, entry = rows[0], self.rows[rows[0]]
        where = f"{self.name}, record {self.first + row} at byte {entry['offset']}"
        found = masked_crc(self.data[self.begins[row] : self.ends[row]].tobytes())
        if found != entry["checksum"]:
            raise DatasetError(
                f"{where}: the checksum of its {entry['bytes']} bytes of data is {found:08x}, the file says {entry['checksum']:08x}: the "
                "file is damaged. Restore it from a copy."
            )
        raise MisfitError(where, [self.first + row for row in rows], lambda record: text(record - self.first))


def _have(data: np.ndarray, at: np.ndarray, header: bytes) -> np.ndarray:
    """bool: the header stands at each position."""
    same = np.ones(len(at), bool)
    if len(data) < 8:
        return same & (len(at) == 0)
    for begin in {*range(0, len(header) - 8, 8), max(0, len(header) - 8)}:
        part = header[begin : begin + 8]
        mask = np.uint64(0xFFFFFFFFFFFFFFFF >> 8 * (8 - len(part)))
        same &= (bulk.words(data, at + begin) & mask) == np.uint64(int.from_bytes(part, "little"))
    return same
