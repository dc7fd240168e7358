"""Damaged records are left out of their batches: `on_damage=vlpipe.Skip(...)`, for the mapped and the graph engine.

A batch without its damaged records is a `Batch` like any other: the intact pieces, and with remainder="pad" repeated ones of weight 0
behind them. So the engines make it as they make all batches, and a batch that has no damaged record is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from vlpipe.engines.parsed_fields import ParsedFields
from vlpipe.errors import RESTORE, REWRITTEN, DatasetError
from vlpipe.planning.damage import Skipped
from vlpipe.planning.plan import Plan
from vlpipe.planning.schedule import Batch
from vlpipe.sources.foreign.decode import frames_in
from vlpipe.sources.records import Records
from vlpipe.storage.example_values import example_values
from vlpipe.storage.field_access import Location
from vlpipe.storage.not_finite import EXPECTED, LEAVE_OUT, describe, fields_of_floats
from vlpipe.storage.schema import Sequence

Report = Callable[[int, DatasetError], None]  # gets the row of a damaged record, and what is wrong with it


class Reader(Protocol):
    """How an engine reads records by their rows (int64 `[n]`) in the index."""

    def check(self, rows: np.ndarray, report: Report) -> None:
        """Report the records that cannot be read, or are not those that were indexed."""

    def data(self, rows: np.ndarray) -> list[bytes]:
        """The serialized records."""


class Screen:
    """Leaves damaged records out of batches.

    Attributes:
        has_values: values must be parsed, so that a record that can be read may still be damaged.
    """

    def __init__(self, plan: Plan, skipped: Skipped, reader: Reader) -> None:
        self._plan, self._skipped, self._reader = plan, skipped, reader
        self._values = _Values(plan)
        self.has_values = bool(self._values)

    def __call__(self, batch: Batch, epoch: int, *, unread: bool = True) -> Batch:
        """The batch itself, if none of its records is damaged; otherwise the one that is delivered in its place.

        The rows behind a damaged record move up. With remainder="pad" the intact ones are repeated in turn, with weight 0, so that the
        batch keeps its shape; otherwise it has fewer rows. One that loses all has rows of another record of its bucket (one row if it is
        not padded): layers such as Conv1D fail on a batch without rows, and all ranks have the same number of steps.

        Args:
            unread: the records may be unreadable; False: only their values have to be looked at.

        Raises:
            DatasetError: the run has met too many damaged records, or a batch has no intact record that could be delivered.
        """
        intact = self._intact(batch.pieces, unread=unread)
        if intact.all():
            return batch
        kept = batch.pieces[: batch.real][intact[: batch.real]]
        repeated = batch.pieces[intact] if intact.any() else self._another(epoch, batch.bucket)
        padded = self._plan.options.remainder == "pad"
        rows = len(batch.pieces) if padded else max(1, len(kept))
        real = len(kept) if padded else rows
        return Batch(np.concatenate([kept, np.resize(repeated, rows - len(kept))]), real, batch.bucket)

    def _intact(self, pieces: np.ndarray, *, unread: bool) -> np.ndarray:
        """bool `[n]`: whether the record of each piece can be delivered."""
        rows = self._plan.pieces.rows.take(pieces).astype(np.int64, copy=False)
        damaged: set[int] = set()

        def report(row: int, error: DatasetError) -> None:
            damaged.add(row)
            self._skipped.add(row, error)

        if unread:
            self._reader.check(rows, report)
        if self._values:
            readable = np.array([row for row in dict.fromkeys(rows.tolist()) if row not in damaged], np.int64)
            self._values.check(readable, self._reader.data, report)
        return ~np.isin(rows, list(damaged)) if damaged else np.ones(len(rows), bool)

    def _another(self, epoch: int, bucket: int) -> np.ndarray:
        """int64 `[1]`: an intact piece of a bucket, or where it has none of a shorter one, always the same in an epoch."""
        schedule = self._plan.schedule
        for candidate in range(bucket, -1, -1):
            for slot in np.flatnonzero(schedule.bucket_of == candidate)[:, None]:
                piece = schedule.pieces_of(epoch, slot)
                if self._intact(piece, unread=True).all():
                    return piece
        upper = self._plan.boundaries[bucket]
        raise DatasetError(
            f"on_damage: a batch has only damaged records, and none of at most {upper} frames can be delivered in their place. {RESTORE}"
        )


class _Values:
    """Whether the values that are parsed of a record can be; each record is looked at once."""

    def __init__(self, plan: Plan) -> None:
        self._index = plan.index
        self._counted = ParsedFields(plan).lengths
        selection = plan.selection
        names = (*selection.features, *selection.labels)
        accesses = {name: self._index.access(name, as_feature=name in selection.features) for name in names}
        self._encoded = [access for access in accesses.values() if access.location is Location.ENCODED]
        self._example = [name for name, access in accesses.items() if access.location is Location.EXAMPLE]
        custom = any(access.location is Location.CUSTOM for access in accesses.values())
        self._parse = self._index.foreign.parse if custom and self._index.foreign else None
        self._floats = [name for name in fields_of_floats(self._index.schema) if name in names and plan.options.check_finite == "error"]
        self._good = np.zeros(len(self._index) if self else 0, bool)

    def __bool__(self) -> bool:
        return bool(self._encoded or self._example or self._parse or self._floats)

    def check(self, rows: np.ndarray, read: Callable[[np.ndarray], list[bytes]], report: Report) -> None:
        """Report the records whose values cannot be parsed, or do not agree with the index."""
        rows = rows[~self._good[rows]]
        for row, data in zip(rows.tolist(), read(rows) if len(rows) else [], strict=True):
            try:
                counts, not_finite = self._counts(row, data), self._not_finite(row)
            except Exception as error:  # a codec or the user's function may raise anything
                report(row, DatasetError(f"{self._index.where(row)}: its values cannot be parsed: {error}"))
                continue
            wrong = [name for name, (count, expected) in counts.items() if count != expected]
            for name in wrong[:1]:
                count, expected = counts[name]
                where = self._index.where(row)
                report(row, DatasetError(f'{where}: "{name}" has {count} frames, but {expected} belong to the record. {REWRITTEN}'))
            if not_finite is not None and not wrong:
                report(row, DatasetError(f"{self._index.where(row)}: {not_finite}, expected {EXPECTED}. {LEAVE_OUT}."))
            self._good[row] = not wrong and not_finite is None

    def _counts(self, row: int, data: bytes) -> dict[str, tuple[int, int]]:
        """The frames of each sequence that is parsed, and those that it must have."""
        values = {access.name: frames_in(data, access.name, access.sequence, access.stored) for access in self._encoded}
        if self._parse is not None:
            values |= self._parse(data)
        if self._example:
            example_values(self._index.schema, self._example, [data])
        entry = self._index.rows[row : row + 1]
        return {name: (len(values[name]), int(access.counts(entry)[0])) for name, access in self._counted.items()}

    def _not_finite(self, row: int) -> str | None:
        """What is not finite in a record, as it is stored, with check_finite="error"; None: nothing."""
        if not self._floats:
            return None
        schema = self._index.schema
        with Records(self._index) as records:
            values = records.values(row, self._floats)
        found = (describe(name, np.asarray(values[name]), in_frames=isinstance(schema.fields[name], Sequence)) for name in self._floats)
        return next((text for text in found if text is not None), None)
