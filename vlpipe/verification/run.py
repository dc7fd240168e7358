"""`verify`: check all files of a source, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from vlpipe.errors import WRITE_AGAIN, ArgumentError, DatasetError, SchemaError
from vlpipe.layouts.base import Layout
from vlpipe.processes import worker_count
from vlpipe.sources.foreign.build_index import choose_layout
from vlpipe.sources.foreign.find_files import files_of, is_foreign
from vlpipe.sources.native import open_source
from vlpipe.sources.open import refuse_address
from vlpipe.storage.index import Index
from vlpipe.storage.metadata import read_metadata
from vlpipe.storage.paths import Opened, Source
from vlpipe.text_tables import Show, progress_bar
from vlpipe.verification.files import FileCheck, Meter
from vlpipe.verification.native import ShardCheck
from vlpipe.verification.report import MAX_PROBLEMS, Problem, Report
from vlpipe.verification.third_party import ThirdPartyCheck, intact_records

MAX_WORKERS = 1024


def verify(
    source: Source,
    layout: Any = None,
    *,
    finite: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a whole dataset and report everything that differs from what was written; the first damage does not end it.

    Every record: its length and both checksums in the file are compared with each other and with the index, every field of its Example
    with the schema and with the frames and values in the index. Every shard: its size, and its SHA-256 in `vlpipe.json`; and whether
    `vlpipe.json` has a digest of its own content (it is compared whenever the dataset is opened). TensorFlow is not needed.

    Third-party files: the length and both checksums of every record are compared with each other; where the layout is passed or can be
    detected, every record is compared with it, and with the index if one was built before. After a corrupt length, reading continues only
    with such an index; without one the rest of the file is lost, and counted in bytes. Nothing is written.

    Args:
        source: directory, glob, file, or a list of them, on a local file system; or an open source: of a selection, the files that have
            its records are read whole.
        layout: the layout of third-party records, as for `make_dataset`.
        finite: also report NaN and infinities in fields of floats, each with the first place in its record. Of third-party records, those
            that fit the layout are read for it.
        workers: files that are read at the same time, each by a thread that holds one record in memory; None: one per core.
        progress: called now and then with the bytes that were read and their total, by one thread at a time; None: a bar, on a terminal.

    Returns:
        A `Report`: its totals, and its `problems`.

    Raises:
        DatasetError: `vlpipe.json` or `index.npy` is missing, damaged or does not match the other, so that nothing can be compared.
        ArgumentError: the source is not a local path, or another argument is invalid.
        SchemaError: the first records do not fit the layout.

    Example:
        >>> import os, tempfile
        >>> directory = os.path.join(tempfile.mkdtemp(), "train")
        >>> vlpipe.write(directory, [{"features": [[0.5, 1.0]] * 3, "label": 1}], num_shards=1)
        >>> vlpipe.verify(directory).ok
        True
        >>> with open(os.path.join(directory, "train-00000-of-00001.tfrecord"), "r+b") as file:
        ...     position, _ = file.seek(30), file.write(b"?")
        >>> [(problem.record, problem.kind) for problem in vlpipe.verify(directory).problems]
        [(0, 'data')]
    """
    if progress is not None and not callable(progress):
        raise ArgumentError(f"progress: came as {progress!r}, expected a function of two numbers of bytes, or None.")
    if not isinstance(finite, (bool, np.bool_)):
        raise ArgumentError(f"finite: came as {finite!r}, expected True or False.")
    workers = worker_count(workers, limit=MAX_WORKERS)
    refuse_address(source)
    with progress_bar("verifying", "MB", 1e6, progress) as show:
        return _verify(source, layout, workers, show, finite=finite)


def _verify(source: Source, layout: Any, workers: int, progress: Show, *, finite: bool) -> Report:
    if isinstance(source, Opened):
        used = source.index if source.index.taken is None else _used(source.index)
        if source.index.foreign is None:
            return _verify_native(used, workers, progress, finite=finite)
        return _verify_third_party([shard.path for shard in used.shards], layout or source.layout, workers, progress, finite=finite)
    if layout is not None or is_foreign(source):
        return _verify_third_party(files_of(source), layout, workers, progress, finite=finite)
    return _verify_native(open_source(source, check_files=False), workers, progress, finite=finite)


def _used(index: Index) -> Index:
    """The index of all records of the files that have records of a selection."""
    shards, whole = np.unique(index.rows["shard"]), index.whole
    number = np.full(len(whole.shards), -1)
    number[shards] = np.arange(len(shards))
    kept = whole.take(np.flatnonzero(number[whole.rows["shard"]] >= 0))
    kept.rows["shard"] = number[kept.rows["shard"]]
    renumbered = kept.renumbered and replace(kept.renumbered, tables=tuple(kept.renumbered.tables[shard] for shard in shards))
    written = tuple(whole.written[shard] for shard in shards) if whole.written else ()
    return replace(
        kept, shards=tuple(whole.shards[shard] for shard in shards), renumbered=renumbered, written=written, mixture=None, taken=None
    )


def _verify_native(index: Index, workers: int, progress: Show, *, finite: bool) -> Report:
    meter = Meter(sum(shard.bytes for shard in index.shards), progress)
    checks = [ShardCheck(index, number, part, meter, finite=finite) for number, part in enumerate(index.parts())]
    _run(checks, workers, meter)
    name_by_digest = {shard.digest: shard.name for shard in index.shards if shard.records}
    for check in checks:
        check.check_digest(name_by_digest)
    return _report(checks, meter, "vlpipe", _missing_digests(index))


def _missing_digests(index: Index) -> list[Problem]:
    """The `vlpipe.json` files that hold no digest of their content: a change of statistics or class names in them would not be seen."""
    directories = dict.fromkeys(os.path.dirname(shard.path) for shard in index.shards)
    files = [metadata.path for metadata in map(read_metadata, directories) if not metadata.has_digest]
    expected = "one, as vlpipe writes it"
    return [Problem(path, None, None, "digest", "no digest of its content", expected, WRITE_AGAIN) for path in files]


def _verify_third_party(paths: list[str], layout: Any, workers: int, progress: Show, *, finite: bool) -> Report:
    chosen = _choose_layout(paths, layout)
    meter = Meter(sum(os.path.getsize(path) for path in paths if os.path.isfile(path)), progress)
    checks = [ThirdPartyCheck(path, chosen, meter, finite=finite) for path in paths]
    _run(checks, workers, meter)
    return _report(checks, meter, chosen.name if chosen else None)


def _choose_layout(paths: list[str], layout: Any) -> Layout | None:
    """The layout that the intact records have; None where they do not show it."""
    try:
        return choose_layout(paths, layout, intact_records)
    except DatasetError:  # no record is intact; the checks of the files show why
        return None
    except SchemaError:
        if layout is not None:
            raise
        return None


def _run(checks: Sequence[FileCheck], workers: int, meter: Meter) -> None:
    def run(check: FileCheck) -> None:
        try:
            check.run()
        except BaseException:  # raised by `progress`
            meter.stopped = True
            raise

    # Threads, not processes: reading and SHA-256, most of the work, release the interpreter lock (1.1 GB per second and core). The rest
    # counts only with records of a few KB, 35,000 per second.
    with ThreadPoolExecutor(min(workers, len(checks))) as pool:
        try:
            list(pool.map(run, checks))
        except BaseException:  # Ctrl-C too: the other threads stop at their next record
            meter.stopped = True
            raise


def _report(checks: Sequence[FileCheck], meter: Meter, layout: str | None, others: Sequence[Problem] = ()) -> Report:
    problems = [*others, *(problem for check in checks for problem in check.problems)][:MAX_PROBLEMS]
    return Report(
        shards=len(checks),
        records=sum(check.records for check in checks),
        bytes=meter.done,
        damaged=sum(check.damaged for check in checks),
        lost=sum(check.lost for check in checks),
        problems=tuple(problems),
        unlisted=len(others) + sum(check.count for check in checks) - len(problems),
        layout=layout,
        damage=tuple(damage for check in checks if (damage := check.damage()) is not None),
        files=tuple(check.path for check in checks),
    )
