"""`as_py_dataset`: `model.fit` on each backend trains on the same batches as with `make_dataset`."""

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
from vlpipe.errors import ArgumentError

ARGUMENTS = {"batch_size": 4, "seed": 3, "remainder": "pad", "pad_to": "boundary", "buckets": 1}
TRAINING = """
import sys, keras, numpy as np, vlpipe
source, arguments = sys.argv[1], {"batch_size": 4, "seed": 3, "remainder": "pad", "pad_to": "boundary", "buckets": 1}
for way in ("tf.data", "arrays"):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Conv1D(4, 3, padding="same", activation="tanh"),
                              keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    if way == "tf.data":
        data = vlpipe.make_dataset(source, repeat=True, **arguments)
        model.fit(data, epochs=3, steps_per_epoch=vlpipe.plan(source, **arguments).steps_per_epoch, verbose=0)
    else:
        data = vlpipe.batches(source, **arguments)
        model.fit(data.as_py_dataset(), epochs=2, shuffle=False, verbose=0)
        model.fit(data.as_py_dataset(epoch=2), epochs=3, initial_epoch=2, shuffle=False, verbose=0)
    print(" ".join(float(number).hex() for weight in model.get_weights() for number in weight.ravel()))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "data"
    random = np.random.default_rng(0)
    vlpipe.write(path, [{"features": random.normal(size=(t, 2)).astype(np.float32), "label": t % 5} for t in random.integers(1, 20, 26)])
    return path


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_fit_trains_as_with_make_dataset(backend: str, source: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(vlpipe.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", TRAINING, str(source)], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    weights = [[float.fromhex(number) for number in line.split()] for line in run.stdout.splitlines()]
    assert len(weights[0]) == 33
    assert weights[0] == weights[1]


def test_an_epoch_is_over_when_each_batch_was_asked_for(source: Path) -> None:
    batches = vlpipe.batches(source, ids=True, **ARGUMENTS)
    data = batches.as_py_dataset(epoch=1)
    assert isinstance(data, keras.utils.PyDataset)
    steps = len(batches)

    def ids(index: int) -> list[int]:
        return data[index][0]["id"].tolist()

    def of(epoch: int, index: int) -> list[int]:
        return batches.batch(epoch, index)[0]["id"].tolist()

    assert data.num_batches == steps
    assert [ids(0), ids(1), ids(0)] == [of(1, 0), of(1, 1), of(1, 0)]  # Keras looks before it trains
    assert [ids(index) for index in range(steps)] == [of(1, index) for index in range(steps)]
    order = [3, 0, *range(4, steps), 2, 1]
    assert [ids(index) for index in order] == [of(2, index) for index in order]  # with shuffle=True
    assert [ids(index) for index in range(2)] == [of(3, index) for index in range(2)]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("arguments", [{}, {"remainder": "pad", "pad_to": "longest", "class_weight": "balanced"}], ids=["short", "full"])
def test_the_first_two_batches_may_have_one_shape(tmp_path: Path, arguments: dict[str, Any], workers: int) -> None:
    """On TensorFlow, Keras infers the shapes of all batches from two."""
    frames = [9] + [4] * 30
    vlpipe.write(tmp_path / "d", [{"features": np.full((t, 2), t, "f4"), "tones": [t] * (t // 2), "label": t % 2} for t in frames])
    batches = vlpipe.batches(tmp_path / "d", label="label", shuffle=False, batching="pad", batch_size=4, **arguments)
    first, second, *others = [element[0].shape for element in batches]
    assert first == second != max(others)
    like_first = vlpipe.batches(tmp_path / "d", label=("tones", "label"), shuffle=False, batching="pad", batch_size=4)._larger()[1]
    assert (like_first["tones"].shape, like_first["label"].shape) == ((5, 3), (5,))
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    taken: list[int] = []
    data = batches.as_py_dataset()
    data.workers = workers
    model.fit(
        data,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: taken.append(batch))],
    )
    assert taken == 2 * list(range(len(batches)))
    assert model.predict(data, verbose=0).shape == (32 if arguments else 31, 1)


def test_an_endless_run_is_refused(source: Path) -> None:
    with pytest.raises(ArgumentError, match="as_py_dataset: came with repeat=True, but fit counts the epochs itself"):
        vlpipe.batches(source, repeat=True, **ARGUMENTS).as_py_dataset()
