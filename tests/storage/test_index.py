"""Opening a dataset: the index agrees with the files, and inconsistent metadata are refused with a next step."""

from __future__ import annotations

import io
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlpipe
from tests.helpers.metadata_files import edit_metadata
from tests.helpers.numpy_reference import equal
from vlpipe.errors import ArgumentError, DatasetError, SchemaError, VlpipeError
from vlpipe.sources.native import open_source
from vlpipe.storage.index import Index, digest_of_rows, row_dtype
from vlpipe.storage.metadata import open_directory
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text

SCHEMA = Schema(features=Sequence(2, "float32"), label=Fixed((), "int16"), words=Sequence((), "int32"), text=Text(), wide=Fixed(9, "int64"))
LENGTHS = (3, 0, 1, 7, 2, 5)


def make_records(lengths: tuple[int, ...] | list[int]) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [
        {
            "features": random.standard_normal((length, 2)).astype(np.float32),
            "label": -number,
            "words": np.arange(number % 3, dtype=np.int32),
            "text": "é" * number,
            "wide": np.arange(9),
        }
        for number, length in enumerate(lengths)
    ]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with vlpipe.Writer(tmp_path / "train", SCHEMA, num_shards=2) as writer:
        writer.metadata["classes"] = ["a", "b"]
        for record in make_records(LENGTHS):
            writer.write(record)
    return tmp_path / "train"


# ---- what is written is what is found --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 4))
def test_the_rows_point_to_the_bytes(tmp_path: Path, lengths: list[int], num_shards: int) -> None:
    records = make_records(lengths)
    vlpipe.write(tmp_path / "d", records, SCHEMA, num_shards=num_shards, overwrite=True)
    index = open_source(tmp_path / "d")
    assert len(index) == len(records)
    assert index.schema == SCHEMA
    assert index.ids.tolist() == list(range(len(records)))
    for row, record in zip(index.rows, records, strict=True):
        content = Path(index.shards[row["shard"]].path).read_bytes()
        data = content[int(row["offset"]) + 12 :][: int(row["bytes"])]
        assert int.from_bytes(content[int(row["offset"]) :][:8], "little") == row["bytes"]
        crc = google_crc32c.value(data)
        assert row["checksum"] == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
        for column, name in (("", "features"), (":words", "words")):
            start, frames = int(row[f"start{column}"]), record[name]
            assert row[f"frames{column}"] == len(frames)
            assert data[start : start + frames.nbytes] == frames.tobytes()
        assert row["value:label"] == record["label"]
    assert [shard.records for shard in index.shards] == np.bincount(index.rows["shard"], minlength=num_shards).tolist()


def test_the_columns(dataset: Path) -> None:
    expected = {
        "shard": "<u4",
        "offset": "<u8",
        "bytes": "<u4",
        "checksum": "<u4",
        "frames": "<u4",
        "start": "<u4",
        "frames:words": "<u4",
        "start:words": "<u4",
        "value:label": "<i2",  # wide has 72 bytes, too many for the index
    }
    assert row_dtype(SCHEMA) == np.dtype(list(expected.items()))
    assert open_source(dataset).rows.dtype == row_dtype(SCHEMA, ["text"])
    vector = Schema(x=Sequence(), v=Fixed(8, "int64"), w=Fixed((3, 2), "float32"))
    assert row_dtype(vector)["value:v"] == np.dtype(("<i8", 8))
    assert row_dtype(vector)["value:w"] == np.dtype(("<f4", (3, 2)))


def test_frames_metadata_and_places(dataset: Path) -> None:
    index = open_source(dataset)
    assert equal(index.frames("features"), np.array(LENGTHS, np.int64))
    assert equal(index.frames("words"), np.array([0, 1, 2, 0, 1, 2], np.int64))
    assert index.metadata == {"classes": ["a", "b"]}
    for row in range(len(index)):
        shard, offset = index.rows["shard"][row], index.rows["offset"][row]
        number = sorted(index.rows["offset"][index.rows["shard"] == shard]).index(offset)
        assert index.where(row) == f"train-{shard:05d}-of-00002.tfrecord, record {number} at byte {offset}"
    places = [(int(index.rows["shard"][row]), int(index.rows["offset"][row])) for row in index.by_shard()]
    assert places == sorted(places)


def test_the_rows_of_a_large_index_stay_in_the_file_until_they_are_used(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = open_source(dataset).rows
    monkeypatch.setattr("vlpipe.storage.rows_file.IN_MEMORY_BYTES", small.nbytes - 1)
    large = open_source(dataset).rows
    assert isinstance(large, np.memmap)
    assert not isinstance(small, np.memmap)
    assert np.array_equal(small, large)


def test_hundreds_of_fields(tmp_path: Path) -> None:
    # By default NumPy refuses headers of more than 10,000 bytes.
    fields = {f"a field of a rather long name, number {number}": Fixed() for number in range(400)}
    vlpipe.write(tmp_path / "d", [{"x": [1.0]} | dict.fromkeys(fields, 1)], Schema(x=Sequence(), **fields), num_shards=1)
    assert len(open_source(tmp_path / "d").rows.dtype.names or ()) == 406


@pytest.mark.parametrize("name", ["Länge", "длина", "長さ", "a:b", "frames", "value:x"])
def test_any_name_of_a_field(tmp_path: Path, name: str) -> None:
    schema = Schema(x=Sequence(), **{name: Fixed()}, **{f"{name} 2": Sequence()})
    vlpipe.write(tmp_path / "d", [{"x": [1.0], name: 5, f"{name} 2": [1.0, 2.0]}], schema, num_shards=1)
    index = open_source(tmp_path / "d")
    assert index.rows[f"value:{name}"].tolist() == [5]
    assert index.frames(f"{name} 2").tolist() == [2]


# ---- sources ---------------------------------------------------------------------------------------------------------------------


def test_the_ways_to_name_a_dataset(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dataset.parent)
    shards = sorted(str(path) for path in dataset.glob("*.tfrecord"))
    for source in (
        dataset,
        str(dataset),
        f"{dataset}/",
        "train",
        "./train",
        f"{dataset}/*.tfrecord",
        f"{dataset}/*",
        "tra*",
        shards,
        (shards),
        iter(shards),
    ):
        index = open_source(source)
        assert equal(index.frames("features"), np.array(LENGTHS, np.int64))
        assert equal(index.ids, np.arange(len(LENGTHS)))


def test_one_shard_keeps_its_rows_of_the_whole(dataset: Path) -> None:
    whole = open_source(dataset)
    for number, shard in enumerate(whole.shards):
        part = open_source(shard.path)
        ids = np.flatnonzero(whole.rows["shard"] == number)
        assert part.shards == (shard,)
        assert equal(part.ids, ids)
        assert part.rows["shard"].tolist() == [0] * len(ids)
        assert equal(part.frames("features"), np.array(LENGTHS, np.int64)[ids])
    turned = open_source([whole.shards[1].path, whole.shards[0].path])
    assert [turned.where(row) for row in range(len(turned))] == [whole.where(int(row)) for row in turned.ids]


def test_several_datasets_together(dataset: Path, tmp_path: Path) -> None:
    with vlpipe.Writer(tmp_path / "more", SCHEMA, num_shards=3) as writer:
        writer.metadata = {"classes": ["a", "b"]}  # as the other dataset numbers them
        for record in make_records((4, 4)):
            writer.write(record)
    both = open_source([dataset, tmp_path / "more"])
    assert both.frames("features").tolist() == [*LENGTHS, 4, 4]
    assert both.ids.tolist() == list(range(8))
    assert [both.shards[number].name.partition("-")[0] for number in both.rows["shard"]] == ["train"] * 6 + ["more"] * 2
    mixed = open_source([open_source(dataset).shards[1].path, tmp_path / "more"])
    assert mixed.ids.tolist() == [*np.flatnonzero(open_source(dataset).rows["shard"] == 1), 6, 7]


@pytest.mark.parametrize("name", ["with space", "ünï漢字", "glob[ab]*?", "a#b%20", "-dash", "quo'te\"", "..."])
def test_any_name_of_a_directory(tmp_path: Path, name: str) -> None:
    vlpipe.write(tmp_path / name, make_records(LENGTHS), SCHEMA, num_shards=2)
    index = open_source(tmp_path / name)
    assert len(index) == len(LENGTHS)
    assert len(open_source([shard.path for shard in index.shards])) == len(LENGTHS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "source: came as NoneType None, expected a directory, a glob, a file or a list of files"),
        (3, "source: came as int 3"),
        ([], "source: an empty list"),
        ([["train"]], r"source: contains list \['train'\]"),
        ([None], "source: contains NoneType None"),
        (itertools.repeat((1, 2)), "source: a repeat of tuple, expected a directory"),
        ("", "source: contains str '', expected a directory, a glob, a file or a list of files"),
        (b"train", "source: came as bytes b'train'"),
        (np.array("train"), "source: came as ndarray"),
        (["train", "train"], "source: train is named twice; name each file once, or its records would be delivered twice"),
        (["train", "train/train-00000-of-00002.tfrecord"], "is named twice"),
        (["train/train-00000-of-00002.tfrecord", "train"], "source: train is named twice"),
        (["train/train-00000-of-00002.tfrecord", "train/*"], "is named twice"),
        (["train", "./other/../train"], "is named twice"),
        (["train", "link"], "source: link is named twice; name each file once"),
        (["link/train-00000-of-00002.tfrecord", "train/train-00000-of-00002.tfrecord"], "is named twice"),
    ],
)
def test_arguments_that_name_no_source(dataset: Path, monkeypatch: pytest.MonkeyPatch, source: Any, message: str) -> None:
    monkeypatch.chdir(dataset.parent)
    (dataset.parent / "other").mkdir()
    (dataset.parent / "link").symlink_to(dataset)
    with pytest.raises(ArgumentError, match=message):
        open_source(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "tain",
            r"^tain: not found; \. contains \['empty', 'notes.txt', .*'train'.*\]\. Pass a dataset directory, a glob, a file or ",
        ),
        ("no/where", "^no/where: not found; no does not exist either"),
        ("gs://bucket/train", "addresses are not supported inside a list or glob, and ~ is not expanded; pass a full path or one"),
        ("nul\0", "not found"),
        ("train/*.tfrecords", r"^train/\*\.tfrecords: the glob matches no file \(working directory: .+\)\. Check the pattern\."),
        (
            ".",
            r"^\.: has no vlpipe.json, so it is not a vlpipe dataset\. It contains the datasets \['train'\]: pass one of them, such as \./",
        ),
        ("plain", r"^plain: has no vlpipe.json.*It contains TFRecord files without their metadata: copy vlpipe.json and index.npy from"),
        ("plain/a.tfrecord", "^plain: has no vlpipe.json"),
        ("empty", r"^empty: has no vlpipe.json.*Pass a directory that vlpipe.Writer or `vlpipe ingest` wrote"),
        ("notes.txt", r"^\.: has no vlpipe.json"),
        (
            "train/alien.tfrecord",
            r"^train/alien.tfrecord: not among the 2 shards of train/vlpipe.json, such as train-00000-of-00002.tfrecord. Pass shards of",
        ),
    ],
)
def test_sources_that_are_no_dataset(dataset: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    root = dataset.parent
    monkeypatch.chdir(root)
    for directory in ("plain", "empty"):
        (root / directory).mkdir()
    for file in ("plain/a.tfrecord", "notes.txt", "train/alien.tfrecord"):
        (root / file).write_bytes(b"")
    with pytest.raises(DatasetError, match=message):
        open_source(source)


def test_a_label_has_no_frames(dataset: Path) -> None:
    access = open_source(dataset).access("label")
    with pytest.raises(TypeError, match=r'"label" is Fixed\(.*\), which has no frames'):
        access.sequence  # noqa: B018


def test_the_metadata_stand_for_their_dataset(dataset: Path) -> None:
    assert len(open_source(dataset / "vlpipe.json")) == len(open_source(dataset))


def test_datasets_of_different_schemas_are_not_read_together(dataset: Path, tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "other", [{"x": np.ones((1, 3), np.float32)}], num_shards=1)
    with pytest.raises(
        SchemaError, match=r"train has Schema\(features=.*other has Schema\(x=.*Datasets that are read together need the same schema"
    ):
        open_source([dataset, tmp_path / "other"])


# ---- shards that are not those of the table --------------------------------------------------------------------------------------


def test_a_missing_shard(dataset: Path) -> None:
    shard = open_source(dataset).shards[1]
    (dataset / shard.name).unlink()
    expected = rf"expected a shard of {shard.bytes} bytes with {shard.records} records\. Restore it"
    message = rf"{shard.name}: cannot be read \(No such file.*\), {expected}"
    with pytest.raises(DatasetError, match=message):
        open_source(dataset)


@pytest.mark.parametrize(("change", "what"), [(-1, "cut"), (+1, "changed")])
def test_a_shard_of_another_size(dataset: Path, change: int, what: str) -> None:
    shard = open_source(dataset).shards[0]
    os.truncate(shard.path, shard.bytes + change)
    sizes = f"has {shard.bytes + change} bytes, expected {shard.bytes} with {shard.records} records"
    message = rf"{shard.name}: {sizes}: the file was {what} after it was written\. Restore it from"
    with pytest.raises(DatasetError, match=message):
        open_source(dataset)


# ---- vlpipe.json that lies -------------------------------------------------------------------------------------------------------


def edit(dataset: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit_metadata(dataset / "vlpipe.json", change)


def setter(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def together(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for single in changes:
            single(document)

    return change


def remover(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


NOT_OURS = 'vlpipe.json: does not contain "format": "vlpipe", so it is not the metadata of a vlpipe dataset'
OTHER_VERSION = "this vlpipe reads version 1. Install the vlpipe version that wrote it"
INVALID = "not the metadata of a vlpipe dataset: "

LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda document: [document], NOT_OURS),
    "a number": (lambda _: 3, NOT_OURS),
    "format missing": (remover("format"), NOT_OURS),
    "another format": (setter("format", value="tfds"), NOT_OURS),
    **{
        f"version {version!r}": (setter("version", value=version), f"has format version {version!r}, {OTHER_VERSION}")
        for version in (2, 0, -1, "1", 1.0, True, None, [1], {"major": 1})
    },
    "version missing": (remover("version"), f"has format version None, {OTHER_VERSION}"),
    **{f"{key} missing": (remover(key), f"{INVALID}the key '{key}' is missing") for key in ("schema", "shards", "records", "index")},
    "digest missing": (remover("index", "digest"), f"{INVALID}the key 'digest' is missing"),
    "index is a string": (setter("index", value="index.npy"), INVALID),
    "schema is a list": (setter("schema", value=[]), f"{INVALID}schema: found list"),
    "schema without a sequence": (setter("schema", value={"x": {"kind": "text"}}), f"{INVALID}Schema: no field of"),
    "schema of an unknown kind": (setter("schema", "label", "kind", value="ragged"), f'{INVALID}schema: "label" is'),
    "schema of an unknown dtype": (setter("schema", "label", "dtype", value="quaternion"), f"{INVALID}Fixed: dtype is 'quaternion'"),
    "schema dtype is a dict": (setter("schema", "label", "dtype", value={"names": ["a"]}), f"{INVALID}Fixed: dtype is"),
    "schema of negative shape": (setter("schema", "features", "shape", value=[-2]), f"{INVALID}Sequence: shape is"),
    "schema of a huge shape": (setter("schema", "features", "shape", value=[2**62, 8]), f"{INVALID}Sequence: shape is"),
    "schema of endless shape": (setter("schema", "features", "shape", value=[1] * 64), f"{INVALID}Sequence: shape is"),
    "schema of another d": (
        together(setter("schema", "features", "shape", value=[30]), setter("statistics", value={})),
        'index.npy: the frames of "features" extend beyond their record',
    ),
    "statistics of another d": (setter("schema", "features", "shape", value=[30]), f"{INVALID}its statistics are not count, mean and"),
    "field of a control character": (setter("schema", "a\n", value={"kind": "text"}), f"{INVALID}Schema: the name"),
    "one field more": (setter("schema", "more", value={"kind": "fixed", "shape": [], "dtype": "int64"}), "index.npy: is [("),
    "shards is a string": (setter("shards", value="abc"), f'{INVALID}"shards" is not a list of files'),
    "shards is empty": (setter("shards", value=[]), f'{INVALID}"shards" is not a list of files'),
    "a shard is null": (setter("shards", 0, value=None), INVALID),
    "a shard without its size": (remover("shards", 0, "bytes"), f"{INVALID}the key 'bytes' is missing"),
    **{
        f"shard name {name!r}": (setter("shards", 0, "name", value=name), f"{INVALID}the shard name {name!r} is not a plain file name")
        for name in ("../evil", "/etc/passwd", "sub/file", "", ".", "..", "nul\0", "\ud800", None, 3, ["a"])
    },
    **{
        f"shard {key} {value!r}": (setter("shards", 1, key, value=value), f"{INVALID}the shard train-00001-of-00002.tfrecord has bytes")
        for key in ("bytes", "records")
        for value in (-1, 1.0, "1", True, None, 2**63, 10**400)
    },
    "shard digest is a number": (setter("shards", 1, "digest", value=7), f"{INVALID}the shard train-00001-of-00002.tfrecord has bytes"),
    "a shard twice": (lambda document: document["shards"].append(document["shards"][0]), f"{INVALID}a shard is listed twice"),
    "a shard less": (lambda document: document["shards"].pop() and None, f'{INVALID}"records" is 6, the shards have'),
    "records that do not sum": (setter("records", value=7), f'{INVALID}"records" is 7, the shards have 6'),
    "records as a float": (setter("records", value=6.0), f'{INVALID}"records" is 6.0, the shards have 6'),
    "records as NaN": (setter("records", value=float("nan")), f'{INVALID}"records" is nan'),
    "metadata is a list": (setter("metadata", value=[["a", 1]]), f'{INVALID}"metadata" is list, expected an object'),
    "shards in another order": (lambda document: document["shards"].reverse(), "index.npy: the records do not fill the shards"),
    "another digest": (
        setter("index", "digest", value="crc32c:00000000"),
        "vlpipe.json says crc32c:00000000: the files do not belong together",
    ),
    "digest is a number": (setter("index", "digest", value=0), f'{INVALID}the digest of "index" is 0, expected a string'),
    "another size of a shard": (setter("shards", 0, "bytes", value=1), "the records do not fill the shards without gap or overlap"),
    "one shard's records to the other": (
        lambda document: (
            [entry.update(records=entry["records"] + change) for entry, change in zip(document["shards"], (1, -1), strict=True)] and None
        ),
        "the records of each shard do not agree with the shard table",
    ),
}


@pytest.mark.parametrize(("change", "message"), LIES.values(), ids=LIES)
def test_metadata_that_lie(dataset: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit(dataset, change)
    with pytest.raises(DatasetError) as caught:
        open_source(dataset)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(dataset))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"format": "vlpipe"', b"[" * 100_000, b"{}" * 2, b"\0" * 100, b'{"records": ' + b"9" * 5000 + b"}"],
    ids=["empty", "cut", "not UTF-8", "cut later", "deep", "twice", "zeros", "endless number"],
)
def test_metadata_that_are_no_json(dataset: Path, content: bytes) -> None:
    (dataset / "vlpipe.json").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"vlpipe\.json: cannot be read as JSON \(.+\)\. Restore it from a copy, or write the dataset again\."
    ):
        open_source(dataset)


def test_metadata_that_are_a_directory(dataset: Path) -> None:
    (dataset / "vlpipe.json").unlink()
    (dataset / "vlpipe.json").mkdir()
    with pytest.raises(
        DatasetError, match=r"vlpipe\.json: the metadata cannot be read \(it is a directory, not a regular file\)\. Restore it from a copy"
    ):
        open_source(dataset)


def test_every_cut_of_the_metadata_is_refused(dataset: Path) -> None:
    path = dataset / "vlpipe.json"
    content = path.read_bytes()
    for size in range(len(content.rstrip())):
        path.write_bytes(content[:size])
        with pytest.raises(DatasetError, match=r"vlpipe\.json: cannot be read as JSON"):
            open_directory(dataset)


# ---- index.npy that lies ---------------------------------------------------------------------------------------------------------


def replace_rows(dataset: Path, rows: np.ndarray) -> None:
    """Write rows with the right digest, so that only their values are wrong."""
    np.save(dataset / "index.npy", rows)
    rows = np.atleast_1d(rows)
    edit(dataset, setter("index", "digest", value=digest_of_rows(rows)))


def rows_changed(column: str, row: int, change: Callable[[int], int]) -> Callable[[np.ndarray], np.ndarray]:
    def changed(rows: np.ndarray) -> np.ndarray:
        rows[column][row] = change(int(rows[column][row]))
        return rows

    return changed


NO_TILING = "the records do not fill the shards without gap or overlap"
LYING_ROWS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "a shard that is not there": (rows_changed("shard", 2, lambda _: 2), "a row refers to shard 2 of 2"),
    "a shard far out": (rows_changed("shard", 0, lambda _: 2**32 - 1), f"a row refers to shard {2**32 - 1} of 2"),
    "another shard": (rows_changed("shard", 0, lambda shard: 1 - shard), "the records of each shard do not agree with the shard table"),
    "an offset too far": (rows_changed("offset", 1, lambda offset: offset + 1), NO_TILING),
    "an offset that wraps": (rows_changed("offset", 1, lambda _: 2**64 - 1), NO_TILING),
    "a record too long": (rows_changed("bytes", 3, lambda size: size + 1), NO_TILING),
    "a record of 4 GiB": (rows_changed("bytes", 3, lambda _: 2**32 - 1), NO_TILING),
    "overlapping records": (lambda rows: rows_changed("offset", 0, lambda _: int(rows["offset"][1]))(rows), NO_TILING),
    "frames beyond the record": (rows_changed("frames", 0, lambda _: 2**32 - 1), 'the frames of "features" extend beyond their record'),
    "one frame too many": (rows_changed("frames", 0, lambda frames: frames + 100), 'the frames of "features" extend beyond'),
    "a start beyond the record": (rows_changed("start:words", 1, lambda _: 2**31), 'the frames of "words" extend beyond their record'),
    "a row less": (lambda rows: rows[:-1], "has 5 rows, vlpipe.json says 6 records"),
    "no rows": (lambda rows: rows[:0], "has 0 rows, vlpipe.json says 6 records"),
    "a row twice": (lambda rows: np.concatenate([rows, rows[:1]]), "has 7 rows, vlpipe.json says 6 records"),
    "two axes": (lambda rows: rows.reshape(2, 3), "[2, 3], the schema requires one axis of [("),
    "no axis": (lambda rows: rows[0:1].reshape(()), "[], the schema requires one axis of [("),
    "plain numbers": (lambda rows: np.arange(6), "is int64 [6], the schema requires one axis of [("),
    "big-endian": (lambda rows: rows.astype(rows.dtype.newbyteorder(">")), "the schema requires one axis of [("),
    "a column less": (
        lambda rows: np.array(rows[["shard", "offset"]].tolist(), [("shard", "<u4"), ("offset", "<u8")]),
        "the schema requires one axis of [(",
    ),
}


@pytest.mark.parametrize(("change", "message"), LYING_ROWS.values(), ids=LYING_ROWS)
def test_rows_that_lie(dataset: Path, change: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    replace_rows(dataset, change(np.load(dataset / "index.npy")))
    with pytest.raises(DatasetError) as caught:
        open_source(dataset)
    assert str(caught.value).startswith(f"{dataset / 'index.npy'}: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("Restore it from a copy, or write the dataset again.")


def npy(header: str) -> bytes:
    text = header.encode("latin1").ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 64


def saved(save: Callable[..., None], *arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, *arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "text": b"not an array",
        "objects (a pickle)": saved(np.save, np.array([{"a": 1}, None], object)),
        "bare pickle": b"\x80\x04]\x94.",
        "zip of arrays": saved(np.savez, np.arange(3)),
        "magic alone": b"\x93NUMPY\x01\x00",
        "unknown version": b"\x93NUMPY\x09\x00" + b"\0" * 64,
        "open bracket": npy("{'descr': ("),
        "open string": npy("{'descr': '''"),
        "bad indent": npy("  x\n y"),
        "deep": npy("(" * 110),
        "call": npy("__import__('os').abort()"),
        "not a dict": npy("[1, 2]"),
        "a key more": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (3,), 'x': 1}"),
        "no dtype": npy("{'descr': 'hm', 'fortran_order': False, 'shape': (3,)}"),
        "empty dtype": npy("{'descr': (), 'fortran_order': False, 'shape': (3,)}"),
        "negative shape": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (-3,)}"),
        "endless shape": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (1000000000,)}"),
        "huge shape": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (" + str(2**62) + ",)}"),
        "shape beyond 64 bits": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (" + str(10**40) + ",)}"),
        "huge axes": npy("{'descr': '<u4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}"),
    }.items(),
    ids=lambda item: item[0],
)
def test_an_index_that_is_no_array(dataset: Path, content: tuple[str, bytes]) -> None:
    (dataset / "index.npy").write_bytes(content[1])
    with pytest.raises(DatasetError, match=r"index\.npy: cannot be read as a NumPy array \(.*\)\. Restore it from a copy, or write the"):
        open_source(dataset)


@pytest.mark.parametrize("how", ["missing", "directory"])
def test_an_index_that_is_no_file(dataset: Path, how: str) -> None:
    (dataset / "index.npy").unlink()
    if how == "directory":
        (dataset / "index.npy").mkdir()
    with pytest.raises(DatasetError, match=r"index\.npy: cannot be read as a NumPy array"):
        open_source(dataset)


@settings(max_examples=150)
@given(st.data())
def test_a_flipped_or_cut_byte_of_the_index_is_found(tmp_path: Path, data: st.DataObject) -> None:
    dataset = tmp_path / "train"
    if not dataset.exists():
        vlpipe.write(dataset, make_records(LENGTHS), SCHEMA, num_shards=2)
        shutil.copy(dataset / "index.npy", tmp_path / "good.npy")
    content = bytearray((tmp_path / "good.npy").read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= data.draw(st.integers(1, 255))
    else:
        del content[position:]
    (dataset / "index.npy").write_bytes(content)
    try:
        index = open_source(dataset)
    except VlpipeError as error:
        message = str(error)
    else:  # blanks in the header, and the fortran_order of a single axis, change nothing
        message = "index.npy" if digest_of_rows(index.rows) == digest_of_rows(np.load(tmp_path / "good.npy")) else ""
    assert "index.npy" in message


def test_the_digest_covers_an_index_larger_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros(1_200_000, row_dtype(Schema(x=Sequence())))  # 38 MB, steps of 16 MiB
    rows["offset"] = np.arange(len(rows))
    assert digest_of_rows(rows) == f"crc32c:{google_crc32c.value(rows.tobytes()):08x}"


def test_an_empty_index_has_no_rows() -> None:
    schema = Schema(x=Sequence())
    index = Index(schema, (), np.empty(0, row_dtype(schema)), np.empty(0, np.int64))
    assert len(index) == 0
    assert index.frames("x").tolist() == index.by_shard().tolist() == []
