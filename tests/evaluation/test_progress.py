"""What takes long says how far it is: `predict`, `evaluate`, and tables that read texts from the records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vlpipe
from vlpipe.evaluation import batches
from vlpipe.sources import table
from vlpipe.text_tables import Show


def test_each_batch_and_record_is_counted(tmp_path: Path, quick_graphs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    records = ({"features": np.ones((3, 2), np.float32), "label": n % 2, "name": f"n{n}"} for n in range(10))
    vlpipe.write(tmp_path / "d", records, num_shards=2)
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    shown: dict[str, list[Any]] = {}

    @contextlib.contextmanager
    def recorder(what: str, unit: str, *, after: float) -> Iterator[Show]:
        shown[what] = [unit, after]
        yield lambda done, total: shown[what].append((done, total))

    monkeypatch.setattr(batches, "progress_bar", recorder)
    monkeypatch.setattr(table, "progress_bar", recorder)
    of_batches = ["batches", 2, (0, 4), (1, 4), (2, 4), (3, 4)]
    vlpipe.predict(model, tmp_path / "d", batch_size=3)
    assert shown.pop("predicting") == of_batches
    expected = vlpipe.evaluate(model, tmp_path / "d", batch_size=3)
    assert shown.pop("evaluating") == of_batches
    dataset = vlpipe.make_dataset(tmp_path / "d", batch_size=3, lengths=True)
    assert vlpipe.evaluate(model, dataset) == pytest.approx(expected)
    assert shown.pop("evaluating") == of_batches
    vlpipe.evaluate(model, dataset.filter(lambda x, y: True))  # of a number that nobody knows
    assert shown.pop("evaluating") == ["batches", 2]
    values = table._read(vlpipe.open(tmp_path / "d").index, ["name"])
    assert shown == {"reading texts": ["records", 2, *((n, 10) for n in range(10))]}
    assert values["name"].tolist() == [f"n{n}" for n in range(10)]
