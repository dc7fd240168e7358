"""The scaling benchmark runs, and its datasets of repeated records equal those that `vlpipe.write` writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import vlpipe
from benchmarks.many import PATTERNS, patterns, write_many
from tests.benchmarks.benching import quick


def test_write_many_gives_the_dataset_of_vlpipe_write(tmp_path: Path) -> None:
    write_many(tmp_path / "many", 3 * PATTERNS, shards=4)
    known = patterns()
    counts = np.zeros(PATTERNS, int)
    for x, labels in vlpipe.make_dataset(tmp_path / "many", lengths=True, seed=0, dtype="uint8", verify="always", batch_size=500):
        for row, length, label in zip(x["features"].numpy(), x["lengths"].numpy(), labels.numpy(), strict=True):
            np.testing.assert_array_equal(row[:length], known[label])
            assert not row[length:].any()
            counts[label] += 1
    assert set(counts.tolist()) == {3}

    # Its metadata, too, are those of vlpipe.write with the same records, apart from the order.
    vlpipe.write(tmp_path / "slow", ({"features": x, "label": label} for label, x in enumerate(known) for _ in range(3)))
    many, slow = (json.loads((tmp_path / name / "vlpipe.json").read_text()) for name in ("many", "slow"))
    for key in ("format", "version", "schema", "records", "lengths", "metadata"):
        assert many[key] == slow[key]
    for key in ("count", "mean", "variance"):
        np.testing.assert_allclose(many["statistics"]["features"][key], slow["statistics"]["features"][key])


def test_the_benchmark(tmp_path: Path) -> None:
    document = quick("scaling", tmp_path, "--most", "1000")
    figures = document["results"]
    assert set(figures) == {"records", "d", "length", "batch_size", "shards", "cores"}
    assert [point["records"] for point in figures["records"]] == [1000]
    for point in figures["records"]:
        for name in ("plan", "first_batch", "resume", "state", "order"):
            assert all(seconds > 0 for seconds in point[f"{name}_seconds"])
        assert all(100 < size < 2000 for size in point["state_bytes"])
        assert 50_000 < point["disk_bytes"] < 200_000
    for name in ("d", "length", "batch_size", "shards"):
        assert len(figures[name]) == 2
    for name in set(figures) - {"records"}:
        for point in figures[name]:
            assert point[name] > 0
            assert point["frames_per_second"] > 0
            assert len(point["seconds"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scaling.json"]  # scratch files are removed
