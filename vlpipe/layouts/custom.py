"""A layout of the user's own: a function in the graph that makes the fields of a serialized record, whatever that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.storage.schema import FIXED_DTYPES, SEQUENCE_DTYPES, Field, Fixed, Sequence, Text


@dataclass(frozen=True)
class Given:
    """The user's functions.

    Attributes:
        parse: in the graph, from a serialized record (string scalar) to its fields by name.
        length: from a serialized record (bytes) to the frames of its first sequence; None: as `parse` has it.
        name: under which the index is kept; None: it is not.
    """

    parse: Callable[[Any], dict[str, Any]]
    length: Callable[[bytes], Any] | None
    name: str | None


def trace(parse_fn: Any) -> tuple[Callable[[Any], dict[str, Any]], dict[str, Field]]:
    """The function with names for what it returns, and the fields that these are. Loads TensorFlow.

    Raises:
        ArgumentError: it fails, or returns what no field can be.
    """
    import tensorflow as tf

    if not callable(parse_fn):
        raise ArgumentError(f"parse_fn: came as {parse_fn!r}, expected a function of a serialized record, a string tensor.")

    function: Any = tf.function(parse_fn)
    try:
        result = function.get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs
    except Exception as error:  # a user's function raises what it will
        raise ArgumentError(
            f"parse_fn: fails for a serialized record ({type(error).__name__}: {error}). It is traced for a string tensor: use "
            "TensorFlow's operations, such as tf.io.parse_single_example."
        ) from error
    result = _by_name(result)
    fields = {name: _field(name, value, first=number == 0) for number, (name, value) in enumerate(result.items())}
    if not any(isinstance(field, Sequence) for field in fields.values()):
        raise ArgumentError(f"parse_fn: returns no sequence [T, ...] among {list(fields)}, expected one whose first axis is not known.")
    # As a tensor: the function would be traced anew for each of Python's bytes.
    return lambda data: _by_name(function(tf.convert_to_tensor(data))), fields


def counter(length_fn: Any) -> Callable[[bytes], Any]:
    """The function that counts frames, of bytes.

    Raises:
        ArgumentError: it is no function.
    """
    import tensorflow as tf

    if not callable(length_fn):
        raise ArgumentError(f"length_fn: came as {length_fn!r}, expected a function of a serialized record, or None.")
    if hasattr(length_fn, "get_concrete_function"):  # a tf.function, which would be traced anew for each record
        return lambda data: length_fn(tf.constant(data))
    counted: Callable[[bytes], Any] = length_fn
    return counted


def _by_name(result: Any) -> dict[str, Any]:
    if isinstance(result, dict):
        return {str(name): value for name, value in result.items()}
    parts = result if isinstance(result, (tuple, list)) else (result,)
    if not 1 <= len(parts) <= 2:
        raise ArgumentError(f"parse_fn: returns {len(parts)} values, expected x, (x, label), or a dict of names and tensors.")
    return dict(zip(("features", "label"), parts, strict=False))


def _field(name: str, value: Any, *, first: bool) -> Field:
    import tensorflow as tf

    if not isinstance(value, tf.Tensor):
        raise ArgumentError(f'parse_fn: "{name}" is {type(value).__name__}, expected a dense tensor, such as tf.sparse.to_dense gives.')
    shape = value.shape
    if shape.rank is None or None in shape[1:]:
        raise ArgumentError(
            f'parse_fn: "{name}" has the shape {shape}, expected [T, ...] with every axis but the first known. Use tf.ensure_shape.'
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
            f'parse_fn: "{name}" is {value.dtype.name} {shape}, which no field can be. Cast it to one of {", ".join(dtypes)}.'
        ) from error
