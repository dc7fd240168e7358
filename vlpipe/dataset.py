"""`make_dataset`: the one call, and the page that reads as the pipeline."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines import graph, mapped, stream
from vlpipe.engines.grouping import Flat
from vlpipe.errors import ArgumentError
from vlpipe.planning.make_plan import make_plan
from vlpipe.planning.options import Options
from vlpipe.planning.plan import Plan
from vlpipe.planning.resume import check_state
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.paths import Source
from vlpipe.transforms.augment import SpecAugment
from vlpipe.transforms.crop import Crop
from vlpipe.transforms.transform import Transform

_log = logging.getLogger("vlpipe")


def make_dataset(
    source: Source,
    *,
    batching: str = "bucket",
    batch_size: int | None = None,
    frames_per_batch: int | None = None,
    buckets: int | list[int] | None = None,
    pad_to: str = "longest",
    remainder: str = "keep",
    length_range: tuple[int | None, int | None] = (1, None),
    out_of_range: str = "error",
    shuffle: bool = True,
    seed: int | None = None,
    repeat: bool = False,
    resume: dict[str, Any] | None = None,
    features: str | tuple[str, ...] | None = None,
    label: str | tuple[str, ...] | bool | None = None,
    lengths: bool = False,
    ids: bool = False,
    label_padding: int = -1,
    padding_value: float = 0.0,
    dtype: str = "float32",
    crop: int | Crop | None = None,
    transform: Callable[[Any], Any] | Transform | None = None,
    normalize: str | os.PathLike[str] | None = None,
    augment: SpecAugment | None = None,
    layout: Any = None,
    shard: tuple[int, int] = (0, 1),
    engine: str = "auto",
    verify: str = "first",
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """A `tf.data.Dataset` of batches of variable-length sequences, ready for `model.fit`.

    Elements are `(x, y)`; `(x, y, sample_weight)` with remainder="pad" (y is None without a label); `(x,)` without a label.
    x is `[B, T, d]` (under "ragged" a `tf.RaggedTensor`), or with `lengths` or `ids` a dict {"features": x, "lengths": int32 [B],
    "id": int64 [B]}. Several features come as a dict of their names, each with NAME_lengths. A label that is a sequence is int64
    `[B, U]`, padded with `label_padding`; its true lengths are then x["label_lengths"].

    With repeat=False each iteration is one epoch in a new order, and `len(dataset)` is exact. With repeat=True the dataset is one
    endless run of epochs, for `fit(dataset, steps_per_epoch=plan.steps_per_epoch)`.

    Frames are cropped, transformed, normalised, augmented and padded, in this order. The crop comes first, so that what it leaves out
    need not be copied. Normalisation comes after the transform, so that it is of what the model sees, and before the masks, so that these
    move neither mean nor variance. Padding comes last and is not touched by any of them. `length_range` is that of the true lengths,
    before all of these. Of several features the first is cropped, transformed and augmented; all are normalised. The plan knows the
    lengths after crop and transform, so that buckets and steps are exact. What is random depends on (seed, epoch, record) alone.

    Args:
        source: dataset directory, glob, file, or a list of these; or the address of a dataset directory, such as gs://bucket/train, or
            addresses of files that vlpipe did not write, such as gs://bucket/*.tfrecord.
        batching: "bucket" (sequences of similar length together), "pad" (whatever comes next), "ragged" (the same, unpadded),
            or "same_length" (only sequences of one length together).
        batch_size: sequences a batch; None: 32, or no limit where `frames_per_batch` is given.
        frames_per_batch: a budget of padded frames a batch; `batch_size` is then only a cap.
        buckets: upper lengths of the buckets (inclusive, frames), how many, or None; without the lengths, those that pad least.
        pad_to: "longest" of the batch, or "boundary" of the bucket: few static shapes, for XLA.
        remainder: a short last batch of a bucket: "keep", "drop" (counted), or "pad": completed by repeating rows with sample weight 0.
        length_range: shortest and longest length in frames, None: no limit.
        out_of_range: a record outside: "error", "drop" (counted), or "truncate" (longer ones, in the feature that buckets; shorter ones
            are dropped, counted).
        shuffle: a new order every epoch; False: the order of the files.
        seed: the same seed gives the same orders on any machine; None draws one and logs it.
        repeat: one endless run of epochs, which every iterator over the dataset starts at the same place.
        resume: with repeat=True, where to start: `vlpipe.plan(...).state(epoch, batch)`.
        features: name of the sequence in the schema, a tuple of names for a dict; None: the only candidate.
        label: name of the label, a tuple of names for a dict, False for none; None: the only candidate, if there is one.
        lengths: deliver the true lengths too.
        ids: deliver each record's row in the index too.
        label_padding: what a label that is a sequence is padded with.
        padding_value: what features are padded with.
        dtype: what features are delivered as.
        crop: at most so many frames of each sequence: a number, for those at its beginning, or a `vlpipe.Crop`, such as
            `vlpipe.Crop(300, random=True)`.
        transform: a function x [T, d] -> [T, d'] of one sequence, in TensorFlow's operations and of the same dtype; or a
            `vlpipe.Transform`, which declares how T changes. With it, `vlpipe.plan` loads TensorFlow to trace it.
        normalize: each dimension to mean 0 and variance 1: "utterance", of each sequence's own frames as delivered; or "global", by the
            statistics of the source's stored frames (in its `vlpipe.json`, or as `vlpipe stats SOURCE --compute` found them; of several
            datasets, pooled); or, for validation data, a path: by the statistics of the dataset there, of its `vlpipe.json`, or of what
            `vlpipe stats SOURCE --json` wrote. See `vlpipe.transforms.normalize`.
        augment: a `vlpipe.SpecAugment`: stretches of time and frequency masked, anew in every epoch.
        layout: how the records are laid out that vlpipe did not write: a layout of `vlpipe.layouts`, or the name of one that needs no
            arguments, such as "audioset"; None: by the first records, where they leave no doubt.
        shard: (rank, world): the part of the records that this process reads.
        engine: "mapped", "graph", "stream", or "auto": the first that can serve.
        verify: when the mapped engine compares a record with the checksum in the index: at the "first" read, "always", "never". The other
            engines test the checksum that stands beside each record in its file, at every read.
        num_parallel_calls: batches (stream: records) that are made at a time; None: as many as the engine makes use of.

    Raises:
        VlpipeError: a subclass of it, before iteration: the source is missing or damaged, or an argument cannot be served.
        tf.errors.InvalidArgumentError: while iterating, when damage is met; the text names the file and the record.

    Example:
        >>> train = vlpipe.make_dataset("data/train")
        >>> model.fit(train, epochs=10)
    """
    arguments = {name: value for name, value in locals().items() if name != "source"}
    options = _with_seed(Options.of(**arguments))
    index = open_anywhere(source, options.layout)
    plan = make_plan(index, options)
    _check_run(plan)
    _report(plan)
    start = (0, 0) if options.resume is None else check_state(plan.identity, plan.steps_per_epoch, options.resume)
    make_batches = {"mapped": mapped.batches, "graph": graph.batches, "stream": stream.batches}[plan.engine]
    batches = make_batches(index, plan, _epochs(options.repeat, start), lambda batch: deliver(batch, plan))
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if options.repeat else plan.steps_per_epoch)
    )
    return batches.with_options(_tf_options(plan))


def _with_seed(options: Options) -> Options:
    if options.seed is not None or not options.is_random:
        return options
    seed = secrets.randbits(31)
    _log.info("seed=%d was drawn; pass it to have the same orders again", seed)
    return dataclasses.replace(options, seed=seed)


def _check_run(plan: Plan) -> None:
    """An endless run of epochs without a batch would never deliver anything, nor end."""
    if plan.options.repeat and not plan.steps_per_epoch:
        raise ArgumentError(
            f"repeat=True: an epoch has no batch: of {plan.total} records, these are not delivered: {plan.refused}. Use a smaller "
            'batch_size, remainder="keep" or another length_range.'
        )


def _report(plan: Plan) -> None:
    """What is not delivered is said once, before the first batch."""
    if plan.refused:
        reasons = ", ".join(f"{count} {reason}" for reason, count in plan.refused.items())
        _log.warning("%d of %d records are not delivered in an epoch: %s", plan.total - plan.records, plan.total, reasons)
    if plan.truncated:
        _log.warning("%d of %d records are truncated to %s frames", plan.truncated, plan.total, plan.options.length_range[1])


def _epochs(repeat: bool, start: tuple[int, int]) -> tf.data.Dataset:
    """The epochs of an iteration as (number, first batch): all from `start` on, or one, the next each time the dataset is iterated over."""
    if repeat:
        epoch, batch = start
        numbers = tf.data.Dataset.range(epoch, 2**62)
        return numbers.map(
            tf.autograph.experimental.do_not_convert(lambda number: (number, tf.where(number == epoch, np.int64(batch), np.int64(0))))
        )
    # The number must be in a checkpoint of the iterator, and a variable is not: only what a dataset holds. So the first of two elements
    # draws the number, and brings no batch; `scan` holds it; the second, which is made anew when an iterator is restored, has the batches.
    with tf.device("CPU:0"):
        next_epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    @tf.autograph.experimental.do_not_convert
    def draw(held: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        drawing = 1 - position
        # After a restore in a fresh process the variable is behind; else it is left alone, as another iterator may be drawing. Arithmetic
        # instead of tf.cond: each branch is a function, and takes 2 ms whenever an iterator is made.
        following = next_epoch.assign_add(tf.maximum(drawing, held + 1 - next_epoch.read_value()))
        number = tf.where(position == 0, following - 1, held)
        return number, (number, drawing * 2**62)

    return tf.data.Dataset.range(2).scan(np.int64(-1), draw)


def deliver(batch: Flat, plan: Plan) -> tuple[Any, ...]:
    """A flat batch as the user gets it: (x, y, sample_weight), (x, y) or (x,)."""
    selection, options = plan.selection, plan.options
    batch = _with_static_shape(batch, plan)
    x: Any = {name: batch[f"x:{name}"] for name in selection.features}
    if selection.single_feature:
        x = {"features": x[selection.key]} if options.lengths or options.ids else x[selection.key]
    if options.lengths:
        for name in selection.features:
            x["lengths" if selection.single_feature else f"{name}_lengths"] = batch[f"n:x:{name}"]
        for name in selection.labels:
            if f"n:y:{name}" in batch:
                x["label_lengths" if selection.single_label else f"{name}_lengths"] = batch[f"n:y:{name}"]
    if options.ids:
        x["id"] = batch["id"]
    y: Any = {name: batch[f"y:{name}"] for name in selection.labels} or None
    if selection.single_label:
        y = batch[f"y:{selection.labels[0]}"]
    if "weight" in batch:
        return x, y, batch["weight"]
    return (x, y) if selection.labels else (x,)


def _with_static_shape(batch: Flat, plan: Plan) -> Flat:
    """What is the same for every batch stands in the element's spec."""
    rows, frames = plan.static_shape
    shapes = {f"x:{plan.selection.key}": [rows, frames]}
    if rows is None and frames is None:
        return batch
    return {
        name: value
        if isinstance(value, tf.RaggedTensor)
        else tf.ensure_shape(value, (shapes.get(name, [rows]) + [None] * value.shape.rank)[: value.shape.rank])
        for name, value in batch.items()
    }


def _tf_options(plan: Plan) -> tf.data.Options:
    options = tf.data.Options()
    # A checkpoint of an iterator is then its place, a few KB, and not the tensors in its buffers; bucket_by_sequence_length has no place.
    options.experimental_symbolic_checkpoint = plan.engine != "stream"
    options.deterministic = True
    # Deleting an iterator waits for the autotuner's sleep (0.4 s and more); with fixed parallelism it does not.
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
