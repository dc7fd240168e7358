"""Ingestion: finding recordings, labels, splits, the written datasets, and refusals."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.tones import RATE, tone, work_in_threads, write_tones, write_wav
from vlpipe import ingest
from vlpipe.audio import LogMel
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.ingest import Recording
from vlpipe.storage.metadata import open_directory

FEATURES = LogMel(sample_rate=RATE, mels=8)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_threads(monkeypatch)


def recordings_in(folder: Path) -> list[Recording]:
    return ingest.find_recordings(folder)[0]


def metadata(directory: Path) -> dict[str, Any]:
    return open_directory(directory).metadata


def records(directory: Path) -> dict[str, tuple[np.ndarray, int | None]]:
    """Features and label of each record by path, read with TensorFlow alone."""
    import tensorflow as tf

    out = {}
    for shard in sorted(directory.glob("*.tfrecord")):
        for data in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            fields = tf.train.Example.FromString(data).features.feature
            frames = np.frombuffer(fields["features"].bytes_list.value[0], "<f4").reshape(-1, FEATURES.dim)
            label = fields["label"].int64_list.value[0] if "label" in fields else None
            out[fields["path"].bytes_list.value[0].decode()] = frames, label
    return out


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


# Finding recordings


def test_audio_files_are_found_by_extension_in_the_order_of_their_paths(tmp_path: Path) -> None:
    audio = ["b/x.WAV", "a.flac", "b.Ogg", "b/c/y.oga", "z.mp3", "a/x.wav"]
    for name in [*audio, "notes.txt", "b/.hidden.wav", ".git/x.wav", "wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    recordings, ignored = ingest.find_recordings(tmp_path)
    assert [recording.key for recording in recordings] == sorted(audio)
    assert [recording.path for recording in recordings] == [tmp_path / name for name in sorted(audio)]
    assert ignored == 2


def test_links_are_followed_but_not_in_cycles(tmp_path: Path) -> None:
    elsewhere = write_tones(tmp_path / "elsewhere", ["x.wav"])
    folder = write_tones(tmp_path / "folder", ["a.wav"])
    (folder / "b.wav").symlink_to(folder / "a.wav")
    (folder / "broken.wav").symlink_to(folder / "nothing")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "self").symlink_to(folder)
    os.mkfifo(folder / "pipe.wav")  # reading it would never end
    assert [recording.key for recording in recordings_in(folder)] == ["a.wav", "b.wav", "broken.wav", "linked/x.wav"]


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        vlpipe.DatasetError, match=r"contains 1 files, none of which ends in \.wav, \.flac, .* Pass the folder of the recordings"
    ):
        recordings_in(tmp_path)
    with pytest.raises(vlpipe.DatasetError, match=r"notes\.txt: not a folder\. Pass the folder of the recordings"):
        recordings_in(tmp_path / "notes.txt")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")).touch()
    with pytest.raises(vlpipe.DatasetError, match=r"1 file names are not UTF-8, such as \[b'\\xff\.wav'\]\. Rename these files"):
        recordings_in(tmp_path)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tones(tmp_path, ["a/x.wav", "b/x.wav"])
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # root ignores permissions
        if os.fspath(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(
        vlpipe.DatasetError, match=r"/a: cannot be read \(Permission denied\)\. Its recordings would be missing: make the folder readable"
    ):
        recordings_in(tmp_path)


# Labels


def keys(*names: str) -> list[Recording]:
    return [Recording(Path("/speech", name), name) for name in names]


def labels(recordings: list[Recording]) -> list[str | None]:
    return [recording.label for recording in recordings]


def test_labels_by_regex() -> None:
    assert labels(ingest.label_by_regex(keys("7_a.wav", "x/9_b.wav"), r"([0-9])_")) == ["7", "9"]
    assert labels(ingest.label_by_regex(keys("en/dog-1.wav", "de/cat-2.wav"), r"(\w+)/(?P<label>\w+)-")) == ["dog", "cat"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("([0-9]", r"label-regex: '\(\[0-9\]' is not a regular expression \(missing \), unterminated subpattern"),
        ("[0-9]_", r"label-regex: '\[0-9\]_' has no group; put the label in parentheses"),
        (
            "([0-9])_",
            r"gives no label for 1 of 2 paths, such as \['noise\.wav'\]\. It is searched in the path relative to AUDIO_DIR: fix the",
        ),
        ("([0-9]?)", r"gives no label for 1 of 2 paths"),
        ("([0-9])|noise", r"gives no label for 1 of 2 paths"),
    ],
)
def test_a_regex_without_a_label_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(vlpipe.ArgumentError, match=message):
        ingest.label_by_regex(keys("7_a.wav", "noise.wav"), pattern)


def test_labels_by_parent() -> None:
    assert labels(ingest.label_by_parent(keys("dog/1.wav", "far/cat/2.wav"))) == ["dog", "cat"]
    with pytest.raises(vlpipe.ArgumentError, match=r"1 files are not in a subfolder, such as \['2\.wav'\]\. Move them, or use label-regex"):
        ingest.label_by_parent(keys("dog/1.wav", "2.wav"))


def test_a_manifest_lists_paths_labels_and_texts(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "audio", ["b.wav", "sub/a.wav", "unlisted.wav"])
    manifest = tmp_path / "list.csv"
    manifest.write_text('path,label,speaker\nsub/a.wav,dog,"Ann, B."\n./b.wav,cat,\n', "utf-8-sig")
    assert ingest.read_manifest(manifest, folder) == [
        Recording(folder / "b.wav", "b.wav", "cat", {"speaker": ""}),
        Recording(folder / "sub/a.wav", "sub/a.wav", "dog", {"speaker": "Ann, B."}),
    ]
    manifest.write_text("path\nb.wav\n")
    assert ingest.read_manifest(manifest, folder) == [Recording(folder / "b.wav", "b.wav")]
    manifest.write_text("path,label,Label,Room no\nb.wav,x,Long x,7\n")
    assert ingest.read_manifest(manifest, folder) == [Recording(folder / "b.wav", "b.wav", "x", {"Label": "Long x", "Room no": "7"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.wav,x\n", r"list\.csv: the columns are \['file', 'label'\], expected a header with .path., optionally .label."),
        ("path,path\na.wav,x\n", r"the columns are \['path', 'path'\], expected a header with"),
        ("path,features\na.wav,x\n", r'expected a header with .* distinct names other than "features"'),
        (",path\n0,a.wav\n", r"the columns are \['', 'path'\], expected a header with"),
        ("", r"the columns are \[\], expected a header with"),
        (
            "Path,label\na.wav,x\n",
            r"list\.csv: has a column 'Path' \(did you mean 'path'\?\), and none 'path'\. Write its name in the first line",
        ),
        ("path, label\na.wav,x\n", r"has a column ' label' \(did you mean 'label'\?\), and none 'label'"),
        ("path,START,end\na.wav,1,2\n", r"has a column 'START' \(did you mean 'start'\?\)"),
        ("path,start,\tEnd\na.wav,1,2\n", r"has a column '\\tEnd' \(did you mean 'end'\?\)"),
        ("path,Offset,duration\na.wav,1,2\n", r"has a column 'Offset' \(did you mean 'offset'\?\)"),
        ("path,start,duration \na.wav,1,2\n", r"has a column 'duration ' \(did you mean 'duration'\?\)"),
        ("path,label\n", r"list\.csv: lists no files below its header path,label"),
        ("path,label\na.wav,x\na.wav,y\n", r"list\.csv, row 2 below the header: a\.wav is already listed in an earlier row"),
        ("path,label\na.wav,x\n./sub/../a.wav,y\n", r"row 2 below the header: a\.wav is already listed in an earlier row"),
        ("path,label\nb.wav,x\n", r"row 1 below the header: \S+/b\.wav does not exist\. Paths are relative to \S+; fix the path"),
        ("path,label\na.wav,\n", r"row 1 below the header: the label of a\.wav is empty\. Fill it in"),
        ("path,label\na.wav\n", r"came with \['a\.wav', None\], expected 2 values, among them a path\. Fix the row"),
        ("path,label\na.wav,x,y\n", r"row 1 below the header: came with \['a\.wav', 'x', \['y'\]\], expected 2 values"),
        ("path,label\n,x\n", r"came with \['', 'x'\], expected 2 values, among them a path"),
        ('path,label\n"a.wav,x\n', r"list\.csv: cannot be read as CSV in UTF-8 \(unexpected end of data\)"),
        ("path,label\na.wav,\udcff\n", r"list\.csv: cannot be read as CSV in UTF-8 \('utf-8' codec"),
    ],
)
def test_an_invalid_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write_wav(tmp_path / "a.wav")
    (tmp_path / "list.csv").write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(vlpipe.DatasetError, match=message):
        ingest.read_manifest(tmp_path / "list.csv", tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vlpipe.DatasetError, match=r"list\.csv: cannot be read as CSV in UTF-8 \(.*No such file"):
        ingest.read_manifest(tmp_path / "list.csv", tmp_path)


# Splits


def test_splits_are_parsed() -> None:
    assert ingest.parse_splits("train=0.8, val=.1,test-2=0.1") == {"train": 0.8, "val": 0.1, "test-2": 0.1}
    assert ingest.parse_splits("all=1") == {"all": 1.0}


@pytest.mark.parametrize(
    "text", ["", "train", "train=", "train=0.5,train=0.5", "../x=1", "train=0.9;val=0.1", "a=1,b=0", "a=nan", "a=-1,b=2"]
)
def test_an_invalid_split_is_refused(text: str) -> None:
    with pytest.raises(
        vlpipe.ArgumentError, match=r"split: .* expected distinct names with fractions above 0, such as train=0\.9,val=0\.1"
    ):
        ingest.parse_splits(text)


def test_fractions_that_do_not_sum_to_1_are_refused() -> None:
    with pytest.raises(vlpipe.ArgumentError, match=r"split: the fractions of 'train=0\.9,val=0\.2' sum to 1\.1, expected 1\."):
        ingest.parse_splits("train=0.9,val=0.2")


def test_a_file_keeps_its_split_on_any_machine() -> None:
    splits = {"train": 0.5, "val": 0.5}
    names = [ingest.split_of(f"speaker/{number}.wav", splits) for number in range(8)]
    assert names == ["val", "train", "val", "val", "val", "val", "val", "val"]  # as in version 0.1.0: must never change


def test_splits_have_about_their_fractions() -> None:
    splits = {"train": 0.7, "val": 0.2, "test": 0.1}
    names = [ingest.split_of(f"{number}.wav", splits) for number in range(5000)]
    for name, fraction in splits.items():
        assert names.count(name) / 5000 == pytest.approx(fraction, abs=0.02)


# Written datasets


def test_each_record_has_the_features_of_its_file(tmp_path: Path, in_threads: None) -> None:
    import soundfile

    folder = write_tones(tmp_path / "audio", ["cat/a.wav", "dog/b.wav"])
    soundfile.write(folder / "dog/c.FLAC", tone(0.3), RATE)
    soundfile.write(folder / "dog/d.ogg", tone(0.2), RATE)
    recordings = ingest.label_by_parent(recordings_in(folder))
    result = ingest.ingest(recordings, tmp_path / "data", FEATURES, num_shards=2)
    written = records(tmp_path / "data")
    assert sorted(written) == ["cat/a.wav", "dog/b.wav", "dog/c.FLAC", "dog/d.ogg"]
    for path, (frames, label) in written.items():
        samples, _ = vlpipe.audio.load(folder / path)
        assert frames.tobytes() == FEATURES(samples).tobytes()
        assert label == (0 if path.startswith("cat") else 1)
    assert result.classes == metadata(tmp_path / "data")["classes"] == ["cat", "dog"]
    (total,) = result.datasets.values()
    assert (total.records, total.frames) == (4, sum(len(frames) for frames, _ in written.values()))
    assert total.seconds == pytest.approx(metadata(tmp_path / "data")["seconds"], abs=1e-3)
    assert total.bytes == sum(map(len, contents(tmp_path / "data").values()))
    assert vlpipe.audio.from_settings(metadata(tmp_path / "data")["features"]) == FEATURES


def test_integer_labels_keep_their_values(tmp_path: Path, in_threads: None) -> None:
    recordings = ingest.label_by_regex(recordings_in(write_tones(tmp_path / "audio", ["10_a.wav", "2_a.wav", "-3_a.wav"])), "^(.*)_")
    result = ingest.ingest(recordings, tmp_path / "data", FEATURES)
    assert {path: label for path, (_, label) in records(tmp_path / "data").items()} == {"10_a.wav": 10, "2_a.wav": 2, "-3_a.wav": -3}
    assert result.classes is None
    assert "classes" not in metadata(tmp_path / "data")


def test_integers_with_leading_zeros_are_class_names(tmp_path: Path, in_threads: None) -> None:
    recordings = ingest.label_by_regex(recordings_in(write_tones(tmp_path / "audio", ["01_a.wav", "1_a.wav"])), "^(.*)_")
    assert ingest.ingest(recordings, tmp_path / "data", FEATURES).classes == ["01", "1"]


def test_texts_and_storage_dtype(tmp_path: Path, in_threads: None) -> None:
    recording = Recording(write_wav(tmp_path / "a.wav"), "a.wav", None, {"speaker": "Zoë"})
    ingest.ingest([recording], tmp_path / "data", FEATURES, dtype="float16")
    schema = open_directory(tmp_path / "data").schema
    assert dict(schema.fields) == {"features": vlpipe.Sequence(8, "float16"), "path": vlpipe.Text(), "speaker": vlpipe.Text()}


def test_all_splits_have_all_classes_and_a_file_stays_in_its_split(tmp_path: Path, in_threads: None) -> None:
    splits = {"train": 0.5, "val": 0.5}
    names = [f"{label}/{number}.wav" for label in ("x", "y") for number in range(6)]
    folder = write_tones(tmp_path / "audio", names)

    def split_now() -> dict[str, str]:
        result = ingest.ingest(ingest.label_by_parent(recordings_in(folder)), tmp_path / "data", FEATURES, splits=splits, overwrite=True)
        assert [path.name for path in result.datasets] == list(splits)
        return {path: name for name in splits for path in records(tmp_path / "data" / name)}

    before = split_now()
    assert sorted(before) == sorted(names)
    for name in splits:
        assert metadata(tmp_path / "data" / name)["classes"] == ["x", "y"]
        assert all(label == ["x", "y"].index(path[0]) for path, (_, label) in records(tmp_path / "data" / name).items())
    write_tones(folder, [f"w/{number}.wav" for number in range(6)])
    after = split_now()
    assert {path: after[path] for path in before} == before


def test_a_split_that_lacks_a_class_has_the_numbers_of_all(tmp_path: Path, in_threads: None) -> None:
    folder = write_tones(tmp_path / "audio", ["a/0.wav", "b/1.wav", "c/2.wav"])
    ingest.ingest(ingest.label_by_parent(recordings_in(folder)), tmp_path / "data", FEATURES, splits={"train": 0.5, "val": 0.5})
    for name in ("train", "val"):
        assert metadata(tmp_path / "data" / name)["classes"] == ["a", "b", "c"]
        assert all(label == "abc".index(path[0]) for path, (_, label) in records(tmp_path / "data" / name).items())


def test_two_runs_with_the_same_class_list_number_alike(tmp_path: Path, in_threads: None) -> None:
    train = write_tones(tmp_path / "a", ["one/0.wav", "three/0.wav", "two/0.wav", "zero/0.wav"])
    validation = write_tones(tmp_path / "b", ["zero/1.wav", "two/1.wav", "three/1.wav"])
    ingest.ingest(ingest.label_by_parent(recordings_in(train)), tmp_path / "train", FEATURES)
    (tmp_path / "list.txt").write_bytes("\ufeffone\r\nthree\r\ntwo\r\nzero".encode())
    sources = (tmp_path / "train", f"{tmp_path}/train/vlpipe.json", tmp_path / "list.txt")
    for number, source in enumerate(sources):
        classes = ingest.read_classes(source)
        assert classes == ["one", "three", "two", "zero"]
        out = tmp_path / f"validation-{number}"
        result = ingest.ingest(ingest.label_by_parent(recordings_in(validation)), out, FEATURES, classes=classes)
        assert (result.classes, metadata(out)["classes"]) == (classes, classes)
        assert {path: label for path, (_, label) in records(out).items()} == {"three/1.wav": 1, "two/1.wav": 2, "zero/1.wav": 3}


def test_integer_labels_are_numbered_by_a_class_list_too(tmp_path: Path, in_threads: None) -> None:
    folder = write_tones(tmp_path / "audio", ["7/0.wav", "9/0.wav"])
    ingest.ingest(ingest.label_by_parent(recordings_in(folder)), tmp_path / "d", FEATURES, classes=["9", "8", "7"])
    assert {path: label for path, (_, label) in records(tmp_path / "d").items()} == {"7/0.wav": 2, "9/0.wav": 0}


def test_a_label_that_the_class_list_lacks_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "audio", ["one/0.wav", "two/0.wav", "two/1.wav"])
    with pytest.raises(ArgumentError, match="labels of 2 recordings are not among the 2 classes: 'two', such as that of two/0.wav. Append"):
        ingest.ingest(ingest.label_by_parent(recordings_in(folder)), tmp_path / "d", FEATURES, classes=["one", "three"])
    with pytest.raises(ArgumentError, match="classes: the recordings have no labels to number. Pass --label-regex"):
        ingest.ingest(recordings_in(folder), tmp_path / "d", FEATURES, classes=["one"])
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, expected one class name a line"),
        (b"\n", "line 1 of .* is empty, expected the name of a class"),
        (b"a\n \nb\n", "line 2 of .* is empty, expected the name of a class"),
        (b"a\nb\na\n", "line 3 of .* has 'a', as line 1 has. Name each class once"),
        (b"\xff\xfe", "the classes cannot be read as a text in UTF-8"),
        (None, "the classes cannot be read as a text in UTF-8"),
    ],
)
def test_a_class_list_that_is_none_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises((ArgumentError, DatasetError), match=message):
        ingest.read_classes(tmp_path / "list")


def test_a_dataset_without_class_names_is_no_class_list(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"features": np.ones((2, 2), np.float32), "label": 1}])
    with pytest.raises(ArgumentError, match=f"classes: the dataset {tmp_path / 'd'} has no names of its classes"):
        ingest.read_classes(tmp_path / "d")
    with pytest.raises(DatasetError, match=r"has no vlpipe\.json"):
        ingest.read_classes(tmp_path)


def test_a_split_of_an_earlier_run_is_not_left_beside_the_new_ones(tmp_path: Path, in_threads: None) -> None:
    recordings = recordings_in(write_tones(tmp_path / "audio", ["a.wav"]))
    ingest.ingest(recordings, tmp_path / "data/extra", FEATURES)  # a separate run: not part of a split
    ingest.ingest(recordings, tmp_path / "data", FEATURES, splits={"train": 0.5, "test": 0.5})
    with pytest.raises(
        vlpipe.DatasetExistsError, match=r"data: contains the splits \['test'\] of an earlier run, which may share recordings with"
    ):
        ingest.ingest(recordings, tmp_path / "data", FEATURES, splits={"train": 0.5, "val": 0.5}, overwrite=True)
    ingest.ingest(recordings, tmp_path / "data", FEATURES, splits={"train": 0.4, "test": 0.6}, overwrite=True)


def test_an_existing_dataset_is_not_replaced_by_default(tmp_path: Path, in_threads: None) -> None:
    recordings = recordings_in(write_tones(tmp_path / "audio", ["a.wav"]))
    ingest.ingest(recordings, tmp_path / "data", FEATURES)
    with pytest.raises(vlpipe.DatasetExistsError, match="exists already"):
        ingest.ingest(recordings, tmp_path / "data", FEATURES)


# Recordings that cannot be used


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Six files, of which two cannot be decoded and one has no samples."""
    folder = write_tones(tmp_path / "audio", ["1.wav", "2.wav", "5.wav"])
    (folder / "0.wav").write_bytes(b"RIFF is not enough")
    (folder / "3.flac").write_bytes((folder / "2.wav").read_bytes()[:-7])
    write_wav(folder / "4.wav", seconds=0)
    return folder


@pytest.mark.parametrize("splits", [None, {"train": 0.5, "val": 0.5}])
def test_all_files_that_cannot_be_used_are_named_and_nothing_is_written(damaged: Path, splits: Any, in_threads: None) -> None:
    out, seen = damaged.parent / "data", []
    with pytest.raises(ingest.IngestError) as caught:
        ingest.ingest(recordings_in(damaged), out, FEATURES, splits=splits, workers=2, progress=lambda: seen.append(1))
    text = str(caught.value)
    assert text.startswith("3 of 6 recordings cannot be used; nothing was written. Fix them, or pass --skip-bad")
    assert [re.search(r"\d\.\w+", line).group() for line in text.splitlines()[1:]] == ["0.wav", "3.flac", "4.wav"]  # type: ignore[union-attr]
    assert "it is truncated" in text
    assert "4.wav: the recording has no samples, expected at least one" in text
    assert len(seen) == 6
    assert not contents(out) if out.exists() else True


def test_skip_bad_leaves_out_files_that_cannot_be_used(damaged: Path, in_threads: None) -> None:
    result = ingest.ingest(recordings_in(damaged), damaged.parent / "data", FEATURES, skip_bad=True)
    assert [key for key, _ in result.bad] == metadata(damaged.parent / "data")["skipped"] == ["0.wav", "3.flac", "4.wav"]
    assert sorted(records(damaged.parent / "data")) == ["1.wav", "2.wav", "5.wav"]


def test_leaving_out_all_files_is_an_error(tmp_path: Path, in_threads: None) -> None:
    (tmp_path / "a.wav").write_bytes(b"no")
    with pytest.raises(
        ingest.IngestError, match=r"none of the 1 recordings can be used; nothing was written:\n.*a\.wav: begins with b'no'"
    ):
        ingest.ingest(recordings_in(tmp_path), tmp_path / "data", FEATURES, skip_bad=True)
    assert not (tmp_path / "data").exists()


def test_a_file_that_does_not_fit_in_memory_is_named(tmp_path: Path, in_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("vlpipe.ingest.extraction.load_span", load)
    with pytest.raises(ingest.IngestError, match=r"a\.wav: not enough memory to decode it"):
        ingest.ingest([Recording(tmp_path / "a.wav", "a.wav")], tmp_path / "data", FEATURES)


def test_a_failed_commit_names_the_committed_datasets(tmp_path: Path, in_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    close: Callable[[vlpipe.Writer], None] = vlpipe.Writer.close

    def fail_second(writer: vlpipe.Writer) -> None:
        if writer._path.endswith("val"):
            raise vlpipe.DatasetError("val: cannot be written (no space).")
        close(writer)

    monkeypatch.setattr(vlpipe.Writer, "close", fail_second)
    recordings = recordings_in(write_tones(tmp_path / "audio", ["a.wav"]))
    with pytest.raises(
        ingest.IngestError, match=r"no space\)\. The datasets \['\S+/train'\] were already committed: run again with --overwrite"
    ):
        ingest.ingest(recordings, tmp_path / "data", FEATURES, splits={"train": 0.5, "val": 0.5})
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train"]


# Processes


def test_the_dataset_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    names = [f"{label}/{number}.wav" for label in ("x", "y") for number in range(12)]
    recordings = ingest.label_by_parent(recordings_in(write_tones(tmp_path / "audio", names)))
    for workers in (1, 3):
        splits = {"train": 0.5, "val": 0.5}
        ingest.ingest(recordings, tmp_path / str(workers), FEATURES, splits=splits, num_shards=3, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    assert len(records(tmp_path / "1" / "train")) + len(records(tmp_path / "1" / "val")) == 24


def test_a_killed_process_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "audio", [f"{number:02d}.wav" for number in range(30)])
    write_wav(folder / "03.wav", 1800)  # its features take seconds
    recordings = [Recording(path, path.name) for path in sorted(folder.iterdir())]
    caught: list[BaseException] = []
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run() -> None:
        try:
            ingest.ingest(recordings, tmp_path / "data", FEATURES, workers=1, progress=lambda: done.put(None))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(3):
        done.get()  # then the worker is at the fourth
    time.sleep(0.2)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGKILL)
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(caught[0], ingest.IngestError)
    named = re.search(r"a worker process died while decoding one of these files: (.*); nothing was written", str(caught[0]))
    assert named
    assert named[1].split(", ") == ["03.wav"]
    assert not (tmp_path / "data").exists()
    assert not multiprocessing.active_children()


def in_session(session: int) -> list[int]:
    """Running processes of a session."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, its = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(its) == session and state != "Z":
                alive.append(int(entry.name))
    return alive


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("end", ["interrupted", "killed", "interrupted while starting"])
def test_no_process_and_no_dataset_remain(tmp_path: Path, end: str) -> None:
    original = write_wav(tmp_path / "original.wav", seconds=10)
    (tmp_path / "audio").mkdir()
    for number in range(1000):
        (tmp_path / "audio" / f"{number:04d}.wav").symlink_to(original)
    command = [sys.executable, "-m", "vlpipe.cli", "ingest", str(tmp_path / "audio"), str(tmp_path / "data"), "--workers", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    deadline = time.monotonic() + 60

    def wait_for(condition: Callable[[], object]) -> None:
        while not condition():
            assert time.monotonic() < deadline, f"timed out, {process.poll()}"
            time.sleep(0.02)

    wait_for(lambda: len(in_session(process.pid)) >= 4)  # the command, two workers, and multiprocessing's own process
    if end == "interrupted while starting":
        time.sleep(0.2)  # while the workers import
    else:
        wait_for(lambda: any(shard.stat().st_size for shard in tmp_path.glob(".data.staged-*/*.tfrecord")))
    if end == "killed":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    wait_for(lambda: not in_session(process.pid))
    assert not (tmp_path / "data").exists()
    if end != "killed":
        assert (process.returncode, errors.strip()) == (130, "vlpipe: interrupted; no output is half written")
        assert not list(tmp_path.glob(".data*"))


def test_the_stored_metadata_are_json(tmp_path: Path, in_threads: None) -> None:
    ingest.ingest(recordings_in(write_tones(tmp_path / "audio", ["a.wav"])), tmp_path / "data", FEATURES)
    document = json.loads((tmp_path / "data/vlpipe.json").read_text())
    assert set(document["metadata"]) == {"features", "seconds", "skipped"}


# Waveforms


def test_waveforms_are_rounded_to_16_bits_clipped_and_resampled(tmp_path: Path, in_threads: None) -> None:
    import soundfile

    folder = write_tones(tmp_path / "audio", ["a.wav"])
    loud = np.array([0.25, 1.25, -1.25, 1 / 65536, 3 / 65536, -1.0], np.float32)
    soundfile.write(folder / "loud.wav", loud, RATE, subtype="FLOAT")
    ingest.ingest(recordings_in(folder), tmp_path / "same", ingest.Waveform(RATE), workers=1)
    stored = vlpipe.open(tmp_path / "same")[1]["audio"]
    assert (stored.dtype, stored[:, 0].tolist()) == (np.int16, [8192, 32767, -32768, 0, 2, -32768])
    ingest.ingest(recordings_in(folder), tmp_path / "twice", ingest.Waveform(2 * RATE), workers=1)
    samples = vlpipe.audio.load(folder / "a.wav", sample_rate=2 * RATE)[0]
    assert np.abs(vlpipe.open(tmp_path / "twice")[0]["audio"][:, 0] / 32768 - samples).max() <= 0.5 / 32768 + 1e-9


def test_samples_of_another_unit_are_refused(tmp_path: Path, in_threads: None) -> None:
    import soundfile

    folder = write_tones(tmp_path / "audio", ["a.wav"])
    soundfile.write(folder / "integers.wav", np.array([0, 12000.0], np.float32), RATE, subtype="FLOAT")
    with pytest.raises(ingest.IngestError, match="integers.wav: sample 1 is 12000.0, expected floats in .-1, 1., of which 16 bits are"):
        ingest.ingest(recordings_in(folder), tmp_path / "out", ingest.Waveform(RATE), workers=1)
    with pytest.raises(ArgumentError, match="^sample_rate: came as 0, expected a positive integer, the rate of the stored samples"):
        ingest.Waveform(0)
