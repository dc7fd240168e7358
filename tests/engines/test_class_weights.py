"""`make_dataset(class_weight=)` on every engine: sample weights that a loop over the labels gives, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from vlpipe import ArgumentError, SchemaError

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
WEIGHTS = {0: 0.5, 2: 3.0}  # class 1 has none: 1
LENGTHS = [3, 0, 7, 7, 1, 12, 5]
NAMES = ("label", "hot", "phones", "tags", "target")


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [
        {
            "features": rng.normal(size=(t, 2)).astype("float32"),
            "label": int(rng.integers(4)),
            "hot": (rng.random(3) < 0.5).astype("float32"),
            "phones": rng.integers(0, 4, t).astype("int32"),
            "tags": (rng.random((t, 3)) < 0.5).astype("uint8"),
            "target": np.float32(rng.random()),
        }
        for t in LENGTHS
    ]


@pytest.fixture(scope="module")
def source(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    schema = vlpipe.Schema(
        features=vlpipe.Sequence(2),
        label=vlpipe.Fixed((), "int64"),
        hot=vlpipe.Fixed((3,), "float32"),
        phones=vlpipe.Sequence((), "int32"),
        tags=vlpipe.Sequence(3, "uint8"),
        target=vlpipe.Fixed((), "float32"),
    )
    path = tmp_path_factory.mktemp("data") / "d"
    vlpipe.write(path, records, schema, num_shards=2)
    return path


def index_order(source: Path) -> list[dict[str, np.ndarray]]:
    return list(vlpipe.open(source))


def weight_of(name: str, value: Any, weights: dict[int, float]) -> Any:
    """A loop over the values of a label."""
    if name == "label":
        return weights.get(int(value), 1.0)
    if name == "hot":
        own = [weights.get(c, 1.0) for c in range(3) if value[c]]
        return np.mean(own) if own else 1.0
    return [weight_of("label" if name == "phones" else "hot", entry, weights) for entry in value]


@pytest.mark.parametrize(
    ("engine", "batching", "remainder"),  # each pair of values
    [
        *(("mapped", batching, remainder) for batching in ("bucket", "ragged", "same_length") for remainder in ("keep", "pad")),
        *(("graph", "bucket", "pad"), ("graph", "ragged", "keep")),
        *(("stream", "ragged", "pad"), ("stream", "same_length", "keep")),
    ],
)
def test_the_weights_of_every_kind_of_label(source: Path, engine: str, batching: Any, remainder: Any) -> None:
    values = index_order(source)
    arguments: dict[str, Any] = {
        "label": NAMES,
        "class_weight": dict.fromkeys(NAMES[:4], WEIGHTS),
        "label_padding": {"phones": 0, "tags": 1},  # padding that could be a class
        "length_range": (0, None),
        "batch_size": 3,
        "ids": True,
        "seed": 1,
    }
    seen = []
    for x, y, weights in vlpipe.make_dataset(source, engine=engine, batching=batching, remainder=remainder, **arguments):
        assert set(weights) == set(NAMES) == set(y)
        for position, row in enumerate(x["id"].numpy().tolist()):
            repeated = row in seen
            seen.append(row)
            for name in NAMES:
                got = weights[name][position].numpy()
                expected = np.asarray(1.0 if name == "target" else weight_of(name, values[row][name], WEIGHTS), np.float32)
                whole = expected
                if name in ("phones", "tags") and isinstance(weights[name], tf.Tensor):  # not ragged
                    whole = np.zeros(y[name].shape[1], np.float32)
                    whole[: len(expected)] = expected
                whole = np.zeros_like(whole) if repeated else whole
                np.testing.assert_allclose(got, whole, rtol=1e-6)
                assert got.dtype == np.float32
    assert set(seen) == set(range(len(LENGTHS)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_single_label_has_an_array_of_weights_and_balanced_ones_are_those_of_class_weights(source: Path, engine: str) -> None:
    values = index_order(source)
    for name in NAMES[:4] if engine == "mapped" else NAMES[3:4]:  # the graph is the same code
        weights = vlpipe.class_weights(source, name)
        arguments: dict[str, Any] = {"label": name, "ids": True, "lengths": True, "length_range": (0, None), "batching": "pad"}
        ((x, _, got),) = vlpipe.make_dataset(source, engine=engine, class_weight="balanced", shuffle=False, **arguments)
        for position, row in enumerate(x["id"].numpy().tolist()):
            expected = np.ravel(weight_of(name, values[row][name], weights))
            np.testing.assert_allclose(np.ravel(got[position])[: len(expected)], expected, rtol=1e-6)


@pytest.mark.parametrize(("engine", "remainder"), [("mapped", "keep"), ("mapped", "pad"), ("graph", "pad"), ("stream", "keep")])
def test_ragged_frame_labels_have_ragged_weights(tmp_path: Path, engine: str, remainder: Any) -> None:
    lengths = [3, 1, 4, 1, 5]
    vlpipe.write(tmp_path / "d", ({"features": np.ones((t, 2), "f4"), "phones": np.arange(t) % 3} for t in lengths))
    arguments: dict[str, Any] = {"label": "phones", "features": "features", "batching": "ragged", "batch_size": 3, "seed": 1}
    frames = 0
    for _, y, weight in vlpipe.make_dataset(tmp_path / "d", class_weight={0: 2.0, 2: 5.0}, remainder=remainder, engine=engine, **arguments):
        assert isinstance(weight, tf.RaggedTensor)
        for phones, weights in zip(y.to_list(), weight.to_list(), strict=True):
            repeated = not any(weights)
            assert weights == [0.0] * len(phones) if repeated else weights == [[2.0, 1.0, 5.0][phone] for phone in phones]
            frames += 0 if repeated else len(phones)
    assert frames == sum(lengths)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_weights_of_frames_that_a_crop_leaves(source: Path, engine: str) -> None:
    values = index_order(source)
    arguments: dict[str, Any] = {"label": "phones", "class_weight": WEIGHTS, "crop": 4, "pad_to": "boundary", "buckets": [2, 5]}
    for x, y, weights in vlpipe.make_dataset(source, engine=engine, ids=True, seed=1, length_range=(0, None), **arguments):
        assert y.shape == weights.shape
        for position, row in enumerate(x["id"].numpy().tolist()):
            expected = np.zeros(y.shape[1], np.float32)
            own = weight_of("phones", values[row]["phones"][:4], WEIGHTS)
            expected[: len(own)] = own
            np.testing.assert_allclose(weights[position], expected, rtol=1e-6)


def test_class_weights_give_each_class_the_same_total_weight_over_frames_and_ones(source: Path) -> None:
    values = index_order(source)
    phones = np.concatenate([record["phones"] for record in values])
    for name, classes in (
        ("phones", phones),
        ("hot", np.nonzero(np.stack([record["hot"] for record in values]))[1]),
        ("tags", np.nonzero(np.concatenate([record["tags"] for record in values]))[1]),
    ):
        counts = np.bincount(classes)
        expected = {c: counts.sum() / np.count_nonzero(counts) / n if n else 1.0 for c, n in enumerate(counts.tolist())}
        assert vlpipe.class_weights(source, name) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["label", "tags"])
def test_the_default_label_may_be_a_vector_or_a_sequence(tmp_path: Path, name: str) -> None:
    tags = [np.array(tag, "f4") for tag in ([1, 0, 1], [0, 0, 1])]
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), **{name: vlpipe.Fixed(3, "float32")})
    vlpipe.write(tmp_path / "vectors", ({"features": np.ones((3, 2), "f4"), name: tag} for tag in tags), schema)
    vlpipe.write(tmp_path / "frames", ({"features": np.ones((3, 2), "f4"), name: np.array(tag)} for tag in ([0, 2, 2], [2])))
    for source in ("vectors", "frames"):
        expected = vlpipe.class_weights(tmp_path / source, name)
        assert expected == ({0: 1.5, 1: 1.0, 2: 0.75} if source == "vectors" else {0: 2.0, 1: 1.0, 2: 2 / 3})
        if name == "label":
            assert vlpipe.class_weights(tmp_path / source) == expected


def test_keras_trains_with_them_where_its_own_class_weight_cannot(source: Path) -> None:
    x = keras.Input((None, 2))
    frames = keras.layers.Dense(4, name="phones")(x)
    pooled = keras.layers.Dense(4, name="label")(keras.layers.GlobalAveragePooling1D()(frames))
    model = keras.Model(x, {"phones": frames, "label": pooled})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss={"phones": loss, "label": loss})
    arguments: dict[str, Any] = {"label": ("phones", "label"), "label_padding": {"phones": 0}, "length_range": (1, None)}
    arguments |= {"out_of_range": "drop", "remainder": "pad", "class_weight": {"phones": "balanced", "label": WEIGHTS}, "batch_size": 4}
    history = model.fit(vlpipe.make_dataset(source, **arguments), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    with pytest.raises(ValueError, match="class_weight"):
        model.fit(vlpipe.make_dataset(source, **{**arguments, "class_weight": None, "remainder": "keep"}), class_weight=WEIGHTS, verbose=0)


def test_evaluation_counts_them_in_the_loss_alone(source: Path) -> None:
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(4)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    values = [record for record in index_order(source) if len(record["features"])]
    labels = np.concatenate([record["phones"] for record in values])
    logits = np.concatenate([model(record["features"][None]).numpy()[0] for record in values]).astype(float)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    weights = np.array([WEIGHTS.get(label, 1.0) for label in labels.tolist()])
    arguments: dict[str, Any] = {"label": "phones", "class_weight": WEIGHTS, "length_range": (1, None), "out_of_range": "drop"}
    expected = {"loss": (weights * losses).mean(), "accuracy": (logits.argmax(1) == labels).mean()}
    ragged = vlpipe.make_dataset(source, batching="ragged", batch_size=3, **arguments)
    padded = ragged.map(lambda x, y, w: ({"features": x.to_tensor(), "lengths": x.row_lengths()}, y, w))
    assert vlpipe.evaluate(model, padded) == pytest.approx(expected, rel=1e-5)
    results = vlpipe.evaluate(model, source, **arguments)
    assert results == pytest.approx({"loss": (weights * losses).mean(), "accuracy": (logits.argmax(1) == labels).mean()}, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("equal", ArgumentError, "class_weight: came as 'equal', expected \"balanced\", weights by class"),
        ({}, ArgumentError, "class_weight: came as {}"),
        ({0: -1.0}, ArgumentError, "class_weight: weight: came as -1.0, expected a number from 0 on"),
        ({0: float("nan")}, ArgumentError, "expected a number from 0 on"),
        ({-1: 1.0}, ArgumentError, "class_weight: a class: came as -1, expected an integer >= 0, at most 1048575"),
        ({0: 1.0, "label": {}}, ArgumentError, "class_weight: a class: came as 'label'"),
        ({"label": 3}, ArgumentError, r"class_weight\['label'\]: came as 3, expected \"balanced\" or weights by class"),
        ({"phones": "balanced"}, ArgumentError, r'class_weight: names "phones", but the labels that are delivered are \[\'label\'\]'),
    ],
)
def test_arguments_that_are_no_class_weights(source: Path, value: Any, error: type[Exception], message: str) -> None:
    for call in (vlpipe.plan, vlpipe.make_dataset):
        with pytest.raises(error, match=message):
            call(source, label="label", class_weight=value, length_range=(0, None))


def test_labels_that_have_no_classes(source: Path) -> None:
    with pytest.raises(SchemaError, match='class_weight: "target" is Fixed.*, which names no classes; expected integers, or vectors'):
        vlpipe.plan(source, label="target", class_weight=WEIGHTS, length_range=(0, None))
    for label in (False, ("label", "phones")):
        with pytest.raises(ArgumentError, match=r"the labels that are delivered are \[.*\]; name the one to weigh"):
            vlpipe.plan(source, label=label, class_weight=WEIGHTS, length_range=(0, None))


def test_vectors_that_are_no_ones_and_labels_without_values(tmp_path: Path) -> None:
    schema = vlpipe.Schema(features=vlpipe.Sequence(2), soft=vlpipe.Fixed((2,), "float32"), phones=vlpipe.Sequence((), "int32"))
    record = {"features": np.ones((1, 2), "f4"), "soft": np.array([0.25, 0.75], "f4"), "phones": np.zeros(0, "i4")}
    vlpipe.write(tmp_path / "d", [record], schema)
    with pytest.raises(ArgumentError, match='label: "soft" has the value 0.25 in a vector, expected 1 for each class it names, and 0'):
        vlpipe.class_weights(tmp_path / "d", "soft")
    ((_, _, weights),) = vlpipe.make_dataset(tmp_path / "d", label="soft", class_weight={1: 3.0})
    np.testing.assert_allclose(weights, [0.25 * 1 + 0.75 * 3])
    with pytest.raises(vlpipe.DatasetError, match='label: "phones" has no values, expected at least one, to weigh the classes'):
        vlpipe.class_weights(tmp_path / "d", "phones")


def test_classes_of_third_party_lists(tmp_path: Path) -> None:
    feature = tf.train.Feature
    rng = np.random.default_rng(1)
    labels = [[0, 2], [2], [], [1, 2, 2]]
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for classes in labels:
            values = {
                "mel": feature(float_list=tf.train.FloatList(value=rng.normal(size=8))),
                "tokens": feature(int64_list=tf.train.Int64List(value=classes)),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())
    layout = vlpipe.layouts.float_list("mel", d=2, label="tokens")
    assert vlpipe.class_weights(tmp_path / "x.tfrecord", "tokens", layout) == {0: 2.0, 1: 2.0, 2: 0.5}
    for engine in ENGINES[:2]:
        dataset = vlpipe.make_dataset(tmp_path / "x.tfrecord", layout=layout, class_weight="balanced", engine=engine, shuffle=False)
        ((_, y, weights),) = dataset
        assert y.numpy().tolist() == [[0, 2, -1], [2, -1, -1], [-1, -1, -1], [1, 2, 2]]
        assert weights.numpy().tolist() == [[2.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.5, 0.5]]
