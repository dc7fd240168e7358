"""`check_finite` on arrays: the twin of `engines/check_finite.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.numpy_batches.sequences import Sequences, is_float
from vlpipe.planning.plan import Plan

Flat = dict[str, Any]  # the parts of a batch by name: arrays, or `Sequences` that are not padded yet


def checked(batch: Flat, plan: Plan) -> Flat:
    """A flat batch without NaN and infinities, as `check_finite` says.

    Raises:
        DatasetError: a value is not finite that is not to be replaced by 0; the text names the record.
    """
    parts = [name for name in batch if name[:2] in ("x:", "y:")]
    return {**batch, **{name: _checked(batch, plan, name) for name in parts}}


def zeroed(values: np.ndarray) -> np.ndarray:
    """Values with 0 in the place of NaN and infinities."""
    return np.where(np.isfinite(values), values, np.zeros((), values.dtype))


def _checked(batch: Flat, plan: Plan, name: str) -> Any:
    part = batch[name]
    values = part.values if isinstance(part, Sequences) else part
    if not is_float(values.dtype) or np.isfinite(values).all():
        return part
    wrong = ~np.isfinite(values)
    if isinstance(part, np.ndarray) and plan.has_infinite_padding(name):
        real = np.arange(part.shape[1]) < batch[f"n:{name}"][:, None]
        wrong &= real.reshape(*real.shape, *[1] * (part.ndim - 2))
    if not wrong.any():
        return part
    if plan.options.check_finite == "zero" and name.startswith("x:"):
        good = np.where(wrong, np.zeros((), values.dtype), values)
        return part.having(good) if isinstance(part, Sequences) else good
    place = tuple(int(axis) for axis in np.argwhere(wrong)[0])
    raise DatasetError(_text(batch, plan, name, place))


def _text(batch: Flat, plan: Plan, name: str, place: tuple[int, ...]) -> str:
    from vlpipe.engines.check_finite import message  # it loads TensorFlow, and the run is over

    part = batch[name]
    if isinstance(part, Sequences):
        row = int(part.rows[place[0]])
        value, inside = float(part.values[place]), (place[0] - int(part.splits[row]), *place[1:])
    else:
        row, value, inside = place[0], float(part[place]), place[1:]
    return message(plan, name, int(batch["id"][row]), value, inside)
