"""`check_finite`: NaN and infinities on their way to the model. All engines come by here, with a batch as it is delivered.

The sum of finite values is finite, unless it overflows, and a NaN or an infinity in it never leaves again: one fast pass over a batch says
that it is good. Only where the sum is not finite is each value tested. Paddings are not: a padding may be infinite.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.engines.grouping import Flat
from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.errors import VlpipeError
from vlpipe.planning.plan import Plan
from vlpipe.sources.records import Records
from vlpipe.storage.example import require
from vlpipe.storage.not_finite import EXPECTED, LEAVE_OUT, describe, place_of
from vlpipe.storage.schema import Sequence


def checked(batch: Flat, plan: Plan) -> Flat:
    """A flat batch without NaN and infinities, as `check_finite` says.

    Args:
        batch: as an engine makes it, padded or ragged. It has "id", and where the padding of a part is not finite the lengths of the part.

    Raises:
        tf.errors.InvalidArgumentError: while iterating, a value is not finite that is not to be replaced by 0; the text names the record.
    """
    parts = [name for name, value in batch.items() if name[:2] in ("x:", "y:") and value.dtype.is_floating]
    return {**batch, **{name: _checked(batch, plan, name) for name in parts}}


def zeroed(values: tf.Tensor) -> tf.Tensor:
    """Values with 0 in the place of NaN and infinities."""
    return tf.where(tf.math.is_finite(values), values, tf.zeros([], values.dtype))


def _checked(batch: Flat, plan: Plan, name: str) -> tf.Tensor:
    part = batch[name]
    values = part.flat_values if isinstance(part, tf.RaggedTensor) else part

    def tested() -> tf.Tensor:
        wrong = ~tf.math.is_finite(values) & _is_real(batch, plan, name)
        if plan.options.check_finite == "zero" and name.startswith("x:"):
            return tf.where(wrong, tf.zeros([], values.dtype), values)
        with tf.control_dependencies([require(~tf.reduce_any(wrong), lambda: _message(batch, plan, name, tf.where(wrong)[0]))]):
            return tf.identity(values)

    good = tested() if plan.has_infinite_padding(name) else tf.cond(_are_finite(values), lambda: values, tested)
    good = tf.ensure_shape(good, values.shape)
    return part.with_flat_values(good) if isinstance(part, tf.RaggedTensor) else good


def _are_finite(values: tf.Tensor) -> tf.Tensor:
    """Whether all values are finite, bool; False also where they are so large that only each alone shows it."""
    if values.dtype in (tf.float32, tf.float64):
        return tf.math.is_finite(tf.reduce_sum(values))
    return tf.reduce_all(tf.math.is_finite(values))  # the sum of a batch exceeds half a precision: 65,504


def _is_real(batch: Flat, plan: Plan, name: str) -> tf.Tensor:
    """bool, of a shape that goes with the values: which of them are not padding."""
    part = batch[name]
    if isinstance(part, tf.RaggedTensor) or not plan.has_infinite_padding(name):
        return tf.constant(True)
    real = tf.sequence_mask(batch[f"n:{name}"], tf.shape(part)[1])
    return tf.reshape(real, tf.concat([tf.shape(real), tf.ones([part.shape.rank - 2], tf.int32)], 0))


def _message(batch: Flat, plan: Plan, name: str, place: tf.Tensor) -> tf.Tensor:
    """The text of the error about the value at a place of a batch (int64 vector). Python makes it, which has the index."""
    part = batch[name]
    if isinstance(part, tf.RaggedTensor):
        row = part.value_rowids()[place[0]]
        value, inside = tf.gather_nd(part.flat_values, place), tf.concat([(place[0] - part.row_starts()[row])[None], place[1:]], 0)
    else:
        row, value, inside = place[0], tf.gather_nd(part, place), place[1:]
    found = [tf.cast(batch["id"], tf.int64)[row], tf.cast(value, tf.float64), inside]

    def text(plan: Plan, number: np.ndarray, value: np.ndarray, inside: np.ndarray) -> bytes:
        return message(plan, name, int(number), float(value), tuple(inside.tolist())).encode()

    return tf.numpy_function(wait_at_exit(text, plan), found, tf.string, stateful=False)


def message(plan: Plan, part: str, number: int, value: float, place: tuple[int, ...]) -> str:
    """The text of the error about a value that would be delivered.

    Args:
        part: name of a part of a flat batch.
        number: id of the record.
        place: of the value in the part of the batch that belongs to the record.
    """
    name, index, options = part[2:], plan.index, plan.options
    row = int(np.flatnonzero(index.ids == number)[0])
    in_frames = isinstance(index.schema.fields[name], Sequence)
    zero = ', or pass check_finite="zero"' if part.startswith("x:") else ""
    found = f'{index.where(row)}: "{name}" has {value}{place_of(place, in_frames=in_frames)}'
    try:
        with Records(index) as records:
            stored = describe(name, np.asarray(records.values(row, [name])[name]), in_frames=in_frames)
    except VlpipeError:  # the file has changed since: what was delivered still has its place
        stored = ""
    if stored is None:
        causes = [option for option in ("transform", "normalize", "augment") if getattr(options, option) is not None]
        made = " or ".join(causes) or "the conversion to the delivered dtype"
        return f"{found} as delivered, expected {EXPECTED}: all are as stored, so {made} made it. Correct that{zero}."
    is_cut = in_frames and (options.has_transforms or options.crop is not None or options.windows is not None)
    where = f" as delivered; as stored, {stored}" if stored and is_cut else ""
    return f"{found}{where}, expected {EXPECTED}. {LEAVE_OUT}{zero}."
