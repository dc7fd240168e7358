"""Fields of serialized Examples that no index locates, in NumPy: what `storage.example.parse_batch` makes of them in the graph.

Records with the usual encoding are read together (`protobuf/vectorized.py`), the others one by one (`protobuf/wire.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from vlpipe.protobuf import wire
from vlpipe.protobuf.vectorized import BYTES_LIST, FLOAT_LIST, INT64_LIST, Payloads, entries, messages, packed_integers, payloads, ranges
from vlpipe.storage.schema import Fixed, Schema


class ExampleError(ValueError):
    """A record is no Example that fits the schema.

    Attributes:
        row: its position among the records.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


def example_values(schema: Schema, names: Iterable[str], records: Sequence[bytes]) -> dict[str, np.ndarray]:
    """The named fields of serialized Examples.

    Args:
        schema: the schema that the records were written with.
        names: the fields to read; the others are skipped.

    Returns:
        An array per name: `[B, *shape]` of the schema's dtype for a Fixed, bytes (object `[B]`) for a Text or a Sequence.

    Raises:
        ExampleError: a record does not fit the schema.
    """
    names = list(names)
    ends = np.cumsum([len(record) for record in records], dtype=np.int64)
    data = np.frombuffer(b"".join(records), np.uint8)
    features, _ = messages(data, np.concatenate([[0], ends[:-1]]).astype(np.int64), ends)
    spans = entries(data, features, names)
    return {name: _values(name, schema.fields[name], payloads(data, spans[name]), data, records) for name in names}


def _values(name: str, field: object, found: Payloads, data: np.ndarray, records: Sequence[bytes]) -> np.ndarray:
    if not isinstance(field, Fixed):
        texts = np.empty(len(records), object)
        regular = ~found.irregular & (found.tags == BYTES_LIST) & (found.ends > found.begins)
        for row, record in enumerate(records):
            inside = data[found.begins[row] : found.ends[row]].tobytes()
            texts[row] = inside if regular[row] else _single(name, record, row)
        return texts
    is_float, count = np.dtype(field.dtype).kind == "f", math.prod(field.dimensions)
    values = np.empty((len(records), count), np.float32 if is_float else np.int64)
    regular = _fill(values, found, data, is_float=is_float)
    for row in np.flatnonzero(~regular).tolist():
        values[row] = _numbers(name, records[row], row, is_float=is_float, count=count)
    with np.errstate(over="ignore"):
        return values.astype(field.dtype).reshape(-1, *field.dimensions)


def _fill(values: np.ndarray, found: Payloads, data: np.ndarray, *, is_float: bool) -> np.ndarray:
    """Fill the rows (`[B, count]`) of the records with the usual encoding; bool `[B]`: which these are."""
    count = values.shape[1]
    regular = ~found.irregular & (found.tags == (FLOAT_LIST if is_float else INT64_LIST))
    if is_float:
        regular &= found.ends - found.begins == 4 * count
        rows = np.flatnonzero(regular)
        values[rows] = data[ranges(found.begins[rows], np.full(len(rows), 4 * count))].view("<f4").reshape(-1, count)
        return regular
    rows = np.flatnonzero(regular)
    numbers, counts, irregular = packed_integers(data, found.begins[rows], found.ends[rows])
    good = (counts == count) & ~irregular & ~irregular.any()  # of irregular ones the counts mean nothing
    values[rows[good]] = numbers[np.repeat(good, counts)].reshape(-1, count) if good.any() else 0
    regular[rows[~good]] = False
    return regular


def _feature(name: str, record: bytes, row: int) -> wire.Feature:
    try:
        return wire.walk(record).features.get(name, wire.Feature())
    except wire.WireError as error:
        raise ExampleError(row, f"byte {error.at} of the data: found {error}, expected a serialized Example") from error


def _single(name: str, record: bytes, row: int) -> bytes:
    """The one bytes value of a key of one record."""
    feature = _feature(name, record, row)
    if feature.kind != "bytes" or feature.count != 1:
        raise ExampleError(row, _misfit(name, feature, "1 bytes value"))
    begin, end = feature.ranges[0]
    return record[begin:end]


def _numbers(name: str, record: bytes, row: int, *, is_float: bool, count: int) -> np.ndarray:
    """The numbers of a key of one record."""
    feature, kind = _feature(name, record, row), "float" if is_float else "int64"
    if feature.kind != kind or feature.count != count:
        raise ExampleError(row, _misfit(name, feature, f"{count} {kind} values"))
    if is_float:
        return np.frombuffer(b"".join(record[begin:end] for begin, end in feature.ranges), "<f4")
    return np.array(wire.integers(record, feature), np.int64)


def _misfit(name: str, feature: wire.Feature, expected: str) -> str:
    found = f"{feature.count} {feature.kind} values" if feature.kind else "no values"
    return f'"{name}" has {found}, expected {expected}'
