"""The forecast: how many records, batches and bytes an epoch will have, from the index alone.

Integer arithmetic on NumPy arrays; no record is read and TensorFlow is not imported. `make_dataset` follows the same plan,
so that what is forecast here is what it delivers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.planning.buckets import histogram, optimal_boundaries, rows_of_whole_batches
from vlpipe.planning.frame_plan import Changes, changes_for
from vlpipe.planning.options import INTEGER_DTYPES, Options, Selection, select
from vlpipe.planning.resume import make_state
from vlpipe.planning.schedule import Cuts, Schedule, cut
from vlpipe.sources.native import Source
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.index import Index

# How many there are at the most where the user does not say. "boundary" makes as many static shapes, each of which XLA compiles. For
# "longest", so many that little is padded; but the stream engine ends each bucket in a short batch, and holds a batch of each in memory.
DEFAULT_BUCKETS = {"longest": 64, "boundary": 8}
STREAM_BUCKETS = {"longest": 16, "boundary": 8}
# With few records there are fewer. Two that share a batch do so again in the next epoch with a probability of about 1 in these.
BATCHES_PER_BUCKET = {"longest": 2, "boundary": 4}
STREAM_BATCHES_PER_BUCKET = {"longest": 4, "boundary": 4}


@dataclass(frozen=True)
class Bucket:
    """Sequences that are batched together: those longer than the bucket before, and at most `upper` frames.

    Attributes:
        upper: its boundary, inclusive.
        batch_size: sequences in a full batch (of one rank).
        records: sequences in it.
        longest: frames of the longest of them; 0 where there is none.
        steps: batches that are padded as this bucket, an epoch (of one rank).
        rows: the different numbers of rows that these have.
    """

    upper: int
    batch_size: int
    records: int
    longest: int
    steps: int
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """What `make_dataset` delivers in one epoch.

    Attributes:
        engine: the one that will serve: "mapped", "graph" or "stream".
        total: records in the source.
        records: records delivered an epoch (to all ranks together); `total` is this plus all that was refused.
        refused: records that are not delivered, by reason: "too_short", "too_long", "remainder".
        truncated: records delivered with fewer frames than they have, for `length_range`.
        cropped: records delivered with fewer frames than they have, for `crop`.
        over_budget: records that alone exceed `frames_per_batch`, each of which is a batch of its own.
        buckets: the buckets, by length.
        rows: int64 `[kept]`, rows in the index of the records within `length_range`.
        frames: int64 `[kept]`, their lengths as delivered.
        schedule: which of them make which batch, in every epoch.
        changes: what is done to their frames before they are padded.
    """

    options: Options
    selection: Selection
    engine: str
    total: int
    records: int
    refused: dict[str, int]
    truncated: int
    cropped: int
    over_budget: int
    buckets: tuple[Bucket, ...]
    frame_bytes: dict[str, int]
    most_frames: dict[str, int]
    index: Index = field(repr=False)
    rows: np.ndarray = field(repr=False)
    frames: np.ndarray = field(repr=False)
    schedule: Schedule = field(repr=False)
    changes: Changes = field(repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch (of each rank); equal to `len(make_dataset(...))`."""
        return self.schedule.steps

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Inclusive upper length of each bucket, in frames."""
        return tuple(bucket.upper for bucket in self.buckets)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sequences in a full batch of each bucket."""
        return tuple(bucket.batch_size for bucket in self.buckets)

    @property
    def shapes(self) -> tuple[tuple[int | None, ...], ...]:
        """The distinct shapes `(B, T, d)` of the batches; T is None where it is that of the longest sequence of each batch."""
        static = self.options.pad_to == "boundary" or self.options.batching == "same_length"
        key = self.dimensions(self.selection.key)
        shapes = {(size, bucket.upper if static else None, *key) for bucket in self.buckets for size in bucket.rows}
        return tuple(sorted(shapes, key=lambda shape: (shape[1] or 0, -(shape[0] or 0))))

    @property
    def static_shape(self) -> tuple[int | None, int | None]:
        """Rows and frames that every batch has; None where they differ."""
        rows = {count for bucket in self.buckets for count in bucket.rows}
        boundary = self.options.pad_to == "boundary" and len(self.buckets) == 1
        return (
            rows.pop() if len(rows) == 1 and self.options.remainder != "keep" else None,
            self.buckets[0].upper if boundary else None,
        )

    def dimensions(self, name: str) -> tuple[int, ...]:
        """Shape of a frame of a feature, as delivered."""
        return self.changes.dimensions if name == self.selection.key else self.index.schema.sequences[name].dimensions

    def reading_dtype(self, name: str) -> str:
        """The dtype that a feature is read as: the stored one where normalisation goes on from it in float64, else that of the options."""
        transformed = self.options.transform is not None and name == self.selection.key
        as_stored = self.options.normalize and not transformed and self.index.stored(name).scale is None
        return self.index.schema.sequences[name].dtype if as_stored else self.options.dtype

    @property
    def prepares(self) -> bool:
        """Whether frames are parsed or changed between being read and being padded."""
        return self.options.prepares or any(self.index.stored(name).parsed for name in self.selection.features)

    @property
    def peak_batch_bytes(self) -> int:
        """Bytes of the features of the largest batch, at the most."""
        key = self.selection.key
        others = sum(self.most_frames[name] * size for name, size in self.frame_bytes.items() if name != key)
        return max((rows * (frames * self.frame_bytes[key] + others) for rows, frames in self._largest), default=0)

    def peak_bytes(self, name: str) -> int:
        """Bytes of one feature in the largest batch, at the most."""
        own = self.most_frames[name]
        frames_and_rows = self._largest if name == self.selection.key else [(rows, own) for rows, _ in self._largest]
        return max((rows * frames * self.frame_bytes[name] for rows, frames in frames_and_rows), default=0)

    def peak_bytes_read(self, name: str) -> int:
        """Bytes of one feature in the largest batch as it is read, before a transform, at the most."""
        frames = self.peak_bytes(name) // self.frame_bytes[name]
        if name == self.selection.key and self.changes.lengths is not None and len(self.rows):
            frames = max(rows for rows, _ in self._largest or [(0, 0)]) * int(self.changes.lengths.before[-1])
        stored = self.index.schema.sequences[name]
        itemsize = 2 if self.reading_dtype(name) == "bfloat16" else np.dtype(self.reading_dtype(name)).itemsize
        return frames * int(np.prod(stored.dimensions, dtype=np.int64)) * itemsize

    @property
    def _largest(self) -> list[tuple[int, int]]:
        """Rows and frames of the largest batch of each bucket."""
        boundary = self.options.pad_to == "boundary"
        return [(bucket.rows[0], bucket.upper if boundary else bucket.longest) for bucket in self.buckets if bucket.rows]

    @property
    def valid_ratio(self) -> float:
        """Share of the delivered frames that are not padding; expected, where it depends on the order of the epoch."""
        valid, delivered = self._frames_delivered
        return valid / delivered if delivered else 1.0

    @cached_property
    def _frames_delivered(self) -> tuple[int, int]:
        """Real frames and all frames of the first epoch, for all ranks together."""
        options, cuts = self.options, self.schedule.cuts
        frames = self.frames[self.schedule.records_in_order(0)]
        ends = cuts.starts + cuts.counts
        totals = np.concatenate([[0], np.cumsum(frames)])
        valid = int((totals[ends] - totals[cuts.starts]).sum())
        if options.batching == "ragged":
            return valid, valid
        if options.pad_to == "boundary":
            rows = cuts.sizes if options.remainder == "pad" else cuts.counts
            return valid, int((rows * np.asarray(self.boundaries, np.int64)[cuts.buckets]).sum())
        full = cuts.counts == cuts.sizes
        delivered = 0
        for rank in range(options.shard[1]):
            rows = cuts.sizes[full] // options.shard[1]
            firsts = cuts.starts[full] + rank * rows
            # reduceat takes [edge, next edge) of every edge: each second of these is a batch.
            edges = np.stack([firsts, firsts + rows], axis=1).ravel()
            longest = np.maximum.reduceat(np.append(frames, 0), edges)[::2] if len(edges) else rows
            delivered += int((rows * longest).sum())
            for step in np.flatnonzero(~full):
                places = self.schedule.places(int(step), rank)
                delivered += len(places) * int(frames[places].max())
        return valid, delivered

    def state(self, epoch: int, batch: int) -> dict[str, Any]:
        """A place in an endless run, from which `make_dataset(..., repeat=True, resume=state)` continues with exactly the next batch.

        Small and JSON-able; it holds the place, a fingerprint of the data, and every argument that changes the order. It belongs to
        every rank: the number of ranks is in it, the rank is not.

        Args:
            epoch: epochs that were completed.
            batch: batches that were taken of the epoch after those.

        Raises:
            ArgumentError: there is no such place, the seed is not known, or the engine is "stream", which has no order to enter.
        """
        return make_state(self, epoch, batch)

    def report(self) -> str:
        """The plan as a table for a terminal: `print(plan.report())`."""
        from vlpipe import text_tables

        return text_tables.table(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the lengths, the buckets and their padding into an image file, such as a PNG.

        Raises:
            MissingExtraError: matplotlib is not installed.
            ArgumentError: the file cannot be written.
        """
        from vlpipe import text_tables

        text_tables.plot(self, path)


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
    frames, changes = changes_for(index, selection, options, read)
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
    dimensions = {name: index.schema.sequences[name].dimensions for name in selection.features} | {selection.key: changes.dimensions}
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
        changes=changes,
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


def _boundaries(lengths: np.ndarray, counts: np.ndarray, options: Options, engine: str) -> tuple[int, ...]:
    if not len(lengths):
        return ()
    if options.batching == "same_length":
        return tuple(lengths.tolist())
    if options.batching == "bucket":
        return boundaries_for(lengths, counts, options, engine)
    return (int(lengths[-1]),)


def _buckets(
    uppers: tuple[int, ...],
    sizes: list[int],
    records: list[int],
    lengths: np.ndarray,
    cuts: Cuts,
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


def boundaries_for(lengths: np.ndarray, counts: np.ndarray, options: Options, engine: str = "stream") -> tuple[int, ...]:
    """Inclusive upper lengths of the buckets for a histogram of lengths.

    Boundaries that were given are kept; if some sequence is longer than the last, one more bucket reaches to the longest. Those that are
    chosen pad least among those that leave no bucket without a full batch (for every rank).
    """
    buckets = options.buckets
    if isinstance(buckets, tuple):
        longest = int(lengths[-1]) if len(lengths) else 0
        return buckets if longest <= buckets[-1] else (*buckets, longest)
    world = options.shard[1]
    least = np.array([options.batch_size_for(length) * world for length in lengths.tolist()], np.int64)
    if buckets is None and len(lengths):
        most, batches = (STREAM_BUCKETS, STREAM_BATCHES_PER_BUCKET) if engine == "stream" else (DEFAULT_BUCKETS, BATCHES_PER_BUCKET)
        records = int(counts.sum())
        mean = int(lengths @ counts) // records
        buckets = records // (batches[options.pad_to] * options.batch_size_for(mean) * world)
        buckets = max(1, min(buckets, most[options.pad_to]))
    if engine != "stream" and options.frames_per_batch is None and len(lengths):
        counts = rows_of_whole_batches(counts, int(least[0]), options.remainder)
    return optimal_boundaries(lengths, counts, buckets or 1, least)
