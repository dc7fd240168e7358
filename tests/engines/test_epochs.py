"""The numbers of epochs with repeat=False: of iterators one after another, beside each other, and restored from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from vlpipe.engines import epochs as engine_epochs

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
RECORDS, STEPS = 24, 12


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("epochs") / "data"
    vlpipe.write(directory, ({"features": np.ones((1, 2), np.float32), "label": number} for number in range(RECORDS)), num_shards=2)
    return directory


def made(source: Path, engine: str, **arguments: Any) -> tf.data.Dataset:
    return vlpipe.make_dataset(source, batch_size=2, seed=1, engine=engine, **arguments)


def rest(batches: Any) -> tuple[int, ...]:
    return tuple(label for _, labels in batches for label in labels.numpy().tolist())


def numbers(dataset: tf.data.Dataset) -> list[tuple[int, ...]]:
    """Return the orders of the first epochs, by which they are recognised."""
    return [rest(dataset) for _ in range(5)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_restored_iterator_and_the_epochs_after_it_are_those_of_the_run(source: Path, tmp_path: Path, engine: str) -> None:
    orders = numbers(made(source, "mapped" if engine == "graph" else engine))  # which have the same
    assert len(set(orders)) == 5
    everywhere = ((0, 0), (1, 0), (2, 0), (1, 3), (0, STEPS - 1), (1, STEPS), (1, STEPS + 1))
    for epoch, taken in {"mapped": everywhere, "graph": ((1, STEPS - 1),), "stream": ((1, STEPS + 1),)}[engine]:  # the same code counts
        run = made(source, engine)
        for _ in range(epoch):
            rest(run)
        iterator = iter(run)
        for _ in range(taken):  # once more than there are: then the iterator has told its end
            next(iterator, None)
        path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / f"{epoch}-{taken}"))
        expected = orders[epoch][2 * taken :]
        assert rest(iterator) == expected
        assert [rest(run), rest(run)] == orders[epoch + 1 : epoch + 3]
        for dataset in (made(source, engine, num_parallel_calls=3), run):  # as on another machine, and back in the same run
            restored = iter(dataset)
            tf.train.Checkpoint(iterator=restored).restore(path)
            assert rest(restored) == expected
            assert [rest(dataset), rest(dataset)] == orders[epoch + 1 : epoch + 3]


@pytest.mark.parametrize("engine", ENGINES)
def test_iterators_that_deliver_nothing_take_no_epoch(source: Path, tmp_path: Path, engine: str) -> None:
    orders = numbers(made(source, "mapped"))
    dataset, recognised = made(source, engine), orders if engine != "stream" else numbers(made(source, engine))
    unused = iter(dataset)
    for epoch in range(3 if engine == "mapped" else 1):
        assert rest(dataset) == recognised[epoch]
        for _ in range(5):
            iter(dataset)  # Keras creates one after each epoch
    path = tf.train.Checkpoint(iterator=unused).save(str(tmp_path / "unused"))
    restored = iter(dataset := made(source, engine))
    tf.train.Checkpoint(iterator=restored).restore(path)
    assert [rest(restored), rest(dataset)] == recognised[epoch + 1 : epoch + 3]


def test_iterators_beside_each_other_have_different_epochs(source: Path) -> None:
    orders = numbers(made(source, "mapped"))
    dataset = made(source, "mapped")
    first, second, third = iter(dataset), iter(dataset), iter(dataset)
    found = [rest(second), rest(first), rest(third), rest(dataset)]
    assert found == orders[:4]  # in the order in which they deliver
    pairs = tf.data.Dataset.zip((dataset, dataset))
    left = [tuple(int(label) for (_, labels), _ in [pair] for label in labels) for pair in pairs]
    assert tuple(label for part in left for label in part) == orders[4]


def test_the_known_numbers_are_those_of_tensorflow() -> None:
    values, epochs, _ = engine_epochs.known_numbers()[:-1].T
    assert (np.diff(values) > 0).all()  # no two seeds give the same
    assert (np.bincount(epochs) == engine_epochs.STRIDE).all()
    first, second = engine_epochs.SEEDS
    generator = tf.raw_ops.AnonymousSeedGenerator(seed=np.int64(first), seed2=np.int64(second), reshuffle=True)
    drawn = [int(engine_epochs._single(engine_epochs._random(generator.handle))) for _ in range(4 * engine_epochs.STRIDE)]
    assert epochs[np.searchsorted(values, drawn)].tolist() == np.repeat(range(4), engine_epochs.STRIDE).tolist()
    assert set(drawn) <= set(values.tolist())


def test_beyond_the_known_seeds_numbers_are_new_and_the_same_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = engine_epochs.SEEDS
    values = tf.constant(np.full((1, engine_epochs.KNOWN + 1), 2**62))  # of no seed
    known = tf.constant([[2**62, 0, 0]] * (engine_epochs.KNOWN + 1), tf.int64)
    monkeypatch.setattr(engine_epochs, "_known", lambda: (values, known))
    runs = []
    for _ in range(2):
        generator = tf.raw_ops.AnonymousSeedGenerator(seed=np.int64(first), seed2=np.int64(second), reshuffle=True)
        drawn = engine_epochs._drawn(generator.handle, 1, np.int64(0))
        runs.append([int(number) for _ in range(5) for number in drawn])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 5
    assert min(runs[0]) >= engine_epochs.KNOWN // engine_epochs.STRIDE
