"""NaN and infinities in the values of a record: the one wording of `check_finite`, `on_damage` and `verify(finite=True)`."""

from __future__ import annotations

import numpy as np

from vlpipe.errors import counted
from vlpipe.storage.schema import Fixed, Schema, Sequence

EXPECTED = "finite numbers"
LEAVE_OUT = "Repair the record, or leave it out: source.select(without=vlpipe.verify(source, finite=True))"


def fields_of_floats(schema: Schema) -> list[str]:
    """The fields that may hold a NaN or an infinity."""
    return [name for name, field in schema.fields.items() if isinstance(field, (Sequence, Fixed)) and np.dtype(field.dtype).kind == "f"]


def first_not_finite(values: np.ndarray) -> tuple[int, ...] | None:
    """The place of the first value that is not finite; None: all are."""
    finite = np.isfinite(values)
    return None if finite.all() else tuple(int(place) for place in np.argwhere(~finite)[0])


def place_of(place: tuple[int, ...], *, in_frames: bool) -> str:
    """Words for the place of a value in a field: of a sequence the frame, of a vector the position.

    Example:
        >>> place_of((17, 3), in_frames=True), place_of((3,), in_frames=False), place_of((), in_frames=False)
        (' in frame 17', ' at position 3', '')
    """
    if in_frames:
        return f" in frame {place[0]}"
    return f" at position {', '.join(map(str, place))}" if place else ""


def describe(name: str, values: np.ndarray, *, in_frames: bool) -> str | None:
    """What is found in a field that has a value that is not finite, with the first place; None: all are finite.

    Example:
        >>> describe("features", np.array([[0.0], [np.nan], [np.inf]]), in_frames=True)
        '"features" has nan in frame 1 (2 values are not finite)'
    """
    place = first_not_finite(values)
    if place is None:
        return None
    count = int(values.size - np.isfinite(values).sum())
    verb = "is" if count == 1 else "are"
    return f'"{name}" has {values[place]}{place_of(place, in_frames=in_frames)} ({counted(count, "value")} {verb} not finite)'
