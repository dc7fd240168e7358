"""Datasets of millions of small records, to measure what grows with their number."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

import vlpipe

PATTERNS = 1000  # different records
CHUNK = 100_000  # records that are assembled at a time


def patterns() -> list[np.ndarray]:
    """Different sequences uint8 [T, 1] with log-normal lengths of 5 to 200 frames."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(40), 0.7, PATTERNS), 5, 200).astype(int)
    return [random.integers(0, 256, (length, 1), np.uint8) for length in lengths.tolist()]


def write_many(directory: Path, records: int, shards: int = 16) -> None:
    """Write a dataset of a multiple of 1,000 records: each pattern equally often, in random order; the label is the number of the pattern.

    `vlpipe.write` takes 70 us per record, twelve minutes for 10^7. Therefore it writes each pattern once, and the bytes that it wrote
    (framing, checksums, rows of the index) are repeated. The result is the same as if it had written all.
    """
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small"
        vlpipe.write(small, ({"features": x, "label": label} for label, x in enumerate(patterns())), num_shards=1)
        document = json.loads((small / "vlpipe.json").read_text("utf-8"))
        rows = np.load(small / "index.npy")
        data = np.fromfile(small / document["shards"][0]["name"], np.uint8)
    sizes = np.diff(np.append(rows["offset"], len(data)).astype(np.int64))
    inside = np.arange(sizes.max()) < sizes[:, None]
    framed = np.zeros(inside.shape, np.uint8)  # [pattern, byte]
    framed[inside] = data
    random = np.random.default_rng(1)
    chosen = random.permutation(np.tile(np.arange(PATTERNS), records // PATTERNS))
    rows = rows[chosen]
    rows["shard"] = random.integers(shards, size=records)
    document["shards"] = []
    directory.mkdir()
    for shard in range(shards):
        positions = np.flatnonzero(rows["shard"] == shard)
        part = chosen[positions]
        rows["offset"][positions] = np.cumsum(sizes[part]) - sizes[part]
        document["shards"].append(write_shard(directory / f"{directory.name}-{shard:05d}-of-{shards:05d}.tfrecord", framed, inside, part))
    np.save(directory / "index.npy", rows)
    document["index"]["digest"] = f"crc32c:{google_crc32c.value(rows.tobytes()):08x}"
    repeat_counts(document, records // PATTERNS)
    del document["digest"]  # of the content before these changes; without it, a dataset opens too
    (directory / "vlpipe.json").write_text(json.dumps(document), "utf-8")


def write_shard(path: Path, framed: np.ndarray, inside: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Write a shard of the chosen patterns; return its entry in the table of shards."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for first in range(0, len(chosen), CHUNK):
            chunk = chosen[first : first + CHUNK]
            data = framed[chunk][inside[chunk]].tobytes()
            digest.update(data)
            file.write(data)
    return {"name": path.name, "bytes": path.stat().st_size, "records": len(chosen), "digest": f"sha256:{digest.hexdigest()}"}


def repeat_counts(document: dict[str, Any], times: int) -> None:
    """Update the metadata of a dataset whose records are each repeated; means and variances stay the same."""
    document["records"] *= times
    for moments in document["statistics"].values():
        moments["count"] = [count * times for count in moments["count"]]
    document["lengths"] = {name: [[length, count * times] for length, count in counts] for name, counts in document["lengths"].items()}
