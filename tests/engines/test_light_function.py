"""A light map is `Dataset.map` in all but the time until its first element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from vlpipe.engines.light_function import light_map, tensors_of

TABLE = tf.constant([5.0, 6.0, 7.0, 8.0])

FUNCTIONS: dict[str, Callable[[tf.Tensor], Any]] = {
    "pair": lambda number: (tf.fill([number, 2], 0.5), number),
    "dicts": lambda number: ({"x": number, "lengths": tf.cast(number, tf.int32), "a": tf.constant("text")}, {"b": number, "a": -number}),
    "no label": lambda number: ({"x": number}, None, tf.gather(TABLE, number)),
    "in Python": lambda number: tf.ensure_shape(tf.numpy_function(lambda n: np.arange(n), [number], tf.int64), [None]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("calls", [1, 3])
def test_as_map(name: str, calls: int) -> None:
    function, numbers = tf.autograph.experimental.do_not_convert(FUNCTIONS[name]), tf.data.Dataset.range(4)
    light, heavy = light_map(numbers, function, calls), numbers.map(function, num_parallel_calls=calls, deterministic=True)
    assert light.element_spec == heavy.element_spec
    assert light.cardinality() == heavy.cardinality() == 4
    assert repr(list(light)) == repr(list(heavy))

    @tf.function
    def first() -> Any:
        return tf.nest.flatten(next(iter(light_map(numbers.skip(2), function, calls))))[0]

    np.testing.assert_array_equal(first(), tf.nest.flatten(list(heavy)[2])[0])


def test_an_error_is_that_of_the_function() -> None:
    def wrong(number: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_less(number, np.int64(2), "too large")]):
            return tf.identity(number)

    iterator = iter(light_map(tf.data.Dataset.range(3), wrong, 2))
    assert [int(next(iterator)) for _ in range(2)] == [0, 1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        next(iterator)


def test_the_tensors_of_an_element() -> None:
    ragged = tf.ragged.constant([[1.0], []])
    spec = tf.data.Dataset.from_tensors(({"x": ragged, "n": 1}, None, np.float32([2]))).element_spec
    found = [(tensor.dtype, tensor.shape.rank) for tensor in tensors_of(spec)]
    assert found == [(tf.int32, 0), (tf.variant, None), (tf.float32, 1)]  # dicts in the order of their keys
