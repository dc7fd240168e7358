"""Set up for all tests: a quiet TensorFlow, and hypothesis without deadlines (the first trace of a graph takes a second)."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "vlpipe",
    deadline=None,
    max_examples=25,
    # No shrinking: an example takes a second where TensorFlow traces a graph. HYPOTHESIS_PROFILE=thorough shrinks.
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate],
    print_blob=True,
    derandomize=True,  # The same tree has the same verdict; `thorough` looks for new cases.
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.register_profile(
    "thorough", parent=hypothesis.settings.get_profile("vlpipe"), max_examples=500, phases=tuple(hypothesis.Phase), derandomize=False
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "vlpipe"))


def pytest_collection_finish() -> None:
    """Leave the objects of all modules out of the garbage collection, which takes a tenth of the time in which TensorFlow makes a graph."""
    gc.collect()
    gc.freeze()


RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "fsdd" / "recordings"


@pytest.fixture(scope="session")
def quick_graphs() -> None:
    """Leave out TensorFlow's graph optimizer: it runs anew for every iterator, three quarters of the time of a tiny epoch."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture
def recordings() -> Path:
    """The real recordings, where they are at hand."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"no recordings in {RECORDINGS}")
    return RECORDINGS
