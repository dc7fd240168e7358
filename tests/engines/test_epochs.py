"""The numbers of epochs with repeat=False: of iterators one after another, beside each other, and restored from checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
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


def made(source: Path, engine: str) -> tf.data.Dataset:
    return vlpipe.make_dataset(source, batch_size=2, seed=1, engine=engine)


def rest(batches: Any) -> tuple[int, ...]:
    return tuple(label for _, labels in batches for label in labels.numpy().tolist())


def numbers(dataset: tf.data.Dataset) -> list[tuple[int, ...]]:
    """Return the orders of the first epochs, by which they are recognised."""
    return [rest(dataset) for _ in range(5)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_restored_iterator_and_the_epochs_after_it_are_those_of_the_run(source: Path, tmp_path: Path, engine: str) -> None:
    orders = numbers(made(source, engine))
    assert len(set(orders)) == 5
    for epoch, taken in ((0, 0), (1, 0), (2, 0), (1, 3), (2, 1)) if engine == "mapped" else ((1, 0), (2, 1)):
        run = made(source, engine)
        for _ in range(epoch):
            rest(run)
        iterator = iter(run)
        for _ in range(taken):
            next(iterator)
        path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / f"{epoch}-{taken}"))
        expected = orders[epoch][2 * taken :]
        assert rest(iterator) == expected
        assert [rest(run), rest(run)] == orders[epoch + 1 : epoch + 3]
        for dataset in (made(source, engine), run):  # in a new process, and back in the same run
            restored = iter(dataset)
            tf.train.Checkpoint(iterator=restored).restore(path)
            assert rest(restored) == expected
            assert [rest(dataset), rest(dataset)] == orders[epoch + 1 : epoch + 3]


def test_iterators_that_deliver_nothing_take_no_epoch(source: Path) -> None:
    orders = numbers(made(source, "mapped"))
    dataset = made(source, "mapped")
    assert rest(dataset) == orders[0]
    for epoch in range(1, 4):
        iter(dataset)  # as Keras does
        assert rest(dataset) == orders[epoch]


def test_iterators_beside_each_other_have_different_epochs(source: Path) -> None:
    orders = numbers(made(source, "mapped"))
    dataset = made(source, "mapped")
    first, second, third = iter(dataset), iter(dataset), iter(dataset)
    found = [rest(second), rest(first), rest(third), rest(dataset)]
    assert found == [orders[1], orders[0], orders[2], orders[3]]
    pairs = tf.data.Dataset.zip((dataset, dataset))
    left = [tuple(int(label) for (_, labels), _ in [pair] for label in labels) for pair in pairs]
    assert tuple(label for part in left for label in part) == orders[4]


def created_of(dataset: tf.data.Dataset) -> Iterator[int]:
    while True:
        yield int(next(iter(dataset)))


def test_the_known_numbers_are_those_of_tensorflow() -> None:
    known = engine_epochs.known_numbers()[0, :-1]
    values, iterators = known // engine_epochs.KNOWN, known % engine_epochs.KNOWN
    assert (np.diff(values) > 0).all()  # no two iterators have the same
    expected = values[np.argsort(iterators)][:50]
    assert [number for number, _ in zip(created_of(engine_epochs._creation_numbers()), range(50), strict=False)] == expected.tolist()


def test_beyond_the_known_iterators_the_next_number_is_drawn() -> None:
    known = tf.constant(engine_epochs.known_numbers())
    values = set((known.numpy()[0] // engine_epochs.KNOWN).tolist())
    unknown = next(number for number in range(2**32) if number not in values)
    counts = tf.Variable(np.array([70_000, 16_384]))
    draw = engine_epochs._draw()
    for expected in (70_000, 70_001):
        drawn, _, first = draw(tf.constant(-1, tf.int64), tf.constant(0, tf.int64), tf.constant(unknown, tf.int64), counts.handle, known)
        assert (int(drawn), int(first)) == (expected, 2**62)
    assert counts.numpy().tolist() == [70_002, 16_384]
