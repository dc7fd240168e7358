"""Custom layouts: a function in the graph that turns a serialized record of any kind into fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.storage.schema import FIXED_DTYPES, SEQUENCE_DTYPES, Field, Fixed, Sequence, Text


@dataclass(frozen=True)
class CustomFunctions:
    """The user's functions of a custom layout.

    Attributes:
        parse: from a serialized record (a string scalar) to its fields by name, in the graph.
        length: from a serialized record (bytes) to the number of frames of its first sequence; None: `parse` is called to count them.
        name: the name under which the index is cached; None: the index is not cached.
    """

    parse: Callable[[Any], dict[str, Any]]
    length: Callable[[bytes], Any] | None
    name: str | None


def trace(parse_fn: Any) -> tuple[Callable[[Any], dict[str, Any]], dict[str, Field]]:
    """Trace the function. Loads TensorFlow.

    Returns:
        A function that returns the results by name, and the field of each.

    Raises:
        ArgumentError: `parse_fn` is not a function, fails, or returns a value that no field can hold.
    """
    import tensorflow as tf

    if not callable(parse_fn):
        raise ArgumentError(f"parse_fn: came as {parse_fn!r}, expected a function that takes a serialized record, a string tensor.")

    function: Any = tf.function(parse_fn)
    try:
        result = function.get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs
    except Exception as error:  # a custom function may raise anything
        raise ArgumentError(
            f"parse_fn: fails when it is traced with a string tensor ({type(error).__name__}: {error}). Use TensorFlow operations, such as "
            "tf.io.parse_single_example."
        ) from error
    result = _by_name(result)
    fields = {name: _field(name, value, first=number == 0) for number, (name, value) in enumerate(result.items())}
    if not any(isinstance(field, Sequence) for field in fields.values()):
        raise ArgumentError(
            f"parse_fn: returns {list(fields)}, but no sequence of frames [T, ...]; expected a tensor with an unknown first axis."
        )
    # Convert to a tensor: tf.function retraces for each Python bytes object.
    return lambda data: _by_name(function(tf.convert_to_tensor(data))), fields


def counter(length_fn: Any) -> Callable[[bytes], Any]:
    """Return a function from a serialized record (bytes) to its number of frames.

    Raises:
        ArgumentError: `length_fn` is not a function.
    """
    import tensorflow as tf

    if not callable(length_fn):
        raise ArgumentError(f"length_fn: came as {length_fn!r}, expected a function that takes a serialized record, or None.")
    if hasattr(length_fn, "get_concrete_function"):  # a tf.function: convert to a tensor, or it retraces for each record
        return lambda data: length_fn(tf.constant(data))
    function: Callable[[bytes], Any] = length_fn
    return function


def _by_name(result: Any) -> dict[str, Any]:
    if isinstance(result, dict):
        return {str(name): value for name, value in result.items()}
    parts = result if isinstance(result, (tuple, list)) else (result,)
    if not 1 <= len(parts) <= 2:
        raise ArgumentError(f"parse_fn: returns {len(parts)} values, expected x, (x, label), or a dict of tensors by name.")
    return dict(zip(("features", "label"), parts, strict=False))


def _field(name: str, value: Any, *, first: bool) -> Field:
    import tensorflow as tf

    if not isinstance(value, tf.Tensor):
        raise ArgumentError(f'parse_fn: "{name}" is a {type(value).__name__}, expected a dense tensor, as from tf.sparse.to_dense.')
    shape = value.shape
    if shape.rank is None or None in shape[1:]:
        raise ArgumentError(
            f'parse_fn: "{name}" has shape {shape}, expected [T, ...] with known sizes after the first axis. Use tf.ensure_shape.'
        )
    try:
        if value.dtype == tf.string and shape.rank == 0:
            return Text()
        if shape.rank and (shape[0] is None or (first and shape.rank > 1)):
            return Sequence(tuple(shape[1:]), value.dtype.name)
        return Fixed(tuple(shape), value.dtype.name)
    except SchemaError as error:
        dtypes = [dtype for dtype in SEQUENCE_DTYPES if (shape.rank and shape[0] is None) or dtype in FIXED_DTYPES]
        raise ArgumentError(
            f'parse_fn: "{name}" has dtype {value.dtype.name} and shape {shape}, which no field supports. '
            f"Cast it to one of {', '.join(dtypes)}."
        ) from error
