"""A model saved on one backend and loaded in a new process on another gives the same output, is padding-invariant and trains.

The other tests of the layers run on any backend, too: `KERAS_BACKEND=jax python -m pytest tests/layers`.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.layers import zoo
from tests.layers.layers_tools import numpy
from vlpipe import layers

VISITOR = """
import sys, warnings; warnings.simplefilter('error', UserWarning); import keras, numpy as np, vlpipe.layers
model = keras.saving.load_model(sys.argv[1])
assert keras.backend.backend() == sys.argv[2]
saved = np.load(sys.argv[3])
batch = {"features": saved["features"], "lengths": saved["lengths"]}
batch |= {"id": np.array([8, 3]), "label_lengths": np.array([1, 2]), "start": np.array([0, 4])}  # further keys, which it ignores
y = keras.ops.convert_to_numpy(model(batch))
assert np.allclose(model.predict(batch, verbose=0), y, rtol=1e-4, atol=1e-5)
print(np.max(np.abs(y - saved["y"])) / np.max(np.abs(saved["y"])))
vlpipe.layers.assert_padding_invariant(model, saved["features"].shape[-1], lengths=[7, 12], padding=[3])
model.compile(optimizer="sgd", loss="mse")
print(np.isfinite(model.train_on_batch(batch, np.zeros_like(y))))
"""


@pytest.mark.parametrize("name", ["speaker", "attention"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_saved_model_runs_on_another_backend(backend, name, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend == "tensorflow" and name != "speaker":
        pytest.skip("one model is enough to test loading in a new process")
    model = zoo.build(name)
    aware = layers.mask_aware(model)
    batch = {
        "features": np.random.default_rng(0).normal(size=(2, 16, zoo.FEATURES)).astype("float32"),
        "lengths": np.array([16, 9], "int32"),
    }
    aware.save(tmp_path / "model.keras")
    np.savez(tmp_path / "batch.npz", y=numpy(aware(batch)), **batch)
    command = [sys.executable, "-c", VISITOR, str(tmp_path / "model.keras"), backend, str(tmp_path / "batch.npz")]
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(layers.__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    difference, finite = result.stdout.split()
    assert float(difference) <= 1e-5
    assert finite == "True"
