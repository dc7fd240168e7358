"""`make_dataset` on every engine: every record once, bit for bit, in a known number of batches."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import vlpipe
from tests.helpers.numpy_reference import equal, pad_rows

pytestmark = pytest.mark.usefixtures("quick_graphs")

LABELS = {
    "none": None,
    "scalar": vlpipe.Fixed((), "int64"),
    "small": vlpipe.Fixed((), "uint8"),
    "vector": vlpipe.Fixed((3,), "float32"),
    "sequence": vlpipe.Sequence((), "int32"),
    "text": vlpipe.Text(),
}
BATCHINGS = ("bucket", "pad", "ragged", "same_length")


def make_label(kind: str, number: int) -> Any:
    return {
        "scalar": number,
        "small": number % 256,
        "vector": np.array([number, -0.5, 1e-30], np.float32),
        "sequence": np.arange(number % 4, dtype=np.int32),
        "text": f"é {number}",
    }[kind]


def make_records(lengths: list[int], d: int = 2, dtype: str = "float32", label: str = "scalar") -> list[dict[str, Any]]:
    random = np.random.default_rng(len(lengths))
    records = []
    for number, length in enumerate(lengths):
        frames = (random.standard_normal((length, d)) * 50).astype(dtype)
        records.append({"features": frames} | ({} if label == "none" else {"label": make_label(label, number)}))
    return records


def write(path: Path, records: list[dict[str, Any]], label: str = "scalar", num_shards: int = 2) -> Path:
    d, dtype = records[0]["features"].shape[1], records[0]["features"].dtype.name
    fields = {"features": vlpipe.Sequence(d, dtype)} | ({} if LABELS[label] is None else {"label": LABELS[label]})
    vlpipe.write(path, records, vlpipe.Schema(**fields), num_shards=num_shards, overwrite=True)
    return path


def rows_of(element: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The rows of a batch with a positive weight, each a dict: id, length, padded features, label, and the label's length if it has one."""
    x = element[0]
    y = element[1] if len(element) > 1 else None
    weight = element[2].numpy() if len(element) > 2 else np.ones(len(x["id"]))
    rows = []
    for number in np.flatnonzero(weight):
        row = {"id": int(x["id"][number]), "length": int(x["lengths"][number]), "features": x["features"][number].numpy()}
        if y is not None:
            row["label"] = y[number].numpy()
        if "label_lengths" in x:
            row["label_length"] = int(x["label_lengths"][number])
        rows.append(row)
    return rows


def check_row(row: dict[str, Any], record: dict[str, Any], label: str, padding: float, label_padding: int) -> None:
    frames = record["features"].astype(np.float32)
    assert row["length"] == len(frames)
    assert equal(row["features"], pad_rows([frames], len(row["features"]), padding, "float32")[0])
    if label == "sequence":
        expected = pad_rows([record["label"].astype(np.int64)], len(row["label"]), label_padding, "int64")[0]
        assert row["label_length"] == len(record["label"])
        assert equal(row["label"], expected)
    elif label == "text":
        assert row["label"].decode() == record["label"]
    elif label != "none":
        assert equal(row["label"], np.asarray(record["label"], LABELS[label].dtype))


cases = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(0, 9), min_size=1, max_size=30),
        "d": st.integers(1, 3),
        "dtype": st.sampled_from(["float32", "float16", "uint8", "int16"]),
        "label": st.sampled_from(sorted(LABELS)),
        "num_shards": st.integers(1, 5),
        "batch_size": st.integers(1, 5),
        "remainder": st.sampled_from(["keep", "drop", "pad"]),
        "buckets": st.sampled_from([None, 1, 3, (2, 5), (4, 20)]),
        "pad_to": st.sampled_from(["longest", "boundary"]),
        "frames_per_batch": st.sampled_from([None, 1, 17]),
        "padding_value": st.sampled_from([0.0, -7.5]),
        "label_padding": st.sampled_from([-1, 0]),
        "seed": st.integers(0, 2**40),
        # The graph engine delivers the bytes of the mapped one (tests/engines/test_engines.py), and makes a graph for each example.
        "engine": st.sampled_from(["mapped", "mapped", "mapped", "graph", "stream"]),
        "num_parallel_calls": st.sampled_from([None, 1, 3]),
    }
)


@pytest.mark.parametrize("batching", BATCHINGS)
@settings(max_examples=settings().max_examples // 2)
@given(case=cases)
def test_every_record_is_delivered_once_an_epoch_bit_by_bit(batching: str, case: dict[str, Any], tmp_path: Path) -> None:
    records = make_records(case["lengths"], case["d"], case["dtype"], case["label"])
    source = write(tmp_path / "data", records, case["label"], case["num_shards"])
    names = ("batch_size", "remainder", "frames_per_batch", "padding_value", "label_padding", "seed", "engine", "num_parallel_calls")
    arguments: dict[str, Any] = {name: case[name] for name in names} | {"batching": batching, "length_range": (0, None)}
    if batching == "bucket":
        arguments["buckets"] = case["buckets"]
    if batching in ("bucket", "pad"):
        arguments["pad_to"] = case["pad_to"]
    plan = vlpipe.plan(source, **arguments)
    dataset = vlpipe.make_dataset(source, lengths=True, ids=True, **arguments)
    assert len(dataset) == plan.steps_per_epoch
    for _ in range(2):
        elements = list(dataset)
        assert len(elements) == len(dataset)
        rows = [row for element in elements for row in rows_of(element)]
        seen = Counter(row["id"] for row in rows)
        assert max(seen.values(), default=1) == 1
        assert len(seen) == plan.records == len(records) - plan.refused.get("remainder", 0)
        if case["remainder"] != "drop":
            assert set(seen) == set(range(len(records)))
        for row in rows:
            check_row(row, records[row["id"]], case["label"], case["padding_value"], case["label_padding"])
        for element in elements:
            check_shape(element, plan, case)


def check_shape(element: tuple[Any, ...], plan: vlpipe.Plan, case: dict[str, Any]) -> None:
    """Check that the batch has one of the plan's shapes, keeps the budget, and is padded no further than the plan says."""
    x, lengths = element[0]["features"], element[0]["lengths"].numpy()
    batching = plan.options.batching
    if batching == "ragged":
        assert isinstance(x, tf.RaggedTensor)
        return
    static = plan.options.pad_to == "boundary" or batching == "same_length"
    assert (x.shape[0], x.shape[1] if static else None, x.shape[2]) in plan.shapes
    if plan.options.pad_to == "longest":
        assert x.shape[1] == lengths.max()
    if batching == "same_length":
        assert len(set(lengths)) == 1
    if case["frames_per_batch"] is not None:
        assert x.shape[0] * x.shape[1] <= case["frames_per_batch"] or x.shape[0] == 1
    assert x.numpy().nbytes <= plan.peak_batch_bytes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 records of 1 to 30 frames in 3 shards, with scalar labels."""
    lengths = np.random.default_rng(5).integers(1, 31, 60).tolist()
    return write(tmp_path_factory.mktemp("data") / "train", make_records(lengths), num_shards=3)


def orders(dataset: tf.data.Dataset, epochs: int = 1) -> list[list[list[int]]]:
    return [[x["id"].numpy().tolist() for x, *_ in dataset] for _ in range(epochs)]


def flat(lists: list[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(lists))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_each_epoch_has_a_new_order_and_a_seed_always_the_same(source: Path, batching: str) -> None:
    arguments: dict[str, Any] = {"batching": batching, "batch_size": 4, "ids": True}
    first = orders(vlpipe.make_dataset(source, seed=1, **arguments), 3)
    assert first[0] != first[1] != first[2] != first[0]
    tf.random.set_seed(123)  # the user's seed, for weights, must not change the order of the data
    assert orders(vlpipe.make_dataset(source, seed=1, num_parallel_calls=1, **arguments), 3) == first
    assert orders(vlpipe.make_dataset(source, seed=2, **arguments), 1)[0] not in first


def test_without_shuffle_the_order_is_that_of_the_files(source: Path) -> None:
    dataset = vlpipe.make_dataset(source, batching="pad", shuffle=False, ids=True)
    first, second = orders(dataset, 2)
    assert first == second
    index = vlpipe.sources.native.open_source(source)
    assert flat(first) == index.ids[np.lexsort((index.rows["offset"], index.rows["shard"]))].tolist()


def test_no_seed_draws_one_and_logs_it(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vlpipe"):
        drawn = orders(vlpipe.make_dataset(source, ids=True))
    seed = int(caplog.messages[0].partition("seed=")[2].split()[0])
    assert orders(vlpipe.make_dataset(source, ids=True, seed=seed)) == drawn


def test_repeat_is_one_endless_run_that_every_iterator_enters_at_the_same_place(source: Path) -> None:
    arguments: dict[str, Any] = {"batch_size": 8, "ids": True, "seed": 3}
    epochs = orders(vlpipe.make_dataset(source, **arguments), 3)
    endless = vlpipe.make_dataset(source, repeat=True, **arguments)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    steps = vlpipe.plan(source, **arguments).steps_per_epoch
    for _ in range(2):
        assert orders(endless.take(3 * steps))[0] == flat(epochs)


def test_records_out_of_range_are_refused_dropped_or_truncated(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = vlpipe.sources.native.open_source(source)
    frames = index.frames("features")
    first = int(np.flatnonzero((frames < 5) | (frames > 20))[0])
    with pytest.raises(vlpipe.ArgumentError, match=f'^{index.where(first)}: "features" has {frames[first]} frames, expected 5 to 20'):
        vlpipe.make_dataset(source, length_range=(5, 20))
    for policy, expected in (("drop", (frames >= 5) & (frames <= 20)), ("truncate", frames >= 5)):
        caplog.clear()
        arguments: dict[str, Any] = {"length_range": (5, 20), "out_of_range": policy, "batch_size": 4}
        plan = vlpipe.plan(source, **arguments)
        dataset = vlpipe.make_dataset(source, ids=True, lengths=True, **arguments)
        rows = {int(i): int(n) for x, _ in dataset for i, n in zip(x["id"], x["lengths"], strict=True)}
        assert rows == {int(i): min(int(frames[i]), 20) for i in np.flatnonzero(expected)}
        assert plan.records == len(rows)
        assert plan.records + sum(plan.refused.values()) == plan.total == 60
        assert plan.truncated == (np.count_nonzero(frames > 20) if policy == "truncate" else 0)
        assert f"{60 - len(rows)} of 60 records are not delivered" in caplog.text


def test_globs_files_and_several_datasets(source: Path, tmp_path: Path) -> None:
    everything = set(range(60))
    files = sorted(str(path) for path in source.glob("*.tfrecord"))
    for argument in (str(source), str(source / "*.tfrecord"), files, f"{source}/*", [source]):
        assert set(flat(orders(vlpipe.make_dataset(argument, ids=True))[0])) == everything
    some = [set(flat(orders(vlpipe.make_dataset(file, ids=True))[0])) for file in files]
    assert set.union(*some) == everything
    assert sum(map(len, some)) == 60
    other = write(tmp_path / "other", make_records([3, 4]))
    assert set(flat(orders(vlpipe.make_dataset([source, other], ids=True))[0])) == set(range(62))


def test_the_element_is_what_was_asked_for(tmp_path: Path) -> None:
    schema = vlpipe.Schema(
        audio=vlpipe.Sequence(3), video=vlpipe.Sequence((2, 2), "uint8"), words=vlpipe.Sequence((), "int32"), who=vlpipe.Text()
    )
    record = {"audio": np.ones((4, 3), "f4"), "video": np.ones((2, 2, 2), "u1"), "words": np.arange(5, dtype="i4"), "who": "x"}
    vlpipe.write(tmp_path / "d", [record], schema)

    def element(**arguments: Any) -> Any:
        return vlpipe.make_dataset(tmp_path / "d", **arguments).element_spec

    x, y = element(features="audio")
    assert x.shape.as_list() == [None, None, 3]
    assert (y.shape.as_list(), y.dtype) == ([None, None], tf.int64)
    (x,) = element(features="video", label=False, dtype="uint8")
    assert (x.shape.as_list(), x.dtype) == ([None, None, 2, 2], tf.uint8)
    x, y = element(features=("audio", "video"), label=("words", "who"), lengths=True, ids=True)
    assert list(x) == ["audio", "video", "audio_lengths", "video_lengths", "words_lengths", "id"]
    assert {name: spec.dtype for name, spec in y.items()} == {"words": tf.int64, "who": tf.string}
    x, y = element(features="audio", lengths=True, ids=True, remainder="drop")
    assert {name: spec.dtype for name, spec in x.items()} == {
        "features": tf.float32,
        "lengths": tf.int32,
        "label_lengths": tf.int32,
        "id": tf.int64,
    }
    x, y, weight = element(features="audio", remainder="pad")
    assert weight.dtype == tf.float32
    x, y, weight = element(features="audio", label=False, remainder="pad")
    assert type(y).__name__ == "NoneTensorSpec"
    assert weight.dtype == tf.float32


def test_pad_to_boundary_pads_one_feature_and_no_label(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(1), other=vlpipe.Sequence(1), label=vlpipe.Sequence((), "int64"))
    record = {"features": np.ones((4, 1), "f4"), "other": np.ones((2, 1), "f4"), "label": [1, 2, 3]}
    vlpipe.write(tmp_path / "d", [record], schema)
    dataset = vlpipe.make_dataset(tmp_path / "d", features=("features", "other"), buckets=[10], pad_to="boundary")
    ((x, y),) = list(dataset)
    assert x["features"].shape == (1, 10, 1)
    assert x["other"].shape == (1, 2, 1)
    assert y.numpy().tolist() == [[1, 2, 3]]
    assert dataset.element_spec[0]["features"].shape.as_list() == [None, 10, 1]


def test_a_model_trains_on_it_with_no_more_said(source: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Conv1D(4, 3, padding="same"), keras.layers.GlobalMaxPooling1D()])
    model.add(keras.layers.Dense(60))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(vlpipe.make_dataset(source), epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    model.fit(vlpipe.make_dataset(source, repeat=True, remainder="pad"), steps_per_epoch=2, verbose=0)


def test_an_empty_dataset_has_no_batches(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [], vlpipe.Schema(features=vlpipe.Sequence(2)))
    for batching in BATCHINGS:
        dataset = vlpipe.make_dataset(tmp_path / "d", batching=batching)
        assert len(dataset) == 0
        assert list(dataset) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shard": (0, 2), "remainder": "drop", "engine": "stream"}, 'cannot keep ranks in step. Use engine="mapped" or "graph"'),
        ({"shard": (0, 2)}, 'Use remainder="pad"'),
        ({"resume": {}, "repeat": True, "seed": 1, "engine": "stream"}, 'in the middle of a run. Use engine="mapped" or "graph"'),
        ({"repeat": True, "remainder": "drop", "batch_size": 1000}, "repeat=True: an epoch has no batch: of 60 records"),
        ({"layout": "audioset"}, 'lacks the feature list "audio_embedding"'),
        ({"features": "fetures"}, "the schema has no field \"fetures\"; its fields are ['features', 'label']"),
        ({"label": "features"}, "is also among the features"),
    ],
)
def test_what_cannot_be_served_says_what_will(source: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(vlpipe.VlpipeError) as caught:
        vlpipe.make_dataset(source, **arguments)
    assert said in str(caught.value)
    if "repeat" not in said:
        with pytest.raises(type(caught.value)):
            vlpipe.plan(source, **arguments)


def test_the_signature_is_that_of_the_options() -> None:
    import dataclasses
    import inspect

    from vlpipe.planning.options import Options

    signature = {name: entry.default for name, entry in inspect.signature(vlpipe.make_dataset).parameters.items() if name != "source"}
    assert signature == {entry.name: entry.default for entry in dataclasses.fields(Options)}


def test_iterators_do_not_disturb_each_other(source: Path) -> None:
    dataset = vlpipe.make_dataset(source, seed=1, ids=True, batch_size=8)
    one, two = iter(dataset), iter(dataset)
    ids: list[list[int]] = [[], []]
    for first, second in zip(one, two, strict=True):
        ids[0] += first[0]["id"].numpy().tolist()
        ids[1] += second[0]["id"].numpy().tolist()
    assert sorted(ids[0]) == sorted(ids[1]) == list(range(60))
    assert ids[0] != ids[1]


def test_the_source_is_where_it_was_when_the_dataset_was_made(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(source.parent)
    dataset = vlpipe.make_dataset("train", ids=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sorted(flat(orders(dataset)[0])) == list(range(60))


def test_dots_behind_a_link_mean_what_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "sub" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "real")
    write(tmp_path / "d", make_records([1] * 5))
    write(tmp_path / "sub" / "d", make_records([1] * 2))
    assert vlpipe.plan(f"{tmp_path}/link/../d").records == 2


def test_files_that_are_links_to_each_other_are_not_delivered_twice(source: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for path in source.iterdir():
        (tmp_path / "copy" / path.name).symlink_to(path)
    assert vlpipe.plan(tmp_path / "copy").records == 60
    with pytest.raises(vlpipe.ArgumentError, match="is named twice, through links; name each file once"):
        vlpipe.make_dataset([source, tmp_path / "copy"])


def test_truncation_is_of_the_feature_that_buckets(tmp_path: Path) -> None:
    record = {"a": np.ones((12, 1), "f4"), "b": np.ones((700, 1), "f4")}
    vlpipe.write(tmp_path / "d", [record])
    arguments: dict[str, Any] = {"features": ("a", "b"), "length_range": (1, 10), "out_of_range": "truncate"}
    ((x,),) = list(vlpipe.make_dataset(tmp_path / "d", **arguments))
    assert {name: value.shape.as_list() for name, value in x.items()} == {"a": [1, 10, 1], "b": [1, 700, 1]}
    assert vlpipe.plan(tmp_path / "d", **arguments).truncated == 1


def test_a_range_beyond_all_lengths_drops_everything(source: Path) -> None:
    assert list(vlpipe.make_dataset(source, length_range=(2**40, None), out_of_range="drop")) == []


def test_names_that_lengths_would_take_are_refused(tmp_path: Path) -> None:
    schema = vlpipe.Schema(a=vlpipe.Sequence(2), b_lengths=vlpipe.Sequence(2), b=vlpipe.Sequence((), "int32"))
    vlpipe.write(tmp_path / "d", [{"a": np.ones((1, 2), "f4"), "b_lengths": np.ones((1, 2), "f4"), "b": [1]}], schema)
    with pytest.raises(vlpipe.SchemaError, match=r"\['b_lengths'\] name fields, and also entries that"):
        vlpipe.make_dataset(tmp_path / "d", features=("a", "b_lengths"), label=("b",), lengths=True)
