"""shapes="static": the three arguments that it stands for, what it refuses, and what is logged where JAX compiles many shapes."""

from __future__ import annotations

import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import vlpipe
from vlpipe.cli import main
from vlpipe.errors import ArgumentError
from vlpipe.planning.compilations import MANY_SHAPES
from vlpipe.planning.options import Options

THREE: dict[str, Any] = {"pad_to": "boundary", "remainder": "pad", "buckets": 8}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 records of 100 lengths."""
    path = tmp_path_factory.mktemp("static") / "d"
    rng = np.random.default_rng(3)
    lengths = [*range(1, 101), *rng.integers(1, 101, 200).tolist()]
    vlpipe.write(path, ({"features": np.full((t, 2), row, np.float32), "label": row % 5} for row, t in enumerate(lengths)))
    return path


@pytest.fixture
def jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Keras on JAX, as far as vlpipe asks."""
    backend = types.SimpleNamespace(backend=lambda: "jax")
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(backend=backend))


def shapes_of(batches: Any) -> list[tuple[int, ...]]:
    return [tuple(batch[0].shape) for batch in batches]


@pytest.mark.parametrize(
    ("arguments", "explicit"),
    [
        ({}, THREE),
        ({"buckets": 3}, THREE | {"buckets": 3}),
        ({"buckets": [20, 50, 100]}, THREE | {"buckets": [20, 50, 100]}),
        ({"buckets": [20, 50]}, THREE | {"buckets": [20, 50]}),  # one more, for the longer ones
        ({"pad_to": "boundary", "remainder": "pad", "batching": "bucket"}, THREE),  # the same said twice
        ({"batching": "pad"}, {"batching": "pad", "pad_to": "boundary", "remainder": "pad"}),
        ({"frames_per_batch": 700}, THREE | {"frames_per_batch": 700}),
        ({"shard": (1, 2)}, THREE | {"shard": (1, 2)}),
        ({"windows": 30}, THREE | {"windows": 30}),
    ],
    ids=str,
)
def test_it_is_the_three_arguments(source: Path, arguments: dict[str, Any], explicit: dict[str, Any]) -> None:
    common: dict[str, Any] = {"seed": 1, "batch_size": 7}
    static, three = vlpipe.plan(source, shapes="static", **arguments, **common), vlpipe.plan(source, **explicit, **common)
    assert static.identity == three.identity
    assert static.state(2, 1) == three.state(2, 1)
    assert static.shapes == three.shapes
    assert len(static.shapes) <= len(static.buckets)
    assert None not in {size for shape in static.shapes for size in shape}
    assert len(static.buckets) > 1 or "batching" in arguments or "windows" in arguments


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_batches_have_the_shapes_of_the_plan(source: Path, engine: Any) -> None:
    common: dict[str, Any] = {"seed": 1, "batch_size": 7, "engine": engine, "ids": True}
    static = list(vlpipe.make_dataset(source, shapes="static", **common))
    planned = vlpipe.plan(source, shapes="static", **common).shapes
    assert {tuple(x["features"].shape) for x, *_ in static} == set(planned)
    assert len(planned) <= 8
    three = list(vlpipe.make_dataset(source, **THREE, **common))
    for (x, y, weight), (expected, label, expected_weight) in zip(static, three, strict=True):
        np.testing.assert_array_equal(x["features"], expected["features"])
        np.testing.assert_array_equal(y, label)
        np.testing.assert_array_equal(weight, expected_weight)
    ids = np.concatenate([x["id"].numpy()[weight.numpy() > 0] for x, _, weight in static])
    assert sorted(ids.tolist()) == list(range(300))


def test_arrays_and_the_command(source: Path) -> None:
    batches = vlpipe.batches(source, shapes="static", seed=1, batch_size=7)
    assert set(shapes_of(batches)) == set(batches.plan.shapes)
    run = CliRunner().invoke(main, ["plan", str(source), "--batch-size", "7", "--shapes", "static", "--json"], catch_exceptions=False)
    assert json.loads(run.stdout)["shapes"] == [list(shape) for shape in batches.plan.shapes]
    plain = CliRunner().invoke(main, ["plan", str(source), "--json"], catch_exceptions=False)
    assert json.loads(plain.stdout)["boundaries"] == list(vlpipe.plan(source).boundaries)
    refused = CliRunner().invoke(main, ["plan", str(source), "--shapes", "static", "--remainder", "keep"])
    assert refused.exit_code == 1
    assert "remainder is 'keep'" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pad_to": "longest"}, "shapes=\"static\": stands for pad_to='boundary', but pad_to is 'longest'. Leave pad_to out, or shapes."),
        ({"remainder": "keep"}, "stands for remainder='pad', but remainder is 'keep'"),
        ({"remainder": "drop"}, "stands for remainder='pad', but remainder is 'drop'"),
        ({"batching": "ragged"}, "shapes=\"static\": batching='ragged' makes a shape for every length"),
        ({"batching": "same_length"}, "batching='same_length' makes a shape for every length"),
        ({"batching": "pad", "buckets": 4}, 'buckets: only batching="bucket" has buckets'),
    ],
)
def test_arguments_that_say_otherwise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Options.of(shapes="static", **arguments)
    assert message in str(caught.value)


def test_other_values() -> None:
    with pytest.raises(ArgumentError, match="shapes: came as 'few', expected one of 'any', 'static'"):
        Options.of(shapes="few")
    options = Options()
    assert (options.pad_to, options.remainder, options.buckets) == ("longest", "keep", None)
    assert {type(options.pad_to), type(options.remainder)} == {str}  # as they are in a state that was read from JSON


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shard": (1, 2), "remainder": "pad", "batch_size": 3},
        {"batching": "pad"},
        {"batching": "same_length"},
        {"pad_to": "boundary", "buckets": 30},
        {"shuffle": False},
    ],
    ids=str,
)
def test_many_shapes_are_logged_on_jax(source: Path, jax: None, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any]) -> None:
    """Once for a dataset, with as many as the first epoch then delivers."""
    with caplog.at_level(logging.WARNING, "vlpipe"):
        batches = vlpipe.batches(source, **{"batch_size": 7, "seed": 1, **arguments})
        shapes = set(shapes_of(batches))
        list(batches)
    logged = [record.getMessage() for record in caplog.records if "JAX" in record.getMessage()]
    assert len(shapes) > MANY_SHAPES
    advice = {"same_length": 'batching="bucket" with shapes="static" makes few, and pads'}.get(
        arguments.get("batching", ""), "pass fewer buckets" if "buckets" in arguments else 'pass shapes="static"'
    )
    assert logged == [f"{len(shapes)} shapes an epoch: JAX compiles the model for each; {advice}"]


def test_nothing_is_logged_of_few_shapes_or_elsewhere(
    source: Path, jax: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, "vlpipe"):
        vlpipe.batches(source, shapes="static", batch_size=7)
        vlpipe.batches(source)  # 10 batches of 32
        vlpipe.plan(source, batch_size=1)
        monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace())  # while it is being imported
        vlpipe.batches(source, batch_size=1)
        tensorflow = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "tensorflow"))
        monkeypatch.setitem(sys.modules, "keras", tensorflow)
        vlpipe.batches(source, batch_size=1)
        monkeypatch.delitem(sys.modules, "keras")
        vlpipe.batches(source, batch_size=1)
    assert not [record for record in caplog.records if "JAX" in record.getMessage()]
