"""`make_dataset(multiple_of=)`: batches that the replicas of a strategy share evenly, the first one at least."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.test_dataset import make_records, write

pytestmark = pytest.mark.usefixtures("quick_graphs")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = [*np.random.default_rng(6).integers(1, 31, 50).tolist(), *[7] * 15]
    return write(tmp_path_factory.mktemp("data") / "plain", make_records(lengths), num_shards=3)


WAYS: list[dict[str, Any]] = [
    {"batch_size": 7},
    {"frames_per_batch": 60},
    {"batching": "same_length", "remainder": "pad"},
    {"shuffle": False},
]


@pytest.mark.parametrize(
    ("engine", "arguments"),
    [*(("mapped", way) for way in WAYS), *(("graph", way) for way in WAYS[::2]), *(("stream", way) for way in WAYS[1:3])],
)
def test_sizes_are_multiples_and_short_batches_come_last(source: Path, engine: Any, arguments: dict[str, Any]) -> None:
    arguments = {"seed": 2, "batch_size": 7, "multiple_of": 3, **arguments}
    if engine == "stream":
        arguments["remainder"] = "pad"  # each bucket may end in a batch of one row
    plan = vlpipe.plan(source, engine=engine, **arguments)
    dataset = vlpipe.make_dataset(source, engine=engine, ids=True, **arguments)
    assert all(size % 3 == 0 for size in plan.batch_sizes)
    for _ in range(2):
        batches = [element[0]["id"].numpy().tolist() for element in dataset]
        assert sorted({row for batch in batches for row in batch}) == list(range(65))
        uneven = [len(batch) % 3 != 0 for batch in batches]
        assert not uneven[0]
        if engine != "stream":
            assert uneven == sorted(uneven)
        assert any(uneven) <= ("remainder" not in arguments)


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_a_batch_without_a_row_for_each_replica_is_refused_before_the_first(source: Path, engine: Any) -> None:
    arguments: dict[str, Any] = {"batching": "same_length", "multiple_of": 2, "engine": engine}
    with pytest.raises(vlpipe.ArgumentError, match="multiple_of=2: a short batch has 1 of 2 rows, so that a replica of the strategy"):
        vlpipe.plan(source, **arguments)
    assert vlpipe.plan(source, remainder="drop", **arguments).refused["remainder"]


def test_both_engines_have_the_same_order_and_a_state_is_of_one_number(source: Path) -> None:
    arguments: dict[str, Any] = {"batching": "pad", "batch_size": 12, "seed": 3, "multiple_of": 4}
    assert vlpipe.plan(source, **arguments).schedule.uneven is not None
    orders = []
    for engine in ("mapped", "graph"):
        dataset = vlpipe.make_dataset(source, ids=True, engine=engine, **arguments)  # type: ignore[arg-type]
        orders.append([x["id"].numpy().tolist() for x, _ in dataset])
    assert orders[0] == orders[1]
    state = vlpipe.plan(source, **arguments).state(0, 2)
    assert state["multiple_of"] == 4
    with pytest.raises(vlpipe.ArgumentError, match="multiple_of is 4 in the state, 2 here"):
        vlpipe.make_dataset(source, repeat=True, resume=state, **{**arguments, "multiple_of": 2})
    assert "multiple_of" not in vlpipe.plan(source, batch_size=4, seed=3).state(0, 2)
    with pytest.raises(vlpipe.ArgumentError, match="multiple_of: came as 0, expected an integer >= 1"):
        vlpipe.plan(source, multiple_of=0)


@given(size=st.integers(1, 40), budget=st.none() | st.integers(1, 500), frames=st.integers(0, 90), multiple=st.integers(1, 9))
def test_the_size_of_a_batch(size: int, budget: int | None, frames: int, multiple: int) -> None:
    from vlpipe.engines.grouping import Grouping
    from vlpipe.planning.options import Options
    from vlpipe.planning.paddings import Paddings

    options = Options(batch_size=size, frames_per_batch=budget, multiple_of=multiple)
    most = size if budget is None else min(size, max(1, budget // max(1, frames)))
    expected = max([multiple, *range(0, most + 1, multiple)])
    assert options.batch_size_for(frames) == expected
    assert int(Grouping(options, Paddings({}), "x", (1,), (1,)).size_for(tf.constant(frames))) == expected


def test_keras_trains_under_a_strategy_whatever_the_batch_size(source: Path) -> None:
    script = f"""
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, vlpipe
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(3, 3, padding="same")(inputs))))
    model.compile("sgd", "mse")
    for way in {[*WAYS[:3], {"batching": "same_length", "remainder": "drop", "batch_size": 3}]!r}:
        dataset = vlpipe.make_dataset({str(source)!r}, seed=1, **way)
        assert vlpipe.plan({str(source)!r}, seed=1, **way).options.multiple_of == 2
        model.fit(dataset, epochs=1, verbose=0)
assert vlpipe.plan({str(source)!r}).options.multiple_of == 1
print("trained")
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.strip() == "trained", done.stderr[-3000:]
