"""Mean and variance of the frames of a file, where they were computed (`compute_statistics`): kept like its index, and found again.

In `.vlpipe-index/NAME-READING.statistics` beside a file that vlpipe did not write; of vlpipe's own shards, in whose directory nothing is
changed, in the user's cache. One line of JSON (which frames they are of, and a checksum of the rest), then what `vlpipe.json` has of them.

They belong to the file as its index knows it: place, length and checksum of every record, and where in it the frames are. A file that
has changed has another index, and so no statistics. Labels and texts are no part of it: the same frames have one mean, whatever the label.
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

from vlpipe.sources.foreign.cache import cache_paths, store
from vlpipe.storage.index import Index, Shard, column
from vlpipe.storage.statistics import Moments, merged

FORMAT, VERSION = "vlpipe-statistics", 1


def measured_sequences(index: Index) -> list[str]:
    """The sequences whose frames have a mean: not the lists of labels that an index of foreign files holds."""
    return [name for name in index.counted if name not in index.lists]


def kept_moments(index: Index) -> dict[str, Moments]:
    """The statistics of a whole index, by sequence; none unless those of all its files are kept."""
    parts = []
    for shard, part in zip(index.shards, index.parts(), strict=True):
        if len(part):
            found = load_moments(index, shard, part)
            if found is None:
                return {}
            parts.append(found)
    return merged(parts)


def load_moments(index: Index, shard: Shard, part: np.ndarray) -> dict[str, Moments] | None:
    """What is kept of one file, if it is still the same; else None.

    Args:
        part: its rows in the index.
    """
    head, at = _head(index, shard, part)
    for place in at:
        with contextlib.suppress(OSError):
            found = _parse(place.read_bytes(), head, index)
            if found is not None:
                return found
    return None


def save_moments(index: Index, shard: Shard, part: np.ndarray, moments: dict[str, Moments]) -> bool:
    """Keep the statistics of one file, complete or not at all; False where there is no place for them."""
    head, at = _head(index, shard, part)
    body = json.dumps({name: of.to_json() for name, of in moments.items()}).encode()
    return store(json.dumps({**head, "crc32c": google_crc32c.value(body)}).encode() + b"\n" + body, at)


def _head(index: Index, shard: Shard, part: np.ndarray) -> tuple[dict[str, Any], Iterator[Path]]:
    """What has to stand in the first line, and where the statistics may be."""
    names = measured_sequences(index)
    reading = json.dumps([[name, repr(index.schema.sequences[name]), repr(index.stored(name))] for name in names])
    rows, crc = index.rows[part], 0
    for name in ("offset", "bytes", "checksum", *(column(index.schema, kind, name) for name in names for kind in ("frames", "start"))):
        crc = google_crc32c.extend(crc, rows[name].tobytes())
    head = {"format": FORMAT, "version": VERSION, "reading": reading, "rows": f"crc32c:{crc:08x}"}
    if index.foreign is not None and index.foreign.parse is not None:
        return head, iter(())  # another function of the user's would give other frames
    ending = f"-{google_crc32c.value(reading.encode()):08x}.statistics"
    return head, cache_paths(shard.path, ending, beside=index.foreign is not None)


def _parse(content: bytes, head: dict[str, Any], index: Index) -> dict[str, Moments] | None:
    line, _, body = content.partition(b"\n")
    try:
        if json.loads(line) != {**head, "crc32c": google_crc32c.value(body)}:
            return None
        document, sequences = json.loads(body), index.schema.sequences
        return {name: Moments.from_json(document[name], math.prod(sequences[name].dimensions)) for name in measured_sequences(index)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
