"""The benchmark of audio features runs, and all ways deliver every record."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.benching import quick


def test_the_benchmark(tmp_path: Path) -> None:
    ways = quick("audio", tmp_path)["results"]["words"]
    assert {"tf.signal", "vlpipe, from waveforms", "vlpipe, stored features", "NumPy loop"} <= set(ways)
    for way in ways.values():
        assert len(way["rounds"]) == 1
        assert way["records_per_second"] > 0
        assert way["core_seconds_per_hour"] > 0
    assert (ways["tf.signal"]["ratio"], ways["tf.signal"]["core_ratio"]) == (1.0, 1.0)
