"""Third-party files with every kind of key: each key is kept bit by bit, or refused by name; nothing vanishes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints, sequence_example, write
from tests.helpers.foreign_keys import COUNTS, LABELS, RECORDS, Keys, X, files
from vlpipe import layouts
from vlpipe.conversion import convert
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.sources.open import open_anywhere
from vlpipe.sources.records import Records
from vlpipe.storage.metadata import open_directory

pytestmark = pytest.mark.usefixtures("quick_graphs")

FILES = files()
KEPT = [name for name, keys in FILES.items() if not keys.refused]
REFUSED = [name for name, keys in FILES.items() if keys.refused]
ENGINES = ("mapped", "graph", "stream")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_file(path: Path, keys: Keys) -> Path:
    return write(path / "a.tfrecord", keys.records)


def same_bits(found: Any, expected: Any) -> bool:
    if isinstance(expected, bytes):
        return bool(found == expected)
    expected = np.asarray(expected)
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", KEPT)
def test_every_value_is_kept_bit_by_bit(tmp_path: Path, name: str) -> None:
    keys = FILES[name]
    source = write_file(tmp_path, keys)
    convert(source, tmp_path / "d", layout=keys.layout, num_shards=2)
    expected = {"x": X, "label": [np.int64(label) for label in LABELS], **keys.kept}
    index = open_directory(tmp_path / "d")
    assert set(index.schema.fields) == set(expected)
    with Records(index) as there, Records(open_anywhere(source, keys.layout)) as here:
        for row in range(RECORDS):
            for records in (there, here):
                values = records.values(row)
                for key, known in expected.items():
                    assert same_bits(values[key], known[row]), (row, key)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    keys = FILES[name]
    source = write_file(tmp_path, keys)
    for _ in range(2):  # the second time, from the cached index
        with pytest.raises(SchemaError, match="not converted, because these keys cannot be delivered and would be lost: ") as caught:
            convert(source, tmp_path / "d", layout=keys.layout)
        for key, reason in keys.refused.items():
            assert f"{key!r}: " in str(caught.value)
            assert reason in str(caught.value)
        assert f"Leave them out with layout=vlpipe.layouts.{keys.layout.name}(...).only()" in str(caught.value)
    assert not (tmp_path / "d").exists()
    with caplog.at_level(logging.WARNING, "vlpipe"):
        vlpipe.make_dataset(source, layout=keys.layout, length_range=(0, None))
    (said,) = [record.getMessage() for record in caplog.records if "cannot be delivered" in record.getMessage()]
    assert all(f"{key!r}: " in said and reason in said for key, reason in keys.refused.items())
    for key, reason in keys.refused.items():
        with pytest.raises(SchemaError, match="(?s)label: the schema has no field .*: this key cannot be delivered \\(") as caught:
            vlpipe.make_dataset(source, layout=keys.layout, length_range=(0, None), label=key)
        assert reason in str(caught.value)
    convert(source, tmp_path / "d", layout=keys.layout.only())
    assert list(open_directory(tmp_path / "d").schema.fields) == ["x", "label"]
    caplog.clear()
    vlpipe.make_dataset(source, layout=keys.layout.only(), length_range=(0, None))
    assert not caplog.records


@pytest.mark.parametrize("name", [name for name in REFUSED if "late" not in name])
def test_inspect_shows_what_cannot_be_delivered_and_only_refuses_it(tmp_path: Path, name: str) -> None:
    keys = FILES[name]
    source = write_file(tmp_path, keys)
    shown = vlpipe.inspect(str(source)).cannot_be_delivered
    for key, reason in keys.refused.items():
        assert reason in shown[key]
        if key.isprintable():
            with pytest.raises(SchemaError, match=rf'layout: only\[.*\]: "{key}" cannot be delivered: .*Leave it out of only\(') as caught:
                vlpipe.make_dataset(source, layout=keys.layout.only(key))
            assert reason in str(caught.value)


@pytest.mark.parametrize(("native", "engine"), [(False, "mapped"), (False, "graph or stream"), (True, "mapped")])
@pytest.mark.parametrize("name", KEPT)
def test_every_engine_delivers_every_key(tmp_path: Path, name: str, native: bool, engine: str) -> None:
    """Sequences are labels, and then features; the default feature stays the one of the layout."""
    if engine != "mapped":
        engine = ("graph", "stream")[KEPT.index(name) % 2]
    keys = FILES[name]
    source: Any = write_file(tmp_path, keys)
    arguments: dict[str, Any] = {"engine": engine, "ids": True, "lengths": True, "length_range": (0, None), "batch_size": 8}
    if native:
        convert(source, tmp_path / "d", layout=keys.layout)
        source = tmp_path / "d"
    else:
        arguments["layout"] = keys.layout
    if name != "several rates":
        assert vlpipe.plan(source, **arguments).selection.features == ("x",)
    seen = 0
    for x, y in vlpipe.make_dataset(source, features="x", label=("label", *keys.kept), **arguments):
        for row, number in enumerate(x["id"].numpy().tolist()):
            seen += 1
            assert np.array_equal(x["features"][row, : len(X[number])], X[number])
            for key, known in keys.kept.items():
                count = x.get(f"{key}_lengths")
                value, expected = y[key][row].numpy(), known[number]
                if count is not None:
                    assert int(count[row]) == len(expected)
                    assert (value[len(expected) :] == -1).all()
                    value = value[: len(expected)]
                assert np.array_equal(value, expected), (number, key)
    assert seen == RECORDS
    sequences = [key for key, known in keys.kept.items() if isinstance(known[0], np.ndarray) and known[0].ndim and key not in ("v", "snr")]
    if not sequences or (engine != "mapped" and KEPT.index(name) % 4 > 1):
        return
    for (x,) in vlpipe.make_dataset(source, features=("x", *sequences), label=False, **arguments):
        for row, number in enumerate(x["id"].numpy().tolist()):
            for key in sequences:
                count = int(x[f"{key}_lengths"][row])
                assert np.array_equal(x[key][row, :count].numpy(), keys.kept[key][number])


def test_a_feature_list_in_an_unusual_encoding(tmp_path: Path) -> None:
    """Integers that are not packed, and a list in two parts, are read as TensorFlow's own protocol buffers read them."""
    unpacked = b"\x0a\x06\x1a\x04\x08\x05\x08\x07"  # a step with 5 and 7
    packed = tf.train.FeatureList(feature=[ints(5, 7)]).SerializeToString()

    def entry(content: bytes) -> bytes:
        inner = b"\x0a\x01p\x12" + bytes([len(content)]) + content
        return b"\x0a" + bytes([len(inner)]) + inner

    def record(content: bytes) -> bytes:
        lists = tf.train.FeatureLists(feature_list={"x": tf.train.FeatureList(feature=[floats(np.ones(5))] * 2)}).SerializeToString()
        lists += entry(content)
        return b"\x12" + bytes([len(lists)]) + lists

    records = [record(packed), record(unpacked + packed), record(packed + packed), record(b"")]
    expected = [
        [list(step.int64_list.value) for step in tf.train.SequenceExample.FromString(data).feature_lists.feature_list["p"].feature]
        for data in records
    ]
    assert expected[1] == [[5, 7], [5, 7]]
    path = write(tmp_path / "a.tfrecord", records)
    for engine in ENGINES:
        for x, y in vlpipe.make_dataset(path, layout=layouts.float_frames("x"), label="p", engine=engine, ids=True, lengths=True):
            for row, number in enumerate(x["id"].numpy().tolist()):
                assert y[row, : int(x["label_lengths"][row])].numpy().tolist() == expected[number]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (ints(1, 2), r'"p", at byte \d+, is no list of 1 integers a step: step 1 has 2 integers, expected 1'),
        (floats([1]), r'"p", at byte \d+, is no list of 1 integers a step: step 1 has values of kind float, expected int64'),
        (tf.train.Feature(), r'"p", at byte \d+, is no list of 1 integers a step: step 1 has values of kind empty, expected int64'),
    ],
)
def test_a_later_step_of_another_kind(tmp_path: Path, step: Any, message: str) -> None:
    good = sequence_example({}, {"x": [floats(np.ones(5))], "p": [ints(3)]})
    records = [good] * RECORDS + [sequence_example({}, {"x": [floats(np.ones(5))], "p": [ints(3), step]})]
    path = write(tmp_path / "a.tfrecord", records)
    with pytest.raises(DatasetError, match=rf"a.tfrecord, record {RECORDS} at byte \d+: {message}"):
        vlpipe.build_index(path, layouts.float_frames("x"))
    assert len(vlpipe.build_index(path, layouts.float_frames("x").only())) == RECORDS + 1


def test_late_keys_of_several_files_and_of_irregular_records(tmp_path: Path) -> None:
    usual = example({"x": floats(np.ones(3)), "label": ints(1)})
    twice = usual + example({"odd": ints(1)})  # a record in two parts, which is read on its own
    paths = [
        write(tmp_path / "a.tfrecord", [usual] * 40 + [twice]),
        write(tmp_path / "b.tfrecord", [usual] * 36 + [example({"x": floats(np.ones(3)), "label": ints(1), "ä" * 20: ints(1)})] * 2),
    ]
    foreign = vlpipe.build_index(paths, layouts.float_list("x", d=3)).foreign
    assert foreign is not None
    assert {key: reason.split("appears in ")[1] for key, reason in foreign.left_out.items()} == {
        "odd": "a.tfrecord, record 40",
        "ä" * 20: "b.tfrecord, record 36",
    }


@pytest.mark.parametrize(
    ("default", "message"),
    [
        ({"a": "text"}, r"layout: default\['a'\] came as 'text', expected int64 or float32 numbers"),
        ({"a": []}, r"layout: default\['a'\] came as \[\], expected int64 or float32 numbers"),
        ({"a": 2**63}, r"layout: default\['a'\] came as 9223372036854775808, expected int64 or float32 numbers"),
        ({"a": 1e300}, r"layout: default\['a'\] came as 1e\+300, expected int64 or float32 numbers"),
        (3, "layout: default came as 3, expected the values of records without a key, such as"),
    ],
)
def test_defaults_that_are_refused(default: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        layouts.float_list("x", d=3, default=default)
    with pytest.raises(ArgumentError, match=r"layout: d names \['y'\], but the keys of the frames are \['x'\]"):
        layouts.float_list("x", d={"x": 3, "y": 2})
    with pytest.raises(ArgumentError, match="layout: the number of values in a frame is not specified"):
        layouts.float_list("x", "y", d={"x": 3})


def test_a_default_may_be_a_label_on_every_engine(tmp_path: Path) -> None:
    records = [example({"x": floats(X[n]), **({"task": ints(n)} if n % 4 == 0 else {})}) for n in range(RECORDS)]
    path = write(tmp_path / "a.tfrecord", records)
    layout = layouts.float_list("x", d=3, label="task", default={"task": -7})
    for engine in ENGINES:
        for x, y in vlpipe.make_dataset(path, layout=layout, engine=engine, ids=True, length_range=(0, None)):
            assert y.numpy().tolist() == [n if n % 4 == 0 else -7 for n in x["id"].numpy().tolist()]
    assert sum(COUNTS) > 0
