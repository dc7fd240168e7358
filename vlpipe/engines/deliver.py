"""From a flat batch to the element that the user gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.check_finite import checked
from vlpipe.engines.class_weights import sample_weights
from vlpipe.engines.grouping import Flat
from vlpipe.planning.plan import Plan


def deliver(batch: Flat, plan: Plan, class_weights: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    """Turn a flat batch into the user's element: (x, y, sample_weight), (x, y) or (x,).

    Args:
        class_weights: the weight of each class, for each label that is weighed.
    """
    selection, options = plan.selection, plan.options
    batch = _with_static_shape(batch, plan)
    if options.check_finite is not None:
        batch = checked(batch, plan)
    x: Any = {name: batch[f"x:{name}"] for name in selection.features}
    if selection.single_feature:
        x = {"features": x[selection.key]} if options.lengths or options.ids else x[selection.key]
    if options.lengths:
        for name in selection.features:
            x["lengths" if selection.single_feature else f"{name}_lengths"] = batch[f"n:x:{name}"]
        for name in selection.labels:
            if f"n:y:{name}" in batch:
                x["label_lengths" if selection.single_label else f"{name}_lengths"] = batch[f"n:y:{name}"]
    if options.ids:
        x["id"] = batch["id"]
    for name in ("start", "partner"):
        if name in batch:
            x[name] = batch[name]
    y: Any = {name: batch[f"y:{name}"] for name in selection.labels} or None
    if selection.single_label:
        y = batch[f"y:{selection.labels[0]}"]
    if class_weights:
        return x, y, sample_weights(batch, selection, class_weights)
    if "weight" in batch:
        return x, y, batch["weight"]
    return (x, y) if selection.labels else (x,)


def _with_static_shape(batch: Flat, plan: Plan) -> Flat:
    """The batch with every dimension that all batches share in its static shape."""
    rows, frames = plan.static_shape
    shapes = {part.flat: [rows, frames] for part in plan.selection.frame_parts if part.with_key}
    if rows is None and frames is None:
        return batch
    return {
        name: value
        if isinstance(value, tf.RaggedTensor)
        else tf.ensure_shape(value, (shapes.get(name, [rows]) + [None] * value.shape.rank)[: value.shape.rank])
        for name, value in batch.items()
    }
