"""The first records of a dataset, for the eye; read without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import numpy as np

from vlpipe.sources.open import open_local
from vlpipe.sources.records import Records
from vlpipe.storage.paths import Source
from vlpipe.text_tables import WIDE, columns, printable, text

_FIRST_VALUES = 6
_FIRST_BYTES = 64

Number = int | float | None


@dataclass(frozen=True)
class FieldView:
    """What one field of a record holds.

    Attributes:
        dtype: of the numbers; "text" for a text, "bytes" for one that is no UTF-8.
        shape: `[T, *shape]` of a sequence, the shape of a fixed value, how many bytes.
        first: its first numbers; None for one that is not finite.
        min, max, mean: of all that are finite; None if none is.
        not_finite: how many are not.
        text: the text itself, or the first of the bytes with escapes; None for numbers.
    """

    dtype: str
    shape: tuple[int, ...]
    first: tuple[Number, ...]
    min: Number
    max: Number
    mean: Number
    not_finite: int
    text: str | None = None


@dataclass(frozen=True)
class RecordView:
    """A record: its id, where it stands, its bytes of data, its fields by name."""

    id: int
    shard: str
    record: int
    offset: int
    bytes: int
    fields: dict[str, FieldView]

    def report(self) -> str:
        """The record as a table: a line of what it is, then a line a field."""
        rows = [(name, _shape_of(view), _values_of(view)) for name, view in self.fields.items()]
        where = f"record {self.id}: {printable(self.shard)}, record {self.record} at byte {self.offset}, {self.bytes:,} bytes"
        return f"{where}\n{indent(text(columns('', '', '', rows=rows, most=len(rows)), width=WIDE).lstrip(), '  ')}"


def first_records(source: Source, count: int, layout: Any = None) -> Iterator[RecordView]:
    """The first records in the order in which they were written, at most so many.

    Args:
        source, layout: as for `make_dataset`; a source on a local file system.

    Raises:
        DatasetError: the source is no dataset, or a record is damaged; the message names it.
    """
    index = open_local(source, layout)
    order = index.by_shard()
    shards = index.rows["shard"][order]
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) - np.searchsorted(shards, shards)
    with Records(index) as records:
        for row in range(min(count, len(index))):
            entry = index.rows[row]
            shard = index.shards[int(entry["shard"])].name
            fields = {name: _view(value) for name, value in records.values(row).items()}
            yield RecordView(int(index.ids[row]), shard, int(places[row]), int(entry["offset"]), int(entry["bytes"]), fields)


def _view(value: np.ndarray | bytes) -> FieldView:
    if isinstance(value, bytes):
        try:
            return FieldView("text", (), (), None, None, None, 0, value.decode("utf-8"))
        except UnicodeDecodeError:  # others put anything there
            shown = value[:_FIRST_BYTES].decode("ascii", "backslashreplace")
            return FieldView("bytes", (len(value),), (), None, None, None, 0, f"{shown}…" if len(value) > _FIRST_BYTES else shown)
    flat = value.reshape(-1)
    finite = flat[np.isfinite(flat)]
    first = tuple(number if np.isfinite(number) else None for number in flat[:_FIRST_VALUES].tolist())
    least, most, mean = (finite.min().item(), finite.max().item(), float(finite.mean(dtype=np.float64))) if len(finite) else (None,) * 3
    return FieldView(value.dtype.name, value.shape, first, least, most, mean, len(flat) - len(finite))


_MAX_LETTERS = 200


def _shape_of(view: FieldView) -> str:
    return f"{list(view.shape)} {view.dtype}" if view.shape else view.dtype


def _values_of(view: FieldView) -> str:
    if view.dtype == "bytes":
        return printable(view.text or "")
    if view.text is not None:
        return repr(view.text if len(view.text) <= _MAX_LETTERS else f"{view.text[:_MAX_LETTERS]}…")
    shown = " ".join("not finite" if number is None else _short(number) for number in view.first)
    if not view.shape:
        return shown
    size = int(np.prod(view.shape, dtype=np.int64))
    more = " …" if size > len(view.first) else ""
    lost = f", {view.not_finite:,} not finite" if view.not_finite else ""
    extremes = [f"{heading} {_short(number)}" for heading in ("min", "max", "mean") if (number := getattr(view, heading)) is not None]
    return f"{shown}{more}  ({', '.join(extremes)}{lost})" if size else "no frames"


def _short(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.4g}"
