"""Files of every layout, written with TensorFlow, are delivered by every engine with the same frames, lengths and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.engines.test_engines import digest
from tests.helpers.foreign_files import (
    Case,
    audio_file,
    cases,
    example,
    floats,
    ints,
    place,
    prepared_directory,
    raw,
    read,
    sequence_example,
    write,
)
from vlpipe import layouts
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.layouts.registry import from_json, to_json

pytestmark = pytest.mark.usefixtures("quick_graphs")

CASES = cases()
ENGINES = ("mapped", "graph")  # deliver records in the same order
EVERY_ENGINE = (*ENGINES, "stream")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two files for each case."""
    root = tmp_path_factory.mktemp("foreign")
    for name, case in CASES.items():
        write(root / name / "a.tfrecord", case.records[:9])
        write(root / name / "b.tfrecord", case.records[9:])
    return {name: root / name for name in CASES}


def layout_arguments(case: Case) -> dict[str, Any]:
    return {"layout": case.layout, "features": case.key}


@pytest.mark.parametrize("engine", EVERY_ENGINE)
@pytest.mark.parametrize("name", CASES)
def test_the_written_values_are_delivered(files: dict[str, Path], name: str, engine: str) -> None:
    case = CASES[name]
    frames, labels, label_lengths = read(str(files[name] / "*.tfrecord"), engine, **layout_arguments(case))
    assert sorted(frames) == list(range(len(case.records)))
    for number, expected in enumerate(case.frames):
        assert np.array_equal(frames[number], expected.astype("f4"))
        label = case.labels[number]
        if isinstance(label, list):
            assert label_lengths[number] == len(label)
            assert labels[number].tolist() == label + [-1] * (len(labels[number]) - len(label))
        else:
            assert np.array_equal(labels[number], label)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("float_list", {"batching": "ragged"}),
        ("raw big", {"pad_to": "boundary"}),
        ("raw big", {"batching": "ragged"}),
        ("float frames", {"batching": "same_length"}),
        ("audioset", {"batching": "same_length", "dtype": "uint8", "padding_value": 9}),
        ("youtube8m", {"batching": "ragged", "dtype": "float16"}),
        ("youtube8m", {"batching": "pad"}),  # the padding value 0 is not the value of any byte
    ],
)
def test_both_engines_deliver_the_same_bytes(files: dict[str, Path], name: str, arguments: dict[str, Any]) -> None:
    arguments = {**arguments, "length_range": (0, 12), "out_of_range": "truncate", "lengths": True, "seed": 3, "batch_size": 5}
    digests = {digest(vlpipe.make_dataset(files[name], engine=engine, **layout_arguments(CASES[name]), **arguments)) for engine in ENGINES}
    assert len(digests) == 1


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].detected])
def test_an_unambiguous_layout_is_detected(files: dict[str, Path], name: str) -> None:
    case = CASES[name]
    arguments: dict[str, Any] = {"features": case.key, "length_range": (0, None)}
    assert vlpipe.plan(files[name], **arguments).total == len(case.records)
    guessed, named = (vlpipe.build_index(files[name], layout) for layout in (None, case.layout))
    assert guessed.schema.sequences[case.key] == named.schema.sequences[case.key]
    assert np.array_equal(guessed.frames(case.key), [len(frames) for frames in case.frames])
    assert guessed.foreign is not None
    assert guessed.foreign.label == case.layout.label


def test_an_ambiguous_layout_is_refused_with_the_candidates(files: dict[str, Path]) -> None:
    with pytest.raises(
        SchemaError, match=r"layout=vlpipe.layouts.float_list\('x', d=..., label='label'\) \(60%: 0 to 140 floats in x, all"
    ) as caught:
        vlpipe.make_dataset(files["float_list"])
    assert "vlpipe did not write this file (there is no vlpipe.json beside it), and its records may have layout=" in str(caught.value)


def test_bytes_above_127_are_unsigned(files: dict[str, Path]) -> None:
    for engine in ENGINES:
        frames, _, _ = read(files["audioset"], engine, layout="audioset")
        assert frames[1][0, :3].tolist() == [127, 128, 255]
        x = next(iter(vlpipe.make_dataset(files["audioset"], layout="audioset", engine=engine, dtype="uint8", length_range=(0, None))))[0]
        assert x.dtype == tf.uint8
        assert int(tf.reduce_max(x)) == 255


def test_youtube8m_is_dequantised_as_its_reader_does(files: dict[str, Path]) -> None:
    parsed = tf.io.parse_single_sequence_example(
        CASES["youtube8m"].records[2], sequence_features={"rgb": tf.io.FixedLenSequenceFeature([], tf.string)}
    )[1]["rgb"]
    quantised = tf.cast(tf.reshape(tf.io.decode_raw(parsed, tf.uint8), [-1, 1024]), tf.float32)
    expected = quantised * (4 / 255.0) + (4 / 512.0) - 2  # Dequantize(feat_vector, 2, -2) in the published reader
    frames, _, _ = read(files["youtube8m"], "mapped", layout="youtube8m", features="rgb")
    np.testing.assert_allclose(frames[2], expected, rtol=0, atol=1e-6)
    assert frames[2].min() >= -2
    assert frames[2].max() <= 2.01
    with pytest.raises(SchemaError, match="dtype='uint8': \"rgb\" is de-quantised to fractions, which would be lost"):
        vlpipe.make_dataset(files["youtube8m"], layout="youtube8m", features="rgb", dtype="uint8")


def test_several_feature_lists_each_with_its_lengths(files: dict[str, Path]) -> None:
    arguments: dict[str, Any] = {
        "layout": "youtube8m",
        "features": ("rgb", "audio"),
        "length_range": (0, None),
        "ids": True,
        "lengths": True,
    }
    digests = set()
    for engine in ENGINES:
        dataset = vlpipe.make_dataset(files["youtube8m"], engine=engine, seed=1, **arguments)
        digests.add(digest(dataset))
        x, _ = next(iter(dataset))
        lengths = [len(CASES["youtube8m"].frames[number]) for number in x["id"].numpy()]
        assert x["rgb_lengths"].numpy().tolist() == x["audio_lengths"].numpy().tolist() == lengths
    assert len(digests) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_as_a_vector_of_classes(files: dict[str, Path], engine: str) -> None:
    frames, labels, _ = read(files["audioset"], engine, layout=layouts.audioset(classes=527))
    for number, expected in enumerate(CASES["audioset"].labels):
        assert labels[number].shape == (527,)
        assert np.flatnonzero(labels[number]).tolist() == sorted(set(expected))
        assert set(labels[number].tolist()) <= {0.0, 1.0}
    assert len(frames) == 23
    first = next(number for number, classes in enumerate(CASES["audioset"].labels[:9]) if max(classes, default=0) > 9)
    where = place(files["audioset"] / "a.tfrecord", first)
    with pytest.raises(DatasetError, match=f'^{where}: "labels" has a class outside the range 0 to 9'):
        vlpipe.build_index(files["audioset"], layouts.audioset(classes=10))


@pytest.mark.parametrize("engine", ENGINES)
def test_texts_and_numbers_of_any_key_are_delivered(files: dict[str, Path], engine: str) -> None:
    arguments: dict[str, Any] = {"layout": CASES["float_list"].layout, "label": ("name", "label"), "ids": True, "length_range": (0, None)}
    for x, y in vlpipe.make_dataset(files["float_list"], engine=engine, **arguments):
        numbers = x["id"].numpy().tolist()
        assert y["name"].numpy().tolist() == [b"r%d" % number for number in numbers]
        assert y["label"].numpy().tolist() == [CASES["float_list"].labels[number] for number in numbers]
    arguments |= {"layout": "audioset", "label": ("video_id", "start_time_seconds")}
    for x, y in vlpipe.make_dataset(files["audioset"], engine=engine, **arguments):
        assert y["video_id"].numpy().tolist() == [b"v%d" % number for number in x["id"].numpy()]
        assert y["start_time_seconds"].numpy().tolist() == x["id"].numpy().tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_record_has_a_label(tmp_path: Path, engine: str) -> None:
    write(tmp_path / "a.tfrecord", [sequence_example({"id": raw(b"v")}, {"audio": [raw(bytes(128))] * 2})] * 3)
    layout = layouts.youtube8m(features=("audio",))
    ((_, y),) = vlpipe.make_dataset(tmp_path, layout=layout, engine=engine)
    assert y.shape == (3, 0)
    ((_, y),) = vlpipe.make_dataset(tmp_path, layout=layouts.youtube8m(features=("audio",), classes=4), engine=engine)
    assert y.numpy().tolist() == [[0] * 4] * 3


def test_a_run_is_resumed(files: dict[str, Path]) -> None:
    arguments: dict[str, Any] = {"layout": "audioset", "seed": 5, "batch_size": 4, "length_range": (0, None)}
    plan = vlpipe.plan(files["audioset"], **arguments)
    state = plan.state(1, 2)
    whole = vlpipe.make_dataset(files["audioset"], repeat=True, **arguments)
    resumed = vlpipe.make_dataset(files["audioset"], repeat=True, resume=state, **arguments)
    assert digest(resumed.take(5)) == digest(whole.skip(plan.steps_per_epoch + 2).take(5))


TENSOR = {"pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor"}


def tensor(dtype: str, *dimensions: int) -> dict[str, Any]:
    return {**TENSOR, "tensor": {"shape": {"dimensions": list(map(str, dimensions))}, "dtype": dtype, "encoding": "none"}}


def sequence(feature: dict[str, Any]) -> dict[str, Any]:
    name = "tensorflow_datasets.core.features.sequence_feature.Sequence"
    return {"pythonClassName": name, "sequence": {"feature": feature, "length": "-1"}}


PREPARED: dict[str, Any] = {
    "speech": tensor("float32", -1, 5),
    "word": {"pythonClassName": "x.ClassLabel", "classLabel": {"numClasses": "12"}},
    "nested": {"featuresDict": {"features": {"steps": sequence(tensor("float64", 2, 2)), "tokens": sequence(tensor("int64"))}}},
    "rows": sequence(sequence(tensor("float32"))),
    "speaker": {"pythonClassName": "x.Text", "text": {}},
    "image": {"pythonClassName": "x.Image", "image": {"shape": {"dimensions": ["1"]}, "dtype": "uint8"}},
    "gain": tensor("float32"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(3)
    speech = [random.normal(size=(t, 5)).astype("f4") for t in range(1, 13)]
    steps = [random.normal(size=(t % 4, 2, 2)).astype("f4") for t in range(1, 13)]
    records = [
        example(
            {
                "speech": floats(x),
                "word": ints(n % 12),
                "nested/steps": floats(steps[n]),
                "nested/tokens": ints(*range(n)),
                "rows/ragged_flat_values": floats(np.full(3 * n + 3, n)),
                "rows/ragged_row_lengths_0": ints(*[3] * (n + 1)),
                "speaker": raw(b"s%d" % n),
                "image": raw(b"\x89PNG"),
                "gain": floats([n / 2]),
            }
        )
        for n, x in enumerate(speech)
    ]
    return prepared_directory(tmp_path_factory.mktemp("mine"), records, PREPARED, {"train": [5, 4], "test": [3]}), speech, steps


@pytest.mark.parametrize("engine", ENGINES)
def test_a_directory_of_tensorflow_datasets(prepared: tuple[Path, list[np.ndarray], list[np.ndarray]], engine: str) -> None:
    path, speech, steps = prepared
    names = ("speech", "nested/steps", "rows/ragged_flat_values")
    arguments: dict[str, Any] = {"features": names, "label": ("word", "nested/tokens", "speaker", "gain"), "ids": True, "lengths": True}
    seen = []
    for x, y in vlpipe.make_dataset(str(path / "mine-train*"), engine=engine, batch_size=4, **arguments):
        for row, number in enumerate(x["id"].numpy().tolist()):
            seen.append(number)
            values = [x[name][row, : int(x[f"{name}_lengths"][row])] for name in names]
            for value, expected in zip(values, (speech[number], steps[number], np.full((number + 1, 3), number)), strict=True):
                assert np.array_equal(value, expected)
            assert y["word"][row] == number % 12
            assert y["nested/tokens"][row].numpy().tolist()[:number] == list(range(number))
            assert y["speaker"][row].numpy() == b"s%d" % number
            assert y["gain"][row] == number / 2
    assert sorted(seen) == list(range(9))
    _, label = vlpipe.make_dataset(path / "mine-test*", features="speech", engine=engine).element_spec
    assert label == tf.TensorSpec([None], tf.int64)  # the key in supervisedKeys


def recording(**more: Any) -> dict[str, Any]:
    audio = {"shape": {"dimensions": ["-1"]}, "dtype": "int64", "sampleRate": "8000", "encoding": "none", **more}
    return {"pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio", "audio": audio}


@pytest.mark.parametrize("engine", EVERY_ENGINE)
@pytest.mark.parametrize(
    ("feature", "encode", "decode"),
    [
        (recording(), lambda x: ints(*x.tolist()), lambda x: x[:, None]),
        (recording(dtype="float32"), floats, lambda x: x[:, None]),
        (recording(shape={"dimensions": ["-1", "2"]}), lambda x: ints(*np.repeat(x, 2).tolist()), lambda x: np.stack([x, x], 1)),
        (recording(lazyDecode=True, dtype="int16"), lambda x: raw(audio_file(x)), lambda x: x[:, None] / 32768),
    ],
    ids=["integers", "floats", "stereo", "files"],
)
def test_recordings_of_tensorflow_datasets(tmp_path: Path, feature: dict[str, Any], encode: Any, decode: Any, engine: str) -> None:
    samples = [np.arange(-t, t, dtype=np.int16) for t in (300, 5, 77)]
    records = [example({"audio": encode(x), "word": ints(n)}) for n, x in enumerate(samples)]
    path = prepared_directory(tmp_path, records, {"audio": feature, "word": PREPARED["word"]})
    frames, _, _ = read(path, engine)
    for number, x in enumerate(samples):
        assert np.array_equal(frames[number], decode(x).astype("f4"))
    prepared_directory(tmp_path, records, {"audio": recording(encoding="zlib"), "word": PREPARED["word"]})
    with pytest.raises(SchemaError, match="none of the features is a sequence of frames that can be delivered"):
        vlpipe.build_index(path)


def test_a_directory_of_tensorflow_datasets_that_lost_records(tmp_path: Path) -> None:
    records = [example({"speech": floats(np.ones((2, 5))), "word": ints(1)})] * 3
    path = prepared_directory(tmp_path, records, {name: PREPARED[name] for name in ("speech", "word")}, {"train": [4]})
    with pytest.raises(DatasetError, match=r"mine-train.tfrecord-00000-of-00001: holds 3 records, but dataset_info.json specifies 4;"):
        vlpipe.build_index(path)
    (path / "features.json").write_text("{")
    with pytest.raises(SchemaError, match="features.json: cannot be read as the features of TensorFlow Datasets"):
        vlpipe.build_index(path)
    (path / "features.json").write_text('{"featuresDict": {"features": {}}}')
    with pytest.raises(SchemaError, match="features.json: none of the features is a sequence of frames that"):
        vlpipe.build_index(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layouts.float_list("x"), "layout: the number of values in a frame is not specified. Pass d="),
        (lambda: layouts.float_list("x", length="n", shape="s"), "layout: both length and shape specify the number of frames"),
        (lambda: layouts.float_list("", d=2), "layout: key came as '', expected a non-empty string"),
        (lambda: layouts.float_list("x", d=2, label=3), "layout: label came as 3, expected a non-empty string"),  # type: ignore[arg-type]
        (lambda: layouts.raw_bytes("x", d=2, dtype="U8"), "layout: dtype came as 'U8', expected one of float32"),
        (lambda: layouts.raw_bytes("x", d=2, dtype="int8", byteorder="?"), r"layout: byteorder came as '\?', expected one of"),  # type: ignore[arg-type]
        (lambda: layouts.int_list("x", d=2, dtype="float32"), "layout: dtype came as 'float32', expected an integer dtype: "),
        (lambda: layouts.float_frames(), r"layout: the keys are \[\], expected at least one sequence of frames, and each key once"),
        (lambda: layouts.float_frames("a", "a"), r"layout: the keys are \['a', 'a'\], expected at least one"),
        (lambda: layouts.youtube8m(features=("video",)), r"youtube8m: features came as \('video',\), expected rgb, audio or both"),
        (lambda: layouts.audioset(classes=0), "classes: came as 0, expected an integer >= 1, at most 1048576"),
        (lambda: layouts.Frames("x", "bytes", (2,), "int8", scale=(1, 0)), "layout: scale applies to bytes only, but dtype came as 'int8'"),
    ],
)
def test_invalid_layouts_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("name", ["d", "dtype"])
def test_the_placeholder_of_inspect_must_be_replaced(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"layout: {name} is still the placeholder `...`; replace it by a value, such as {name}="):
        layouts.raw_bytes("x", **{"d": 3, "dtype": "int16", name: ...})  # type: ignore[arg-type]


def test_a_layout_by_name(files: dict[str, Path]) -> None:
    with pytest.raises(ArgumentError, match="layout: came as 'kaldi', expected a layout of vlpipe.layouts, or one of float_list, "):
        vlpipe.plan(files["audioset"], layout="kaldi")
    with pytest.raises(ArgumentError, match='layout: "float_list" has required arguments; pass layout=vlpipe.layouts.float_list'):
        vlpipe.plan(files["audioset"], layout="float_list")
    for case in CASES.values():
        assert from_json(to_json(case.layout)) == case.layout


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (layouts.float_list("z", d=5), r'layout: a.tfrecord, record 0 at byte 0 lacks the feature "z"; its keys are \''),
        (layouts.float_list("x", d=5, label="y"), 'layout: the first records have no label "y"; their keys are \''),
        (layouts.float_list("x", length="label"), 'the first 23 records do not determine the number of values in a frame of "x"'),
        (layouts.float_frames("x", d=5), r'layout: a.tfrecord, record 0 at byte 0 lacks the feature list "x"; its keys are \''),
    ],
)
def test_a_layout_that_the_records_do_not_have(files: dict[str, Path], layout: layouts.Layout, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        vlpipe.build_index(files["float_list"], layout)


@pytest.mark.parametrize("engine", ENGINES)
def test_keys_that_are_not_needed_can_be_ignored(tmp_path: Path, engine: str) -> None:
    """A missing number in a later record is an error, a missing text is empty."""
    features = {"x": floats(np.ones(5)), "gain": ints(3), "label": ints(4), "name": raw(b"ann")}
    records = [example(features)] * 40 + [example({key: features[key] for key in ("x", "label")})]
    path = write(tmp_path / "a.tfrecord", records)
    layout = layouts.float_list("x", d=5, label="label")
    with pytest.raises(DatasetError, match=rf'^{place(path, 40)}: has no feature "gain".*LAYOUT.only\(\) ignores'):
        vlpipe.build_index(path, layout)
    arguments: dict[str, Any] = {"layout": layout.only("name"), "label": ("label", "name"), "engine": engine, "batch_size": 41}
    ((_, y),) = vlpipe.make_dataset(path, shuffle=False, **arguments)
    assert y["name"].numpy().tolist() == [b"ann"] * 40 + [b""]
    assert list(vlpipe.build_index(path, layout.only()).schema.fields) == ["x", "label"]
    with pytest.raises(SchemaError, match=r"layout: only\['speaker'\]: the first records do not have \['speaker'\]; their keys are '"):
        vlpipe.build_index(path, layout.only("speaker"))


def test_a_label_that_cannot_be_delivered(tmp_path: Path) -> None:
    texts = [tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"] * n)) for n in (1, 2)]
    write(tmp_path / "a.tfrecord", [example({"x": floats(np.ones(5)), "y": text}) for text in texts])
    with pytest.raises(SchemaError, match='layout: "y" cannot be delivered as a label: a record has up to 2 texts or bytes values in it'):
        vlpipe.build_index(tmp_path, layouts.float_list("x", d=5, label="y"))


@pytest.mark.parametrize("engine", [*ENGINES, "stream"])
@pytest.mark.parametrize(("feature", "label"), [("a", "b"), ("b", "a"), ("x", "a"), ("x", "b")])
def test_integers_may_be_features_or_a_label(tmp_path: Path, engine: str, feature: str, label: str) -> None:
    """`a` is a list in the index, `b` is parsed as a sequence."""
    random = np.random.default_rng(2)
    values = {key: [random.integers(-9, 40_000, t).astype("i4") for t in random.integers(0, 9, 11)] for key in ("a", "b")}
    values["x"] = [random.normal(size=(t, 3)).astype("f4") for t in range(11)]
    records = [
        example({"a": ints(*values["a"][n].tolist()), "b": ints(*values["b"][n].tolist()), "x": floats(values["x"][n])}) for n in range(11)
    ]
    write(tmp_path / "a.tfrecord", records)
    frames = (layouts.Frames("x", "floats", (3,)), layouts.Frames("b", "integers", (), "int32"))
    layout = layouts.Layout("mine", frames, None, (layouts.Listed("a"),), closed=True)
    arguments: dict[str, Any] = {"layout": layout, "features": feature, "label": label}
    frames_by_id, labels, lengths = read(tmp_path, engine, **arguments)
    for number in range(11):
        assert np.array_equal(frames_by_id[number], values[feature][number].astype("f4"))
        assert labels[number].dtype == np.int64
        assert labels[number][: lengths[number]].tolist() == values[label][number].tolist()
        assert (labels[number][lengths[number] :] == -1).all()
    plain = vlpipe.make_dataset(tmp_path, engine=engine, batching="ragged", length_range=(0, None), remainder="pad", **arguments)
    assert sum(int(tf.reduce_sum(weight)) for _, _, weight in plain) == 11
