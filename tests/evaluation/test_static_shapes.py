"""`predict` and `evaluate` with shapes="static": few shapes, and every record once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vlpipe


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("static") / "d"
    rng = np.random.default_rng(4)
    vlpipe.write(path, ({"features": rng.normal(size=(t, 2)).astype(np.float32), "label": t % 3} for t in rng.integers(1, 40, 61).tolist()))
    return path


def model() -> tuple[Any, set[tuple[int, ...]]]:
    """One answer a record, 2 times the sum of its first frame, and the shapes that the model is given."""
    shapes: set[tuple[int, ...]] = set()

    class First(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return 2 * keras.ops.sum(x[:, 0], axis=-1, keepdims=True)

        def predict_on_batch(self, x: Any) -> Any:
            shapes.add(tuple(x.shape))
            return super().predict_on_batch(x)

        def __call__(self, x: Any, **arguments: Any) -> Any:
            shapes.add(tuple(x.shape))
            return super().__call__(x, **arguments)

    return First(), shapes


def test_every_record_once(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, shapes = model()
    with caplog.at_level(logging.WARNING, "vlpipe"):
        answers = vlpipe.predict(first, source, shapes="static", batch_size=8)
    expected = [2 * record["features"][0].sum() for record in vlpipe.open(source)]
    np.testing.assert_allclose(np.asarray(answers)[:, 0], expected, rtol=1e-6)
    assert answers.ids.tolist() == list(range(61))
    planned = vlpipe.plan(source, pad_to="boundary", buckets=8, shuffle=False, batch_size=8).shapes
    assert {shape for shape in shapes if shape[0]} == set(planned)
    assert len(planned) == len({shape[1] for shape in planned}) + 1 <= 9
    assert "shapes='static' pads" in caplog.text  # of a model that nobody can look into


def test_remainder_may_be_said(source: Path) -> None:
    first, _ = model()
    with_it = vlpipe.predict(first, source, shapes="static", remainder="keep")
    np.testing.assert_array_equal(with_it, vlpipe.predict(first, source, shapes="static"))
    with pytest.raises(vlpipe.ArgumentError, match="remainder: came as 'pad', which predict and evaluate cannot follow"):
        vlpipe.predict(first, source, shapes="static", remainder="pad")
    with pytest.raises(vlpipe.ArgumentError, match="but pad_to is 'longest'"):
        vlpipe.predict(first, source, shapes="static", pad_to="longest")


def test_evaluate_counts_every_record_once(source: Path) -> None:
    first, _ = model()
    first.compile(loss="mse")
    labels = np.array([record["label"] for record in vlpipe.open(source)], np.float64)
    answers = np.array([2 * record["features"][0].sum() for record in vlpipe.open(source)], np.float64)
    result = vlpipe.evaluate(first, source, shapes="static", batch_size=8)
    assert result["loss"] == pytest.approx(np.mean((answers - labels) ** 2), rel=1e-5)
