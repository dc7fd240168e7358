"""From the arrays of a batch as they are read to those that are delivered: normalised, augmented, padded, tested."""

from __future__ import annotations

import numpy as np

from vlpipe.engines.batch_reader import IN_TRANSIT, BatchReader, dtype_of
from vlpipe.engines.buffer_pool import Pool
from vlpipe.errors import REWRITTEN, DatasetError
from vlpipe.numpy_batches.finite import Flat, checked, zeroed
from vlpipe.numpy_batches.sequences import Mixing, Sequences, by_moments, by_utterance, cast, is_float, masked
from vlpipe.planning.damage import Skipped
from vlpipe.planning.plan import Plan
from vlpipe.planning.selection import FramePart
from vlpipe.planning.splitmix import draws, purposes_of
from vlpipe.storage.example_values import ExampleError, example_values
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Fixed
from vlpipe.transforms.augmentations import of_stage
from vlpipe.transforms.mixup import Mixup


class FlatBatches:
    """Makes the flat batch with a given number, counted from the first one of epoch 0. Several threads may use it.

    Args:
        skipped: counts the damaged records, which are left out; None: the first one is an error.
        ahead: batches that are made at the same time, or wait to be delivered.
    """

    def __init__(self, plan: Plan, skipped: Skipped | None, ahead: int) -> None:
        self._plan, self._reader = plan, BatchReader(plan, skipped, ahead=ahead)
        # Arrays that the reader keeps are copied: they belong to the user, who may write into them.
        self._parts = [(part.name, part.make is None) for part in self._reader.parts]
        self._purposes = purposes_of(type(augment).__name__ for augment in plan.options.augment or ())
        keep = ahead + IN_TRANSIT
        self._has_transforms = plan.frame_plan.has_transforms
        features = plan.selection.features if self._has_transforms else ()
        self._pools = {name: Pool(plan.memory.peak_bytes(name), keep) for name in features}

    def __call__(self, number: int) -> Flat:
        """The parts of the batch by their names.

        Raises:
            DatasetError: a record is damaged, or has a value that is refused.
        """
        plan = self._plan
        arrays = zip(self._parts, self._reader(number), strict=True)
        batch: Flat = {name: array.copy() if is_kept else array for (name, is_kept), array in arrays}
        data = batch.pop("records", None)
        if data is not None:
            batch |= self._labels(number, data)
        if self._has_transforms:
            with np.errstate(all="ignore"):  # NaN and infinities are delivered, as TensorFlow computes them, or found below
                batch = self._transformed(batch, number // plan.steps_per_epoch)
        batch.pop("bucket", None)
        return checked(batch, plan) if plan.options.check_finite is not None else batch

    def _labels(self, number: int, data: np.ndarray) -> Flat:
        """The labels that only the Examples locate."""
        plan = self._plan
        try:
            values = example_values(plan.index.schema, self._reader.example_labels, data.tolist())
        except ExampleError as error:
            pieces = plan.schedule.batch(*divmod(number, plan.steps_per_epoch)).pieces
            where = plan.index.where(int(plan.pieces.rows[pieces[error.row]]))
            raise DatasetError(f"{where}: a label cannot be parsed: {error}. {REWRITTEN}") from error
        return {f"y:{name}": value for name, value in values.items()}

    def _transformed(self, batch: Flat, epoch: int) -> Flat:
        """A flat batch with its features and aligned labels computed and padded."""
        plan, bucket, numbers = self._plan, batch.pop("bucket", None), batch.pop("number", None)
        result = {name: value for name, value in batch.items() if not name.startswith("splits:")}
        for part in plan.selection.frame_parts:
            sequences = Sequences(batch[part.flat], batch[f"splits:{part.flat}"])
            if part.is_feature:
                sequences = self._computed(part, sequences, batch["id"], numbers, epoch)
            if numbers is not None and part.name == plan.selection.key:
                sequences = self._mixed(part, sequences, batch, result, numbers, epoch)
            result[f"n:{part.flat}"] = sequences.lengths.astype(np.int32)
            result[part.flat] = self._padded(part, sequences, bucket)
        return result

    def _computed(self, part: FramePart, sequences: Sequences, ids: np.ndarray, numbers: np.ndarray | None, epoch: int) -> Sequences:
        """A feature, converted, normalised and masked."""
        plan, name = self._plan, part.name
        dtype = dtype_of(plan.selection.dtypes[name])
        if plan.options.check_finite == "zero" and is_float(sequences.values.dtype):
            sequences = sequences.having(zeroed(sequences.values))
        if plan.frame_plan.can_lose(name) and not plan.frame_plan.normalizes_stored(name):
            sequences = sequences.having(_cast_exactly(plan.index, name, sequences, dtype, ids))
        if plan.options.normalize is not None:
            sequences = sequences.having(sequences.values.astype(np.float64))
            moments = plan.frame_plan.moments.get(name)
            sequences = sequences.having(by_utterance(sequences) if moments is None else by_moments(sequences.values, moments))
        if numbers is not None and name == plan.selection.key:
            for position, augment in of_stage(plan.options.augment, "features"):
                sequences = masked(augment, sequences, self._draws(position, epoch, numbers, augment.draws))
        return sequences.having(cast(sequences.values, dtype))

    def _mixed(self, part: FramePart, sequences: Sequences, batch: Flat, result: Flat, numbers: np.ndarray, epoch: int) -> Sequences:
        """The key feature, mixed; the labels, which are mixed alike, go into the result."""
        options = self._plan.options
        for position, augment in of_stage(options.augment, "batch"):
            mixing = Mixing.of(augment, sequences, self._draws(position, epoch, numbers, augment.draws))
            if options.check_finite is not None:  # here, where a NaN is still in the record that it comes from
                sequences = checked({**batch, part.flat: sequences}, self._plan)[part.flat]
            sequences = mixing.frames(sequences)
            for name in self._plan.selection.labels:
                result[f"y:{name}"] = mixing.labels(_as_vectors(augment, name, batch[f"y:{name}"], self._plan.index))
            result |= {"partner": batch["id"][mixing.partners]} if options.ids else {}
        return sequences

    def _draws(self, position: int, epoch: int, numbers: np.ndarray, count: int) -> np.ndarray:
        """int64 `[B, count]`: random numbers below 2**32 for an augmentation."""
        columns = [draws(self._plan.options.seed or 0, epoch, self._purposes[position] + n, numbers) for n in range(count)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(numbers), 0), np.int64)

    def _padded(self, part: FramePart, sequences: Sequences, bucket: np.ndarray | None) -> np.ndarray:
        """`[B, T, ...]`: padded to the longest of the batch, or to the least frames of a bucket."""
        plan, dtype = self._plan, sequences.values.dtype
        least = plan.least_by_part[part.flat]
        frames = max(int(sequences.lengths.max()), int(least[bucket]) if bucket is not None else 0)
        shape = (len(sequences.splits) - 1, frames, *plan.frame_plan.dimensions_of(part.name))
        target = self._pools[part.name].empty(shape, dtype) if part.is_feature else np.empty(shape, dtype)
        return sequences.padded(target, cast(np.asarray(plan.selection.paddings.number(part.flat)), dtype))


def _as_vectors(augment: Mixup, name: str, labels: np.ndarray, index: Index) -> np.ndarray:
    """Labels as floats that can be mixed: vectors, `[B, classes]`, of class numbers."""
    field = index.schema.fields[name]
    if isinstance(field, Fixed) and augment.is_class(field) and (classes := augment.classes_in(index)):
        return (labels[:, None] == np.arange(classes)).astype(np.float32)
    return labels if is_float(labels.dtype) else labels.astype(np.float32)


def _cast_exactly(index: Index, name: str, sequences: Sequences, dtype: np.dtype, ids: np.ndarray) -> np.ndarray:
    """The frames of a feature in a float dtype that can lose values of its own: the twin of `engines/exact_cast.py`.

    Raises:
        DatasetError: a value is lost; the text names the record and the value.
    """
    values, converted = sequences.values, cast(sequences.values, dtype)
    if is_float(values.dtype):
        kept = np.isfinite(converted) | ~np.isfinite(values)
    else:
        wide = converted.astype(np.float64)
        inside = np.isfinite(wide) & (np.abs(wide) <= 2.0**63) & (wide < 2.0**63)
        kept = inside & (np.where(inside, wide, 0).astype(np.int64) == values.astype(np.int64))
    if not kept.all():
        place = tuple(np.argwhere(~kept)[0])
        where = index.where(int(np.flatnonzero(index.ids == ids[sequences.rows[place[0]]])[0]))
        way_out = 'pass dtype="float64"' if is_float(values.dtype) else "leave dtype out to get the integers"
        raise DatasetError(
            f'{where}: "{name}" has the value {values[place].item()!r}, which dtype={dtype.name!r} does not hold: {way_out}.'
        )
    return converted
