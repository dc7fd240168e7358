"""`build_index`: from files to an `Index`, as far as it was not made before."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.foreign.extract import Table, extract, gap
from vlpipe.foreign.moments import kept_moments
from vlpipe.foreign.store import identity, load, save
from vlpipe.foreign.workers import in_processes
from vlpipe.index import METADATA_NAME, Foreign, Index, Shard, Stored
from vlpipe.layouts.base import Layout, Listed
from vlpipe.layouts.detect import guess
from vlpipe.layouts.facts import FILES, Reader, Sample, look
from vlpipe.layouts.prepared import prepared, shard_lengths
from vlpipe.layouts.resolve import resolve
from vlpipe.layouts.table import named
from vlpipe.opening import Source, expand
from vlpipe.tfrecord import FOOTER_BYTES, HEADER_BYTES, read_frames

_log = logging.getLogger("vlpipe")
# Below so many bytes a process that has to be started first takes longer than it saves.
BYTES_FOR_PROCESSES = 1 << 28

_FRAMING = HEADER_BYTES + FOOTER_BYTES

Progress = Callable[[int, int], None]


def build_index(
    source: Source, layout: str | Layout | None = None, *, workers: int | None = None, progress: Progress = lambda done, files: None
) -> Index:
    """The index of TFRecord files that vlpipe did not write. `make_dataset` and `plan` make it too, where it is not there.

    It is kept in a hidden directory `.vlpipe-index` beside the files, or in the user's cache (XDG_CACHE_HOME, or ~/.cache) where that
    cannot be written; a file whose size, time, head or tail has changed is indexed again, and only that. Stopped at any moment, it goes on
    from the last file that was complete.

    Args:
        source: files, a glob, a directory of TFRecord files, or one that TensorFlow Datasets prepared.
        layout: how the records are laid out, a `vlpipe.layouts` layout or the name of one that needs no arguments; None: from
            the features.json of TensorFlow Datasets, or by the first records where they leave no doubt.
        workers: processes; None: one a core where there is work for them.
        progress: called with the files that are done and the number of all, after each.

    Raises:
        ArgumentError: there is no such layout.
        SchemaError: the layout is not that of the records, or none can be told; the message has the candidates.
        DatasetError: a file is missing or damaged, or a record is not as the layout says; the message names it.

    Example:
        >>> len(vlpipe.build_index("audioset/bal_train/*.tfrecord"))
        22160
    """
    paths = files_of(source)
    chosen = choose_layout(paths, layout)
    tables = [load(path, chosen) for path in paths]
    missing = [number for number, table in enumerate(tables) if table is None]
    done = len(paths) - len(missing)
    progress(done, len(paths))
    for number in in_processes([paths[number] for number in missing], chosen, _processes(paths, missing, workers)):
        done += 1
        tables[missing[number]] = load(paths[missing[number]], chosen)
        progress(done, len(paths))
    for number, table in enumerate(tables):
        if table is None:
            tables[number] = index_file(paths[number], chosen)
            done += 1
            progress(min(done, len(paths)), len(paths))
    _check_lengths(paths, [table for table in tables if table is not None])
    index = _combine(paths, [table for table in tables if table is not None], chosen)
    return replace(index, statistics=kept_moments(index))


def index_file(path: str, layout: Layout) -> Table:
    """What there is to know of one file, which is kept.

    Raises:
        DatasetError: as `build_index`.
    """
    try:
        before = identity(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected an uncompressed TFRecord file.") from error
    table = extract(path, layout)
    if identity(path) != before:
        raise DatasetError(f"{path}: was changed while it was indexed. Index it again when it is complete.")
    if not save(path, layout, table, before):
        _log.warning("%s: its index cannot be kept, neither beside it nor in the cache; it is made anew each time", path)
    return table


def is_foreign(source: Source) -> bool:
    """Whether a source is TFRecord files without the metadata of vlpipe."""
    if isinstance(source, str) and "://" in source:
        return False
    paths = expand(source)
    return all(
        not os.path.exists(os.path.join(path if os.path.isdir(path) else os.path.dirname(path), METADATA_NAME))
        and (os.path.isfile(path) or (os.path.isdir(path) and bool(_records_in(path))))
        for path in paths
    )


def files_of(source: Source) -> list[str]:
    """The files of a source, each once.

    Raises:
        ArgumentError: a file is named twice.
        DatasetError: a directory has no TFRecord files, or what is named is not there.
    """
    paths: list[str] = []
    for path in expand(source):
        found = _records_in(path) if os.path.isdir(path) else [path]
        if not found:
            raise DatasetError(f"{path}: has no file with .tfrecord in its name. Pass the files, or a glob of them.")
        paths += found
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise ArgumentError(f"source: {paths[0]} or another file is named twice; name each once, or its records would be delivered twice.")
    return [os.path.abspath(path) for path in paths]


def _records_in(directory: str) -> list[str]:
    return [
        str(path)
        for path in sorted(Path(directory).iterdir())
        if ".tfrec" in path.name and path.is_file() and not path.name.startswith(".")
    ]


def choose_layout(paths: list[str], layout: Any = None, read: Reader = read_frames) -> Layout:
    """The complete layout: the one that is asked for, that of TensorFlow Datasets, or the only one that the first records can have.

    Args:
        read: the records of a file, of which the first are looked at.

    Raises:
        SchemaError: as `build_index`.
        ArgumentError: there is no such layout.
    """
    sample = _sample(paths, read)
    if layout is None:
        layout = prepared(os.path.dirname(paths[0])) or guess(sample).certain(paths[0])
    return resolve(named(layout), sample)


def _sample(paths: list[str], read: Reader) -> Sample:
    step = max(1, len(paths) // FILES)
    return look(dict.fromkeys([*paths[::step], *paths]), read)  # some from everywhere; the others only where these have too few records


def _processes(paths: list[str], missing: list[int], workers: int | None) -> int:
    size = sum(os.path.getsize(paths[number]) for number in missing)
    if workers is None:
        workers = os.cpu_count() or 1 if size >= BYTES_FOR_PROCESSES else 1
    return min(workers, len(missing))


def _check_lengths(paths: list[str], tables: list[Table]) -> None:
    """A directory of TensorFlow Datasets says how many records each file has."""
    for path, table in zip(paths, tables, strict=True):
        expected = shard_lengths(os.path.dirname(path)).get(os.path.basename(path))
        if expected is not None and expected != len(table.rows):
            raise DatasetError(
                f"{path}: holds {len(table.rows)} records, dataset_info.json says {expected}: it was cut at the end of a record, or "
                "replaced. Prepare the dataset again."
            )


def _combine(paths: list[str], tables: list[Table], layout: Layout) -> Index:
    lists = {field.key: [table.lists[field.key] for table in tables] for field in layout.fields if isinstance(field, Listed)}
    rows = np.concatenate([table.rows for table in tables])
    counts = [len(table.rows) for table in tables]
    rows["shard"] = np.repeat(np.arange(len(tables), dtype=np.uint32), counts)
    for key, parts in lists.items():
        values = np.array([len(part) for part in parts], np.uint64)
        rows[f"start:{key}"] += np.repeat(np.cumsum(values) - values, counts)
    sizes = [int(found[-1]["offset"]) + int(found[-1]["bytes"]) + _FRAMING if len(found) else 0 for found, _ in tables]
    shards = [Shard(path, size, count, "") for path, size, count in zip(paths, sizes, counts, strict=True)]
    return Index(
        schema=layout.schema,
        shards=tuple(shards),
        rows=rows,
        ids=np.arange(len(rows), dtype=np.int64),
        metadata={"layout": layout.name},
        foreign=Foreign(
            label=layout.label,
            stored={entry.key: Stored(gap(entry), entry.byteorder, entry.scale) for entry in layout.frames},
            lists={key: np.concatenate(parts) for key, parts in lists.items()},
        ),
    )
