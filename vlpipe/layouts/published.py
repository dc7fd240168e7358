"""The layouts that are published somewhere, each with the place where it is described."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from vlpipe.errors import ArgumentError
from vlpipe.layouts.base import Frames, Layout, Listed

Shape = int | tuple[int, ...]

_SUCH = {"d": "80", "dtype": '"float32"'}  # values
_INTEGERS = ("uint8", "int8", "int16", "uint16", "int32", "int64")

# q * 4 / 255 + 4 / 512 - 2: the quantisation of YouTube-8M (and its `Dequantize`), of [-2, 2] to a byte.
_YOUTUBE8M_SCALE = (4 / 255, 4 / 512 - 2)


def float_list(
    key: str,
    *,
    d: Shape | None = None,
    length: str | None = None,
    shape: str | None = None,
    packed: bool = True,
    label: str | None = None,
    lists: Iterable[str] = (),
) -> Layout:
    """An Example whose frames `[T, d]` are one flat FloatList; with d=1, the samples of a recording.

    What `tf.io.FixedLenSequenceFeature([d], tf.float32, allow_missing=True)` reads, as in the TensorFlow guide "TFRecord and
    tf.train.Example"; with `shape`, the older vectors of OpenNMT-tf (`values` and `shape`).

    Args:
        key: of the FloatList.
        d: values in a frame, or the shape of one; None: found by `length` or `shape`.
        length: key of the number of frames T.
        shape: key of the shape, T first.
        packed: False where the writer, which is rare, put each float by itself: they are then parsed, and not copied.
        label: key of the label.
        lists: int64 keys that have any number of values, where the first records do not show it.

    Raises:
        ArgumentError: none of `d`, `length` and `shape` is there, or both keys are.

    Example:
        >>> vlpipe.make_dataset("data/*.tfrecord", layout=vlpipe.layouts.float_list("mel", d=80, label="class"))
    """
    frames = Frames(key, "floats", _shape(d, length, shape), packed=packed, **_counted(length, shape))
    return Layout("float_list", (frames,), label, _listed(lists))


def int_list(
    key: str,
    *,
    d: Shape | None = None,
    dtype: str = "int64",
    length: str | None = None,
    shape: str | None = None,
    label: str | None = None,
    lists: Iterable[str] = (),
) -> Layout:
    """An Example whose frames `[T, d]` are one flat Int64List, as TensorFlow Datasets has the samples of a recording (with d=1).

    The values are parsed (an Int64List holds varints, whatever the integers were) and delivered as they are, in the dtype of
    `make_dataset`: to have 16-bit samples in [-1, 1), divide by 32768 in a `transform`.

    Args:
        key: of the Int64List.
        d: values in a frame, or the shape of one; None: found by `length` or `shape`.
        dtype: of the values before they were written: one that does not hold it is refused.
        length: key of the number of frames T.
        shape: key of the shape, T first.
        label: key of the label.
        lists: int64 keys that have any number of values, where the first records do not show it.

    Raises:
        ArgumentError: as `float_list`, or the dtype is not one of integers.
    """
    if dtype not in _INTEGERS:
        raise ArgumentError(f"layout: dtype came as {dtype!r}, expected one of integers: {', '.join(_INTEGERS)}.")
    frames = Frames(key, "integers", _shape(d, length, shape), dtype, **_counted(length, shape))
    return Layout("int_list", (frames,), label, _listed(lists))


def encoded_audio(key: str, *, label: str | None = None, lists: Iterable[str] = ()) -> Layout:
    """An Example with the bytes of an audio file (WAV, FLAC, Ogg Vorbis or MP3), which is decoded on read: float32 `[T, 1]` in [-1, 1].

    Channels are mixed down to one, as `vlpipe.audio.load` does. All records need one sample rate, that of the first.

    Args:
        key: of the bytes.
        label: key of the label.
        lists: int64 keys that have any number of values, where the first records do not show it.
    """
    return Layout("encoded_audio", (Frames(key, "audio", (1,)),), label, _listed(lists))


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
) -> Layout:
    """An Example whose frames `[T, d]` are one bytes value, `array.tobytes()`: what `tf.io.decode_raw` reads.

    Args:
        key: of the bytes.
        dtype: of the values.
        d: values in a frame, or the shape of one; None: found by `length` or `shape`.
        byteorder: "little" or "big".
        length: key of the number of frames T.
        shape: key of the shape, T first.
        label: key of the label.
        lists: int64 keys that have any number of values, where the first records do not show it.

    Raises:
        ArgumentError: as `float_list`, or there is no such dtype.
    """
    _refuse_ellipsis("dtype", dtype)
    frames = Frames(key, "bytes", _shape(d, length, shape), dtype, byteorder, **_counted(length, shape))
    return Layout("raw_bytes", (frames,), label, _listed(lists))


def serialized_tensor(key: str, *, label: str | None = None, lists: Iterable[str] = ()) -> Layout:
    """An Example whose frames are one bytes value that `tf.io.serialize_tensor` made: what `tf.io.parse_tensor` reads.

    Dtype and shape stand in it (tensorflow/core/framework/tensor.proto). Tensors of one dtype and of shapes `[T, ...]` that differ in T.

    Args:
        key: of the bytes.
        label: key of the label.
        lists: int64 keys that have any number of values, where the first records do not show it.
    """
    return Layout("serialized_tensor", (Frames(key, "tensor", None, None),), label, _listed(lists))


def ragged_rows(key: str, *, label: str | None = None, lists: Iterable[str] = ()) -> Layout:
    """An Example whose frames are `KEY/ragged_flat_values` with the values in each frame in `KEY/ragged_row_lengths_0`.

    How TensorFlow Datasets serialises nested sequences (tensorflow_datasets/core/example_serializer.py). All frames need one size.

    Args:
        key: what stands before the slash.
        label: key of the label.
        lists: int64 keys that have any number of values, where the first records do not show it.
    """
    flat, rows = f"{key}/ragged_flat_values", f"{key}/ragged_row_lengths_0"
    return Layout("ragged_rows", (Frames(flat, "floats", count_key=rows, count="row_lengths"),), label, _listed(lists))


def float_frames(*keys: str, d: Shape | None = None, label: str | None = None, lists: Iterable[str] = ()) -> Layout:
    """A SequenceExample with a FloatList for each frame: what `tf.io.parse_single_sequence_example` reads.

    The vectors of OpenNMT-tf are this with the key `values` (opennmt.inputters.write_sequence_record).

    Args:
        keys: of the feature lists; the first is the one that buckets.
        d: values in a frame, or the shape of one; None: found in the first record.
        label: key of the label, in the context.
        lists: int64 keys that have any number of values, where the first records do not show it.
    """
    shape = (d,) if isinstance(d, int) else d
    return Layout("float_frames", tuple(Frames(key, "float_frames", shape) for key in keys), label, _listed(lists))


def byte_frames(*keys: str, dtype: str, d: Shape | None = None, label: str | None = None, lists: Iterable[str] = ()) -> Layout:
    """A SequenceExample with one bytes value for each frame, `frame.tobytes()`.

    Args:
        keys: of the feature lists; the first is the one that buckets.
        dtype: of the values, little-endian.
        d: values in a frame, or the shape of one; None: found in the first record.
        label: key of the label, in the context.
        lists: int64 keys that have any number of values, where the first records do not show it.
    """
    _refuse_ellipsis("dtype", dtype)
    shape = (d,) if isinstance(d, int) else d
    return Layout("byte_frames", tuple(Frames(key, "byte_frames", shape, dtype) for key in keys), label, _listed(lists))


def audioset(*, classes: int | None = None) -> Layout:
    """AudioSet's embeddings: a SequenceExample of 128 unsigned bytes a second.

    Feature list `audio_embedding`; context `video_id`, `start_time_seconds`, `end_time_seconds` and `labels`, the indices of the classes
    (research.google.com/audioset/download.html, "Features dataset"). Delivered as they stand, 0 to 255.

    Args:
        classes: 527 to have the labels as a vector of 0 and 1; None: a list of varying length.
    """
    frames = Frames("audio_embedding", "byte_frames", (128,), "uint8")
    return Layout("audioset", (frames,), "labels", (Listed("labels", _classes(classes)),))


def youtube8m(*, features: tuple[str, ...] = ("rgb", "audio"), classes: int | None = None) -> Layout:
    """YouTube-8M's features of frames: a SequenceExample of 1,024 (`rgb`) and 128 (`audio`) unsigned bytes a second.

    Context `id` and `labels` (research.google.com/youtube8m/download.html, "Frame-level features dataset"). Delivered as the published
    reader does (`Dequantize` in utils.py of github.com/google/youtube-8m): from [0, 255] to [-2, 2] by q * 4 / 255 + 4 / 512 - 2.

    Args:
        features: the feature lists, the one that buckets first.
        classes: 3862 to have the labels as a vector of 0 and 1; None: a list of varying length.

    Raises:
        ArgumentError: a feature list has another name.
    """
    sizes = {"rgb": 1024, "audio": 128}
    if not features or not set(features) <= set(sizes):
        raise ArgumentError(f"youtube8m: the feature lists are rgb and audio, came with {features!r}.")
    frames = tuple(Frames(key, "byte_frames", (sizes[key],), "uint8", scale=_YOUTUBE8M_SCALE) for key in features)
    return Layout("youtube8m", frames, "labels", (Listed("labels", _classes(classes)),))


def _listed(keys: Iterable[str]) -> tuple[Listed, ...]:
    return tuple(Listed(key) for key in ((keys,) if isinstance(keys, str) else keys))


def _classes(classes: Any) -> int | None:
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or not 1 <= classes <= 1 << 20):
        raise ArgumentError(f"classes: came as {classes!r}, expected how many classes there are, or None.")
    return classes


def _counted(length: str | None, shape: str | None) -> dict[str, Any]:
    if length is not None and shape is not None:
        raise ArgumentError("layout: length and shape are two ways to say how many frames there are; pass one.")
    return {"count_key": length or shape, "count": "shape" if shape else "length"}


def _refuse_ellipsis(what: str, value: Any) -> None:
    """`vlpipe inspect` writes `...` for what it cannot know."""
    if value is ...:
        raise ArgumentError(f"layout: {what} came as ..., in whose place you have to say it, such as {what}={_SUCH[what]}.")


def _shape(d: Shape | None, length: str | None, shape: str | None) -> tuple[int, ...] | None:
    _refuse_ellipsis("d", d)
    if d is None and length is None and shape is None:
        raise ArgumentError(
            "layout: how many values a frame has is not known. Pass d=..., or the key that says it: length=... or shape=..."
        )
    return (d,) if isinstance(d, int) else d
