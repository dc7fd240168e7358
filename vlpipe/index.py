"""The index of a dataset: one row a record, in the order in which the records were written.

A dataset is a directory (format version 1):

    vlpipe.json     what the rest is: format, schema, table of shards, statistics, lengths (keys: see `Metadata`)
    index.npy       a structured little-endian NumPy array, one row a record; its columns: see `row_dtype`
    *.tfrecord      the shards

Nothing in these files is believed before it was checked against the rest: the digest of the index, the sizes of the
shards on disk, and that the rows tile the shards without gap or overlap.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.schema import Fixed, Schema
from vlpipe.statistics import Moments, merged
from vlpipe.tfrecord import FOOTER_BYTES, HEADER_BYTES, masked_crc

FORMAT = "vlpipe"
VERSION = 1
METADATA_NAME = "vlpipe.json"
INDEX_NAME = "index.npy"
# A Fixed value of at most this many bytes stands in the index too, so that labels are known without reading a record.
INLINE_BYTES = 64
# An index up to this size is read into memory: one that is mapped ends the process when its file is cut or overwritten meanwhile.
IN_MEMORY_BYTES = 1 << 26
# NumPy reads 10,000 bytes of an array's header unless it is told that more are harmless: a schema of 300 fields has more.
_MAX_HEADER_BYTES = 1 << 24

Source = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def row_dtype(schema: Schema) -> np.dtype:
    """The columns of an index.

    `shard`, `offset` (of the record's header in its file), `bytes` (of its data), `checksum` (masked CRC32C of its
    data); `frames` and `start` (where in the data the frames begin) of the first sequence, `frames:NAME` and `start:NAME` of
    the others; `value:NAME` of every `Fixed` field of at most 64 bytes.
    """
    columns: list[tuple[Any, ...]] = [("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4"), ("checksum", "<u4")]
    for name in schema.sequences:
        columns += [(column(schema, "frames", name), "<u4"), (column(schema, "start", name), "<u4")]
    for name, entry in schema.fields.items():
        if isinstance(entry, Fixed):
            dtype = np.dtype(entry.dtype).newbyteorder("<")
            if dtype.itemsize * int(np.prod(entry.dimensions, dtype=np.int64)) <= INLINE_BYTES:
                columns.append((f"value:{name}", dtype.str, entry.dimensions))
    return np.dtype(columns)


def column(schema: Schema, kind: str, name: str) -> str:
    """Name of the column that holds `kind` ("frames" or "start") of the sequence `name`."""
    return kind if name == next(iter(schema.sequences)) else f"{kind}:{name}"


@dataclass(frozen=True)
class Shard:
    """One file of a dataset, as the metadata describe it."""

    path: str
    bytes: int
    records: int
    digest: str

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return os.path.basename(self.path)


@dataclass(frozen=True)
class Stored:
    """How the frames of a sequence lie in their records, where vlpipe did not write them.

    Attributes:
        gap: bytes before each frame that do not belong to it.
        byteorder: "little" or "big".
        scale: the values (bytes) are delivered as `q * scale[0] + scale[1]`, in float32; None: as they are.
    """

    gap: int = 0
    byteorder: str = "little"
    scale: tuple[float, float] | None = None

    def table(self, dtype: np.dtype) -> np.ndarray | None:
        """What each byte is delivered as, `[256]`; None: as it is."""
        if self.scale is None:
            return None
        return (np.arange(256, dtype=np.float32) * np.float32(self.scale[0]) + np.float32(self.scale[1])).astype(dtype)


@dataclass(frozen=True, eq=False)
class Foreign:
    """What an index of files that vlpipe did not write knows beyond its rows.

    A text has the columns `frames:NAME`, its bytes, and `start:NAME`, where in the data they begin. A list has the same of `lists`.

    Attributes:
        label: the field that is the label unless the user names another.
        stored: how each sequence lies in its records.
        lists: int64 values of each field that is a list of integers in the records: on the wire they have no fixed place.
    """

    label: str | None
    stored: dict[str, Stored]
    lists: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of a dataset without reading a record.

    Attributes:
        schema: the fields of every record.
        shards: the files; a row's `shard` is a position in this tuple.
        rows: `[records]`, dtype `row_dtype(schema)`.
        ids: int64 `[records]`, the row of each record in the index on disk (of several datasets: in all of them, one after the other).
        metadata: what the writer noted, such as class names; of several datasets, what all of them note alike.
        statistics: of each sequence, the mean and variance that the writer noted; without those that are not known of just these records.
        foreign: None where vlpipe wrote the records.
    """

    schema: Schema
    shards: tuple[Shard, ...]
    rows: np.ndarray
    ids: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Moments] = field(default_factory=dict)
    foreign: Foreign | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def stored(self, name: str) -> Stored:
        """How the frames of the sequence `name` lie in their records."""
        return Stored() if self.foreign is None else self.foreign.stored.get(name, Stored())

    @property
    def lists(self) -> dict[str, np.ndarray]:
        """The fields whose values stand in the index."""
        return {} if self.foreign is None else self.foreign.lists

    def frames(self, name: str) -> np.ndarray:
        """int64 `[records]`: true frames of the sequence `name` in each record."""
        return self.rows[column(self.schema, "frames", name)].astype(np.int64)

    def by_shard(self) -> np.ndarray:
        """int64 `[records]`: the rows in the order in which a reader of the shards meets them."""
        rows = np.asarray(self.rows)  # a memmap is a subclass, which its copies would be too
        shards = rows["shard"].astype(np.min_scalar_type(len(self.shards)))
        order = np.argsort(shards, kind="stable")  # by radix, up to 65,535 shards: a tenth of the time of a lexsort
        shards, offsets = shards[order], rows["offset"].astype(np.uint64)[order]
        # As they were written, the rows of a shard ascend; but whoever wrote the file may have sorted them.
        if np.any((offsets[1:] <= offsets[:-1]) & (shards[1:] == shards[:-1])):
            return np.lexsort((rows["offset"], rows["shard"]))
        return order

    @cached_property
    def fingerprint(self) -> str:
        """Tells data apart: a digest of what the index knows of every record, its checksum too, and of the files' names.

        It does not depend on where the files are. Made once: 0.3 s for ten million records.
        """
        names = json.dumps([self.schema.to_json(), [[shard.name, shard.bytes, shard.records] for shard in self.shards]])
        crc = google_crc32c.extend(google_crc32c.value(names.encode()), self.ids.astype("<i8").tobytes())
        for name, values in self.lists.items():
            crc = google_crc32c.extend(google_crc32c.extend(crc, name.encode()), values.astype("<i8").tobytes())
        return f"{digest_of_rows(self.rows)}-{crc:08x}"

    def where(self, row: int) -> str:
        """Names a record for an error: `train-00003-of-00016.tfrecord, record 17 at byte 88120`."""
        shard, offset = int(self.rows["shard"][row]), int(self.rows["offset"][row])
        position = int(np.count_nonzero((self.rows["shard"] == shard) & (self.rows["offset"] < offset)))
        return f"{self.shards[shard].name}, record {position} at byte {offset}"

    def check_files(self) -> None:
        """Compare the shards on disk with the table.

        Raises:
            DatasetError: a shard is missing, or has another size than the metadata say.
        """
        for shard in self.shards:
            try:
                size = os.stat(shard.path).st_size
            except OSError as error:
                raise DatasetError(
                    f"{shard.path}: cannot be read ({error.strerror}), expected a shard of {shard.bytes} bytes with {shard.records} "
                    f"records. {_RESTORE}"
                ) from error
            if size != shard.bytes:
                what = "cut" if size < shard.bytes else "changed"
                raise DatasetError(
                    f"{shard.path}: found {size} bytes, expected {shard.bytes} with {shard.records} records: it was {what} after it was "
                    f"written. {_RESTORE}"
                )

    @property
    def is_local(self) -> bool:
        """Whether the shards can be opened as files."""
        return not any("://" in shard.path for shard in self.shards)

    def check_ends(self) -> None:
        """Compare the checksums of the first and the last record of each shard, which tells another file of the same size.

        Raises:
            DatasetError: one is not the record that was written; the message names it.
        """
        if not len(self):
            return
        order = self.by_shard()
        firsts = np.flatnonzero(np.diff(self.rows["shard"][order].astype(np.int64), prepend=-1))
        lasts = np.append(firsts[1:], len(order)) - 1
        for row in order[np.union1d(firsts, lasts)].tolist():
            self.read_record(row)

    def read_record(self, row: int) -> bytes:
        """The data of a record, compared with the checksum that it was written with.

        Raises:
            DatasetError: it cannot be read, or is not the record that was written; the message names it.
        """
        entry = self.rows[row]
        try:
            with open(self.shards[int(entry["shard"])].path, "rb") as file:
                file.seek(int(entry["offset"]) + HEADER_BYTES)
                data = file.read(int(entry["bytes"]))
        except OSError as error:
            raise DatasetError(
                f"{self.where(row)}: cannot be read ({error.strerror}), expected {entry['bytes']} bytes. {_RESTORE}"
            ) from error
        self.check_record(row, masked_crc(data))
        return data

    def check_record(self, row: int, checksum: int) -> None:
        """Compare the checksum of a record's data with the one that it was written with.

        Raises:
            DatasetError: it is another; the message names the record.
        """
        entry = self.rows[row]
        if checksum != entry["checksum"]:
            raise DatasetError(
                f"{self.where(row)}: the checksum of its {entry['bytes']} bytes of data is {checksum:08x}, the index says "
                f"{entry['checksum']:08x}: the file is damaged, or was changed or replaced after it was written. {_RESTORE}"
            )


_RESTORE = "Restore it from a copy, or write the dataset again."


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
    """The directories and files that a source names.

    Raises:
        ArgumentError: it is no path, and no list of them.
        DatasetError: nothing is there.
    """
    expected = "expected a directory, a glob, a file or a list of files"
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if isinstance(source, bytes) or not isinstance(source, Iterable) or hasattr(source, "dtype"):
        raise ArgumentError(f"source: came as {type(source).__name__} {source!r}, {expected}.")
    items = list(source)
    if not items:
        raise ArgumentError("source: an empty list, expected at least one directory, glob or file.")
    for item in items:
        if not isinstance(item, (str, os.PathLike)) or not os.fspath(item):
            raise ArgumentError(f"source: came with {type(item).__name__} {item!r}, {expected}.")
    return [path for item in items for path in _matches(os.fspath(item))]


def _matches(text: str) -> list[str]:
    if os.path.basename(text) == METADATA_NAME:
        text = os.path.dirname(text) or "."
    if os.path.exists(text):
        return [text.rstrip("/") or "/"]
    if "://" in text or text.startswith("~"):
        raise DatasetError(f"{text}: not followed in a list or glob, and ~ is not. Pass a path, or the address of one dataset directory.")
    if not glob.has_magic(text):
        parent = os.path.dirname(os.path.normpath(text)) or "."
        there = sorted(os.listdir(parent))[:8] if os.path.isdir(parent) else None
        hint = f"{parent} holds {there}" if there is not None else f"{parent} does not exist either"
        raise DatasetError(f"{text}: not found; {hint}. Pass a dataset directory, a glob, a file or a list of files.")
    found = [path for path in sorted(glob.glob(text, recursive=True)) if os.path.basename(path) not in (METADATA_NAME, INDEX_NAME)]
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
        raise DatasetError(f"{path}: not the metadata of a vlpipe dataset: {reason}. {_RESTORE}") from error
    rows = _read_rows(directory / INDEX_NAME, row_dtype(schema), digest)
    if len(rows) != document["records"]:
        found = f"found {len(rows)} rows, {METADATA_NAME} says {document['records']} records"
        raise DatasetError(f"{directory / INDEX_NAME}: {found}. {_RESTORE}")
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
        raise DatasetError(f"{path}: cannot be read as JSON ({error}). {_RESTORE}") from error
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
        raise DatasetError(f"{path}: not the metadata of a vlpipe dataset: {error}. {_RESTORE}") from error


def _is_file_name(name: str) -> bool:
    try:
        return "\0" not in name and bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


def digest_of_rows(rows: np.ndarray) -> str:
    """The digest by which `vlpipe.json` knows its `index.npy`."""
    crc = 0
    step = max(1, (1 << 24) // rows.dtype.itemsize)  # 16 MiB at a time: an index may be larger than memory
    for first in range(0, len(rows), step):
        crc = google_crc32c.extend(crc, rows[first : first + step].tobytes())
    return f"crc32c:{crc:08x}"


def _read_rows(path: Path, dtype: np.dtype, digest: Any) -> np.ndarray:
    try:
        open_memmap: Any = np.lib.format.open_memmap  # NumPy's own annotation of it lacks an argument
        rows: np.ndarray = open_memmap(path, mode="r", max_header_size=_MAX_HEADER_BYTES)
    except Exception as error:  # its header is Python source, so that a damaged one raises whatever ast and tokenize can
        raise DatasetError(f"{path}: cannot be read as a NumPy array ({error}). {_RESTORE}") from error
    if rows.dtype != dtype or rows.ndim != 1:
        raise DatasetError(
            f"{path}: found {rows.dtype} {list(rows.shape)}, expected one axis of {dtype}, which is what the schema asks for. {_RESTORE}"
        )
    if rows.nbytes <= IN_MEMORY_BYTES:
        rows = np.array(rows)
    found = digest_of_rows(rows)
    if found != digest:
        raise DatasetError(f"{path}: its digest is {found}, {METADATA_NAME} says {digest}: the two do not belong together. {_RESTORE}")
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
        raise DatasetError(f"{directory / INDEX_NAME}: {problem}: it does not belong to these shards. {_RESTORE}")


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
