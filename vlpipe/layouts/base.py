"""The definition of a layout: the position of frames, lengths, labels and texts in a record of a third-party TFRecord file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c
import numpy as np

from vlpipe.audio.channels import Channels, check_channels
from vlpipe.errors import ArgumentError, shortened
from vlpipe.storage.schema import SEQUENCE_DTYPES, Field, Fixed, Schema, Sequence, Text, kind_in_words

if TYPE_CHECKING:
    from vlpipe.layouts.custom import CustomFunctions

FORMS = ("floats", "bytes", "tensor", "float_frames", "byte_frames", "integers", "audio", "given", "integer_frames")  # in digests
IN_LISTS = ("float_frames", "byte_frames", "integer_frames")  # the forms of feature lists
MAX_KEYS = 8  # that a layout shows of itself
MAX_KEY = 40  # letters of each
COUNTS = ("length", "shape", "row_lengths")


@dataclass(frozen=True)
class Frames:
    """The key, the encoding and the type of the frames of a sequence.

    Attributes:
        key: the key of the feature or of the feature list.
        form: "floats" (all values in one FloatList), "bytes" (one value of raw bytes), "tensor" (one value, a TensorProto written by
            `tf.io.serialize_tensor`), "float_frames", "byte_frames" or "integer_frames" (a feature list with one FloatList, one bytes value
            or one Int64List per frame),
            "integers" (all values in one Int64List), "audio" (one value, the bytes of an audio file), "given" (a custom function returns
            them, see `Layout.custom`).
        shape: the shape of one frame; None: taken from the first records.
        dtype: the dtype of the values; None: taken from the first records.
        byteorder: the byte order of raw bytes.
        count_key: an int64 key with the number of frames T.
        count: the content of `count_key`: "length" (T), "shape" (T and the shape of a frame) or "row_lengths" (the number of values in each
            of the T frames).
        scale: bytes q are delivered as `q * scale[0] + scale[1]`, in float32.
        packed: whether floats are packed, as nearly every writer encodes them.
        rate: the sample rate of audio in Hz; None: taken from the first records.
        optional: whether a record without the key has 0 frames; False: it is refused.
        channels: which channels of audio are delivered: "mix" (their mean), "first" or "all".

    Raises:
        ArgumentError: an attribute has an unsupported value.

    Example:
        >>> vlpipe.layouts.Frames("mel", "floats", 80).frame_bytes
        320
    """

    key: str
    form: Literal["floats", "bytes", "tensor", "float_frames", "byte_frames", "integers", "audio", "given", "integer_frames"]
    shape: tuple[int, ...] | None = None
    dtype: str | None = "float32"
    byteorder: Literal["little", "big"] = "little"
    count_key: str | None = None
    count: Literal["length", "shape", "row_lengths"] = "length"
    scale: tuple[float, float] | None = None
    packed: bool = True
    rate: int | None = None
    optional: bool = False
    channels: Channels = "mix"

    def __post_init__(self) -> None:
        _check_key("key", self.key)
        check_channels(self.channels)
        for name, choices in (("form", FORMS), ("count", COUNTS), ("byteorder", ("little", "big"))):
            value = getattr(self, name)
            if value not in choices:
                raise ArgumentError(f"layout: {name} came as {value!r}, expected one of {', '.join(map(repr, choices))}.")
        if self.shape is not None:
            shape = (self.shape,) if isinstance(self.shape, (int, np.integer)) else self.shape
            object.__setattr__(self, "shape", Sequence(shape).dimensions)  # Sequence checks the shape
        if self.dtype is not None and self.dtype not in SEQUENCE_DTYPES:
            raise ArgumentError(f"layout: dtype came as {self.dtype!r}, expected one of {', '.join(SEQUENCE_DTYPES)}.")
        if self.scale is not None and self.dtype != "uint8":
            raise ArgumentError(f'layout: scale applies to bytes only, but dtype came as {self.dtype!r}; pass dtype="uint8".')
        if self.channels != "mix" and self.form != "audio":
            raise ArgumentError(f'layout: channels applies to audio files only, but form came as {self.form!r}; pass form="audio".')

    @property
    def parsed(self) -> str:
        """The encoding of values that must be parsed, "" for values that are only copied; see `storage.index.Stored`."""
        if self.form in ("integers", "audio", "given", "integer_frames"):
            return self.form
        return "" if self.packed else "floats"

    @property
    def in_list(self) -> bool:
        """Whether the frames are in a feature list of a SequenceExample, not in a feature of an Example or of the context."""
        return self.form in IN_LISTS

    def field(self) -> Field:
        """The field of the schema."""
        return Sequence(self.shape or (), self.dtype or "")

    @property
    def values(self) -> int:
        """The number of values in a frame."""
        return int(np.prod(self.shape or (), dtype=np.int64))

    @property
    def frame_bytes(self) -> int:
        """The number of bytes of a frame in the record, without its header."""
        return self.values * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Number:
    """A key with a fixed number of int64 or float32 values in each record, such as a class.

    Attributes:
        key: the key.
        dtype: the dtype of the values.
        shape: the shape of the value.
        default: the value of records without the key, in C order; None: such records are refused.
    """

    key: str
    dtype: Literal["int64", "float32"] = "int64"
    shape: tuple[int, ...] = ()
    default: tuple[float, ...] | None = None

    def field(self) -> Field:
        """The field of the schema."""
        return Fixed(self.shape, self.dtype)


@dataclass(frozen=True)
class Listed:
    """A key with any number of integers in each record: delivered padded or, with `classes`, as a float32 `[classes]` vector of 0 and 1."""

    key: str
    classes: int | None = None

    def field(self) -> Field:
        """The field of the schema."""
        return Sequence((), "int64") if self.classes is None else Fixed((self.classes,), "float32")


@dataclass(frozen=True)
class Words:
    """A key with one bytes value, delivered unchanged; a record without the key has an empty value."""

    key: str

    def field(self) -> Field:
        """The field of the schema."""
        return Text()


@dataclass(frozen=True)
class Value:
    """A field that a custom function returns beside the frames; the index does not hold it."""

    key: str
    kind: Field

    def field(self) -> Field:
        """The field of the schema."""
        return self.kind


LayoutField = Number | Listed | Words | Value | Frames


@dataclass(frozen=True)
class Layout:
    """The layout of the records of a file. Use the functions of this package to create one.

    Attributes:
        name: the name of the function that created it.
        frames: the sequences of frames; the first one decides the bucket.
        label: the key of the label, unless `make_dataset(label=...)` names another key.
        fields: the other keys that can be delivered; sequences of frames among them are features only if the user names them.
        kept: the keys to add from the first records; None: all keys that can be delivered.
        closed: whether the layout is complete, so that no keys are added.
        given: the user's functions, see `Layout.custom`.
        refused: the keys of the first records that cannot be delivered, each with the reason.
        defaults: the values of records without a key, by key: numbers, or arrays of a constant shape.

    Example:
        >>> vlpipe.layouts.audioset().keys
        ('audio_embedding', 'labels')
    """

    name: str
    frames: tuple[Frames, ...]
    label: str | None = None
    fields: tuple[LayoutField, ...] = ()
    kept: tuple[str, ...] | None = None
    closed: bool = False
    given: CustomFunctions | None = None
    refused: tuple[tuple[str, str], ...] = ()
    defaults: tuple[Number, ...] = ()

    @classmethod
    def custom(cls, parse_fn: Callable[[Any], Any], length_fn: Callable[[bytes], int] | None = None, *, name: str | None = None) -> Layout:
        """Return a layout that reads records with the user's own functions; the records may be of any kind, Examples or not.

        Args:
            parse_fn: a function from a serialized record (a string scalar) to tensors, in TensorFlow operations, as for `Dataset.map` on a
                TFRecordDataset. It returns x `[T, ...]`, (x, label), or a dict of tensors by name. Every axis except the first must have a
                known size.
            length_fn: a function from a serialized record (bytes) to T; None: each record is parsed once to count its frames. If
                `parse_fn` returns several sequences of frames, leave `length_fn` out: they are counted by parsing. With `length_fn`, the
                other sequences, such as a label `[U]`, can only be labels.
            name: the name under which the index is cached; change it when you change the functions. None: the index is not cached, and the
                files are indexed on every call.

        Raises:
            ArgumentError: `parse_fn` or `length_fn` is not a function, or `parse_fn` fails or returns values that cannot be delivered.

        Example:
            >>> def parse(data):
            ...     values = tf.io.parse_tensor(data, tf.float32)
            ...     return tf.ensure_shape(values, [None, 80])
            >>> layout = vlpipe.layouts.Layout.custom(parse)
            >>> layout.schema
            Schema(features=Sequence(shape=(80,), dtype='float32'))
        """
        from vlpipe.layouts.custom import CustomFunctions, counter, trace

        count = None if length_fn is None else counter(length_fn)
        if name is not None:
            _check_key("name", name)
        parse, fields = trace(parse_fn)
        sequences = [key for key, field in fields.items() if isinstance(field, Sequence)]
        frames = [key for key in sequences if fields[key].dimensions] or sequences[:1]  # type: ignore[union-attr]
        if count is not None and len(frames) > 1:
            raise ArgumentError(f"length_fn: counts the frames of one sequence, but parse_fn returns {frames}. Leave length_fn out.")
        return cls(
            "custom",
            tuple(Frames(key, "given", fields[key].dimensions, fields[key].dtype) for key in frames),  # type: ignore[union-attr]
            "label" if "label" in fields and "label" not in frames else None,
            tuple(Value(key, field) for key, field in fields.items() if key not in frames),
            closed=True,
            given=CustomFunctions(parse, count, name),
        )

    def __post_init__(self) -> None:
        keys = self.keys
        if not self.frames or len(set(keys)) < len(keys):
            raise ArgumentError(f"layout: the keys are {list(keys)}, expected at least one sequence of frames, and each key once.")
        if self.label is not None:
            _check_key("label", self.label)

    def __repr__(self) -> str:
        frames = ", ".join(f"{shortened(entry.key, MAX_KEY)} {_frames_in_words(entry)}" for entry in self.frames[:MAX_KEYS])
        others = self.kept if self.kept is not None else [entry.key for entry in self.fields if entry.key != self.label]
        named = [shortened(key, MAX_KEY) for key in others[:MAX_KEYS]] + ["…"] * (len(others) > MAX_KEYS)
        named += ["every other key"] if self.reads_every_key and not self.closed else []
        label = "no label" if self.label is None else f"label {shortened(self.label, MAX_KEY)}"
        return f"Layout {self.name}: {frames}{', …' if len(self.frames) > MAX_KEYS else ''}; {label}; {', '.join(named) or 'no other key'}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of everything that can be delivered."""
        return tuple(entry.key for entry in (*self.frames, *self.fields))

    def only(self, *keys: str) -> Layout:
        """Return the layout restricted to the frames, the label and these keys; all other keys of the records are ignored.

        Args:
            keys: the keys to keep; none: only the frames and the label.

        Raises:
            ArgumentError: a key is not a non-empty string of printable characters, or the layout is a custom one.

        Example:
            >>> layout = vlpipe.layouts.float_list("mel", d=80, label="class").only("speaker")
            >>> layout.label, layout.kept
            ('class', ('speaker',))
        """
        for key in keys:
            _check_key("only", key)
        if self.given is not None:
            raise ArgumentError(f"only: came as {keys}, but parse_fn of a custom layout says what is delivered: leave others out there.")
        return dataclasses.replace(self, kept=keys)

    @property
    def is_kept(self) -> bool:
        """Whether an index by this layout can be cached: not if custom functions have no name."""
        return self.given is None or self.given.name is not None

    @property
    def is_sequence(self) -> bool:
        """Whether the frames are in the feature lists of a SequenceExample."""
        return self.frames[0].in_list

    @property
    def sequences(self) -> tuple[Frames, ...]:
        """All sequences of frames: those of the layout, and those among the other keys."""
        return (*self.frames, *(entry for entry in self.fields if isinstance(entry, Frames)))

    @property
    def reads_every_key(self) -> bool:
        """Whether the layout is to deliver every key of the records: the user has not said which ones to keep."""
        return self.kept is None and self.given is None

    @cached_property
    def schema(self) -> Schema:
        """The schema of the records; each field has the name of its key."""
        return Schema(**{entry.key: entry.field() for entry in (*self.frames, *self.fields)})

    @cached_property
    def digest(self) -> str:
        """A checksum that identifies the layout; it is part of the name of a cached index."""
        parts = [[type(entry).__name__, _described(entry)] for entry in (*self.frames, *self.fields)]
        document: list[Any] = [self.name, self.label, parts, self.given and self.given.name]
        if self.defaults:
            document.append([_described(entry) for entry in self.defaults])
        return f"{google_crc32c.value(json.dumps(document, sort_keys=True).encode()):08x}"


def _frames_in_words(frames: Frames) -> str:
    if frames.shape is None or frames.dtype is None:
        return f"[T, …] {frames.dtype or ''}".rstrip()
    return kind_in_words(frames.field())


def _described(entry: Any) -> dict[str, Any]:
    """The attributes of a part of a layout. Newer ones are left out where they say nothing: the digests of older layouts stay the same."""
    silent = {"optional": False, "default": None, "channels": "mix"}
    return {name: value for name, value in dataclasses.asdict(entry).items() if name not in silent or value != silent[name]}


def _check_key(name: str, key: Any) -> None:
    if not isinstance(key, str) or not key or not key.isprintable():
        raise ArgumentError(f"layout: {name} came as {key!r}, expected a non-empty string of printable characters.")
