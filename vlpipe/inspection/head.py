"""The first records of a dataset in readable form, read without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import numpy as np

from vlpipe.errors import printable
from vlpipe.sources.open import open_local
from vlpipe.sources.records import Records
from vlpipe.storage.paths import Source
from vlpipe.text_tables import WIDE, columns, text

_FIRST_VALUES = 6
_FIRST_BYTES = 64
_MAX_LETTERS = 200

_Number = int | float | None


@dataclass(frozen=True)
class FieldView:
    """The value of one field of a record.

    Attributes:
        dtype: dtype of the numbers; "text" for UTF-8 text, "bytes" for other bytes.
        shape: `(T, *shape)` of a sequence, the shape of a fixed value, the number of bytes; () for text.
        first: the first numbers; None in place of a number that is not finite.
        min, max, mean: statistics of the finite numbers; None if there are none.
        not_finite: number of values that are not finite.
        text: the text, or the first bytes with escapes; None for numbers.
    """

    dtype: str
    shape: tuple[int, ...]
    first: tuple[_Number, ...]
    min: _Number
    max: _Number
    mean: _Number
    not_finite: int
    text: str | None = None


@dataclass(frozen=True)
class RecordView:
    """A record: its id, its shard, number and byte offset in the shard, its bytes of data, and its fields by name."""

    id: int
    shard: str
    record: int
    offset: int
    bytes: int
    fields: dict[str, FieldView]

    def report(self) -> str:
        """The record as a table: a heading, then one line for each field."""
        rows = [(name, _format_shape(view), _format_values(view)) for name, view in self.fields.items()]
        where = f"record {self.id}: {printable(self.shard)}, record {self.record} at byte {self.offset}, {self.bytes:,} bytes"
        return f"{where}\n{indent(text(columns('', '', '', rows=rows, most=len(rows)), width=WIDE).lstrip(), '  ')}"


def first_records(source: Source, count: int, layout: Any = None) -> Iterator[RecordView]:
    """Yield the first records of a source, in the order in which they were written.

    Args:
        source, layout: as for `make_dataset`; the source must be on a local file system.
        count: maximum number of records.

    Raises:
        ArgumentError: the source is an address.
        DatasetError: the source is not a dataset, or a record is damaged; the message names the record.
    """
    index = open_local(source, layout)
    numbers = index.numbers()
    with Records(index) as records:
        for row in range(min(count, len(index))):
            entry = index.rows[row]
            shard = index.shards[int(entry["shard"])].name
            fields = {name: _view(value) for name, value in records.values(row).items()}
            yield RecordView(int(index.ids[row]), shard, int(numbers[row]), int(entry["offset"]), int(entry["bytes"]), fields)


def _view(value: np.ndarray | bytes) -> FieldView:
    if isinstance(value, bytes):
        try:
            return FieldView("text", (), (), None, None, None, 0, value.decode("utf-8"))
        except UnicodeDecodeError:  # third-party records may hold any bytes
            escaped = value[:_FIRST_BYTES].decode("ascii", "backslashreplace")
            return FieldView("bytes", (len(value),), (), None, None, None, 0, f"{escaped}…" if len(value) > _FIRST_BYTES else escaped)
    flat = value.reshape(-1)
    finite = flat[np.isfinite(flat)]
    first = tuple(number if np.isfinite(number) else None for number in flat[:_FIRST_VALUES].tolist())
    low, high, mean = (finite.min().item(), finite.max().item(), float(finite.mean(dtype=np.float64))) if len(finite) else (None,) * 3
    return FieldView(value.dtype.name, value.shape, first, low, high, mean, len(flat) - len(finite))


def _format_shape(view: FieldView) -> str:
    return f"{list(view.shape)} {view.dtype}" if view.shape else view.dtype


def _format_values(view: FieldView) -> str:
    if view.dtype == "bytes":
        return printable(view.text or "")
    if view.text is not None:
        return repr(view.text if len(view.text) <= _MAX_LETTERS else f"{view.text[:_MAX_LETTERS]}…")
    first = " ".join("not finite" if number is None else _format_number(number) for number in view.first)
    if not view.shape:
        return first
    size = int(np.prod(view.shape, dtype=np.int64))
    more = " …" if size > len(view.first) else ""
    not_finite = f", {view.not_finite:,} not finite" if view.not_finite else ""
    statistics = [
        f"{heading} {_format_number(number)}" for heading in ("min", "max", "mean") if (number := getattr(view, heading)) is not None
    ]
    return f"{first}{more}  ({', '.join(statistics)}{not_finite})" if size else "no frames"


def _format_number(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.4g}"
