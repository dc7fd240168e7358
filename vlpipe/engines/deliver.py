"""From a flat batch to the element that the user gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.check_finite import checked
from vlpipe.engines.class_weights import sample_weights
from vlpipe.engines.element import element_of
from vlpipe.engines.grouping import Flat
from vlpipe.planning.plan import Plan


def deliver(batch: Flat, plan: Plan, class_weights: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    """Turn a flat batch into the user's element: (x, y, sample_weight), (x, y) or (x,).

    Args:
        class_weights: the weight of each class, for each label that is weighed.
    """
    batch = _with_static_shape(batch, plan)
    if plan.options.check_finite is not None:
        batch = checked(batch, plan)
    return element_of(batch, plan, sample_weights(batch, plan.selection, class_weights) if class_weights else None)


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
