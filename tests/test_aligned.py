"""Aligned sequences: labels and further features that go frame by frame with the key feature, in all engines, against NumPy.

A case is a record under random arguments. `VLPIPE_SWEEP=10` makes more than 10,000 of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints
from tests.helpers.foreign_files import write as write_records
from vlpipe.layouts import Frames, Layout, float_list

pytestmark = pytest.mark.usefixtures("quick_graphs")

ROUNDS = 9 * int(os.environ.get("VLPIPE_SWEEP", "1"))
ENGINES = ("mapped", "graph", "stream")
SHAPES: dict[str, tuple[int, ...]] = {"words": (), "x": (2,), "vad": (), "mask": (2,), "pitch": (3,)}  # of a frame; not aligned: words
Records = list[dict[str, np.ndarray]]


def pick(random: np.random.Generator, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def some_records(random: np.random.Generator, names: list[str], dtypes: dict[str, str]) -> Records:
    """Records of 0 to 15 frames. The first value of a frame of x is its number, which tells what a crop has kept."""
    records = []
    for number in range(pick(random, (1, 3, 100, 400))):
        frames = 3 if number == 0 else int(random.integers(0, 16))
        lengths = dict.fromkeys(names, frames) | {"words": (frames + 1) % 5}
        record = {name: random.integers(0, 100, (lengths[name], *SHAPES[name])).astype(dtypes[name]) for name in names}
        record["x"][:, 0] = np.arange(frames)
        records.append(record)
    return records


# ---- sources --------------------------------------------------------------------------------------------------------------------


def native(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    dtypes = {name: pick(random, ("float32", "float16", "uint8", "int16", "int64")) for name in SHAPES}
    names = random.permutation(list(SHAPES)).tolist()
    declared = random.random() < 0.3
    schema = {name: vlpipe.Sequence(SHAPES[name], dtypes[name], aligned=declared and name in ("vad", "mask", "pitch")) for name in names}
    records = some_records(random, names, dtypes)
    vlpipe.write(path / "data", records, vlpipe.Schema(**schema), num_shards=2)
    return path / "data", records, {}


def third_party(random: np.random.Generator, path: Path, layout: Layout, names: list[str]) -> tuple[Any, Records, dict[str, Any]]:
    integers = {"vad": "int64", "words": "int64"}
    records = some_records(random, names, dict.fromkeys(names, "float32") | integers)
    encoded = [
        example({name: ints(*value.tolist()) if name in integers else floats(value) for name, value in record.items()})
        for record in records
    ]
    return write_records(path / "data.tfrecord", encoded), records, {"layout": layout}


def lists(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    return third_party(random, path, float_list("x", d=2, lists=("vad", "words")), ["x", "vad", "words"])


def parsed(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    entries = (
        Frames("x", "floats", (2,), packed=bool(random.random() < 0.5)),
        Frames("mask", "floats", (2,)),
        Frames("pitch", "floats", (3,), packed=False),
    )
    return third_party(random, path, Layout("parsed", entries), ["x", "mask", "pitch"])


def custom(random: np.random.Generator, path: Path) -> tuple[Any, Records, dict[str, Any]]:
    def parse(data: tf.Tensor) -> dict[str, tf.Tensor]:
        dtypes = {"x": tf.float32, "vad": tf.int64, "pitch": tf.float32, "words": tf.int64}
        read = tf.io.parse_single_example(data, {key: tf.io.FixedLenSequenceFeature([], dtype, True) for key, dtype in dtypes.items()})
        return {name: tf.reshape(value, [-1, *SHAPES[name]]) for name, value in read.items()}

    return third_party(random, path, Layout.custom(parse), ["x", "vad", "pitch", "words"])


SOURCES: tuple[Callable[..., Any], ...] = (native, native, native, lists, parsed, custom)


# ---- the reference --------------------------------------------------------------------------------------------------------------


def halved(values: Any) -> Any:
    return values[1::2]


def check_row(record: dict[str, np.ndarray], row: dict[str, np.ndarray], uppers: dict[str, int], given: dict[str, Any]) -> None:
    """Compare a row of a batch, unpadded where it is ragged, with the record."""
    kept = len(record["x"])
    if given.get("out_of_range") == "truncate":
        kept = min(kept, given["length_range"][1])
    crop = given.get("crop") or vlpipe.Crop(99)
    first, kept = 0, min(kept, crop.frames)
    step = 2 if given.get("transform") == HALVED else 1
    if crop.random and kept // step:
        first = int(row["x"][0, 0]) - (step - 1)
    for name, values in row.items():
        expected = record[name] if name == "words" else record[name][first : first + kept][step - 1 :: step]
        padding = given["padding_value" if name in given["features"] else "label_padding"]
        assert len(values) == uppers.get(name, len(expected)), name
        assert np.array_equal(values[: len(expected)], expected), name
        assert (values[len(expected) :] == padding).all(), name


HALVED = vlpipe.Transform(halved, frames=lambda t: t // 2, aligned=halved)
SAME = vlpipe.Transform(tf.identity)


def some_arguments(random: np.random.Generator, names: list[str]) -> dict[str, Any]:
    others = [name for name in names if name != "x"]
    features = ("x", *(name for name in others if SHAPES[name] and random.random() < 0.4))
    batching = pick(random, ("bucket", "bucket", "pad", "ragged", "same_length"))
    given: dict[str, Any] = {"features": features, "label": tuple(name for name in others if name not in features) or False}
    given |= {"batching": batching, "batch_size": pick(random, (1, 4, 16, 40)), "seed": int(random.integers(100))}
    given |= {"length_range": (0, None), "lengths": True, "ids": True, "padding_value": 77, "label_padding": -3}
    if batching == "bucket":
        given["buckets"] = [2, 5, 20]
    if batching in ("bucket", "pad") and random.random() < 0.5:
        given["pad_to"] = "boundary"
    if random.random() < 0.6:
        given["crop"] = vlpipe.Crop(int(random.integers(1, 14)), random=bool(random.random() < 0.7))
    if random.random() < 0.4:
        given |= {"out_of_range": "truncate", "length_range": (0, int(random.integers(1, 14)))}
    if random.random() < 0.5:
        given["transform"] = pick(random, (HALVED, SAME))
    return given | {"remainder": pick(random, ("keep", "pad"))}


def rows_of(batch: Any, given: dict[str, Any]) -> dict[int, dict[str, np.ndarray]]:
    """The rows of a batch by id, each with its parts; a row is compared with what `lengths=True` says of it."""
    x, y = batch[0], (batch[1:] or ({},))[0] or {}
    parts = {name: x[name] for name in given["features"]} | y
    rows = {}
    for number, row in enumerate(x["id"].numpy().tolist()):
        rows[row] = {name: part[number].numpy() for name, part in parts.items()}
        lengths = {name: int(x[f"{name}_lengths"][number]) for name in parts}
        assert {lengths[name] for name in parts if name != "words"} == {lengths["x"]}
    return rows


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_frame_drifts(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    make = pick(random, SOURCES)
    source, records, given = make(random, tmp_path)
    given |= some_arguments(random, list(records[0]))
    if make is custom or random.random() < 0.3:  # the index does not know the lengths of labels that a function returns
        given["aligned"] = tuple(name for name in ("vad", "mask", "pitch") if name in records[0])
    delivered = {}
    for engine in ("mapped", ENGINES[1 + seed % 2]):
        plan = vlpipe.plan(source, engine=engine, **given)
        frames = dict(zip(plan.rows.tolist(), plan.frames.tolist(), strict=True))
        rows: dict[int, dict[str, np.ndarray]] = {}
        for batch in vlpipe.make_dataset(source, engine=engine, **given):
            of_batch = rows_of(batch, given)
            longest = int(max(batch[0]["x_lengths"]))
            upper = next(upper for upper in plan.boundaries if longest <= upper) if "pad_to" in given else longest
            # Sequences of other lengths are padded to the longest of the batch, or that the bucket may have.
            others = of_batch if "pad_to" not in given or make is custom else [row for row, t in frames.items() if t <= upper]
            uppers = dict.fromkeys(records[0], upper) | {"words": max(len(records[row].get("words", ())) for row in others)}
            for row, parts in of_batch.items():
                check_row(records[row], parts, {"words": uppers["words"]} if given["batching"] == "ragged" else uppers, given)
            rows |= of_batch
        assert sorted(rows) == list(range(len(records)))
        delivered[engine] = rows
    for row, parts in delivered["mapped"].items():
        for name, values in parts.items():
            kept = min(len(values), len(delivered[engine][row][name]))  # the stream engine pads to other neighbours
            assert np.array_equal(values[:kept], delivered[engine][row][name][:kept])


# ---- one thing at a time --------------------------------------------------------------------------------------------------------


def voice(path: Path, lengths: list[tuple[int, int]], **fields: Any) -> Path:
    """A dataset of features `[T, 2]` and vad `[U]`, with these (T, U)."""
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), **{"vad": vlpipe.Sequence((), "uint8"), **fields})
    records = [{"features": np.ones((t, 2), np.float32), "vad": np.arange(u, dtype=np.uint8)} for t, u in lengths]
    vlpipe.write(path, records, schema)
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_are_cut_where_the_frames_are(tmp_path: Path, engine: str) -> None:
    x = np.arange(100, dtype=np.float32)
    vlpipe.write(tmp_path / "data", [{"features": x[:, None], "label": x.astype("int16")}])
    first = set()
    for seed in range(3 if engine == "mapped" else 1):
        for frames, label in vlpipe.make_dataset(tmp_path / "data", crop=vlpipe.Crop(10, random=True), seed=seed, engine=engine):
            assert frames.shape == (1, 10, 1)
            assert np.array_equal(frames[..., 0], label)
            first.add(int(label[0, 0]))
    assert len(first) > 1 or engine != "mapped"
    old = vlpipe.make_dataset(tmp_path / "data", crop=vlpipe.Crop(10, random=True), aligned=False, engine=engine)
    assert [label.shape.as_list() for _, label in old] == [[1, 100]]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_shape_goes_with_the_key_feature(tmp_path: Path, engine: str) -> None:
    source = voice(tmp_path / "data", [(t, t) for t in (1, 4, 6, 7)])
    arguments: dict[str, Any] = {"engine": engine, "batch_size": 2, "remainder": "pad", "lengths": True}
    static = vlpipe.make_dataset(source, batching="pad", pad_to="boundary", **arguments)
    assert static.element_spec[1].shape.as_list() == [2, 7] or engine == "stream"
    assert all(y.shape == (2, 7) and np.array_equal(x["lengths"], x["label_lengths"]) for x, y, _ in static)
    for x, y, _ in vlpipe.make_dataset(source, batching="ragged", **arguments):
        assert np.array_equal(x["features"].row_splits, y.row_splits)
        assert y.dtype == tf.int64
    if engine == "mapped":  # planning decides
        spec = vlpipe.make_dataset(source, batching="ragged", aligned=False, **arguments).element_spec
        assert not isinstance(spec[1], tf.RaggedTensorSpec)


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_ranks_and_repeated_rows(tmp_path: Path, engine: str) -> None:
    source = voice(tmp_path / "data", [(t, t) for t in (0, 1, 4, 6, 9)])
    given: dict[str, Any] = {"length_range": (0, None), "crop": vlpipe.Crop(3, random=True), "seed": 1, "remainder": "pad", "ids": True}
    seen = set()
    for rank in range(2):
        for x, y, weight in vlpipe.make_dataset(source, shard=(rank, 2), batch_size=2, engine=engine, **given):
            assert x["features"].shape[:2] == y.shape
            for row, weighted in zip(x["id"].numpy(), weight.numpy(), strict=True):
                seen |= {int(row)} if weighted else set()
    assert seen == set(range(5))


def test_masks_leave_labels_alone(tmp_path: Path) -> None:
    source = voice(tmp_path / "data", [(t, t) for t in (9, 30)])
    masks = vlpipe.SpecAugment(time_width=5, time_masks=3, frequency_masks=0)
    for engine in ENGINES:
        for x, y in vlpipe.make_dataset(source, augment=masks, normalize="utterance", batch_size=1, engine=engine):
            assert np.array_equal(y[0], np.arange(x.shape[1]))


def test_what_is_found_by_its_lengths_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = voice(tmp_path / "data", [(3, 3), (5, 5)])
    with caplog.at_level("INFO", logger="vlpipe"):
        list(vlpipe.make_dataset(source, seed=1))
    said = 'aligned=None: vad goes frame by frame with "features", as long in every record; aligned=False if not'
    assert [record.getMessage() for record in caplog.records] == [said]
    caplog.clear()
    with caplog.at_level("INFO", logger="vlpipe"):
        vlpipe.make_dataset(source, seed=1, aligned="vad")
        vlpipe.make_dataset(source, seed=1, label=False)
        vlpipe.make_dataset(voice(tmp_path / "empty", []), seed=1, batching="ragged")
        vlpipe.make_dataset(voice(tmp_path / "other", [(3, 3), (5, 4)]), seed=1)
    assert not caplog.records


def test_the_schema_says_it_for_good(tmp_path: Path) -> None:
    field = vlpipe.Sequence((), "uint8", aligned=True)
    source = voice(tmp_path / "data", [(3, 3), (0, 0)], vad=field)
    schema = vlpipe.plan(source, length_range=(0, None)).index.schema
    assert schema.fields["vad"] == field
    assert repr(field) == "Sequence(shape=(), dtype='uint8', aligned=True)"
    assert "aligned" not in repr(schema.fields["features"])
    assert "aligned" not in schema.to_json()["features"]
    assert vlpipe.plan(voice(tmp_path / "empty", [], vad=field)).selection.aligned == ("vad",)
    with pytest.raises(
        vlpipe.SchemaError,
        match=r'record 1.*: "vad" has 4 values, but the schema has it aligned with "features", which has 5 frames. Write one',
    ):
        voice(tmp_path / "refused", [(3, 3), (5, 4)], vad=field)
    with pytest.raises(vlpipe.SchemaError, match="Sequence: aligned is 1, expected True or False"):
        vlpipe.Sequence(aligned=1)  # type: ignore[arg-type]
    with pytest.raises(vlpipe.SchemaError, match=r"Schema: every sequence of \['a'\] is aligned=True; leave it out of the one"):
        vlpipe.Schema(a=vlpipe.Sequence(aligned=True))
    key = vlpipe.Schema(mel=vlpipe.Sequence(3), mask=vlpipe.Sequence(3, aligned=True), text=vlpipe.Sequence((), "int32"))
    key.check({"mel": np.ones((2, 3), np.float32), "mask": np.ones((2, 3), np.float32), "text": [1, 2, 3]})


@pytest.mark.parametrize(
    ("aligned", "error", "said"),
    [
        ("phones", vlpipe.SchemaError, r'aligned: the schema has no field "phones"; its fields are \['),
        (
            "features",
            vlpipe.ArgumentError,
            r'aligned: "features" is the key feature, with which others are aligned. Name only the others: \[',
        ),
        ("speaker", vlpipe.SchemaError, r'aligned: "speaker" is Text\(\), expected a Sequence with one value a frame'),
        ("unused", vlpipe.ArgumentError, r'aligned: "unused" is not delivered; besides "features" these sequences are: \[\'vad\'\]'),
        (
            ("vad",),
            vlpipe.ArgumentError,
            r'aligned: .*tfrecord, record \d at byte \d+: "vad" has 4 values, "features" has 5 frames, expected one value a frame '
            r"\(2 of 3 records differ\)",
        ),
    ],
)
def test_names_that_are_refused_before_a_record_is_read(tmp_path: Path, aligned: Any, error: type[Exception], said: str) -> None:
    schema = vlpipe.Schema(
        features=vlpipe.Sequence(2), vad=vlpipe.Sequence((), "uint8"), unused=vlpipe.Sequence((), "uint8"), speaker=vlpipe.Text()
    )
    records = [
        {"features": np.ones((t, 2), np.float32), "vad": np.ones(u, np.uint8), "unused": np.ones(u, np.uint8), "speaker": "ann"}
        for t, u in ((3, 3), (5, 4), (2, 9))
    ]
    vlpipe.write(tmp_path / "data", records, schema)
    for function in (vlpipe.plan, vlpipe.make_dataset):
        with pytest.raises(error, match=said):
            function(tmp_path / "data", label=("vad", "speaker"), aligned=aligned)


def test_a_custom_label_of_another_length_is_an_error_that_names_the_record(tmp_path: Path) -> None:
    def parse(data: tf.Tensor) -> dict[str, tf.Tensor]:
        keys = {"x": tf.io.FixedLenSequenceFeature([], tf.float32, True), "y": tf.io.FixedLenSequenceFeature([], tf.int64, True)}
        read = tf.io.parse_single_example(data, keys)
        return {"x": read["x"][:, None], "y": read["y"]}

    path = write_records(tmp_path / "data.tfrecord", [example({"x": floats([1, 2]), "y": ints(*range(n))}) for n in (2, 3)])
    with pytest.raises(vlpipe.ArgumentError, match=r'aligned: data.tfrecord, record 1 at byte \d+: "y" has 3 values, "x" has 2 frames'):
        vlpipe.plan(path, layout=Layout.custom(parse), features="x", label="y", aligned="y")
    uncounted = Layout.custom(parse, length_fn=lambda data: 2)  # of x: the index then does not know the lengths of y
    for engine in ENGINES:
        dataset = vlpipe.make_dataset(path, layout=uncounted, features="x", label="y", aligned="y", engine=engine)
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"record 1 at byte \d+: .*y.* has 3 frames, .*x.*, with which it is aligned, has 2"
        ):
            list(dataset)


def test_a_transform_says_what_happens_to_aligned_sequences(tmp_path: Path) -> None:
    source = voice(tmp_path / "data", [(t, t) for t in (4, 9)])
    half = vlpipe.Transform(halved, frames=lambda t: t // 2)
    said = r"transform: changes the number of frames, but \['vad'\] have one value for each frame before it. Say what"
    for function in (vlpipe.plan, vlpipe.make_dataset):
        with pytest.raises(vlpipe.ArgumentError, match=said):
            function(source, transform=half)
    assert vlpipe.plan(source, transform=half, aligned=False).selection.aligned == ()
    assert vlpipe.plan(source, transform=vlpipe.Transform(tf.identity, frames=lambda t: t)).selection.aligned == ("vad",)
    pairs = vlpipe.Transform(
        lambda x: tf.reshape(x[: tf.shape(x)[0] // 2 * 2], [-1, 4]),
        frames=lambda t: t // 2,
        aligned=lambda y: tf.reshape(y[: tf.shape(y)[0] // 2 * 2], [-1, 2]),
    )
    for engine in ENGINES[:2]:
        shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in vlpipe.make_dataset(source, transform=pairs, batch_size=1, engine=engine)]
        assert sorted(shapes) == [((1, 2, 4), (1, 2, 2)), ((1, 4, 4), (1, 4, 2))]
    with pytest.raises(vlpipe.ArgumentError, match=r"transform: aligned came as 3, expected a function of one aligned sequence \[T, ...\]"):
        vlpipe.Transform(abs, aligned=3)  # type: ignore[arg-type]
    with pytest.raises(vlpipe.ArgumentError, match='transform: aligned, of "vad": returns float32, expected int64, as "vad" is delivered'):
        vlpipe.plan(source, transform=vlpipe.Transform(tf.identity, aligned=lambda y: tf.cast(y, tf.float32)))
    wrong = vlpipe.Transform(halved, frames=lambda t: t // 2, aligned=tf.identity)
    for engine in ENGINES[::2]:
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"transform: aligned, of .*vad.*: record with id \d: returned \d frames, exp"
        ):
            list(vlpipe.make_dataset(source, transform=wrong, engine=engine))


def test_the_plan_counts_aligned_features_at_the_length_of_the_key(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), pitch=vlpipe.Sequence(3))
    records = [{"features": np.ones((t, 2), np.float32), "pitch": np.ones((t, 3), np.float32)} for t in (5, 20)]
    vlpipe.write(tmp_path / "data", records, schema)
    given: dict[str, Any] = {"features": ("features", "pitch"), "crop": 8, "batching": "pad", "batch_size": 2}
    plan = vlpipe.plan(tmp_path / "data", **given)
    assert plan.peak_batch_bytes == 2 * 8 * (2 + 3) * 4
    assert plan.memory.peak_bytes("pitch") == plan.memory.peak_bytes_read("pitch") == 2 * 8 * 3 * 4
    assert "aligned pitch with features" in " ".join(plan.report().split())
    apart = vlpipe.plan(tmp_path / "data", aligned=False, **given)
    assert apart.peak_batch_bytes == 2 * (8 * 2 + 20 * 3) * 4
    assert "pitch with" not in apart.report()


def test_a_state_knows_what_is_aligned_only_where_frames_are_cut(tmp_path: Path) -> None:
    source = voice(tmp_path / "data", [(t, t) for t in (4, 9)])
    whole = [vlpipe.plan(source, seed=1, aligned=aligned).state(0, 0) for aligned in (None, "vad", False)]
    assert whole[0] == whole[1] == whole[2]
    assert "aligned" not in whole[0]
    cut, old = (vlpipe.plan(source, seed=1, crop=3, aligned=aligned).state(0, 0) for aligned in (None, False))
    assert cut == {**old, "aligned": "vad"}
    arguments: dict[str, Any] = {"seed": 1, "crop": 3, "repeat": True}
    with pytest.raises(vlpipe.ArgumentError, match="aligned is None in the state, 'vad' here"):
        vlpipe.make_dataset(source, resume=old, **arguments)
    with pytest.raises(vlpipe.ArgumentError, match="aligned is 'vad' in the state, None here"):
        vlpipe.make_dataset(source, resume=cut, aligned=False, **arguments)
    assert [y.shape for _, y in vlpipe.make_dataset(source, resume=cut, **arguments).take(1)] == [(2, 3)]
    assert [y.shape for _, y in vlpipe.make_dataset(source, resume=old, aligned=False, **arguments).take(1)] == [(2, 9)]


# ---- builders -------------------------------------------------------------------------------------------------------------------


def elements(lengths: list[tuple[int, int]]) -> tf.data.Dataset:
    """(x [T, 2], {"vad": [U], "words": [3]}, a weight for each frame [T])."""

    def make(frames: tf.Tensor, values: tf.Tensor) -> tuple[Any, ...]:
        labels = {"vad": tf.range(values), "words": tf.range(frames % 3)}
        return tf.ones([frames, 2]), labels, tf.ones([frames])

    return tf.data.Dataset.from_tensor_slices(np.array(lengths, np.int32)).map(lambda pair: make(pair[0], pair[1]))


def test_the_builders_pad_aligned_parts_with_x() -> None:
    dataset = elements([(3, 3), (2, 2), (7, 7)])
    given: dict[str, Any] = {"batch_size": 2, "lengths": True, "aligned": ("vad", "sample_weight"), "label_padding": {"vad": 9}}
    found = []
    for x, y, weight in vlpipe.builders.bucket(dataset, buckets=[4, 9], pad_to="boundary", **given):
        assert x["features"].shape[:2] == y["vad"].shape == weight.shape
        found.append((x["features"].shape.as_list(), y["vad"].numpy().tolist(), weight.numpy().sum(1).tolist(), y["words"].shape[1]))
    assert found == [
        ([2, 4, 2], [[0, 1, 2, 9], [0, 1, 9, 9]], [3, 2], 2),
        ([1, 9, 2], [[0, 1, 2, 3, 4, 5, 6, 9, 9]], [7], 1),
    ]
    for x, y, weight in vlpipe.builders.ragged(dataset, **given):
        assert np.array_equal(x["features"].row_splits, y["vad"].row_splits)
        assert isinstance(weight, tf.RaggedTensor)
        assert isinstance(y["words"], tf.Tensor)
    for build in (vlpipe.builders.pad, vlpipe.builders.same_length):
        assert all(x["features"].shape[:2] == y["vad"].shape for x, y, _ in build(dataset, **given))


def test_the_builders_compare_lengths_and_names() -> None:
    dataset = elements([(3, 3), (2, 1)])
    for build in (vlpipe.builders.bucket, vlpipe.builders.pad, vlpipe.builders.ragged, vlpipe.builders.same_length):
        assert len(list(build(dataset, aligned=False))) > 0
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match="aligned: element 1: .*vad.* has 1 values, but .*features.* has 2 frames; correct the element",
        ):
            list(build(dataset, aligned="vad"))
    with pytest.raises(
        vlpipe.ArgumentError,
        match=r"aligned: names \['pitch'\], but besides \"features\" the parts whose length differs are \['vad', 'words'",
    ):
        vlpipe.builders.pad(dataset, aligned="pitch")
