"""The forecast: how many records, batches and bytes an epoch will have, from the index alone.

Integer arithmetic on NumPy arrays; no record is read and TensorFlow is not imported. `make_dataset` follows the same plan,
so that what is forecast here is what it delivers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.planning.buckets import _boundaries, histogram
from vlpipe.planning.frame_plan import frame_plan_for
from vlpipe.planning.options import INTEGER_DTYPES, Options
from vlpipe.planning.plan import Bucket, Plan
from vlpipe.planning.schedule import BatchSpans, Schedule, cut
from vlpipe.planning.selection import Selection, select
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.index import Index
from vlpipe.storage.paths import Source


def plan(source: Source, **arguments: Any) -> Plan:
    """Forecast what `make_dataset` with the same arguments delivers, without reading a record or importing TensorFlow.

    Args:
        source: as in `make_dataset`.
        **arguments: as in `make_dataset`.

    Raises:
        VlpipeError: whatever `make_dataset` would raise before the first batch.

    Example:
        >>> plan = vlpipe.plan("data/train", batch_size=64)
        >>> plan.steps_per_epoch, f"{plan.valid_ratio:.1%}"
        (391, '96.4%')
    """
    options = Options.of(**arguments)
    return make_plan(open_anywhere(source, options.layout), options)


def make_plan(index: Index, options: Options) -> Plan:
    """The plan for an index.

    Raises:
        ArgumentError: a record is out of `length_range` and `out_of_range` is "error", or the engine cannot do what is asked.
        SchemaError: the fields that are asked for are not in the schema.
    """
    engine = choose_engine(options, local=index.is_local, compressed=index.is_compressed)
    selection = select(index.schema, options, index.label)
    _check_scaled(index, selection, options)
    frames = index.frames(selection.key)
    rows = np.arange(len(frames)) if options.shuffle else index.by_shard()  # as the reader meets them
    kept, frames, refused, truncated = _within_range(index, rows, frames[rows], selection, options)
    read = frames if options.crop is None else np.minimum(frames, options.crop.frames)
    cropped = int(np.count_nonzero(read < frames))
    frames, frame_plan = frame_plan_for(index, selection, options, read)
    lengths, counts = histogram(frames)
    uppers = _boundaries(lengths, counts, options, engine)
    bucket_of = np.searchsorted(uppers, frames, side="left").astype(np.min_scalar_type(len(uppers)))
    sizes = [options.batch_size_for(upper) for upper in uppers]
    records = np.bincount(np.searchsorted(uppers, lengths), weights=counts, minlength=len(uppers)).astype(int).tolist()
    world = options.shard[1]
    carry = engine != "stream" and options.batching == "bucket"
    cuts = cut(records, [size * world for size in sizes], drop=options.remainder == "drop", carry=carry)
    refused["remainder"] = len(frames) - int(cuts.counts.sum())
    refused = {reason: count for reason, count in refused.items() if count}
    itemsize = 2 if options.dtype == "bfloat16" else np.dtype(options.dtype).itemsize
    dimensions = {name: index.schema.sequences[name].dimensions for name in selection.features} | {selection.key: frame_plan.dimensions}
    budget = options.frames_per_batch
    return Plan(
        options=options,
        selection=selection,
        engine=engine,
        total=len(index),
        records=len(index) - sum(refused.values()),
        refused=refused,
        truncated=truncated,
        cropped=cropped,
        over_budget=int(np.count_nonzero(frames > budget)) if budget is not None and options.batching != "ragged" else 0,
        buckets=_buckets(uppers, sizes, records, lengths, cuts, options),
        frame_bytes={name: int(np.prod(dimensions[name], dtype=np.int64)) * itemsize for name in selection.features},
        most_frames={name: int(index.frames(name).max(initial=0)) for name in selection.features},
        index=index,
        rows=kept,
        frames=frames,
        schedule=Schedule(
            bucket_of,
            cuts,
            seed=(options.seed or 0) if options.shuffle else None,
            complete=options.remainder == "pad",
            shard=options.shard,
        ),
        frame_plan=frame_plan,
    )


def choose_engine(options: Options, *, local: bool = True, compressed: bool = False) -> str:
    """The engine that serves: the one that is asked for, or the first that can.

    Args:
        local: the shards are files that can be mapped.
        compressed: a shard is compressed, so that it can only be read from its beginning.

    Raises:
        ArgumentError: the engine that is asked for cannot do what is asked for; the message says which can.
    """
    first = "stream" if compressed else "mapped" if local else "graph"
    engine = first if options.engine == "auto" else options.engine
    instead = 'Use engine="mapped" or "graph"'
    if compressed:
        instead = "Its files are compressed, which only that engine reads: uncompress them, or make a dataset of them (vlpipe convert)"
    if engine == "mapped" and not local:
        raise ArgumentError('engine="mapped": only local files can be mapped into memory. Use engine="graph", or copy the dataset.')
    if engine != "stream" and compressed:
        raise ArgumentError(
            f"engine={engine!r}: cannot begin in the middle of a file that is compressed. Leave engine out, uncompress the files, or make "
            "a dataset of them (vlpipe convert)."
        )
    if engine == "stream" and options.resume is not None:
        raise ArgumentError(f"resume: the stream engine cannot start in the middle of a run. {instead}.")
    if engine == "stream" and options.shard[1] > 1:
        raise ArgumentError(f"shard={options.shard}: the stream engine cannot keep ranks in step. {instead}.")
    return engine


def _check_scaled(index: Index, selection: Selection, options: Options) -> None:
    """Whether what is delivered as fractions is asked for as integers.

    Raises:
        SchemaError: it is.
    """
    for name in selection.features:
        if index.stored(name).scale is not None and options.dtype in INTEGER_DTYPES:
            raise SchemaError(f'dtype={options.dtype!r}: "{name}" is de-quantised to fractions, which would be lost. Use a float dtype.')


def _within_range(
    index: Index, rows: np.ndarray, frames: np.ndarray, selection: Selection, options: Options
) -> tuple[np.ndarray, np.ndarray, dict[str, int], int]:
    """The rows that are delivered, their lengths, the records refused by reason, and how many are truncated."""
    shortest, longest = options.length_range
    too_short = frames < shortest
    too_long = frames > longest if longest is not None else np.zeros(len(frames), bool)
    if options.out_of_range == "error" and (too_short.any() or too_long.any()):
        row = int(np.flatnonzero(too_short | too_long)[0])
        outside = int(np.count_nonzero(too_short | too_long))
        expected = f"at least {shortest}" if longest is None else f"{shortest} to {longest}"
        found = f'{index.where(int(rows[row]))}: "{selection.key}" has {frames[row]} frames, expected {expected}'
        raise ArgumentError(
            f"{found} ({outside} of {len(frames)} records are outside length_range={options.length_range}). "
            'Pass out_of_range="drop" or "truncate", or a wider length_range.'
        )
    if options.truncation is not None:
        kept = ~too_short
        return rows[kept], np.minimum(frames[kept], options.truncation), {"too_short": int(too_short.sum())}, int(too_long.sum())
    kept = ~too_short & ~too_long
    return rows[kept], frames[kept], {"too_short": int(too_short.sum()), "too_long": int(too_long.sum())}, 0


def _buckets(
    uppers: tuple[int, ...],
    sizes: list[int],
    records: list[int],
    lengths: np.ndarray,
    cuts: BatchSpans,
    options: Options,
) -> tuple[Bucket, ...]:
    longest = np.zeros(len(uppers), np.int64)
    longest[np.searchsorted(uppers, lengths)] = lengths  # ascending: the last that is written is the greatest
    steps = np.bincount(cuts.buckets, minlength=len(uppers))
    delivered = (cuts.sizes if options.remainder == "pad" else cuts.counts) // options.shard[1]
    rows: list[set[int]] = [set() for _ in uppers]
    for bucket, count in np.unique(np.stack([cuts.buckets, delivered]), axis=1).T.tolist():
        rows[bucket].add(count)
    return tuple(
        Bucket(upper, size, count, int(most), int(step), tuple(sorted(row, reverse=True)))
        for upper, size, count, most, step, row in zip(uppers, sizes, records, longest, steps, rows, strict=True)
    )
