"""Time epochs of training: the work of each process that `benchmarks.training` starts, one epoch per request."""

from __future__ import annotations

import functools
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np
import tensorflow as tf

import vlpipe
from benchmarks.feeding import CLASSES, inputs
from benchmarks.workloads import Workload

BACKEND = keras.backend.backend()
RESIDENT_BATCHES, RESIDENT_BYTES = 100, 2 * 2**30  # limits of the sample that stays on the device
RESIDENT_ROUNDS = 5


class Counting(keras.Model):
    """A model that counts how often its training step was compiled.

    JAX and TensorFlow run the Python code of `train_step` only to trace it, once for each compiled function, so that the number of calls
    is the number of compilations. PyTorch runs it at every step, and compiles nothing.
    """

    traces = 0
    spec: Any = None  # element_spec of the dataset

    def train_step(self, *arguments):
        self.traces += BACKEND != "torch"
        return super().train_step(*arguments)

    def make_train_function(self, force=False):
        """On TensorFlow, trace once for the spec of the dataset, as `fit` does and `train_on_batch` does not.

        With XLA, trace once for each shape, because XLA compiles each shape; with the single trace of `fit` these compilations could not
        be counted. The time of compiling then includes tracing, which `fit` does once.
        """
        if BACKEND != "tensorflow":
            super().make_train_function(force)
        elif self.train_function is None or force:
            signature = None if self.jit_compile else self.spec
            step = tf.function(lambda *data: self.train_step(data), signature, autograph=False, jit_compile=self.jit_compile)
            self.train_function = lambda batches: step(*(part for part in next(batches) if part is not None))


def build_model(d: int, width: int, *, xla: bool = False) -> Counting:
    """Return a Conv1D classifier for any length, with the same initial weights each time; 1.1 million parameters for d = 80, width 256."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = features = keras.Input((None, d))
    for strides in (1, 2, 2, 2):
        x = layers.Conv1D(width, 5, strides=strides, padding="same", activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    model = Counting(features, layers.Dense(CLASSES)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True if xla and BACKEND == "tensorflow" else "auto",
    )
    model.optimizer.build(model.trainable_variables)  # tf.function would trace a step that creates variables twice
    return model


def to_backend(batch: tf.Tensor | np.ndarray) -> Any:
    """Put a batch on the device of the backend. Passes a view of a tensor's memory, where `numpy()` would make another copy."""
    if BACKEND == "jax":
        import jax

        return jax.device_put(batch if isinstance(batch, np.ndarray) else np.asarray(memoryview(batch)))
    if BACKEND == "torch":
        import torch

        shared = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else torch.from_dlpack(tf.experimental.dlpack.to_dlpack(batch))
        return keras.ops.convert_to_tensor(shared)
    tensor = tf.convert_to_tensor(batch)
    if gpu() is None:
        return tensor
    with tf.device("GPU:0"):
        return tf.identity(tensor)


class Trainer:
    """Trains a model epoch by epoch, and separates the time of waiting for input from the time of the steps.

    The clock is read after `train_on_batch`, which returns the loss as a number, so that an accelerator has finished the step. It is then
    idle during the following call of `next`, as in any loop that reads each loss; the input pipeline continues in the background.
    """

    def __init__(self, model: Counting, dataset: Iterable[Any]) -> None:
        self.model, self.dataset = model, dataset
        model.spec = inputs(dataset.element_spec) if isinstance(dataset, tf.data.Dataset) else None
        self.shapes: set[tuple[int, ...]] = set()
        self.last: dict[str, Any] = {}

    def step(self, *batch: Any) -> float:
        """Run a training step and return its loss."""
        return float(self.model.train_on_batch(*batch))

    def epoch(self) -> dict[str, Any]:
        """Train for one epoch. Creating and deleting the iterator count as waiting for input."""
        before, shapes, losses = self.model.traces, len(self.shapes), []
        waited = compiling = 0.0
        delivered = 0
        started = now = time.perf_counter()
        batches = iter(self.dataset)
        while (element := next(batches, None)) is not None:
            ready = time.perf_counter()
            waited += ready - now
            traces = self.model.traces
            losses.append(self.step(*map(to_backend, inputs(element))))
            now = time.perf_counter()
            compiling += now - ready if self.model.traces > traces else 0.0
            rows, frames, _ = shape = tuple(inputs(element)[0].shape)
            self.shapes.add(shape)
            delivered += rows * frames
        del batches
        ended = time.perf_counter()
        self.last = {
            "seconds": ended - started,
            "wait_seconds": waited + ended - now,
            "steps": len(losses),
            "delivered_frames": delivered,
            "new_shapes": len(self.shapes) - shapes,
            "compiles": self.model.traces - before,
            "compiling_step_seconds": compiling,
            "training_loss": statistics.fmean(losses),
        }
        return self.last

    def resident(self, rounds: int = RESIDENT_ROUNDS) -> dict[str, Any]:
        """Measure seconds per step where input is free: every n-th batch of an epoch, kept on the device and repeated."""
        size = self.last["delivered_frames"] * self.model.inputs[0].shape[-1] * 4
        stride = max(1, math.ceil(self.last["steps"] / RESIDENT_BATCHES), math.ceil(size / RESIDENT_BYTES))
        batches = [tuple(map(to_backend, inputs(element))) for element in itertools.islice(self.dataset, 0, None, stride)]
        for batch in batches:
            self.step(*batch)  # compiles for new shapes
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            for batch in batches:
                self.step(*batch)
            seconds.append((time.perf_counter() - started) / len(batches))
        return {"resident_batches": len(batches), "free_step_seconds": seconds}

    def monitored(self) -> dict[str, float]:
        """What `InputMonitor` says of an epoch of `fit`, which does not read the loss after each step as the loop of `epoch` does."""
        data = self.dataset
        if not isinstance(data, tf.data.Dataset):
            data = data.as_py_dataset()
        elif not isinstance(data.element_spec[0], tf.TensorSpec):
            data = data.map(lambda *element: inputs(element))
        logs = self.model.fit(data, shuffle=False, verbose=0, callbacks=[vlpipe.callbacks.InputMonitor()]).history
        return {name: logs[name][0] for name in ("input_wait", "batches_per_second") if name in logs}


@functools.cache
def gpu() -> str | None:
    """Name of the GPU that the backend uses; None where it uses the CPU."""
    if BACKEND == "jax":
        import jax

        device = jax.local_devices()[0]
        return device.device_kind if device.platform == "gpu" else None
    if BACKEND == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    devices = tf.config.get_visible_devices("GPU")
    return tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else None


def peak_device_bytes() -> int | None:
    """Peak memory of the backend on its GPU; None without a GPU."""
    if gpu() is None:
        return None
    if BACKEND == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    if BACKEND == "torch":
        import torch

        return torch.cuda.max_memory_allocated()
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def peak_host_bytes() -> int | None:
    """Peak memory of this process, mapped files included. Not ru_maxrss: a process inherits that from its parent."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def evaluate(model: keras.Model, workload: Workload, native: Path) -> float:
    """Return the loss over all records, in the same batches for every way of training."""
    batches = vlpipe.make_dataset(native, batch_size=workload.batch_size, shuffle=False, pad_to="boundary", buckets=8)
    return float(model.evaluate(batches, verbose=0))


def serve(trainer: Trainer, workload: Workload, native: Path, requests: TextIO, replies: TextIO) -> None:
    """Answer each request, a line "epoch" or "finish", with a line of JSON."""

    def reply(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=replies, flush=True)

    tf.get_logger().setLevel("ERROR")  # it warns of repeated tracing, which is counted here
    reply({"backend": BACKEND, "device": gpu() or "cpu", "parameters": trainer.model.count_params()})
    for request in map(str.strip, requests):
        if request == "epoch":
            reply(trainer.epoch())
        elif request == "finish":  # the peaks first: the batches of `resident` are not part of the training
            memory = {"host_peak_bytes": peak_host_bytes(), "device_peak_bytes": peak_device_bytes()}
            loss = evaluate(trainer.model, workload, native)
            reply({**memory, "loss": loss, **trainer.resident(), "monitor": trainer.monitored()})
