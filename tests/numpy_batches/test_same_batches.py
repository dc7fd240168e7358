"""`vlpipe.batches` delivers the elements of `make_dataset`, byte for byte, or refuses by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import vlpipe
from tests.helpers.foreign_files import Case, cases, write
from vlpipe.engines.parsed_fields import ParsedFields
from vlpipe.errors import ArgumentError
from vlpipe.storage.example import parse_batch
from vlpipe.storage.example_values import ExampleError, example_values

pytestmark = pytest.mark.usefixtures("quick_graphs")

SCHEMA = vlpipe.Schema(
    features=vlpipe.Sequence((3,)),
    label=vlpipe.Fixed((), "int64"),
    voiced=vlpipe.Sequence((), "int8", aligned=True),
    words=vlpipe.Sequence((), "int64"),
    name=vlpipe.Text(),
    tags=vlpipe.Fixed((4,), "float32"),
    long=vlpipe.Fixed((40,), "float16"),  # too large for the index: only the Example says where it is
    pitch=vlpipe.Sequence((), "float64"),
    counts=vlpipe.Sequence((2,), "int32"),
)


def record(number: int, frames: int, random: np.random.Generator) -> dict[str, Any]:
    features = random.normal(3, 2, (frames, 3)).astype(np.float32)
    features[:, 1] = number  # constant: the mean decides whether normalisation makes exactly 0 of it
    return {
        "features": features,
        "label": number % 3,
        "voiced": random.integers(0, 2, frames).astype(np.int8),
        "words": random.integers(0, 9, number % 4),
        "name": f"wörd {number}",
        "tags": (random.random(4) < 0.5).astype(np.float32),
        "long": random.normal(size=40).astype(np.float16),
        "pitch": random.normal(size=number % 5),
        "counts": random.integers(0, 999, (number % 3, 2)).astype(np.int32),
    }


def records(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [record(number, int(random.integers(0, 30)) if number else 0, random) for number in range(count)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("same") / "data"
    vlpipe.write(path, records(41), SCHEMA, num_shards=3)
    return path


def assert_same(found: Any, expected: Any) -> None:
    """The same structure, dtypes, shapes and bytes."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, tuple):
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)
    elif expected is not None:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tolist() == expected.tolist() if expected.dtype == object else found.tobytes() == expected.tobytes()


def as_arrays(element: Any) -> Any:
    return tf.nest.map_structure(lambda part: part.numpy() if isinstance(part, tf.Tensor) else part, element)


def assert_same_epochs(source: Any, epochs: int = 2, **arguments: Any) -> None:
    batches, dataset = vlpipe.batches(source, **arguments), vlpipe.make_dataset(source, **arguments)
    assert len(batches) == len(dataset)
    for _ in range(epochs):
        for ours, theirs in zip(batches, dataset, strict=True):
            assert_same(ours, as_arrays(theirs))


ARGUMENTS = st.fixed_dictionaries(
    {"batch_size": st.sampled_from([1, 4, 64]), "seed": st.integers(0, 3), "remainder": st.sampled_from(["pad", "keep", "drop"])},
    optional={
        "batching": st.sampled_from(["pad", "same_length"]),
        "frames_per_batch": st.just(60),
        "shuffle": st.booleans(),
        "shard": st.just((1, 2)),
        "lengths": st.booleans(),
        "ids": st.booleans(),
        "features": st.sampled_from(["features", ("features", "pitch"), ("features", "counts")]),
        "label": st.sampled_from([False, "words", "name", "long", ("label", "words", "voiced"), ("tags", "name")]),
        "class_weight": st.just("balanced"),
        "label_padding": st.just(7),
        "padding_value": st.sampled_from([-1.5, float("nan")]),
        "dtype": st.sampled_from(["float16", "float64", "bfloat16"]),
        "pieces": st.sampled_from([{"crop": 5}, {"crop": vlpipe.Crop(6, random=True)}, {"windows": vlpipe.Windows(7, 3, jitter=True)}]),
        "normalize": st.sampled_from(["utterance", "global"]),
        "augment": st.sampled_from([vlpipe.SpecAugment(2, 9, 0.5, 1, 2), vlpipe.SpecAugment(1, 5, 1.0, 0, fill="zero")]),
        "check_finite": st.sampled_from(["error", "zero"]),
        "on_damage": st.just(vlpipe.Skip()),
        "boundary": st.booleans(),
    },
)


def served_together(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an example, without those that exclude each other."""
    arguments = {"length_range": (0, None), **arguments, **arguments.get("pieces", {})}
    arguments.pop("pieces", None)
    if arguments.pop("boundary", False) and arguments.get("batching") != "same_length":
        arguments["pad_to"] = "boundary"
    if "shard" in arguments and arguments["remainder"] == "keep":
        del arguments["shard"]
    if "class_weight" in arguments:
        arguments |= {"label": ("label", "tags", "words"), "class_weight": {"tags": {0: 1.7, 2: 0.3}, "label": "balanced", "words": {1: 2}}}
    if "windows" in arguments and arguments["remainder"] == "drop":
        arguments["remainder"] = "pad"
    return arguments


@settings(max_examples=settings.default.max_examples * 3 // 5)  # each makes a graph
@given(arguments=ARGUMENTS)
def test_the_same_batches(source: Path, arguments: dict[str, Any]) -> None:
    assert_same_epochs(source, **served_together(arguments))


def test_one_record_and_none_of_its_frames(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "one", records(1), SCHEMA)
    assert_same_epochs(tmp_path / "one", length_range=(0, None), normalize="utterance", lengths=True, seed=1)


def test_mixes_and_mixup(source: Path, tmp_path: Path) -> None:
    opened = vlpipe.open(source)
    mix = vlpipe.mix([(opened.select(rows=range(20)), 2), (opened.select(rows=range(20, 41)), 1)])
    arguments = {"length_range": (0, None), "label": "tags", "ids": True, "batch_size": 8, "seed": 5}
    assert_same_epochs(mix, **arguments)
    assert_same_epochs(source, **{**arguments, "label": "name", "label_classes": [f"wörd {number}" for number in range(41)]})
    assert_same_epochs(source, augment=[vlpipe.SpecAugment(frequency_width=2), vlpipe.Mixup(0.4)], dtype="float16", **arguments)
    assert_same_epochs(source, augment=vlpipe.Mixup(2.0), check_finite="zero", **arguments)
    assert_same_epochs(source, augment=vlpipe.Mixup(0.4, classes=4), **{**arguments, "label": "label"})


def test_not_finite_and_lost_values(tmp_path: Path) -> None:
    wrong = {"features": np.array([[1, 2, 3], [np.nan, 5, np.inf]], np.float32), "label": 3}
    vlpipe.write(tmp_path / "data", [wrong, {"features": np.ones((4, 3), np.float32), "label": 2}])
    for arguments in ({}, {"check_finite": "zero"}, {"check_finite": "zero", "normalize": "utterance"}, {"normalize": "utterance"}):
        assert_same_epochs(tmp_path / "data", seed=1, **arguments)
    with pytest.raises(vlpipe.VlpipeError, match=r'"features" has nan in frame 1, expected finite numbers'):
        list(vlpipe.batches(tmp_path / "data", check_finite="error"))
    vlpipe.write(tmp_path / "wide", [{"features": np.array([[2**24 + 1], [3]]), "label": 0}])
    with pytest.raises(
        vlpipe.DatasetError, match=r'"features" has the value 16777217, which dtype=\'float32\' does not hold: leave dtype out'
    ):
        list(vlpipe.batches(tmp_path / "wide", dtype="float32"))
    assert_same_epochs(tmp_path / "wide", seed=1)


@pytest.mark.parametrize("name", cases())
def test_third_party_files_are_the_same_or_refused_by_name(name: str, tmp_path: Path) -> None:
    case: Case = cases()[name]
    path = write(tmp_path / "data.tfrecord", case.records)
    arguments = {"layout": case.layout, "features": case.key, "length_range": (0, None), "seed": 1, "batch_size": 4, "lengths": True}
    parsed = bool(ParsedFields(vlpipe.plan(path, **arguments)))
    if parsed:
        refusal = "cannot be copied as stored: a graph parses or decodes the values. vlpipe.make_dataset serves it."
        with pytest.raises(ArgumentError, match=refusal):
            vlpipe.batches(path, **arguments)
        return
    batches = vlpipe.batches(path, **arguments)
    for ours, theirs in zip(batches, vlpipe.make_dataset(path, **arguments), strict=True):
        assert_same(ours, as_arrays(theirs))


REFUSED = [
    ({"transform": lambda x: x}, "batches: transform: is a function of TensorFlow's operations"),
    ({"batching": "ragged"}, 'batches: batching="ragged": delivers ragged tensors, which NumPy does not have'),
    ({"engine": "graph"}, "batches: engine='graph': is an engine of tf.data; only mapped files are read here"),
    ({"augment": vlpipe.Gain()}, "batches: augment: Gain changes the samples of waveforms in the graph"),
    ({"prefetch": -1}, "prefetch: came as -1, expected an integer >= 0"),
    ({"epochs": 3}, "unknown argument epochs"),
]


@pytest.mark.parametrize(("arguments", "text"), REFUSED)
def test_what_needs_a_graph_is_refused_by_name(source: Path, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        vlpipe.batches(source, **arguments)
    assert text in str(caught.value)


def test_a_compressed_file_is_refused_by_name(tmp_path: Path) -> None:
    case = next(iter(cases().values()))
    path = write(tmp_path / "data.tfrecord", case.records, "GZIP")
    with pytest.raises(ArgumentError, match="data.tfrecord: cannot be mapped into memory: it is compressed, or not a local file"):
        vlpipe.batches(path, layout=case.layout, length_range=(0, None))


def test_tensorflow_is_not_loaded(source: Path) -> None:
    script = f"""
import sys, vlpipe
arguments = dict(length_range=(0, None), seed=1, normalize="utterance", augment=vlpipe.SpecAugment(frequency_width=2), remainder="pad")
batches = vlpipe.batches({str(source)!r}, label=("label", "long", "name"), on_damage=vlpipe.Skip(), check_finite="zero", **arguments)
print(len(list(batches)) == len(batches), [name for name in ("tensorflow", "keras", "jax", "torch") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("True []\n", "")


def example(**features: Any) -> bytes:
    kinds = {bytes: ("bytes_list", tf.train.BytesList), float: ("float_list", tf.train.FloatList), int: ("int64_list", tf.train.Int64List)}
    made = {}
    for name, values in features.items():
        kind, make = kinds[type(values[0])]
        made[name] = tf.train.Feature(**{kind: make(value=values)})
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def test_values_of_examples_are_those_that_tensorflow_parses() -> None:
    schema = vlpipe.Schema(x=vlpipe.Sequence(1), text=vlpipe.Text(), ints=vlpipe.Fixed((2, 2), "int8"), half=vlpipe.Fixed(3, "float16"))
    good = {"x": [b"12345678"], "text": ["ö".encode()], "ints": [1, -2, 300, 2**62], "half": [0.1, 7e4, -1e-9]}
    twice = example(**good) + example(**{**good, "text": [b"second"], "ints": [4, 3, 2, 1]})  # merged: the last one counts
    records = [example(**good), twice, example(**{**good, "text": [b""], "other": [1.0]})]
    names = ["text", "ints", "half", "x"]
    expected = {name: value.numpy() for name, value in parse_batch(schema, names, records).items()}
    assert_same(example_values(schema, names, records), expected)
    wrong = {
        r'^"text" has 2 bytes values, expected 1 bytes value': {**good, "text": [b"a", b"b"]},
        r'^"ints" has 3 int64 values, expected 4 int64 values': {**good, "ints": [1, 2, 3]},
        r'^"half" has 3 int64 values, expected 3 float values': {**good, "half": [1, 2, 3]},
        r'^"half" has no values, expected 3 float values': {name: good[name] for name in ("text", "ints", "x")},
    }
    for text, features in wrong.items():
        with pytest.raises(ExampleError, match=text) as caught:
            example_values(schema, names, [records[0], example(**features)])
        assert caught.value.row == 1
        with pytest.raises(tf.errors.InvalidArgumentError):
            parse_batch(schema, names, [records[0], example(**features)])
    with pytest.raises(ExampleError, match=r"byte \d+ of the data: found .*, expected a serialized Example"):
        example_values(schema, names, [records[0][:-3]])


def test_a_label_that_cannot_be_parsed_names_its_record(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "data", [{"features": np.ones((2, 1), np.float32), "name": f"name {n}"} for n in range(4)], num_shards=1)
    shard = next((tmp_path / "data").glob("*.tfrecord"))
    shard.write_bytes(shard.read_bytes().replace(b"\x04name", b"\x04nama", 3)[: shard.stat().st_size])  # the keys of three records
    arguments: dict[str, Any] = {"label": "name", "verify": "never", "shuffle": False, "batch_size": 4}
    with pytest.raises(vlpipe.DatasetError, match=rf'{shard.name}, record 0 at byte 0: a label cannot be parsed: "name" has no values'):
        list(vlpipe.batches(tmp_path / "data", **arguments))
    with pytest.raises(tf.errors.OpError):
        list(vlpipe.make_dataset(tmp_path / "data", **arguments))


def test_bfloat16_is_that_of_tensorflow() -> None:
    assert tf.bfloat16.as_numpy_dtype is ml_dtypes.bfloat16
