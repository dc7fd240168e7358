"""Summaries of a dataset from its index and metadata: lengths, statistics, classes and their weights. Records are read only on request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlpipe.errors import DatasetError, SchemaError, counted, printable
from vlpipe.planning.class_weights import balanced, balanced_weights, has_classes
from vlpipe.planning.selection import only_label
from vlpipe.sources.classes import class_labels, class_names, is_class_label, named_label
from vlpipe.sources.compute_statistics import with_statistics
from vlpipe.sources.conditions import nearest
from vlpipe.sources.open import open_anywhere, open_local
from vlpipe.sources.table import Groups, Table, hop_ms
from vlpipe.storage.index import Index
from vlpipe.storage.paths import Source
from vlpipe.storage.schema import Text
from vlpipe.storage.statistics import Moments
from vlpipe.text_tables import MAX_ROWS, WIDE, Show, columns, named, text

if TYPE_CHECKING:
    from vlpipe.layouts.base import Layout


@dataclass(frozen=True)
class LengthSummary:
    """Statistics of the lengths of sequences, in frames.

    Attributes:
        frames: total number of frames.
        hours: their duration; None if the metadata do not contain the hop between frames.
        min, median, mean, p95, max: statistics of the lengths; p95 is the 95th percentile.
    """

    frames: int
    hours: float | None
    min: int
    median: float
    mean: float
    p95: float
    max: int

    @classmethod
    def from_lengths(cls, lengths: np.ndarray, hop_ms: float | None) -> LengthSummary | None:
        """Summarise lengths, int64 `[records]`; None if there are none."""
        if not len(lengths):
            return None
        total = int(lengths.sum())
        median, p95 = np.percentile(lengths, [50, 95]).tolist()
        hours = None if hop_ms is None else total * hop_ms / 3.6e6
        return cls(total, hours, int(lengths.min()), median, total / len(lengths), p95, int(lengths.max()))


@dataclass(frozen=True)
class ClassCount:
    """One class of a label, or the records with one text.

    Attributes:
        label: value of the label: an integer, or the text.
        name: name of the class in `metadata["classes"]`; None if it has none.
        records: number of records of this class.
        lengths: lengths of the first sequence of these records; None unless requested.
    """

    label: int | str
    name: str | None
    records: int
    lengths: LengthSummary | None = None


@dataclass(frozen=True)
class LabelSummary:
    """The classes of a label that have records, and the result of `class_weights`; None if the values are not class numbers."""

    classes: tuple[ClassCount, ...]
    class_weight: dict[int, float] | None


@dataclass(frozen=True)
class SequenceSummary:
    """One sequence of the schema.

    Attributes:
        shape, dtype: shape and dtype of a frame.
        lengths: statistics of the lengths; None if there are no records.
        mean, std: mean and standard deviation of each dimension; None if unknown.
        not_finite: number of values that are not finite; None if unknown.
        statistics: the exact moments behind `mean` and `std`, as in `vlpipe.json` (`Moments.to_json`); None if unknown.
    """

    shape: tuple[int, ...]
    dtype: str
    lengths: LengthSummary | None
    mean: tuple[float | None, ...] | None
    std: tuple[float | None, ...] | None
    not_finite: int | None
    statistics: dict[str, Any] | None


@dataclass(frozen=True, repr=False)
class Summary:
    """What `vlpipe.stats` returns: totals, then the sequences and labels by name; it prints as `vlpipe stats` does.

    Attributes:
        records, shards, bytes: totals.
        sequences: a `SequenceSummary` of each sequence of the schema, by its name.
        labels: a `LabelSummary` of each label with classes, by its name.
    """

    records: int
    shards: int
    bytes: int
    sequences: dict[str, SequenceSummary]
    labels: dict[str, LabelSummary]

    def report(self) -> str:
        """The summary as tables: totals, then one table for each sequence and each label."""
        totals = [("records", f"{self.records:,}"), ("shards", f"{self.shards:,}"), ("bytes", f"{self.bytes:,}")]
        parts = [named(totals)]
        for name, sequence in self.sequences.items():
            parts.append(named(_sequence_rows(name, sequence)))
        for name, label in self.labels.items():
            parts += [f"label {printable(name)}: {counted(len(label.classes), 'class')}", _class_table(label)]
            if label.class_weight and len(label.class_weight) <= MAX_ROWS:
                parts.append(f"class_weight={ {key: float(f'{weight:.4g}') for key, weight in label.class_weight.items()} }")
        return text(*parts, width=WIDE)

    def __repr__(self) -> str:
        return self.report()


def stats(source: Source, *, by: str | None = None, layout: str | Layout | None = None, compute: bool = False) -> Summary:
    """Records, frames, lengths, mean and deviation, classes and their weights of a source; no record is read, unless `compute` asks.

    Args:
        source, layout: as for `make_dataset`; a selection too.
        by: name of a scalar integer label, or of a text such as the speaker: only its classes, each with the lengths of its records;
            None: all such labels. Texts that are not in the index are read from the records.
        compute: read the frames whose mean and deviation are unknown, and cache the result.

    Raises:
        SchemaError: `by` is neither a scalar integer label nor a text.
        DatasetError: the source is not a dataset, or a record read for `compute` is damaged.
        ArgumentError: `compute` is set and the source is an address.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.zeros((n + 2, 80), np.float32), "label": n} for n in (0, 1)])
        >>> summary = vlpipe.stats("data/train")
        >>> summary.records, summary.sequences["features"].lengths.frames, summary.labels["label"].class_weight
        (2, 5, {0: 1.0, 1: 1.0})
    """
    return summarize(source, by, layout, compute=compute)


def summarize(
    source: Source,
    by: str | None = None,
    layout: Any = None,
    *,
    compute: bool = False,
    progress: Show | None = None,
) -> Summary:
    """Summarise a dataset from its index.

    Args:
        source, layout: as for `make_dataset`.
        by: name of a scalar integer label, or of a text such as the speaker: list only its classes, each with the lengths of its records;
            None: list all such labels, and the label that is a text, if the index has its values. Texts
            that are not in the index are read from the records.
        compute: read the frames whose mean and deviation are unknown, and cache the result (`sources.compute_statistics`).
        progress: called with the number of bytes read so far, and the number of bytes to read; None: a bar, on a terminal.

    Raises:
        SchemaError: `by` is neither a scalar integer label nor a text.
        DatasetError: the source is not a dataset, or a record read for `compute` is damaged.
        ArgumentError: `compute` is set and the source is an address.
    """
    index = with_statistics(open_local(source, layout), progress=progress) if compute else open_anywhere(source, layout)
    names = _counted(index) if by is None else [_grouping(index, by)]
    return Summary(
        records=len(index),
        shards=len(index.shards),
        bytes=sum(shard.bytes for shard in index.shards),
        sequences={name: _summarize_sequence(index, name) for name in index.counted},
        labels={name: _summarize_label(index, name, with_lengths=by is not None) for name in names},
    )


def class_weights(source: Source, label: str | None = None, layout: Any = None) -> dict[int, float]:
    """Compute weights for `model.fit(class_weight=)` that give every class the same total weight, however rare it is.

    The weight of a class is n / (classes * records of the class), as scikit-learn's "balanced"; of a label that is a sequence, frames are
    counted instead of records, and of vectors of 0 and 1, the ones. Records of a mix count as often as they come in an epoch. Numbers come
    from the index; sequences and long vectors are read from the records. Keras needs a weight for every class from 0 on: a class without
    records gets 1, which has no effect.

    Args:
        source: as for `make_dataset`.
        label: name of an integer field, a sequence of integers, or a vector with 0 or 1 for each class (or a sequence of vectors of
            integers); None: the label of the layout, else the field `label`, else the only scalar integer field.
        layout: layout of third-party files, as for `make_dataset`.

    Returns:
        The weight of each class, from 0 to the greatest.

    Raises:
        SchemaError: the schema has no such label, or several candidates.
        ArgumentError: the values are not class numbers: one is negative, or 1,048,576 or more; or a vector has other numbers than 0
            and 1.
        DatasetError: the source is not a dataset, or has no records.

    Example:
        >>> import tempfile
        >>> records = [{"x": np.zeros((5, 2), np.float32), "label": label} for label in (0, 0, 0, 1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vlpipe.write(f"{folder}/train", records, num_shards=1)
        ...     weights = vlpipe.class_weights(f"{folder}/train")
        >>> weights  # model.fit(vlpipe.make_dataset("data/train"), class_weight=weights)
        {0: 0.6666666666666666, 1: 2.0}
    """
    index = open_anywhere(source, layout)
    name = _default_label(index) if label is None else label
    if not isinstance(name, str) or not has_classes(index.schema.fields.get(name)):
        name = _class_label(index, label)
    if not len(index):
        raise DatasetError(f"{source}: has no records, expected at least one, to weigh the classes. Pass a dataset with records.")
    return balanced_weights(index, name)


def _counted(index: Index) -> list[str]:
    """The labels whose classes are counted without being asked for: what the index knows of all records."""
    label = _default_label(index)
    return [*class_labels(index), *([label] if label in index.texts and label is not None else [])]


def _is_text(index: Index, name: str) -> bool:
    return isinstance(name, str) and isinstance(index.schema.fields.get(name), Text)


def _grouping(index: Index, name: Any) -> str:
    """The field by whose values the caller wants to see the lengths: a scalar integer label or a text."""
    if isinstance(name, str) and (_is_text(index, name) or (name in index.schema.fields and is_class_label(index, name))):
        return name
    known = [*class_labels(index), *(field for field in index.schema.fields if _is_text(index, field))]
    raise SchemaError(
        f"by: came as {name!r}{nearest(name, set(known))}, expected a scalar integer field or a text of the source: "
        f"{', '.join(known) or 'none'}."
    )


def _groups(index: Index, name: str) -> Groups:
    """The distinct values of a label or a text in ascending order, and which of them each record has."""
    if _is_text(index, name):
        table = Table(index)
        return Groups.of(index, table, next(shown for shown, field in table.fields().items() if field == name))
    values, numbers = np.unique(index.access(name).row_values(index.rows), return_inverse=True)
    return Groups(values, numbers.reshape(-1))


def _default_label(index: Index) -> str | None:
    """The label of the layout, or the field called label, whatever its kind; None if there is neither."""
    return index.label or ("label" if "label" in index.schema.fields else None)


def _class_label(index: Index, label: str | None) -> str:
    """The name of the scalar integer label that the caller selected, or the default."""
    schema = index.schema
    if label is None:
        label = _default_label(index) or only_label(schema, class_labels(index), index)
    if label is None:
        raise SchemaError(
            f"label: the source has none, expected a scalar integer field (Fixed) among {', '.join(schema.fields)}. Name it with label=, "
            "or ingest with --label-regex, --label-from-parent or a manifest."
        )
    field = schema.fields.get(label) if isinstance(label, str) else None
    if field is None or not is_class_label(index, label):
        kind = "not a field of the schema" if field is None else repr(field)
        candidates = class_labels(index) or "none"
        raise SchemaError(f"label: {label!r} is {kind}, expected a scalar integer field (Fixed); candidates: {candidates}.")
    return label


def _summarize_label(index: Index, name: str, with_lengths: bool) -> LabelSummary:
    values, number_of = _groups(index, name)
    counts, is_text = np.bincount(number_of, minlength=len(values)), _is_text(index, name)
    names = [] if is_text else _class_names(index, name)
    lengths: list[LengthSummary | None] = [None] * len(values)
    if with_lengths and len(values):
        first = next(iter(index.schema.sequences))
        order = np.argsort(number_of, kind="stable")
        parts = np.split(index.frames(first)[order], np.cumsum(counts)[:-1])
        lengths = [LengthSummary.from_lengths(part, hop_ms(index, first)) for part in parts]
    classes = tuple(
        ClassCount(value, names[value] if names and 0 <= value < len(names) else None, count, summary)
        for value, count, summary in zip(values.tolist(), counts.tolist(), lengths, strict=True)
    )
    return LabelSummary(classes, None if is_text else balanced(values, counts))


def _class_names(index: Index, name: str) -> list[str]:
    """The class names of a label in the metadata: `vlpipe ingest` stores them for its only label, named "label"."""
    return (class_names(index.metadata) or []) if name == named_label(index) else []


def _summarize_sequence(index: Index, name: str) -> SequenceSummary:
    field, moments = index.schema.sequences[name], index.statistics.get(name)
    lengths = LengthSummary.from_lengths(index.frames(name), hop_ms(index, name))
    if moments is None:
        return SequenceSummary(field.dimensions, field.dtype, lengths, None, None, None, None)
    mean, std = _finite(moments, moments.mean), _finite(moments, np.sqrt(moments.variance))
    return SequenceSummary(field.dimensions, field.dtype, lengths, mean, std, moments.not_finite, moments.to_json())


def _finite(moments: Moments, numbers: np.ndarray) -> tuple[float | None, ...]:
    """The number of each dimension; None if the dimension has no finite value, or if the number overflows float64."""
    pairs: Any = zip(moments.count.tolist(), numbers.tolist(), strict=True)
    return tuple(number if count and math.isfinite(number) else None for count, number in pairs)


def _sequence_rows(name: str, sequence: SequenceSummary) -> list[tuple[str, str]]:
    shape = ", ".join(["T", *map(str, sequence.shape)])
    rows = [(name, f"[{shape}] {sequence.dtype}")]
    if sequence.lengths:
        lengths = sequence.lengths
        hours = "" if lengths.hours is None else f", {lengths.hours:,.2f} hours"
        quantiles = f"median {lengths.median:,.0f}, mean {lengths.mean:,.1f}, 95 % {lengths.p95:,.0f}"
        rows.append(("frames", f"{lengths.frames:,}{hours}"))
        rows.append(("lengths", f"min {lengths.min:,}, {quantiles}, max {lengths.max:,}"))
    for heading, numbers in (("mean", sequence.mean), ("deviation", sequence.std)):
        known = [number for number in numbers or () if number is not None]
        if known:
            rows.append((heading, f"{min(known):.4g} to {max(known):.4g} over {counted(len(known), 'dimension')}"))
    if sequence.statistics is None and sequence.shape and sequence.lengths:
        rows.append(("mean", "unknown; --compute computes it from the frames"))
    if sequence.not_finite:
        rows.append(("not finite", f"{counted(sequence.not_finite, 'number')}, excluded from mean and deviation"))
    return rows


def _class_table(label: LabelSummary) -> Any:
    total = sum(entry.records for entry in label.classes)
    weights: dict[Any, float] = dict(label.class_weight or {})
    rows = []
    for entry in label.classes:
        lengths = entry.lengths
        more = () if lengths is None else (lengths.frames, lengths.hours, lengths.min, lengths.median, lengths.max)
        rows.append((entry.label, entry.name or "", entry.records, f"{entry.records / total:.1%}", weights.get(entry.label), *more))
    headings = ["class", "name", "records", "share", "weight"]
    if rows and len(rows[0]) > len(headings):
        headings += ["frames", "hours", "shortest", "median", "longest"]
    return columns(*headings, rows=rows)
