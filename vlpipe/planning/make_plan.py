"""`plan`: from the index and the arguments to a `Plan`.

Integer arithmetic on NumPy arrays; no record is read and TensorFlow is not imported. `make_dataset` follows the same plan, so that it
delivers exactly what the plan forecasts.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.planning.alignment import with_aligned
from vlpipe.planning.buckets import Bucket, boundaries_of, buckets_of, histogram, weighted_histogram
from vlpipe.planning.class_weights import by_label
from vlpipe.planning.drawing import draw, parts_of, rates_of
from vlpipe.planning.dtypes import INTEGER_DTYPES, itemsize_of
from vlpipe.planning.frame_plan import FrameRange, frame_plan_for
from vlpipe.planning.options import Options
from vlpipe.planning.pieces import Pieces, at_speeds, pieces_of
from vlpipe.planning.plan import Plan
from vlpipe.planning.schedule import BatchSpans, Schedule, cut
from vlpipe.planning.selection import Selection, selection_of
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.index import Index
from vlpipe.storage.paths import Source
from vlpipe.transforms.augmentations import of_stage, python_in

if TYPE_CHECKING:  # the package that provides it is TensorFlow's own requirement, and only type checkers need it
    from typing_extensions import Unpack

    from vlpipe.planning.argument_types import Arguments


def plan(source: Source, **arguments: Unpack[Arguments]) -> Plan:
    """Forecast what `make_dataset` with the same arguments delivers, without reading a record or importing TensorFlow.

    Args:
        source: as for `make_dataset`.
        **arguments: as for `make_dataset`.

    Raises:
        VlpipeError: the errors that `make_dataset` raises before the first batch.

    Example:
        >>> vlpipe.write("data/train", ({"features": np.zeros((t, 2), np.float32)} for t in range(1, 101)))
        >>> plan = vlpipe.plan("data/train", batch_size=10)
        >>> plan.steps_per_epoch, f"{plan.valid_ratio:.0%}"
        (10, '85%')
    """
    options = Options.of(**arguments)
    return make_plan(open_anywhere(source, options.layout, options.label_classes, options.label), options)


def _spelled_out() -> inspect.Signature:
    """The signature of `plan` for people and for completion at a prompt: type checkers read it from `Arguments`."""
    source, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    fields = [inspect.Parameter(field.name, keyword, default=field.default, annotation=field.type) for field in dataclasses.fields(Options)]
    return inspect.Signature([inspect.Parameter("source", source, annotation="Source"), *fields], return_annotation="Plan")


plan.__signature__ = _spelled_out()  # type: ignore[attr-defined]


def make_plan(index: Index, options: Options) -> Plan:
    """The plan for an index.

    Raises:
        ArgumentError: a record is outside `length_range` and `out_of_range` is "error", or the engine does not support the arguments.
        SchemaError: the requested fields are not in the schema, or not of the right kind.
    """
    engine = choose_engine(options, local=index.is_local, compressed=index.is_compressed, mixed=index.mixture is not None)
    selection = with_aligned(index, selection_of(index, options), options)
    _check_scaled(index, selection, options)
    by_label(index, selection.labels, options.class_weight)  # raises now, not when the weights are made
    delivered = _within_range(index, selection, options)
    pieces, left_out = pieces_of(delivered.rows, delivered.frames, FrameRange.of(options))
    if len(delivered.rows) and not len(pieces) and options.windows is not None:
        raise ArgumentError(
            f"windows: all {len(delivered.rows)} records are shorter than a window of {options.windows.frames} frames, and "
            'tail="drop" leaves them out. Use shorter windows, or another tail.'
        )
    if options.speed is not None:
        pieces = at_speeds(pieces, options.speeds)
    frames, frame_plan = frame_plan_for(index, selection, options, pieces.frames, pieces.copies)
    delivered, pieces, frames = _with_frames(delivered, pieces, frames, index, selection, options)
    there = len(pieces)
    padded = np.maximum(frames, frame_plan.least) if frame_plan.least else frames
    leaf_of, parts = (None, ()) if index.mixture is None else parts_of(index.mixture, pieces)
    lengths, counts = histogram(padded) if leaf_of is None else weighted_histogram(padded, rates_of(parts)[leaf_of])
    uppers = boundaries_of(lengths, counts, options, engine)
    bucket_of = buckets_of(padded, uppers)
    sizes = [options.batch_size_for(upper) for upper in uppers]
    over_budget, drawing = _over_budget(padded, options), None
    if index.mixture is not None:
        positions, pieces, bucket_of, drawing = draw(index.mixture, index.ids, pieces, parts, bucket_of, options.seed or 0, options.speeds)
        frames = frames[positions]
    records = np.bincount(bucket_of, minlength=len(uppers)).tolist()
    carry = engine != "stream" and options.batching == "bucket"
    spans = cut(records, [size * options.shard[1] for size in sizes], drop=options.remainder == "drop", carry=carry)
    _check_shared(spans, options)
    refused = delivered.refused | {"tail": left_out, "remainder": len(bucket_of) - int(spans.counts.sum())}
    refused = {reason: count for reason, count in refused.items() if count}
    dimensions = {name: frame_plan.dimensions_of(name) for name in selection.features}
    seed = (options.seed or 0) if options.shuffle else None
    return Plan(
        options=options,
        selection=selection,
        engine=engine,
        total=there + sum(delivered.refused.values()) + left_out,
        records=int(spans.counts.sum()),
        refused=refused,
        truncated=delivered.truncated,
        cropped=0 if options.crop is None else int(np.count_nonzero(delivered.frames > options.crop.frames)),
        over_budget=over_budget,
        buckets=_buckets(uppers, sizes, records, lengths, spans, options),
        frame_bytes={
            name: int(np.prod(dimensions[name], dtype=np.int64)) * itemsize_of(selection.dtypes[name]) for name in selection.features
        },
        most_frames={name: int(index.frames(name).max(initial=0)) for name in selection.features},
        index=index,
        pieces=pieces,
        frames=frames,
        schedule=Schedule(
            bucket_of,
            spans,
            seed=seed,
            complete=options.remainder == "pad",
            shard=options.shard,
            multiple_of=options.multiple_of or 1,
            drawing=drawing,
        ),
        frame_plan=frame_plan,
        parts=parts,
    )


def choose_engine(options: Options, *, local: bool = True, compressed: bool = False, mixed: bool = False) -> str:
    """The requested engine, or with "auto" the first one that can read the files.

    Args:
        local: the shards are files that can be mapped.
        compressed: a shard is compressed, so that it can only be read from its beginning.
        mixed: the source is a mix.

    Raises:
        ArgumentError: the requested engine does not support the files or the arguments; the message names one that does.
    """
    first = "stream" if compressed else "mapped" if local else "graph"
    engine = first if options.engine == "auto" else options.engine
    instead = 'Use engine="mapped" or "graph"'
    if compressed:
        instead = "The files are compressed, and only that engine reads them: uncompress or convert them (vlpipe convert)"
    if engine == "mapped" and not local:
        raise ArgumentError('engine="mapped": only local files can be mapped into memory. Use engine="graph", or copy the dataset.')
    if engine != "stream" and compressed:
        raise ArgumentError(
            f"engine={engine!r}: this engine cannot start reading in the middle of a compressed file. Leave engine out, or uncompress or "
            "convert the files (vlpipe convert)."
        )
    if engine == "graph" and (python := python_in(options.augment)) is not None:
        raise ArgumentError(
            f'augment: {python!r} calls Python, but the graph engine is a pure graph. Use engine="mapped", which reads local files, or '
            "vlpipe.Gain, vlpipe.AddNoise, vlpipe.SpeedPerturb and vlpipe.TimeShift."
        )
    if engine == "stream" and of_stage(options.augment, "batch"):
        raise ArgumentError(f"augment: Mixup needs the batches of a plan, and the stream engine has none. {instead}.")
    if engine == "stream" and mixed:
        raise ArgumentError(f"mix: the stream engine delivers every record once an epoch. {instead}.")
    if engine == "stream" and options.windows is not None:
        raise ArgumentError(f"windows: the stream engine delivers whole records. {instead}.")
    if engine == "stream" and options.skips:
        raise ArgumentError(f"on_damage: the stream engine cannot read on behind a damaged record. {instead}.")
    if engine == "stream" and options.resume is not None:
        raise ArgumentError(f"resume: the stream engine cannot start in the middle of a run. {instead}.")
    if engine == "stream" and options.shard[1] > 1:
        raise ArgumentError(f"shard={options.shard}: the stream engine cannot keep ranks in step. {instead}.")
    return engine


def _check_scaled(index: Index, selection: Selection, options: Options) -> None:
    """Refuse to deliver fractions as integers.

    Raises:
        SchemaError: the dtype is an integer, and the stored bytes of a feature stand for fractions.
    """
    for name in selection.features:
        if index.stored(name).scale is not None and options.dtype in INTEGER_DTYPES:
            raise SchemaError(f'dtype={options.dtype!r}: "{name}" is de-quantised to fractions, which would be lost. Use a float dtype.')


class _Delivered(NamedTuple):
    """The records within `length_range`.

    Attributes:
        rows: int64 `[n]`, their rows in the index.
        frames: int64 `[n]`, their lengths after truncation.
        refused: number of the other records, by reason.
        truncated: number of records that are truncated.
    """

    rows: np.ndarray
    frames: np.ndarray
    refused: dict[str, int]
    truncated: int


def _within_range(index: Index, selection: Selection, options: Options) -> _Delivered:
    frames = index.frames(selection.key)
    rows = np.arange(len(frames)) if options.shuffle else index.by_shard()  # without a shuffle, in the order of the files
    frames = frames[rows]
    shortest, longest = options.length_range
    too_short = frames < shortest
    too_long = frames > longest if longest is not None else np.zeros(len(frames), bool)
    if options.out_of_range == "error" and (too_short.any() or too_long.any()):
        first = int(np.flatnonzero(too_short | too_long)[0])
        outside = int(np.count_nonzero(too_short | too_long))
        expected = f"at least {shortest}" if longest is None else f"{shortest} to {longest}"
        record = f'{index.where(int(rows[first]))}: "{selection.key}" has {frames[first]} frames, expected {expected}'
        raise ArgumentError(
            f"{record} ({outside} of {len(frames)} records are outside length_range={options.length_range}). "
            'Pass out_of_range="drop" or "truncate", or a wider length_range.'
        )
    refused = {"too_short": int(too_short.sum())}
    if options.truncation is not None:
        inside = ~too_short
        return _Delivered(rows[inside], np.minimum(frames[inside], options.truncation), refused, int(too_long.sum()))
    inside = ~too_short & ~too_long
    return _Delivered(rows[inside], frames[inside], refused | {"too_long": int(too_long.sum())}, 0)


def _with_frames(
    delivered: _Delivered, pieces: Pieces, frames: np.ndarray, index: Index, selection: Selection, options: Options
) -> tuple[_Delivered, Pieces, np.ndarray]:
    """The pieces of which the transform leaves a frame, unless `length_range` includes sequences without any.

    Only that limit holds after a transform, too: the others are in frames as stored, which may be samples.
    """
    inside = frames >= min(1, options.length_range[0] or 0)
    if inside.all():
        return delivered, pieces, frames
    if options.out_of_range == "error":
        first = int(np.flatnonzero(~inside)[0])
        raise ArgumentError(
            f'{index.where(int(pieces.rows[first]))}: the transform leaves no frame of the {pieces.frames[first]} of "{selection.key}" '
            f"({np.count_nonzero(~inside)} of {len(frames)} records are too short for it). Pass a greater length_range[0], "
            'out_of_range="drop", or length_range=(0, None) if the model takes sequences without frames.'
        )
    pieces, longest = pieces.map(lambda column: column[inside]), options.truncation
    refused = delivered.refused | {"transformed_too_short": int(np.count_nonzero(~inside))}
    truncated = 0 if longest is None else int(np.count_nonzero(index.frames(selection.key)[np.unique(pieces.rows)] > longest))
    return delivered._replace(refused=refused, truncated=truncated), pieces, frames[inside]


def _check_shared(spans: BatchSpans, options: Options) -> None:
    """Refuse a batch of which a replica would have no row: layers such as Conv1D fail on it, at the end of the first epoch.

    Raises:
        ArgumentError: there is one.
    """
    multiple = options.multiple_of or 1
    fewest = int(spans.counts.min(initial=multiple))
    if options.remainder == "keep" and fewest < multiple:
        raise ArgumentError(
            f"multiple_of={multiple}: a short batch has {fewest} of {multiple} rows, so that a replica of the strategy would have none. "
            'Pass remainder="pad" or "drop", or multiple_of=1 if no strategy splits the batches.'
        )


def _over_budget(frames: np.ndarray, options: Options) -> int:
    """Records that alone exceed the budget of frames of a batch."""
    budget = options.frames_per_batch
    return 0 if budget is None or options.batching == "ragged" else int(np.count_nonzero(frames > budget))


def _buckets(
    uppers: tuple[int, ...], sizes: list[int], records: list[int], lengths: np.ndarray, spans: BatchSpans, options: Options
) -> tuple[Bucket, ...]:
    longest = np.zeros(len(uppers), np.int64)
    longest[np.searchsorted(uppers, lengths)] = lengths  # ascending, so that the greatest is written last
    steps = np.bincount(spans.buckets, minlength=len(uppers))
    delivered = (spans.sizes if options.remainder == "pad" else spans.counts) // options.shard[1]
    rows: list[set[int]] = [set() for _ in uppers]
    for bucket, count in np.unique(np.stack([spans.buckets, delivered]), axis=1).T.tolist():
        rows[bucket].add(count)
    return tuple(
        Bucket(upper, size, count, int(most), int(step), tuple(sorted(row, reverse=True)))
        for upper, size, count, most, step, row in zip(uppers, sizes, records, longest, steps, rows, strict=True)
    )
