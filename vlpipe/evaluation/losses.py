"""Losses over many steps, as Keras would compute them for one batch of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass
class _Sum:
    """What has been added of one loss: its weighted values, how many there were, and their weights."""

    values: float = 0.0
    count: int = 0
    weights: float = 0.0


class Losses:
    """The compiled losses of a model, summed in float64."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # Private, but nothing else in Keras gives the loss of each output; its own result is a mean over one batch.
        self._compiled = model._compile_loss
        self._sums: list[_Sum] = []

    @property
    def _flat(self) -> list[Any]:
        """For each loss: the path to its output, the loss, its weight in the total (None: 1), and its name."""
        return self._compiled._flat_losses if self._compiled is not None and self._compiled.built else []

    @property
    def names(self) -> list[str]:
        """Names of the losses of single outputs, as Keras reports them."""
        return [f"{entry.name}_loss" for entry in self._flat] if len(self._flat) > 1 else []

    def add(self, y: Any, y_pred: Any, weight: Any) -> None:
        """Add the losses of a step: labels, answers and sample weights (None: 1) in the structure of the outputs."""
        if self._compiled is None:
            return
        if not self._compiled.built:
            self._compiled.build(y, y_pred)
        self._sums = self._sums or [_Sum() for _ in self._flat]
        for entry, total in zip(self._flat, self._sums, strict=True):
            _add(total, entry.loss, _at(y, entry.path), _at(y_pred, entry.path), None if weight is None else _at(weight, entry.path))

    def results(self) -> dict[str, float]:
        """The loss, and that of each output if there are several."""
        if not self._sums:
            return {}
        single = [_reduced(total, entry.loss.reduction) for total, entry in zip(self._sums, self._flat, strict=True)]
        weights = [1.0 if entry.loss_weights is None else float(entry.loss_weights) for entry in self._flat]
        added = [float(keras.ops.convert_to_numpy(keras.ops.sum(loss))) for loss in self._model.losses]  # of regularizers
        return {"loss": float(np.dot(weights, single)) + sum(added), **dict(zip(self.names, single, strict=False))}


def _at(structure: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        structure = structure[key]
    return structure


def _add(total: _Sum, loss: Any, y: np.ndarray, y_pred: np.ndarray, weight: np.ndarray | None) -> None:
    if not len(y_pred):
        return
    tensors = [keras.ops.convert_to_tensor(part, dtype=loss.dtype) for part in (y, y_pred)]
    values = np.asarray(keras.ops.convert_to_numpy(loss.call(*tensors)), np.float64)
    if values.ndim == 0:  # a function that takes the mean itself
        values = np.full(len(y_pred), values)
    weights = np.ones(values.shape) if weight is None else np.asarray(weight, np.float64)
    if weights.ndim < values.ndim:
        weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    elif weights.ndim > values.ndim:
        weights = weights.reshape(values.shape)
    total.values += float((values * weights).sum())
    total.count += values.size
    total.weights += float(weights.sum())


def _reduced(total: _Sum, reduction: str | None) -> float:
    if reduction == "sum":
        return total.values
    return total.values / (total.weights if reduction == "mean_with_sample_weight" else total.count)
