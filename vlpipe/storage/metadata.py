"""Opening a dataset directory: from `vlpipe.json` and `index.npy` to an `Index`.

Nothing in the files of a dataset is believed before it was checked against the rest: the digest of the index, the sizes of the
shards on disk, and that the rows tile the shards without gap or overlap.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.storage.index import FORMAT, INDEX_NAME, METADATA_NAME, RESTORE, VERSION, Index, Shard, column, digest_of_rows, row_dtype
from vlpipe.storage.schema import Schema
from vlpipe.storage.statistics import Moments

# An index up to this size is read into memory: one that is mapped ends the process when its file is cut or overwritten meanwhile.
IN_MEMORY_BYTES = 1 << 26
# NumPy reads 10,000 bytes of an array's header unless it is told that more are harmless: a schema of 300 fields has more.
_MAX_HEADER_BYTES = 1 << 24


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
