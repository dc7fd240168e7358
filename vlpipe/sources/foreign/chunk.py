"""Records of a file that vlpipe did not write, walked together: where their frames stand, and what they are labelled with.

The usual encoding is walked in bulk (`bulk`); records that their writer encoded in another way one by one (`wire`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlpipe.errors import AudioError, DatasetError
from vlpipe.files.tfrecord import HEADER_BYTES, masked_crc
from vlpipe.layouts.base import Frames, Layout, Listed, Number, Words
from vlpipe.protobuf import vectorized
from vlpipe.protobuf.tensor_proto import contents
from vlpipe.protobuf.vectorized import BYTES_LIST, FLOAT_LIST, INT64_LIST, Payloads, Spans
from vlpipe.protobuf.wire import Feature, WireError, integers, is_plain, walk
from vlpipe.sources.foreign.decode import samples_in
from vlpipe.storage.example import varint
from vlpipe.storage.index import column

_TAGS = {"": 0, "bytes": BYTES_LIST, "float": FLOAT_LIST, "int64": INT64_LIST}
_BY_TENSORFLOW = ("integers", "floats")  # what `parsing` leaves to TensorFlow's own parser
_KINDS = {tag: kind or "empty" for kind, tag in _TAGS.items()}
_PASS_ANOTHER = (
    "Pass the layout that these records have (vlpipe inspect FILE shows what is in them; LAYOUT.only() passes over all keys that are "
    "not needed), or leave the file out."
)


class MisfitError(DatasetError):
    """Records are not as the layout says; the message names the first of them.

    Attributes:
        records: numbers of all that one and the same test refuses.
        found: what each has instead, by its number.
        action: what to do next.
    """

    def __init__(self, where: str, records: list[int], found: Callable[[int], str], action: str = _PASS_ANOTHER) -> None:
        super().__init__(f"{where}: {found(records[0])}. {action}")
        self.records, self.found, self.action = records, found, action


def frame_header(entry: Frames) -> bytes:
    """What stands before each frame of a feature list: the beginnings of Feature, of its list, and of the value."""
    inner = b"\x0a" + varint(entry.frame_bytes)
    kind = (b"\x0a" if entry.form == "byte_frames" else b"\x12") + varint(len(inner) + entry.frame_bytes) + inner
    return b"\x0a" + varint(len(kind) + entry.frame_bytes) + kind


def gap(entry: Frames) -> int:
    """Bytes before each frame that do not belong to it."""
    return len(frame_header(entry)) if entry.form in ("byte_frames", "float_frames") else 0


class Chunk:
    """Some records of a file that are walked together."""

    def __init__(self, data: np.ndarray, name: str, layout: Layout, rows: np.ndarray, first: int, end: int) -> None:
        self.data, self.name, self.layout, self.first = data, name, layout, first
        self.rows = rows[first:end]
        self.begins = self.rows["offset"].astype(np.int64) + HEADER_BYTES
        self.ends = self.begins + self.rows["bytes"]
        self.loose: dict[str, dict[int, list[int]]] = {}
        self.unpacked: dict[str, dict[int, int]] = {entry.key: {} for entry in layout.frames if not entry.packed}
        counted = [entry.count_key for entry in layout.frames if entry.count_key]
        keys = [*([] if layout.is_sequence else [entry.key for entry in layout.frames]), *counted, *(field.key for field in layout.fields)]
        context, lists = vectorized.messages(data, self.begins, self.ends)
        features = vectorized.entries(data, context, dict.fromkeys(keys))
        self.there = {key: span.begins >= 0 for key, span in features.items()}
        self.values = {key: vectorized.payloads(data, span) for key, span in features.items()}
        self.spans = vectorized.entries(data, lists, [entry.key for entry in layout.frames] if layout.is_sequence else [])
        self._walk_odd([context, *self.spans.values(), *self.values.values()])

    def fill(self, lists: dict[str, list[np.ndarray]]) -> None:
        """Fill in the rows, and add the values of the lists."""
        for entry in self.layout.frames:
            starts, frames = self._in_lists(entry) if self.layout.is_sequence else self._in_features(entry)
            schema = self.layout.schema
            self.rows[column(schema, "frames", entry.key)] = frames
            self.rows[column(schema, "start", entry.key)] = np.where((frames > 0) & (not entry.parsed), starts - self.begins, 0)
        for field in self.layout.fields:
            if isinstance(field, Number):
                self.rows[f"value:{field.key}"] = self._numbers(field)
            elif isinstance(field, Words):
                found = self.values[field.key]
                self._expect(field.key, BYTES_LIST)
                self.rows[f"frames:{field.key}"] = found.ends - found.begins
                self.rows[f"start:{field.key}"] = np.where(found.ends > found.begins, found.begins - self.begins, 0)
            elif isinstance(field, Listed):
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
                strange = [entry.key for entry in self.layout.frames if entry.parsed in _BY_TENSORFLOW and not is_plain(record, entry.key)]
            except WireError as error:
                self.fail(row, f"no tf.train.Example or SequenceExample: byte {begin + error.at} of the file has {error}")
            if strange:
                self.fail(row, f'"{strange[0]}" is encoded in several parts, or in another way that TensorFlow does not parse rightly')
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
        if whole is None and feature.kind == "float" and key in self.unpacked:
            self.unpacked[key][row] = feature.count
            whole = 0, 0
        if whole is None:
            what = "values" if feature.kind == "bytes" else "numbers, which are not packed (packed=False lets float_list parse them)"
            self.fail(row, f'"{key}" has {feature.count} {what}, expected one value, or packed numbers')
            return
        begin = int(self.begins[row])
        values.begins[row], values.ends[row] = (begin + whole[0], begin + whole[1]) if feature.count else (0, 0)

    def _in_features(self, entry: Frames) -> tuple[np.ndarray, np.ndarray]:
        """Where the frames begin, and how many there are, of a sequence that is one value or one list of numbers."""
        found = self.values[entry.key]
        self._present(entry.key)
        self._expect(entry.key, {"floats": FLOAT_LIST, "integers": INT64_LIST}.get(entry.form, BYTES_LIST))
        if entry.form == "audio":
            return self.begins, self._samples(entry)
        begins, ends = found.begins, found.ends
        if entry.form == "tensor":
            tensors = contents(self.data, begins, ends, entry.dtype or "", entry.shape or ())
            what = f"a serialized tensor of {entry.dtype} [T, {', '.join(map(str, entry.shape or ()))}]"
            self.refuse(tensors.odd, lambda row: f'"{entry.key}", at byte {begins[row]}, is not {what}, as in the first records')
            begins = tensors.at
        unit, per_frame = ("values", entry.values) if entry.form in ("floats", "integers") else ("bytes", entry.frame_bytes)
        if entry.form == "integers":
            sizes = self._count_integers(entry.key)
        else:
            sizes = (ends - begins) // (4 if entry.form == "floats" else 1)
            for row, count in self.unpacked.get(entry.key, {}).items():
                sizes[row] = count
        expected = f"not a multiple of {per_frame} (d = {' x '.join(map(str, entry.shape or (1,)))}, {entry.dtype})"
        self.refuse(sizes % per_frame != 0, lambda row: f'"{entry.key}", at byte {begins[row]}, has {sizes[row]} {unit}, {expected}')
        frames = sizes // per_frame
        if entry.count_key:
            self._counts(entry, frames)
        return begins, frames

    def _samples(self, entry: Frames) -> np.ndarray:
        """int64: samples of the audio file in each record, as its header says; decoded where it does not."""
        found, counts = self.values[entry.key], np.zeros(len(self.rows), np.int64)
        for row, (begin, end) in enumerate(zip(found.begins.tolist(), found.ends.tolist(), strict=True)):
            try:
                counts[row] = samples_in(self.data[begin:end].tobytes(), f'"{entry.key}"', entry.rate)
            except AudioError as error:
                self.fail(row, str(error).rstrip("."))
        return counts

    def _count_integers(self, key: str) -> np.ndarray:
        """int64: how many values an int64 key has in each record."""
        found, loose = self.values[key], self.loose.get(key, {})
        places = zip(found.begins.tolist(), found.ends.tolist(), strict=True)
        counts = np.array([vectorized.count_varints(self.data[begin:end]) for begin, end in places], np.int64)
        self.refuse(counts < 0, lambda row: f'"{key}", at byte {found.begins[row]}, holds a number that does not end')
        counts[list(loose)] = [len(values) for values in loose.values()]
        return counts

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
        at = vectorized.ranges(np.zeros_like(frames), frames) * stride + np.repeat(span.begins, frames)
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
        values, counts, odd = vectorized.packed_integers(self.data, found.begins, found.ends)
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
        same &= (vectorized.words(data, at + begin) & mask) == np.uint64(int.from_bytes(part, "little"))
    return same
