"""The benchmark of third-party files runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.benching import quick


@pytest.mark.usefixtures("quick_graphs")
def test_the_benchmark(tmp_path: Path) -> None:
    figures = quick("foreign", tmp_path)["results"]
    assert set(figures["sources"]) == {"floats", "audioset", "samples"}
    for result in figures["sources"].values():
        assert set(result["ways"]) == {"documented", "vlpipe mapped", "vlpipe graph", "vlpipe stream"}
        assert result["indexed_per_second"] > 0
        assert all(way["records_per_second"] > 0 for way in result["ways"].values())
    assert figures["again"]["files"] == 20
    # Scratch files are removed; TensorFlow keeps its own of functions that it has converted.
    assert [path.name for path in tmp_path.iterdir() if "autograph" not in path.name] == ["foreign.json"]
