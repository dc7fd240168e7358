"""`make_dataset`: the one call, and the page that reads as the pipeline."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import tensorflow as tf

from vlpipe.engines import graph, mapped, stream
from vlpipe.engines.deliver import deliver
from vlpipe.engines.epochs import epochs
from vlpipe.engines.python_calls import keep_alive
from vlpipe.planning.argument_checks import suggesting_names
from vlpipe.planning.argument_types import (
    Batching,
    CheckFinite,
    ClassWeight,
    Engine,
    LabelClasses,
    OnDamage,
    OutOfRange,
    PadTo,
    Remainder,
    Shapes,
    Verify,
)
from vlpipe.planning.begin_run import begin_run, with_seed
from vlpipe.planning.class_weights import tables
from vlpipe.planning.make_plan import make_plan
from vlpipe.planning.options import DEFAULT_DTYPE, DEFAULT_PAD_TO, DEFAULT_REMAINDER, Options
from vlpipe.planning.plan import Plan
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.paths import Opened, Source
from vlpipe.transforms.augmentations import Augmentation
from vlpipe.transforms.crop import Crop
from vlpipe.transforms.transform import Transform
from vlpipe.transforms.windows import Windows

if TYPE_CHECKING:
    from vlpipe.layouts.base import Layout


@suggesting_names
def make_dataset(
    source: Source,
    *,
    batching: Batching = "bucket",
    batch_size: int | None = None,
    frames_per_batch: int | None = None,
    multiple_of: int | None = None,
    buckets: int | Iterable[int] | None = None,
    pad_to: PadTo = DEFAULT_PAD_TO,
    remainder: Remainder = DEFAULT_REMAINDER,
    shapes: Shapes = "any",
    length_range: tuple[int | None, int | None] = (1, None),
    out_of_range: OutOfRange = "error",
    shuffle: bool = True,
    seed: int | None = None,
    repeat: bool = False,
    resume: dict[str, Any] | None = None,
    features: str | tuple[str, ...] | None = None,
    label: str | tuple[str, ...] | Literal[False] | None = None,
    aligned: str | tuple[str, ...] | Literal[False] | None = None,
    lengths: bool = False,
    ids: bool = False,
    label_padding: int | Mapping[str, float] = -1,
    padding_value: float | Mapping[str, float] = 0.0,
    class_weight: ClassWeight = None,
    dtype: str = DEFAULT_DTYPE,
    crop: int | Crop | None = None,
    windows: int | Windows | None = None,
    transform: Callable[[Any], Any] | Transform | None = None,
    normalize: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Opened | None = None,
    augment: Augmentation | Sequence[Augmentation] | None = None,
    layout: str | Layout | None = None,
    label_classes: LabelClasses = None,
    shard: tuple[int, int] = (0, 1),
    engine: Engine = "auto",
    verify: Verify = "first",
    on_damage: OnDamage = "error",
    check_finite: CheckFinite = None,
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """A `tf.data.Dataset` of batches of variable-length sequences, ready for `model.fit`.

    Elements are `(x, y)`; `(x, y, sample_weight)` with remainder="pad" (y is None without a label) or `class_weight`; `(x,)` without a
    label.
    x is `[B, T, d]` (under "ragged" a `tf.RaggedTensor`), or with `lengths` or `ids` a dict {"features": x, "lengths": int32 [B],
    "id": int64 [B]}. Several features make a dict of their names; with `lengths`, also NAME_lengths for each. A label that is a
    sequence is int64 `[B, U]`, padded with `label_padding`; with `lengths`, its true lengths are x["label_lengths"]. One that is `aligned`
    is `[B, T]`.

    With repeat=False each iteration is one epoch in a new order, and `len(dataset)` is exact. With repeat=True the dataset is one
    endless run of epochs, for `fit(dataset, steps_per_epoch=plan.steps_per_epoch)`, and for the tf.data service. A `tf.train.Checkpoint`
    of an iterator goes on where it was saved; with repeat=False the epochs after it follow, unless it was saved at the end of an epoch.

    Frames are cropped, transformed, normalised, augmented and padded, in this order; what augments waveforms comes before the transform.
    The crop comes first, so that frames outside it need not be copied. Normalisation comes after the transform, so that it applies to what
    the model sees, and before the masks, so that they change neither mean nor variance. Padding comes last, and none of these touches it.
    `length_range` applies to the true lengths, before all of these; a record of which the transform leaves no frame is outside of it too,
    unless its shortest is 0. Of several features, only the key feature (the first) is transformed and augmented; it is cropped together
    with all that is `aligned`; all features are normalised. The plan computes the lengths after crop and transform, so that buckets and
    steps are exact. All randomness depends on (seed, epoch, record, window) alone.

    Args:
        source: a dataset directory, a glob, a file, or a list of these; or the address of a dataset directory, such as
            gs://bucket/train, or addresses of third-party files, such as gs://bucket/*.tfrecord. Of datasets whose class names
            (`metadata["classes"]`) differ, labels have the numbers of the first; names that only later ones have are appended. Or what
            `vlpipe.open` returned, a selection of it, or a mix (`vlpipe.mix`).
        batching: "bucket" (sequences of similar length together), "pad" (in any order, padded), "ragged" (in any order, unpadded),
            or "same_length" (only sequences of one length together).
        batch_size: sequences in a batch; None: 32, or no limit with `frames_per_batch`.
        frames_per_batch: a budget of padded frames for a batch; `batch_size` is then only an upper limit.
        multiple_of: batch sizes are rounded down to a multiple of it (at least it, also beyond a budget), and short batches come last;
            None: the replicas of the `tf.distribute` strategy in scope. Keras fails if they cannot share the first batch evenly, or if a
            batch has no row for each: with remainder="keep", the latter is refused.
        buckets: upper lengths of the buckets (inclusive, in frames), or their number, or None; without lengths, those that pad least.
        pad_to: "longest" sequence of the batch, or "boundary" of the bucket: few static shapes, for XLA. Labels and features with
            lengths of their own are then padded to the longest that the bucket has.
        remainder: what to do with a short last batch of a bucket: "keep" it, "drop" it (counted), or "pad" it: repeat rows with sample
            weight 0. Keras' `evaluate` counts these in the denominator of the loss and in every unweighted metric; evaluate with
            "keep" or `vlpipe.evaluate`.
        shapes: "any", or "static": few shapes `[B, T, d]`, all known before reading, for JAX and XLA, which compile a model for each:
            pad_to="boundary" and remainder="pad" in one word, and 8 buckets, if `buckets` says nothing else. There are then at most as
            many shapes as buckets (one with batching="pad"); `vlpipe.plan(...).shapes` has them. Arguments that say otherwise are refused.
        length_range: shortest and longest length in frames, None: no limit.
        out_of_range: what to do with a record outside `length_range`: "error", "drop" (counted), or "truncate" (the key feature of longer
            ones; shorter ones are dropped and counted). Those that the transform leaves no frame of count as "transformed_too_short".
        shuffle: a new order every epoch; False: the same batches in every epoch, in the order of the files as far as buckets keep it
            ("pad" and "ragged" keep it; `vlpipe.predict` answers in it, whatever the batches).
        seed: the same seed gives the same orders on any machine; None draws one and logs it.
        repeat: one endless run of epochs; every iterator over the dataset starts at the same position.
        resume: with repeat=True, where to start: `vlpipe.plan(...).state(epoch, batch)`, of a run with the same arguments (without
            `frames_per_batch`, any batch_size and world of the same product).
        features: name of the sequence in the schema, a tuple of names for a dict; None: the only candidate.
        label: name of the label, a tuple of names for a dict, False for none; None: the field with the name of a label ("label",
            "class_id", "target"), else the only one that can be it. Lengths, rates, times, counters, ids and constants are never taken.
        aligned: which labels and further features have one value for each frame of the key feature (voice activity, phones, pitch): a
            name or a tuple of names, besides those that the schema has as `Sequence(..., aligned=True)`; None: also those that are as
            long as it in every record (logged); False: none. They are truncated, cropped and padded with it, to the same T, also with
            pad_to="boundary", and are ragged under "ragged". SpecAugment leaves them alone. With the `length_fn` of a custom layout
            the index does not know the lengths of labels: name them; they are compared when they are read.
        lengths: also deliver the true lengths.
        ids: also deliver the row of each record in the index, and with `windows` as x["start"] (int64 `[B]`) the first frame of each.
        label_padding: padding of labels that are sequences: an integer for all, or numbers by name, such as {"words": -1, "phones": 0,
            "weights": 0}; labels that it does not name get -1.
        padding_value: padding of features: a number for all, or numbers by name, such as {"mel": -13.8}; features that it does not name
            get 0. A padding that its dtype cannot hold, and a name that is not delivered, are errors.
        class_weight: weights by class, such as {0: 1.0, 1: 2.5} (others: 1), or "balanced", those of `vlpipe.class_weights`; of several
            labels, a dict of these by name. They are multiplied into the sample weights, which Keras' own `class_weight` cannot do:
            one weight a row, or one for each value of a label that is a sequence, 0 where it is padded. A vector with a number for
            each class gets the mean weight of its classes. With several labels sample_weight is a dict, as Keras takes it.
        dtype: dtype of the delivered features. Where it is left out, they are float32, but integers of 32 bits or more, from which nothing
            is computed (`transform`, `normalize`, `augment`), stay what they are: float32 does not hold them all. A record with an
            integer that a float dtype does not hold exactly, or with a number beyond its range, is an error that names the record and
            the value; only pairs of dtypes where that can happen are tested, as the frames are read.
        crop: the most frames of each sequence: a number, for the first frames, or a `vlpipe.Crop`, such as
            `vlpipe.Crop(300, random=True)`.
        windows: pieces of equal length, each of which is a sequence of a batch, instead of whole records: a number of frames, or
            `vlpipe.Windows(300, hop=150)`. Buckets, steps and `remainder` count windows; labels that have one value a record come with
            each of its windows. Not with `crop`, nor in the stream engine.
        transform: a function x [T, d] -> [T, d'] of one sequence, in TensorFlow's operations and of the same dtype; or a
            `vlpipe.Transform`, which declares how T changes and what then happens to aligned sequences. With it, `vlpipe.plan`
            loads TensorFlow to trace it. Or an audio feature, such as `vlpipe.audio.LogMel()`, of a waveform `[N]` or `[N, 1]`: integers
            are scaled to [-1, 1] by the range of their dtype, and `crop`, `windows` and `length_range` count samples. A sample rate that
            the source has (`metadata["sample_rate"]`, or of a layout) must be that of the feature; files of `layouts.encoded_audio` are
            resampled as they are read.
        normalize: each dimension to mean 0 and variance 1: "utterance", over the delivered frames of each sequence; or "global", with the
            statistics of the stored frames of the source (in its `vlpipe.json`, or computed by `vlpipe stats SOURCE --compute` or
            `source.with_statistics()`; of several datasets, pooled); or, for validation data, a path: with the statistics of the dataset
            there, of its `vlpipe.json`, or of a file that `vlpipe stats SOURCE --json` wrote; or a list of datasets, with those of all
            their frames; or an open source, with its statistics.
            `vlpipe/transforms/normalize.py` has the formula.
        augment: what is changed at random, in another way in every epoch: one augmentation or a list. They are applied stage by stage,
            whatever their order in the list, and within a stage in that order; `plan.report()` lists them as they are applied. First come
            the samples that are read, before `transform`: `vlpipe.Gain`, `vlpipe.AddNoise`, `vlpipe.TimeShift`, `vlpipe.SpeedPerturb` (a
            copy of each record for each speed) and `vlpipe.audio.Augment` (a function in Python; not in the graph engine). The key feature
            must then be a waveform, `[N]` or `[N, 1]`. Integers are scaled to [-1, 1] before if `transform` is an audio feature; else they
            must be signed, and become floats in the same unit.
            `vlpipe.SpecAugment` masks time and frequency of features `[T, d]`, after `normalize`. `vlpipe.Mixup` comes last: it mixes each
            sequence with another one of its batch, and their labels; with `ids`, x["partner"] is the row of the other.
        layout: how third-party records are laid out: a layout of `vlpipe.layouts`, or the name of one that needs no arguments, such as
            "audioset"; None: detected from the first records, if they are unambiguous.
        label_classes: the names of the classes of a label that is a text, by number: a list, a file with one name a line, a dataset, or an
            open source; {NAME: these} names the label. It is delivered as int64; a text that is none of the names is an error. The texts
            are read when the source is opened.
        shard: (rank, world): the part of the records that this process reads, for training (an evaluation would see this part alone, and
            the repeated rows of remainder="pad"). The default is right on one machine only: with
            `MultiWorkerMirroredStrategy`, each worker passes its own.
        engine: "mapped", "graph", "stream", or "auto": the first one that can read the files.
        verify: when the mapped engine compares a record with its checksum in the index: at the "first" read, "always", or "never". The
            stream engine compares it at every read, unless "never". The graph engine, for which TensorFlow has no such op, compares the
            checksum stored behind each record of local files when the dataset is made (16 bytes of each are read), and at every read the
            size of the record, its labels and the place of native frames; a record that is rewritten while the dataset is open, with
            other frames of the same size and the same label, is delivered as it then is. With "never" it compares sizes alone.
        on_damage: what to do with a record that is damaged when it is read (its checksum differs, it cannot be read, its values cannot be
            parsed or decoded, or disagree with the index): "error", or `vlpipe.Skip(most=10)`: leave it out of its batch, with its labels,
            log its place, and end the run with an error that names all once more than `most` different ones are met. With remainder="pad"
            intact rows of the batch are repeated with weight 0 in its place, so that all shapes stay; otherwise the batch has fewer rows.
            A batch that loses all rows has another record of its bucket, so that steps stay: with weight 0 under "pad", else as one row. A
            shard that is missing or has another size stays an error. `vlpipe.callbacks.SkippedRecords` has the places; states name them.
            To know before, take `source.select(without=vlpipe.verify(source))`. Not in the stream engine.
        check_finite: what to do with NaN and infinities in features and in labels of floats: None: deliver them; "error": end with an
            error that names file, record, byte and first frame; "zero": deliver 0 in their place in features (in labels they are errors,
            because a model would learn a target that nobody set). Tested is what the model gets: after crop, transform, normalisation,
            augmentation and the conversion to `dtype`, without the padding; where the record is finite as stored, the error says which of
            these made the value. "zero" also replaces the values as they are read, before the transform and the mean of a sequence. With
            `vlpipe.Skip(...)` and "error", a record that has such a value as stored is damaged, and left out. `vlpipe stats` counts
            them, `vlpipe verify --finite` names them. Where a NaN in a label means "unknown", leave it at None.
        num_parallel_calls: batches (stream: records) that are made in parallel; None: as many as the engine makes use of.

    Raises:
        VlpipeError: one of its subclasses, before iteration: the source is missing or damaged, or an argument cannot be served.
        tf.errors.OpError: while iterating, if a record is damaged (see `on_damage`), or has a value that the arguments cannot serve; the
            text names the file and the record. Most often it is the subclass `tf.errors.InvalidArgumentError`: catch OpError.

    Example:
        >>> vlpipe.write("data/train", ({"features": np.ones((t, 8), np.float32), "label": t % 2} for t in range(1, 101)))
        >>> train = vlpipe.make_dataset("data/train", batch_size=10)
        >>> len(train), train.element_spec[0].shape
        (10, TensorShape([None, None, 8]))
    """
    options = with_seed(
        Options(
            batching=batching,
            batch_size=batch_size,
            frames_per_batch=frames_per_batch,
            multiple_of=multiple_of,
            buckets=buckets,  # type: ignore[arg-type]  # an iterable becomes a tuple
            pad_to=pad_to,
            remainder=remainder,
            shapes=shapes,
            length_range=length_range,
            out_of_range=out_of_range,
            shuffle=shuffle,
            seed=seed,
            repeat=repeat,
            resume=resume,
            features=features,
            label=label,
            aligned=aligned,
            lengths=lengths,
            ids=ids,
            label_padding=label_padding,
            padding_value=padding_value,
            class_weight=class_weight,
            dtype=dtype,
            crop=crop,  # type: ignore[arg-type]  # a number becomes a Crop
            windows=windows,  # type: ignore[arg-type]  # a number becomes Windows
            transform=transform,  # type: ignore[arg-type]  # a function becomes a Transform
            normalize=normalize,  # type: ignore[arg-type]  # a path becomes absolute
            augment=augment,  # type: ignore[arg-type]  # one or a list becomes a tuple
            layout=layout,
            label_classes=label_classes,
            shard=shard,
            engine=engine,
            verify=verify,
            on_damage=on_damage,
            check_finite=check_finite,
            num_parallel_calls=num_parallel_calls,
        )
    )
    return batches_of(make_plan(open_anywhere(source, options.layout, options.label_classes, options.label), options))


def batches_of(plan: Plan) -> tf.data.Dataset:
    """The dataset that delivers a plan, whose options have a seed where they need one.

    Raises:
        ArgumentError: with repeat=True, no batch would ever come, or the state to resume belongs to another run.
    """
    options = plan.options
    start, skipped = begin_run(plan)
    engines: dict[str, Callable[..., tf.data.Dataset]] = {
        "mapped": functools.partial(mapped.batches, skipped=skipped),
        "graph": functools.partial(graph.batches, skipped=skipped),
        "stream": stream.batches,
    }
    class_weights = tables(plan.index, plan.selection.labels, options.class_weight)
    runs = epochs(options.repeat, start)
    batches = runs.counted(engines[plan.engine](plan, runs, lambda batch: deliver(batch, plan, class_weights)))
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if options.repeat else plan.steps_per_epoch)
    )
    dataset = batches.with_options(_tf_options(plan))
    if options.check_finite is not None:
        keep_alive(plan, dataset)  # it names records in errors
    dataset.vlpipe_remainder = options.remainder  # for the warning of `layers.Model.evaluate`
    dataset.vlpipe_skipped = skipped  # for `callbacks.SkippedRecords`
    dataset.vlpipe_plan = plan  # for `callbacks.InputMonitor`
    return dataset


def _tf_options(plan: Plan) -> tf.data.Options:
    options = tf.data.Options()
    # A symbolic checkpoint of an iterator is its position, a few KB, instead of the tensors in its buffers: for endless runs, which are
    # those that are resumed. Neither bucket_by_sequence_length nor cache(filename) and snapshot(), which save single epochs, support it.
    options.experimental_symbolic_checkpoint = plan.engine != "stream" and plan.options.repeat
    # The others count epochs with a generator of seeds, of which a checkpoint has what it needs (`epochs`).
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    options.deterministic = True
    # With autotuning, deleting an iterator waits until the autotuner's thread wakes up (0.4 s and more).
    options.autotune.enabled = False
    if plan.engine == "mapped":  # tf.data's rewriting of the pipeline finds nothing there, and takes 7 ms at the start of each epoch
        options.experimental_optimization.apply_default_optimizations = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
