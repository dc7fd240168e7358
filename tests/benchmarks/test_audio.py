"""The benchmark of audio features runs, and all ways deliver every record."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import audio_tables, results
from benchmarks.report import report as full_report
from tests.benchmarks.benching import quick


def test_the_benchmark_and_its_tables(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for number in range(6):
        soundfile.write(recordings / f"{number}.wav", np.random.default_rng(number).uniform(-0.5, 0.5, 2000 + 500 * number), 8000)
    documents = {"audio": quick("audio", tmp_path, "--data", str(recordings))}
    for result in documents["audio"]["results"].values():
        ways = result["ways"]
        assert {"tf.signal", "vlpipe, from waveforms", "vlpipe, with noise", "vlpipe, stored features", "NumPy loop"} <= set(ways)
        for way in ways.values():
            assert len(way["rounds"]) == 1
            assert way["records_per_second"] > 0
            assert way["core_seconds_per_hour"] > 0
        assert (ways["tf.signal"]["ratio"], ways["tf.signal"]["core_ratio"]) == (1.0, 1.0)
    words, result = documents["audio"]["results"].values()
    assert (words["rate"], words["records"]) == (8000, 40)
    hours = sum(2000 + 500 * number for number in range(6)) / 8000 / 3600
    assert (result["rate"], result["records"], result["seconds"]) == (8000, 6, [0.25, 0.5625])
    assert result["hours"] == pytest.approx(hours)
    assert result["megabytes"]["waveforms"] * 1e6 > 2 * 8000 * 3600 * hours  # int16
    assert str(recordings) not in str(documents)
    report = audio_tables.audio(documents)
    assert "**recordings**: 6 waveforms of 0.25 to 0.56 s at 8,000 Hz, 0.00 h; medians of 1 interleaved rounds." in report
    for name, way in result["ways"].items():
        assert f"| {name} | {way['records_per_second']:,.0f} | {way['ratio']:.1f} | {way['core_seconds_per_hour']:.2f} |" in report
    stored = audio_tables.storing_table(documents)
    assert f"| recordings at 8 kHz: features | {result['megabytes']['features'] / hours:.0f} |" in stored
    assert "waveforms, with noise and masks" in stored
    assert not re.search(r"\d", audio_tables.storing_table({}))
    assert "Audio features" not in full_report({"layers": results.load("layers") or {}})
