"""The training benchmark runs, its figures are consistent, and it detects a slow input and every compilation."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from benchmarks.feeding import ARRAYS, VLPIPE, WAYS, Learnable, arguments_of, inputs, learnable
from benchmarks.workloads import Workload

ROOT = Path(__file__).parents[2]
STATIC = "vlpipe, static shapes"
SLEEP = 0.2


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Return the figures of a quick run, whose data stay in tmp_path."""
    path = tmp_path / "training.json"
    command = [sys.executable, "-m", "benchmarks.training", "--quick", "--data", str(tmp_path), "--json", str(path), *arguments]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": "tensorflow"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    document = json.loads(path.read_text())
    assert document["script"] == "training"
    return document["results"]["workloads"]["events"]


def static_shapes(directory: Path) -> int:
    """Number of shapes in the plan of the static way of a quick run."""
    native = next(directory.glob("training-events-*"))
    return len(vlpipe.plan(native, batch_size=8, **VLPIPE[STATIC]).shapes)


def test_the_benchmark(tmp_path: Path) -> None:
    figures = run(tmp_path, "--ways", "vlpipe, longest", STATIC)  # each trains in a process; others: test_frames_per_batch_limits_all_ways
    assert figures["records"] == 48
    assert (figures["backend"], figures["device"]) == ("tensorflow", "cpu")
    assert list(figures["ways"]) == ["vlpipe, longest", STATIC]
    for way in figures["ways"].values():
        assert len(way["epochs"]) == 2
        for epoch in (way["warm_up"], *way["epochs"]):
            assert epoch["steps"] >= 6
            assert 0 <= epoch["wait_share"] <= 1
            assert epoch["wait_seconds"] + epoch["compiling_step_seconds"] <= epoch["seconds"]
            assert 0 < epoch["valid_ratio"] <= 1
            assert epoch["free_input_ratio"] >= epoch["free_input_ratio_compiled"] > 0
        assert way["seconds"] == np.median([epoch["seconds"] for epoch in way["epochs"]])
        assert way["resident_batches"] == way["epochs"][-1]["steps"]  # few enough to stay on the device
        assert len(way["free_step_seconds"]) >= 5
        assert way["compiles"] == way["warm_up"]["compiles"] == 1  # as `fit` does on a CPU
        assert way["compile_seconds"] > 0
        assert way["host_peak_bytes"] is None or way["host_peak_bytes"] > 2**27
        assert way["device_peak_bytes"] is None
        assert 0 < way["loss"] < 3
        assert 0 <= way["monitor"]["input_wait"] <= 1
        assert way["monitor"]["batches_per_second"] > 0
    losses = [way["loss"] for way in figures["ways"].values()]
    assert figures["losses_agree"] == (max(losses) - min(losses) <= figures["losses_tolerance"])
    assert figures["chance_loss"] == pytest.approx(math.log(10))
    assert figures["ways"][STATIC]["distinct_shapes"] == static_shapes(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_on_jax_the_static_way_compiles_once_for_each_shape(tmp_path: Path) -> None:
    ways = run(tmp_path, "--backend", "jax", "--device", "cpu", "--records", "16", "--ways", STATIC, ARRAYS)["ways"]
    for way in ways.values():
        assert way["compiles"] == way["warm_up"]["compiles"] == way["distinct_shapes"] == static_shapes(tmp_path)
        assert way["monitor"]["batches_per_second"] > 0
    assert ways[STATIC]["loss"] == pytest.approx(ways[ARRAYS]["loss"], abs=1e-5)  # the same batches in the same order


@pytest.fixture(scope="module")
def workload() -> Learnable:
    """A workload of few records."""
    return learnable(Workload("few", np.arange(1, 25) * 4, 3, 4))


@pytest.fixture(scope="module")
def native(workload: Learnable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its vlpipe dataset."""
    return workload.write_native(tmp_path_factory.mktemp("data"), shards=1)


def test_with_xla_each_shape_is_compiled_and_counted(workload: Learnable, native: Path) -> None:
    from benchmarks.fitting import Trainer, build_model

    arguments = {**arguments_of(STATIC, workload, None), "buckets": [48, 96]}
    trainer = Trainer(build_model(workload.d, 2, xla=True), vlpipe.make_dataset(native, **arguments))
    assert trainer.epoch()["compiles"] == trainer.model.traces == len(vlpipe.plan(native, **arguments).shapes) == 2
    assert trainer.epoch()["compiles"] == 0


def test_a_slow_input_counts_as_waiting(workload: Learnable, native: Path) -> None:
    from benchmarks.fitting import Trainer, build_model

    def sleep(label: np.ndarray) -> np.ndarray:
        time.sleep(SLEEP)
        return label

    def slowly(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return x, tf.ensure_shape(tf.numpy_function(sleep, [y], tf.int64), [None])

    trainer = Trainer(build_model(workload.d, 2), WAYS["vlpipe, longest"](workload, native, None).map(slowly))
    trainer.epoch()
    figures = trainer.epoch()
    assert figures["steps"] == 6
    assert figures["wait_seconds"] >= 6 * SLEEP
    assert figures["wait_seconds"] / figures["seconds"] > 0.5
    assert figures["seconds"] > 6 * np.median(trainer.resident()["free_step_seconds"])


def test_a_slow_step_does_not_count_as_waiting(workload: Learnable, native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.fitting import Trainer, build_model

    trainer = Trainer(build_model(workload.d, 2), WAYS["vlpipe, longest"](workload, native, None))
    monkeypatch.setattr(trainer, "step", lambda *batch: time.sleep(SLEEP) or 0.0)
    figures = trainer.epoch()
    assert figures["seconds"] - figures["wait_seconds"] >= 6 * SLEEP


def test_frames_per_batch_limits_all_ways(workload: Learnable, native: Path) -> None:
    for way, make in WAYS.items():
        # Valid frames are not zero.
        frames = [int(np.any(np.asarray(inputs(element)[0]) != 0, axis=-1).sum()) for element in make(workload, native, 300)]
        assert 4 <= len(frames) <= 10, way  # 1,200 frames in all
        assert sum(frames) >= workload.lengths.sum()  # repeated rows fill up batches


def test_device_gpu_without_a_gpu_gives_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import fitting, training

    monkeypatch.setattr(fitting, "gpu", lambda: None)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # serve replaces it
    training.serve("vlpipe, longest", Namespace(backend="tensorflow", device="gpu"))
    assert json.loads(capsys.readouterr().out) == {"error": "--device gpu: tensorflow finds no GPU that it can use"}
