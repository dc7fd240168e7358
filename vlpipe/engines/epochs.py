"""The numbers of the epochs of a dataset: one for each iteration, or all of an endless run."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.python_calls import keep_alive

ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # TensorFlow's name of resources that are freed with their last handle


def epochs(repeat: bool, start: tuple[int, int]) -> tf.data.Dataset:
    """The epochs of an iteration as (number, first batch): all from `start` on, or a single one, the next for each new iterator."""
    if repeat:
        epoch, batch = start
        numbers = tf.data.Dataset.range(epoch, 2**62)
        return numbers.map(
            tf.autograph.experimental.do_not_convert(lambda number: (number, tf.where(number == epoch, np.int64(batch), np.int64(0))))
        )
    # The number must be part of an iterator's checkpoint, which holds the state of datasets but not variables. So the first of three
    # elements draws the number and has no batches; `scan` keeps it; the second has the batches; the third, which a restored iterator
    # makes too, has none.
    with tf.device("CPU:0"):
        # The raw resource, because in the scope of a strategy a tf.Variable has one for each replica, and no handle.
        next_epoch = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[], shared_name=ANONYMOUS)
        tf.raw_ops.AssignVariableOp(resource=next_epoch, value=np.int64(0))
        # The raw op, because `Dataset.scan` traces its function for every dataset, and TensorFlow keeps each of these for ever (150 KB).
        scan = tf.raw_ops.ScanDataset(
            input_dataset=tf.data.experimental.to_variant(tf.data.Dataset.range(3)),
            initial_state=[np.int64(-1)],
            other_arguments=[next_epoch],
            f=_draw(),
            output_types=[tf.int64, tf.int64],
            output_shapes=[[], []],
            preserve_cardinality=True,
        )
    numbers = tf.data.experimental.from_variant(scan, (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64)))
    keep_alive(next_epoch, numbers)
    return numbers


@functools.cache
def _draw() -> Any:
    """The function that draws the number of an epoch, traced once in a process.

    It gets the number that was drawn before, the position (0 to 2) and the variable with the next number. It returns the number, and again
    the number with the first batch to deliver.
    """
    number, variable = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.resource)

    @tf.function(input_signature=[number, number, variable], autograph=False)
    def draw(held: tf.Tensor, position: tf.Tensor, next_epoch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        drawing = tf.cast(position == 0, tf.int64)
        # After a restore in a new process the variable is behind and has to catch up; otherwise it is left alone, because another iterator
        # may be drawing. Arithmetic instead of tf.cond: each branch would be a function, which costs 2 ms for every new iterator.
        missing = tf.maximum(drawing, held + 1 - tf.raw_ops.ReadVariableOp(resource=next_epoch, dtype=tf.int64))
        with tf.control_dependencies([tf.raw_ops.AssignAddVariableOp(resource=next_epoch, value=missing)]):
            following = tf.raw_ops.ReadVariableOp(resource=next_epoch, dtype=tf.int64)
        drawn = tf.where(position == 0, following - 1, held)
        return drawn, drawn, tf.where(position == 1, np.int64(0), np.int64(2**62))

    return draw.get_concrete_function()
