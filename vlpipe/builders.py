"""Batch the sequences of any `tf.data.Dataset`, whose lengths differ.

Each function takes a dataset of elements `x` or `(x, ...)`, where x is `[T, d]` (or `[T]`, or a dict of such tensors) and T differs from
element to element, and returns a dataset of batches. The other parts of an element are batched along with x; one whose length differs too
(a transcript) is padded with `label_padding` to the longest of the batch; to the boundary of the bucket only if it is `aligned`.

    bucket        sequences of similar length together, padded to the longest of the batch or to the boundary of the bucket
    pad           sequences in their order, padded to the longest of the batch
    ragged        sequences in their order, as a `tf.RaggedTensor`, without padding
    same_length   only sequences of equal length together, without padding

Call a function with the dataset, or without it for `Dataset.apply`:

    vlpipe.builders.bucket(dataset, batch_size=32)
    dataset.apply(vlpipe.builders.bucket(batch_size=32))

Common arguments:

    batch_size       sequences per batch (default: 32; with `frames_per_batch`: no limit)
    remainder        a short last batch: "keep" it, "drop" it, or "pad" it by repeating rows. With "pad" elements get a sample weight
                     as their last part, float32 `[B]`, 0 for repeated rows (elements x become (x, None, weight))
    lengths          deliver true lengths too: x becomes {"features": x, "lengths": int32 [B]}; a dict x gets NAME_lengths for each
                     NAME; a label of varying length adds "label_lengths"
    aligned          parts that have one value for each frame of x (of a dict x, of its first sequence): a name or a tuple of names. They
                     are padded to the same T, also to the boundary of the bucket, and "ragged" delivers them ragged. An element where the
                     lengths differ is an error. None or False: no part, since the lengths of elements are not known before they are read
    padding_value    padding of x: a number, or numbers by the name of the feature, such as {"mel": -13.8}; others get 0
    label_padding    padding of labels of varying length: an integer, or numbers by the name of the label, such as {"words": -1};
                     others get -1. Labels in nested structures are named by their path ("words/ids", of a tuple "0"), a bare one "label";
                     sample weights "sample_weight"

Each part is padded by what it is: sample weights (the third part of an element) with 0, bools with False unless a name says otherwise, and
texts with "". A padding that the dtype of its part cannot hold is an error.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, overload

import numpy as np
import tensorflow as tf

from vlpipe.arguments import MAX_FRAMES
from vlpipe.engines.element_parts import Known, known_beside_x
from vlpipe.engines.grouping import Flat, Grouping, group, with_lengths
from vlpipe.errors import ArgumentError
from vlpipe.planning.argument_types import PadTo, Remainder
from vlpipe.planning.buckets import boundaries_for, histogram
from vlpipe.planning.options import Options
from vlpipe.planning.paddings import Part, checked_padding, paddings
from vlpipe.storage.example import require

__all__ = ["bucket", "pad", "ragged", "same_length"]


def __dir__() -> list[str]:
    return list(__all__)


SAMPLE = 4096  # elements from whose lengths boundaries are chosen, unless the user passes them
_log = logging.getLogger("vlpipe")

Transformation = Callable[[tf.data.Dataset], tf.data.Dataset]
_Arguments = ParamSpec("_Arguments")


class _Builder(Protocol[_Arguments]):
    """The two ways to call a builder, for type checkers."""

    @overload
    def __call__(self, dataset: tf.data.Dataset, /, *args: _Arguments.args, **arguments: _Arguments.kwargs) -> tf.data.Dataset: ...
    @overload
    def __call__(self, *args: _Arguments.args, **arguments: _Arguments.kwargs) -> Transformation: ...


def _applicable(builder: Callable[Concatenate[tf.data.Dataset, _Arguments], tf.data.Dataset]) -> _Builder[_Arguments]:
    """Make a builder return a function of a dataset, for `Dataset.apply`, where it is called without one."""

    build = tf.autograph.experimental.do_not_convert(builder)  # not needed here, and slow to trace

    @functools.wraps(builder)
    def wrapper(dataset: tf.data.Dataset | None = None, **arguments: Any) -> tf.data.Dataset | Transformation:
        if dataset is None:
            return functools.partial(build, **arguments)
        if not isinstance(dataset, tf.data.Dataset):
            raise ArgumentError(
                f"builders.{builder.__name__}: the dataset is a {type(dataset).__name__}, expected a tf.data.Dataset of x or (x, ...)."
            )
        return build(dataset, **arguments)

    return wrapper  # type: ignore[return-value]  # a function of arguments that `build` checks


@_applicable
def bucket(
    dataset: tf.data.Dataset,
    *,
    batch_size: int | None = None,
    frames_per_batch: int | None = None,
    buckets: int | list[int] | None = None,
    pad_to: PadTo = "longest",
    remainder: Remainder = "keep",
    lengths: bool = False,
    aligned: str | tuple[str, ...] | Literal[False] | None = None,
    padding_value: float | Mapping[str, float] = 0.0,
    label_padding: int | Mapping[str, float] = -1,
) -> tf.data.Dataset:
    """Batch sequences of similar length together, with `Dataset.bucket_by_sequence_length`.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size: sequences per batch; with `frames_per_batch` the maximum.
        frames_per_batch: maximum of padded frames per batch; a longer sequence becomes a batch by itself.
        buckets: inclusive upper lengths of the buckets, or their number, or None. Unless lengths are passed, those boundaries are chosen
            that minimise the padding of the first 4,096 elements. Sequences longer than the last boundary go to an additional bucket.
        pad_to: "longest" of the batch, or "boundary" of the bucket; with "boundary", a sequence longer than the last boundary is an error.
        remainder, lengths, aligned, padding_value, label_padding: see the top of this module.

    Returns:
        A dataset of batches: x `[B, T, d]`, other parts `[B, ...]`.

    Raises:
        ArgumentError: an argument is invalid, or the elements are not sequences.
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
        aligned=aligned,
        label_padding=label_padding,
    )
    return _build(dataset, options, padding_value)


@_applicable
def pad(
    dataset: tf.data.Dataset,
    *,
    batch_size: int | None = None,
    remainder: Remainder = "keep",
    lengths: bool = False,
    aligned: str | tuple[str, ...] | Literal[False] | None = None,
    padding_value: float | Mapping[str, float] = 0.0,
    label_padding: int | Mapping[str, float] = -1,
) -> tf.data.Dataset:
    """Batch sequences in their order, padded to the longest of the batch, with `Dataset.padded_batch`.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size, remainder, lengths, aligned, padding_value, label_padding: see the top of this module.

    Returns:
        A dataset of batches: x `[B, T, d]`, other parts `[B, ...]`.

    Raises:
        ArgumentError: an argument is invalid, or the elements are not sequences.

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
        aligned=aligned,
        label_padding=label_padding,
    )
    return _build(dataset, options, padding_value)


@_applicable
def ragged(
    dataset: tf.data.Dataset,
    *,
    batch_size: int | None = None,
    remainder: Remainder = "keep",
    lengths: bool = False,
    aligned: str | tuple[str, ...] | Literal[False] | None = None,
    label_padding: int | Mapping[str, float] = -1,
) -> tf.data.Dataset:
    """Batch sequences in their order as a `tf.RaggedTensor`, with `Dataset.ragged_batch`.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size, remainder, lengths, aligned, label_padding: see the top of this module.

    Returns:
        A dataset of batches: x a RaggedTensor `[B, None, d]`, other parts `[B, ...]`.

    Raises:
        ArgumentError: an argument is invalid, or the elements are not sequences.

    Example:
        >>> frames = tf.data.Dataset.from_tensor_slices([3, 9, 4]).map(lambda t: tf.ones([t, 8]))
        >>> [batch.row_lengths().numpy().tolist() for batch in vlpipe.builders.ragged(frames, batch_size=2)]
        [[3, 9], [4]]
    """
    options = Options.of(
        batching="ragged", batch_size=batch_size, remainder=remainder, lengths=lengths, aligned=aligned, label_padding=label_padding
    )
    return _build(dataset, options)


@_applicable
def same_length(
    dataset: tf.data.Dataset,
    *,
    batch_size: int | None = None,
    frames_per_batch: int | None = None,
    remainder: Remainder = "keep",
    lengths: bool = False,
    aligned: str | tuple[str, ...] | Literal[False] | None = None,
    padding_value: float | Mapping[str, float] = 0.0,
    label_padding: int | Mapping[str, float] = -1,
) -> tf.data.Dataset:
    """Batch only sequences of equal length together, without padding, with `Dataset.group_by_window`.

    Sequences of a rare length are delivered at the end, in short batches.

    Args:
        dataset: elements `x` or `(x, ...)`, x `[T, d]`.
        batch_size: sequences per batch; with `frames_per_batch` the maximum.
        frames_per_batch: maximum of frames per batch; a longer sequence becomes a batch by itself.
        remainder, lengths, aligned, padding_value, label_padding: see the top of this module; `padding_value` pads the other features of
            a dict x.

    Returns:
        A dataset of batches: x `[B, T, d]`, other parts `[B, ...]`.

    Raises:
        ArgumentError: an argument is invalid, or the elements are not sequences.

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
        aligned=aligned,
        label_padding=label_padding,
    )
    return _build(dataset, options, padding_value)


def _build(dataset: tf.data.Dataset, options: Options, padding_value: Any = 0.0) -> tf.data.Dataset:
    """Batch the elements; `padding_value` is apart from the options, whose dtype is not that of these features."""
    elements = _Elements(dataset.element_spec, options, checked_padding(padding_value, None))
    records = elements.records(dataset)
    boundaries: tuple[int, ...] = (MAX_FRAMES,)
    if options.batching == "bucket":
        boundaries = options.buckets if isinstance(options.buckets, tuple) else _sampled_boundaries(records, elements.key, options)
        if options.pad_to == "boundary":
            records = records.map(functools.partial(_check_length, length=f"n:{elements.key}", longest=boundaries[-1]))
        else:
            boundaries = (*boundaries, MAX_FRAMES)
    sizes = tuple(options.batch_size_for(boundary) for boundary in boundaries)
    grouping = Grouping(options, elements.paddings, elements.key, boundaries, sizes, elements.aligned)
    return group(records, grouping).map(functools.partial(elements.restore, lengths=options.lengths))


def _sampled_boundaries(records: tf.data.Dataset, key: str, options: Options) -> tuple[int, ...]:
    lengths = records.map(lambda record: record[f"n:{key}"]).take(SAMPLE)
    frames = np.fromiter(lengths.as_numpy_iterator(), np.int64)
    boundaries = boundaries_for(*histogram(frames), options) or (1,)
    _log.info("boundaries %s chosen from the lengths of the first %d elements", list(boundaries), len(frames))
    return boundaries


def _check_length(record: Flat, length: str, longest: int) -> Flat:
    """Check each sequence against the last boundary: without an index, nothing guarantees that all are shorter."""
    message = 'a sequence is longer than the last boundary, to which pad_to="boundary" pads. Pass a longer last boundary in buckets=[...].'
    check = tf.debugging.assert_less_equal(record[length], longest, message=message, summarize=1)
    with tf.control_dependencies([check] if check is not None else []):
        return {name: tf.identity(value) for name, value in record.items()}


class _Elements:
    """Converts the user's elements, `x` or `(x, ...)`, to flat records and back."""

    def __init__(self, spec: Any, options: Options, padding_value: Any) -> None:
        self._only_x = type(spec) is not tuple  # Dataset.map passes a named tuple as one argument
        x = spec if self._only_x else spec[0]
        self._rest: list[Any] = [] if self._only_x else list(spec[1:])
        self._single = not isinstance(x, dict)
        features = {"features": x} if self._single else x
        parts = {f"x:{name}": part for name, part in features.items()}
        parts |= {f"y:{number}": part for number, part in enumerate(tf.nest.flatten(self._rest))}
        known = {f"x:{name}": Known(str(name), "padding_value") for name in features} | known_beside_x(self._rest)
        for name, part in parts.items():
            if not isinstance(part, tf.TensorSpec) or part.shape.rank is None:
                raise ArgumentError(
                    f"builders: {known[name].name} of the elements is {part}, expected dense tensors of known rank. Convert it with "
                    "Dataset.map."
                )
        varying = [name for name, part in parts.items() if part.shape.rank and part.shape[0] is None]
        keys = [name for name in varying if name.startswith("x:")]
        if not keys:
            raise ArgumentError(
                f"builders: the elements are {spec}, expected x or (x, ...) with x a tensor [T, d] whose T is None in the spec. "
                "Declare it in the output_signature of Dataset.from_generator."
            )
        self.paddings = paddings(
            {name: Part(*known[name], part.dtype.name, varies=None in part.shape.as_list()) for name, part in parts.items()},
            padding_value=padding_value,
            label_padding=options.label_padding,
        )
        if options.remainder == "pad" and len(self._rest) > 1:
            raise ArgumentError(
                f'remainder="pad": adds a sample weight after (x, y), but the elements already have {len(self._rest) + 1} parts. '
                "Remove a part, or choose another remainder."
            )
        self._features = list(features)
        self._check_lengths(varying, options)
        self.key = keys[0]
        self._names = {name: known[name].name for name in varying}
        self.aligned = self._aligned(options.aligned)

    def _aligned(self, given: Any) -> tuple[str, ...]:
        """The parts with these names, by their names in a flat record."""
        others = {name: known for name, known in self._names.items() if name != self.key}
        named = given if isinstance(given, tuple) else (given,) if given else ()
        unknown = [name for name in named if name not in others.values()]
        if unknown:
            raise ArgumentError(
                f'aligned: names {unknown}, but besides "{self._names[self.key]}" the parts whose length differs are '
                f"{list(others.values())}. Name only these."
            )
        return tuple(name for name, known in others.items() if known in named)

    def records(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The elements as flat records; those of aligned parts are compared with the key feature."""
        if not self.aligned:
            return dataset.map(self.flat)
        return dataset.map(self.flat).enumerate().map(self._checked)

    def _checked(self, number: tf.Tensor, record: Flat) -> Flat:
        frames = record[f"n:{self.key}"]

        def check(name: str) -> tf.Tensor:
            def message() -> tf.Tensor:
                place, values, expected = (tf.strings.as_string(n) for n in (number, record[f"n:{name}"], frames))
                what = [": ", f'"{self._names[name]}" has ', values, f' values, but "{self._names[self.key]}" has ', expected]
                return tf.strings.join(
                    ["aligned: element ", place, *what, " frames; correct the element, or leave the name out of aligned."]
                )

            return require(record[f"n:{name}"] == frames, message)

        with tf.control_dependencies([check(name) for name in self.aligned]):
            return {name: tf.identity(value) for name, value in record.items()}

    def _check_lengths(self, varying: list[str], options: Options) -> None:
        added = [f"{name[2:]}_lengths" for name in varying if name.startswith("x:")] if not self._single else []
        added += ["label_lengths"] * any(name.startswith("y:") for name in varying)
        taken = sorted(set(added) & set(self._features))
        if options.lengths and taken:
            raise ArgumentError(f"lengths=True: adds {taken} to x, which already has features of these names. Rename them.")

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
            return (x, *(rest or [None]), batch["weight"])  # Keras takes the second part for the label
        return x if self._only_x else (x, *rest)

    def _with_lengths(self, batch: Flat, x: Any) -> dict[str, tf.Tensor]:
        if self._single:
            delivered = {"features": x, "lengths": batch["n:x:features"]}
        else:
            delivered = {**x, **{f"{name}_lengths": batch[f"n:x:{name}"] for name in self._features if f"n:x:{name}" in batch}}
        labels = [name for name in batch if name.startswith("n:y:")]
        names = ["label_lengths"] if len(labels) == 1 else [f"label_{name.removeprefix('n:y:')}_lengths" for name in labels]
        return {**delivered, **{name: batch[label] for name, label in zip(names, labels, strict=True)}}
