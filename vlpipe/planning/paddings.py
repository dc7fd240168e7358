"""What each part of a batch is padded with: the one answer for all engines and for the builders.

feature       `padding_value`, or its value for this name
label         `label_padding`, or its value for this name
weight        0
bool          False, unless its name has a value
text          the empty string
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError
from vlpipe.storage.schema import Sequence

Value = int | float | str

DEFAULTS: dict[str, int | float] = {"padding_value": 0.0, "label_padding": -1}
KINDS = {"padding_value": "features", "label_padding": "labels"}
# The greatest finite number of the dtypes that hold fractions; a complex number is padded by its real part.
GREATEST = {
    "bfloat16": (2 - 2**-7) * 2.0**127,
    **{name: float(np.finfo(name).max) for name in ("float16", "float32", "float64", "complex64", "complex128")},
}
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Part:
    """A part of a batch, as far as its padding goes.

    Attributes:
        name: by which the user knows it.
        option: which pads it, "padding_value" or "label_padding"; None: it is a weight.
        dtype: name of the delivered dtype.
        varies: whether its length differs between records, so that it is padded.
    """

    name: str
    option: str | None
    dtype: str
    varies: bool = True


@dataclass(frozen=True)
class Paddings:
    """The padding of every part of a flat batch by its name there, such as "x:features": a number that its dtype can hold, or a text."""

    values: Mapping[str, Value]

    def of(self, name: str) -> Value:
        """The padding of a part; 0 for those that come beside features and labels (lengths, ids), which are never padded."""
        return self.values.get(name, 0)

    def number(self, name: str) -> int | float:
        """The padding of a part that holds numbers."""
        value = self.of(name)
        if isinstance(value, str):
            raise TypeError(f'"{name}" is padded with {value!r}, not with a number')
        return value


def paddings(parts: Mapping[str, Part], *, padding_value: Any, label_padding: Any) -> Paddings:
    """The paddings of these parts.

    Args:
        parts: by their names in a flat batch.
        padding_value, label_padding: a number for all, or numbers by name; a part without one gets the default.

    Raises:
        ArgumentError: a name is not delivered, or a dtype cannot hold its padding.
    """
    options = {"padding_value": padding_value, "label_padding": label_padding}
    for option, given in options.items():
        delivered = [part.name for part in parts.values() if part.option == option]
        unknown = [name for name in given if name not in delivered] if isinstance(given, Mapping) else []
        if unknown:
            raise ArgumentError(f"{option}: names {unknown}, but the {KINDS[option]} that are delivered are {delivered}. Name only these.")
    return Paddings({name: _padding(part, options) for name, part in parts.items()})


def _padding(part: Part, options: Mapping[str, Any]) -> Value:
    is_text = part.dtype == "string"
    given = None if part.option is None else options[part.option]
    named = isinstance(given, Mapping) and part.name in given
    if part.option is None or (not named and (is_text or part.dtype == "bool" or not part.varies)):
        return "" if is_text else 0
    if isinstance(given, Mapping):
        given = given.get(part.name, DEFAULTS[part.option])
    value = fitting(given, part.dtype)
    if value is None:
        advice = (
            "Leave the name out: texts are padded with ''" if is_text else f'Pass another value, such as {part.option}={{"{part.name}": 0}}'
        )
        raise ArgumentError(f'{part.option}: is {given!r}, which "{part.name}" of dtype {part.dtype} cannot hold. {advice}.')
    return value


def fitting(value: Any, dtype: str) -> int | float | None:
    """A number as a Python number of the kind of a dtype; None where the dtype cannot hold it (fractions are rounded, as always)."""
    value = value.item() if isinstance(value, np.generic) else value  # Python compares numbers of any size exactly
    if dtype == "bool":
        return int(value) if value in (0, 1) else None
    if isinstance(value, bool):
        return None
    if dtype in GREATEST:
        most = GREATEST[dtype]
        return float(value) if value in (math.inf, -math.inf) or value != value or -most <= value <= most else None
    if dtype in _INTEGERS:
        limits = np.iinfo(dtype)
        return int(value) if value == value // 1 and limits.min <= value <= limits.max else None
    return None


def label_dtype(field: Sequence) -> str:
    """The dtype in which a label of varying length is delivered: int64 for integers, as CTC wants them."""
    return "int64" if np.dtype(field.dtype).kind in "iu" else field.dtype


def checked_padding(value: Any, dtype: str | None) -> int | float | dict[str, int | float]:
    """Return `padding_value`, a number or numbers by name, as `dtype` holds it; None: the dtypes of the features are not known yet.

    Raises:
        ArgumentError: it is neither, or the dtype cannot hold a value.
    """
    if isinstance(value, Mapping):
        return {name: _checked_number(f"padding_value[{name!r}]", number, dtype) for name, number in _named("padding_value", value)}
    if isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"padding_value: came as {value!r}, expected a number, or numbers by the name of the feature.")
    return _checked_number("padding_value", value, dtype)


def checked_label_padding(value: Any) -> int | dict[str, int | float]:
    """Return `label_padding`, an integer or numbers by name.

    Raises:
        ArgumentError: it is neither.
    """
    if isinstance(value, Mapping):
        return {name: _checked_number(f"label_padding[{name!r}]", number, None) for name, number in _named("label_padding", value)}
    return integer("label_padding", value, -(2**63))


def _named(option: str, values: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    if not all(isinstance(name, str) for name in values):
        raise ArgumentError(
            f'{option}: came with the names {list(values)}, expected the names of {KINDS[option]}, such as {{"{KINDS[option][:-1]}": 0}}.'
        )
    return values.items()


def _checked_number(where: str, value: Any, dtype: str | None) -> int | float:
    if not isinstance(value, (bool, np.bool_, int, float, np.integer, np.floating)):
        raise ArgumentError(f"{where}: came as {value!r}, expected an integer or a float.")
    if dtype is None:
        return value.item() if isinstance(value, np.generic) else value
    fits = fitting(value, dtype)
    if fits is None:
        raise ArgumentError(f"{where}: came as {value!r}, which dtype={dtype!r} cannot hold.")
    return fits
