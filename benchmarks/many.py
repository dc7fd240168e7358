"""Datasets of millions of small records, for what grows with their number."""

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
CHUNK = 100_000  # records that are put together at a time


def patterns() -> list[np.ndarray]:
    """Different sequences of 5 to 200 frames of one byte, log-normal: uint8 [T, 1]."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(40), 0.7, PATTERNS), 5, 200).astype(int)
    return [random.integers(0, 256, (length, 1), np.uint8) for length in lengths.tolist()]


def write_many(directory: Path, records: int, shards: int = 16) -> None:
    """A dataset of a multiple of 1,000 records, as `vlpipe.write` makes it: each pattern as often, in a random order; label: its number.

    `vlpipe.write` takes 70 us a record, twelve minutes for 10^7. So it writes each pattern once, and what it wrote (framing, checksums,
    rows of the index) is repeated.
    """
    with tempfile.TemporaryDirectory() as scratch:
        few = Path(scratch) / "few"
        vlpipe.write(few, ({"features": x, "label": label} for label, x in enumerate(patterns())), num_shards=1)
        document = json.loads((few / "vlpipe.json").read_text("utf-8"))
        rows = np.load(few / "index.npy")
        data = np.fromfile(few / document["shards"][0]["name"], np.uint8)
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
        here = np.flatnonzero(rows["shard"] == shard)
        own = chosen[here]
        rows["offset"][here] = np.cumsum(sizes[own]) - sizes[own]
        document["shards"].append(write_shard(directory / f"{directory.name}-{shard:05d}-of-{shards:05d}.tfrecord", framed, inside, own))
    np.save(directory / "index.npy", rows)
    document["index"]["digest"] = f"crc32c:{google_crc32c.value(rows.tobytes()):08x}"
    repeat_counts(document, records // PATTERNS)
    (directory / "vlpipe.json").write_text(json.dumps(document), "utf-8")


def write_shard(path: Path, framed: np.ndarray, inside: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """One file of the chosen patterns; returns its entry in the table of shards."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for first in range(0, len(chosen), CHUNK):
            some = chosen[first : first + CHUNK]
            data = framed[some][inside[some]].tobytes()
            digest.update(data)
            file.write(data)
    return {"name": path.name, "bytes": path.stat().st_size, "records": len(chosen), "digest": f"sha256:{digest.hexdigest()}"}


def repeat_counts(document: dict[str, Any], times: int) -> None:
    """The metadata of a dataset whose every record is there so many times; means and variances are the same."""
    document["records"] *= times
    for moments in document["statistics"].values():
        moments["count"] = [count * times for count in moments["count"]]
    document["lengths"] = {name: [[length, count * times] for length, count in counts] for name, counts in document["lengths"].items()}
