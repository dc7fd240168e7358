"""--where of the commands, and --split-by of `vlpipe ingest`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

import vlpipe
from tests.helpers.tones import work_in_threads, write_tones
from vlpipe.cli import main


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("where") / "d"
    with vlpipe.Writer(path, num_shards=2) as writer:
        writer.metadata = {"classes": ["cat", "dog"], "label": "label"}
        for number in range(1, 41):
            x = np.full((number, 2), number, np.float32)
            writer.write({"x": x, "label": number % 2, "speaker": ("ann", "bob", "10")[number % 3], "score": number / 4})
    return str(path)


def run(*arguments: object) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def of(*conditions: str) -> list[str]:
    return [part for condition in conditions for part in ("--where", condition)]


@pytest.mark.parametrize(
    ("conditions", "keeps"),
    [
        (["speaker=ann"], lambda n: n % 3 == 0),
        (["speaker=ann,bob"], lambda n: n % 3 < 2),
        (["speaker!=ann"], lambda n: n % 3),
        (["speaker=10"], lambda n: n % 3 == 2),
        (["label=dog"], lambda n: n % 2),
        (["label=0,1"], lambda n: True),
        (["label!=1"], lambda n: n % 2 == 0),
        (["frames>=10"], lambda n: n >= 10),
        (["frames>10", "frames<=20", "speaker=bob"], lambda n: 10 < n <= 20 and n % 3 == 1),
        (["frames < 5"], lambda n: n < 5),
        (["score=0.25,1.5"], lambda n: n in (1, 6)),
        (["score>2.5"], lambda n: n > 10),
    ],
)
def test_plan_stats_and_convert_take_conditions(dataset: str, tmp_path: Path, conditions: list[str], keeps: Any) -> None:
    expected = [number for number in range(1, 41) if keeps(number)]
    assert json.loads(run("plan", dataset, "--json", *of(*conditions)).output)["records"] == len(expected)
    stats = json.loads(run("stats", dataset, "--json", *of(*conditions)).output)
    assert (stats["records"], stats["sequences"]["x"]["lengths"]["frames"]) == (len(expected), sum(expected))
    run("convert", dataset, tmp_path / "out", "--num-shards", 1, *of(*conditions))
    assert vlpipe.open(tmp_path / "out").table()["frames"].tolist() == expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("speaker", "--where: came as 'speaker', expected COLUMN=VALUE,... or COLUMN!=VALUE"),
        ("speaker=", "--where: came as 'speaker=', expected COLUMN=VALUE,..."),
        ("speeker=ann", "where: 'speeker' is not a column of the source; its columns are id, frames, label, speaker, score."),
        ("speeker>3", "--where: 'speeker' is not a column of the source"),
        ("speaker>3", "--where: \"speaker\" in 'speaker>3' is a text, which has no order here"),
        ("frames>many", "--where: 'many' in 'frames>many' is not a number, which < and > compare with"),
        ("frames>99", 'where: frames>99 matches no record of the source: "frames" has 1 to 40'),
        ("speaker=zoe", "where: \"speaker\" has no 'zoe'; it has 10, ann, bob"),
        ("speaker!=zoe", "where: \"speaker\" has no 'zoe'; it has 10, ann, bob"),
        ("speaker=ann,bbo", "where: \"speaker\" has no 'bbo' (did you mean 'bob'?); it has 10, ann, bob"),
        ("label=0,99", 'where: "label" has no 99; it has 0, 1'),
        ('speaker="ann', "--where: the values in 'speaker=\"ann' are no line of CSV"),
        ("label=eel", 'where: "label" has no class eel; its classes are cat, dog'),
    ],
)
def test_conditions_that_are_refused(dataset: str, condition: str, message: str) -> None:
    result = run("plan", dataset, "--where", condition)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_statistics_of_some_records_are_computed_on_request(dataset: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run("stats", dataset, "--compute", "--where", "speaker=ann")
    expected = np.repeat(np.arange(3, 41, 3), np.arange(3, 41, 3)).mean()
    known = vlpipe.open(dataset).select({"speaker": "ann"})
    assert known.statistics["x"].mean.tolist() == pytest.approx([expected, expected])
    vlpipe.plan(known, normalize="global", label=False)


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in_threads(monkeypatch)
    names = [f"{speaker}_{digit}_{take}.wav" for speaker in ("ann", "bob", "cleo", "dora") for digit in (0, 1) for take in range(2)]
    return write_tones(tmp_path / "audio", names)


SMALL = ["--sample-rate", 8000, "--mels", 8, "--num-shards", 1, "--workers", 1]


def speakers_of(path: Path) -> list[str]:
    return vlpipe.open(path).table()["speaker"].tolist()


def test_ingest_keeps_the_groups_of_a_pattern_together(recordings: Path, tmp_path: Path) -> None:
    pattern = "(?P<speaker>[a-z]+)_(?P<label>[0-9])"
    run("ingest", recordings, tmp_path / "out", *SMALL, "--label-regex", pattern, "--split", "train=0.5,val=0.5", "--split-by", "speaker")
    train, val = speakers_of(tmp_path / "out" / "train"), speakers_of(tmp_path / "out" / "val")
    assert (len(train), len(val)) == (8, 8)
    assert not set(train) & set(val)
    assert vlpipe.open(tmp_path / "out" / "val").metadata["split_by"] == "speaker"
    assert vlpipe.open(tmp_path / "out" / "val").table()["label"].tolist() == [0, 0, 1, 1] * 2


def test_ingest_keeps_the_groups_of_a_manifest_together(recordings: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in recordings.iterdir())
    lines = ["path,label,speaker", *(f"{name},{name.split('_')[1]},{name.split('_')[0]}" for name in names)]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    arguments = [*SMALL, "--manifest", tmp_path / "list.csv", "--split", "train=0.75,val=0.25"]
    run("ingest", recordings, tmp_path / "out", *arguments, "--split-by", "speaker")
    train, val = speakers_of(tmp_path / "out" / "train"), speakers_of(tmp_path / "out" / "val")
    assert (len(train), len(val)) == (12, 4)
    assert not set(train) & set(val)
    result = run("ingest", recordings, tmp_path / "other", *arguments, "--split-by", "room")
    assert "split-by: 'room' is neither a column of the manifest nor a named group" in " ".join(result.output.split())
    assert "the recordings have speaker, label." in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--label-regex", "(?P<who>[a-z]+)_(?P<label>[0-9])_(?P<take>[0-9])", "--split", "a=0.5,b=0.5", "--split-by", "nope"],
            "split-by: 'nope' is no named group of --label-regex, such as (?P<nope>[a-z]+); its groups are who, label, take.",
        ),
        (["--label-regex", "([a-z]+)", "--split", "a=0.5,b=0.5", "--split-by", "speaker"], "its groups are label."),
        (["--split", "a=0.5,b=0.5", "--split-by", "speaker"], "the recordings have neither texts nor labels"),
        (
            ["--label-regex", "_([0-9])_", "--split", "a=0.5,b=0.3,c=0.2", "--split-by", "label"],
            "split-by: 'label' has 2 different values (0, 1), fewer than the 3 splits",
        ),
        (["--label-regex", "_([0-9])_(?P<x>z?)", "--split", "a=0.5,b=0.5", "--split-by", "x"], "split-by: 'x' is empty for ann_0_0.wav"),
        (["--label-regex", "_([0-9])_", "--split-by", "label"], "--split-by keeps groups together in splits: pass --split"),
    ],
)
def test_groups_that_are_refused(recordings: Path, tmp_path: Path, arguments: list[Any], message: str) -> None:
    result = run("ingest", recordings, tmp_path / "out", *SMALL, *arguments)
    assert result.exit_code
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
