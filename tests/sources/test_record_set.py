"""`vlpipe.open`: sources as values."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.helpers.foreign_files import cases, read, write
from vlpipe.sources.record_set import RecordSet

SPEAKERS = ("ann", "bob", "cleo", "dora", "ém")
COUNT = 60


def example(number: int) -> dict[str, Any]:
    frames = 1 + number * 7 % 50
    return {
        "features": np.full((frames, 2), number, np.float32),
        "label": number % 4,
        "speaker": SPEAKERS[number % 5],
        "score": np.float32(number / 10),
        "path": f"{number:04d}.wav",
    }


SCHEMA = vlpipe.Schema(
    features=vlpipe.Sequence(2),
    label=vlpipe.Fixed((), "int64"),
    speaker=vlpipe.Text(),
    score=vlpipe.Fixed((), "float32"),
    path=vlpipe.Text(),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources") / "all"
    with vlpipe.Writer(path, SCHEMA, num_shards=3) as writer:
        writer.metadata = {"classes": ["cat", "dog", "eel", "fox"], "label": "label", "features": {"hop_ms": 20.0}}
        for number in range(COUNT):
            writer.write(example(number))
    return path


@pytest.fixture(scope="module")
def source(directory: Path) -> RecordSet:
    return vlpipe.open(directory)


def test_what_is_known_without_reading(source: RecordSet) -> None:
    assert len(source) == COUNT
    assert source.schema == SCHEMA
    assert source.classes == ["cat", "dog", "eel", "fox"]
    assert source.metadata["features"] == {"hop_ms": 20.0}
    assert source.statistics["features"].count.tolist() == [sum(1 + n * 7 % 50 for n in range(COUNT))] * 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.index = None  # type: ignore[misc, assignment]


def test_the_table_is_the_index_as_columns(source: RecordSet) -> None:
    table, expected = source.table(), [example(number) for number in range(COUNT)]
    assert list(table) == ["id", "frames", "seconds", "label", "speaker", "score", "path"]
    assert table["id"].tolist() == list(range(COUNT))
    assert table["frames"].tolist() == [len(record["features"]) for record in expected]
    np.testing.assert_allclose(table["seconds"], table["frames"] * 0.02)
    for name in ("label", "speaker", "score", "path"):
        assert table[name].tolist() == [record[name] for record in expected]
    assert (table["label"].dtype, table["score"].dtype, table["speaker"].dtype.kind) == (np.int64, np.float32, "O")


def test_records_are_read_by_row_in_lists_and_in_turn(source: RecordSet, tmp_path: Path) -> None:
    for row in (0, 17, -1):
        record = source[row]
        for name, value in example(row % COUNT).items():
            np.testing.assert_array_equal(record[name], value)
    assert [record["path"] for record in source[[3, 1, -2]]] == ["0003.wav", "0001.wav", "0058.wav"]
    assert [record["path"] for record in source[np.array([5])]] == ["0005.wav"]
    assert [record["path"] for record in source[1:6:2]] == ["0001.wav", "0003.wav", "0005.wav"]
    assert [record["label"] for record in source] == [number % 4 for number in range(COUNT)]
    vlpipe.write(tmp_path / "copy", iter(source), SCHEMA)
    assert vlpipe.open(tmp_path / "copy").table()["speaker"].tolist() == source.table()["speaker"].tolist()


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ({"speaker": "ann"}, lambda r, t: r["speaker"] == "ann"),
        ({"speaker": ["ann", "ém"]}, lambda r, t: r["speaker"] in ("ann", "ém")),
        ({"label": 3}, lambda r, t: r["label"] == 3),
        ({"label": "dog"}, lambda r, t: r["label"] == 1),
        ({"label": ["dog", 0]}, lambda r, t: r["label"] in (0, 1)),
        ({"frames": (10, 20)}, lambda r, t: 10 <= t <= 20),
        ({"frames": (None, 20), "label": {0, 2}}, lambda r, t: t <= 20 and r["label"] in (0, 2)),
        ({"seconds": (0.5, None)}, lambda r, t: t * 0.02 >= 0.5),
        ({"score": [0.1, 0.7]}, lambda r, t: r["path"] in ("0001.wav", "0007.wav")),
        ({"path": "0003.wav"}, lambda r, t: r["path"] == "0003.wav"),
        ({"id": range(4)}, lambda r, t: r["path"] < "0004"),
        (lambda table: (table["frames"] > 10) & (table["speaker"] == "bob"), lambda r, t: t > 10 and r["speaker"] == "bob"),
        (lambda table: np.char.endswith(table["path"].astype(str), "7.wav"), lambda r, t: r["path"].endswith("7.wav")),
    ],
)
def test_select(source: RecordSet, where: Any, keeps: Any) -> None:
    expected = [number for number in range(COUNT) if keeps(example(number), len(example(number)["features"]))]
    chosen = source.select(where)
    assert chosen.table()["id"].tolist() == expected
    assert [record["path"] for record in chosen] == [f"{number:04d}.wav" for number in expected]
    assert len(source) == COUNT


def test_a_selection_of_a_selection_keeps_the_ids_of_the_whole(source: RecordSet) -> None:
    inner = source.select({"speaker": ["ann", "bob"]}).select({"label": 1})
    expected = [number for number in range(COUNT) if number % 5 < 2 and number % 4 == 1]
    assert inner.table()["id"].tolist() == expected
    assert inner.index.whole is source.index
    assert inner.index.numbers().tolist() == source.index.numbers()[expected].tolist()
    assert [inner.index.where(row) for row in range(len(inner))] == [source.index.where(row) for row in expected]


def test_rows_and_fractions(source: RecordSet) -> None:
    assert source.select(rows=[5, 2, -1]).table()["id"].tolist() == [5, 2, 59]
    quarter = source.select(fraction=0.25, seed=3)
    assert len(quarter) == 15
    assert quarter.table()["id"].tolist() == source.select(fraction=0.25, seed=3).table()["id"].tolist()
    assert quarter.table()["id"].tolist() != source.select(fraction=0.25, seed=4).table()["id"].tolist()
    assert len(source.select({"label": 2}, fraction=1)) == 15


def test_split_and_folds(source: RecordSet) -> None:
    parts = source.split({"train": 0.8, "val": 0.1, "test": 0.1}, seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 48, "val": 6, "test": 6}
    assert sorted(np.concatenate([part.table()["id"] for part in parts.values()]).tolist()) == list(range(COUNT))
    by = source.split({"train": 0.6, "val": 0.4}, by="speaker")
    assert {name: len(part) for name, part in by.items()} == {"train": 36, "val": 24}
    assert not set(by["train"].table()["speaker"]) & set(by["val"].table()["speaker"])
    for train, validation in source.folds(5, stratify="label"):
        assert len(train) == 48
        assert np.bincount(validation.table()["label"]).tolist() == [3, 3, 3, 3]


@given(st.integers(2, 5), st.sampled_from([None, "speaker", "path"]), st.sampled_from([None, "label"]), st.integers(0, 3))
def test_folds_cover_each_record_once(source: RecordSet, k: int, by: str | None, stratify: str | None, seed: int) -> None:
    if by == "speaker" and stratify:
        stratify = None
    seen = []
    for train, validation in source.folds(k, by=by, stratify=stratify, seed=seed):
        ids = validation.table()["id"].tolist()
        assert sorted(ids + train.table()["id"].tolist()) == list(range(COUNT))
        if by:
            assert not set(train.table()[by]) & set(validation.table()[by])
        seen += ids
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_engine_delivers_exactly_the_selection(source: RecordSet, engine: Any, shuffle: bool) -> None:
    chosen = source.select({"speaker": ["bob", "dora"], "frames": (5, None)})
    dataset = vlpipe.make_dataset(chosen, batch_size=4, ids=True, engine=engine, shuffle=shuffle, seed=1, label="path", batching="pad")
    seen = {}
    for x, path in dataset:
        for identifier, features, name in zip(x["id"].numpy(), x["features"].numpy(), path.numpy(), strict=True):
            seen[int(identifier)] = name.decode()
            assert set(features[:, 0].tolist()) <= {float(identifier), 0.0}
    assert seen == {int(i): f"{i:04d}.wav" for i in chosen.table()["id"]}
    assert len(dataset) == vlpipe.plan(chosen, batch_size=4, batching="pad", label=False).steps_per_epoch


def test_the_state_of_a_selection_is_its_own(source: RecordSet) -> None:
    first, other = source.select({"label": 1}), source.select({"label": 2})
    assert first.index.fingerprint != other.index.fingerprint != source.index.fingerprint
    state = vlpipe.plan(first, seed=1, label=False).state(0, 1)
    again = vlpipe.open(Path(source.index.shards[0].path).parent).select({"label": 1})
    vlpipe.make_dataset(again, seed=1, label=False, repeat=True, resume=state)
    with pytest.raises(vlpipe.ArgumentError, match="data is"):
        vlpipe.make_dataset(other, seed=1, label=False, repeat=True, resume=state)


def test_statistics_are_those_of_exactly_the_selection(source: RecordSet, monkeypatch: Any, tmp_path: Path) -> None:
    from vlpipe.inspection.summary import summarize

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = source.select({"label": 1})
    assert not chosen.statistics
    with pytest.raises(vlpipe.DatasetError, match=r"vlpipe stats SOURCE --compute.*--where.*normalize=\"data/train\""):
        vlpipe.plan(chosen, normalize="global", label=False)
    vlpipe.plan(chosen, normalize="utterance", label=False)
    frames = np.concatenate([record["features"] for record in chosen])
    assert summarize(chosen, compute=True).sequences["features"].mean == pytest.approx(frames.mean(axis=0))
    np.testing.assert_allclose(chosen.statistics["features"].mean, frames.mean(axis=0, dtype=np.float64))
    assert len(source.select({"label": 1}).statistics["features"].mean) == 2
    assert not source.select({"label": 2}).statistics
    dataset = vlpipe.make_dataset(chosen, normalize="global", label=False, seed=1)
    delivered = tf.concat([tf.boolean_mask(x, x[..., 0] != 0) for (x,) in dataset], 0)
    assert abs(float(tf.reduce_mean(delivered))) < 0.2
    assert source.select(rows=range(COUNT)).statistics == source.statistics


def test_an_error_of_a_selection_names_the_record_in_its_file(directory: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from vlpipe.inspection.summary import summarize

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in directory.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    whole = vlpipe.open(copy)
    row = int(np.flatnonzero(whole.index.numbers() > 5)[0])
    entry, where = whole.index.rows[row], whole.index.where(row)
    path = Path(whole.index.shards[entry["shard"]].path)
    content = bytearray(path.read_bytes())
    content[int(entry["offset"]) + 12 + int(entry["bytes"]) - 1] ^= 1
    path.write_bytes(content)
    chosen = whole.select(rows=[*range(max(0, row - 2), row + 1)])
    acts = (
        lambda: list(chosen),
        lambda: summarize(chosen, compute=True),
        lambda: list(vlpipe.make_dataset(chosen, label=False, seed=1)),
        lambda: list(vlpipe.make_dataset(chosen, label=False, seed=1, engine="graph")),
        lambda: list(vlpipe.make_dataset(chosen, label=False, seed=1, engine="stream")),
    )
    for act in acts:
        with pytest.raises((vlpipe.DatasetError, tf.errors.OpError), match=where):
            act()


def test_validation_data_are_normalised_by_the_training_part(source: RecordSet, monkeypatch: Any, tmp_path: Path) -> None:
    from vlpipe.inspection.summary import summarize

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parts = source.split({"train": 0.5, "val": 0.5})
    with pytest.raises(vlpipe.DatasetError, match='the statistics of "features" are unknown'):
        vlpipe.plan(parts["val"], normalize=parts["train"], label=False)
    summarize(parts["train"], compute=True)
    moments = parts["train"].statistics["features"]
    dataset = vlpipe.make_dataset(parts["val"], normalize=parts["train"], label=False, ids=True, seed=1)
    for (x,) in dataset:
        expected = (x["id"].numpy() - moments.mean[0]) / np.sqrt(moments.variance[0])
        np.testing.assert_allclose(x["features"][:, 0, 0], expected, rtol=1e-5)
    whole = vlpipe.plan(parts["val"], normalize=source, label=False, seed=1)
    by_path = vlpipe.plan(parts["val"], normalize=Path(source.index.shards[0].path).parent, label=False, seed=1)
    assert whole.state(0, 1) == by_path.state(0, 1)
    vlpipe.write(tmp_path / "other", [{"features": np.ones((3, 5), np.float32)}])
    vlpipe.write(tmp_path / "named", [{"mel": np.ones((3, 2), np.float32)}])
    for other, message in (
        ("other", r"normalize: the source has frames \[5\], expected a sequence"),
        ("named", r"has only \['mel'\], expected"),
    ):
        with pytest.raises(vlpipe.DatasetError, match=message):
            vlpipe.plan(source, normalize=vlpipe.open(tmp_path / other), label=False)


def test_the_other_functions_take_a_selection(source: RecordSet, tmp_path: Path) -> None:
    from vlpipe.conversion import convert
    from vlpipe.inspection.head import first_records
    from vlpipe.inspection.histogram import bin_sequence

    chosen = source.select({"speaker": "cleo"})
    assert vlpipe.class_weights(chosen.select({"label": [0, 1]})) == {0: 1.0, 1: 1.0}
    assert vlpipe.verify(chosen).ok
    assert vlpipe.verify(source).records == COUNT
    assert [view.id for view in first_records(chosen, 2)] == [2, 7]
    assert sum(bin_sequence(chosen, 3, None, None)[1].records) == len(chosen)
    for workers in (1, 2):
        converted = convert(chosen, tmp_path / f"by {workers}", num_shards=2, workers=workers)
        assert (converted.records, converted.workers) == (len(chosen), workers)
        assert [record["path"] for record in vlpipe.open(tmp_path / f"by {workers}")] == [record["path"] for record in chosen]
    assert vlpipe.open(chosen).index is chosen.index
    assert vlpipe.build_index(chosen) is chosen.index


def test_a_selection_computes_its_statistics(source: RecordSet, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train, validation = source.folds(3)[1]
    with pytest.raises(vlpipe.DatasetError, match=r"`selection.with_statistics\(\)`"):
        vlpipe.make_dataset(train, normalize="global")
    known = train.with_statistics()
    frames = np.concatenate([record["features"] for record in train]).astype(np.float64)
    np.testing.assert_allclose(known.statistics["features"].mean, frames.mean(axis=0))
    np.testing.assert_allclose(known.statistics["features"].variance, frames.var(axis=0))
    again = source.folds(3)[1][0]  # found in the cache
    np.testing.assert_array_equal(again.statistics["features"].mean, known.statistics["features"].mean)
    arguments: dict[str, Any] = {"normalize": known, "shuffle": False, "label": False, "lengths": True, "ids": True}
    seen = []
    for (x,) in vlpipe.make_dataset(validation, batching="pad", dtype="float64", **arguments):
        for values, length, number in zip(x["features"].numpy(), x["lengths"].numpy(), x["id"].numpy().tolist(), strict=True):
            expected = (example(number)["features"].astype(np.float64) - frames.mean(axis=0)) / frames.std(axis=0)
            np.testing.assert_allclose(values[:length], expected, rtol=1e-6, atol=1e-9)
            seen.append(number)
    assert sorted(seen) == validation.table()["id"].tolist()
    vlpipe.make_dataset(again, normalize="global")
    shard = dataclasses.replace(source.index.shards[0], path="gs://bucket/a.tfrecord")
    away = dataclasses.replace(source, index=dataclasses.replace(source.index, shards=(shard,)))
    with pytest.raises(vlpipe.ArgumentError, match="gs://bucket/a.tfrecord is at an address, but all frames are read, of local files only"):
        away.with_statistics()


def test_open_sources_in_a_list_are_joined_by_a_mix(source: RecordSet) -> None:
    first, second = source.folds(2)[0]
    for use in (vlpipe.open, vlpipe.plan, vlpipe.make_dataset, vlpipe.verify):
        with pytest.raises(vlpipe.ArgumentError, match="entry 1 of the list is an open source of .* records, and a list has paths only"):
            use([source.index.shards[0].path, second])
    joined = vlpipe.mix([(first, len(first)), (second, len(second))])
    assert set(joined.rates) == {1.0}
    assert len(joined) == len(source)


def test_damaged_records_are_left_out(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in directory.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    whole = vlpipe.open(copy)
    for row in (7, 30):
        entry = whole.index.rows[row]
        path = Path(whole.index.shards[entry["shard"]].path)
        content = bytearray(path.read_bytes())
        content[int(entry["offset"]) + 12 + int(entry["bytes"]) - 1] ^= 1
        path.write_bytes(content)
    report = vlpipe.verify(whole)
    intact = whole.select(without=report)
    assert sorted(set(range(COUNT)) - set(intact.table()["id"].tolist())) == [7, 30]
    assert whole.select({"label": 3}).select(without=report).table()["id"].tolist() == [n for n in range(COUNT) if n % 4 == 3 and n != 7]
    assert len(whole.select(without=dataclasses.replace(report, problems=(), unlisted=7))) == COUNT - 2  # listed or not
    with pytest.raises(vlpipe.ArgumentError, match="without: came as list .*, expected what vlpipe.verify returned"):
        whole.select(without=[7])


CASES = cases()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_third_party_files(name: str, engine: str, tmp_path: Path) -> None:
    """Every layout: the table, single records, and a selection in every engine."""
    case = CASES[name]
    path = write(tmp_path / "files.tfrecord", case.records)
    source = vlpipe.open(path, layout=case.layout)
    table, records = source.table(), list(source)
    assert len(records) == len(source) == len(table["id"]) == len(case.records)
    for column in set(table) - {"id", "frames", "seconds"}:
        assert [record[column.removeprefix("field:")] for record in records] == table[column].tolist()
    chosen = source.select(rows=[9, 4, 0, 17])
    np.testing.assert_equal(list(chosen), [records[row] for row in (9, 4, 0, 17)])
    frames, _, _ = read(chosen, engine, features=case.key)
    assert sorted(frames) == [0, 4, 9, 17]
    for row, values in frames.items():
        np.testing.assert_array_equal(values, case.frames[row])
    assert vlpipe.verify(chosen, case.layout).ok


def test_the_repr_is_a_small_table(source: RecordSet) -> None:
    assert repr(source.select({"label": 1})).splitlines() == [
        "records   15 of 60 in 3 files",
        "hours     0.00",
        "selected  label=1",
        "features  [T, 2] float32, T from 4 to 50",
        "label     int64",
        "speaker   text, 5 different: ann, bob, cleo, dora, ém",
        "score     float32",
        "path      text, 15 different: 0001.wav, 0005.wav, 0009.wav, 0013.wav, 0017.wav,",
        "          0021.wav, 0025.wav, 0029.wav and 7 more",
    ]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda s: s.select({"speeker": "ann"}),
            "where: 'speeker' is not a column of the source; its columns are id, frames,",
        ),
        (lambda s: s.select(lambda t: t["speeker"]), "where: 'speeker' is not a column of the source; its columns are id, frames,"),
        (lambda s: s.select({"speaker": "zoe"}), """where: "speaker" has no 'zoe'; it has ann, bob, cleo, dora, ém"""),
        (lambda s: s.select({"frames": (1000, None)}), 'matches no record of the source: "frames" has 1 to 50'),
        (lambda s: s.select(lambda t: t["frames"] < 0), "matches no record of the source: there are 60 records"),
        (lambda s: s.select([3]), r"where: came as \[3\], expected a dict such as"),
        (lambda s: s.select(lambda t: t["frames"]), r"where: the function returned int64 \[60\], expected bool \[60\]"),
        (lambda s: s.select({"label": "dgo"}), 'where: "label" has no class dgo .did you mean .*; its classes are cat, dog, eel, fox'),
        (lambda s: s.select({"score": "dog"}), """where: "score" holds numbers without names, but the condition has 'dog'"""),
        (lambda s: s.select({"speaker": 3}), 'where: "speaker" is a text, but the condition has 3; expected one text or a list'),
        (lambda s: s.select({"path": [3]}), 'where: "path" is a text, but the condition has 3'),
        (lambda s: s.select({"label": [None]}), 'where: "label" is int64, but the condition has None; expected numbers'),
        (lambda s: s.select({"label": (1, 2, 3)}), r"\(1, 2, 3\), expected \(least, greatest\) as numbers or None. For values pass a list"),
        (lambda s: s.select(rows=[1, 1]), "rows: a position is there twice; name each record once"),
        (lambda s: s.select(rows=["a"]), "rows: came as .*, expected positions from 0 to 59"),
        (lambda s: s.select(rows=[60]), "rows: 60 is outside the source, which has 60 records; expected positions from -60 to 59"),
        (lambda s: s.select(rows=np.array([2**64 - 1], np.uint64)), "rows: 18446744073709551615 is outside"),
        (lambda s: s.select(rows={1: 2}), "rows: came as {1: 2}, expected positions from 0 to 59"),
        (lambda s: s.select(rows="12"), "rows: came as '12', expected positions from 0 to 59"),
        (lambda s: s.select(rows=[]), "select: no record is left of the 60 records of the source"),
        (lambda s: s.select(fraction=0.001), "select: no record is left of the 60 records"),
        (lambda s: s.select(fraction=1.5), "fraction: came as 1.5, expected a number above 0, at most 1"),
        (lambda s: s.split({}), "split: came as {}, expected a dict of fractions"),
        (lambda s: s.split({"a": 0.5, "b": 0.4}), "split: the parts .* add up to 0.9, expected 1"),
        (lambda s: s.split({"a": 0, "b": 1}), r"split\['a'\]: came as 0, expected a fraction above 0, at most 1"),
        (lambda s: s.split({"a": 0.999, "b": 0.001}), "split: 'b' gets none of the 60 records. Pass a larger fraction than 0.001"),
        (
            lambda s: s.folds(6, by="speaker"),
            r'folds: by="speaker" has 5 different values \(ann, .*\), fewer than the 6 parts, and',
        ),
        (lambda s: s.folds(61), "folds: came as 61, expected an integer from 2 to 60, the number of records"),
        (lambda s: s.folds(2, by="x"), "by: 'x' is not a column"),
        (lambda s: s.folds(2, stratify="features"), "stratify: 'features' is not a column"),
        (
            lambda s: s.select(rows=range(13)).folds(4, stratify="label"),
            r"not enough records of 1 \(3 records\), 2 .* for one in each of 4",
        ),
        (lambda s: vlpipe.make_dataset(s, layout="audioset"), "layout: came as 'audioset', but the source is open already"),
    ],
)
def test_refusals(source: RecordSet, act: Any, message: str) -> None:
    with pytest.raises(vlpipe.ArgumentError, match=message):
        act(source)


@pytest.mark.parametrize("row", [60, -61])
def test_a_row_outside_the_source(source: RecordSet, row: int) -> None:
    with pytest.raises(IndexError, match=f"record {row}: the source has 60 records, from 0 to 59"):
        source[row]
    with pytest.raises(IndexError, match=f"rows: {row} is outside the source, which has 60 records"):
        source[[row]]


def test_rows_are_indexed_as_in_numpy(source: RecordSet) -> None:
    assert source[np.array(3)]["path"] == source[np.int64(3)]["path"] == source[3]["path"] == "0003.wav"
    assert [record["path"] for record in source[np.array([3, -1], np.int8)]] == ["0003.wav", "0059.wav"]
    assert [record["path"] for record in source[58:]] == ["0058.wav", "0059.wav"]
    for rows in ({1: 2}, {1, 2}, "12", b"1"):
        with pytest.raises(TypeError, match="is no position of a record; expected an integer, a list, an array or a slice"):
            source[rows]  # type: ignore[index]
    with pytest.raises(TypeError, match="slice indices must be integers"):
        source["a":"b"]  # type: ignore[misc]
    for rows in (np.array([True, False]), [1.5], None):
        with pytest.raises(vlpipe.ArgumentError, match="rows: came as"):
            source[rows]  # type: ignore[index]


def test_a_report_of_other_files_is_refused(source: RecordSet, directory: Path, tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "other", [example(n) for n in range(3)], SCHEMA)
    other = vlpipe.verify(tmp_path / "other")
    assert other.ok
    with pytest.raises(
        vlpipe.ArgumentError, match="without: the report is of other files, such as .*other.* Pass the result of vlpipe.verify.source."
    ):
        source.select(without=other)
    assert len(source.select(without=vlpipe.verify(source.index.shards[0].path))) == COUNT  # some of the files


def test_a_part_without_a_class_is_logged(source: RecordSet, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "vlpipe"):
        source.select(rows=range(10)).split({"a": 0.8, "b": 0.2}, stratify="label")
    assert 'split: stratify="label": not every part has records of' in caplog.text


def test_names_that_columns_have_already(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((n, 1), np.float32), "id": f"utt{n}", "frames": n + 1} for n in (3, 5)])
    table = vlpipe.open(tmp_path / "d").table()
    assert (table["id"].tolist(), table["field:id"].tolist()) == ([0, 1], ["utt3", "utt5"])
    assert (table["frames"].tolist(), table["field:frames"].tolist()) == ([3, 5], [4, 6])


def test_an_empty_dataset(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [], SCHEMA)
    source = vlpipe.open(tmp_path / "d")
    assert (len(source), list(source), source.table()["path"].tolist()) == (0, [], [])
    assert "records" in repr(source)
