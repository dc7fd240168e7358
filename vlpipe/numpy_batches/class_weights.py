"""The argument `class_weight` in NumPy: sample weights from labels, the twin of `engines/class_weights.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlpipe.numpy_batches.finite import Flat
from vlpipe.planning.selection import Selection


def sample_weights(batch: Flat, selection: Selection, tables: Mapping[str, np.ndarray]) -> Any:
    """float32 weights in the structure of the labels: `[B]`, or for the values of a sequence `[B, U]`; of padding and repeated rows 0."""
    weights = {}
    for name in selection.labels:
        y, lengths = batch[f"y:{name}"], batch.get(f"n:y:{name}")
        weight = np.ones(len(y), np.float32)
        if name in tables:
            weight = _of_classes(y, tables[name], vectors=y.ndim > (1 if lengths is None else 2))
            if lengths is not None:
                weight = weight * (np.arange(y.shape[1]) < lengths[:, None]).astype(np.float32)
        if "weight" in batch:
            weight = weight * batch["weight"].reshape(-1, *[1] * (weight.ndim - 1))
        weights[name] = weight
    return weights[selection.labels[0]] if selection.single_label else weights


def _of_classes(y: np.ndarray, table: np.ndarray, vectors: bool) -> np.ndarray:
    """float32: the weight of each class number, or the mean weight of the classes of each vector; 1 for what is no class of the table."""
    if not vectors:
        number = y.astype(np.int64)
        inside = (number >= 0) & (number < len(table))
        return np.where(inside, table[np.where(inside, number, 0)], np.float32(1))
    hot = y.astype(np.float32).astype(np.float64)
    total = hot.sum(-1)
    known = np.ones(y.shape[-1])
    known[: len(table)] = table[: y.shape[-1]]
    weighted = (hot * known).sum(-1)
    return np.where(total > 0, weighted / np.where(total > 0, total, 1.0), 1.0).astype(np.float32)
