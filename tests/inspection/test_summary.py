"""Summaries of datasets compared with separate counts, and class weights that Keras accepts."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.helpers.foreign_files import cases, example, floats, ints
from tests.helpers.foreign_files import write as foreign_write
from tests.helpers.metadata_files import write_signed
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.inspection.histogram import histogram
from vlpipe.inspection.summary import LengthSummary, summarize
from vlpipe.sources.native import open_source
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text

SCHEMA = Schema(features=Sequence(3, "float32"), label=Fixed(), speaker=Fixed((), "uint8"), wide=Fixed(2), words=Sequence((), "int32"))


def write(path: Path, labels: list[int], lengths: list[int], schema: Schema = SCHEMA, **metadata: Any) -> Path:
    random = np.random.default_rng(len(labels))
    with vlpipe.Writer(path, schema, num_shards=2) as writer:
        writer.metadata.update(metadata)
        for number, (label, length) in enumerate(zip(labels, lengths, strict=True)):
            x = random.standard_normal((length, 3)).astype(np.float32)
            writer.write({"features": x, "label": label, "speaker": number % 2, "wide": [1, 2], "words": [1] * (number % 4)})
    return path


def frames_of(dataset: Path) -> np.ndarray:
    """All features of a dataset, read with TensorFlow."""
    batches = vlpipe.make_dataset(
        dataset, batching="pad", batch_size=1, label=False, shuffle=False, length_range=(None, None), features="features"
    )
    return np.concatenate([batch[0][0] for batch in batches.as_numpy_iterator()]).astype(np.float64)


# ---- class weights ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_all_classes_have_the_same_total_weight(tmp_path: Path, labels: list[int]) -> None:
    records = ({"x": [1.0], "y": label} for label in labels)
    vlpipe.write(tmp_path / "d", records, Schema(x=Sequence(), y=Fixed((), "int16")), num_shards=1, overwrite=True)
    weights = vlpipe.class_weights(tmp_path / "d")
    assert list(weights) == list(range(max(labels) + 1))
    count = Counter(labels)
    for label, weight in weights.items():
        assert weight == pytest.approx(len(labels) / (len(count) * count[label]) if label in count else 1.0, rel=1e-12)
    assert sum(weights[label] for label in labels) == pytest.approx(len(labels))  # the average record has weight 1
    assert all(type(key) is int and type(weight) is float for key, weight in weights.items())


def test_fit_accepts_the_weights(tmp_path: Path) -> None:
    import keras

    labels = [0] * 6 + [3] * 2  # 1 and 2 have no records, and Keras needs their weights all the same
    dataset = write(tmp_path / "d", labels, [4] * 8)
    weights = vlpipe.class_weights(dataset)
    assert weights == {0: 8 / 12, 1: 1.0, 2: 1.0, 3: 2.0}
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(4, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.layers[-1].set_weights([np.zeros((3, 4), np.float32)])  # equal logits: the loss of each record is log 4
    history = model.fit(vlpipe.make_dataset(dataset, batch_size=8), class_weight=weights, verbose=0).history
    assert history["loss"][0] == pytest.approx(math.log(4), rel=1e-5)


def test_the_default_label(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [0, 1, 1], [1, 1, 1])
    assert vlpipe.class_weights(dataset) == vlpipe.class_weights(dataset, "label") == {0: 1.5, 1: 0.75}
    assert vlpipe.class_weights(dataset, label="speaker") == {0: 0.75, 1: 1.5}
    assert vlpipe.class_weights([shard.path for shard in open_source(dataset).shards]) == {0: 1.5, 1: 0.75}


@pytest.mark.parametrize(
    ("fields", "label", "message"),
    [
        ({"a": Fixed(), "b": Fixed()}, None, r"label: the candidates are \['a', 'b'\]"),
        ({"a": Fixed()}, "b", r"label: 'b' is not a field of the schema, expected a scalar integer field \(Fixed\); candidates: \['a'\]"),
        ({"a": Fixed((2, 3))}, "a", r"label: 'a' is Fixed\(shape=\(2, 3\).*expected a scalar integer field \(Fixed\); candidates: none"),
        ({"a": Fixed((), "float32")}, None, "label: the source has none, expected .* among x, a. Name it with label=, or ingest"),
        ({"label": Text(), "a": Fixed()}, None, "label: 'label' is Text"),
        ({"a": Fixed()}, 3, "label: 3 is not a field of the schema"),
        ({"a": Fixed()}, ["a"], r"label: \['a'\] is not a field of the schema"),
    ],
)
def test_fields_that_are_not_class_labels(tmp_path: Path, fields: dict[str, Any], label: Any, message: str) -> None:
    vlpipe.write(tmp_path / "d", [], Schema(x=Sequence(), **fields), num_shards=1)
    with pytest.raises(SchemaError, match=message):
        vlpipe.class_weights(tmp_path / "d", label)


@pytest.mark.parametrize("wrong", [-1, 2**20, 2**62])
def test_values_that_are_not_class_numbers(tmp_path: Path, wrong: int) -> None:
    dataset = write(tmp_path / "d", [0, wrong, 1], [1, 1, 1])
    with pytest.raises(ArgumentError, match=f'label: "label" has the value {wrong}, expected class numbers from 0 to 1048575, as fit'):
        vlpipe.class_weights(dataset)
    assert summarize(dataset).labels["label"].class_weight is None
    assert [entry.label for entry in summarize(dataset).labels["label"].classes] == sorted([0, wrong, 1])


def test_an_empty_dataset_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no records, expected at least one, to weigh the classes"):
        vlpipe.class_weights(write(tmp_path / "d", [], []))


# ---- the summary -----------------------------------------------------------------------------------------------------------------


def test_the_summary_counts_records_frames_and_classes(tmp_path: Path) -> None:
    lengths = [*range(100, 0, -1), 0]
    dataset = write(tmp_path / "d", [number % 3 for number in range(101)], lengths, classes=["cat", "dog"], features={"hop_ms": 10.0})
    summary = summarize(dataset)
    assert (summary.records, summary.shards) == (101, 2)
    assert summary.bytes == sum(path.stat().st_size for path in dataset.glob("*.tfrecord"))
    assert list(summary.sequences) == ["features", "words"]
    features = summary.sequences["features"]
    assert (features.shape, features.dtype, features.not_finite) == ((3,), "float32", 0)
    assert features.lengths == LengthSummary(5050, 5050 / 100 / 3600, 0, 50.0, 50.0, 95.0, 100)
    frames = frames_of(dataset)
    np.testing.assert_allclose(features.mean, frames.mean(axis=0), rtol=1e-9)  # type: ignore[arg-type]
    np.testing.assert_allclose(features.std, frames.std(axis=0), rtol=1e-9)  # type: ignore[arg-type]
    words = summary.sequences["words"].lengths
    assert words is not None
    assert (words.frames, words.hours, words.max) == (sum(number % 4 for number in range(101)), None, 3)
    assert list(summary.labels) == ["label", "speaker"]  # not "wide", which has two numbers
    assert [(entry.label, entry.name, entry.records) for entry in summary.labels["label"].classes] == [
        (0, "cat", 34),
        (1, "dog", 34),
        (2, None, 33),
    ]
    assert summary.labels["label"].class_weight == vlpipe.class_weights(dataset)
    assert [entry.name for entry in summary.labels["speaker"].classes] == [None, None]  # the class names belong to "label"
    assert all(entry.lengths is None for entry in summary.labels["label"].classes)


def test_lengths_by_class(tmp_path: Path) -> None:
    labels, lengths = [5, 2, 5, 2, 5, 9], [1, 10, 2, 20, 9, 0]
    summary = summarize(write(tmp_path / "d", labels, lengths, features={"hop_ms": 5}), by="label")
    assert list(summary.labels) == ["label"]
    for entry in summary.labels["label"].classes:
        own = [length for label, length in zip(labels, lengths, strict=True) if label == entry.label]
        expected = LengthSummary(
            sum(own), sum(own) / 200 / 3600, min(own), float(np.median(own)), float(np.mean(own)), float(np.percentile(own, 95)), max(own)
        )
        assert entry.lengths is not None
        assert vars(entry.lengths) == pytest.approx(vars(expected))
    with pytest.raises(SchemaError, match="by: came as .wide., expected a scalar integer field or a text of the source: "):
        summarize(tmp_path / "d", by="wide")


def test_several_datasets_have_one_summary(tmp_path: Path) -> None:
    common = {"classes": ["a", "b"], "features": {"hop_ms": 10}}
    parts = [write(tmp_path / "d", [0, 1], [3, 50], **common, seconds=1), write(tmp_path / "e", [1, 1, 1], [7, 8, 9], **common, seconds=2)]
    summary = summarize(parts)
    assert open_source(parts).metadata == common  # the entries that are equal in both
    frames = np.concatenate([frames_of(part) for part in parts])
    np.testing.assert_allclose(summary.sequences["features"].mean, frames.mean(axis=0), rtol=1e-9)  # type: ignore[arg-type]
    np.testing.assert_allclose(summary.sequences["features"].std, frames.std(axis=0), rtol=1e-9)  # type: ignore[arg-type]
    assert [(entry.name, entry.records) for entry in summary.labels["label"].classes] == [("a", 1), ("b", 4)]
    other = write(tmp_path / "f", [0], [1], classes=["b", "a"])
    mixed = summarize([*parts, other])
    assert [(entry.name, entry.records) for entry in mixed.labels["label"].classes] == [("a", 1), ("b", 5)]  # 0 is "b" in the last one
    assert mixed.sequences["features"].lengths.hours is None  # type: ignore[union-attr]


def test_statistics_are_unknown_for_some_of_the_shards(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [0] * 9, [2] * 9)
    shards = [shard.path for shard in open_source(dataset).shards]
    assert summarize(shards).sequences == summarize(dataset).sequences
    part = summarize(shards[:1])
    assert part.records < 9
    assert (part.sequences["features"].mean, part.sequences["features"].std, part.sequences["features"].not_finite) == (None, None, None)
    assert summarize([shards[0], write(tmp_path / "e", [0], [1])]).sequences["features"].mean is None


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    x = np.array([[np.nan, 1.0, 1e300], [np.inf, 3.0, -1e300]])
    vlpipe.write(tmp_path / "d", [{"x": x}], num_shards=1)
    summary = summarize(tmp_path / "d").sequences["x"]
    assert (summary.not_finite, summary.mean, summary.std) == (2, (None, 2.0, 0.0), (None, 1.0, None))
    assert "2 numbers, excluded from mean and deviation" in summarize(tmp_path / "d").report()


def test_an_empty_dataset(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [], [])
    summary = summarize(dataset, by="label")
    assert (summary.records, summary.sequences["features"].lengths, summary.labels["label"].classes) == (0, None, ())
    assert summary.sequences["features"].mean is None
    assert summary.report()
    other = write(tmp_path / "e", [0], [1])
    assert summarize([dataset, other]).sequences == summarize(other).sequences
    assert summarize([dataset, write(tmp_path / "f", [], [])]).records == 0


@pytest.mark.parametrize("metadata", [{"classes": "ab"}, {"classes": [1, 2]}, {"classes": {"0": "a"}}, {"features": []}])
@pytest.mark.parametrize("hop", [None, True, "10", -1, 0, math.pi * 0, [10]])
def test_metadata_in_another_format_are_ignored(tmp_path: Path, metadata: dict[str, Any], hop: Any) -> None:
    summary = summarize(write(tmp_path / "d", [0], [1], **({"features": {"hop_ms": hop}} | metadata)))
    assert summary.labels["label"].classes[0].name is None
    assert summary.sequences["features"].lengths.hours is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": [1, 1]}, "its statistics are not count, mean and variance of 3 numbers"),
        ({"count": [1, 1, -1]}, "its statistics are not count, mean and variance of 3 numbers"),
        ({"variance": [1.0, 1.0, -1.0]}, "its statistics are not count, mean and variance of 3 numbers"),
        ({"mean": [[1.0], 1.0, 1.0]}, "its statistics cannot be read"),
        ({"mean": "abc"}, "its statistics cannot be read"),
        ({"not_finite": None}, "its statistics cannot be read"),
        ({"not_finite": 1e400}, "its statistics cannot be read"),
        ({"count": [2**70, 1, 1]}, "its statistics cannot be read"),
    ],
)
def test_invalid_statistics_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "d", [0], [1]) / "vlpipe.json"
    document = json.loads(path.read_text("utf-8"))
    document["statistics"]["features"] |= change
    write_signed(path, document)
    with pytest.raises(DatasetError, match=f"not the metadata of a vlpipe dataset: {message}"):
        open_source(tmp_path / "d")
    for statistics in (3, [], {"features": 3}, None):
        write_signed(path, document | {"statistics": statistics})
        with pytest.raises(
            DatasetError, match="not the metadata of a vlpipe dataset: its statistics (are .*expected an object|cannot be read)"
        ):
            open_source(tmp_path / "d")
    del document["statistics"]
    write_signed(path, document)
    assert summarize(tmp_path / "d").sequences["features"].mean is None


def test_the_report_of_a_summary(tmp_path: Path) -> None:
    names = ["[red]", "a\x1b[2J", *map(str, range(2, 25))]
    dataset = write(tmp_path / "d", [number % 25 for number in range(60)], [120_000, *[1] * 59], classes=names, features={"hop_ms": 30})
    text = summarize(dataset).report()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "features [T, 3] float32" in lines
    assert "frames 120,059, 1.00 hours" in lines
    assert "lengths min 1, median 1, mean 2,001.0, 95 % 1, max 120,000" in lines
    assert "0 [red] 3 5.0% 0.8" in lines
    assert "1 a\\x1b[2J 3 5.0% 0.8" in lines
    assert "… and 5 more" in lines
    assert "class_weight={0: 1.0, 1: 1.0}" in lines  # the speakers
    assert text.count("class_weight=") == 1  # 25 class weights do not fit on a line
    by_speaker = summarize(dataset, by="speaker").report().splitlines()
    heading = next(line for line in by_speaker if "shortest" in line)
    assert heading.split() == ["class", "name", "records", "share", "weight", "frames", "hours", "shortest", "median", "longest"]
    assert " ".join(by_speaker[by_speaker.index(heading) + 1].split()) == "0 30 50.0% 1 120,029 1 1 1 120,000"


# ---- the histogram ---------------------------------------------------------------------------------------------------------------


def test_the_histogram_of_a_sequence(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [0] * 5, [3, 4, 9, 3, 12])
    bins = histogram(dataset, bins=3)
    assert (bins.features, bins.width, bins.first, bins.records) == ("features", 4, (3, 7, 11), (3, 1, 1))
    lines = [line.split() for line in bins.report().splitlines()]
    assert lines[0] == ["frames", "records"]
    assert [line[:4] for line in lines[1:]] == [["3", "to", "6", "3"], ["7", "to", "10", "1"], ["11", "to", "14", "1"]]
    bins.plot(tmp_path / "bins.png")
    assert (tmp_path / "bins.png").read_bytes().startswith(b"\x89PNG")
    assert histogram(dataset, bins=100, features="words").records == (2, 1, 1, 1)
    with pytest.raises(SchemaError, match=r"features: 'label' is not a sequence of the schema, expected one of \['features', 'words'\]"):
        histogram(dataset, bins=3, features="label")


# ---- third-party records ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("name", cases())
def test_the_summary_of_third_party_files(tmp_path: Path, name: str) -> None:
    case = cases()[name]
    path = foreign_write(tmp_path / "a.tfrecord", case.records)
    summary = summarize(path, layout=case.layout)
    assert (summary.records, summary.shards, summary.bytes) == (23, 1, path.stat().st_size)
    lengths = np.array([len(frames) for frames in case.frames])
    assert summary.sequences[case.key].lengths == LengthSummary.from_lengths(
        lengths, 1 / 8 if case.layout.name == "encoded_audio" else None
    )
    assert (summary.sequences[case.key].mean, summary.sequences[case.key].statistics) == (None, None)
    assert "mean" in summary.report()
    assert "unknown; --compute computes it from the frames" in summary.report()
    calls: list[tuple[int, int]] = []
    computed = summarize(path, layout=case.layout, compute=True, progress=lambda *call: calls.append(call))
    assert calls
    assert summarize(path, layout=case.layout) == computed
    frames = np.concatenate(case.frames).astype(np.float64)
    sequence = computed.sequences[case.key]
    np.testing.assert_allclose(np.reshape(sequence.mean, frames.shape[1:]), frames.mean(axis=0), rtol=1e-9, atol=1e-9)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.reshape(sequence.std, frames.shape[1:]), frames.std(axis=0), rtol=1e-9)  # type: ignore[arg-type]
    document = json.loads(json.dumps(sequence.statistics))
    assert document["mean"] == vlpipe.build_index(path, case.layout).statistics[case.key].mean.tolist()
    assert (document["count"], document["not_finite"]) == ([len(frames)] * len(document["mean"]), 0)
    assert "deviation" in computed.report()
    assert histogram(path, bins=5, layout=case.layout).records
    assert sum(histogram(path, bins=5, features=case.key, layout=case.layout).records) == 23


@pytest.mark.usefixtures("_cache")
def test_the_label_of_a_layout_is_the_default_label(tmp_path: Path) -> None:
    records = [example({"x": floats([1]), "class": ints(n % 2), "speaker": ints(n), "label": ints(7)}) for n in range(3)]
    path = foreign_write(tmp_path / "a.tfrecord", records)
    layout = vlpipe.layouts.float_list("x", d=1, label="class")
    assert vlpipe.class_weights(path, layout=layout) == {0: 0.75, 1: 1.5}
    assert vlpipe.class_weights(path, "speaker", layout) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert vlpipe.class_weights(path, layout=vlpipe.layouts.float_list("x", d=1)) == {**dict.fromkeys(range(7), 1.0), 7: 1.0}
    with pytest.raises(SchemaError, match="label: 'x' is Sequence"):
        vlpipe.class_weights(path, "x", layout)


def test_statistics_are_computed_from_local_files_only(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="gs://a/b is an address, but this command reads local files only"):
        summarize("gs://a/b", compute=True)
    dataset = write(tmp_path / "d", [0, 1], [3, 4])
    assert summarize(dataset, compute=True) == summarize(dataset)
