"""The memory benchmark runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.benching import quick


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux reports anonymous memory")
def test_the_benchmark(tmp_path: Path) -> None:
    document = quick("memory", tmp_path, "--workloads", "events", "--engines", "mapped")
    assert set(document["results"]) == {"events"}
    engines = document["results"]["events"]
    assert set(engines) == {"mapped"}
    for figures in engines.values():
        epochs = figures["epochs"]
        for name in ("resident_bytes", "anonymous_bytes", "faults_per_batch", "step_seconds"):
            assert len(figures[name]) == epochs
        for name in ("gap_seconds", "repeat_gap_seconds"):
            assert len(figures[name]) == epochs - 1
            assert min(figures[name]) > 0
        assert len(figures["delete_seconds"]) == 5
        assert all(0 < a < r for a, r in zip(figures["anonymous_bytes"], figures["resident_bytes"], strict=True))
        assert figures["steps_per_epoch"] == 4
        assert figures["batch_bytes"] > 0
        assert figures["anonymous_bytes_before"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]  # scratch files are removed
