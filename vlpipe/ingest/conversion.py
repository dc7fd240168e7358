"""Convert recordings into committed datasets."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.audio.channels import Channels
from vlpipe.errors import ArgumentError, DatasetExistsError, VlpipeError
from vlpipe.ingest.extraction import Features, IngestError, extract, with_channels
from vlpipe.ingest.recordings import Recording, split_of, splits_by_group
from vlpipe.ingest.waveform import Waveform
from vlpipe.processes import worker_count
from vlpipe.storage.index import METADATA_NAME
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.schema import Field, Fixed, Schema, Sequence, Text
from vlpipe.storage.writer import Writer

__all__ = ["IngestError", "IngestResult", "Totals", "ingest"]

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass
class Totals:
    """The size of one dataset: records, frames, seconds of audio, and bytes on disk."""

    records: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: int = 0


@dataclass
class IngestResult:
    """The result of an ingestion.

    Attributes:
        datasets: totals of each dataset, by directory.
        numbers: stored number of each label; empty without labels.
        classes: labels by number; None if the labels are integers themselves.
        bad: key and reason of each file that could not be used.
    """

    datasets: dict[Path, Totals]
    numbers: dict[str, int]
    classes: list[str] | None
    bad: list[tuple[str, str]] = field(default_factory=list)


def ingest(
    recordings: list[Recording],
    out: str | os.PathLike[str],
    features: Features,
    *,
    dtype: str = "float32",
    num_shards: int = 16,
    splits: dict[str, float] | None = None,
    split_by: str | None = None,
    classes: list[str] | None = None,
    workers: int | None = None,
    channels: Channels = "mix",
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> IngestResult:
    """Decode recordings, compute features, and write one dataset, or one dataset per split below `out`.

    Each record has the fields `features` (or `audio`, the samples), `path`, `label` if the recordings have labels, and the texts of the
    manifest. If all labels are integers, they are stored unchanged; otherwise a label is its position in the sorted list of classes, and
    the metadata contain this list. All splits have the same numbers; with `classes`, so have datasets of different runs.

    Args:
        recordings: the recordings, in the order in which they are written.
        out: directory of the dataset, or of the splits.
        features: the features to compute; or `Waveform(sample_rate)`: the samples themselves are stored, in int16.
        dtype: dtype of the stored features, "float32" or "float16"; waveforms have their own.
        num_shards: number of TFRecord files per dataset.
        splits: fraction of each split by name; None: write one dataset.
        split_by: a text of the recordings, or "label": recordings with the same value come into the same split; None: a hash of its path
            assigns each recording to a split; parts of one file come into the same.
        classes: the classes by number (`read_classes`), for integer labels too; None: those of the recordings, sorted.
        workers: number of processes; None: one per core.
        channels: of the files: "mix", "first" or "all", as for `vlpipe.audio.load`; all of them are stored only as waveforms, and all
            recordings must then have as many as the first one.
        skip_bad: leave out recordings that cannot be used, instead of failing at the end.
        overwrite: replace existing datasets.
        progress: called after each file.

    Raises:
        ArgumentError: `channels` does not fit the features, a text has the name of another field, a label is not among `classes`, the
            recordings have no labels to number by them, or cannot be split by `split_by`.
        IngestError: recordings cannot be used (the message lists all of them), or a worker process died. Nothing is committed.
        DatasetExistsError: a target exists, or `out` contains a split of an earlier run that this run does not replace.
        VlpipeError: as `Writer`.
    """
    numbers, classes = _number_labels(recordings) if classes is None else (_numbers_in(classes, recordings), classes)
    features = with_channels(features, channels, recordings)
    dtype = "int16" if isinstance(features, Waveform) else dtype
    schema = _schema(recordings, features, dtype)
    targets = {name: Path(out) / name for name in splits} if splits else {"": Path(out)}
    _refuse_other_splits(Path(out), splits or {})
    totals = {name: Totals() for name in targets}
    split_of_key = _splits(recordings, splits, split_by)
    result = IngestResult({target: totals[name] for name, target in targets.items()}, numbers, classes)
    workers = worker_count(workers, tasks=len(recordings))
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, target in targets.items():
            writers[name] = Writer(target, schema, num_shards=num_shards, overwrite=overwrite)
            stack.callback(writers[name].abort)
        extractions = stack.enter_context(contextlib.closing(extract(recordings, features, dtype, workers, channels)))
        for recording, extraction in extractions:
            if isinstance(extraction, str):
                result.bad.append((recording.key, extraction))
            elif skip_bad or not result.bad:
                name = split_of_key[recording.key]
                _write(writers[name], totals[name], recording, field_of(features), extraction, numbers)
            progress()
        _refuse_bad(result.bad, len(recordings), skip_bad)
        for name, writer in writers.items():
            writer.metadata |= features.settings() if isinstance(features, Waveform) else {"features": features.settings()}
            writer.metadata |= {"seconds": round(totals[name].seconds, 3)}
            writer.metadata |= {"skipped": [key for key, _ in result.bad]}
            writer.metadata |= {"splits": splits} if splits else {}
            writer.metadata |= {"split_by": split_by} if split_by else {}
            writer.metadata |= {"classes": classes} if classes else {}
            writer.metadata |= {"channels": channels} if channels != "mix" else {}
        _commit({target: writers[name] for name, target in targets.items()})
    for target, total in result.datasets.items():
        total.bytes = sum(file.stat().st_size for file in target.iterdir())
    return result


def _splits(recordings: list[Recording], splits: dict[str, float] | None, split_by: str | None) -> dict[str, str]:
    """The split of each recording, by its key; "" without splits."""
    if not splits:
        return dict.fromkeys((recording.key for recording in recordings), "")
    if split_by is None:
        return {recording.key: split_of(recording.file, splits) for recording in recordings}
    return dict(zip((recording.key for recording in recordings), splits_by_group(recordings, splits, split_by), strict=True))


def _number_labels(recordings: list[Recording]) -> tuple[dict[str, int], list[str] | None]:
    """The number of each label, and the classes by number; None if all labels are integers, which keep their value."""
    labels = sorted({recording.label for recording in recordings if recording.label is not None})
    if all(_INTEGER.fullmatch(label) for label in labels):
        return {label: int(label) for label in labels}, None
    return {label: position for position, label in enumerate(labels)}, labels


def _numbers_in(classes: list[str], recordings: list[Recording]) -> dict[str, int]:
    """The number of each class of a list.

    Raises:
        ArgumentError: a recording has no label, or one that is not in the list.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [recording for recording in recordings if recording.label not in numbers]
    if any(recording.label is None for recording in unknown):
        raise ArgumentError("classes: the recordings have no labels to number. Pass --label-regex, --label-from-parent or --manifest too.")
    if unknown:
        labels = sorted({str(recording.label) for recording in unknown})
        names = ", ".join(map(repr, labels[:8])) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
        raise ArgumentError(
            f"classes: the labels of {len(unknown)} recordings are not among the {len(classes)} classes: {names}, such as that of "
            f"{unknown[0].key}. Append the names to the list, or leave these recordings out."
        )
    return numbers


def field_of(features: Features) -> str:
    """Name of the field that holds the features, or the samples."""
    return "audio" if isinstance(features, Waveform) else "features"


def _schema(recordings: list[Recording], features: Features, dtype: str) -> Schema:
    """The schema of the datasets.

    Raises:
        ArgumentError: a text of the recordings has the name of another field.
    """
    first = recordings[0]
    taken = sorted({"path", "label", field_of(features)} & {name for recording in recordings for name in recording.texts})
    if taken:
        raise ArgumentError(
            f"recordings: a column of the manifest or a group of --label-regex is named {taken[0]!r}, as a field of each record. "
            "Give it another name, such as group."
        )
    fields: dict[str, Field] = {field_of(features): Sequence(features.dim, dtype)}
    if first.label is not None:
        fields["label"] = Fixed((), "int64")
    fields["path"] = Text()
    return Schema(**fields, **{name: Text() for name in first.texts})


def _refuse_other_splits(out: Path, splits: dict[str, float]) -> None:
    """Refuse to write beside a split of an earlier run that is not replaced: it could share recordings with the new splits."""
    other_splits = []
    for metadata in sorted(out.glob(f"*/{METADATA_NAME}")) if splits else []:
        with contextlib.suppress(VlpipeError):
            if metadata.parent.name not in splits and "splits" in open_directory(metadata.parent).metadata:
                other_splits.append(metadata.parent.name)
    if other_splits:
        raise DatasetExistsError(
            f"{out}: contains the splits {other_splits} of an earlier run, which may share recordings with {list(splits)}. Remove them, or "
            "pass another OUT."
        )


def _write(
    writer: Writer, totals: Totals, recording: Recording, field: str, extraction: tuple[np.ndarray, float], numbers: dict[str, int]
) -> None:
    frames, seconds = extraction
    record: dict[str, Any] = {field: frames, "path": recording.key, **recording.texts}
    if recording.label is not None:
        record["label"] = numbers[recording.label]
    writer.write(record)
    totals.records += 1
    totals.frames += len(frames)
    totals.seconds += seconds


def _refuse_bad(bad: list[tuple[str, str]], recordings: int, skip_bad: bool) -> None:
    reasons = "\n".join(f"  {reason}" for _, reason in bad)
    if skip_bad and len(bad) == recordings:
        raise IngestError(f"none of the {recordings} recordings can be used; nothing was written:\n{reasons}")
    if bad and not skip_bad:
        raise IngestError(
            f"{len(bad)} of {recordings} recordings cannot be used; nothing was written. Fix them, or pass --skip-bad to leave them out:\n"
            f"{reasons}"
        )


def _commit(writers: dict[Path, Writer]) -> None:
    committed: list[str] = []
    for target, writer in writers.items():
        try:
            writer.close()
        except VlpipeError as error:
            if not committed:
                raise
            raise IngestError(f"{error} The datasets {committed} were already committed: run again with --overwrite.") from error
        committed.append(str(target))
