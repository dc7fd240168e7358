"""Which label belongs to which output of a model, and whether it has a value for each answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.evaluation.batches import Batch
from vlpipe.evaluation.runner import Output, Runner
from vlpipe.evaluation.units import Pair
from vlpipe.planning.plan import Plan

SINGLE = "label"  # the key of the lengths of a label that is not in a dict


class Pairing:
    """Pairs the outputs of a model with the labels of a batch.

    Args:
        plan: of the batches; None: they are those of a dataset, whose first batch then decides which labels have a value for each answer.
    """

    def __init__(self, runner: Runner, plan: Plan | None) -> None:
        self._runner, self._plan = runner, plan
        self._framewise: list[bool] = []

    def __call__(self, answers: Any, batch: Batch) -> list[Pair]:
        """Each output with its label, lengths and weights, in the order of `keras.tree.flatten`.

        Raises:
            ArgumentError: there is no label for an output, or its lengths agree with those of the answers in some batches only.
        """
        if batch.y is None:
            raise ArgumentError("evaluate: there is no label, expected one for each output of the model. Name it: label=...")
        names, arrays = self._names(answers), keras.tree.flatten(answers)
        labels = self._matched(names, batch.y, "labels")
        weights = [("", batch.weight)] * len(arrays)
        if isinstance(batch.weight, (dict, list, tuple)):
            weights = self._matched(names, batch.weight, "sample weights")
        outputs = self._runner.outputs
        pairs = [
            Pair(array, self._runner.frames_of(output, array, batch) if output.has_frames else None, y, batch.label_frames.get(key), weight)
            for output, array, (key, y), (_, weight) in zip(outputs, arrays, labels, weights, strict=True)
        ]
        if not self._framewise:
            keys = [key for key, _ in labels]
            self._framewise = [self._agree(*entry) for entry in zip(outputs, keys, pairs, strict=True)]
        for output, pair, framewise in zip(outputs, pairs, self._framewise, strict=True):
            if framewise and not pair.agrees:
                raise ArgumentError(
                    f'evaluate: output "{output.name}" has {pair.answers.shape[1]} frames and its label {pair.label.shape[1]} in one '
                    "batch, but equally many in the batches before. Pass the source, whose index has all lengths."
                )
        return [dataclasses.replace(pair, is_framewise=framewise) for pair, framewise in zip(pairs, self._framewise, strict=True)]

    def _agree(self, output: Output, key: str, pair: Pair) -> bool:
        """Whether each answer has its own value of the label: in all records of the plan, or as far as the first batch shows."""
        plan = self._plan
        if plan is None or pair.label_frames is None or output.frames is None:
            return pair.agrees if plan is None or pair.label_frames is not None else False
        name = plan.selection.labels[0] if key == SINGLE and plan.selection.single_label else key
        if name not in plan.index.counted:
            return pair.agrees
        feature = output.feature if output.feature in plan.selection.features else plan.selection.key
        return bool(np.array_equal(output.frames(_delivered(plan, feature)), _delivered(plan, name)))

    def _names(self, answers: Any) -> list[str] | None:
        """The names of the outputs in the order of `keras.tree.flatten`, which sorts the keys of a dict; None: a single one."""
        if isinstance(answers, dict):
            return sorted(answers)
        return list(self._runner.model.output_names) if keras.tree.is_nested(answers) else None

    def _matched(self, names: list[str] | None, parts: Any, kind: str) -> list[tuple[str, Any]]:
        """The parts of a structure, each with the key of its lengths, in the order of the names of the outputs."""
        if names is None:
            flat = list(parts.items()) if isinstance(parts, dict) else [(SINGLE, part) for part in keras.tree.flatten(parts)]
            if len(flat) == 1:
                return flat
        elif isinstance(parts, dict) and set(parts) == set(names):
            return [(name, parts[name]) for name in names]
        elif isinstance(parts, (list, tuple)) and len(parts) == len(names):
            return list(zip(names, parts, strict=True))
        came = list(parts) if isinstance(parts, dict) else type(parts).__name__
        raise ArgumentError(
            f'evaluate: the {kind} are {came}, expected {names or "a single one"}, as the outputs of model "{self._runner.name}". '
            "Name them: label=..."
        )


def _delivered(plan: Plan, name: str) -> np.ndarray:
    """The delivered lengths of a sequence: with the key feature, those that are aligned are cut and transformed."""
    with_key = name == plan.selection.key or name in plan.selection.aligned
    return np.asarray(plan.frames, np.int64) if with_key else plan.index.frames(name)[plan.rows]
