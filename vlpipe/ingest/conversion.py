"""From recordings to committed datasets."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.errors import DatasetExistsError, VlpipeError
from vlpipe.ingest.extraction import Features, IngestError, extract
from vlpipe.ingest.recordings import Recording, split_of
from vlpipe.processes import worker_count
from vlpipe.storage.index import METADATA_NAME
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.schema import Field, Fixed, Schema, Sequence, Text
from vlpipe.storage.writer import Writer

__all__ = ["IngestError", "Summary", "Totals", "ingest"]

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass
class Totals:
    """What went into one dataset: records, frames, seconds of audio, and bytes on disk."""

    records: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Summary:
    """What an ingestion did.

    Attributes:
        datasets: the totals of each dataset, by its directory.
        numbers: the number of each label; empty without labels.
        classes: the labels by number, None where they are whole numbers themselves.
        bad: the files that could not be used, with the reason.
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
    workers: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> Summary:
    """Decode recordings, compute features, and write one dataset, or one a split below `out`.

    Each record has `features`, `path`, `label` if there are labels, and the texts of the manifest. Labels that are
    whole numbers stay what they are; others become positions in a sorted list of classes, which the metadata hold.

    Args:
        recordings: what to ingest, in the order in which it is written.
        out: the dataset's directory, or the folder of the splits.
        features: what to compute.
        dtype: what to store, "float32" or "float16".
        num_shards: TFRecord files a dataset.
        splits: fraction of each split, None for one dataset.
        workers: processes; None: one a core.
        skip_bad: leave out what cannot be used, instead of failing in the end.
        overwrite: replace datasets that exist.
        progress: called after each file.

    Raises:
        IngestError: recordings cannot be used, all of which are listed, or a worker process died. Nothing is committed.
        DatasetExistsError: a target exists, or a split that this run does not make lies beside them.
        VlpipeError: as `Writer`.
    """
    numbers, classes = _number(recordings)
    schema = _schema(recordings, features, dtype)
    targets = {name: Path(out) / name for name in splits} if splits else {"": Path(out)}
    _refuse_other_splits(Path(out), splits or {})
    totals = {name: Totals() for name in targets}
    summary = Summary({target: totals[name] for name, target in targets.items()}, numbers, classes)
    workers = worker_count(workers, tasks=len(recordings))
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, target in targets.items():
            writers[name] = Writer(target, schema, num_shards=num_shards, overwrite=overwrite)
            stack.callback(writers[name].abort)
        results = stack.enter_context(contextlib.closing(extract(recordings, features, dtype, workers)))
        for recording, result in results:
            if isinstance(result, str):
                summary.bad.append((recording.key, result))
            elif skip_bad or not summary.bad:
                name = split_of(recording.key, splits) if splits else ""
                _write(writers[name], totals[name], recording, result, numbers)
            progress()
        _refuse_bad(summary, len(recordings), skip_bad)
        for name, writer in writers.items():
            writer.metadata |= {"features": features.settings(), "seconds": round(totals[name].seconds, 3)}
            writer.metadata |= {"skipped": [key for key, _ in summary.bad]}
            writer.metadata |= {"splits": splits} if splits else {}
            writer.metadata |= {"classes": classes} if classes else {}
        _commit({target: writers[name] for name, target in targets.items()})
    for target, total in summary.datasets.items():
        total.bytes = sum(file.stat().st_size for file in target.iterdir())
    return summary


def _number(recordings: list[Recording]) -> tuple[dict[str, int], list[str] | None]:
    """The number of each label, and the classes that the numbers stand for; whole numbers stand for themselves."""
    labels = sorted({recording.label for recording in recordings if recording.label is not None})
    if all(_INTEGER.fullmatch(label) for label in labels):
        return {label: int(label) for label in labels}, None
    return {label: position for position, label in enumerate(labels)}, labels


def _schema(recordings: list[Recording], features: Features, dtype: str) -> Schema:
    first = recordings[0]
    fields: dict[str, Field] = {"features": Sequence(features.dim, dtype)}
    if first.label is not None:
        fields["label"] = Fixed((), "int64")
    fields["path"] = Text()
    return Schema(**fields, **{name: Text() for name in first.texts})


def _refuse_other_splits(out: Path, splits: dict[str, float]) -> None:
    """A split of an earlier run that this one does not replace would share recordings with the new ones."""
    others = []
    for metadata in sorted(out.glob(f"*/{METADATA_NAME}")) if splits else []:
        with contextlib.suppress(VlpipeError):
            if metadata.parent.name not in splits and "splits" in open_directory(metadata.parent).metadata:
                others.append(metadata.parent.name)
    if others:
        raise DatasetExistsError(
            f"{out}: holds {others} of another split, which may have the same recordings as {list(splits)} would. Remove them, or choose "
            "another OUT."
        )


def _write(writer: Writer, totals: Totals, recording: Recording, result: tuple[np.ndarray, float], numbers: dict[str, int]) -> None:
    frames, seconds = result
    record: dict[str, Any] = {"features": frames, "path": recording.key, **recording.texts}
    if recording.label is not None:
        record["label"] = numbers[recording.label]
    writer.write(record)
    totals.records += 1
    totals.frames += len(frames)
    totals.seconds += seconds


def _refuse_bad(summary: Summary, recordings: int, skip_bad: bool) -> None:
    reasons = "\n".join(f"  {reason}" for _, reason in summary.bad)
    if skip_bad and len(summary.bad) == recordings:
        raise IngestError(f"none of the {recordings} recordings can be used; nothing was written:\n{reasons}")
    if summary.bad and not skip_bad:
        raise IngestError(
            f"{len(summary.bad)} of {recordings} recordings cannot be used; nothing was written. Mend them, or pass --skip-bad to "
            f"leave them out:\n{reasons}"
        )


def _commit(writers: dict[Path, Writer]) -> None:
    done: list[str] = []
    for target, writer in writers.items():
        try:
            writer.close()
        except VlpipeError as error:
            if not done:
                raise
            raise IngestError(f"{error} But {done} had been committed before; run again with --overwrite.") from error
        done.append(str(target))
