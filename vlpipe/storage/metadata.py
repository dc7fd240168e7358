"""Opening a dataset directory: from `vlpipe.json` and `index.npy` to an `Index`.

Nothing in the files of a dataset is believed before it was checked against the rest: the digest of the index, the sizes of the
shards on disk, and that the rows tile the shards without gap or overlap.
"""

from __future__ import annotations

import math
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.errors import RESTORE, RESTORE_ALL, DatasetError, shortened
from vlpipe.files.filesystem import is_address, read_file
from vlpipe.files.json_files import MAX_JSON_BYTES, parse_json
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.storage.field_access import column
from vlpipe.storage.index import (
    DIGEST,
    FORMAT,
    INDEX_NAME,
    METADATA_NAME,
    VERSION,
    Index,
    Shard,
    digest_of_document,
    digest_of_rows,
    row_dtype,
)
from vlpipe.storage.rows_file import read_rows
from vlpipe.storage.schema import Schema
from vlpipe.storage.statistics import Moments
from vlpipe.storage.text_columns import TEXTS_NAME, file_of, parse_file, read_values


@dataclass(frozen=True, eq=False)
class Metadata:
    """The content of a `vlpipe.json`, checked.

    Attributes:
        path: of the file.
        schema: of the records.
        shards: the files, with their paths.
        records: number of records.
        digest: of `index.npy`.
        metadata: what the writer stored for the user.
        statistics: mean and variance of each sequence.
        texts: str `[values]` of each text that has a column in the index; without those in `texts.json`.
        texts_digest: of that file; None without one.
        has_digest: whether the document contains a digest of itself, which then was right; directories without it still open.
    """

    path: str
    schema: Schema
    shards: tuple[Shard, ...]
    records: int
    digest: str
    metadata: dict[str, Any]
    statistics: dict[str, Moments]
    texts: dict[str, np.ndarray]
    texts_digest: str | None
    has_digest: bool


def parse_metadata(content: bytes, path: str) -> Metadata:
    """Read the content of a `vlpipe.json`: the one reader, for opening, for addresses, and for statistics of the training set.

    Args:
        path: of the file; the shards are in its directory.

    Raises:
        DatasetError: it is damaged, of another format version, or inconsistent.
    """
    document = _parse_document(content, path)
    try:
        schema = Schema.from_json(document["schema"])
        shards = _read_shards(_absolute(os.path.dirname(path)), document["shards"], document["records"])
        digest = document["index"]["digest"]
        metadata = document.get("metadata", {})
        if not isinstance(metadata, dict):
            raise ValueError(f'"metadata" is {type(metadata).__name__}, expected an object')
        if not isinstance(digest, str):
            raise ValueError(f'the digest of "index" is {digest!r}, expected a string')
        statistics = _read_statistics(schema, document.get("statistics", {}))
        texts, texts_digest = read_values(schema, document.get("texts", {})), file_of(document)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(f"{path}: not the metadata of a vlpipe dataset: {reason}. {RESTORE}") from error
    # Last: where a value has no meaning, the errors above say which one.
    has_digest = _check_digest(document, path)
    return Metadata(path, schema, shards, document["records"], digest, metadata, statistics, texts, texts_digest, has_digest)


def _parse_document(content: bytes, path: str) -> dict[str, Any]:
    try:
        document = parse_json(content)
    except ValueError as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error}). {RESTORE}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DatasetError(f'{path}: does not contain "format": "{FORMAT}", so it is not the metadata of a vlpipe dataset.')
    version = document.get("version")
    if version != VERSION or type(version) is not int:
        raise DatasetError(
            f"{path}: has format version {reprlib.repr(version)}, this vlpipe reads version {VERSION}. "
            "Install the vlpipe version that wrote it, or write the dataset again with this one."
        )
    return document


def _check_digest(document: dict[str, Any], path: str) -> bool:
    """Compare a document with its own digest; return whether it has one.

    Raises:
        DatasetError: they differ.
    """
    if DIGEST not in document:
        return False
    try:
        actual = digest_of_document(document)
    except RecursionError:
        actual = "not to be computed"
    if document[DIGEST] != actual:
        raise DatasetError(
            f"{path}: the digest of its content is {actual}, it says {reprlib.repr(document[DIGEST])}: it was damaged, or edited "
            f'after it was written. {RESTORE} If you edited it on purpose, remove its key "{DIGEST}".'
        )
    return True


def open_directory(directory: str | os.PathLike[str]) -> Index:
    """The index of one dataset directory, local or at an address, with every part compared with the others; shards are not opened.

    Raises:
        DatasetError: metadata or index are missing, damaged, of another version, or do not agree.
    """
    directory = os.fspath(directory)
    metadata = read_metadata(directory)
    path = os.path.join(directory, INDEX_NAME)
    texts = metadata.texts if metadata.texts_digest is None else _read_texts(directory, metadata.schema, metadata.texts_digest)
    rows = read_rows(path, row_dtype(metadata.schema, texts), metadata.records)
    actual = digest_of_rows(rows)
    if actual != metadata.digest:
        raise DatasetError(
            f"{path}: its digest is {actual}, {METADATA_NAME} says {shortened(metadata.digest, 40)}: the files do not belong together. "
            f"{RESTORE}"
        )
    ids = np.arange(len(rows), dtype=np.int64)
    index = Index(metadata.schema, metadata.shards, rows, ids, metadata.metadata, metadata.statistics, texts=texts)
    _check_rows(path, index)
    return index


def _read_texts(directory: str, schema: Schema, digest: str) -> dict[str, np.ndarray]:
    path = os.path.join(directory, TEXTS_NAME)
    try:
        return read_values(schema, parse_file(read_file(path, MAX_JSON_BYTES), digest))
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise DatasetError(f"{path}: the values of texts cannot be read ({reason}). {RESTORE_ALL}") from error


def _absolute(directory: str) -> str:
    """Absolute, so that the process may change its directory; not normalised, since ".." after a link is another directory."""
    return directory if is_address(directory) else os.path.realpath(directory)


def read_metadata(directory: str) -> Metadata:
    """Read the `vlpipe.json` of a directory, local or at an address.

    Raises:
        DatasetError: as `parse_metadata`; or there is none, or it cannot be read.
    """
    path = os.path.join(directory, METADATA_NAME)
    return parse_metadata(_content(directory, path), path)


def _content(directory: str, path: str) -> bytes:
    try:
        return read_file(path, MAX_JSON_BYTES)
    except FileNotFoundError as error:
        if is_address(directory):
            raise DatasetError(f"{path}: cannot be read ({error.strerror}). Pass the address of a dataset directory.") from error
        inside = sorted(entry.parent.name for entry in Path(directory).glob(f"*/{METADATA_NAME}"))
        if inside:
            next_step = f"It contains the datasets {inside[:8]}: pass one of them, such as {os.path.join(directory, inside[0])}."
        elif any(Path(directory).glob("*.tfrecord*")):
            next_step = "It contains TFRecord files without their metadata: copy vlpipe.json and index.npy from where they were written."
        else:
            next_step = "Pass a directory that vlpipe.Writer or `vlpipe ingest` wrote."
        raise DatasetError(f"{directory}: has no {METADATA_NAME}, so it is not a vlpipe dataset. {next_step}") from error
    except OSError as error:
        advice = "Copy the dataset directory to this machine, or pass another address." if is_address(directory) else RESTORE
        raise DatasetError(f"{path}: the metadata cannot be read ({error.strerror or error}). {advice}") from error


def _read_shards(directory: str, entries: Any, records: Any) -> tuple[Shard, ...]:
    if not isinstance(entries, list) or not entries:
        raise ValueError('"shards" is not a list of files')
    shards = tuple(_read_shard(directory, entry) for entry in entries)
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError(f"a shard is listed twice among {[shard.name for shard in shards][:8]}")
    total = sum(shard.records for shard in shards)
    if type(records) is not int or records != total:
        raise ValueError(f'"records" is {records!r}, the shards have {total}')
    return shards


def _read_shard(directory: str, entry: Any) -> Shard:
    name, size, records, digest = (entry[key] for key in ("name", "bytes", "records", "digest"))
    if not isinstance(name, str) or name in ("", ".", "..") or os.path.basename(name) != name or not _is_file_name(name):
        raise ValueError(f"the shard name {name!r} is not a plain file name")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (size, records)) or not isinstance(digest, str):
        raise ValueError(f"the shard {name} has bytes {size!r}, records {records!r}, digest {digest!r}")
    return Shard(os.path.join(directory, name), size, records, digest)


def _read_statistics(schema: Schema, entries: Any) -> dict[str, Moments]:
    if not isinstance(entries, dict):
        raise ValueError(f"its statistics are {type(entries).__name__}, expected an object")
    known = {name: sequence for name, sequence in schema.sequences.items() if name in entries}
    return {name: Moments.from_json(entries[name], math.prod(sequence.dimensions)) for name, sequence in known.items()}


def _is_file_name(name: str) -> bool:
    try:
        return "\0" not in name and bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


def _check_rows(path: str, index: Index) -> None:
    """Check that the rows tile the shards, and that each payload lies inside its record."""
    rows, schema = np.asarray(index.rows), index.schema
    # Contiguous copies of the columns: gathering from them takes half the time.
    shard, offset, length = rows["shard"].astype(np.uint32), rows["offset"].astype(np.uint64), rows["bytes"].astype(np.uint64)
    ends = offset + length + np.uint64(HEADER_BYTES + FOOTER_BYTES)
    sizes = np.array([entry.bytes for entry in index.shards], np.uint64)
    counts = np.array([entry.records for entry in index.shards], np.int64)
    problem = None
    if len(rows) and int(shard.max()) >= len(index.shards):
        problem = f"a row refers to shard {int(shard.max())} of {len(index.shards)}"
    elif not np.array_equal(np.bincount(shard, minlength=len(counts)), counts):
        problem = "the records of each shard do not agree with the shard table"
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
        begin, frames = (rows[column(schema, kind, name)].astype(np.uint64) for kind in ("start", "frames"))
        if problem is None and np.any(begin + frames * np.uint64(sequence.frame_bytes) > length):
            problem = f'the frames of "{name}" extend beyond their record'
    for name, values in index.texts.items():
        if problem is None and len(rows) and int(index.codes(name).max()) >= len(values):
            problem = f'a code of the text "{name}" is beyond its {len(values)} values'
    if problem:
        raise DatasetError(f"{path}: {problem}: the index does not belong to these shards. {RESTORE}")
