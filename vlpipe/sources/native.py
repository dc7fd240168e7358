"""Opening a source: from directories, globs and files to the index that is known of them.

Nothing in the files of a dataset is believed before it was checked against the rest: the digest of the index, the sizes of the
shards on disk, and that the rows tile the shards without gap or overlap.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.files.filesystem import globbed, is_address
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.storage.index import FORMAT, INDEX_NAME, METADATA_NAME, RESTORE, VERSION, Index, Shard, column, digest_of_rows, row_dtype
from vlpipe.storage.schema import Schema
from vlpipe.storage.statistics import Moments, merged

# An index up to this size is read into memory: one that is mapped ends the process when its file is cut or overwritten meanwhile.
IN_MEMORY_BYTES = 1 << 26
# NumPy reads 10,000 bytes of an array's header unless it is told that more are harmless: a schema of 300 fields has more.
_MAX_HEADER_BYTES = 1 << 24

Source = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def open_source(source: Source, *, check_files: bool = True) -> Index:
    """The index of a dataset directory, of shards named by a glob or one by one, or of several of these together.

    Args:
        source: directory, glob, file, or a list of them. A shard belongs to the dataset whose `vlpipe.json` lies beside it.
        check_files: compare the sizes of the shards with the table; without, shards may be missing or cut.

    Raises:
        ArgumentError: the source is no path, or names a file twice.
        DatasetError: nothing matches, metadata are missing, of an unknown version or inconsistent, or a shard is missing or cut.
        SchemaError: datasets of different schemas are asked for together.
    """
    chosen: dict[str, list[str] | None] = {}  # directory -> names of its shards, None for all
    spelled: dict[str, str] = {}  # a directory, whatever it is called and linked from -> as it was called first
    for path in expand(source):
        directory, names = (path, None) if os.path.isdir(path) else (os.path.dirname(path) or ".", [os.path.basename(path)])
        directory = spelled.setdefault(os.path.realpath(directory), directory)
        known = chosen.get(directory, [])
        if (names is None and directory in chosen) or known is None or (names and names[0] in known):
            raise ArgumentError(f"source: {path} is named twice; name each file once, or its records would be delivered twice.")
        chosen[directory] = None if names is None else known + names
    parts = []
    first_id = 0
    for directory, names in chosen.items():
        whole = open_directory(directory)
        whole = replace(whole, ids=whole.ids + first_id)
        first_id += len(whole)
        parts.append(whole if names is None else _select(whole, directory, names))
    index = parts[0] if len(parts) == 1 else _combine(parts)
    if check_files:
        index.check_files()
    files = [os.path.realpath(shard.path) for shard in index.shards]
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise ArgumentError(f"source: {twice} is named twice, by links; name each file once, or its records would be delivered twice.")
    return index


def expand(source: Source) -> list[str]:
    """The directories and files that a source names, on local file systems.

    Raises:
        ArgumentError: it is no path, and no list of them.
        DatasetError: nothing is there.
    """
    return [path for item in items(source) for path in matches(item)]


def items(source: Source) -> list[str]:
    """The paths, globs and addresses of a source as they are.

    Raises:
        ArgumentError: it is no path, and no list of them.
    """
    expected = "expected a directory, a glob, a file or a list of files"
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if isinstance(source, bytes) or not isinstance(source, Iterable) or hasattr(source, "dtype"):
        raise ArgumentError(f"source: came as {type(source).__name__} {source!r}, {expected}.")
    found = list(source)
    if not found:
        raise ArgumentError("source: an empty list, expected at least one directory, glob or file.")
    for item in found:
        if not isinstance(item, (str, os.PathLike)) or not os.fspath(item):
            raise ArgumentError(f"source: came with {type(item).__name__} {item!r}, {expected}.")
    return [os.fspath(item) for item in found]


def matches(text: str) -> list[str]:
    """The directories and files that one path or glob names.

    Raises:
        DatasetError: nothing is there.
    """
    if os.path.basename(text) == METADATA_NAME:
        text = os.path.dirname(text) or "."
    if os.path.exists(text):
        return [text.rstrip("/") or "/"]
    if is_address(text) or text.startswith("~"):
        raise DatasetError(f"{text}: not followed in a list or glob, and ~ is not. Pass a path, or the address of one dataset directory.")
    if not glob.has_magic(text):
        parent = os.path.dirname(os.path.normpath(text)) or "."
        there = sorted(os.listdir(parent))[:8] if os.path.isdir(parent) else None
        hint = f"{parent} holds {there}" if there is not None else f"{parent} does not exist either"
        raise DatasetError(f"{text}: not found; {hint}. Pass a dataset directory, a glob, a file or a list of files.")
    found = [path for path in globbed(text) if os.path.basename(path) not in (METADATA_NAME, INDEX_NAME)]
    if not found:
        raise DatasetError(f"{text}: the glob matches no file (working directory: {os.getcwd()}). Check the pattern.")
    return found


def open_directory(directory: str | os.PathLike[str]) -> Index:
    """The index of one dataset directory, every part checked against the others; the shards are not touched.

    Raises:
        DatasetError: metadata or index are missing, damaged, of an unknown version, or do not agree.
    """
    directory = Path(directory)
    document = _read_metadata(directory)
    path = directory / METADATA_NAME
    try:
        schema = Schema.from_json(document["schema"])
        shards = _read_shards(directory, document["shards"], document["records"])
        digest = document["index"]["digest"]
        metadata = document.get("metadata", {})
        if not isinstance(metadata, dict):
            raise ValueError(f'"metadata" is {type(metadata).__name__}, expected an object')
    except (KeyError, TypeError, ValueError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(f"{path}: not the metadata of a vlpipe dataset: {reason}. {RESTORE}") from error
    rows = _read_rows(directory / INDEX_NAME, row_dtype(schema), digest)
    if len(rows) != document["records"]:
        found = f"found {len(rows)} rows, {METADATA_NAME} says {document['records']} records"
        raise DatasetError(f"{directory / INDEX_NAME}: {found}. {RESTORE}")
    index = Index(schema, shards, rows, np.arange(len(rows), dtype=np.int64), metadata)
    _check_rows(directory, index)
    return replace(index, statistics=_read_statistics(path, schema, document.get("statistics", {})))


def _read_metadata(directory: Path) -> dict[str, Any]:
    path = directory / METADATA_NAME
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        inside = sorted(entry.parent.name for entry in directory.glob(f"*/{METADATA_NAME}"))
        if inside:
            next_step = f"It holds the datasets {inside}: pass one of them, such as {directory / inside[0]}."
        elif any(directory.glob("*.tfrecord*")):
            next_step = "It holds TFRecord files without their metadata: copy vlpipe.json and index.npy from where they were written."
        else:
            next_step = "Pass a directory that vlpipe.Writer or `vlpipe ingest` wrote."
        raise DatasetError(f"{directory}: has no {METADATA_NAME}, so it is not a vlpipe dataset. {next_step}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error}). {RESTORE}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DatasetError(f'{path}: found no "format": "{FORMAT}", so these are not the metadata of a vlpipe dataset.')
    version = document.get("version")
    if version != VERSION or type(version) is not int:
        raise DatasetError(
            f"{path}: found format version {version!r}, this vlpipe reads version {VERSION}. "
            "Install the vlpipe that wrote it, or write the dataset again with this one."
        )
    return document


def _read_shards(directory: Path, entries: Any, records: Any) -> tuple[Shard, ...]:
    if not isinstance(entries, list) or not entries:
        raise ValueError('"shards" is no list of files')
    shards = tuple(_read_shard(directory, entry) for entry in entries)
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError(f"a shard is listed twice among {[shard.name for shard in shards][:8]}")
    total = sum(shard.records for shard in shards)
    if type(records) is not int or records != total:
        raise ValueError(f'"records" is {records!r}, the shards have {total}')
    return shards


def _read_shard(directory: Path, entry: Any) -> Shard:
    name, size, records, digest = (entry[key] for key in ("name", "bytes", "records", "digest"))
    if not isinstance(name, str) or name in ("", ".", "..") or os.path.basename(name) != name or not _is_file_name(name):
        raise ValueError(f"the shard name {name!r} is not a plain file name")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (size, records)) or not isinstance(digest, str):
        raise ValueError(f"the shard {name} has bytes {size!r}, records {records!r}, digest {digest!r}")
    # Absolute, so that the process may change its directory; not normalised, as ".." means another place behind a link.
    return Shard(os.path.join(os.path.realpath(directory), name), size, records, digest)


def _read_statistics(path: Path, schema: Schema, entries: Any) -> dict[str, Moments]:
    try:
        if not isinstance(entries, dict):
            raise ValueError(f"its statistics are {type(entries).__name__}, expected an object")
        known = {name: sequence for name, sequence in schema.sequences.items() if name in entries}
        return {name: Moments.from_json(entries[name], math.prod(sequence.dimensions)) for name, sequence in known.items()}
    except ValueError as error:
        raise DatasetError(f"{path}: not the metadata of a vlpipe dataset: {error}. {RESTORE}") from error


def _is_file_name(name: str) -> bool:
    try:
        return "\0" not in name and bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


def _read_rows(path: Path, dtype: np.dtype, digest: Any) -> np.ndarray:
    try:
        open_memmap: Any = np.lib.format.open_memmap  # NumPy's own annotation of it lacks an argument
        rows: np.ndarray = open_memmap(path, mode="r", max_header_size=_MAX_HEADER_BYTES)
    except Exception as error:  # its header is Python source, so that a damaged one raises whatever ast and tokenize can
        raise DatasetError(f"{path}: cannot be read as a NumPy array ({error}). {RESTORE}") from error
    if rows.dtype != dtype or rows.ndim != 1:
        raise DatasetError(
            f"{path}: found {rows.dtype} {list(rows.shape)}, expected one axis of {dtype}, which is what the schema asks for. {RESTORE}"
        )
    if rows.nbytes <= IN_MEMORY_BYTES:
        rows = np.array(rows)
    found = digest_of_rows(rows)
    if found != digest:
        raise DatasetError(f"{path}: its digest is {found}, {METADATA_NAME} says {digest}: the two do not belong together. {RESTORE}")
    return rows


def _check_rows(directory: Path, index: Index) -> None:
    """The rows must tile the shards, and each payload must lie inside its record."""
    rows, schema = np.asarray(index.rows), index.schema
    # Copies of the columns: gathering from them takes half the time that it takes from the rows, which are not contiguous.
    shard, offset, length = rows["shard"].astype(np.uint32), rows["offset"].astype(np.uint64), rows["bytes"].astype(np.uint64)
    ends = offset + length + np.uint64(HEADER_BYTES + FOOTER_BYTES)
    sizes = np.array([entry.bytes for entry in index.shards], np.uint64)
    counts = np.array([entry.records for entry in index.shards], np.int64)
    problem = None
    if len(rows) and int(shard.max()) >= len(index.shards):
        problem = f"a row names shard {int(shard.max())} of {len(index.shards)}"
    elif not np.array_equal(np.bincount(shard, minlength=len(counts)), counts):
        problem = "the records of each shard are not those of the table"
    else:
        order = index.by_shard()
        shard, ends = shard[order], ends[order]
        expected = np.zeros(len(rows), np.uint64)
        expected[1:] = np.where(shard[1:] != shard[:-1], np.uint64(0), ends[:-1])
        last = np.zeros(len(sizes), np.uint64)
        last[shard] = ends
        if not np.array_equal(offset[order], expected) or not np.array_equal(last, sizes):
            problem = "the records do not fill the shards without gap or overlap"
    for name, sequence in schema.sequences.items():
        begin = rows[column(schema, "start", name)].astype(np.uint64)
        frames = rows[column(schema, "frames", name)].astype(np.uint64)
        if problem is None and np.any(begin + frames * np.uint64(sequence.frame_bytes) > length):
            problem = f'the frames of "{name}" reach beyond their record'
    if problem:
        raise DatasetError(f"{directory / INDEX_NAME}: {problem}: it does not belong to these shards. {RESTORE}")


def _select(index: Index, directory: str, names: list[str]) -> Index:
    known = {shard.name: position for position, shard in enumerate(index.shards)}
    for name in names:
        if name not in known:
            raise DatasetError(
                f"{os.path.join(directory, name)}: not in the table of {os.path.join(directory, METADATA_NAME)}, which lists "
                f"{len(known)} shards such as {next(iter(known), None)}. Pass shards of this dataset."
            )
    positions = [known[name] for name in names]
    renumbered = np.full(len(index.shards), len(names), np.uint32)
    renumbered[positions] = np.arange(len(names))
    keep = np.flatnonzero(renumbered[index.rows["shard"]] < len(names))
    rows = np.array(index.rows[keep])
    rows["shard"] = renumbered[rows["shard"]]
    shards = tuple(index.shards[position] for position in positions)
    # Statistics are those of all the shards.
    return replace(index, shards=shards, rows=rows, ids=index.ids[keep], statistics=index.statistics if len(names) == len(known) else {})


def _combine(parts: list[Index]) -> Index:
    first = parts[0]
    for other in parts[1:]:
        if other.schema != first.schema:
            raise SchemaError(
                f"source: {os.path.dirname(first.shards[0].path)} has {first.schema}, {os.path.dirname(other.shards[0].path)} has "
                f"{other.schema}. Datasets read together need the same schema."
            )
    rows = np.concatenate([part.rows for part in parts])
    shards = np.repeat(np.cumsum([0] + [len(part.shards) for part in parts[:-1]]), [len(part) for part in parts])
    rows["shard"] += shards.astype(np.uint32)
    return Index(
        schema=first.schema,
        shards=tuple(shard for part in parts for shard in part.shards),
        rows=rows,
        ids=np.concatenate([part.ids for part in parts]),
        metadata={
            key: value
            for key, value in first.metadata.items()
            if all(key in part.metadata and part.metadata[key] == value for part in parts)
        },
        statistics=merged([part.statistics for part in parts if len(part)]),
    )
