"""What operations behind a reduction do, whose tensors have no frames any more: whether they mix the rows of a batch."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import layers as plain

from vlpipe.layers.arranging import NEW_AXIS, axes_of
from vlpipe.layers.base import MaskAware
from vlpipe.layers.fills import ATTENTION, fill_of, needs_fill, parts_of
from vlpipe.layers.operations import ELEMENTWISE_OPS
from vlpipe.layers.probe import OPEN_WIDTH, called, drawn, own_activation, same, written_by_user
from vlpipe.layers.role import CARRY, Role, refuse
from vlpipe.layers.walk import TracedTensor, leaves, traced_tensors

# Class names of operations that give each value of a row another place, whatever their axis.
MOVING = {*NEW_AXIS, "Squeeze", "Concatenate", "Repeat", "Split", "ArraySplit", "Unstack", "Append"}
PRODUCTS = {"Dot", "Tensordot", "Inner", "Outer", "Vdot", "Kron"}  # of all rows of the one with all of the other
NORMALIZED = (plain.Softmax, plain.LayerNormalization, plain.RMSNormalization, plain.UnitNormalization)

MIXES_ROWS = refuse(
    "lets each row of a batch depend on the others",
    "Act along the features, axis=-1, or leave it out of this model and call it on the output of the mask-aware one.",
    "unknown",
)


def role_without_frames(operation: Any, arguments: Any, options: Any) -> Role:
    """Return the role of an operation none of whose tensors has frames: it is kept, or refused because it mixes rows."""
    if mixes_rows(operation, arguments, options):
        return MIXES_ROWS
    if type(operation) in ATTENTION:  # whose fill is for masks
        return CARRY
    if is_own(operation) or (isinstance(operation, keras.Model) and any(map(needs_fill, parts_of(operation)))):
        return replace(CARRY, fill="spread")
    return replace(CARRY, fill=fill_of(operation, arguments, own_activation(operation) if type(operation) is plain.Activation else None))


def is_own(operation: Any) -> bool:
    """Return whether a user wrote a layer, which may compute anything."""
    if isinstance(operation, keras.Model | MaskAware) or not isinstance(operation, plain.Layer):
        return False
    return isinstance(operation, plain.Lambda) or written_by_user(operation)


def mixes_rows(operation: Any, arguments: Any, options: Any) -> bool:
    """Return whether a row of the output depends on other rows of a batch, whose axis is the first open one of a tensor."""
    if isinstance(operation, plain.Layer):
        return layer_mixes_rows(operation, arguments, options)
    operands = leaves(arguments, options)
    batched = [batch_axis(operand) is not None for operand in operands]
    if not any(batched) or not type(operation).__module__.startswith("keras.src.ops"):
        return False
    name = type(operation).__name__
    if name == "Matmul":
        return matmul_mixes(*operands)
    if name == "Einsum":
        return einsum_mixes(operation.subscripts, operands)
    if name in PRODUCTS:
        return sum(batched) > 1
    if name in ELEMENTWISE_OPS:  # broadcast from the last axis on
        return len({batch_end(x) for x in operands} - {None}) > 1
    axis = getattr(operation, "axis", getattr(operation, "axes", ()))
    if name in MOVING or name == "Transpose" or not batched[0] or axis == ():
        return False
    axes = axes_of(axis, len(operands[0].tensor.shape))
    return axes is None or batch_axis(operands[0]) in axes


def batch_axis(x: Any) -> int | None:
    shape = tuple(x.tensor.shape) if isinstance(x, TracedTensor) else ()
    return shape.index(None) if None in shape else None


def batch_end(x: Any) -> int | None:
    """Return which axis is that of the batch, counted from the last, 1."""
    axis = batch_axis(x)
    return None if axis is None else len(x.tensor.shape) - axis


def matmul_mixes(first: Any, second: Any) -> bool:
    """Return whether the rows are summed over, or meet one another, in a product of matrices."""
    one, other = batch_end(first), batch_end(second)
    if one is not None and other is not None:
        return one != other or one < 3
    return one == 1 or other == min(2, len(getattr(second, "tensor", second).shape))


def einsum_mixes(subscripts: str, operands: list[Any]) -> bool:
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "." in inputs or len(terms) != len(operands):
        return False
    letters = {term[axis] for term, x in zip(terms, operands, strict=True) if (axis := batch_axis(x)) is not None}
    return len(letters) > 1 or not letters <= set(output)


def layer_mixes_rows(layer: Any, arguments: Any, options: Any) -> bool:
    """Return whether a layer mixes rows: one of Keras by its axis, one of the user by trying it on two rows and on one of them."""
    operands = traced_tensors(arguments, options)
    if not operands or batch_axis(operands[0]) != 0 or isinstance(layer, MaskAware | keras.Model):
        return False
    x = operands[0].tensor
    if isinstance(layer, NORMALIZED):
        return 0 in (axes_of(getattr(layer, "axis", -1), len(x.shape)) or ())
    if not is_own(layer) or len(leaves(arguments, options)) > 1 or layer.non_trainable_variables:
        return False
    call = functools.partial(layer.call, training=False) if layer._call_has_training_arg else layer.call
    array = drawn(np.random.default_rng(0), (2, *[size or OPEN_WIDTH for size in x.shape[1:]]), x.dtype)
    try:
        whole, again, alone = (called(call, rows, x.dtype) for rows in (array, array, array[1:]))
    except Exception:  # a user's layer may raise anything for random values
        return False
    is_comparable = same(whole, again, x.dtype) and len(whole) == 2  # not random, and one row for each row
    return is_comparable and not same(whole[1:], alone, x.dtype)
