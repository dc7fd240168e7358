"""The published layouts, each with its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from vlpipe.arguments import integer
from vlpipe.audio.channels import Channels, check_channels
from vlpipe.errors import ArgumentError
from vlpipe.layouts.base import Frames, Layout, Listed, Number
from vlpipe.layouts.deliverable import MAX_NUMBERS

Shape = int | tuple[int, ...]
Defaults = Mapping[str, Any]

_EXAMPLES = {"d": "80", "dtype": '"float32"'}  # of values that the user must pass
_MAX_CLASSES = 1 << 20
_INTEGERS = ("uint8", "int8", "int16", "uint16", "int32", "int64")

# q * 4 / 255 + 4 / 512 - 2: YouTube-8M quantises [-2, 2] to a byte; this is its `Dequantize`.
_YOUTUBE8M_SCALE = (4 / 255, 4 / 512 - 2)


def float_list(
    *keys: str,
    d: Shape | Mapping[str, Shape] | None = None,
    length: str | None = None,
    shape: str | None = None,
    packed: bool = True,
    label: str | None = None,
    lists: Iterable[str] = (),
    default: Defaults | None = None,
) -> Layout:
    """An Example with the frames `[T, d]` in one flat FloatList; with d=1, the samples of a recording. Several keys are several sequences.

    This is the input of `tf.io.FixedLenSequenceFeature([d], tf.float32, allow_missing=True)`, as in the TensorFlow guide "TFRecord and
    tf.train.Example"; with `shape`, the older vectors of OpenNMT-tf (`values` and `shape`). DDSP stores controls and audio of different
    rates as several FloatLists: `float_list("f0_hz", "loudness_db", "audio", d={"f0_hz": 1, "loudness_db": 1, "audio": 64})`.

    Args:
        keys: the keys of the FloatLists, each with its own number of frames; the first one decides the bucket.
        d: the number of values in a frame, or the shape of a frame: for all keys, or by key; None: follows from `length` or `shape`.
        length: the key of the number of frames T of the first sequence.
        shape: the key of the shape of the first sequence, T first.
        packed: False for the rare files with unpacked floats, which are parsed instead of copied.
        label: the key of the label.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.

    Raises:
        ArgumentError: none of `d`, `length` and `shape` is given, both `length` and `shape` are, or `d` lacks a key.

    Example:
        >>> example = tf.train.Example()
        >>> example.features.feature["mel"].float_list.value.extend([0.0] * 3 * 80)
        >>> with tf.io.TFRecordWriter("mel.tfrecord") as writer:
        ...     writer.write(example.SerializeToString())
        >>> layout = vlpipe.layouts.float_list("mel", d=80)
        >>> vlpipe.build_index("mel.tfrecord", layout).frames("mel").tolist()
        [3]
    """
    sizes = d if isinstance(d, Mapping) else dict.fromkeys(keys, d)
    unknown = [key for key in sizes if key not in keys]
    if unknown:
        raise ArgumentError(f"layout: d names {unknown}, but the keys of the frames are {list(keys)}. Name only these.")
    first = [Frames(key, "floats", _shape(sizes.get(key), length, shape), packed=packed, **_counted(length, shape)) for key in keys[:1]]
    others = [Frames(key, "floats", _shape(sizes.get(key), None, None), packed=packed) for key in keys[1:]]
    return Layout("float_list", (*first, *others), label, _listed(lists), defaults=_defaults(default))


def int_list(
    key: str,
    *,
    d: Shape | None = None,
    dtype: str = "int64",
    length: str | None = None,
    shape: str | None = None,
    label: str | None = None,
    lists: Iterable[str] = (),
    default: Defaults | None = None,
) -> Layout:
    """An Example with the frames `[T, d]` in one flat Int64List; TensorFlow Datasets stores recordings so, with d=1.

    The values are parsed, because an Int64List holds varints, and delivered unscaled in the dtype of `make_dataset`. To scale 16-bit
    samples to [-1, 1), divide by 32768 in a `transform`; an audio feature as `transform` does so, if `dtype` is "int16".

    Args:
        key: the key of the Int64List.
        d: the number of values in a frame, or the shape of a frame; None: follows from `length` or `shape`.
        dtype: the integer dtype of the values before they were written; a value outside its range is an error.
        length: the key of the number of frames T.
        shape: the key of the shape, T first.
        label: the key of the label.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.

    Raises:
        ArgumentError: as `float_list`, or `dtype` is not an integer dtype.

    Example:
        >>> vlpipe.layouts.int_list("audio", d=1, dtype="int16").schema
        Schema(audio=Sequence(shape=(1,), dtype='int16'))
    """
    if dtype not in _INTEGERS:
        raise ArgumentError(f"layout: dtype came as {dtype!r}, expected an integer dtype: {', '.join(_INTEGERS)}.")
    frames = Frames(key, "integers", _shape(d, length, shape), dtype, **_counted(length, shape))
    return Layout("int_list", (frames,), label, _listed(lists), defaults=_defaults(default))


def encoded_audio(
    key: str, *, channels: Channels = "mix", label: str | None = None, lists: Iterable[str] = (), default: Defaults | None = None
) -> Layout:
    """An Example with the bytes of an audio file, decoded on read to float32 `[T, 1]` in [-1, 1].

    The file is WAV, FLAC, Ogg Vorbis or MP3; with soundfile also AIFF or Opus. All records must have the sample rate of the first record.

    Args:
        key: the key of the bytes.
        channels: "mix": the mean of the channels, as in `vlpipe.audio.load`; "first": the first one; "all": `[T, C]`, where all records
            must have as many channels as the first one.
        label: the key of the label.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.
    """
    frames = Frames(key, "audio", None if check_channels(channels) == "all" else (1,), channels=channels)
    return Layout("encoded_audio", (frames,), label, _listed(lists), defaults=_defaults(default))


def raw_bytes(
    key: str,
    *,
    dtype: str,
    d: Shape | None = None,
    byteorder: Literal["little", "big"] = "little",
    length: str | None = None,
    shape: str | None = None,
    label: str | None = None,
    lists: Iterable[str] = (),
    default: Defaults | None = None,
) -> Layout:
    """An Example with the frames `[T, d]` in one bytes value, `array.tobytes()`: the input of `tf.io.decode_raw`.

    Args:
        key: the key of the bytes.
        dtype: the dtype of the values.
        d: the number of values in a frame, or the shape of a frame; None: follows from `length` or `shape`.
        byteorder: "little" or "big".
        length: the key of the number of frames T.
        shape: the key of the shape, T first.
        label: the key of the label.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.

    Raises:
        ArgumentError: as `float_list`, or `dtype` is not supported.

    Example:
        >>> vlpipe.write("numbers", [{"x": np.ones((n, 2), np.float32)} for n in (3, 5)])
        >>> layout = vlpipe.layouts.raw_bytes("x", dtype="float32", d=2)
        >>> sorted(vlpipe.build_index("numbers", layout).frames("x").tolist())
        [3, 5]
    """
    _refuse_ellipsis("dtype", dtype)
    frames = Frames(key, "bytes", _shape(d, length, shape), dtype, byteorder, **_counted(length, shape))
    return Layout("raw_bytes", (frames,), label, _listed(lists), defaults=_defaults(default))


def serialized_tensor(key: str, *, label: str | None = None, lists: Iterable[str] = (), default: Defaults | None = None) -> Layout:
    """An Example with the frames in one bytes value written by `tf.io.serialize_tensor`: the input of `tf.io.parse_tensor`.

    The value contains dtype and shape (tensorflow/core/framework/tensor.proto). All tensors must have one dtype, and shapes `[T, ...]` that
    differ only in T.

    Args:
        key: the key of the bytes.
        label: the key of the label.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.
    """
    return Layout("serialized_tensor", (Frames(key, "tensor", None, None),), label, _listed(lists), defaults=_defaults(default))


def ragged_rows(key: str, *, label: str | None = None, lists: Iterable[str] = (), default: Defaults | None = None) -> Layout:
    """An Example with the frames in `KEY/ragged_flat_values` and the number of values of each frame in `KEY/ragged_row_lengths_0`.

    TensorFlow Datasets serialises nested sequences so (tensorflow_datasets/core/example_serializer.py). All frames must have the same size.

    Args:
        key: the part of the keys before the slash.
        label: the key of the label.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.
    """
    flat, rows = f"{key}/ragged_flat_values", f"{key}/ragged_row_lengths_0"
    return Layout(
        "ragged_rows", (Frames(flat, "floats", count_key=rows, count="row_lengths"),), label, _listed(lists), defaults=_defaults(default)
    )


def float_frames(
    *keys: str, d: Shape | None = None, label: str | None = None, lists: Iterable[str] = (), default: Defaults | None = None
) -> Layout:
    """A SequenceExample with one FloatList per frame: the input of `tf.io.parse_single_sequence_example`.

    The vectors of OpenNMT-tf have this layout with the key `values` (opennmt.inputters.write_sequence_record).

    Args:
        keys: the keys of the feature lists; the first one decides the bucket.
        d: the number of values in a frame, or the shape of a frame; None: taken from the first records.
        label: the key of the label, in the context.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.
    """
    shape = (d,) if isinstance(d, int) else d
    return Layout(
        "float_frames", tuple(Frames(key, "float_frames", shape) for key in keys), label, _listed(lists), defaults=_defaults(default)
    )


def byte_frames(
    *keys: str, dtype: str, d: Shape | None = None, label: str | None = None, lists: Iterable[str] = (), default: Defaults | None = None
) -> Layout:
    """A SequenceExample with one bytes value per frame, `frame.tobytes()`.

    Args:
        keys: the keys of the feature lists; the first one decides the bucket.
        dtype: the dtype of the values, little-endian.
        d: the number of values in a frame, or the shape of a frame; None: taken from the first records.
        label: the key of the label, in the context.
        lists: int64 keys with a variable number of values, if the first records do not show this.
        default: the values of records without a key, such as {"snr": -1.0}: numbers, or lists of a constant shape.
    """
    _refuse_ellipsis("dtype", dtype)
    shape = (d,) if isinstance(d, int) else d
    return Layout(
        "byte_frames", tuple(Frames(key, "byte_frames", shape, dtype) for key in keys), label, _listed(lists), defaults=_defaults(default)
    )


def audioset(*, classes: int | None = None, default: Defaults | None = None) -> Layout:
    """The embeddings of AudioSet: a SequenceExample with 128 unsigned bytes per second.

    Feature list `audio_embedding`; context `video_id`, `start_time_seconds`, `end_time_seconds` and `labels`, the indices of the classes
    (research.google.com/audioset/download.html, "Features dataset"). The bytes are delivered unscaled, 0 to 255.

    Args:
        classes: 527 to deliver the labels as a vector of 0 and 1; None: as a list of variable length.
        default: the values of records without a key.

    Raises:
        ArgumentError: `classes` is not an integer from 1 to 2^20.
    """
    frames = Frames("audio_embedding", "byte_frames", (128,), "uint8")
    return Layout("audioset", (frames,), "labels", (Listed("labels", _classes(classes)),), defaults=_defaults(default))


def youtube8m(*, features: tuple[str, ...] = ("rgb", "audio"), classes: int | None = None, default: Defaults | None = None) -> Layout:
    """The frame-level features of YouTube-8M: a SequenceExample with 1,024 (`rgb`) and 128 (`audio`) unsigned bytes per second.

    Context `id` and `labels` (research.google.com/youtube8m/download.html, "Frame-level features dataset"). The bytes are scaled from
    [0, 255] to [-2, 2] by q * 4 / 255 + 4 / 512 - 2, like in the published reader (`Dequantize` in utils.py of
    github.com/google/youtube-8m).

    Args:
        features: the feature lists to deliver; the first one decides the bucket.
        classes: 3862 to deliver the labels as a vector of 0 and 1; None: as a list of variable length.
        default: the values of records without a key.

    Raises:
        ArgumentError: a feature list is neither `rgb` nor `audio`, or `classes` is not an integer from 1 to 2^20.
    """
    sizes = {"rgb": 1024, "audio": 128}
    if not features or not set(features) <= set(sizes):
        raise ArgumentError(f"youtube8m: features came as {features!r}, expected rgb, audio or both.")
    frames = tuple(Frames(key, "byte_frames", (sizes[key],), "uint8", scale=_YOUTUBE8M_SCALE) for key in features)
    return Layout("youtube8m", frames, "labels", (Listed("labels", _classes(classes)),), defaults=_defaults(default))


def _defaults(values: Defaults | None) -> tuple[Number, ...]:
    """Return the fields of the keys that have defaults.

    Raises:
        ArgumentError: a default is not a number, or an array of numbers, that an Example can hold.
    """
    if values is not None and not isinstance(values, Mapping):
        raise ArgumentError(f'layout: default came as {values!r}, expected the values of records without a key, such as {{"snr": -1.0}}.')
    return tuple(_default(key, value) for key, value in (values or {}).items())


def _default(key: str, value: Any) -> Number:
    array = np.asarray(value)
    dtype: Literal["int64", "float32"] = "float32" if array.dtype.kind == "f" else "int64"
    is_numbers = array.dtype.kind in "iuf" and array.dtype != np.uint64 and 0 < array.size <= MAX_NUMBERS
    with np.errstate(over="ignore"):
        stored = array.astype(dtype) if is_numbers else np.zeros(0)
    if not is_numbers or (np.isfinite(stored) != np.isfinite(array)).any():
        raise ArgumentError(
            f"layout: default[{key!r}] came as {value!r}, expected int64 or float32 numbers: one, or 1 to {MAX_NUMBERS} in a list."
        )
    return Number(key, dtype, array.shape, tuple(stored.ravel().tolist()))


def _listed(keys: Iterable[str]) -> tuple[Listed, ...]:
    return tuple(Listed(key) for key in ((keys,) if isinstance(keys, str) else keys))


def _classes(classes: int | None) -> int | None:
    return None if classes is None else integer("classes", classes, 1, _MAX_CLASSES)


def _counted(length: str | None, shape: str | None) -> dict[str, Any]:
    if length is not None and shape is not None:
        raise ArgumentError("layout: both length and shape specify the number of frames; pass only one of them.")
    return {"count_key": length or shape, "count": "shape" if shape else "length"}


def _refuse_ellipsis(name: str, value: Any) -> None:
    """Refuse `...`, the placeholder of `vlpipe inspect` for unknown arguments."""
    if value is ...:
        raise ArgumentError(f"layout: {name} is still the placeholder `...`; replace it by a value, such as {name}={_EXAMPLES[name]}.")


def _shape(d: Shape | None, length: str | None, shape: str | None) -> tuple[int, ...] | None:
    _refuse_ellipsis("d", d)
    if d is None and length is None and shape is None:
        raise ArgumentError("layout: the number of values in a frame is not specified. Pass d=..., or its key with length=... or shape=...")
    return (d,) if isinstance(d, int) else d
