"""The structure of the user's elements, for tensors and for arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlpipe.planning.plan import Plan


def element_of(batch: Mapping[str, Any], plan: Plan, sample_weight: Any = None) -> tuple[Any, ...]:
    """The element that the user gets: (x, y, sample_weight), (x, y) or (x,).

    Args:
        batch: a flat batch, its parts by name.
        sample_weight: those of the classes, in the structure of the labels; None: those of the rows, if the batch has them.
    """
    selection, options = plan.selection, plan.options
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
        x |= {name: batch[name] for name in ("id", "start", "partner") if name in batch}
    y: Any = {name: batch[f"y:{name}"] for name in selection.labels} or None
    if selection.single_label:
        y = batch[f"y:{selection.labels[0]}"]
    if sample_weight is None:
        sample_weight = batch.get("weight")
    if sample_weight is not None:
        return x, y, sample_weight
    return (x, y) if selection.labels else (x,)
