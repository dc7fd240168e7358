"""Functions that tf.data runs as they are.

TensorFlow optimizes each function of a dataset anew for every iterator: 4 ms at least, for functions that are one call into Python or a few
operations. It leaves out those that stay on the device of the dataset, as functions with the attribute `ON_ITS_DEVICE` do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vlpipe.engines.python_calls import keep_alive

ON_ITS_DEVICE = {"experimental_ints_on_device": True}


def tensors_of(spec: Any) -> list[tf.TensorSpec]:
    """The tensors that an element of a dataset consists of: a ragged one is a single variant, and None is none."""
    parts = [part for part in tf.nest.flatten(spec) if isinstance(part, (tf.TensorSpec, tf.RaggedTensorSpec))]
    return [part if isinstance(part, tf.TensorSpec) else tf.TensorSpec(None, tf.variant) for part in parts]


def light_map(numbers: tf.data.Dataset, function: Callable[[tf.Tensor], Any], num_parallel_calls: int) -> tf.data.Dataset:
    """`numbers.map(function, num_parallel_calls, deterministic=True)`, with a light function.

    Args:
        numbers: a dataset of tensors.
        function: returns tensors and None, in any structure of tuples and dicts.
    """
    traced = tf.function(function, autograph=False, experimental_attributes=ON_ITS_DEVICE).get_concrete_function(numbers.element_spec)
    none, _ = tf.data.Dataset.from_tensors((None, 0)).element_spec
    spec = tf.nest.map_structure(lambda part: none if part is None else tf.TensorSpec(part.shape, part.dtype), traced.structured_outputs)
    flat = tensors_of(spec)
    with tf.device("CPU:0"):  # where tf.data runs, even on a machine with a GPU
        mapped = tf.raw_ops.ParallelMapDatasetV2(
            input_dataset=tf.data.experimental.to_variant(numbers),
            other_arguments=traced.captured_inputs,
            num_parallel_calls=tf.constant(num_parallel_calls, tf.int64),
            f=traced,
            output_types=[part.dtype for part in flat],
            output_shapes=[part.shape for part in flat],
            deterministic="true",
            preserve_cardinality=True,
        )
    dataset = tf.data.experimental.from_variant(mapped, spec)
    keep_alive(traced, dataset)
    return dataset
