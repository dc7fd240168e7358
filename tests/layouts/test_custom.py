"""Custom layouts: the user's own functions, for records of any kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.engines.test_engines import digest
from tests.helpers.foreign_files import place, read, write
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.inspection.summary import summarize
from vlpipe.layouts import Layout
from vlpipe.sources.compute_statistics import with_statistics
from vlpipe.sources.foreign import build_index as build
from vlpipe.sources.records import Records

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
RANDOM = np.random.default_rng(2)
FRAMES = [RANDOM.normal(size=(t, 3)).astype("f4") for t in (4, 0, 9, 1, 7, 7, 2, 5)]
LABELS = [1, 5, 2, 0, 3, 3, 9, 4]


def parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Parse a record of four bytes for the label, followed by the frames."""
    label = tf.io.decode_raw(tf.strings.substr(data, 0, 4), tf.int32)[0]
    return tf.reshape(tf.io.decode_raw(tf.strings.substr(data, 4, -1), tf.float32), [-1, 3]), label


def length(data: bytes) -> int:
    return (len(data) - 4) // 12


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    records = [np.int32(label).tobytes() + x.tobytes() for x, label in zip(FRAMES, LABELS, strict=True)]
    return write(tmp_path / "a.tfrecord", records)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("length_fn", [None, length, lambda data: np.int64(length(data)), lambda data: tf.constant(length(data))])
def test_the_results_of_parse_fn_are_delivered(path: Path, engine: str, length_fn: Any) -> None:
    frames, labels, _ = read(path, engine, layout=Layout.custom(parse, length_fn))
    assert [frames[number].tolist() for number in range(8)] == [x.tolist() for x in FRAMES]
    assert [int(labels[number]) for number in range(8)] == LABELS


def test_parse_fn_with_a_python_loop_that_returns_only_x(path: Path) -> None:
    def reversed_frames(data: tf.Tensor) -> tf.Tensor:
        x, _ = parse(data)
        y = tf.zeros([0, 3])
        for step in tf.range(tf.shape(x)[0]):  # converted by AutoGraph, as in Dataset.map
            tf.autograph.experimental.set_loop_options(shape_invariants=[(y, tf.TensorShape([None, 3]))])
            y = tf.concat([x[step : step + 1], y], 0)
        return y

    index = vlpipe.build_index(path, Layout.custom(reversed_frames))
    assert list(index.schema.fields) == ["features"]
    with Records(index) as records:
        assert records.values(2)["features"].tolist() == FRAMES[2][::-1].tolist()


def many(data: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return two sequences of frames, a list, a text and a vector."""
    x, label = parse(data)
    label = tf.cast(label, tf.int64)
    return {
        "mel": x,
        "slow": x[::2],
        "text": tf.strings.as_string(label),
        "units": tf.range(tf.cast(label, tf.int32)),
        "vector": tf.one_hot(label, 10),
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_of_field(path: Path, engine: str) -> None:
    dataset = vlpipe.make_dataset(
        path,
        layout=Layout.custom(many),
        features=("mel", "slow"),
        label=("units", "text", "vector"),
        engine=engine,
        lengths=True,
        ids=True,
        length_range=(0, None),
        batch_size=3,
        label_padding=-3,
    )
    seen = 0
    for x, y in dataset:
        for row, number in enumerate(x["id"].numpy().tolist()):
            t, slow, units = (int(x["mel_lengths"][row]), int(x["slow_lengths"][row]), int(x["units_lengths"][row]))
            assert np.array_equal(x["mel"][row, :t], FRAMES[number])
            assert np.array_equal(x["slow"][row, :slow], FRAMES[number][::2])
            assert not x["slow"][row, slow:].numpy().any()
            assert y["units"][row].numpy().tolist() == list(range(LABELS[number])) + [-3] * (y["units"].shape[1] - LABELS[number])
            assert (units, y["text"][row].numpy()) == (LABELS[number], str(LABELS[number]).encode())
            assert y["vector"][row].numpy().tolist() == np.eye(10)[LABELS[number]].tolist()
            seen += 1
    assert seen == len(FRAMES)
    with Records(vlpipe.build_index(path, Layout.custom(many))) as records:
        values = records.values(5)
        assert (values["text"], values["units"].tolist(), values["slow"].tolist()) == (b"3", [0, 1, 2], FRAMES[5][::2].tolist())


@pytest.mark.parametrize(
    "arguments",
    [
        {"batching": "ragged"},
        {"pad_to": "boundary", "remainder": "pad"},
        {"crop": vlpipe.Crop(3, random=True)},
        {"normalize": "utterance", "augment": vlpipe.SpecAugment(time_width=2, frequency_width=1)},
        {"length_range": (0, 3), "out_of_range": "truncate", "dtype": "float16"},
        {"shard": (1, 2), "remainder": "drop"},
    ],
    ids=str,
)
def test_both_engines_deliver_the_same_bytes(path: Path, arguments: dict[str, Any]) -> None:
    arguments = {"length_range": (0, None), "lengths": True, "seed": 3, "batch_size": 3, "layout": Layout.custom(parse)} | arguments
    digests = {digest(vlpipe.make_dataset(path, engine=engine, **arguments)) for engine in ("mapped", "graph")}
    assert len(digests) == 1


def test_a_function_is_traced_once(path: Path) -> None:
    traced: list[str] = []

    def recording_parse(data: tf.Tensor) -> dict[Any, tf.Tensor]:
        traced.append("parse")
        x, label = parse(data)
        return {0: x, 1: label}  # any key, as in Dataset.map

    @tf.function
    def recording_length(data: tf.Tensor) -> tf.Tensor:
        traced.append("length")
        return (tf.strings.length(data) - 4) // 12

    index = vlpipe.build_index(path, Layout.custom(recording_parse, recording_length))
    with Records(index) as records:
        assert [records.values(row)["0"].tolist() for row in range(8)] == [x.tolist() for x in FRAMES]
    assert sorted(traced) == ["length", "parse"]


def test_the_function_alone_says_what_there_is() -> None:
    with pytest.raises(ArgumentError, match=r"only: came as \('label',\), but parse_fn of a custom layout says what is delivered"):
        Layout.custom(parse).only("label")


def test_only_a_named_layout_is_cached(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    extract = build.extract
    monkeypatch.setattr(build, "extract", lambda path, layout: read.append(path) or extract(path, layout))
    for layout in (Layout.custom(parse), Layout.custom(parse, length, name="one"), Layout.custom(parse, name="two")):
        for _ in range(2):
            assert vlpipe.build_index(path, layout).frames("features").tolist() == list(map(len, FRAMES))
    assert len(read) == 2 + 1 + 1
    # A function that disagrees with the cached index is detected when the records are read.
    changed = Layout.custom(lambda data: (parse(data)[0][1:], parse(data)[1]), name="one")
    wrong = Layout.custom(lambda data: parse(data)[0], lambda data: 6)
    assert vlpipe.build_index(path, changed).frames("features").tolist() == list(map(len, FRAMES))
    shorter = [f'{place(path, n)}: "features" has {len(x) - 1} frames, the index says {len(x)}' for n, x in enumerate(FRAMES)]
    six = [f'{place(path, n)}: "features" has {len(x)} frames, the index says 6' for n, x in enumerate(FRAMES)]
    for engine in ENGINES:
        for layout, messages in ((changed, shorter), (wrong, six)):
            message = rf"({'|'.join(messages)})\. Fix the layout's functions, then change its `name` so that"
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                list(vlpipe.make_dataset(path, layout=layout, engine=engine, shuffle=False, length_range=(0, None), batch_size=2))
            assert re.search(message, str(caught.value.message).replace("\\", ""))


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((3,), "parse_fn: came as 3, expected a function that takes a serialized record, a string tensor"),
        ((parse, 3), "length_fn: came as 3, expected a function that takes a serialized record, or None"),
        (
            (lambda data: data.shape[0][1],),
            r"parse_fn: fails when it is traced with a string tensor \(IndexError: .*\). Use TensorFlow operations",
        ),
        ((lambda data: (1, 2, 3),), "parse_fn: returns 3 values, expected x, "),
        ((lambda data: data,), r"parse_fn: returns \['features'\], but no sequence of frames \[T, ...\]; expected"),
        ((lambda data: tf.strings.split([data]),), 'parse_fn: "features" is a RaggedTensor, expected a dense tensor, as from'),
        (
            (lambda data: tf.zeros([len(data.shape), tf.strings.length(data)]),),
            r'parse_fn: "features" has shape .*expected \[T, ...\] with known sizes',
        ),
        (
            (lambda data: (parse(data)[0], tf.zeros([], tf.float64)),),
            r'parse_fn: "label" has dtype float64 .* Cast it to one of float32, float16, uint8, ',
        ),
        ((lambda data: tf.strings.split(data),), 'parse_fn: "features" has dtype string .*, which no field supports. Cast it'),
        ((many, length), r"length_fn: counts the frames of one sequence, but parse_fn returns \['mel', 'slow'\]"),
    ],
)
def test_invalid_functions_are_refused(functions: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Layout.custom(*functions)
    with pytest.raises(ArgumentError, match="layout: name came as ''"):
        Layout.custom(parse, name="")


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((parse, lambda data: -1), "the layout's custom function returns -1 frames, expected a number from 0"),
        ((parse, lambda data: 1.5), r"the layout's custom function fails \(ValueError: 1.5 is not an integer"),
        ((parse, lambda data: data["x"]), r"the layout's custom function fails \(TypeError"),
        (
            (lambda data: tf.ensure_shape(tf.io.parse_tensor(data, tf.float32), [None, 3]),),
            r"the layout's custom function fails \(InvalidArgumentError",
        ),
    ],
)
def test_functions_that_fail_for_a_record(path: Path, functions: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"a.tfrecord, record 0 at byte 0: {message}"):
        vlpipe.build_index(path, Layout.custom(*functions))


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_files(path: Path, compression: str) -> None:
    records = [np.int32(label).tobytes() + x.tobytes() for x, label in zip(FRAMES, LABELS, strict=True)]
    packed = write(path.parent / "b.tfrecord", records, compression)
    frames, _, _ = read(packed, "auto", layout=Layout.custom(parse))
    assert [frames[number].tolist() for number in range(8)] == [x.tolist() for x in FRAMES]


def test_statistics_that_an_index_of_custom_functions_does_not_have(path: Path) -> None:
    summary = summarize(path, layout=Layout.custom(many))
    assert {name: sequence.lengths.frames for name, sequence in summary.sequences.items() if sequence.lengths} == {
        "mel": 35,
        "slow": 20,
        "units": 27,
    }
    assert not summary.labels
    weights = vlpipe.class_weights(path, layout=Layout.custom(parse))  # counted from the records
    assert {label: weights[label] for label in LABELS} == {label: 8 / (7 * LABELS.count(label)) for label in LABELS}
    with pytest.raises(DatasetError, match='normalize="global": the statistics of "features"'):
        vlpipe.plan(path, layout=Layout.custom(parse), normalize="global", length_range=(0, None))


@pytest.mark.parametrize("length_fn", [None, length])
def test_verify_finds_each_record_that_the_function_fails_on(path: Path, length_fn: Any) -> None:
    layout = Layout.custom(parse, length_fn)
    assert (vlpipe.verify(path, layout).ok, vlpipe.verify(path, layout).layout) == (True, "custom")
    records = [np.int32(label).tobytes() + x.tobytes() for x, label in zip(FRAMES, LABELS, strict=True)]
    if length_fn is None:  # not an integral number of frames, which `length` does not detect
        records[2], records[6] = records[2][:-1], b""
    else:
        layout = Layout.custom(parse, lambda data: -1 if data in (records[2], records[6]) else length(data))
    write(path, records)
    report = vlpipe.verify(path, layout)
    assert [(problem.record, problem.kind) for problem in report.problems] == [(2, "example"), (6, "example")]
    assert (report.damaged, report.records) == (2, 8)
    for problem in report.problems:
        assert problem.found.startswith("the layout's custom function " + ("fails (" if length_fn is None else "returns -1 frames"))
        assert problem.action == "Fix the function, or leave the file out."


def test_statistics_are_computed_in_this_process(path: Path) -> None:
    other = write(path.parent / "b.tfrecord", [np.int32(1).tobytes() + FRAMES[2].tobytes()])
    index = vlpipe.build_index([path, other], Layout.custom(lambda data: parse(data)))  # a lambda cannot be sent to another process
    moments = with_statistics(index, workers=2).statistics["features"]
    whole = np.concatenate([*FRAMES, FRAMES[2]]).astype(np.float64)
    np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, whole.var(axis=0), rtol=1e-12)
