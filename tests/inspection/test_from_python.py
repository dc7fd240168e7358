"""`vlpipe.stats`, `histogram`, `inspect` and `convert` return what the commands of these names print."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import vlpipe
from tests.helpers.foreign_files import example, floats, ints
from tests.helpers.foreign_files import write as foreign_write
from vlpipe.cli import main


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    speakers = ["ann", "bob", "ann"]
    vlpipe.write(
        tmp_path / "d",
        ({"features": np.ones((t, 2), np.float32), "label": t % 2, "speaker": speakers[t % 3]} for t in range(1, 10)),
        schema=vlpipe.Schema(features=vlpipe.Sequence(2), label=vlpipe.Fixed(), speaker=vlpipe.Text()),
    )
    return tmp_path / "d"


@pytest.fixture
def ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Third-party files whose frame size nothing says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = [example({"x": floats(np.ones(400)), "label": ints(n % 3)}) for n in range(20)]
    return Path(foreign_write(tmp_path / "a.tfrecord", records))


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def printed(result: Any) -> str:
    assert repr(result) == str(result) == result.report()
    return f"{result}\n"


def as_json(result: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(result)))


def test_stats(dataset: Path) -> None:
    summary = vlpipe.stats(dataset)
    assert printed(summary) == run("stats", dataset)
    assert as_json(summary) == json.loads(run("stats", dataset, "--json"))
    by = vlpipe.stats(dataset, by="speaker")
    assert printed(by) == run("stats", dataset, "--by", "speaker")
    assert {entry.label: entry.lengths.frames for entry in by.labels["speaker"].classes if entry.lengths} == {"ann": 33, "bob": 12}
    assert vlpipe.stats(vlpipe.open(dataset).select({"speaker": "bob"})).records == 3


def test_histogram(dataset: Path, tmp_path: Path) -> None:
    lengths = vlpipe.histogram(dataset, bins=3)
    assert (lengths.features, lengths.width, lengths.first, lengths.records) == ("features", 3, (1, 4, 7), (3, 3, 3))
    assert [line.rstrip() for line in printed(lengths).splitlines()] == [
        line.rstrip() for line in run("histogram", dataset, "--bins", 3).splitlines()
    ]
    assert as_json(lengths) == json.loads(run("histogram", dataset, "--bins", 3, "--json"))
    assert sum(vlpipe.histogram(vlpipe.open(dataset).select({"label": 1})).records) == 5
    for bins in (0, 10_001, 2.5):
        with pytest.raises(vlpipe.ArgumentError, match="bins: came as"):
            vlpipe.histogram(dataset, bins=bins)  # type: ignore[arg-type]


def test_inspect(dataset: Path, ambiguous: Path) -> None:
    for path in (dataset, ambiguous):
        inspected = vlpipe.inspect(str(path))
        assert printed(inspected) == run("inspect", path)
        assert as_json(inspected) == json.loads(run("inspect", path, "--json"))
    assert inspected.layout is None
    assert any("d=..." in candidate.call for candidate in inspected.candidates)
    assert vlpipe.inspect(dataset).call == f"vlpipe.make_dataset({str(dataset)!r})"  # no PosixPath(...), which needs an import
    shards = sorted(dataset.glob("*.tfrecord"))
    assert vlpipe.inspect(iter(shards)).call == f"vlpipe.make_dataset({[*map(str, shards)]!r})"
    with pytest.raises(vlpipe.ArgumentError, match="inspect: came with an open source, whose layout is known"):
        vlpipe.inspect(vlpipe.open(dataset))  # type: ignore[arg-type]


def test_convert(dataset: Path, tmp_path: Path) -> None:
    converted = vlpipe.convert(dataset, tmp_path / "out", num_shards=2)
    assert (converted.path, converted.records, converted.frames, converted.files[1]) == (str(tmp_path / "out"), 9, {"features": 45}, 2)
    assert 0 < converted.seconds < 600
    shown = printed(converted)
    assert shown.startswith(f"{tmp_path / 'out'}: 9 records, 45 frames of features; 2 files, 0.0 MB\nfrom ")
    again = run("convert", dataset, tmp_path / "out", "--num-shards", 2, "--overwrite")
    time = r"in [\d.]+ s by 1 process \([\d,]+ MB/s\)"
    assert re.sub(time, "", again) == re.sub(time, "", shown)
    document = json.loads(run("convert", dataset, tmp_path / "out", "--num-shards", 2, "--overwrite", "--json"))
    assert {**document, "seconds": 0} == {**as_json(converted), "seconds": 0}
    assert converted == vlpipe.convert(dataset, tmp_path / "out", num_shards=2, overwrite=True)  # the time is not compared
