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

from vlpipe.errors import ArgumentError, import_extra
from vlpipe.index import Index, Source, open_source
from vlpipe.lengths import histogram, optimal_boundaries
from vlpipe.options import Options, Selection, select

# At the most, where the user does not say; "boundary" makes as many static shapes, each of which XLA compiles.
DEFAULT_BUCKETS = {"longest": 16, "boundary": 8}
# Fewer for few records: each bucket ends in a short batch, which should be a small part of its batches.
BATCHES_PER_BUCKET = 4


@dataclass(frozen=True)
class Bucket:
    """Sequences that are batched together: those longer than the bucket before, and at most `upper` frames.

    Attributes:
        upper: its boundary, inclusive.
        batch_size: sequences in a full batch.
        records: sequences in it.
        longest: frames of the longest of them; 0 where there is none.
    """

    upper: int
    batch_size: int
    records: int
    longest: int

    @property
    def short_batch(self) -> int:
        """Records that do not fill a batch."""
        return self.records % self.batch_size

    def steps(self, remainder: str) -> int:
        """Batches an epoch."""
        return self.records // self.batch_size + (self.short_batch > 0 and remainder != "drop")

    def batch_sizes(self, remainder: str) -> list[int]:
        """The different numbers of rows that its batches have."""
        full = self.records >= self.batch_size or (remainder == "pad" and self.records > 0)
        return [self.batch_size] * full + [self.short_batch] * (self.short_batch > 0 and remainder == "keep")


@dataclass(frozen=True, eq=False)
class Plan:
    """What `make_dataset` delivers in one epoch.

    Attributes:
        total: records in the source.
        records: records delivered an epoch; `total` is this plus all that was refused.
        refused: records that are not delivered, by reason: "too_short", "too_long", "remainder".
        truncated: records delivered with fewer frames than they have.
        over_budget: records that alone exceed `frames_per_batch`, each of which is a batch of its own.
        buckets: the buckets, by length.
    """

    options: Options
    selection: Selection
    total: int
    records: int
    refused: dict[str, int]
    truncated: int
    over_budget: int
    buckets: tuple[Bucket, ...]
    frame_bytes: dict[str, int]
    most_frames: dict[str, int]
    feature_dimensions: tuple[int, ...]
    frames: np.ndarray = field(repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch; equal to `len(make_dataset(...))`."""
        return sum(bucket.steps(self.options.remainder) for bucket in self.buckets)

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
        shapes = {
            (size, bucket.upper if static else None, *self.feature_dimensions)
            for bucket in self.buckets
            for size in bucket.batch_sizes(self.options.remainder)
        }
        return tuple(sorted(shapes, key=lambda shape: (shape[1] or 0, -(shape[0] or 0))))

    @property
    def peak_batch_bytes(self) -> int:
        """Bytes of the features of the largest batch, at the most."""
        key = self.selection.key
        others = sum(self.most_frames[name] * size for name, size in self.frame_bytes.items() if name != key)
        most = 0
        for bucket in self.buckets:
            frames = bucket.upper if self.options.pad_to == "boundary" else bucket.longest
            rows = max(bucket.batch_sizes(self.options.remainder), default=0)
            most = max(most, rows * (frames * self.frame_bytes[key] + others))
        return most

    @property
    def valid_ratio(self) -> float:
        """Share of the delivered frames that are not padding; expected, where it depends on the order of the epoch."""
        valid, delivered = self._frames_delivered
        return valid / delivered if delivered else 1.0

    @cached_property
    def _frames_delivered(self) -> tuple[int, int]:
        """Real frames and all frames of one epoch, by cutting one random order into batches as the engine does."""
        options, valid, delivered = self.options, 0, 0
        order = np.random.default_rng(0).permutation(len(self.frames)) if options.shuffle else np.arange(len(self.frames))
        frames = self.frames[order]
        bucket_of = np.searchsorted(self.boundaries, frames, side="left")
        order = np.argsort(bucket_of, kind="stable")
        frames, starts = frames[order], np.concatenate([[0], np.cumsum([bucket.records for bucket in self.buckets])]).astype(int)
        for bucket, start in zip(self.buckets, starts, strict=False):
            mine = frames[start : start + bucket.records]
            if options.remainder == "drop":
                mine = mine[: bucket.records - bucket.short_batch]
            if not len(mine):
                continue
            firsts = np.arange(0, len(mine), bucket.batch_size)
            rows = np.full(len(firsts), bucket.batch_size) if options.remainder == "pad" else np.diff([*firsts, len(mine)])
            longest = bucket.upper if options.pad_to == "boundary" else np.maximum.reduceat(mine, firsts)
            valid += int(mine.sum())
            delivered += int(mine.sum()) if options.batching == "ragged" else int((rows * longest).sum())
        return valid, delivered

    def state(self, epoch: int, batch: int) -> dict[str, Any]:
        """A place in an endless run, from which `make_dataset(..., resume=state)` continues.

        Raises:
            ArgumentError: always in this version: the stream engine has no order that could be entered in the middle.
        """
        raise ArgumentError(
            f"state({epoch}, {batch}): the stream engine cannot resume in the middle of an epoch; the mapped and graph engines will. "
            "Until then, save the weights at the end of an epoch."
        )

    def report(self) -> str:
        """The plan as a table for a terminal: `print(plan.report())`."""
        from vlpipe import reporting

        return reporting.table(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the lengths, the buckets and their padding into an image file, such as a PNG.

        Raises:
            MissingExtraError: matplotlib is not installed.
            ArgumentError: the file cannot be written.
        """
        import_extra("matplotlib", extra="plot", needed_for="Plan.plot")
        from vlpipe import reporting

        try:
            reporting.plot(self, path)
        except (OSError, ValueError) as error:
            raise ArgumentError(f"plot: {path} cannot be written ({error}). Pass a .png, .svg or .pdf in a folder that exists.") from error


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
    return make_plan(open_source(source), options)


def make_plan(index: Index, options: Options) -> Plan:
    """The plan for an index.

    Raises:
        ArgumentError: a record is out of `length_range` and `out_of_range` is "error", or the engine cannot do what is asked.
        SchemaError: the fields that are asked for are not in the schema.
    """
    check_engine(options)
    selection = select(index.schema, options)
    frames = index.frames(selection.key)
    rows = np.arange(len(frames)) if options.shuffle else index.by_shard()  # as the reader meets them
    frames = frames[rows]
    kept, refused, truncated = _within_range(index, rows, frames, selection, options)
    buckets = _make_buckets(kept, options)
    if options.remainder == "drop":
        refused["remainder"] = sum(bucket.short_batch for bucket in buckets)
    refused = {reason: count for reason, count in refused.items() if count}
    itemsize = 2 if options.dtype == "bfloat16" else np.dtype(options.dtype).itemsize
    sequences = index.schema.sequences
    budget = options.frames_per_batch
    return Plan(
        options=options,
        selection=selection,
        total=len(index),
        records=len(index) - sum(refused.values()),
        refused=refused,
        truncated=truncated,
        over_budget=int(np.count_nonzero(kept > budget)) if budget is not None and options.batching != "ragged" else 0,
        buckets=buckets,
        frame_bytes={
            name: sequences[name].frame_bytes // np.dtype(sequences[name].dtype).itemsize * itemsize for name in selection.features
        },
        most_frames={name: int(index.frames(name).max(initial=0)) for name in selection.features},
        feature_dimensions=sequences[selection.key].dimensions,
        frames=kept,
    )


def check_engine(options: Options) -> None:
    """Refuse what the engine of this version cannot do, and say what will.

    Raises:
        ArgumentError: see there.
    """
    if options.engine in ("mapped", "graph"):
        raise ArgumentError(f'engine={options.engine!r}: not in this version. Leave it at "auto", which takes the first that can serve.')
    if options.resume is not None:
        raise ArgumentError("resume: the stream engine cannot start in the middle of a run; the mapped and graph engines will.")
    if options.shard[1] > 1:
        raise ArgumentError(
            f"shard={options.shard}: the stream engine cannot keep ranks in step; the mapped and graph engines will. "
            "Until then, give each rank its own files: make_dataset(files[rank::world])."
        )
    if options.layout is not None:
        raise ArgumentError("layout: foreign records are not read in this version. Write them anew with vlpipe.Writer.")


def _within_range(
    index: Index, rows: np.ndarray, frames: np.ndarray, selection: Selection, options: Options
) -> tuple[np.ndarray, dict[str, int], int]:
    """The lengths that are delivered, the records refused by reason, and how many are truncated."""
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
    if options.out_of_range == "truncate" and longest is not None:
        kept = np.minimum(frames[~too_short], longest)
        return kept, {"too_short": int(too_short.sum())}, int(too_long.sum())
    refused = {"too_short": int(too_short.sum()), "too_long": int(too_long.sum())}
    return frames[~too_short & ~too_long], refused, 0


def _make_buckets(frames: np.ndarray, options: Options) -> tuple[Bucket, ...]:
    lengths, counts = histogram(frames)
    if not len(lengths):
        return ()
    if options.batching == "same_length":
        uppers: tuple[int, ...] = tuple(int(length) for length in lengths)
    elif options.batching == "bucket":
        uppers = boundaries_for(lengths, counts, options)
    else:
        uppers = (int(lengths[-1]),)
    bucket_of = np.searchsorted(uppers, lengths, side="left")
    records = np.bincount(bucket_of, weights=counts, minlength=len(uppers)).astype(np.int64)
    longest = np.zeros(len(uppers), np.int64)
    longest[bucket_of] = lengths  # ascending: the last that is written is the greatest
    return tuple(
        Bucket(upper, options.batch_size_for(upper), int(count), int(most))
        for upper, count, most in zip(uppers, records, longest, strict=True)
    )


def boundaries_for(lengths: np.ndarray, counts: np.ndarray, options: Options) -> tuple[int, ...]:
    """Inclusive upper lengths of the buckets for a histogram of lengths.

    Boundaries that were given are kept; if some sequence is longer than the last, one more bucket reaches to the longest.
    """
    buckets = options.buckets
    if isinstance(buckets, tuple):
        longest = int(lengths[-1]) if len(lengths) else 0
        return buckets if longest <= buckets[-1] else (*buckets, longest)
    if buckets is None and len(lengths):
        records = int(counts.sum())
        mean = int(lengths @ counts) // records
        buckets = records // (BATCHES_PER_BUCKET * options.batch_size_for(mean))
        buckets = max(1, min(buckets, DEFAULT_BUCKETS[options.pad_to]))
    return optimal_boundaries(lengths, counts, buckets or 1)
