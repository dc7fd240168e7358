"""`verify`: all files of a source, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.layouts.base import Layout
from vlpipe.processes import worker_count
from vlpipe.sources.foreign.build_index import choose_layout
from vlpipe.sources.foreign.find_files import files_of, is_foreign
from vlpipe.sources.native import open_source
from vlpipe.sources.open import refuse_address
from vlpipe.storage.paths import Source
from vlpipe.verification.files import FileCheck, Meter
from vlpipe.verification.others import ForeignCheck, sound_records
from vlpipe.verification.own import ShardCheck
from vlpipe.verification.report import MAX_PROBLEMS, Report

MAX_WORKERS = 1024


def verify(source: Source, layout: Any = None, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read a whole dataset and tell all that is not as it was written; it does not stop at the first damage.

    Of every record: the length and both checksums in the file, against themselves and against the index; every field of its Example,
    against the schema, and against the frames and values that the index has of it. Of every shard: its size, and its SHA-256 in
    `vlpipe.json`. TensorFlow is not needed.

    Of files that vlpipe did not write: the length and both checksums of every record; and, where the layout is known or leaves no doubt,
    that the record is as it says, and as an index that was made before has it. Behind a damaged length only such an index can go on;
    without one the rest of the file is lost, and counted in bytes. Nothing is written.

    Args:
        source: directory, glob, file, or a list of them, on a local file system.
        layout: how the records are laid out that vlpipe did not write, as for `make_dataset`.
        workers: files that are read at the same time, each by a thread that holds one record in memory; None: one a core.
        progress: called now and then with the bytes that were read and those that there are, by one thread at a time.

    Raises:
        DatasetError: `vlpipe.json` or `index.npy` are missing, damaged or do not agree: there is nothing to hold the shards against.
        ArgumentError: the source is no path, or an argument has no meaning.
        SchemaError: the first records do not have what the layout says.

    Example:
        >>> report = vlpipe.verify("data/train")
        >>> if not report.ok:
        ...     print(report.report())
    """
    if progress is not None and not callable(progress):
        raise ArgumentError(f"progress: came as {progress!r}, expected a function of two numbers of bytes, or None.")
    workers = worker_count(workers, limit=MAX_WORKERS)
    refuse_address(source)
    if layout is not None or is_foreign(source):
        return _verify_foreign(files_of(source), layout, workers, progress)
    return _verify_own(source, workers, progress)


def _verify_own(source: Source, workers: int, progress: Callable[[int, int], None] | None) -> Report:
    index = open_source(source, check_files=False)
    meter = Meter(sum(shard.bytes for shard in index.shards), progress)
    checks = [ShardCheck(index, number, part, meter) for number, part in enumerate(index.parts())]
    _run(checks, workers, meter)
    by_digest = {shard.digest: shard.name for shard in index.shards if shard.records}
    for check in checks:
        check.judge_digest(by_digest)
    return _report(checks, meter, "vlpipe")


def _verify_foreign(paths: list[str], layout: Any, workers: int, progress: Callable[[int, int], None] | None) -> Report:
    known = _known_layout(paths, layout)
    meter = Meter(sum(os.path.getsize(path) for path in paths if os.path.isfile(path)), progress)
    checks = [ForeignCheck(path, known, meter) for path in paths]
    _run(checks, workers, meter)
    return _report(checks, meter, known.name if known else None)


def _known_layout(paths: list[str], layout: Any) -> Layout | None:
    """The layout of the records, as far as whole ones show it; None where it cannot be told."""
    try:
        return choose_layout(paths, layout, sound_records)
    except DatasetError:  # no record is whole: why, the files will show
        return None
    except SchemaError:
        if layout is not None:
            raise
        return None


def _run(checks: Sequence[FileCheck], workers: int, meter: Meter) -> None:
    def run(check: FileCheck) -> None:
        try:
            check.run()
        except BaseException:  # what `progress` raises
            meter.stopped = True
            raise

    # Threads, not processes: reading and SHA-256, most of the work, let go of the interpreter (1.1 GB a second and core). Only with records
    # of a few KB, 35,000 a second, does the rest count.
    with ThreadPoolExecutor(min(workers, len(checks))) as pool:
        try:
            list(pool.map(run, checks))
        except BaseException:  # Ctrl-C too: the other threads stop at their next record
            meter.stopped = True
            raise


def _report(checks: Sequence[FileCheck], meter: Meter, layout: str | None) -> Report:
    problems = [problem for check in checks for problem in check.problems][:MAX_PROBLEMS]
    return Report(
        shards=len(checks),
        records=sum(check.records for check in checks),
        bytes=meter.done,
        damaged=sum(check.damaged for check in checks),
        lost=sum(check.lost for check in checks),
        problems=tuple(problems),
        unlisted=sum(check.count for check in checks) - len(problems),
        layout=layout,
    )
