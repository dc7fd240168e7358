"""Some records of a third-party file, read together: the position of the values of each key.

Records with the usual encoding are read as arrays (`protobuf.vectorized`), all other records one by one (`protobuf.wire`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.tfrecord import HEADER_BYTES, masked_crc
from vlpipe.layouts.base import Layout
from vlpipe.protobuf import vectorized
from vlpipe.protobuf.vectorized import BYTES_LIST, FLOAT_LIST, INT64_LIST, NewKeys, Payloads, Spans
from vlpipe.protobuf.wire import Feature, Message, WireError, integers, is_plain, walk

_TAGS = {"": 0, "bytes": BYTES_LIST, "float": FLOAT_LIST, "int64": INT64_LIST}
_PARSED_BY_TENSORFLOW = ("integers", "floats")  # the engines leave these to TensorFlow's own parser
_KINDS = {tag: kind or "empty" for kind, tag in _TAGS.items()}
_PASS_ANOTHER = (
    "Pass the layout of these records (vlpipe inspect FILE shows their content; LAYOUT.only() ignores all keys that are not needed), or "
    "leave the file out."
)


class MisfitError(DatasetError):
    """Records do not match the layout; the message names the first of them.

    Attributes:
        records: the numbers of all records that fail the same check.
        found: a function from the number of a record to its actual content, as text.
        action: what to do next.
    """

    def __init__(self, where: str, records: list[int], found: Callable[[int], str], action: str = _PASS_ANOTHER) -> None:
        super().__init__(f"{where}: {found(records[0])}. {action}")
        self.records, self.found, self.action = records, found, action


class Chunk:
    """Some records of a file and the position of their values.

    Args:
        data: uint8, the file.
        name: the name of the file, for errors.
        layout: a complete layout.
        rows: the rows of the file; those of the chunk have `offset`, `bytes` and `checksum`.
        first: the number of the first record of the chunk.
        end: the number after that of its last record.
        others: is told of the keys that the layout does not have, each with the number of its first record.

    Attributes:
        rows: the rows of the chunk.
        begins, ends: int64 `[records]`, the position of each record.
        present: by key, bool `[records]`, whether a record has the feature.
        payloads: by key, the values of the feature.
        spans: by key, the position of the feature list.
        single_integers: by key and row, the values of int64 features that are not packed as one run; `payloads` has no values for them.
        single_floats: by key and row, the number of unpacked floats, if the layout allows these; `payloads` has no values for them.

    Raises:
        MisfitError: a record is not an Example, or has an encoding that is not supported.
    """

    def __init__(
        self, data: np.ndarray, name: str, layout: Layout, rows: np.ndarray, first: int, end: int, others: dict[str, int] | None = None
    ) -> None:
        self.data, self.name, self.layout, self.first = data, name, layout, first
        self.rows = rows[first:end]
        self.begins = self.rows["offset"].astype(np.int64) + HEADER_BYTES
        self.ends = self.begins + self.rows["bytes"]
        self.single_integers: dict[str, dict[int, list[int]]] = {}
        self.single_floats: dict[str, dict[int, int]] = {entry.key: {} for entry in layout.sequences if not entry.packed}
        count_keys = [entry.count_key for entry in layout.frames if entry.count_key]
        list_keys = [entry.key for entry in layout.sequences if entry.in_list]
        keys = dict.fromkeys([*(key for key in layout.keys if key not in list_keys), *count_keys])
        self._new = NewKeys(keys), NewKeys(list_keys)
        context, lists = vectorized.messages(data, self.begins, self.ends)
        features = vectorized.entries(data, context, keys, self._new[0])
        self.present = {key: span.begins >= 0 for key, span in features.items()}
        self.payloads = {key: vectorized.payloads(data, span) for key, span in features.items()}
        self.spans = vectorized.entries(data, lists, list_keys, self._new[1])
        self._read_irregular([context, *self.spans.values(), *self.payloads.values()])
        for key, row in ((key, row) for new in self._new for key, row in new.first.items()):
            if others is not None:
                others[key] = min(first + row, others.get(key, first + row))

    def integers(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the int64 values of a key, one record after another, and the number of values of each record."""
        self.expect_kind(key, INT64_LIST)
        payloads = self.payloads[key]
        values, counts, irregular = vectorized.packed_integers(self.data, payloads.begins, payloads.ends)
        self.refuse(irregular, lambda row: f'"{key}", at byte {payloads.begins[row]}, holds an endless varint')
        single = self.single_integers.get(key)
        if single:
            rows = np.array(sorted(single))
            sizes = np.array([len(single[row]) for row in rows])
            before = np.cumsum(counts)[rows]
            values = np.insert(values, np.repeat(before, sizes), np.concatenate([np.array(single[row], np.int64) for row in rows]))
            counts[rows] = sizes
        return values, counts

    def count_integers(self, key: str) -> np.ndarray:
        """Return the number of values of an int64 key in each record, int64 `[records]`, without decoding them."""
        payloads, single = self.payloads[key], self.single_integers.get(key, {})
        spans = zip(payloads.begins.tolist(), payloads.ends.tolist(), strict=True)
        counts = np.array([vectorized.count_varints(self.data[begin:end]) for begin, end in spans], np.int64)
        self.refuse(counts < 0, lambda row: f'"{key}", at byte {payloads.begins[row]}, holds frames with an endless varint')
        counts[list(single)] = [len(values) for values in single.values()]
        return counts

    def expect_present(self, key: str) -> None:
        """Refuse records without the feature."""
        self.refuse(~self.present[key], lambda row: f'has no feature "{key}"')

    def expect_kind(self, key: str, tag: int) -> None:
        """Refuse records whose feature has values of another kind."""
        tags = self.payloads[key].tags
        self.refuse(
            (tags != tag) & (tags != 0), lambda row: f'"{key}" holds values of kind {_KINDS[int(tags[row])]}, expected {_KINDS[tag]}'
        )

    def refuse(self, mask: np.ndarray, text: Callable[[int], str]) -> None:
        """Raise an error for the records of a bool mask `[records]`, if there are any.

        Args:
            mask: the records.
            text: a function from the row of a record to its problem.

        Raises:
            MisfitError: there are such records.
            DatasetError: the data of the first of them are damaged.
        """
        if mask.any():
            self._raise(np.flatnonzero(mask).tolist(), text)

    def fail(self, row: int, text: str) -> None:
        """Raise an error for one record.

        Raises:
            DatasetError: always.
        """
        self._raise([row], lambda _: text)

    def _raise(self, rows: list[int], text: Callable[[int], str]) -> None:
        """Raise an error that names the first record; if its data are damaged, the error says so instead."""
        row, entry = rows[0], self.rows[rows[0]]
        where = f"{self.name}, record {self.first + row} at byte {entry['offset']}"
        checksum = masked_crc(self.data[self.begins[row] : self.ends[row]].tobytes())
        if checksum != entry["checksum"]:
            raise DatasetError(
                f"{where}: the checksum of its {entry['bytes']} bytes of data is {checksum:08x}, but the file specifies "
                f"{entry['checksum']:08x}; the file is damaged. Restore it from a copy."
            )
        raise MisfitError(where, [self.first + row for row in rows], lambda record: text(record - self.first))

    def _read_irregular(self, parts: list[Spans | Payloads]) -> None:
        """Read the irregular records one by one."""
        irregular = np.zeros(len(self.rows), bool)
        for part in parts:
            irregular |= part.irregular
        for row in np.flatnonzero(irregular).tolist():
            begin = int(self.begins[row])
            record = self.data[begin : self.ends[row]].tobytes()
            try:
                message = walk(record)
                for key in self.payloads:
                    self._set_payload(row, key, message.features.get(key), record)
                self._note_new(row, message)
                parsed = [entry.key for entry in self.layout.sequences if entry.parsed in _PARSED_BY_TENSORFLOW]
                unsupported = [key for key in parsed if not is_plain(record, key)]
            except WireError as error:
                self.fail(row, f"neither a tf.train.Example nor a SequenceExample: byte {begin + error.at} of the file has {error}")
            if unsupported:
                self.fail(
                    row, f'"{unsupported[0]}" is encoded in several parts, or in another way that TensorFlow does not parse correctly'
                )
            for key, span in self.spans.items():
                first, last = message.spans.get(key, (-1 - begin, -1 - begin))
                span.begins[row], span.ends[row] = begin + first, begin + last

    def _note_new(self, row: int, message: Message) -> None:
        """Note the keys of an irregular record that the layout does not have."""
        for new, keys in ((self._new[0], set(message.features) - set(self.payloads)), (self._new[1], set(message.lists) - set(self.spans))):
            for key in keys:
                new.add_name(key, row)

    def _set_payload(self, row: int, key: str, feature: Feature | None, record: bytes) -> None:
        """Store the values of a feature of an irregular record."""
        payloads = self.payloads[key]
        self.present[key][row] = feature is not None
        feature = feature or Feature()
        payloads.tags[row] = _TAGS[feature.kind]
        whole = feature.whole
        if whole is None and feature.kind == "int64":
            self.single_integers.setdefault(key, {})[row] = integers(record, feature)
            whole = 0, 0
        if whole is None and feature.kind == "float" and key in self.single_floats:
            self.single_floats[key][row] = feature.count
            whole = 0, 0
        if whole is None:
            values = "values" if feature.kind == "bytes" else "unpacked numbers (packed=False lets float_list parse them)"
            self.fail(row, f'"{key}" has {feature.count} {values}, expected one value, or packed numbers')
            return
        begin = int(self.begins[row])
        payloads.begins[row], payloads.ends[row] = (begin + whole[0], begin + whole[1]) if feature.count else (0, 0)
