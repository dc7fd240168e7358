"""From anything that can be read to the native format: `convert`, which `vlpipe convert` calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlpipe.conversion.work import Part
from vlpipe.conversion.workers import in_processes, job
from vlpipe.errors import ArgumentError
from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import named
from vlpipe.sources.open import open_anywhere
from vlpipe.sources.records import Records
from vlpipe.storage.index import Index, column
from vlpipe.storage.paths import Source, expand
from vlpipe.storage.transaction import Draft

# Processes have to be started first: for less work, about half a second, that takes longer than it saves.
BYTES_FOR_PROCESSES = 1 << 28
BYTES_PER_RECORD = 1 << 14  # that could be converted in the time that a record takes, however small

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        records: how many.
        frames: of each sequence, in all of them.
        files: shards of the source, and of the target.
        bytes: of the shards of the source, and of the target.
        layout: that the source has; None where vlpipe wrote it.
        label: the field that is the label; None: it is not noted.
        workers: processes that worked.
    """

    records: int
    frames: dict[str, int]
    files: tuple[int, int]
    bytes: tuple[int, int]
    layout: str | None
    label: str | None
    workers: int


def convert(
    source: Source,
    path: str | os.PathLike[str],
    *,
    layout: str | Layout | None = None,
    num_shards: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Converted:
    """Write a dataset in the native format of all records of a source, in their order; complete, or not at all.

    Frames and labels are those that `make_dataset` delivers of the source, bit by bit, and so are all fields that it can deliver. The
    result is byte for byte what `Writer` makes of the same records, whatever the number of processes.

    Args:
        source: as for `make_dataset`, on local file systems.
        path: the directory to make.
        layout: as for `make_dataset`.
        num_shards: number of TFRecord files.
        workers: processes, not more than shards; None: one a core where there is work for them.
        overwrite: replace a dataset that exists; it stays until the new one is complete.
        progress: called with the bytes of records that are done and those of all.

    Raises:
        ArgumentError: the source is an address, or lies in the target.
        SchemaError: the layout is not that of the records, or a vlpipe dataset cannot hold a record; the message names it.
        DatasetError: a record is damaged, or something cannot be read or written.
        DatasetExistsError: the target exists and `overwrite` is false, or another process is writing it.
        VlpipeError: a process has died. In any case nothing is committed.

    Example:
        >>> convert("bal_train/*.tfrecord", "data/audioset", layout="audioset").records
        22160
    """
    if isinstance(source, str) and "://" in source:
        raise ArgumentError(f"source: {source} is an address, and only local files are converted. Copy them here first.")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise ArgumentError(f"workers: came as {workers!r}, expected a number of processes, or None.")
    chosen = None if layout is None else named(layout)
    paths = expand(source)
    draft = Draft(path, num_shards, overwrite=overwrite)
    try:
        index = open_anywhere(paths, chosen)
        _refuse_own(index, draft.path)
        processes = _processes(index, num_shards, workers)
        told = job(index, paths, chosen, draft) if processes > 1 else None
        return _convert(index, draft, told, processes, progress)
    finally:
        draft.abort()


def _processes(index: Index, num_shards: int, workers: int | None) -> int:
    if workers is None:
        work = int(index.rows["bytes"].sum()) + BYTES_PER_RECORD * len(index)
        workers = os.cpu_count() or 1 if work >= BYTES_FOR_PROCESSES else 1
    return max(1, min(workers, num_shards, len(index)))


def _convert(index: Index, draft: Draft, told: dict[str, Any] | None, processes: int, progress: Progress) -> Converted:
    """Convert in this process, or in others that can be told what to do."""
    schema, total = Records(index).schema, int(index.rows["bytes"].sum())
    if told is None:
        part = Part(index, draft.path, draft.directory, draft.names)
        rows, shards = part.convert(lambda: progress(part.bytes, total))
    else:
        rows, shards = in_processes(told, schema, len(index), processes, lambda done: progress(done, total))
    metadata = index.metadata if index.label is None else {**index.metadata, "label": index.label}
    draft.commit(schema, rows, shards, metadata)
    progress(total, total)
    return Converted(
        records=len(index),
        frames={name: int(rows[column(schema, "frames", name)].sum(dtype=int)) for name in schema.sequences},
        files=(len(index.shards), len(shards)),
        bytes=(sum(shard.bytes for shard in index.shards), sum(shard.bytes for shard in shards.values())),
        layout=index.metadata.get("layout") if index.foreign is not None else None,
        label=index.label,
        workers=1 if told is None else processes,
    )


def _refuse_own(index: Index, path: str) -> None:
    target = os.path.realpath(path)
    for shard in index.shards:
        place = os.path.realpath(shard.path)
        if os.path.commonpath([place, target]) == target:
            raise ArgumentError(f"source: {shard.path} lies in the target {path}, which would replace it. Choose another target.")
