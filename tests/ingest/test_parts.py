"""Parts of recordings and their channels in `vlpipe ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import vlpipe
from tests.helpers.tones import RATE, work_in_threads
from vlpipe import ingest
from vlpipe.audio import LogMel
from vlpipe.cli import main
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.ingest import Recording

FEATURES = LogMel(sample_rate=RATE, mels=8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four recordings with two channels and one with one channel."""
    work_in_threads(monkeypatch)
    (tmp_path / "audio").mkdir()
    for number, name in enumerate(("a.wav", "b.flac", "c.mp3", "d.wav", "mono.wav")):
        samples = np.random.default_rng(number).uniform(-0.4, 0.4, (3 * RATE, 1 if name == "mono.wav" else 2))
        soundfile.write(tmp_path / "audio" / name, samples, RATE)
    return tmp_path / "audio"


def listed(folder: Path, text: str, field: str = "features") -> list[Recording]:
    (folder / "list.csv").write_text(text)
    return ingest.read_manifest(folder / "list.csv", folder, field=field)


MANIFEST = """path,start,end,label,speaker
c.mp3,1.5,,dog,bob
a.wav,0.25,1,cat,ann
b.flac,2,2.5,dog,bob
c.mp3,0,0.5,cat,bob
a.wav,0.1,0.25,dog,ann
d.wav,,,cat,cid
c.mp3,.5,1.50,cat,bob
"""


def test_parts_are_records_of_their_own(folder: Path) -> None:
    recordings = listed(folder, MANIFEST)
    out = folder.parent / "data"
    result = ingest.ingest(recordings, out, FEATURES, num_shards=2, workers=2)
    source = vlpipe.open(out)
    parts = [(record["path"], record["label"], record["speaker"]) for record in (source[row] for row in range(len(source)))]
    assert parts == [
        ("a.wav#t=0.1,0.25", 1, "ann"),
        ("a.wav#t=0.25,1", 0, "ann"),
        ("b.flac#t=2,2.5", 1, "bob"),
        ("c.mp3#t=0,0.5", 0, "bob"),
        ("c.mp3#t=0.5,1.5", 0, "bob"),
        ("c.mp3#t=1.5", 1, "bob"),
        ("d.wav", 0, "cid"),
    ]
    for row, recording in enumerate(recordings):
        whole, rate = vlpipe.audio.load(recording.path)
        first, last = recording.span.samples(rate, len(whole), "")
        assert source[row]["features"].tobytes() == FEATURES(whole[first:last]).tobytes()
    (total,) = result.datasets.values()
    assert total.seconds == pytest.approx(0.15 + 0.75 + 0.5 + 3 + len(vlpipe.audio.load(folder / "c.mp3")[0]) / RATE)
    (prepared,) = [FEATURES(vlpipe.audio.load(folder / "b.flac", start=2, end=2.5)[0])]
    assert prepared.tobytes() == source[2]["features"].tobytes()


def test_parts_of_one_file_come_into_one_split(folder: Path) -> None:
    rows = "\n".join(f"{name},{start / 10},{start / 10 + 0.1}" for name in ("a.wav", "d.wav", "b.flac") for start in range(20))
    recordings = listed(folder, f"path,start,end\n{rows}\n")
    assert [recording.file for recording in recordings[::20]] == ["a.wav", "b.flac", "d.wav"]
    ingest.ingest(recordings, folder.parent / "data", FEATURES, splits={"train": 0.5, "val": 0.5}, workers=1)
    for split in ("train", "val"):
        source = vlpipe.open(folder.parent / "data" / split)
        files = [str(path).split("#")[0] for path in source.table()["path"]]
        assert all(files.count(file) == 20 for file in set(files))
        assert all(ingest.split_of(file, {"train": 0.5, "val": 0.5}) == split for file in files)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,1,1", r"row 2 below the header: the part of a.wav: start: came as 1 s and end as 1 s, expected start < end\. Fix the row"),
        ("a.wav,nan,1", "row 2 below the header: the part of a.wav: start: came as 'nan', expected a number of seconds from 0 on, such as"),
        ("a.wav,-1,1", "row 2 below the header: the part of a.wav: start: came as '-1', expected a number"),
        ("a.wav,1,x", "row 2 below the header: the part of a.wav: end: came as 'x', expected a number"),
        (
            "a.wav,0.50,1.0",
            r"row 2 below the header: a.wav#t=0.5,1 is already listed in an earlier row. List each file, or part",
        ),
    ],
)
def test_rows_that_are_no_part(folder: Path, row: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        listed(folder, f"path,start,end\na.wav,.5,1\n{row}\n")


def test_parts_behind_the_end_are_named_with_their_row(folder: Path) -> None:
    recordings = listed(folder, "path,start,end\na.wav,2,3\na.wav,2.5,3.5\nc.mp3,60,\n")
    with pytest.raises(ingest.IngestError) as caught:
        ingest.ingest(recordings, folder.parent / "data", FEATURES, workers=1)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("2 of 3 recordings cannot be used")
    assert "list.csv, row 2 below the header: " in lines[0]
    assert "a.wav: the part t=2.5,3.5 (in seconds) ends behind the recording, which has 24,000 samples at 8000 Hz: 3.000000 s" in lines[0]
    assert "list.csv, row 3 below the header: " in lines[1]


def test_channels_of_features_and_waveforms(folder: Path) -> None:
    names = ("a.wav", "b.flac", "d.wav")
    recordings = [Recording(folder / name, name) for name in names]
    for channels in ("mix", "first"):
        ingest.ingest(recordings, folder.parent / channels, FEATURES, channels=channels, workers=1)
        source = vlpipe.open(folder.parent / channels)
        for row, name in enumerate(names):
            expected = FEATURES(vlpipe.audio.load(folder / name, channels=channels)[0])
            assert source[row]["features"].tobytes() == expected.tobytes() == source.preprocess(folder / name).tobytes()
        assert source.metadata.get("channels") == (None if channels == "mix" else "first")
    ingest.ingest(recordings, folder.parent / "all", ingest.Waveform(RATE), channels="all", workers=1)
    source = vlpipe.open(folder.parent / "all")
    for row, name in enumerate(names):
        samples, _ = soundfile.read(folder / name, dtype="int16")
        assert source[row]["audio"].dtype == np.int16
        assert source[row]["audio"].tolist() == samples.tolist()
    (x,) = next(iter(vlpipe.make_dataset(folder.parent / "all", batch_size=3)))
    assert x.shape == (3, 3 * RATE, 2)
    with pytest.raises(ArgumentError, match=r'transform: LogMel takes a waveform, \[N\] or \[N, 1\], but "audio" has frames \[2\]'):
        vlpipe.plan(folder.parent / "all", transform=FEATURES)


def test_other_numbers_of_channels_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = ingest.find_recordings(folder)[0]
    with pytest.raises(ingest.IngestError, match=r"1 of 5 .*\n.*mono.wav: has 1 channel, but the first recording has 2: all must"):
        ingest.ingest(recordings, folder.parent / "all", ingest.Waveform(RATE), channels="all", workers=1)
    with pytest.raises(ArgumentError, match='channels: came as "all", but log_mel features are those of one channel. Pass "mix"'):
        ingest.ingest(recordings, folder.parent / "all", FEATURES, channels="all")
    broken = [Recording(folder / "list.csv", "list.csv")]
    (folder / "list.csv").write_text("no audio")
    with pytest.raises(ingest.IngestError, match="begins with b'no audio'"):
        ingest.ingest(broken, folder.parent / "all", ingest.Waveform(RATE), channels="all", workers=1)
    with pytest.raises(ArgumentError, match="Waveform: channels: came as 0"):
        ingest.Waveform(RATE, 0)
    assert ingest.Waveform(RATE, 3)(np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("name", ["path", "label", "features"])
def test_texts_with_the_name_of_a_field_are_refused(folder: Path, name: str) -> None:
    recordings = [Recording(folder / "a.wav", "a.wav", "x", {name: "y"})]
    with pytest.raises(ArgumentError, match=f"recordings: a column of the manifest or a group of --label-regex is named '{name}', as"):
        ingest.ingest(recordings, folder.parent / "data", FEATURES)


def test_the_command(folder: Path) -> None:
    def run(*arguments: Any) -> str:
        result = CliRunner().invoke(main, ["ingest", str(folder), str(folder.parent / "data"), "--sample-rate", str(RATE), *arguments])
        assert result.exit_code in (0, 1, 2), result.exception
        return result.output

    (folder / "list.csv").write_text(MANIFEST)
    assert "7 records" in run("--manifest", str(folder / "list.csv"), "--channels", "first", "--workers", "1")
    assert vlpipe.open(folder.parent / "data").metadata["channels"] == "first"
    assert 'channels: came as "all"' in run("--channels", "all")
    group = "(?P<{}>[a-z]+)[.]"
    for name, raw in (("path", []), ("features", []), ("audio", ["--raw"])):
        output = run("--label-regex", group.format(name), "--split", "x=0.5,y=0.5", "--split-by", name, *raw)
        assert f"a group of --label-regex is named '{name}', as a field of each record. Give it another name, such as group." in output


def test_parts_told_by_their_duration(folder: Path) -> None:
    def spans(text: str) -> list[tuple[str, dict[str, str]]]:
        return [(recording.key, recording.texts) for recording in listed(folder, text)]

    assert spans("path,start,duration,text\na.wav,0.1,.7,hi\nb.flac,,1.5,\nd.wav,1,,x\nmono.wav,,,\n") == [
        ("a.wav#t=0.1,0.8", {"text": "hi"}),
        ("b.flac#t=0,1.5", {"text": ""}),
        ("d.wav#t=1", {"text": "x"}),
        ("mono.wav", {"text": ""}),
    ]
    assert spans("path,duration,offset\na.wav,0.25,1.5\nd.wav,3,0\n") == [("a.wav#t=1.5,1.75", {}), ("d.wav#t=0,3", {})]
    both = "path,start,end,duration\na.wav,0.5,1.25,0.75\nb.flac,1,1.333,0.34\nc.mp3,1,,.5\nd.wav,1,2,\n"
    assert [key for key, _ in spans(both)] == ["a.wav#t=0.5,1.25", "b.flac#t=1,1.333", "c.mp3#t=1,1.5", "d.wav#t=1,2"]
    assert spans("path,duration\na.wav,0.25\n") == [("a.wav", {"duration": "0.25"})]
    assert spans("path,offset\na.wav,0.25\n") == [("a.wav", {"offset": "0.25"})]
    assert spans("path,start,offset,duration\na.wav,1,9,1\n") == [("a.wav#t=1,2", {"offset": "9"})]
    assert spans("path,offset,end\na.wav,0.5,1\nd.wav,,2\n") == [("a.wav#t=0.5,1", {}), ("d.wav#t=0,2", {})]
    assert spans("path,start,offset,end\na.wav,1,9,2\n") == [("a.wav#t=1,2", {"offset": "9"})]
    assert spans("path,end,duration\na.wav,1,1\n") == [("a.wav#t=0,1", {})]
    ingest.ingest(listed(folder, "path,offset,duration\na.wav,0.5,0.25\n"), folder.parent / "data", FEATURES, workers=1)
    expected = FEATURES(vlpipe.audio.load(folder / "a.wav")[0][RATE // 2 : RATE * 3 // 4])
    assert vlpipe.open(folder.parent / "data")[0]["features"].tobytes() == expected.tobytes()
    for header, row, message in (
        ("start,duration", "1,0", r"the part of a.wav: duration: came as '0', expected more than 0 seconds\. Fix the row"),
        ("start,duration", "1,long", "duration: came as 'long', expected a number of seconds from 0 on"),
        ("offset,duration", "-1,1", "offset: came as '-1', expected a number of seconds"),
        ("start,end,duration", "1,2,1.02", r"duration: came as '1.02', but from 1 s to 2 s there are 1 s\. Leave one of end and duration"),
        ("start,end,duration", "2,1,1", "start: came as 2 s and end as 1 s, expected start < end"),
        ("offset,end", "2,1", "start: came as 2 s and end as 1 s, expected start < end"),
        ("end,duration", "3,1", r"duration: came as '1', but from 0 s to 3 s there are 3 s\. Leave one of end and duration"),
    ):
        with pytest.raises(DatasetError, match=message):
            listed(folder, f"path,{header}\na.wav,{row}\n")
