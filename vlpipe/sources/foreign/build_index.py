"""`build_index`: from files to an `Index`, as far as it was not made before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.filesystem import each, is_address, stat_file
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.layouts.base import Layout, Listed
from vlpipe.layouts.detect import guess
from vlpipe.layouts.registry import named
from vlpipe.layouts.resolve import resolve
from vlpipe.layouts.sample import FILES, Reader, Sample, look, read_records
from vlpipe.layouts.sidecars import check_counts, described
from vlpipe.processes import check_workers, worker_count
from vlpipe.sources.foreign.cache import identity, load, save
from vlpipe.sources.foreign.chunk import gap
from vlpipe.sources.foreign.find_files import files_of
from vlpipe.sources.foreign.index_file import Table, extract
from vlpipe.sources.foreign.workers import in_processes
from vlpipe.sources.statistics_cache import cached_moments
from vlpipe.storage.index import Foreign, Index, Shard, Stored
from vlpipe.storage.paths import Source

_log = logging.getLogger("vlpipe")
_FRAMING = HEADER_BYTES + FOOTER_BYTES

Progress = Callable[[int, int], None]


def build_index(
    source: Source, layout: str | Layout | None = None, *, workers: int | None = None, progress: Progress = lambda done, files: None
) -> Index:
    """The index of TFRecord files that vlpipe did not write. `make_dataset` and `plan` make it too, where it is not there.

    It is kept in a hidden directory `.vlpipe-index` beside the files, or in the user's cache (XDG_CACHE_HOME, or ~/.cache) where that
    cannot be written, and for files at an address, each of which is read once; a file whose size, time, head or tail has changed is indexed
    again, and only that. Stopped at any moment, it goes on from the last file that was complete.

    Args:
        source: files, a glob, a directory of TFRecord files, or one that TensorFlow Datasets prepared or in which SeqIO cached a task; of
            several splits name the files of one. By paths, or by addresses that TensorFlow's file systems know (gs://bucket/*.tfrecord).
        layout: how the records are laid out, a `vlpipe.layouts` layout or the name of one that needs no arguments; None: from
            what TensorFlow Datasets or SeqIO left beside them, or by the first records where they leave no doubt.
        workers: processes; None: one a core where there is work for them.
        progress: called with the files that are done and the number of all, after each.

    Raises:
        ArgumentError: there is no such layout, or a directory has several splits.
        SchemaError: the layout is not that of the records, or none can be told; the message has the candidates.
        DatasetError: a file is missing or damaged, or a record is not as the layout says; the message names it.

    Example:
        >>> len(vlpipe.build_index("audioset/bal_train/*.tfrecord"))
        22160
    """
    paths = files_of(source)
    chosen = choose_layout(paths, layout)
    tables: list[Table | None] = list(each(lambda path: load(path, chosen), paths))
    missing = [number for number, table in enumerate(tables) if table is None]
    done = len(paths) - len(missing)
    progress(done, len(paths))
    for number in in_processes([paths[number] for number in missing], chosen, _processes(paths, missing, chosen, workers)):
        done += 1
        tables[missing[number]] = load(paths[missing[number]], chosen)
        progress(done, len(paths))
    missing = [number for number, table in enumerate(tables) if table is None]
    for number, table in zip(missing, each(lambda path: index_file(path, chosen), [paths[number] for number in missing]), strict=True):
        done += 1
        tables[number] = table
        progress(min(done, len(paths)), len(paths))
    complete = [table for table in tables if table is not None]
    check_counts(paths, [len(table.rows) for table in complete])
    index = _combine(paths, complete, chosen)
    return replace(index, statistics=cached_moments(index))


def index_file(path: str, layout: Layout) -> Table:
    """What there is to know of one file, which is kept.

    Raises:
        DatasetError: as `build_index`.
    """
    try:
        before = identity(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}), expected a TFRecord file.") from error
    table = extract(path, layout)
    if identity(path) != before:
        raise DatasetError(f"{path}: was changed while it was indexed. Index it again when it is complete.")
    if not save(path, layout, table, before) and layout.is_kept:
        _log.warning("%s: its index cannot be kept, neither beside it nor in the cache; it is made anew each time", path)
    return table


def choose_layout(paths: list[str], layout: Any = None, read: Reader = read_records) -> Layout:
    """The complete layout: the one that is asked for, that of a sidecar, or the only one that the first records can have.

    Args:
        read: the records of a file, of which the first are looked at.

    Raises:
        SchemaError: as `build_index`.
        ArgumentError: there is no such layout.
    """
    if isinstance(layout, Layout) and layout.given is not None:
        return layout
    sample = _sample(paths, read)
    if layout is None:
        known = described(paths)
        layout = known[0] if known is not None else guess(sample).certain(paths[0])
    return resolve(named(layout), sample)


def _sample(paths: list[str], read: Reader) -> Sample:
    step = max(1, len(paths) // FILES)
    return look(dict.fromkeys([*paths[::step], *paths]), read)  # some from everywhere; the others only where these have too few records


def _processes(paths: list[str], missing: list[int], layout: Layout, workers: int | None) -> int:
    check_workers(workers)
    if layout.given is not None or any(map(is_address, paths)):
        return 1  # its functions are here; for addresses, `each` has threads
    size = sum(stat_file(paths[number]).bytes for number in missing)
    return worker_count(workers, tasks=len(missing), work_bytes=size)


def _combine(paths: list[str], tables: list[Table], layout: Layout) -> Index:
    lists = {field.key: [table.lists[field.key] for table in tables] for field in layout.fields if isinstance(field, Listed)}
    rows = np.concatenate([table.rows for table in tables])
    counts = [len(table.rows) for table in tables]
    rows["shard"] = np.repeat(np.arange(len(tables), dtype=np.uint32), counts)
    for key, parts in lists.items():
        values = np.array([len(part) for part in parts], np.uint64)
        rows[f"start:{key}"] += np.repeat(np.cumsum(values) - values, counts)
    shards = [Shard(path, _size(path, table), len(table.rows), "", table.compression) for path, table in zip(paths, tables, strict=True)]
    listed = {key: Stored(parsed="integers") for key in lists}  # the index has them as labels; as features they are parsed
    rates = [entry.rate for entry in layout.frames if entry.rate is not None]
    return Index(
        schema=layout.schema,
        shards=tuple(shards),
        rows=rows,
        ids=np.arange(len(rows), dtype=np.int64),
        metadata={"layout": layout.name} | ({"sample_rate": rates[0]} if rates else {}),
        foreign=Foreign(
            label=layout.label,
            stored=listed | {entry.key: Stored(gap(entry), entry.byteorder, entry.scale, entry.parsed) for entry in layout.frames},
            lists={key: np.concatenate(parts) for key, parts in lists.items()},
            parse=None if layout.given is None else layout.given.parse,
        ),
    )


def _size(path: str, table: Table) -> int:
    """The bytes of a file, as they were when it was indexed."""
    if table.compression:
        return stat_file(path).bytes
    last = table.rows[-1:]
    return int((last["offset"] + last["bytes"]).sum()) + _FRAMING if len(last) else 0
