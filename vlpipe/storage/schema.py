"""What a record holds: named fields, each a sequence, a fixed-size array, or a text.

A `Schema` is written into the metadata of a dataset and is the contract between the one who writes records and
the one who reads them: a record that does not fit it exactly is refused, never converted in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError

Record = Mapping[str, Any]

SEQUENCE_DTYPES = ("float32", "float16", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64")
FIXED_DTYPES = ("int64", "int32", "int16", "int8", "uint8", "uint16", "float32", "float16")


MAX_FRAME_BYTES = 2**31 - 1  # a record may not be larger
MAX_AXES = 30  # NumPy 1 has arrays of at most 32; two are for the batch and the frames


def _shape(shape: Any, dtype: str, kind: str) -> tuple[int, ...]:
    dimensions = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape) if isinstance(shape, (tuple, list)) else (None,)
    if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1 for n in dimensions):
        raise SchemaError(f"{kind}: shape is {shape!r}, expected an integer >= 1 or a tuple of them, such as 80 or ().")
    if len(dimensions) > MAX_AXES or math.prod(map(int, dimensions)) * np.dtype(dtype).itemsize > MAX_FRAME_BYTES:
        raise SchemaError(f"{kind}: shape is {shape!r} of {dtype}, expected at most {MAX_AXES} axes and {MAX_FRAME_BYTES} bytes.")
    return tuple(int(n) for n in dimensions)


def _dtype(dtype: Any, allowed: tuple[str, ...], kind: str) -> str:
    try:
        name = str(dtype) if dtype is None else np.dtype(dtype).name  # NumPy would take None for float64
    except (TypeError, ValueError, SyntaxError):
        name = str(dtype)
    if name not in allowed:
        raise SchemaError(f"{kind}: dtype is {name!r}, expected one of {', '.join(allowed)}.")
    return name


@dataclass(frozen=True)
class Sequence:
    """A sequence of frames `[T, *shape]`, with a length T >= 0 of its own in every record.

    Stored as one bytes value: C order, little-endian, so that it is read by a copy and not parsed.

    Args:
        shape: shape of one frame: `80` or `(80,)` for features `[T, 80]`, `()` for a list of numbers `[U]`.
        dtype: type of the numbers on disk; what is written must have exactly this type.
    """

    shape: int | tuple[int, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _dtype(self.dtype, SEQUENCE_DTYPES, "Sequence"))
        object.__setattr__(self, "shape", _shape(self.shape, self.dtype, "Sequence"))

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Shape of one frame, always as a tuple."""
        return self.shape if isinstance(self.shape, tuple) else (self.shape,)

    @property
    def frame_bytes(self) -> int:
        """Bytes that one frame takes on disk."""
        return math.prod(self.dimensions) * np.dtype(self.dtype).itemsize

    def check(self, value: Any) -> np.ndarray:
        """The value as a contiguous little-endian array, or a `ValueError` that says what is wrong with it."""
        expected = ", ".join(["T", *map(str, self.dimensions)])
        array = _as_array(value, f"the schema says [{expected}]")
        if not hasattr(value, "dtype") and array.dtype.kind in "iuf":
            array = _from_python(array, self.dtype)
        if array.dtype.name != self.dtype:
            raise ValueError(f'dtype {array.dtype.name}, the schema says {self.dtype}; convert it with .astype("{self.dtype}")')
        if array.ndim == 0 or array.shape[1:] != self.dimensions:
            raise ValueError(f"shape {list(array.shape)}, the schema says [{expected}]")
        return np.ascontiguousarray(array, dtype=np.dtype(self.dtype).newbyteorder("<"))


@dataclass(frozen=True)
class Fixed:
    """A value of the same shape in every record: a class number `()`, a multi-hot vector `(527,)`.

    Stored as an ordinary Int64List or FloatList.

    Args:
        shape: shape of the value, `()` for a scalar.
        dtype: type that the value is delivered in. No float64: a FloatList would round it.
    """

    shape: int | tuple[int, ...] = ()
    dtype: str = "int64"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _dtype(self.dtype, FIXED_DTYPES, "Fixed"))
        object.__setattr__(self, "shape", _shape(self.shape, self.dtype, "Fixed"))

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Shape of the value, always as a tuple."""
        return self.shape if isinstance(self.shape, tuple) else (self.shape,)

    def check(self, value: Any) -> np.ndarray:
        """The value as an array of the schema's dtype, or a `ValueError` that says what is wrong with it."""
        array = _as_array(value, f"the schema says {list(self.dimensions)}")
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{_describe(value)}, the schema says {self.dtype}; give a number or an array of numbers")
        if not hasattr(value, "dtype") or isinstance(value, np.generic):
            array = _from_python(array, self.dtype)
        same_kind = (array.dtype.kind == "f") == (np.dtype(self.dtype).kind == "f")
        if not same_kind or not np.can_cast(array.dtype, self.dtype, "safe"):
            raise ValueError(f'dtype {array.dtype.name}, the schema says {self.dtype}; convert it with .astype("{self.dtype}")')
        if array.shape != self.dimensions:
            raise ValueError(f"shape {list(array.shape)}, the schema says {list(self.dimensions)}")
        return np.ascontiguousarray(array.astype(self.dtype)).reshape(self.dimensions)


@dataclass(frozen=True)
class Text:
    """A string, stored as one UTF-8 bytes value."""

    def check(self, value: Any) -> bytes:
        """The value in UTF-8, or a `ValueError` that says what is wrong with it."""
        if not isinstance(value, str):
            raise ValueError(f"{_describe(value)}, the schema says a text; give a str")
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"a text that UTF-8 cannot express ({error.reason} at character {error.start})") from error


Field = Sequence | Fixed | Text
_KINDS: dict[str, type[Field]] = {"sequence": Sequence, "fixed": Fixed, "text": Text}


class Schema:
    """The named fields of a record; at least one is a `Sequence`. Immutable.

    Example:
        >>> Schema(features=Sequence(80), label=Fixed((), "int64"))
        Schema(features=Sequence(shape=(80,), dtype='float32'), label=Fixed(shape=(), dtype='int64'))

    Raises:
        SchemaError: no field is a `Sequence`, or a field is something else than a `Sequence`, `Fixed` or `Text`.
    """

    __slots__ = ("_fields",)

    def __init__(self, /, **fields: Field) -> None:  # positional only: a field may be called "self"
        for name, field in fields.items():
            if not isinstance(field, (Sequence, Fixed, Text)):
                raise SchemaError(f'Schema: "{name}" is {_describe(field)}, expected a vlpipe.Sequence, vlpipe.Fixed or vlpipe.Text.')
            if not name or not name.isprintable():
                raise SchemaError(f"Schema: the name {name!r} is empty or not printable; name each field with printable characters.")
        if not any(isinstance(field, Sequence) for field in fields.values()):
            raise SchemaError(f"Schema: no field of {sorted(fields)} is a vlpipe.Sequence; a record needs at least one sequence of frames.")
        self._fields = dict(fields)

    @property
    def fields(self) -> dict[str, Field]:
        """The fields by name, in the order they were given."""
        return dict(self._fields)

    @property
    def sequences(self) -> dict[str, Sequence]:
        """The fields that are sequences; the first is the one whose frames an index calls `frames`."""
        return {name: field for name, field in self._fields.items() if isinstance(field, Sequence)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and list(self._fields.items()) == list(other._fields.items())

    def __hash__(self) -> int:
        return hash(tuple(self._fields.items()))

    def __repr__(self) -> str:
        return f"Schema({', '.join(f'{name}={field!r}' for name, field in self._fields.items())})"

    def check(self, record: Record, where: str = "record") -> dict[str, np.ndarray | bytes]:
        """The record's values as they are stored, in the order of the schema.

        Args:
            record: the values by field name; nothing missing, nothing more.
            where: what to call the record in an error, such as `"data/train, record 17"`.

        Raises:
            SchemaError: a field is missing, unknown, or has another dtype or shape than the schema says.
        """
        if not isinstance(record, Mapping):
            raise SchemaError(f"{where}: came as {_describe(record)}, expected a dict of {sorted(self._fields)}.")
        missing = [name for name in self._fields if name not in record]
        unknown = [str(name) for name in record if name not in self._fields]
        if missing or unknown:
            wrong = [f"{what} {names}" for what, names in (("lacks", missing), ("has unknown", unknown)) if names]
            raise SchemaError(f"{where}: {' and '.join(wrong)}; the schema has {list(self._fields)}. Write exactly these fields.")
        values: dict[str, np.ndarray | bytes] = {}
        for name, field in self._fields.items():
            try:
                values[name] = field.check(record[name])
            except ValueError as error:
                raise SchemaError(f'{where}: "{name}" has {error}.') from error
        return values

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The schema as a dict of JSON values; `from_json` gives it back."""
        document: dict[str, dict[str, Any]] = {}
        for name, field in self._fields.items():
            kind = type(field).__name__.lower()
            document[name] = {"kind": kind}
            if not isinstance(field, Text):
                document[name] |= {"shape": list(field.dimensions), "dtype": field.dtype}
        return document

    @classmethod
    def from_json(cls, document: Any) -> Schema:
        """The schema that `to_json` described.

        Raises:
            SchemaError: the document is not such a description.
        """
        if not isinstance(document, dict):
            raise SchemaError(f"schema: found {_describe(document)}, expected an object of fields.")
        fields: dict[str, Field] = {}
        for name, entry in document.items():
            kind = _KINDS.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
            if kind is None:
                raise SchemaError(f'schema: "{name}" is {entry!r}, expected an object with "kind" one of {", ".join(_KINDS)}.')
            arguments = {key: value for key, value in entry.items() if key != "kind"}
            if set(arguments) != (set() if kind is Text else {"shape", "dtype"}) or not isinstance(arguments.get("shape", []), list):
                raise SchemaError(f'schema: "{name}" is {entry!r}, expected "shape" (a list) and "dtype" for a sequence or fixed field.')
            fields[name] = kind(**arguments)
        return cls(**fields)

    @classmethod
    def infer(cls, record: Record) -> Schema:
        """The schema that one record suggests.

        An array of two or more axes is a `Sequence` of its dtype, one of a single axis or a list of integers a
        `Sequence` of numbers, a number a `Fixed` scalar, a string a `Text`. For a vector of fixed size, pass a schema.

        Raises:
            SchemaError: a value has no such reading.
        """
        if not isinstance(record, Mapping):
            raise SchemaError(f"first record: came as {_describe(record)}, expected a dict of field names and values.")
        return cls(**{str(name): _infer_field(str(name), value) for name, value in record.items()})


def _infer_field(name: str, value: Any) -> Field:
    if isinstance(value, str):
        return Text()
    try:
        array = _as_array(value, "")
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf" or (array.size == 0 and not hasattr(value, "dtype")):
        raise SchemaError(f'first record: "{name}" is {_describe(value)}, from which no field follows; pass schema=vlpipe.Schema(...).')
    if array.ndim == 0:
        return Fixed((), "float32" if array.dtype.kind == "f" else "int64")
    return Sequence(array.shape[1:], array.dtype.name)


def _as_array(value: Any, expected: str) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"a masked array, whose mask would be lost; {expected}: give an array without one, such as .filled(0)")
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_describe(value)}, of which no array follows; {expected}") from error


def _from_python(array: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers that came without a dtype of their own (Python ints, floats, lists), in `dtype`.

    Floats are rounded, as NumPy does; an integer that would change stays as it is, which the check of the dtype then refuses.
    """
    target = np.dtype(dtype)
    if array.size == 0:
        return array.astype(target)
    if target.kind == "f":
        with np.errstate(all="ignore"):  # what overflows is found below
            converted = array.astype(target)
        if array.dtype.kind == "f":
            overflow = np.isinf(converted) & np.isfinite(array)
            if overflow.any():
                raise ValueError(f"the value {array[overflow].flat[0]}, which {dtype} cannot hold")
            return converted
        # Compared as Python's numbers: int64 and float32 would first be brought to float64, which rounds the int64.
        same = np.isfinite(converted).all() and converted.ravel().tolist() == array.ravel().tolist()
        return converted if same else array
    if array.dtype.kind in "iu":
        limits = np.iinfo(target)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise ValueError(f"the value {extreme}, which {dtype} cannot hold")
        return array.astype(target)
    return array


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
