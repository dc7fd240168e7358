"""`on_damage=vlpipe.Skip(...)`: what is delivered of batches with damaged records, what is counted, and what remains an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import cases, write
from vlpipe.engines import mapped_shards
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.tfrecord import read_frames
from vlpipe.planning.damage import Skipped
from vlpipe.sources.native import open_source
from vlpipe.storage.index import Index

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph")
LENGTHS = [3, 7, 1, 4, 9, 2, 5, 8, 6, 3, 4, 7, 2, 9, 1, 5, 6, 8, 0, 2]
DAMAGED = (2, 5, 11)


def records(lengths: Iterable[int]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "features": rng.normal(size=(t, 2)).astype(np.float32),
            "label": number % 3,
            "voiced": rng.integers(0, 2, t),
            "words": rng.integers(0, 9, number % 4),
            "name": f"record {number}",
            "long": rng.normal(size=40).astype(np.float32),  # too large for the index: it is parsed
        }
        for number, t in enumerate(lengths)
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    schema = vlpipe.Schema(
        features=vlpipe.Sequence((2,)),
        label=vlpipe.Fixed((), "int64"),
        voiced=vlpipe.Sequence((), "int64", aligned=True),
        words=vlpipe.Sequence((), "int64"),
        name=vlpipe.Text(),
        long=vlpipe.Fixed((40,), "float32"),
    )
    vlpipe.write(tmp_path / "data", records(LENGTHS), schema=schema, num_shards=3)
    return tmp_path / "data"


def flip(index: Index, rows: Iterable[int], at: int = -1) -> None:
    """Damage records: one bit of the byte `at` of their data."""
    for row in rows:
        entry = index.rows[row]
        with open(index.shards[entry["shard"]].path, "r+b") as file:
            position = int(entry["offset"]) + 12 + at % int(entry["bytes"])
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1]))


def flatten(element: Any) -> dict[str, Any]:
    """The parts of an element by name, in NumPy; ragged ones as lists."""
    x, y, *weight = element
    parts = {**x, **{f"y:{name}": value for name, value in y.items()}} | ({"weight": weight[0]} if weight else {})
    return {name: value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy() for name, value in parts.items()}


def expected(clean: dict[str, Any], damaged: Iterable[int], remainder: str, boundary: bool) -> dict[str, Any]:
    """A batch without its damaged records, from the same batch without damage: the rows, cut to the longest of them."""
    ids = clean["id"]
    intact = ~np.isin(ids, list(damaged))
    weight = clean.get("weight", np.ones(len(ids)))
    rows = np.flatnonzero(intact & (weight > 0))
    real = len(rows)
    if remainder == "pad":
        rows = np.concatenate([rows, np.resize(np.flatnonzero(intact), len(ids) - real)])
    longest = {"features": clean["lengths"], "y:voiced": clean["lengths"], "y:words": clean["words_lengths"]}
    result = {}
    for name, value in clean.items():
        part = [value[row] for row in rows]
        if name in longest and isinstance(value, np.ndarray) and not boundary:
            part = [frames[: longest[name][rows].max()] for frames in part]
        result[name] = part if isinstance(value, list) else np.array(part)
    if "weight" in clean:
        result["weight"] = (np.arange(len(rows)) < real).astype(np.float32)
    return result


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_equal(found[name], value, err_msg=name)


FIELDS: dict[str, Any] = {
    "label": ("label", "voiced", "words", "name", "long"),
    "length_range": (0, None),
    "lengths": True,
    "ids": True,
    "seed": 3,
    "batch_size": 4,
}
CASES: dict[str, dict[str, Any]] = {
    "keep": {"remainder": "keep"},
    "drop": {"remainder": "drop"},
    "pad": {"remainder": "pad"},
    "pad, always": {"remainder": "pad", "verify": "always"},
    "boundary": {"remainder": "pad", "pad_to": "boundary", "buckets": [4, 9]},
    "boundary, one bucket": {"remainder": "drop", "pad_to": "boundary", "buckets": [9]},
    "any order": {"remainder": "pad", "batching": "pad"},
    "ragged": {"remainder": "keep", "batching": "ragged"},
    "ragged, padded": {"remainder": "pad", "batching": "ragged"},
    "rank 0": {"remainder": "pad", "shard": (0, 2), "batch_size": 3},
    "rank 1": {"remainder": "pad", "shard": (1, 2), "batch_size": 3},
    "normalised": {"remainder": "pad", "normalize": "utterance"},
    "masked": {"remainder": "pad", "augment": vlpipe.SpecAugment(time_width=3, frequency_width=1)},
    "in order": {"remainder": "keep", "shuffle": False},
}


# The engines share what decides about the rows (`engines/screen.py`): the graph engine gets each remainder and each form of a batch.
GRAPH_CASES = ("drop", "boundary", "ragged, padded", "rank 1")


@pytest.mark.parametrize(("engine", "case"), [*(("mapped", case) for case in CASES), *(("graph", case) for case in GRAPH_CASES)])
def test_damaged_records_are_left_out_of_their_batches(source: Path, engine: str, case: str) -> None:
    arguments = {**FIELDS, **CASES[case], "engine": engine}
    clean = [flatten(element) for element in vlpipe.make_dataset(source, **arguments)]
    skipping = {**arguments, "on_damage": vlpipe.Skip(most=3)}
    index = open_source(source)
    if engine == "mapped" or case == "drop":
        for element, wanted in zip(vlpipe.make_dataset(source, **skipping), clean, strict=True):  # without damage, the same bytes
            assert_equal(flatten(element), wanted)
    flip(index, DAMAGED)
    dataset = vlpipe.make_dataset(source, **skipping)
    found = [flatten(element) for element in dataset]
    assert len(found) == len(clean) == len(dataset)
    for batch, before in zip(found, clean, strict=True):
        intact = ~np.isin(before["id"], DAMAGED)
        assert intact.any()
        assert_equal(batch, expected(before, DAMAGED, arguments["remainder"], arguments.get("pad_to") == "boundary"))
    places = vlpipe.callbacks.SkippedRecords(dataset).places
    met = {number for batch in clean for number in batch["id"].tolist()} & set(DAMAGED)
    assert sorted(places) == sorted(index.where(row) for row in met)


@pytest.mark.parametrize("engine", ENGINES)
def test_windows_and_copies_of_a_damaged_record_count_once(source: Path, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    flip(open_source(source), [4])  # 9 frames
    mixed = vlpipe.mix({source: 1.0}, records=50)
    arguments: dict[str, Any] = {"windows": vlpipe.Windows(2, tail="keep"), "ids": True, "label": "label", "seed": 1, "engine": engine}
    dataset = vlpipe.make_dataset(mixed, batch_size=7, remainder="pad", on_damage=vlpipe.Skip(most=1), length_range=(0, None), **arguments)
    for _ in range(2):
        ids = np.concatenate([x["id"].numpy()[weight.numpy() > 0] for x, _, weight in dataset])
        assert 4 not in ids
        assert len(ids) > 40
        assert len(set(ids.tolist())) < len(ids)
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 1


@pytest.mark.parametrize(("engine", "remainder"), [("mapped", "keep"), ("mapped", "drop"), ("mapped", "pad"), ("graph", "pad")])
def test_a_batch_that_loses_all_records_has_another_of_its_bucket(source: Path, engine: str, remainder: str) -> None:
    arguments = {**FIELDS, "engine": engine, "remainder": remainder, "buckets": [4, 9], "batch_size": 2}
    clean = [flatten(element) for element in vlpipe.make_dataset(source, **arguments)]
    lost = next(batch for batch in clean if batch["lengths"].min() > 4)
    ids = lost["id"].tolist()
    flip(open_source(source), ids)
    dataset = vlpipe.make_dataset(source, **arguments, on_damage=vlpipe.Skip())
    other = next(number for number, t in enumerate(LENGTHS) if t > 4 and number not in ids)  # the first of the bucket that is intact
    for batch, before in zip(map(flatten, dataset), clean, strict=True):
        if before is not lost:
            assert_equal(batch, before)
            continue
        assert batch["id"].tolist() == [other] * (2 if remainder == "pad" else 1)
        np.testing.assert_array_equal(batch["features"][0], records(LENGTHS)[other]["features"])
        if remainder == "pad":
            assert batch["weight"].tolist() == [0, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_where_no_record_is_intact_the_error_says_so(source: Path, engine: str) -> None:
    flip(open_source(source), range(len(LENGTHS)))
    dataset = vlpipe.make_dataset(source, engine=engine, label=False, length_range=(0, None), on_damage=vlpipe.Skip(most=50))
    message = "a batch has only damaged records, and none of at most 9 frames can be delivered in their place. Restore it from a copy"
    with pytest.raises(tf.errors.OpError, match=message):
        list(dataset)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_record_too_many_ends_the_run_and_all_are_named(source: Path, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    index = open_source(source)
    flip(index, DAMAGED)
    dataset = vlpipe.make_dataset(source, **FIELDS, engine=engine, on_damage=vlpipe.Skip(most=2))
    with pytest.raises(tf.errors.OpError) as caught:
        list(dataset)
    assert "on_damage: the run has met 3 damaged records and may leave out 2. Restore the files, leave the records out with" in str(
        caught.value
    )
    for row in DAMAGED:
        assert f"{index.where(row)}: the checksum of its" in str(caught.value)
    lines = [record.getMessage() for record in caplog.records if record.name == "vlpipe" and "left out" in record.getMessage()]
    assert sorted(line.split(": ")[1] for line in lines) == sorted(index.where(row) for row in DAMAGED)
    with pytest.raises(tf.errors.OpError, match="may leave out 2"):
        list(dataset)  # the run does not go on behind it
    none = vlpipe.make_dataset(source, **FIELDS, engine=engine, on_damage=vlpipe.Skip(most=0))
    with pytest.raises(tf.errors.OpError, match="may leave out 0"):
        list(none)


def test_the_error_of_a_run_with_many_damaged_records_stays_short(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"features": np.ones((1, 1), np.float32)}] * 40)
    flip(open_source(tmp_path / "d"), range(30))
    with pytest.raises(tf.errors.OpError, match="(?s)met 26 damaged records.*and 6 more"):
        list(vlpipe.make_dataset(tmp_path / "d", on_damage=vlpipe.Skip(most=25), shuffle=False))


def test_batches_that_are_read_at_one_moment_end_the_run_with_the_same_error(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"features": np.ones((1, 1), np.float32)}] * 9)
    index = open_source(tmp_path / "d")
    skipped = Skipped(index, 2, "a run")
    errors = []
    for row in (3, 4, 7, 8, 3, 0):  # row 7 is one too many; the others behind it are of batches that were begun before it was met
        try:
            skipped.add(row, ValueError(f"row {row}"))
        except DatasetError as error:
            errors.append(str(error))
    assert len(errors) == 4
    assert set(errors) == {errors[0]}
    assert errors[0].endswith("row 3\nrow 4\nrow 7")
    assert skipped.places == [index.where(row) for row in (3, 4, 7)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_record_that_is_repaired_is_delivered_again(source: Path, engine: str) -> None:
    index = open_source(source)
    flip(index, [5])
    dataset = vlpipe.make_dataset(source, **FIELDS, engine=engine, on_damage=vlpipe.Skip())
    assert 5 not in np.concatenate([x["id"] for x, _ in dataset])
    flip(index, [5])
    assert 5 in np.concatenate([x["id"] for x, _ in dataset])
    assert vlpipe.callbacks.SkippedRecords(dataset).places == [index.where(5)]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ends_of_a_shard_and_records_without_frames_are_left_out_like_others(source: Path, engine: str) -> None:
    index = open_source(source)
    damaged = {int(index.by_shard()[0]), int(index.by_shard()[-1]), LENGTHS.index(0)}
    flip(index, damaged)
    found = vlpipe.make_dataset(source, **FIELDS, engine=engine, on_damage=vlpipe.Skip(most=3))
    assert sorted(np.concatenate([x["id"] for x, _ in found])) == [row for row in range(len(LENGTHS)) if row not in damaged]


@pytest.mark.parametrize("engine", ENGINES)
def test_repeated_rows_have_no_class_weight(source: Path, engine: str) -> None:
    flip(open_source(source), [5])
    arguments: dict[str, Any] = {
        "label": ("label", "voiced"),
        "remainder": "pad",
        "engine": engine,
        "class_weight": {"label": {0: 2.0, 2: 0.5}},
    }
    dataset = vlpipe.make_dataset(source, **{**FIELDS, **arguments}, on_damage=vlpipe.Skip())
    found: list[int] = []
    for x, y, weight in dataset:
        real = weight["label"].numpy() > 0
        np.testing.assert_array_equal(weight["label"].numpy()[real], np.array([2.0, 1.0, 0.5], np.float32)[y["label"].numpy()[real]])
        found += x["id"].numpy()[real].tolist()
    assert sorted(found) == [row for row in range(len(LENGTHS)) if row != 5]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dataset_without_records_and_one_with_a_single_record(tmp_path: Path, engine: str) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence((2,)))
    for name, number in (("none", 0), ("one", 1)):
        vlpipe.write(tmp_path / name, [{"features": np.ones((3, 2), np.float32)}] * number, schema=schema)
    assert list(vlpipe.make_dataset(tmp_path / "none", engine=engine, on_damage=vlpipe.Skip())) == []
    dataset = vlpipe.make_dataset(tmp_path / "one", engine=engine, on_damage=vlpipe.Skip())
    flip(open_source(tmp_path / "one"), [0])
    with pytest.raises(tf.errors.OpError, match="none of at most 3 frames can be delivered"):
        list(dataset)


@pytest.mark.parametrize("byte", [3, 9, -2], ids=["length", "its checksum", "checksum of the data"])
def test_the_graph_engine_leaves_out_records_whose_framing_is_corrupt(source: Path, byte: int) -> None:
    index = open_source(source)
    entry = index.rows[5]
    with open(index.shards[entry["shard"]].path, "r+b") as file:
        file.seek(int(entry["offset"]) + (byte if byte > 0 else 16 + int(entry["bytes"]) + byte))
        file.write(b"\xa5")
    dataset = vlpipe.make_dataset(source, **FIELDS, engine="graph", on_damage=vlpipe.Skip(most=1))
    found = np.concatenate([x["id"] for x, _ in dataset])
    assert sorted(found) == [row for row in range(len(LENGTHS)) if row != 5]
    with pytest.raises(tf.errors.OpError, match=r"the length or a checksum around its \d+ bytes of data is damaged"):
        list(vlpipe.make_dataset(source, **FIELDS, engine="graph", on_damage=vlpipe.Skip(most=0)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shard_that_is_missing_cut_or_replaced_stays_an_error(source: Path, tmp_path: Path, engine: str) -> None:
    index = open_source(source)
    shard = Path(index.shards[1].path)
    whole = shard.read_bytes()
    skipping = {**FIELDS, "engine": engine, "on_damage": vlpipe.Skip(most=1000)}
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="No such file"):
        vlpipe.make_dataset(source, **skipping)
    shard.write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match="the file was cut after"):
        vlpipe.make_dataset(source, **skipping)
    shard.write_bytes(whole)
    dataset = vlpipe.make_dataset(source, **skipping)
    shard.write_bytes(whole[:-1])
    with pytest.raises(tf.errors.OpError, match="the file was cut after|bytes now, and had .* when the dataset was opened"):
        list(dataset)
    shard.unlink()
    with pytest.raises(tf.errors.OpError, match="No such file|is no longer there"):
        list(dataset)
    if engine == "graph":  # whose records another file of the same size may have, intact: the mapped engine knows their checksums
        other = [{**record, "features": record["features"] + 1} for record in records(LENGTHS)]
        vlpipe.write(tmp_path / "other", other, schema=index.schema, num_shards=3)
        shard.write_bytes(Path(open_source(tmp_path / "other").shards[1].path).read_bytes())
        with pytest.raises(DatasetError, match="the checksum of its"):
            vlpipe.make_dataset(source, **skipping)


def test_a_disk_that_fails_at_a_record_damages_that_record(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, gather = open_source(source), mapped_shards.gather
    dataset = vlpipe.make_dataset(source, **FIELDS, on_damage=vlpipe.Skip(most=1))
    size = int(index.rows["bytes"][4])
    assert np.count_nonzero(index.rows["bytes"] == size) == 1

    def failing(target: np.ndarray, segments: np.ndarray) -> int:
        bad = np.flatnonzero(segments[:, 1] == size)
        return int(segments[: bad[0], 1].sum()) if len(bad) else gather(target, segments)

    monkeypatch.setattr(mapped_shards, "gather", failing)
    found = np.concatenate([x["id"] for x, _ in dataset])
    assert sorted(found) == [row for row in range(len(LENGTHS)) if row != 4]


def audio_files(directory: Path, intact: int, broken: Iterable[int]) -> None:
    """Records with FLAC files, some of which announce all their samples and end early."""
    directory.mkdir()
    with tf.io.TFRecordWriter(os.fspath(directory / "a.tfrecord")) as writer:
        for number in range(intact):
            path = directory / "one.flac"
            soundfile.write(path, np.random.default_rng(number).normal(scale=0.1, size=3000 + number), 8000)
            data = path.read_bytes()
            if number in broken:
                data = data[:200] + bytes(len(data) - 200)
            feature = {
                "audio": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
            path.unlink()


@pytest.mark.parametrize("engine", ENGINES)
def test_audio_that_cannot_be_decoded_is_left_out(tmp_path: Path, engine: str) -> None:
    audio_files(tmp_path / "audio", 9, broken=(3, 7))
    arguments: dict[str, Any] = {
        "layout": vlpipe.layouts.encoded_audio(key="audio", label="label"),
        "engine": engine,
        "ids": True,
        "seed": 1,
        "batch_size": 3,
        "remainder": "pad",
    }
    dataset = vlpipe.make_dataset(tmp_path / "audio", **arguments, on_damage=vlpipe.Skip(most=2))
    for _ in range(2):
        found = np.concatenate([x["id"].numpy()[weight.numpy() > 0] for x, _, weight in dataset])
        assert sorted(found) == [0, 1, 2, 4, 5, 6, 8]
    with pytest.raises(tf.errors.OpError, match="record 3 at byte .*: its values cannot be parsed"):
        list(vlpipe.make_dataset(tmp_path / "audio", **arguments, on_damage=vlpipe.Skip(most=1)))


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_disagree_with_the_index_are_left_out(tmp_path: Path, engine: str) -> None:
    """A layout whose functions disagree about one record, and fail for another."""
    with tf.io.TFRecordWriter(os.fspath(tmp_path / "a.tfrecord")) as writer:
        for number in range(8):
            writer.write(bytes([number]) * (number + 2))

    def parse(data: tf.Tensor) -> tf.Tensor:
        values = tf.cast(tf.io.decode_raw(data, tf.uint8), tf.float32)[:, None]
        with tf.control_dependencies([tf.debugging.Assert(values[0, 0] != 6, ["six"])]):
            return values[tf.cast(values[0, 0] == 4, tf.int32) :]

    layout = vlpipe.layouts.Layout.custom(parse, len)
    dataset = vlpipe.make_dataset(
        tmp_path / "a.tfrecord", layout=layout, engine=engine, ids=True, seed=1, batch_size=3, on_damage=vlpipe.Skip(most=2)
    )
    found = np.concatenate([x["id"].numpy() for (x,) in dataset])
    assert sorted(found) == [0, 1, 2, 3, 5, 7]
    with pytest.raises(tf.errors.OpError, match='record 4 at byte .*: "features" has 5 frames, but 6 belong to the record'):
        list(vlpipe.make_dataset(tmp_path / "a.tfrecord", layout=layout, engine=engine, seed=1, on_damage=vlpipe.Skip(most=1)))


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_cannot_be_parsed_are_left_out(tmp_path: Path, engine: str) -> None:
    """The index was made of 300 as a uint8 by a layout that allows more; the record is what it was."""
    with tf.io.TFRecordWriter(os.fspath(tmp_path / "a.tfrecord")) as writer:
        for number in range(6):
            values = tf.train.Feature(int64_list=tf.train.Int64List(value=[300 if number == 2 else number] * (number + 1)))
            writer.write(tf.train.Example(features=tf.train.Features(feature={"x": values})).SerializeToString())
    arguments: dict[str, Any] = {"layout": vlpipe.layouts.int_list("x", d=1, dtype="uint8"), "engine": engine, "ids": True, "seed": 1}
    with pytest.raises(tf.errors.OpError, match="which is outside the range of uint8"):
        list(vlpipe.make_dataset(tmp_path / "a.tfrecord", **arguments))
    dataset = vlpipe.make_dataset(tmp_path / "a.tfrecord", **arguments, on_damage=vlpipe.Skip(most=1))
    assert sorted(np.concatenate([x["id"].numpy() for (x,) in dataset])) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("layout", sorted(cases()))
def test_records_of_each_layout_are_left_out_by_both_engines(tmp_path: Path, layout: str) -> None:
    case = cases(8)[layout]
    path = write(tmp_path / "a.tfrecord", case.records)
    arguments: dict[str, Any] = {"layout": case.layout, "features": case.key, "length_range": (0, None), "lengths": True, "ids": True}
    arguments |= {"batch_size": 3, "seed": 2, "remainder": "pad", "out_of_range": "drop"}
    found: dict[str, list[Any]] = {}
    both = sorted(cases()).index(layout) % 3 == 0  # the engines parse with the same code: every third layout takes a graph
    for engine in ENGINES if both else ENGINES[:1]:
        dataset = vlpipe.make_dataset(path, **arguments, engine=engine, on_damage=vlpipe.Skip(most=2))  # indexes it
        content = path.read_bytes()
        flip_frames(path, [2, 5])
        os.utime(path)
        found[engine] = list(dataset)
        path.write_bytes(content)
        plan = vlpipe.plan(path, **arguments)
        for step, (x, *_, weight) in enumerate(found[engine]):
            planned = plan.schedule.batch(0, step)
            kept = [row for row in plan.rows[planned.pieces[: planned.real]].tolist() if row not in (2, 5)]
            assert x["id"].numpy()[weight.numpy() > 0].tolist() == kept
            assert len(x["id"]) == len(planned.pieces)
    for mapped, graph in zip(*found.values(), strict=True) if both else ():
        tf.nest.map_structure(np.testing.assert_array_equal, mapped, graph)


def flip_frames(path: Path, numbers: Iterable[int]) -> None:
    """Damage records of any file."""
    frames = list(read_frames(path))
    with path.open("r+b") as file:
        for number in numbers:
            file.seek(frames[number].offset + 12 + len(frames[number].data) - 1)
            file.write(bytes([frames[number].data[-1] ^ 1]))


# What a run has met, and who is told


def run(source: Path, state: dict[str, Any] | None, **arguments: Any) -> tf.data.Dataset:
    return vlpipe.make_dataset(source, **{**FIELDS, **arguments}, remainder="pad", repeat=True, resume=state)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_counts_on_and_delivers_the_same_batches(source: Path, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    index, skipping = open_source(source), {"engine": engine, "on_damage": vlpipe.Skip(most=3), "num_parallel_calls": 1}
    plan = vlpipe.plan(source, **FIELDS, remainder="pad", engine=engine, on_damage=vlpipe.Skip(most=3))
    assert plan.state(0, 1) == vlpipe.plan(source, **FIELDS, remainder="pad", engine=engine).state(0, 1)
    flip(index, DAMAGED)
    whole = run(source, None, **skipping)
    batches = [flatten(element) for element in whole.take(3 * plan.steps_per_epoch)]
    state = json.loads(json.dumps(plan.state(1, 2)))
    assert sorted(map(int, state["skipped"].split(","))) == list(DAMAGED)
    assert "skipped" not in vlpipe.plan(source, **FIELDS, remainder="pad", engine=engine).state(1, 2)
    caplog.clear()
    resumed = run(source, state, **skipping)
    places = [vlpipe.callbacks.SkippedRecords(dataset).places for dataset in (resumed, whole)]
    assert sorted(places[0]) == sorted(places[1]) == sorted(index.where(row) for row in DAMAGED)
    for found, wanted in zip(map(flatten, resumed), batches[plan.steps_per_epoch + 2 :], strict=False):
        assert_equal(found, wanted)
    assert not [record for record in caplog.records if "left out" in record.getMessage()]  # they were logged in their run
    flip(index, [0])
    with pytest.raises(tf.errors.OpError, match="has met 4 damaged records and may leave out 3"):
        for _ in run(source, state, **skipping).take(plan.steps_per_epoch):
            pass
    assert next(iter(run(source, state, **{**skipping, "on_damage": vlpipe.Skip(most=4)})))  # a greater number continues the run
    flip(index, [0, *DAMAGED])
    assert next(iter(run(source, state, engine=engine)))  # and so does "error", once the files are restored


RESUMED = """
import json, sys, tensorflow as tf, vlpipe
state = json.loads(sys.argv[2])
dataset = vlpipe.make_dataset(sys.argv[1], label=False, length_range=(0, None), seed=3, batch_size=4, repeat=True, resume=state,
                              on_damage=vlpipe.Skip(most=3))
print(json.dumps(vlpipe.callbacks.SkippedRecords(dataset).places))
try:
    list(dataset.take(30))
except tf.errors.OpError as error:
    print("met 4" in str(error))
"""


def test_a_run_that_is_resumed_in_another_process_counts_on(source: Path) -> None:
    index = open_source(source)
    flip(index, DAMAGED)
    arguments: dict[str, Any] = {"label": False, "length_range": (0, None), "seed": 3, "batch_size": 4, "on_damage": vlpipe.Skip(most=3)}
    list(vlpipe.make_dataset(source, repeat=True, **arguments).take(20))
    state = vlpipe.plan(source, **arguments).state(1, 0)
    flip(index, [7])
    command = [sys.executable, "-W", "ignore", "-c", RESUMED, os.fspath(source), json.dumps(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0, done.stderr[-3000:]
    places, too_many = done.stdout.splitlines()[-2:]
    assert sorted(json.loads(places)) == sorted(index.where(row) for row in DAMAGED)
    assert too_many == "True"


@pytest.mark.parametrize("skipped", [3, "3,", "x", "-1", "1.5", [3], "9" * 30, "٣"])
def test_a_state_with_something_else_than_ids_is_refused(source: Path, skipped: Any) -> None:
    state = {**vlpipe.plan(source, **FIELDS, remainder="pad").state(0, 0), "skipped": skipped}
    with pytest.raises(ArgumentError, match=r"resume\['skipped'\]: came as .*, expected ids of records, such as \"3,17\""):
        run(source, state, on_damage=vlpipe.Skip())


def test_the_callback_has_the_places_and_the_history_their_number(source: Path, tmp_path: Path) -> None:
    index = open_source(source)
    flip(index, DAMAGED)
    layers = keras.layers
    model = keras.Sequential([keras.Input((None, 2)), layers.Conv1D(2, 1), layers.GlobalAveragePooling1D(), layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    arguments: dict[str, Any] = {
        "label": "label", "length_range": (0, None), "seed": 1, "batch_size": 2, "remainder": "pad", "on_damage": vlpipe.Skip(most=3)
    }  # fmt: skip
    plan = vlpipe.plan(source, **arguments)
    backup = vlpipe.callbacks.Backup(tmp_path / "backup", plan, save_every=5)
    dataset = vlpipe.make_dataset(source, repeat=True, resume=backup.state, **arguments)
    callback = vlpipe.callbacks.SkippedRecords(dataset)
    history = model.fit(dataset, epochs=2, steps_per_epoch=plan.steps_per_epoch, verbose=0, callbacks=[callback, backup])
    assert history.history["skipped_records"] == [3, 3]
    assert all(np.isfinite(history.history["loss"]))
    assert sorted(callback.places) == sorted(index.where(row) for row in DAMAGED)
    saved = vlpipe.callbacks.Backup(tmp_path / "backup", plan).state
    assert saved is not None
    assert sorted(map(int, saved["skipped"].split(","))) == list(DAMAGED)
    plain = vlpipe.make_dataset(source, label="label", length_range=(0, None))
    for other in (plain, dataset.prefetch(1), "data/train"):
        with pytest.raises(ArgumentError, match=r"expected the dataset that make_dataset\(on_damage=vlpipe.Skip\(...\)\) returned"):
            vlpipe.callbacks.SkippedRecords(other)


# What it refuses


def test_what_does_not_go_together_is_refused(source: Path) -> None:
    skip = vlpipe.Skip()
    with pytest.raises(ArgumentError, match='on_damage: the stream engine cannot read on behind a damaged record. Use engine="mapped" or'):
        vlpipe.make_dataset(source, engine="stream", on_damage=skip)
    with pytest.raises(ArgumentError, match='on_damage: verify="never" looks for no damage'):
        vlpipe.make_dataset(source, verify="never", on_damage=skip)
    with pytest.raises(ArgumentError, match="on_damage: a batch without its damaged records is no multiple of 2"):
        vlpipe.make_dataset(source, multiple_of=2, remainder="drop", on_damage=skip)
    with pytest.raises(ArgumentError, match="on_damage: came as .*, which predict and evaluate cannot follow: a record that is left out"):
        vlpipe.predict(keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(1)]), source, label=False, on_damage=skip)


@pytest.mark.parametrize("most", [-1, 1.5, "10", None, True])
def test_a_number_of_records_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(ArgumentError, match="Skip: most: came as .*, expected an integer >= 0"):
        vlpipe.Skip(most=most)


def test_a_skip_is_a_value() -> None:
    assert vlpipe.Skip() == vlpipe.Skip(most=10) == vlpipe.Skip(np.int64(10)) != vlpipe.Skip(9)
    assert hash(vlpipe.Skip(3)) == hash(vlpipe.Skip(most=3))
    with pytest.raises(AttributeError):
        vlpipe.Skip().most = 3  # type: ignore[misc]
