"""What a layout says: where in a record of somebody else's TFRecord file the frames, lengths, labels and texts stand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c
import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.storage.schema import SEQUENCE_DTYPES, Fixed, Schema, Sequence, Text
from vlpipe.storage.schema import Field as SchemaField

if TYPE_CHECKING:
    from vlpipe.layouts.custom import Given

FORMS = ("floats", "bytes", "tensor", "float_frames", "byte_frames", "integers", "audio", "given")
COUNTS = ("length", "shape", "row_lengths")


@dataclass(frozen=True)
class Frames:
    """Where the frames of a sequence stand.

    Attributes:
        key: the key of the feature, or of the feature list.
        form: "floats" (all values in one FloatList), "bytes" (one value of raw bytes), "tensor" (one value, a TensorProto that
            `tf.io.serialize_tensor` made), "float_frames" or "byte_frames" (a feature list of one FloatList, or one bytes value, a frame),
            "integers" (all values in one Int64List), "audio" (one value, the bytes of an audio file), "given" (by the user's function).
        shape: of one frame; None: found in the first record, where it can be.
        dtype: of the values; None: found in the first record.
        byteorder: of raw bytes.
        count_key: an int64 key that says how many frames there are.
        count: how: "length" (T), "shape" (T and the shape of a frame) or "row_lengths" (the values in each of the T frames).
        scale: bytes are delivered as `q * scale[0] + scale[1]`, in float32.
        packed: floats stand next to each other, as nearly every writer puts them.
        rate: samples a second of audio; None: found in the first record.
    """

    key: str
    form: Literal["floats", "bytes", "tensor", "float_frames", "byte_frames", "integers", "audio", "given"]
    shape: tuple[int, ...] | None = None
    dtype: str | None = "float32"
    byteorder: Literal["little", "big"] = "little"
    count_key: str | None = None
    count: Literal["length", "shape", "row_lengths"] = "length"
    scale: tuple[float, float] | None = None
    packed: bool = True
    rate: int | None = None

    def __post_init__(self) -> None:
        _check_key("key", self.key)
        for name, choices in (("form", FORMS), ("count", COUNTS), ("byteorder", ("little", "big"))):
            value = getattr(self, name)
            if value not in choices:
                raise ArgumentError(f"layout: {name} came as {value!r}, expected one of {', '.join(map(repr, choices))}.")
        if self.shape is not None:
            shape = (self.shape,) if isinstance(self.shape, (int, np.integer)) else self.shape
            object.__setattr__(self, "shape", Sequence(shape).dimensions)  # which checks it
        if self.dtype is not None and self.dtype not in SEQUENCE_DTYPES:
            raise ArgumentError(f"layout: dtype came as {self.dtype!r}, expected one of {', '.join(SEQUENCE_DTYPES)}.")
        if self.scale is not None and self.dtype != "uint8":
            raise ArgumentError(f'layout: scale is for bytes, came with dtype={self.dtype!r}; pass dtype="uint8".')

    @property
    def parsed(self) -> str:
        """How the values are encoded, where they do not stand in the record as they are delivered: see `index.Stored`."""
        if self.form in ("integers", "audio", "given"):
            return self.form
        return "" if self.packed else "floats"

    @property
    def values(self) -> int:
        """Values in a frame."""
        return int(np.prod(self.shape or (), dtype=np.int64))

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame on the wire, without what stands before it."""
        return self.values * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Number:
    """A key with a fixed number of values in each record, such as a class: int64 or float32."""

    key: str
    dtype: Literal["int64", "float32"] = "int64"
    shape: tuple[int, ...] = ()

    def field(self) -> SchemaField:
        """What the schema says of it."""
        return Fixed(self.shape, self.dtype)


@dataclass(frozen=True)
class Listed:
    """A key with any number of integers in each record, delivered padded; or, with `classes`, as float32 `[classes]` of 0 and 1."""

    key: str
    classes: int | None = None

    def field(self) -> SchemaField:
        """What the schema says of it."""
        return Sequence((), "int64") if self.classes is None else Fixed((self.classes,), "float32")


@dataclass(frozen=True)
class Words:
    """A key with one bytes value, delivered as it is; a record without it has an empty one."""

    key: str

    def field(self) -> SchemaField:
        """What the schema says of it."""
        return Text()


@dataclass(frozen=True)
class Value:
    """What the user's own function gives beside the frames; it is not in the index."""

    key: str
    kind: SchemaField

    def field(self) -> SchemaField:
        """What the schema says of it."""
        return self.kind


Field = Number | Listed | Words | Value


@dataclass(frozen=True)
class Layout:
    """How the records of a file are laid out. Made by the functions of this package.

    Attributes:
        name: of the function that made it.
        frames: the sequences; the first is the one that buckets.
        label: the key that is the label unless `make_dataset(label=...)` says another.
        fields: the other keys that can be delivered.
        kept: of what more the first records have, the keys that are added to them; None: all that can be delivered.
        closed: it is complete, nothing is added.
        given: the user's own functions.
    """

    name: str
    frames: tuple[Frames, ...]
    label: str | None = None
    fields: tuple[Field, ...] = ()
    kept: tuple[str, ...] | None = None
    closed: bool = False
    given: Given | None = None

    @classmethod
    def custom(cls, parse_fn: Callable[[Any], Any], length_fn: Callable[[bytes], int] | None = None, *, name: str | None = None) -> Layout:
        """A layout of the user's own, for records of any kind, Examples or not.

        Args:
            parse_fn: a function of a serialized record (a string scalar) in TensorFlow's operations, as one maps over a TFRecordDataset;
                returns x `[T, ...]`, (x, label), or a dict of names and tensors. All axes but the first have to be known.
            length_fn: a function of a serialized record (bytes) that returns T, or None: each record is parsed once to know. Of several
                sequences of frames in a dict, all are counted by parsing.
            name: under which the index is kept; change it when you change the functions. None: the index is made anew each time.

        Raises:
            ArgumentError: one of them is no function, or `parse_fn` fails or returns what cannot be delivered.

        Example:
            >>> def parse(data):
            ...     values = tf.io.parse_tensor(data, tf.float32)
            ...     return tf.ensure_shape(values, [None, 80])
            >>> vlpipe.make_dataset("data/*.tfrecord", layout=vlpipe.layouts.Layout.custom(parse))
        """
        from vlpipe.layouts.custom import Given, counter, trace

        count = None if length_fn is None else counter(length_fn)
        if name is not None:
            _check_key("name", name)
        parse, fields = trace(parse_fn)
        sequences = [key for key, field in fields.items() if isinstance(field, Sequence)]
        frames = [key for key in sequences if fields[key].dimensions] or sequences[:1]  # type: ignore[union-attr]
        if count is not None and len(frames) > 1:
            raise ArgumentError(f"length_fn: counts the frames of one sequence, but parse_fn gives {frames}. Leave it out.")
        return cls(
            "custom",
            tuple(Frames(key, "given", fields[key].dimensions, fields[key].dtype) for key in frames),  # type: ignore[union-attr]
            "label" if "label" in fields and "label" not in frames else None,
            tuple(Value(key, field) for key, field in fields.items() if key not in frames),
            closed=True,
            given=Given(parse, count, name),
        )

    def __post_init__(self) -> None:
        keys = self.keys
        if not self.frames or len(set(keys)) < len(keys):
            raise ArgumentError(f"layout: the keys are {list(keys)}, expected at least one sequence, and each key once.")
        if self.label is not None:
            _check_key("label", self.label)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of everything that can be delivered."""
        return tuple(entry.key for entry in (*self.frames, *self.fields))

    def only(self, *keys: str) -> Layout:
        """The same, of which the frames, the label and these keys can be delivered, and whatever else the records have is passed over.

        Example:
            >>> vlpipe.build_index("data/*.tfrecord", vlpipe.layouts.float_list("mel", d=80, label="class").only("speaker"))
        """
        for key in keys:
            _check_key("only", key)
        return dataclasses.replace(self, kept=keys)

    @property
    def is_kept(self) -> bool:
        """Whether an index by this layout can be found again."""
        return self.given is None or self.given.name is not None

    @property
    def is_sequence(self) -> bool:
        """The frames stand in the feature lists of a SequenceExample."""
        return self.frames[0].form in ("float_frames", "byte_frames")

    @cached_property
    def schema(self) -> Schema:
        """The schema of the records; each field is called like its key."""
        fields: dict[str, SchemaField] = {entry.key: Sequence(entry.shape or (), entry.dtype or "") for entry in self.frames}
        return Schema(**fields, **{entry.key: entry.field() for entry in self.fields})

    @cached_property
    def digest(self) -> str:
        """Tells layouts apart."""
        parts = [[type(entry).__name__, dataclasses.asdict(entry)] for entry in (*self.frames, *self.fields)]
        document: list[Any] = [self.name, self.label, parts, self.given and self.given.name]
        return f"{google_crc32c.value(json.dumps(document, sort_keys=True).encode()):08x}"


def _check_key(what: str, key: Any) -> None:
    if not isinstance(key, str) or not key or not key.isprintable():
        raise ArgumentError(f"layout: {what} came as {key!r}, expected the key of a feature, a text of printable characters.")
