"""Training that stops and resumes at the next batch, on each installed backend."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vlpipe
from tests.test_dataset import make_records, write
from vlpipe.callbacks import STATE_NAME, Backup
from vlpipe.errors import ArgumentError, DatasetError

BACKENDS = [backend for backend in ("tensorflow", "jax") if importlib.util.find_spec(backend)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = np.random.default_rng(5).integers(1, 31, 60).tolist()
    return write(tmp_path_factory.mktemp("data") / "train", make_records(lengths), num_shards=3)


def train(source: Path, directory: Path, backend: str, epochs: int, stop_after: int = 0) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.training", str(source), str(directory), str(epochs), str(stop_after)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(source: Path, tmp_path: Path, backend: str) -> None:
    """60 records in 15 batches; the run saves every 5, stops after 23 batches (3 of which are trained again), and stops once more."""
    whole = train(source, tmp_path / "whole", backend, epochs=3)
    assert whole.endswith(" 45")
    assert "'epoch': 1, 'batch': 5" in train(source, tmp_path / "parts", backend, epochs=3, stop_after=23)
    assert "'epoch': 2, 'batch': 0" in train(source, tmp_path / "parts", backend, epochs=3, stop_after=13)
    assert train(source, tmp_path / "parts", backend, epochs=3) == whole
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["parts", "whole"]  # and no hidden files beside them


def test_a_plan_that_cannot_be_resumed_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="seed=None draws a different order"):
        Backup(tmp_path / "b", vlpipe.plan(source))
    with pytest.raises(ArgumentError, match="save_every: came as 0, expected an integer >= 1"):
        Backup(tmp_path / "b", vlpipe.plan(source, seed=1), save_every=0)
    with pytest.raises(ArgumentError, match="gs://bucket/b: is an address, and vlpipe writes to local directories only"):
        Backup("gs://bucket/b", vlpipe.plan(source, seed=1))


def test_a_directory_with_other_files_is_never_replaced(source: Path, tmp_path: Path) -> None:
    plan = vlpipe.plan(source, seed=1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(DatasetError, match=r"photos: it holds \['cat.jpg'\], so it is not a backup. Choose another directory"):
        Backup(tmp_path / "photos", plan)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="file: it is a file, so it is not a backup"):
        Backup(tmp_path / "file", plan)
    (tmp_path / "b").mkdir()
    for content in ("{", "[]", "{}", '{"epoch": "x", "batch": 1}'):
        (tmp_path / "b" / STATE_NAME).write_text(content)
        with pytest.raises(DatasetError, match="state.json: cannot be read as a saved state .*. Remove the directory"):
            Backup(tmp_path / "b", plan)


def test_a_failed_save_leaves_the_previous_one(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = vlpipe.plan(source, seed=1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    backup = Backup(tmp_path / "b", plan)
    backup.set_model(model)
    backup.save()
    before = (tmp_path / "b" / STATE_NAME).read_text()
    backup._trained = 1
    monkeypatch.setattr(model, "save_weights", lambda path: Path(path).write_bytes(b"x") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backup.save()
    assert (tmp_path / "b" / STATE_NAME).read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_ranks_share_a_directory_that_rank_0_writes(source: Path, tmp_path: Path) -> None:
    """What one rank began with batches of 4 is continued by two ranks with batches of 2; only the first of them saves."""
    layers = keras.layers

    def run(shard: tuple[int, int], batch_size: int, epochs: int) -> tuple[int, dict[str, Any] | None]:
        arguments: dict[str, Any] = {"batch_size": batch_size, "seed": 1, "remainder": "pad", "shard": shard}
        plan = vlpipe.plan(source, **arguments)
        backup = Backup(tmp_path / "b", plan, save_every=5)
        model = keras.Sequential([keras.Input((None, 2)), layers.GlobalAveragePooling1D(), layers.Dense(1)])
        model.compile("sgd", "mse")
        dataset = vlpipe.make_dataset(source, repeat=True, resume=backup.state, **arguments)
        read, before = backup.state, [entry.read_bytes() for entry in sorted((tmp_path / "b").glob("*"))]
        fit: dict[str, Any] = {"initial_epoch": backup.epoch, "steps_per_epoch": plan.steps_per_epoch}
        model.fit(dataset, epochs=epochs, callbacks=[backup], verbose=0, **fit)
        if shard[0]:
            assert backup.state == read
            assert [entry.read_bytes() for entry in sorted((tmp_path / "b").glob("*"))] == before
        return int(model.optimizer.iterations), backup.state

    steps, state = run((0, 1), 4, epochs=1)
    assert state is not None
    assert (state["epoch"], state["batch"]) == (1, 0)
    follower, _ = run((1, 2), 2, epochs=2)
    leader, state = run((0, 2), 2, epochs=2)
    assert follower == leader == 2 * steps  # both began with the optimizer of the first run, and end after the second epoch
    assert state is not None
    assert (state["epoch"], state["batch"]) == (2, 0)


def test_all_batches_of_an_execution_are_counted(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"features": np.ones((3, 2), "f4"), "label": n % 2} for n in range(80)])
    arguments: dict[str, Any] = {"batch_size": 2, "seed": 1}
    plan = vlpipe.plan(tmp_path / "d", **arguments)
    assert plan.steps_per_epoch == 40
    layers = keras.layers
    model = keras.Sequential([keras.Input((None, 2)), layers.GlobalAveragePooling1D(), layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=4)
    saved: list[int] = []
    for save_every, expected in ((8, [8, 16, 24, 32, 40]), (10, [12, 20, 32, 40])):
        backup = vlpipe.callbacks.Backup(tmp_path / f"backup{save_every}", plan, save_every=save_every)
        saved.clear()
        save = backup.save
        backup.save = lambda save=save, backup=backup: (save(), saved.append(backup._trained))  # type: ignore[method-assign]
        dataset = vlpipe.make_dataset(tmp_path / "d", repeat=True, **arguments)
        model.fit(dataset, epochs=1, steps_per_epoch=40, callbacks=[backup], verbose=0)
        assert saved == expected
        assert (backup.state["epoch"], backup.state["batch"]) == (1, 0)
