"""Ways to batch sequences of different lengths: dataset -> dataset.

Each takes a `tf.data.Dataset` of elements `x` or `(x, ...)`, where x is `[T, d]` (or `[T]`, or a dict of such) and T differs from
element to element, and returns a dataset of batches. What stands beside x is batched along with it; if its own length
differs (a transcript), it is padded with `label_padding`, never to the bucket's boundary.

    bucket        sequences of similar length together, padded to the longest of the batch or to the bucket's boundary
    pad           whatever comes next, padded to the longest of the batch
    ragged        whatever comes next, as a `tf.RaggedTensor`, nothing padded
    same_length   only sequences of one length, nothing padded

Each is called with the dataset, or without it for `Dataset.apply`:

    vlpipe.builders.bucket(dataset, batch_size=32)
    dataset.apply(vlpipe.builders.bucket(batch_size=32))

Common arguments:

    batch_size       sequences a batch (32; with `frames_per_batch` no limit)
    remainder        a short last batch: "keep" it, "drop" it, or "pad" it by repeating rows; then a last component of the
                     element, float32 `[B]`, is the sample weight: 0 for these rows (of x alone: (x, None, weight))
    lengths          deliver true lengths too: x becomes {"features": x, "lengths": int32 [B]}; of a dict x, each NAME gets
                     NAME_lengths; a label with a length of its own adds "label_lengths"
    padding_value    what x is padded with
    label_padding    what a label with a length of its own is padded with
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.grouping import Flat, Grouping, group, with_lengths
from vlpipe.errors import ArgumentError
from vlpipe.planning.buckets import boundaries_for, histogram
from vlpipe.planning.options import MAX_FRAMES, Options, checked_padding

__all__ = ["bucket", "pad", "ragged", "same_length"]

SAMPLE = 4096  # elements whose lengths choose the boundaries, where none are given
_log = logging.getLogger("vlpipe")

Transformation = Callable[[tf.data.Dataset], tf.data.Dataset]


def _applicable(builder: Callable[..., tf.data.Dataset]) -> Callable[..., Any]:
    """Called without a dataset, the builder returns a function of one, for `Dataset.apply`."""

    build = tf.autograph.experimental.do_not_convert(builder)  # nothing here needs it, and it takes time to trace

    @functools.wraps(builder)
    def wrapper(dataset: tf.data.Dataset | None = None, **arguments: Any) -> tf.data.Dataset | Transformation:
        if dataset is None:
            return functools.partial(build, **arguments)
        if not isinstance(dataset, tf.data.Dataset):
            raise ArgumentError(
                f"builders.{builder.__name__}: came with {type(dataset).__name__}, expected a tf.data.Dataset of x or (x, ...)."
            )
        return build(dataset, **arguments)

    return wrapper


@_applicable
def bucket(
    dataset: tf.data.Dataset,
    *,
    batch_size: int | None = None,
    frames_per_batch: int | None = None,
    buckets: int | list[int] | None = None,
    pad_to: str = "longest",
    remainder: str = "keep",
    lengths: bool = False,
    padding_value: float = 0.0,
    label_padding: int = -1,
) -> tf.data.Dataset:
    """Batch sequences of similar length together, on `Dataset.bucket_by_sequence_length`.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size: sequences a batch; with `frames_per_batch` only a cap.
        frames_per_batch: a budget of padded frames a batch; a longer sequence is a batch of its own.
        buckets: inclusive upper lengths of the buckets, how many, or None. Without the lengths, boundaries are chosen that pad the
            first 4,096 elements least. What is longer than the last boundary comes into one more, open bucket.
        pad_to: "longest" of the batch, or "boundary" of the bucket; then a sequence longer than the last boundary is an error.
        remainder, lengths, padding_value, label_padding: see the module.

    Returns:
        A dataset of batches: x `[B, T, d]`, and the rest `[B, ...]`.

    Raises:
        ArgumentError: an argument has no such value, or the elements are not sequences.
        tf.errors.InvalidArgumentError: while iterating, with pad_to="boundary", on a sequence longer than the last boundary.

    Example:
        >>> frames = tf.data.Dataset.from_tensor_slices([3, 9, 4]).map(lambda t: tf.ones([t, 8]))
        >>> [batch.shape.as_list() for batch in vlpipe.builders.bucket(frames, batch_size=2, buckets=[5, 10])]
        [[2, 4, 8], [1, 9, 8]]
    """
    options = Options.of(
        batch_size=batch_size,
        frames_per_batch=frames_per_batch,
        buckets=buckets,
        pad_to=pad_to,
        remainder=remainder,
        lengths=lengths,
        padding_value=padding_value,
        label_padding=label_padding,
    )
    return _built(dataset, options)


@_applicable
def pad(
    dataset: tf.data.Dataset,
    *,
    batch_size: int | None = None,
    remainder: str = "keep",
    lengths: bool = False,
    padding_value: float = 0.0,
    label_padding: int = -1,
) -> tf.data.Dataset:
    """Batch what comes next, padded to the longest of the batch, on `Dataset.padded_batch`.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size, remainder, lengths, padding_value, label_padding: see the module.

    Returns:
        A dataset of batches: x `[B, T, d]`, and the rest `[B, ...]`.

    Raises:
        ArgumentError: an argument has no such value, or the elements are not sequences.

    Example:
        >>> frames = tf.data.Dataset.from_tensor_slices([3, 9, 4]).map(lambda t: tf.ones([t, 8]))
        >>> [batch.shape.as_list() for batch in vlpipe.builders.pad(frames, batch_size=2)]
        [[2, 9, 8], [1, 4, 8]]
    """
    options = Options.of(
        batching="pad",
        batch_size=batch_size,
        remainder=remainder,
        lengths=lengths,
        padding_value=padding_value,
        label_padding=label_padding,
    )
    return _built(dataset, options)


@_applicable
def ragged(
    dataset: tf.data.Dataset, *, batch_size: int | None = None, remainder: str = "keep", lengths: bool = False, label_padding: int = -1
) -> tf.data.Dataset:
    """Batch what comes next as a `tf.RaggedTensor`, on `Dataset.ragged_batch`.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size, remainder, lengths, label_padding: see the module.

    Returns:
        A dataset of batches: x a RaggedTensor `[B, None, d]`, and the rest `[B, ...]`.

    Raises:
        ArgumentError: an argument has no such value, or the elements are not sequences.

    Example:
        >>> frames = tf.data.Dataset.from_tensor_slices([3, 9, 4]).map(lambda t: tf.ones([t, 8]))
        >>> [batch.row_lengths().numpy().tolist() for batch in vlpipe.builders.ragged(frames, batch_size=2)]
        [[3, 9], [4]]
    """
    options = Options.of(batching="ragged", batch_size=batch_size, remainder=remainder, lengths=lengths, label_padding=label_padding)
    return _built(dataset, options)


@_applicable
def same_length(
    dataset: tf.data.Dataset,
    *,
    batch_size: int | None = None,
    frames_per_batch: int | None = None,
    remainder: str = "keep",
    lengths: bool = False,
    padding_value: float = 0.0,
    label_padding: int = -1,
) -> tf.data.Dataset:
    """Batch only sequences of one length together, on `Dataset.group_by_window`; nothing is padded.

    Sequences whose length is rare wait until the end and come in short batches.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size: sequences a batch; with `frames_per_batch` only a cap.
        frames_per_batch: a budget of frames a batch; a longer sequence is a batch of its own.
        remainder, lengths, padding_value, label_padding: see the module; the padding value is for further features of a dict x.

    Returns:
        A dataset of batches: x `[B, T, d]`, and the rest `[B, ...]`.

    Raises:
        ArgumentError: an argument has no such value, or the elements are not sequences.

    Example:
        >>> frames = tf.data.Dataset.from_tensor_slices([3, 9, 3]).map(lambda t: tf.ones([t, 8]))
        >>> [batch.shape.as_list() for batch in vlpipe.builders.same_length(frames, batch_size=2)]
        [[2, 3, 8], [1, 9, 8]]
    """
    options = Options.of(
        batching="same_length",
        batch_size=batch_size,
        frames_per_batch=frames_per_batch,
        remainder=remainder,
        lengths=lengths,
        padding_value=padding_value,
        label_padding=label_padding,
    )
    return _built(dataset, options)


def _built(dataset: tf.data.Dataset, options: Options) -> tf.data.Dataset:
    elements = _Elements(dataset.element_spec, options)
    records = dataset.map(elements.flat)
    boundaries: tuple[int, ...] = (MAX_FRAMES,)
    if options.batching == "bucket":
        given = options.buckets
        boundaries = given if isinstance(given, tuple) else _sampled_boundaries(records, elements.key, options)
        if options.pad_to == "boundary":
            records = records.map(functools.partial(_checked, length=f"n:{elements.key}", longest=boundaries[-1]))
        else:
            boundaries = (*boundaries, MAX_FRAMES)
    grouping = Grouping(options, elements.key, boundaries, tuple(options.batch_size_for(boundary) for boundary in boundaries))
    return group(records, grouping).map(functools.partial(elements.restore, lengths=options.lengths))


def _sampled_boundaries(records: tf.data.Dataset, key: str, options: Options) -> tuple[int, ...]:
    lengths = records.map(lambda record: record[f"n:{key}"]).take(SAMPLE)
    frames = np.fromiter(lengths.as_numpy_iterator(), np.int64)
    boundaries = boundaries_for(*histogram(frames), options) or (1,)
    _log.info("boundaries %s chosen from the lengths of the first %d elements", list(boundaries), len(frames))
    return boundaries


def _checked(record: Flat, length: str, longest: int) -> Flat:
    """Without the lengths of all sequences, the last boundary is a promise that must be checked."""
    message = 'a sequence is longer than the last boundary, to which pad_to="boundary" pads. Give a longer one in buckets=[...].'
    check = tf.debugging.assert_less_equal(record[length], longest, message=message, summarize=1)
    with tf.control_dependencies([check] if check is not None else []):
        return {name: tf.identity(value) for name, value in record.items()}


def _check_padding(name: str, dtype: tf.DType, options: Options) -> None:
    """The padding must be a value of the part that it pads: TensorFlow would wrap or round it."""
    option = "label_padding" if name.startswith("y:") else "padding_value"
    value = getattr(options, option)
    if dtype.is_integer or dtype.is_floating:
        try:
            checked_padding(value, dtype.name)
        except ArgumentError:
            raise ArgumentError(
                f"{option}: is {value!r}, which {name[2:]} of the elements, {dtype.name}, cannot hold. Pass another."
            ) from None


class _Elements:
    """A user's elements as flat records and back: `x` or `(x, ...)`."""

    def __init__(self, spec: Any, options: Options) -> None:
        self._bare = type(spec) is not tuple  # a named tuple is one argument to Dataset.map
        x = spec if self._bare else spec[0]
        self._rest: list[Any] = [] if self._bare else list(spec[1:])
        self._single = not isinstance(x, dict)
        features = {"features": x} if self._single else x
        parts = {f"x:{name}": part for name, part in features.items()}
        parts |= {f"y:{number}": part for number, part in enumerate(tf.nest.flatten(self._rest))}
        for name, part in parts.items():
            if not isinstance(part, tf.TensorSpec) or part.shape.rank is None:
                raise ArgumentError(
                    f"builders: {name[2:]} of the elements is {part}, expected dense tensors of known rank; map them first."
                )
        varying = [name for name, part in parts.items() if part.shape.rank and part.shape[0] is None]
        keys = [name for name in varying if name.startswith("x:")]
        if not keys:
            raise ArgumentError(
                f"builders: the elements are {spec}, expected x or (x, ...) with x a tensor [T, d] whose T is None in the spec."
            )
        for name in varying:
            _check_padding(name, parts[name].dtype, options)
        if options.remainder == "pad" and len(self._rest) > 1:
            raise ArgumentError(
                f'remainder="pad": adds a sample weight after (x, y), the elements have {len(self._rest) + 1} parts already.'
            )
        self._features = list(features)
        self._check_lengths(varying, options)
        self.key = keys[0]

    def _check_lengths(self, varying: list[str], options: Options) -> None:
        added = [f"{name[2:]}_lengths" for name in varying if name.startswith("x:")] if not self._single else []
        added += ["label_lengths"] * any(name.startswith("y:") for name in varying)
        both = sorted(set(added) & set(self._features))
        if options.lengths and both:
            raise ArgumentError(f"lengths=True: adds {both} to x, which has these already. Rename them.")

    def flat(self, *element: Any) -> Flat:
        x, *rest = element
        parts = {"x:features": x} if self._single else {f"x:{name}": x[name] for name in self._features}
        return with_lengths({**parts, **{f"y:{number}": value for number, value in enumerate(tf.nest.flatten(rest))}})

    def restore(self, batch: Flat, *, lengths: bool) -> Any:
        x = batch["x:features"] if self._single else {name: batch[f"x:{name}"] for name in self._features}
        if lengths:
            x = self._with_lengths(batch, x)
        flat = [batch[f"y:{number}"] for number in range(len(tf.nest.flatten(self._rest)))]
        rest = tf.nest.pack_sequence_as(self._rest, flat)
        if "weight" in batch:
            return (x, *(rest or [None]), batch["weight"])  # Keras takes the second for the label, whatever it is
        return x if self._bare else (x, *rest)

    def _with_lengths(self, batch: Flat, x: Any) -> dict[str, tf.Tensor]:
        if self._single:
            delivered = {"features": x, "lengths": batch["n:x:features"]}
        else:
            delivered = {**x, **{f"{name}_lengths": batch[f"n:x:{name}"] for name in self._features if f"n:x:{name}" in batch}}
        labels = [name for name in batch if name.startswith("n:y:")]
        names = ["label_lengths"] if len(labels) == 1 else [f"label_{name.removeprefix('n:y:')}_lengths" for name in labels]
        return {**delivered, **{name: batch[label] for name, label in zip(names, labels, strict=True)}}
