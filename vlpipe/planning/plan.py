"""The forecast of an epoch: what `make_dataset` delivers, batch by batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, counted
from vlpipe.planning.batch_memory import BatchMemory
from vlpipe.planning.buckets import Bucket
from vlpipe.planning.damage import name_of_run, state_of_skipped
from vlpipe.planning.drawing import MixedPart
from vlpipe.planning.frame_plan import FramePlan
from vlpipe.planning.options import Options
from vlpipe.planning.padding_share import frames_by_bucket
from vlpipe.planning.pieces import Pieces
from vlpipe.planning.plan_picture import draw
from vlpipe.planning.resume import Identity, make_state, run_identity
from vlpipe.planning.schedule import Schedule
from vlpipe.planning.selection import FramePart, Selection
from vlpipe.storage.index import Index
from vlpipe.text_tables import columns, html, named, picture, text
from vlpipe.transforms.augmentations import STAGES, Augmentation, of_stage
from vlpipe.transforms.noise import AddNoise


@dataclass(frozen=True, eq=False)
class Plan:
    """What `make_dataset` delivers in one epoch.

    Attributes:
        options: the arguments.
        selection: the fields that are delivered.
        engine: "mapped", "graph" or "stream".
        total: records in the source. With `windows`, here and in the next two, windows are counted (and a record outside `length_range`);
            with `SpeedPerturb`, copies.
        records: records delivered in an epoch (to all ranks together); `total` is this plus all refused records; of a
            mix, in which records may come several times or not at all, it is not.
        refused: number of records that are not delivered, by reason: "too_short", "too_long",
            "transformed_too_short" (the transform leaves no frame), "tail" (windows left out), "remainder".
        truncated: records that lose frames to `length_range`.
        cropped: records that lose frames to `crop`.
        over_budget: records that alone exceed `frames_per_batch`; each makes its own batch.
        buckets: the buckets, by length.
        frame_bytes: bytes of a delivered frame, by feature.
        most_frames: frames of the longest record, by feature.
        index: of the source.
        pieces: what is read of the records within `length_range`; each becomes one sequence.
        frames: `[n]`, the delivered lengths of the pieces.
        schedule: which pieces make which batch, in every epoch.
        frame_plan: what happens to their frames between reading and padding.
        parts: those of a mix, with how many of their pieces come in an epoch; empty for other sources.
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
    pieces: Pieces = field(repr=False)
    frames: np.ndarray = field(repr=False)
    schedule: Schedule = field(repr=False)
    frame_plan: FramePlan = field(repr=False)
    parts: tuple[MixedPart, ...] = ()

    @property
    def rows(self) -> np.ndarray:
        """`[n]`: the rows in the index of the records of the pieces."""
        return self.pieces.rows

    @property
    def windows(self) -> int:
        """Windows delivered in an epoch (to all ranks together). Without the argument `windows`, each record is one."""
        return self.records

    @property
    def unit(self) -> str:
        """What `total`, `records` and `refused` count: "records" or "windows"."""
        return "records" if self.options.windows is None else "windows"

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch (of each rank); equal to `len(make_dataset(...))`."""
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
        """The distinct shapes `(B, T, d)` of the batches; T is None where batches are padded to their longest sequence."""
        static = self.options.pad_to == "boundary" or self.options.batching == "same_length"
        key = self.frame_plan.dimensions
        shapes = {(size, bucket.upper if static else self._window_frames, *key) for bucket in self.buckets for size in bucket.rows}
        return tuple(sorted(shapes, key=lambda shape: (shape[1] or 0, -(shape[0] or 0))))

    @property
    def static_shape(self) -> tuple[int | None, int | None]:
        """Rows and frames of every batch; None where batches differ."""
        rows = {count for bucket in self.buckets for count in bucket.rows}
        boundary, remainder = self.options.pad_to == "boundary", self.options.remainder
        return (
            rows.pop() if len(rows) == 1 and (remainder == "pad" or (remainder == "drop" and not self.options.skips)) else None,
            (self.buckets[0].upper if len(self.buckets) == 1 else None) if boundary else self._window_frames,
        )

    @property
    def _window_frames(self) -> int | None:
        """Frames of every batch that is padded to its longest sequence, where windows make all of them equal."""
        if self.options.windows is None or not len(self.frames):
            return None
        longest = max(bucket.longest for bucket in self.buckets)
        return longest if max(self.frame_plan.least, int(self.frames.min())) >= longest else None

    @cached_property
    def least_frames(self) -> np.ndarray:
        """int64 `[buckets]`: the frames to which each batch of a bucket is padded at least; 0: to its longest sequence."""
        if self.options.pad_to == "boundary":
            return np.array(self.boundaries, np.int64)
        return np.full(len(self.buckets), self.frame_plan.least, np.int64)

    @cached_property
    def least_by_part(self) -> dict[str, np.ndarray]:
        """The same for each sequence of a batch, by its name in a flat batch ("x:features", "y:words").

        With pad_to="boundary", sequences with lengths of their own are padded to the longest that a batch of the bucket may have, so that
        each bucket has one shape. It covers the shorter buckets, too: their left-over records complete its batches.
        """
        selection, schema = self.selection, self.index.schema
        names = [name for name in (*selection.features, *selection.labels) if name in schema.sequences]
        return {part.flat: self.least_frames if part.with_key else self._longest_of(part) for part in map(selection.part, names)}

    @cached_property
    def has_least_frames(self) -> bool:
        """Whether a part of a batch is padded further than to its longest sequence."""
        return any(least.any() for least in self.least_by_part.values())

    def _longest_of(self, part: FramePart) -> np.ndarray:
        longest, access = np.zeros(len(self.buckets), np.int64), self.index.access(part.name, as_feature=part.is_feature)
        if self.options.pad_to == "boundary" and access.is_counted and len(self.pieces):
            bucket_of = np.searchsorted(self.boundaries, np.maximum(self.frames, self.frame_plan.least))
            np.maximum.at(longest, bucket_of, access.counts(self.index.rows)[self.pieces.rows])
        return np.maximum.accumulate(longest)

    def has_infinite_padding(self, part: str) -> bool:
        """Whether `check_finite` has to tell the padding of a part ("x:features") from its values: it is NaN or infinite."""
        paddings, name = self.selection.paddings, part[2:]
        return self.options.check_finite is not None and name in self.index.schema.sequences and not np.isfinite(paddings.number(part))

    @property
    def peak_batch_bytes(self) -> int:
        """Maximum bytes of the features of a batch."""
        return self.memory.peak_batch_bytes

    @cached_property
    def memory(self) -> BatchMemory:
        """How much memory the features of a batch take."""
        to_boundary = self.options.pad_to == "boundary"
        largest = [(bucket.rows[0], bucket.upper if to_boundary else bucket.longest) for bucket in self.buckets if bucket.rows]
        return BatchMemory(self.frame_plan, self.frame_bytes, self.most_frames, int(self.pieces.frames.max(initial=0)), largest)

    @property
    def valid_ratio(self) -> float:
        """Share of the delivered frames that are not padding; that of the first epoch, where it depends on the order."""
        delivered = int(self._frames_by_bucket[1].sum())
        return self.valid_frames / delivered if delivered else 1.0

    @property
    def valid_frames(self) -> int:
        """Delivered frames that are not padding, in an epoch of all ranks together; those of the first epoch of a mix."""
        return int(self._frames_by_bucket[0].sum())

    @cached_property
    def _frames_by_bucket(self) -> tuple[np.ndarray, np.ndarray]:
        return frames_by_bucket(self.schedule, self.frames, self.options, self.boundaries, self.frame_plan.least)

    def state(self, epoch: int, batch: int) -> dict[str, Any]:
        """The state of a run, with which `make_dataset(..., repeat=True, resume=state)` continues at exactly the next batch.

        A small dict of JSON scalars: the position, a fingerprint of the data, and every argument that changes the order. All ranks share
        it: it contains the number of ranks, not the rank. Without `frames_per_batch`, a run of more or fewer ranks continues it if
        batch_size * world stays the same: `batch` then counts the batches of all ranks together. With `on_damage=vlpipe.Skip(...)` it also
        names the damaged records that the latest dataset of these arguments, in this process, has met ("skipped": their ids), so that a
        resumed run counts on.

        Args:
            epoch: epochs that were completed.
            batch: batches that were taken from the next epoch.

        Raises:
            ArgumentError: the run has no such position, the seed is unknown, or the engine is "stream", which cannot resume.
        """
        if self.engine == "stream":
            raise ArgumentError(
                f'state({epoch}, {batch}): the stream engine cannot resume in the middle of a run. Use engine="mapped" or "graph".'
            )
        if self.options.is_random and self.options.seed is None:
            raise ArgumentError(
                f"state({epoch}, {batch}): seed=None draws a different order in every process. Pass seed=... here and to make_dataset."
            )
        state = make_state(self.identity, self.steps_per_epoch, epoch, batch)
        run = name_of_run(self.identity, self.index, self.options.shard)
        return state | (state_of_skipped(run) if self.options.skips else {})

    @cached_property
    def identity(self) -> Identity:
        """What a saved state is compared with: everything that the batches of a run depend on."""
        return run_identity(
            self.frame_plan,
            is_cut=bool(self.cropped or self.truncated),
            boundaries=self.boundaries,
            frames=self.frames,
            rates=None if self.schedule.drawing is None else self.schedule.drawing.digest,
        )

    def report(self) -> str:
        """The plan as a table for a terminal: `print(plan.report())`."""
        return text(named(_totals(self)), *(columns(*headings, rows=rows) for headings, rows in self._tables()))

    def _tables(self) -> list[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        """The headings and the rows of the tables of the report: buckets, and the parts of a mix."""
        rows = [(bucket.upper, bucket.batch_size, bucket.records, bucket.steps) for bucket in self.buckets]
        tables: list[tuple[tuple[str, ...], list[tuple[Any, ...]]]] = [(("frames up to", "batch size", self.unit, "steps"), rows)]
        if self.parts:
            mixed = [(part.name, part.pieces, part.delivered, counted(part.rate, "time")) for part in self.parts]
            tables.append((("part", self.unit, "an epoch", "each comes"), mixed))
        return tables

    def __repr__(self) -> str:
        batches = f"{counted(self.steps_per_epoch, 'batch')} an epoch ({self.options.batching}, {self.engine})"
        return f"Plan: {counted(self.records, self.unit[:-1])} in {batches}, {self.valid_ratio:.1%} valid frames; plan.report() has more"

    def _repr_html_(self) -> str:
        return html(((), _totals(self)), *self._tables())

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the histogram of lengths with the buckets over it, and below it the padding of each bucket, into an image file.

        Raises:
            MissingExtraError: matplotlib is not installed.
            ArgumentError: the file cannot be written.
        """
        valid, delivered = self._frames_by_bucket
        padding = 100 * (1 - valid / np.maximum(1, delivered)) * (delivered > 0)
        batches = f"{counted(self.steps_per_epoch, 'batch')} ({self.options.batching}): {self.valid_ratio:.1%} valid frames"
        with picture(path, 5, "Plan.plot") as figure:
            draw(figure, self.frames, self.boundaries, padding, unit=self.unit, title=f"{self.records:,} {self.unit} in {batches}")


def _totals(plan: Plan) -> list[tuple[str, str]]:
    options = plan.options
    refused = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in plan.refused.items())
    ranks = f" of each of {options.shard[1]} ranks" if options.shard[1] > 1 else ""
    rows = [
        ("batching", f"{options.batching}, padded to {'the longest of the batch' if options.pad_to == 'longest' else 'the boundary'}"),
        ("engine", plan.engine),
        (plan.unit, f"{plan.records:,} {'an epoch, drawn from' if plan.parts else 'of'} {plan.total:,}{'' if plan.parts else ' an epoch'}"),
        ("refused", refused or "none"),
        ("steps", f"{plan.steps_per_epoch:,} an epoch{ranks}, remainder: {options.remainder}"),
        ("valid frames", f"{plan.valid_ratio:.1%} (the rest is padding)"),
        ("largest batch", f"{plan.peak_batch_bytes / 2**20:,.1f} MiB of features"),
    ]
    if options.batching in ("ragged", "same_length"):
        rows[0] = ("batching", options.batching)
    if plan.truncated:
        rows.insert(4, ("truncated", f"{plan.truncated:,} to {options.length_range[1]:,} frames"))
    if plan.cropped and options.crop:
        rows.insert(4, ("cropped", f"{plan.cropped:,} to {options.crop.frames:,} frames"))
    if options.windows is not None:
        rows.insert(2, ("of", f"{len(plan.index):,} records, {options.windows.frames:,} frames every {options.windows.step:,}"))
    if options.speeds > 1:
        rows.insert(2, ("of", f"{len(plan.index):,} records, each at {options.speeds} speeds"))
    if plan.over_budget:
        rows.insert(
            4,
            ("over the budget", f"{plan.over_budget:,} {plan.unit} of more than {options.frames_per_batch:,} frames, alone in their batch"),
        )
    for stage in STAGES:
        rows += [("augment", f"{stage}: {_augmentation(augment)}") for _, augment in of_stage(options.augment, stage)]
    if plan.selection.aligned:
        rows.insert(2, ("aligned", f"{', '.join(plan.selection.aligned)} with {plan.selection.key}"))
    return rows


def _augmentation(augment: Augmentation) -> str:
    return f"{augment!r}, {augment.bytes / 2**20:,.1f} MiB in memory" if isinstance(augment, AddNoise) else repr(augment)
