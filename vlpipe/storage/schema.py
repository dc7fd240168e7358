"""The schema of a record: named fields, each a sequence, an array of fixed shape, or a text.

The metadata of a dataset hold its `Schema`, the contract between the writer and the readers of records: a record that does not fit exactly
is refused, never converted silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError, shortened
from vlpipe.storage.values import as_array, describe, from_python
from vlpipe.text_tables import MAX_CELL, MAX_ROWS, html

Record = Mapping[str, Any]

SEQUENCE_DTYPES = ("float32", "float16", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64")
FIXED_DTYPES = ("int64", "int32", "int16", "int8", "uint8", "uint16", "float32", "float16")

MAX_FRAME_BYTES = 2**31 - 1  # the limit of a record
MAX_AXES = 30  # NumPy 1 has at most 32 axes; the batch and the frames take two


def _shape(shape: Any, dtype: str, kind: str) -> tuple[int, ...]:
    dimensions = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape) if isinstance(shape, (tuple, list)) else (None,)
    if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1 for n in dimensions):
        raise SchemaError(f"{kind}: shape is {shape!r}, expected an integer >= 1 or a tuple of them, such as 80 or ().")
    if len(dimensions) > MAX_AXES or math.prod(map(int, dimensions)) * np.dtype(dtype).itemsize > MAX_FRAME_BYTES:
        raise SchemaError(f"{kind}: shape is {shape!r} of {dtype}, expected at most {MAX_AXES} axes and {MAX_FRAME_BYTES} bytes.")
    return tuple(int(n) for n in dimensions)


def _dtype(dtype: Any, allowed: tuple[str, ...], kind: str) -> str:
    try:
        name = str(dtype) if dtype is None else np.dtype(dtype).name  # to NumPy, None means float64
    except (TypeError, ValueError, SyntaxError):
        name = str(dtype)
    if name not in allowed:
        raise SchemaError(f"{kind}: dtype is {name!r}, expected one of {', '.join(allowed)}.")
    return name


@dataclass(frozen=True)
class Sequence:
    """A sequence of frames `[T, *shape]`; each record has its own length T >= 0.

    It is stored as one bytes value in C order, little-endian, so that reading it is a copy, without parsing.

    Args:
        shape: shape of one frame: `80` or `(80,)` for features `[T, 80]`, `()` for a list of numbers `[U]`.
        dtype: type of the numbers on disk. Arrays must be written in exactly this type.
        aligned: it has one value for each frame of the features (voice activity, pitch, a mask). A record where the lengths differ is
            refused; `make_dataset` crops, truncates and pads it with the features.

    Raises:
        SchemaError: the shape or the dtype cannot be stored, or `aligned` is not a bool.

    Example:
        >>> Sequence(80).check(np.zeros((120, 80), np.float32)).shape
        (120, 80)
    """

    shape: int | tuple[int, ...] = ()
    dtype: str = "float32"
    _: KW_ONLY
    aligned: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _dtype(self.dtype, SEQUENCE_DTYPES, "Sequence"))
        object.__setattr__(self, "shape", _shape(self.shape, self.dtype, "Sequence"))
        if not isinstance(self.aligned, (bool, np.bool_)):
            raise SchemaError(f"Sequence: aligned is {self.aligned!r}, expected True or False.")
        object.__setattr__(self, "aligned", bool(self.aligned))

    def __repr__(self) -> str:  # cached statistics are found by it: it must not change where nothing is aligned
        return f"Sequence(shape={self.shape!r}, dtype={self.dtype!r}{', aligned=True' if self.aligned else ''})"

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Shape of one frame, always as a tuple."""
        return self.shape if isinstance(self.shape, tuple) else (self.shape,)

    @property
    def frame_bytes(self) -> int:
        """Size of one frame on disk, in bytes."""
        return math.prod(self.dimensions) * np.dtype(self.dtype).itemsize

    def check(self, value: Any) -> np.ndarray:
        """Return the value as a contiguous little-endian array.

        Raises:
            ValueError: the value does not fit; the text says why.
        """
        expected = ", ".join(["T", *map(str, self.dimensions)])
        array = as_array(value, f"the schema has a Sequence [{expected}]")
        if not hasattr(value, "dtype") and array.dtype.kind in "iuf":
            array = from_python(array, self.dtype)
        if array.dtype.name != self.dtype:
            raise ValueError(
                f'dtype {array.dtype.name}, the schema has a Sequence of {self.dtype}; convert it with .astype("{self.dtype}")'
            )
        if array.ndim == 0 or array.shape[1:] != self.dimensions:
            raise ValueError(f"shape {list(array.shape)}, the schema has a Sequence [{expected}]")
        return np.ascontiguousarray(array, dtype=np.dtype(self.dtype).newbyteorder("<"))


@dataclass(frozen=True)
class Fixed:
    """A value of the same shape in every record: a class number `()`, a multi-hot vector `(527,)`.

    It is stored as an ordinary Int64List or FloatList.

    Args:
        shape: shape of the value, `()` for a scalar.
        dtype: type in which the value is delivered. Not float64, which a FloatList would round.

    Raises:
        SchemaError: the shape or the dtype cannot be stored.

    Example:
        >>> Fixed((), "int64").check(3)
        array(3)
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
        """Return the value as an array of this dtype.

        Raises:
            ValueError: the value does not fit; the text says why.
        """
        array = as_array(value, f"the schema has a Fixed {list(self.dimensions)}")
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{describe(value)}, the schema has a Fixed of {self.dtype}; pass a number or an array of numbers")
        if not hasattr(value, "dtype") or isinstance(value, np.generic):
            array = from_python(array, self.dtype)
        same_kind = (array.dtype.kind == "f") == (np.dtype(self.dtype).kind == "f")
        if not same_kind or not np.can_cast(array.dtype, self.dtype, "safe"):
            raise ValueError(f'dtype {array.dtype.name}, the schema has a Fixed of {self.dtype}; convert it with .astype("{self.dtype}")')
        if array.shape != self.dimensions:
            raise ValueError(f"shape {list(array.shape)}, the schema has a Fixed {list(self.dimensions)}")
        return np.ascontiguousarray(array.astype(self.dtype)).reshape(self.dimensions)


@dataclass(frozen=True)
class Text:
    """A string, stored as one bytes value in UTF-8.

    Example:
        >>> Text().check("Größe")
        b'Gr\xc3\xb6\xc3\x9fe'
    """

    def check(self, value: Any) -> bytes:
        """Return the value in UTF-8.

        Raises:
            ValueError: the value is not a str, or UTF-8 cannot express it.
        """
        if not isinstance(value, str):
            raise ValueError(f"{describe(value)}, expected a str (the schema has a Text)")
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"a text that UTF-8 cannot express ({error.reason} at character {error.start})") from error


Field = Sequence | Fixed | Text
MAX_LINE = 200  # letters of a schema on one line


def kind_in_words(field: Field) -> str:
    """What a field holds, for people.

    Example:
        >>> kind_in_words(Sequence(80)), kind_in_words(Fixed((527,), "float32")), kind_in_words(Fixed()), kind_in_words(Text())
        ('[T, 80] float32', '[527] float32', 'int64', 'text')
    """
    if isinstance(field, Text):
        return "text"
    axes = ["T"] * isinstance(field, Sequence) + [str(size) for size in field.dimensions]
    aligned = ", aligned" if isinstance(field, Sequence) and field.aligned else ""
    return f"[{', '.join(axes)}] {field.dtype}{aligned}" if axes else field.dtype


_KINDS: dict[str, type[Field]] = {"sequence": Sequence, "fixed": Fixed, "text": Text}


class Schema:
    """The named fields of a record, at least one of which is a `Sequence`. Immutable.

    Args:
        **fields: the fields by name, in the order in which they are stored.

    Example:
        >>> Schema(features=Sequence(80), label=Fixed((), "int64"))
        Schema(features=Sequence(shape=(80,), dtype='float32'), label=Fixed(shape=(), dtype='int64'))

    Raises:
        SchemaError: no field is a `Sequence`, all sequences are aligned, a field is not a `Sequence`, `Fixed` or `Text`, or a name is not
            printable.
    """

    __slots__ = ("_fields",)

    def __init__(self, /, **fields: Field) -> None:  # positional only: a field may be called "self"
        for name, field in fields.items():
            if not isinstance(field, (Sequence, Fixed, Text)):
                raise SchemaError(f'Schema: "{name}" is {describe(field)}, expected a vlpipe.Sequence, vlpipe.Fixed or vlpipe.Text.')
            if not name or not name.isprintable():
                raise SchemaError(f"Schema: the name {name!r} is empty or not printable; name each field with printable characters.")
        if not any(isinstance(field, Sequence) for field in fields.values()):
            raise SchemaError(f"Schema: no field of {sorted(fields)} is a vlpipe.Sequence; a record needs at least one sequence of frames.")
        if all(field.aligned for field in fields.values() if isinstance(field, Sequence)):
            raise SchemaError(
                f"Schema: every sequence of {sorted(fields)} is aligned=True; leave it out of the one that the others go with."
            )
        self._fields = dict(fields)

    @property
    def fields(self) -> dict[str, Field]:
        """The fields by name, in the order of the arguments."""
        return dict(self._fields)

    @property
    def sequences(self) -> dict[str, Sequence]:
        """The fields that are sequences; the index calls the lengths of the first one `frames`."""
        return {name: field for name, field in self._fields.items() if isinstance(field, Sequence)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and list(self._fields.items()) == list(other._fields.items())

    def __hash__(self) -> int:
        return hash(tuple(self._fields.items()))

    def __repr__(self) -> str:
        fields = [f"{shortened(name, MAX_CELL)}={field!r}" for name, field in self._fields.items()]
        if sum(map(len, fields)) <= MAX_LINE:
            return f"Schema({', '.join(fields)})"
        more = [f"# and {len(fields) - MAX_ROWS:,} more fields"] if len(fields) > MAX_ROWS else []
        return "\n    ".join(["Schema(", *(f"{field}," for field in fields[:MAX_ROWS]), *more]) + "\n)"

    def _repr_html_(self) -> str:
        rows = [(name, type(field).__name__, kind_in_words(field)) for name, field in self._fields.items()]
        return html((("field", "kind", "values"), rows))

    def check(self, record: Record, where: str = "record") -> dict[str, np.ndarray | bytes]:
        """Return the values of a record as they are stored, in the order of the schema.

        Args:
            record: a value for each field of the schema, and no others.
            where: name of the record in an error, such as `"data/train, record 17"`.

        Returns:
            An array for each `Sequence` and `Fixed`, UTF-8 bytes for each `Text`.

        Raises:
            SchemaError: a field is missing or unknown, its dtype or shape differs from the schema, or an aligned one has another length
                than the features.
        """
        if not isinstance(record, Mapping):
            raise SchemaError(f"{where}: came as {describe(record)}, expected a dict with the fields {sorted(self._fields)}.")
        missing = [name for name in self._fields if name not in record]
        unknown = [str(name) for name in record if name not in self._fields]
        if missing or unknown:
            problems = [f"{verb} {names}" for verb, names in (("lacks", missing), ("has unknown", unknown)) if names]
            raise SchemaError(f"{where}: {' and '.join(problems)}; the schema has {list(self._fields)}. Write exactly these fields.")
        values: dict[str, np.ndarray | bytes] = {}
        for name, field in self._fields.items():
            try:
                values[name] = field.check(record[name])
            except ValueError as error:
                raise SchemaError(f'{where}: "{name}" has {error}.') from error
        aligned = [name for name, field in self._fields.items() if isinstance(field, Sequence) and field.aligned]
        key = default_key(self) if aligned else None
        for name in aligned:
            if key is not None and len(values[name]) != len(values[key]):
                raise SchemaError(
                    f'{where}: "{name}" has {len(values[name])} values, but the schema has it aligned with "{key}", which has '
                    f"{len(values[key])} frames. Write one value a frame, or leave aligned=True out of the schema."
                )
        return values

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the schema as a dict of JSON values, for `from_json`."""
        document: dict[str, dict[str, Any]] = {}
        for name, field in self._fields.items():
            kind = type(field).__name__.lower()
            document[name] = {"kind": kind}
            if not isinstance(field, Text):
                document[name] |= {"shape": list(field.dimensions), "dtype": field.dtype}
            if isinstance(field, Sequence) and field.aligned:
                document[name]["aligned"] = True
        return document

    @classmethod
    def from_json(cls, document: Any) -> Schema:
        """Return the schema that `to_json` described.

        Raises:
            SchemaError: the document does not describe a schema.
        """
        if not isinstance(document, dict):
            raise SchemaError(f"schema: found {describe(document)}, expected an object of fields.")
        fields: dict[str, Field] = {}
        for name, entry in document.items():
            kind = _KINDS.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
            if kind is None:
                raise SchemaError(f'schema: "{name}" is {entry!r}, expected an object with "kind" one of {", ".join(_KINDS)}.')
            arguments = {key: value for key, value in entry.items() if key != "kind"}
            known = set(arguments) - ({"aligned"} if kind is Sequence else set())
            if known != (set() if kind is Text else {"shape", "dtype"}) or not isinstance(arguments.get("shape", []), list):
                raise SchemaError(f'schema: "{name}" is {entry!r}, expected "shape" (a list) and "dtype" for a sequence or fixed field.')
            fields[name] = kind(**arguments)
        return cls(**fields)

    @classmethod
    def infer(cls, record: Record) -> Schema:
        """Infer a schema from one record.

        An array `[T, ...]` or a list of numbers becomes a `Sequence` of its dtype, a number a `Fixed` scalar (int64 or float32), a string a
        `Text`. For a vector of fixed size, pass a schema.

        Raises:
            SchemaError: no field can be inferred from a value.

        Example:
            >>> Schema.infer({"features": np.zeros((120, 80), np.float32), "label": 3})
            Schema(features=Sequence(shape=(80,), dtype='float32'), label=Fixed(shape=(), dtype='int64'))
        """
        if not isinstance(record, Mapping):
            raise SchemaError(f"first record: came as {describe(record)}, expected a dict of field names and values.")
        return cls(**{str(name): _infer_field(str(name), value) for name, value in record.items()})


def default_key(schema: Schema) -> str | None:
    """The sequence that the aligned ones go with: that of features `[T, d]` (of several, the one named "features"); None: it is unclear."""
    free = {name: field for name, field in schema.sequences.items() if not field.aligned}
    candidates = [name for name, field in free.items() if field.dimensions] or list(free)
    return "features" if "features" in candidates else candidates[0] if len(candidates) == 1 else None


def _infer_field(name: str, value: Any) -> Field:
    if isinstance(value, str):
        return Text()
    try:
        array = as_array(value, "")
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf" or (array.size == 0 and not hasattr(value, "dtype")):
        raise SchemaError(f'first record: "{name}" is {describe(value)}; no field can be inferred from it. Pass schema=vlpipe.Schema(...).')
    if array.ndim == 0:
        return Fixed((), "float32" if array.dtype.kind == "f" else "int64")
    return Sequence(array.shape[1:], array.dtype.name)
