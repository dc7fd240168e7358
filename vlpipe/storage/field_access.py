"""Where the value of each field is: the one answer for every engine, for single records and for statistics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from vlpipe.storage.schema import Fixed, Schema, Sequence, Text
from vlpipe.storage.stored_frames import Stored


class Location(Enum):
    """Where the value of a field is, and so how it is read."""

    FRAMES = "frames"  # in the record, where the index says: its frames are copied
    ENCODED = "encoded"  # in the record, in an encoding of `Stored.parsed`: parsed when it is read
    TEXT = "text"  # in the record: the index says where its bytes are
    EXAMPLE = "example"  # in the record: the Example has to be parsed to find it
    ROW = "row"  # in the rows of the index
    LIST = "list"  # in the index, beside its rows
    CUSTOM = "custom"  # returned by the user's function


def column(schema: Schema, kind: str, name: str) -> str:
    """Name of the column of the index that has the `kind` ("frames", "start", "value" or "code") of the field `name`."""
    return kind if kind in ("frames", "start") and name == next(iter(schema.sequences)) else f"{kind}:{name}"


@dataclass(frozen=True, eq=False)
class FieldAccess:
    """How to reach the value of one field of an index.

    Attributes:
        name: of the field.
        field: as the schema has it.
        location: where the value is.
        stored: how frames are stored, for a sequence.
        values: int64, the values of all records one after another, for a LIST.
    """

    name: str
    field: Sequence | Fixed | Text
    location: Location
    stored: Stored
    values: np.ndarray
    _columns: dict[str, str]

    @property
    def is_parsed(self) -> bool:
        """Whether a parser or the user's function makes the value, instead of a copy."""
        return self.location in (Location.ENCODED, Location.CUSTOM)

    @property
    def is_counted(self) -> bool:
        """Whether the index has the number of frames, of list values, or of the bytes of a text."""
        return "frames" in self._columns

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """int64 `[n]`: frames, list values or text bytes of each row."""
        return rows[self._columns["frames"]].astype(np.int64)

    def starts(self, rows: np.ndarray) -> np.ndarray:
        """int64 `[n]`: where they start in each row: a byte of the record's data, or for a LIST a position in `values`."""
        return rows[self._columns["start"]].astype(np.int64)

    def row_values(self, rows: np.ndarray) -> np.ndarray:
        """`[n, *shape]`: the values of a ROW field, in its dtype."""
        return np.ascontiguousarray(rows[self._columns["value"]], self.dtype)

    @property
    def sequence(self) -> Sequence:
        """The field, which is a sequence."""
        if not isinstance(self.field, Sequence):
            raise TypeError(f'"{self.name}" is {self.field!r}, which has no frames')
        return self.field

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers of a field that is no text."""
        return np.dtype("S") if isinstance(self.field, Text) else np.dtype(self.field.dtype)


def locate(
    name: str, schema: Schema, columns: tuple[str, ...], stored: dict[str, Stored] | None, lists: dict[str, np.ndarray], *, custom: bool
) -> FieldAccess:
    """The access to a field.

    Args:
        columns: names of the columns of the index.
        stored: how each sequence is stored in third-party files; None: vlpipe wrote the records.
        lists: values of the fields that the index has beside its rows.
        custom: a function of the user returns all fields.
    """
    field, encoding = schema.fields[name], (stored or {}).get(name, Stored())
    present = {kind: column(schema, kind, name) for kind in ("frames", "start", "value") if column(schema, kind, name) in columns}
    if custom:
        location = Location.CUSTOM
    elif name in lists:
        location = Location.LIST
    elif "value" in present:
        location = Location.ROW
    elif isinstance(field, Sequence):
        location = Location.ENCODED if encoding.parsed else Location.FRAMES
    elif isinstance(field, Text) and stored is not None:
        location = Location.TEXT
    else:
        location = Location.EXAMPLE
    return FieldAccess(name, field, location, encoding, lists.get(name, np.zeros(0, np.int64)), present)
