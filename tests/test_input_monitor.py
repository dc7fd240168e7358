"""`InputMonitor` against sleeps in the input and in the model, on each installed backend."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.waiting import sleeping, train
from tests.test_callbacks import BACKENDS
from tests.test_dataset import make_records, write
from vlpipe import callbacks
from vlpipe.callbacks import InputMonitor
from vlpipe.errors import ArgumentError

LENGTHS = np.random.default_rng(5).integers(1, 31, 46).tolist()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train", make_records(LENGTHS), num_shards=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_share_is_that_of_the_sleeps(source: Path, backend: str) -> None:
    """In the second epoch, which compiles nothing: 12 batches, the last of another size."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.waiting", str(source)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the model waited for its input" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    serial, hidden = ({name: values[1] for name, values in result[run].items()} for run in ("serial", "hidden"))
    seconds = result["steps"] / serial["batches_per_second"]
    truth = result["slept"] / seconds
    assert truth - 0.01 <= serial["input_wait"] <= truth + 0.12, (truth, serial)  # the input also works a little, most on a busy machine
    assert 0.2 < truth < 0.65  # the model has its share, and would be 1 or 0 if its time counted as that of the input
    assert hidden["input_wait"] < truth / 2, hidden
    assert serial["frames_per_second"] == pytest.approx(sum(LENGTHS) / seconds)
    assert serial["padding"] == pytest.approx(1 - sum(LENGTHS) / (len(LENGTHS) * max(LENGTHS)))


def test_the_weights_are_the_same_with_and_without(source: Path) -> None:
    def weights(*monitors: InputMonitor) -> list[Any]:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        batches = vlpipe.make_dataset(source, batch_size=8, seed=1)
        model.fit(batches, epochs=2, callbacks=list(monitors), verbose=0)
        assert not hasattr(model.train_function, "vlpipe_unwatched")
        return list(model.get_weights())

    for plain, monitored in zip(weights(), weights(InputMonitor()), strict=True):
        np.testing.assert_array_equal(plain, monitored)


def test_no_share_is_said_where_batches_are_fetched_while_the_model_trains(source: Path) -> None:
    dataset = vlpipe.make_dataset(source, batch_size=4, on_damage=vlpipe.Skip(most=1))
    history = train(dataset, dataset, 0.0, steps_per_execution=5)  # 12 batches: 5, 5 and 2
    assert sorted(history) == ["batches_per_second", "frames_per_second", "loss", "padding", "skipped_records"]
    assert history["skipped_records"] == [0, 0]


def test_without_a_dataset_any_input_is_measured(source: Path) -> None:
    """Also one of unknown length, which ends the epoch inside the train function."""
    batches = vlpipe.make_dataset(source, batch_size=8).filter(lambda x, y: True)
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="ran out of data"):
        history = model.fit(batches, callbacks=[InputMonitor()], verbose=0).history
    assert sorted(history) == ["batches_per_second", "input_wait", "loss"]


def test_an_error_of_the_input_reaches_fit_and_the_next_fit_runs(source: Path) -> None:
    def fail(x: Any, y: Any) -> Any:
        return tf.debugging.check_numerics(x / 0.0, "planted"), y

    model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    batches = vlpipe.make_dataset(source, batch_size=8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="planted"):
        model.fit(batches.map(fail), callbacks=[InputMonitor()], verbose=0)
    assert model.fit(batches, callbacks=[InputMonitor(batches)], verbose=0).history["input_wait"][0] <= 1
    assert not hasattr(model.train_function, "vlpipe_unwatched")


def test_between_batches_counts_where_the_train_function_gets_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on PyTorch: 3 s for the first batch, 1 s for the second, and 2 s for each step."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock.now)
    monitor, logs = InputMonitor(), {"loss": 0.5}
    model = SimpleNamespace(train_function=len, steps_per_execution=1)
    monitor.set_model(model)
    monitor.set_params({"steps": None})
    monitor.on_train_begin()
    monitor.on_epoch_begin(0)
    for batch, waiting in enumerate((3.0, 1.0)):
        clock.now += waiting
        monitor.on_train_batch_begin(batch)
        assert model.train_function(["batch"]) == 1
        clock.now += 2
        monitor.on_train_batch_end(batch)
    clock.now += 50  # validation
    monitor.on_epoch_end(0, logs)
    assert logs == {"loss": 0.5, "input_wait": 0.5, "batches_per_second": 0.25}
    monitor.on_train_end()
    assert model.train_function is len


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"batching": "pad", "engine": "stream"}, "the stream engine reads every record in order: `vlpipe convert` the files"),
        ({"engine": "graph"}, 'copy the files to a local disk, so that engine="mapped" can read them'),
        ({"normalize": "utterance"}, "the pipeline computes on the frames"),
        ({}, "the first epoch also reads the files into memory"),
    ],
)
def test_one_sentence_says_what_to_change(source: Path, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any], advice: str) -> None:
    dataset = vlpipe.make_dataset(source, seed=1, **arguments)
    with caplog.at_level(logging.WARNING, "vlpipe"):
        finish(InputMonitor(dataset), 10.0, 4.0)
    assert advice in caplog.text
    assert "the model waited for its input 40 % of the time (4 of 10 s)" in caplog.text


def test_little_waiting_needs_no_sentence(caplog: pytest.LogCaptureFixture) -> None:
    finish(InputMonitor(), 10.0, 0.4)
    assert not caplog.records
    finish(InputMonitor(), 10.0, 0.6)
    assert "give the map steps of the input num_parallel_calls" in caplog.text


def finish(monitor: InputMonitor, seconds: float, waited: float) -> None:
    """End a run whose second epoch took this long; its first one waited only."""
    monitor.set_model(SimpleNamespace(train_function=len))
    monitor.on_train_begin()
    monitor._epochs = [(100.0, 100.0), (waited, seconds)]
    monitor.on_train_end()


def test_another_dataset_is_refused(source: Path) -> None:
    mapped = sleeping(vlpipe.make_dataset(source, seed=1), 0.0, [])
    with pytest.raises(
        ArgumentError, match="InputMonitor: came with .*Map.*, expected the dataset that make_dataset returned, before any map"
    ):
        InputMonitor(mapped)
