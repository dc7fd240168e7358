"""What was found out about a foreign file: in `.vlpipe-index/NAME-LAYOUT` beside it, or in the user's cache where that cannot be written,
and for a file at an address.

One line of JSON (which file it belongs to, by size, time and a digest of head and tail; which layout; a checksum of the rest), then the
bytes of the rows and the values of each list as NumPy saves arrays. Whatever does not fit is not used: the file is indexed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from vlpipe.files.compression import COMPRESSIONS
from vlpipe.files.filesystem import is_address, open_file, stat_file
from vlpipe.files.tfrecord import FOOTER_BYTES, HEADER_BYTES
from vlpipe.layouts.base import Layout, Listed, Words
from vlpipe.sources.foreign.chunk import gap
from vlpipe.sources.foreign.index_file import Table, row_dtype
from vlpipe.storage.index import column

FORMAT, VERSION = "vlpipe-foreign-index", 1
DIRECTORY = ".vlpipe-index"
_ENDS = 4096  # bytes of head and of tail that are in the digest


def identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What tells a file from another, and from what it was.

    Raises:
        OSError: it cannot be read.
    """
    found = stat_file(path)
    with open_file(path) as file:
        ends = file.read(_ENDS)
        file.seek(max(0, found.bytes - _ENDS))
        ends += file.read(_ENDS)
    return {"bytes": found.bytes, "mtime_ns": found.mtime_ns, "digest": f"crc32c:{google_crc32c.value(ends):08x}"}


def load(path: str, layout: Layout) -> Table | None:
    """What is known of a file, if that is still the same; else None."""
    for place in places(path, f"-{layout.digest}") if layout.is_kept else ():
        with contextlib.suppress(OSError):
            found = _parse(place.read_bytes(), identity(path), layout)
            if found is not None:
                return found
    return None


def save(path: str, layout: Layout, table: Table, of: dict[str, Any]) -> bool:
    """Keep what was found out, complete or not at all; False where there is no place for it.

    Args:
        of: the `identity` of the file before it was read.
    """
    body = io.BytesIO()
    # Not as rows: to read the columns out of the header of an array takes longer than all the rest, and they follow from the layout.
    np.save(body, table.rows.view(np.uint8), allow_pickle=False)
    for values in table.lists.values():
        np.save(body, values, allow_pickle=False)
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "file": of, "layout": layout.digest, "lists": list(table.lists)}
    head["compression"] = table.compression
    head["crc32c"] = google_crc32c.value(body.getvalue())
    return layout.is_kept and keep(json.dumps(head).encode() + b"\n" + body.getvalue(), places(path, f"-{layout.digest}"))


def keep(content: bytes, at: Iterable[Path]) -> bool:
    """Write a file, complete or not at all, at the first place where that can be done; False where there is none."""
    for place in at:
        scratch = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(content)
            os.replace(scratch, place)
            return True
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
    return False


def places(path: str, ending: str, *, beside: bool = True) -> Iterator[Path]:
    """Where something about a file may be kept: beside it, and in the user's cache."""
    directory, name = os.path.split(path)
    name += ending
    if beside and not is_address(path):
        yield Path(directory) / DIRECTORY / name
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    yield Path(cache) / "vlpipe" / "index" / hashlib.sha256(os.fsencode(directory)).hexdigest()[:24] / name


def _parse(content: bytes, of: dict[str, Any], layout: Layout) -> Table | None:
    line, _, rest = content.partition(b"\n")
    keys = [field.key for field in layout.fields if isinstance(field, Listed)]
    try:
        head = json.loads(line)
        expected = {"format": FORMAT, "version": VERSION, "file": of, "layout": layout.digest, "lists": keys}
        compression = head["compression"]
        if head != {**expected, "compression": compression, "crc32c": google_crc32c.value(rest)} or compression not in COMPRESSIONS:
            return None
        body = io.BytesIO(rest)
        raw, *lists = [np.load(body, allow_pickle=False) for _ in range(1 + len(keys))]
        rows = raw.view(row_dtype(layout))
    except Exception:  # NumPy reads the header of an array as Python source: whatever ast can raise
        return None
    if raw.dtype != np.uint8 or raw.ndim != 1 or any(values.dtype != np.int64 or values.ndim != 1 for values in lists):
        return None
    table = Table(rows, dict(zip(keys, lists, strict=True)), compression)
    return table if _is_sound(table, of["bytes"], layout) else None


def _is_sound(table: Table, size: int, layout: Layout) -> bool:
    """The records fill the file, and everything that rows point at is inside."""
    rows, schema = table.rows, layout.schema
    ends = rows["offset"] + rows["bytes"] + np.uint64(HEADER_BYTES + FOOTER_BYTES)
    begins = np.concatenate([[np.uint64(0)], ends])
    sound = bool(np.array_equal(begins[:-1], rows["offset"]) and not rows["shard"].any())
    sound &= int(begins[-1]) == size or bool(table.compression)
    for entry in layout.frames:
        if entry.parsed:
            continue
        frames, start = (rows[column(schema, kind, entry.key)].astype(np.uint64) for kind in ("frames", "start"))
        before = np.uint64(gap(entry))  # each frame, and the first too
        reach = start + frames * (before + np.uint64(entry.frame_bytes))
        sound &= bool((((start >= before) & (reach <= rows["bytes"] + before)) | (frames == 0)).all())
    for field in layout.fields:
        if isinstance(field, (Listed, Words)):
            most = rows["bytes"].astype(np.uint64) if isinstance(field, Words) else np.uint64(len(table.lists[field.key]))
            start, count = (rows[f"{what}:{field.key}"].astype(np.uint64) for what in ("start", "frames"))
            sound &= bool(((start <= most) & (count <= most - start)).all())  # a sum might begin again at 0
        if isinstance(field, Listed) and field.classes is not None:
            sound &= bool(((table.lists[field.key] >= 0) & (table.lists[field.key] < field.classes)).all())
    return sound
