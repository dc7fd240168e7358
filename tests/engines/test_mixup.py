"""Mixup through `make_dataset`, compared with NumPy and with SciPy's Beta distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import vlpipe
from tests.helpers.resuming import hashes_of
from tests.helpers.transforms_numpy import below, draw, normalized
from vlpipe import ArgumentError, Mixup
from vlpipe.transforms.mixup import shares

pytestmark = pytest.mark.usefixtures("quick_graphs")

MIXUP = 106496
LENGTHS = [0, 3, 9, 1, 5, 7, 2, 4, 8, 6]
CLASSES = 3


def written(path: Path, label: Any = None) -> tuple[str, list[np.ndarray]]:
    random = np.random.default_rng(0)
    frames = [random.normal(size=(n, 2)).astype(np.float32) for n in LENGTHS]
    schema = vlpipe.Schema(x=vlpipe.Sequence(2), label=label or vlpipe.Fixed(CLASSES, "float32"))
    one_hot = np.eye(CLASSES, dtype=np.float32)
    labels = [number % CLASSES if label else one_hot[number % CLASSES] for number in range(len(LENGTHS))]
    vlpipe.write(path, [{"x": x, "label": y} for x, y in zip(frames, labels, strict=True)], schema)
    return str(path), frames


def share_of(alpha: float, number: int) -> float:
    """The greater of b and 1 - b for the quantile of a draw."""
    return 1 - float(stats.beta.ppf(number / 2**32 / 2, alpha, alpha))


@pytest.mark.parametrize(
    "arguments", [{}, {"batching": "ragged", "normalize": "utterance"}, {"remainder": "pad", "pad_to": "boundary", "buckets": 2}]
)
def test_sequences_and_labels_are_mixed_as_by_numpy_and_alike_on_both_engines(tmp_path: Path, arguments: dict[str, Any]) -> None:
    source, frames = written(tmp_path / "d")
    if "normalize" in arguments:
        frames = [normalized(x) for x in frames]
    shown = {"ids": True, "lengths": True, "batch_size": 4, "seed": 5, "length_range": (0, None)} | arguments
    engines = ("mapped", "graph") if arguments else ("mapped", "mapped")  # a graph of each form of a batch that Mixup meets
    each = [list(vlpipe.make_dataset(source, augment=Mixup(0.4), engine=engine, **shown)) for engine in engines]
    seen = 0
    for (x, y, *_), (same_x, same_y, *_) in zip(*each, strict=True):
        parts, same = (tf.nest.flatten(entry, expand_composites=True) for entry in ((x, y), (same_x, same_y)))
        assert all(map(np.array_equal, parts, same))
        ids = x["id"].numpy().tolist()
        for row, number in enumerate(ids):
            partner = ids[below(len(ids), draw(5, 0, MIXUP, number))]
            assert x["partner"][row] == partner
            share = share_of(0.4, draw(5, 0, MIXUP + 1, number)) if LENGTHS[partner] else 1.0
            own, length = frames[number], LENGTHS[number]
            assert x["lengths"][row] == length
            other = np.array([frames[partner][t % LENGTHS[partner]] for t in range(length)]).reshape(-1, 2) if LENGTHS[partner] else own
            np.testing.assert_allclose(x["features"][row][:length], share * own + (1 - share) * other, atol=1e-3)
            assert not np.any(x["features"][row][length:])
            hot = np.eye(CLASSES)
            np.testing.assert_allclose(y[row], share * hot[number % CLASSES] + (1 - share) * hot[partner % CLASSES], atol=1e-3)
            seen += partner != number
    assert seen > 4


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0, 3.0, 100.0])
def test_the_shares_have_the_beta_distribution(alpha: float) -> None:
    numbers = np.r_[0, 2**32 - 1, 2**20 + np.random.default_rng(0).integers(0, 2**32 - 2**20, 500)]
    found = shares(Mixup(alpha), tf.constant(numbers)).numpy()
    np.testing.assert_allclose(found, [share_of(alpha, number) for number in numbers.tolist()], atol=1e-3)
    assert found.min() >= 0.5
    assert found.max() <= 1


def test_a_run_resumes_with_the_same_mixtures_if_its_batches_are_the_same(tmp_path: Path) -> None:
    source, _ = written(tmp_path / "d")
    arguments: dict[str, Any] = {"augment": Mixup(), "batch_size": 4, "seed": 2, "length_range": (0, None)}
    whole = hashes_of(vlpipe.make_dataset(source, repeat=True, **arguments), 6)
    assert len(set(whole)) == 6
    state = vlpipe.plan(source, **arguments).state(0, 2)
    assert hashes_of(vlpipe.make_dataset(source, repeat=True, resume=state, engine="graph", **arguments), 4) == whole[2:]
    with pytest.raises(ArgumentError, match=r"augment is 'Mixup\(alpha=0.2, batch_size=4, world=1\)' in the state"):
        vlpipe.make_dataset(source, repeat=True, resume=state, **arguments | {"batch_size": 2, "shard": (0, 2), "remainder": "drop"})


def test_what_it_refuses(tmp_path: Path) -> None:
    source, _ = written(tmp_path / "d")
    numbers, _ = written(tmp_path / "numbers", label=vlpipe.Fixed())
    two = str(tmp_path / "two")
    vlpipe.write(two, [{"a": np.ones((3, 2), np.float32), "b": np.ones((3, 2), np.float32)}])
    lists = str(tmp_path / "lists")
    schema = vlpipe.Schema(x=vlpipe.Sequence(2), words=vlpipe.Sequence((), "int64"))
    vlpipe.write(lists, [{"x": np.ones((3, 2), np.float32), "words": np.arange(n)} for n in (1, 2)], schema)
    with pytest.raises(ArgumentError, match="Mixup: classes: came as 0"):
        Mixup(classes=0)
    for alpha in (0, -1, 101, "much"):
        with pytest.raises(ArgumentError, match="Mixup: alpha: came as .*, expected a number from 0.001 to 100"):
            Mixup(alpha)  # type: ignore[arg-type]
    cases: list[tuple[str, dict[str, Any], str]] = [
        (
            numbers,
            {},
            r'Mixup makes vectors of the class numbers "label", but the dataset has no class names .* Pass vlpipe.Mixup\(alpha, cl',
        ),
        (
            numbers,
            {"augment": Mixup(classes=2)},
            r'record \d+ at byte \d+: "label" is 2, and Mixup makes vectors of 2 classes, expected 0 to 1',
        ),
        (lists, {"label": "words"}, 'augment: Mixup mixes labels, but "words" is Sequence.*expected a class number or a vector'),
        (two, {"features": ("a", "b")}, r"augment: Mixup mixes one feature, but \['a', 'b'\] are delivered, and the others would stay"),
        (source, {"augment": [Mixup(), Mixup(1)]}, "augment: has 2 vlpipe.Mixup, expected one. Use one with a greater alpha"),
        (source, {"engine": "stream"}, "augment: Mixup needs the batches of a plan, and the stream engine has none"),
    ]
    for data, arguments, said in cases:
        with pytest.raises(ArgumentError, match=said):
            vlpipe.plan(data, **{"augment": Mixup(), "length_range": (0, None)} | arguments)
    assert "batch: Mixup(alpha=0.2)" in vlpipe.plan(numbers, augment=Mixup(), label=False, length_range=(0, None)).report()


@pytest.mark.parametrize("field", ["x", "label"])
def test_check_finite_names_the_record_that_has_the_nan_and_not_the_one_it_is_mixed_with(tmp_path: Path, field: str) -> None:
    records = [{"x": np.ones((4, 2), np.float32), "label": np.ones(CLASSES, np.float32)} for _ in range(8)]
    schema = vlpipe.Schema(x=vlpipe.Sequence(2), label=vlpipe.Fixed(CLASSES, "float32"))
    records[-1][field][2] = np.nan
    vlpipe.write(tmp_path / "d", records, schema, num_shards=1, overwrite=True)
    seed = next(n for n in range(50) if any(below(8, draw(n, 0, MIXUP, row)) == 7 for row in range(7)))  # an earlier row is mixed with it
    for engine in ("mapped", "graph"):
        dataset = vlpipe.make_dataset(tmp_path / "d", augment=Mixup(1.0), check_finite="error", shuffle=False, seed=seed, engine=engine)
        with pytest.raises(tf.errors.InvalidArgumentError, match="record 7 at byte [0-9]+: .*has nan"):
            list(dataset)


def test_class_numbers_become_vectors_and_multi_hot_integers_floats(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    classes = [int(n) for n in random.integers(0, CLASSES, 20)]
    hot = random.integers(0, 2, (20, 4))
    schema = vlpipe.Schema(x=vlpipe.Sequence(2), label=vlpipe.Fixed(), tags=vlpipe.Fixed(4, "int64"))
    with vlpipe.Writer(tmp_path / "d", schema) as writer:
        writer.metadata = {"classes": ["a", "b", "c"]}
        for y, tags in zip(classes, hot, strict=True):
            writer.write({"x": np.ones((3, 2), np.float32), "label": y, "tags": tags})
    weights = {0: 1.0, 1: 3.0}
    for augment, size in ((Mixup(1.0), 3), (Mixup(1.0, classes=5), 5)):
        for engine in ("mapped", "graph"):
            dataset = vlpipe.make_dataset(
                tmp_path / "d", label=("label", "tags"), augment=augment, ids=True, seed=5, batch_size=8, engine=engine,
                class_weight={"label": weights},
            )  # fmt: skip
            for x, y, weight in dataset:
                ids = x["id"].numpy().tolist()
                assert y["label"].shape == (len(ids), size)
                for row, number in enumerate(ids):
                    partner, share = int(x["partner"][row]), share_of(1.0, draw(5, 0, MIXUP + 1, number))
                    one = np.eye(size)
                    should = share * one[classes[number]] + (1 - share) * one[classes[partner]]
                    np.testing.assert_allclose(y["label"][row], should, atol=1e-3)
                    np.testing.assert_allclose(y["tags"][row], share * hot[number] + (1 - share) * hot[partner], atol=1e-3)
                    expected = sum(value * weights.get(position, 1.0) for position, value in enumerate(should))
                    assert float(weight["label"][row]) == pytest.approx(expected, abs=1e-2)
    state = vlpipe.plan(tmp_path / "d", augment=Mixup(classes=5), seed=1).state(0, 0)
    assert state["augment"] == "Mixup(alpha=0.2, classes=5, batch_size=32, world=1)"


def test_class_numbers_that_the_index_lacks_are_refused(tmp_path: Path) -> None:
    def parse(data: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_single_example(data, {"x": tf.io.VarLenFeature(tf.float32), "label": tf.io.FixedLenFeature([], tf.int64)})
        return {"x": tf.reshape(tf.sparse.to_dense(parsed["x"]), [-1, 1]), "label": parsed["label"]}

    path = str(tmp_path / "d.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        feature = {
            "x": tf.train.Feature(float_list=tf.train.FloatList(value=[1, 2])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
        }
        writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    layout = vlpipe.layouts.Layout.custom(parse, lambda data: tf.shape(parse(data)["x"])[0], name="own")
    with pytest.raises(ArgumentError, match='vectors of class numbers, but the index does not have those of "label". Convert the dataset'):
        vlpipe.plan(path, layout=layout, augment=Mixup(classes=2))
