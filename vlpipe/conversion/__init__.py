"""`convert`, behind `vlpipe convert`: from any source to a dataset in the native format."""

from __future__ import annotations

import logging
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from vlpipe.conversion.work import Part
from vlpipe.conversion.workers import in_processes, job_for
from vlpipe.errors import ArgumentError, SchemaError, counted, printable
from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import named
from vlpipe.processes import check_workers, worker_count
from vlpipe.sources.open import open as open_source
from vlpipe.sources.open import open_anywhere, refuse_address
from vlpipe.sources.records import Records
from vlpipe.storage.field_access import column
from vlpipe.storage.index import DEFAULT_FEATURES, Index
from vlpipe.storage.paths import Opened, Source, expand
from vlpipe.storage.transaction import DatasetTransaction
from vlpipe.text_tables import Show, progress_bar

_log = logging.getLogger("vlpipe")

BYTES_PER_RECORD = 1 << 14  # converting a record takes at least as long as copying this many bytes, however small it is


@dataclass(frozen=True, repr=False)
class Converted:
    """What `vlpipe.convert` returns; it prints as `vlpipe convert` does.

    Attributes:
        path: the directory that was made.
        records: number of records.
        frames: total frames of each sequence.
        files: number of shards of the source, and of the target.
        bytes: size of the shards of the source, and of the target.
        layout: name of the source's layout; None if vlpipe wrote the source.
        label: the field that is the label; None if none is recorded.
        workers: number of processes that did the work.
        seconds: that it took.
    """

    path: str
    records: int
    frames: dict[str, int]
    files: tuple[int, int]
    bytes: tuple[int, int]
    layout: str | None
    label: str | None
    workers: int
    seconds: float = field(compare=False)

    def report(self) -> str:
        """What was read, written, and how fast, in three lines."""
        frames = ", ".join(f"{counted(count, 'frame')} of {printable(name)}" for name, count in self.frames.items())
        (read, written), (sources, shards) = self.bytes, self.files
        return "\n".join(
            [
                f"{self.path}: {counted(self.records, 'record')}, {frames}; {counted(shards, 'file')}, {written / 1e6:,.1f} MB",
                f"from {counted(sources, 'file')}, {read / 1e6:,.1f} MB, layout {self.layout or 'vlpipe'}, label {self.label or 'unknown'}",
                f"in {self.seconds:.1f} s by {counted(self.workers, 'process')} ({read / 1e6 / self.seconds:,.0f} MB/s)",
            ]
        )

    def __repr__(self) -> str:
        return self.report()


def convert(
    source: Source,
    path: str | os.PathLike[str],
    *,
    layout: str | Layout | None = None,
    label_classes: Any = None,
    num_shards: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Show | None = None,
) -> Converted:
    """Write all records of a source, in their order, as a dataset in the native format; complete, or not at all.

    Frames, labels and all other fields are bit by bit those that `make_dataset` delivers from the source; a source with a key that cannot
    be delivered is refused, unless the layout leaves it out (`Layout.only`). The files are byte for byte
    those that `Writer` makes from the same records, whatever the number of processes.

    Of several datasets whose sample rates differ, the new one has none, and a line of the log says so.

    Args:
        source: as for `make_dataset`, on local file systems; of a selection, its records.
        path: the directory to make.
        layout: as for `make_dataset`.
        label_classes: as for `make_dataset`: the label, a text, is written as the number of its class, and the names into the metadata.
        num_shards: number of TFRecord files.
        workers: number of processes, at most one per shard; None: one per core if there is enough work for them.
        overwrite: replace an existing dataset, which stays until the new one is complete.
        progress: called with the bytes of the records that are done, and of all records; None: a bar, on a terminal.

    Raises:
        ArgumentError: the source is an address or lies in the target, or an argument has a value without meaning.
        SchemaError: the records do not have this layout, or a vlpipe dataset cannot hold one of them or one of their keys; the message
            names it.
        DatasetError: a record is damaged, or a file cannot be read or written.
        DatasetExistsError: the target exists and `overwrite` is false, or another process is writing it.
        VlpipeError: a worker process died.
        After any of them, the target is what it was before.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.zeros((n, 80), np.float32), "label": n} for n in (2, 3)])
        >>> vlpipe.convert("data/train", "data/one-shard", num_shards=1).frames
        {'features': 5}
    """
    started = time.perf_counter()
    if isinstance(source, str) and "://" in source:
        raise ArgumentError(f"source: {source} is an address, and only local files are converted. Copy them here first.")
    check_workers(workers)
    if label_classes is not None:
        source, layout = open_source(source, layout=layout, label_classes=label_classes), None
    chosen = None if layout is None else named(layout)
    if isinstance(source, Opened):
        refuse_address(source)
    paths = source if isinstance(source, Opened) else expand(source)
    transaction = DatasetTransaction(path, num_shards, overwrite=overwrite)
    try:
        index = open_anywhere(paths, chosen)
        if index.mixture is not None:
            raise ArgumentError("source: a mix says how often records come in an epoch, which a dataset cannot hold. Convert its parts.")
        _refuse_source_in_target(index, transaction.path)
        _refuse_lost_keys(index)
        _warn_of_rates(index, os.fsdecode(path))
        work = int(index.rows["bytes"].sum()) + BYTES_PER_RECORD * len(index)
        processes = worker_count(workers, tasks=min(num_shards, len(index)), work_bytes=work)
        job_or_none = job_for(index, paths, chosen, transaction) if processes > 1 else nullcontext()
        with job_or_none as job, progress_bar("converting", "MB", 1e6, progress) as show:
            converted = _convert(index, transaction, job, processes, show)
        return Converted(os.fsdecode(path), **converted, seconds=max(time.perf_counter() - started, 1e-9))
    finally:
        transaction.abort()


def _convert(index: Index, transaction: DatasetTransaction, job: dict[str, Any] | None, processes: int, progress: Show) -> dict[str, Any]:
    """Convert in several processes, or in this one if there is no `job` for others; returns attributes of `Converted`."""
    schema, total = Records(index).schema, int(index.rows["bytes"].sum())
    if job is None:
        part = Part(index, transaction.path, transaction.directory, transaction.names)
        rows, texts, shards = part.convert(lambda: progress(part.bytes, total))
    else:
        rows, texts, shards = in_processes(job, schema, len(index), processes, lambda done: progress(done, total))
    metadata = index.metadata if index.label is None else {**index.metadata, "label": index.label}
    if index.default_features is not None:
        metadata = {**metadata, DEFAULT_FEATURES: list(index.default_features)}
    transaction.commit(schema, rows, texts, shards, metadata)
    progress(total, total)
    return {
        "records": len(index),
        "frames": {name: int(rows[column(schema, "frames", name)].sum(dtype=int)) for name in schema.sequences},
        "files": (len(index.shards), len(shards)),
        "bytes": (sum(shard.bytes for shard in index.shards), sum(shard.bytes for shard in shards.values())),
        "layout": index.metadata.get("layout") if index.foreign is not None else None,
        "label": index.label,
        "workers": 1 if job is None else processes,
    }


def _refuse_lost_keys(index: Index) -> None:
    """Refuse third-party files with keys that would be lost although nobody left them out.

    Raises:
        SchemaError: there are such keys; the message names them, and how to leave them out.
    """
    foreign = index.foreign
    if foreign is None or not foreign.left_out:
        return
    lost = "; ".join(f"{key!r}: {reason}" for key, reason in foreign.left_out.items())
    frames = [name for name in index.schema.sequences if name not in foreign.lists] if foreign.features is None else foreign.features
    others = [name for name in index.schema.fields if name not in (*frames, index.label)]
    raise SchemaError(
        f"{index.shards[0].path}: not converted, because these keys cannot be delivered and would be lost: {lost}. Leave them out with "
        f"layout=vlpipe.layouts.{index.metadata['layout']}(...).only({', '.join(map(repr, others))}); or pass the values of records that "
        "lack a key: default={KEY: VALUE}."
    )


def _warn_of_rates(index: Index, path: str) -> None:
    """Log that the new dataset will have no sample rate, because the datasets that become one have different ones, or some have none."""
    if index.joined_rates and index.sample_rate is None:
        _log.warning(
            "%s: is written without a sample rate, because not all of its sources have the same (%s Hz): nothing can then check it. "
            "Convert sources of one rate together",
            path,
            " and ".join(map(str, index.joined_rates)),
        )


def _refuse_source_in_target(index: Index, path: str) -> None:
    target = os.path.realpath(path)
    for shard in index.shards:
        if os.path.commonpath([os.path.realpath(shard.path), target]) == target:
            raise ArgumentError(f"source: {shard.path} lies in the target {path}, which would replace it. Choose another target.")
