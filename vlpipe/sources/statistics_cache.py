"""The cache of computed statistics (`compute_statistics`): mean and variance of the frames of each file.

They are stored in `.vlpipe-index/NAME-READING.statistics` beside a third-party file, and in the user's cache for native shards, whose
directory vlpipe does not change; those of some records of a file in `NAME-READING-RECORDS.statistics`. The file has one line of JSON (which
frames it covers, and a checksum of the rest), then the statistics as in `vlpipe.json`.

Statistics belong to a file as it was indexed: position, length and checksum of every record, and the position of its frames. A file that
has changed has a different index, and so no cached statistics. Labels and texts are not part of it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from vlpipe.files.json_files import MAX_JSON_BYTES, parse_json
from vlpipe.sources.foreign.cache import cache_paths, read_cached, store
from vlpipe.storage.field_access import column
from vlpipe.storage.index import Index, Shard
from vlpipe.storage.statistics import Moments, merged

FORMAT, VERSION = "vlpipe-statistics", 1


def counted_sequences(index: Index) -> list[str]:
    """The sequences that have statistics: all that the index counts, but for lists of labels."""
    return [name for name in index.counted if name not in index.lists]


def cached_moments(index: Index) -> dict[str, Moments]:
    """The statistics of a whole index, by sequence; empty unless all its files have cached ones."""
    parts = []
    for shard, part in zip(index.shards, index.parts(), strict=True):
        if len(part):
            moments = load_moments(index, shard, part)
            if moments is None:
                return {}
            parts.append(moments)
    return merged(parts)


def known_statistics(index: Index) -> dict[str, Moments]:
    """The statistics of an index; of a selection, for which none are stored, those that were computed for exactly its records."""
    if index.taken is None or all(name in index.statistics for name in index.schema.sequences):
        return index.statistics
    return {**cached_moments(index), **index.statistics}


def load_moments(index: Index, shard: Shard, part: np.ndarray) -> dict[str, Moments] | None:
    """The cached statistics of one file; None if there are none, or the file has changed.

    Args:
        part: its rows in the index.
    """
    head, paths = _head(index, shard, part)
    for path in paths:
        with contextlib.suppress(OSError):
            moments = _parse(read_cached(path, MAX_JSON_BYTES), head, index)
            if moments is not None:
                return moments
    return None


def save_moments(index: Index, shard: Shard, part: np.ndarray, moments: dict[str, Moments]) -> bool:
    """Cache the statistics of one file, complete or not at all; False if no directory for them can be written."""
    head, paths = _head(index, shard, part)
    body = json.dumps({name: entry.to_json() for name, entry in moments.items()}).encode()
    return store(json.dumps({**head, "crc32c": google_crc32c.value(body)}).encode() + b"\n" + body, paths)


def _head(index: Index, shard: Shard, part: np.ndarray) -> tuple[dict[str, Any], Iterator[Path]]:
    """The expected first line, and the paths where the statistics may be."""
    names = counted_sequences(index)
    reading = json.dumps([[name, repr(index.schema.sequences[name]), repr(index.stored(name))] for name in names])
    rows, crc = index.rows[part], 0
    for name in ("offset", "bytes", "checksum", *(column(index.schema, kind, name) for name in names for kind in ("frames", "start"))):
        crc = google_crc32c.extend(crc, rows[name].tobytes())
    head = {"format": FORMAT, "version": VERSION, "reading": reading, "rows": f"crc32c:{crc:08x}"}
    if index.foreign is not None and index.foreign.parse is not None:
        return head, iter(())  # a changed function would return other frames
    selected = "" if len(part) == shard.records else f"-{crc:08x}"  # beside those of the whole file
    ending = f"-{google_crc32c.value(reading.encode()):08x}{selected}.statistics"
    return head, cache_paths(shard.path, ending, beside=index.foreign is not None)


def _parse(content: bytes, head: dict[str, Any], index: Index) -> dict[str, Moments] | None:
    line, _, body = content.partition(b"\n")
    try:
        if parse_json(line) != {**head, "crc32c": google_crc32c.value(body)}:
            return None
        document, sequences = parse_json(body), index.schema.sequences
        return {name: Moments.from_json(document[name], math.prod(sequences[name].dimensions)) for name in counted_sequences(index)}
    except (ValueError, KeyError, TypeError):
        return None
