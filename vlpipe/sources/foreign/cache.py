"""The cached index of a third-party file: in `.vlpipe-index/NAME-LAYOUT` beside the file, or in the user's cache directory if the file has
an address or its directory is not writable.

The first line is JSON: the file, by size, modification time and a digest of head and tail; the layout; and a checksum of the rest. Then
follow the bytes of the rows and the values of each list, as saved by NumPy. If anything does not match, the file is indexed again.

A cached file is written under a random name, on which its process holds a lock, and then renamed: a name without a lock was left by a
process that was killed, and is removed. Where `.vlpipe-index` or the cached file is a link, nothing is written or read through it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.atomic_file import replace_file
from vlpipe.files.compression import COMPRESSIONS
from vlpipe.files.filesystem import is_address, open_file, stat_file
from vlpipe.files.json_files import parse_json
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.layouts.base import Layout, Listed, Words
from vlpipe.regular_files import open_regular, read_open
from vlpipe.sources.foreign.feature_lists import gap
from vlpipe.sources.foreign.index_file import Table, row_dtype
from vlpipe.storage.field_access import column

FORMAT, VERSION = "vlpipe-foreign-index", 1
DIRECTORY = ".vlpipe-index"
_HEAD_BYTES = 1 << 16  # of the line of JSON and of NumPy's headers
_MAX_RATIO = 1032  # of zlib: bytes that one compressed byte can become
_END_BYTES = 4096  # of the head and of the tail that are in the digest


def identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return values that identify a file and its version: size, modification time, and a digest of head and tail.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        file_stat = stat_file(path)
        with open_file(path) as file:
            ends = file.read(_END_BYTES)
            file.seek(max(0, file_stat.bytes - _END_BYTES))
            ends += file.read(_END_BYTES)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be indexed ({error.strerror or error}), expected a TFRecord file.") from error
    return {"bytes": file_stat.bytes, "mtime_ns": file_stat.mtime_ns, "digest": f"crc32c:{google_crc32c.value(ends):08x}"}


def earlier_count(path: str, layout: Layout) -> int | None:
    """Return the number of records that a cached index of an earlier version of a file has; None without one.

    A file that was cut exactly between two records is a whole file again: only its earlier index shows that records are missing.
    """
    numpy_format: Any = np.lib.format  # functions without annotations
    for cached in cache_paths(path, f"-{layout.digest}") if layout.is_kept else ():
        with contextlib.suppress(Exception), open_cached(cached) as file:  # NumPy parses the header as Python source
            head = parse_json(file.readline(_HEAD_BYTES))
            if head["format"] == FORMAT and head["layout"] == layout.digest and numpy_format.read_magic(file) == (1, 0):
                ((size,), _, _) = numpy_format.read_array_header_1_0(file)
                return int(size) // row_dtype(layout).itemsize
    return None


def load(path: str, layout: Layout) -> Table | None:
    """Return the cached index of a file; None if there is none, or if the file has changed."""
    for cached in cache_paths(path, f"-{layout.digest}") if layout.is_kept else ():
        with contextlib.suppress(OSError):
            file_identity = identity(path)
            table = _parse(read_cached(cached, _most_bytes(file_identity["bytes"], layout)), file_identity, layout)
            if table is not None:
                return table
    return None


def save(path: str, layout: Layout, table: Table, file_identity: dict[str, Any]) -> bool:
    """Cache the index of a file.

    Args:
        path: the file.
        layout: the layout of its records.
        table: its index.
        file_identity: the `identity` of the file before it was read.

    Returns:
        False if the layout does not allow it or no directory is writable.
    """
    body = io.BytesIO()
    # Saved as bytes: parsing the columns from the header of the array takes longer than everything else, and the layout defines them.
    np.save(body, table.rows.view(np.uint8), allow_pickle=False)
    for values in table.lists.values():
        np.save(body, values, allow_pickle=False)
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "file": file_identity,
        "layout": layout.digest,
        "lists": list(table.lists),
    }
    head["compression"] = table.compression
    head["others"] = [list(entry) for entry in table.others]
    head["crc32c"] = google_crc32c.value(body.getvalue())
    return layout.is_kept and store(json.dumps(head).encode() + b"\n" + body.getvalue(), cache_paths(path, f"-{layout.digest}"))


def read_cached(path: Path, most: int) -> bytes:
    """Return the content of a cached file of at most `most` bytes.

    Raises:
        OSError: as `open_cached`; or it is larger.
    """
    with open_cached(path) as file:
        return read_open(file, path, most)


def open_cached(path: Path) -> BinaryIO:
    """Open a cached file.

    Raises:
        OSError: there is none, or it is reached through a link.
    """
    if path.is_symlink() or path.parent.is_symlink():
        raise OSError(errno.ELOOP, "it is reached through a link", os.fspath(path))
    return open_regular(path)


def _most_bytes(size: int, layout: Layout) -> int:
    """Return how many bytes the cached index of a file of `size` bytes can have: a record takes at least 16 bytes, a value of a list 1."""
    expanded = max(size, 1 << 12) * _MAX_RATIO  # the file may be compressed
    return _HEAD_BYTES + expanded // (HEADER_BYTES + FOOTER_BYTES) * row_dtype(layout).itemsize + 8 * expanded


def store(content: bytes, paths: Iterable[Path]) -> bool:
    """Write a file atomically to the first writable path; return False if no path is writable."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
            return True
    return False


def cache_paths(path: str, suffix: str, *, beside: bool = True) -> Iterator[Path]:
    """Yield the paths for cached results about a file, in order of preference.

    Args:
        path: the file.
        suffix: appended to its name.
        beside: whether to include the directory of the file; the user's cache directory is always included.
    """
    directory, name = os.path.split(path)
    name += suffix
    if beside and not is_address(path):
        yield Path(directory) / DIRECTORY / name
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # to be ignored, says the XDG specification: an address would be a folder named "s3:"
        cache = os.path.expanduser("~/.cache")
    yield Path(cache) / "vlpipe" / "index" / hashlib.sha256(os.fsencode(directory)).hexdigest()[:24] / name


def _parse(content: bytes, file_identity: dict[str, Any], layout: Layout) -> Table | None:
    """Return the index in a cached file; None if it belongs to another file, version or layout, or is damaged."""
    line, _, rest = content.partition(b"\n")
    if len(line) > _HEAD_BYTES:
        return None
    keys = [field.key for field in layout.fields if isinstance(field, Listed)]
    try:
        head = parse_json(line)
        compression, others = head["compression"], head["others"]
        expected = {"format": FORMAT, "version": VERSION, "file": file_identity, "layout": layout.digest, "lists": keys}
        expected |= {"compression": compression, "others": others, "crc32c": google_crc32c.value(rest)}
        if head != expected or compression not in COMPRESSIONS:
            return None
        body = io.BytesIO(rest)
        raw, *lists = [np.load(body, allow_pickle=False) for _ in range(1 + len(keys))]
        rows = raw.view(row_dtype(layout))
        noticed = tuple((str(key), int(record)) for key, record in others)
    except Exception:  # NumPy parses the header of an array as Python source, which may raise anything
        return None
    if raw.dtype != np.uint8 or raw.ndim != 1 or any(values.dtype != np.int64 or values.ndim != 1 for values in lists):
        return None
    table = Table(rows, dict(zip(keys, lists, strict=True)), compression, noticed)
    return table if _is_valid(table, file_identity["bytes"], layout) else None


def _is_valid(table: Table, size: int, layout: Layout) -> bool:
    """Return whether the records fill the file of `size` bytes, and all positions in the rows lie inside their record."""
    rows, schema = table.rows, layout.schema
    ends = rows["offset"] + rows["bytes"] + np.uint64(HEADER_BYTES + FOOTER_BYTES)
    begins = np.concatenate([[np.uint64(0)], ends])
    valid = bool(np.array_equal(begins[:-1], rows["offset"]) and not rows["shard"].any())
    valid &= int(begins[-1]) == size or bool(table.compression)
    for entry in layout.sequences:
        if entry.parsed:
            continue
        frames, start = (rows[column(schema, kind, entry.key)].astype(np.uint64) for kind in ("frames", "start"))
        header = np.uint64(gap(entry))  # before each frame, including the first
        end = start + frames * (header + np.uint64(entry.frame_bytes))
        valid &= bool((((start >= header) & (end <= rows["bytes"] + header)) | (frames == 0)).all())
    for field in layout.fields:
        if isinstance(field, (Listed, Words)):
            limit = rows["bytes"].astype(np.uint64) if isinstance(field, Words) else np.uint64(len(table.lists[field.key]))
            start, count = (rows[f"{kind}:{field.key}"].astype(np.uint64) for kind in ("start", "frames"))
            valid &= bool(((start <= limit) & (count <= limit - start)).all())  # the sum start + count might overflow
        if isinstance(field, Listed) and field.classes is not None:
            valid &= bool(((table.lists[field.key] >= 0) & (table.lists[field.key] < field.classes)).all())
    return valid
