"""`build_index`: from third-party files to an `Index`. Files with a valid cached index are not read again."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.filesystem import each, is_address, stat_file
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.layouts.base import Frames, Layout, Listed
from vlpipe.layouts.detect import guess
from vlpipe.layouts.registry import named
from vlpipe.layouts.resolve import left_out, resolve
from vlpipe.layouts.sample import MAX_FILES, Reader, Sample, read_records, read_sample
from vlpipe.layouts.sidecars import check_counts, read_sidecars
from vlpipe.processes import check_workers, worker_count
from vlpipe.sources.foreign.cache import earlier_count, identity, load, save
from vlpipe.sources.foreign.feature_lists import gap
from vlpipe.sources.foreign.find_files import files_of
from vlpipe.sources.foreign.index_file import Table, extract
from vlpipe.sources.foreign.workers import in_processes
from vlpipe.sources.statistics_cache import cached_moments
from vlpipe.storage.field_access import column
from vlpipe.storage.index import Foreign, Index, Shard
from vlpipe.storage.paths import Opened, Source
from vlpipe.storage.stored_frames import Stored
from vlpipe.text_tables import Show, progress_bar

_log = logging.getLogger("vlpipe")
_FRAMING = HEADER_BYTES + FOOTER_BYTES


def build_index(source: Source, layout: str | Layout | None = None, *, workers: int | None = None, progress: Show | None = None) -> Index:
    """Return the index of third-party TFRecord files. `make_dataset` and `plan` call this when there is no index yet.

    The index is cached in a hidden directory `.vlpipe-index` beside the files. If that is not writable, and for files at an address, each
    of which is read once, it is cached in the user's cache directory (XDG_CACHE_HOME, or ~/.cache). A file whose size, modification time,
    head or tail has changed is indexed again. An interrupted call resumes after the last complete file. A file must not become shorter
    while it is indexed: with records above 4 KB on average, which are mapped, that can end the process (SIGBUS); else it is an error.

    Args:
        source: files, a glob, or a directory of TFRecord files, which may be one prepared by TensorFlow Datasets or with a task cached by
            SeqIO. For a directory with several splits, pass the files of one split. Paths, or addresses of TensorFlow's file systems
            (gs://bucket/*.tfrecord). Of a source that is open already: its index.
        layout: a layout of `vlpipe.layouts`, or the name of one that needs no arguments. None: the description of TensorFlow Datasets or
            SeqIO beside the files, or else the layout of the first records, if it is unambiguous.
        workers: number of processes; None: one per core if there is enough data.
        progress: called after each file with the number of finished files and the number of all files; None: a bar, on a terminal.

    Raises:
        ArgumentError: there is no such layout, or a directory has several splits.
        SchemaError: the records do not match the layout, or their layout is ambiguous; the message lists the candidates.
        DatasetError: a file is missing or damaged, or a record does not match the layout; the message names it.

    Example:
        >>> example = tf.train.Example()
        >>> example.features.feature["mel"].float_list.value.extend([0.0] * 5 * 80)
        >>> with tf.io.TFRecordWriter("speech.tfrecord") as writer:
        ...     writer.write(example.SerializeToString())
        >>> index = vlpipe.build_index("*.tfrecord", vlpipe.layouts.float_list("mel", d=80))
        >>> len(index), index.frames("mel").tolist()
        (1, [5])
    """
    if isinstance(source, Opened):
        return source.index
    paths = files_of(source)
    chosen = choose_layout(paths, layout)
    with progress_bar("indexing", "files", given=progress) as show:
        index = combined(paths, _tables(paths, chosen, workers, show), chosen)
    return replace(index, statistics=cached_moments(index))


def _tables(paths: list[str], chosen: Layout, workers: int | None, progress: Show) -> list[Table]:
    """The index of each file, from the cache or from the file."""
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
    return complete


def index_file(path: str, layout: Layout) -> Table:
    """Index one file and cache the result.

    Raises:
        DatasetError: as `build_index`.
    """
    before = identity(path)
    earlier = earlier_count(path, layout)
    table = extract(path, layout)
    if identity(path) != before:
        raise DatasetError(f"{path}: was changed while it was indexed. Index the file again when it is complete.")
    if earlier is not None and earlier != len(table.rows):
        _log.warning("%s: holds %d records, and %d when it was indexed before: it was changed since", path, len(table.rows), earlier)
    if not save(path, layout, table, before) and layout.is_kept:
        _log.warning(
            "%s: the index cannot be cached, neither beside the file nor in the user's cache directory; the file is indexed on every call",
            path,
        )
    return table


def choose_layout(paths: list[str], layout: Any = None, read: Reader = read_records) -> Layout:
    """Return the complete layout: the requested one, that of a sidecar, or the only certain layout of the first records.

    Args:
        paths: the files.
        layout: as in `build_index`.
        read: a function from a path to the records of the file.

    Raises:
        SchemaError: as `build_index`.
        ArgumentError: there is no such layout.
    """
    if isinstance(layout, Layout) and layout.given is not None:
        return layout
    sample = _sample(paths, read)
    if layout is None:
        sidecars = read_sidecars(paths)
        if sidecars is not None:
            return left_out(resolve(sidecars[0], sample), sample, f"{sidecars[1]} does not describe it as a feature that can be delivered")
        layout = guess(sample).certain(paths[0])
    return resolve(named(layout), sample)


def _sample(paths: list[str], read: Reader) -> Sample:
    step = max(1, len(paths) // MAX_FILES)
    # Files at regular distances first; the others are read only if these have too few records.
    return read_sample(dict.fromkeys([*paths[::step], *paths]), read)


def _processes(paths: list[str], missing: list[int], layout: Layout, workers: int | None) -> int:
    """Return the number of processes that index the missing files."""
    check_workers(workers)
    if layout.given is not None or any(map(is_address, paths)):
        return 1  # custom functions cannot be sent to a process; for addresses, `each` uses threads
    size = sum(stat_file(paths[number]).bytes for number in missing)
    return worker_count(workers, tasks=len(missing), work_bytes=size)


def combined(paths: list[str], tables: list[Table], layout: Layout) -> Index:
    """Return the index of all files, in order, from that of each."""
    lists = {field.key: [table.lists[field.key] for table in tables] for field in layout.fields if isinstance(field, Listed)}
    rows = np.concatenate([table.rows for table in tables])
    counts = [len(table.rows) for table in tables]
    rows["shard"] = np.repeat(np.arange(len(tables), dtype=np.uint32), counts)
    for key, parts in lists.items():
        values = np.array([len(part) for part in parts], np.uint64)
        rows[column(layout.schema, "start", key)] += np.repeat(np.cumsum(values) - values, counts)
    shards = [Shard(path, _size(path, table), len(table.rows), "", table.compression) for path, table in zip(paths, tables, strict=True)]
    listed = {key: Stored(parsed="integers") for key in lists}  # labels come from the index, features are parsed
    rates = [entry.rate for entry in layout.frames if entry.rate is not None]
    kept = [entry.channels for entry in layout.frames if entry.channels != "mix"]
    return Index(
        schema=layout.schema,
        shards=tuple(shards),
        rows=rows,
        ids=np.arange(len(rows), dtype=np.int64),
        metadata={"layout": layout.name} | ({"sample_rate": rates[0]} if rates else {}) | ({"channels": kept[0]} if kept else {}),
        foreign=Foreign(
            label=layout.label,
            stored=listed | {entry.key: _stored(entry) for entry in layout.sequences},
            lists={key: np.concatenate(parts) for key, parts in lists.items()},
            parse=None if layout.given is None else layout.given.parse,
            features=None if layout.sequences == layout.frames else tuple(entry.key for entry in layout.frames),
            left_out=_left_out(paths, tables, layout),
        ),
    )


def _stored(entry: Frames) -> Stored:
    return Stored(gap(entry), entry.byteorder, entry.scale, entry.parsed, entry.channels)


def _left_out(paths: list[str], tables: list[Table], layout: Layout) -> dict[str, str]:
    """Return the keys of the records that the layout does not deliver, each with the reason."""
    if not layout.reads_every_key:
        return {}
    left_out = dict(layout.refused)
    for path, table in zip(paths, tables, strict=True):
        for key, record in table.others:
            left_out.setdefault(key, f"the first records do not have it; it first appears in {os.path.basename(path)}, record {record}")
    return left_out


def _size(path: str, table: Table) -> int:
    """Return the size of a file in bytes when it was indexed."""
    if table.compression:
        return stat_file(path).bytes
    last = table.rows[-1:]
    return int((last["offset"] + last["bytes"]).sum()) + _FRAMING if len(last) else 0
