"""Ways to run a model, on every backend: outside of a graph, in one for any shapes, compiled by XLA; and its gradients."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from vlpipe.layers.probe import check_windows, written_by_user

Outputs = list[tuple[Any, Any]]  # for each output of a model its values [B, ...], and its mask [B, T] or None
Run = Callable[[Any], Outputs]


class ExtractMask(keras.layers.Layer):
    """Return the mask of the input as a tensor, or None without a mask."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return mask

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None


def tensors_of(x: Any) -> Any:
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def with_masks(outputs: Any) -> Any:
    """Return the values and the masks of a model's outputs; only the values of those without one."""
    return [(y, ExtractMask()(y)) for y in keras.tree.flatten(outputs)]


def as_arrays(outputs: Any) -> Outputs:
    return [(ops.convert_to_numpy(y), None if mask is None else ops.convert_to_numpy(mask)) for y, mask in outputs]


def eager(model: Any, x: Any) -> Outputs:
    """Run a model once: outside of a graph, except on JAX, which would compile each of its operations."""
    if keras.backend.backend() == "jax":
        return compiled_by_jax(model)(x)
    x = tensors_of(x)
    if any(map(written_by_user, model._flatten_layers())):  # the windows of other layers are known
        tensors = keras.tree.flatten(x)
        check_windows(lambda *given: model(keras.tree.pack_sequence_as(x, given), training=False), *tensors)
    return as_arrays(with_masks(model(x, training=False)))


def compiled_by_jax(model: Any) -> Run:
    import jax

    state = [weight.value for weight in model.trainable_variables], [weight.value for weight in model.non_trainable_variables]
    step = jax.jit(lambda x: with_masks(model.stateless_call(*state, x, training=False)[0]))
    return lambda x: as_arrays(step(tensors_of(x)))


def ways(model: Any, x: Any, open_axes: Any) -> dict[str, Run]:
    """Return how to run a model: `"alone"` for the first answers, `"graph"` for many batches, `"compiled"` if that is XLA's business.

    Args:
        model: the model.
        x: a batch for it.
        open_axes: in the structure of `x`, how many axes of each array have any size.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def step(x: Any) -> Any:
            return with_masks(model(x, training=False))

        graph = tf.function(step, input_signature=[open_signature(x, open_axes)])
        compiled = tf.function(step, jit_compile=True)
        return {
            "alone": lambda x: eager(model, x),
            "graph": lambda x: as_arrays(graph(tensors_of(x))),
            "compiled": lambda x: as_arrays(compiled(tensors_of(x))),
        }
    run: Run = compiled_by_jax(model) if backend == "jax" else lambda x: eager(model, x)
    return {"alone": run, "graph": run}


def open_signature(x: Any, open_axes: Any) -> Any:
    """Return TensorSpecs of `x` whose first axes have no size."""
    import tensorflow as tf

    return keras.tree.map_structure(
        lambda array, count: tf.TensorSpec((*[None] * count, *array.shape[count:]), ops.convert_to_tensor(array).dtype), x, open_axes
    )


def loss_of(outputs: Any, factors: list[Any]) -> Any:
    """Return the sum of the float outputs times `factors` `[B, ...]`, of those values alone whose factor is not zero."""
    values = [y for y, _ in outputs if keras.backend.is_float_dtype(y.dtype)]
    products = [ops.where(factor != 0, ops.cast(y, "float32") * factor, 0) for y, factor in zip(values, factors, strict=True)]
    return sum(ops.sum(product) for product in products)


def gradients_of(model: Any, x: Any, open_axes: Any, ranks: list[int]) -> Callable[[Any, list[Any]], list[list[Any]]]:
    """Return a function of a batch and of the factors of `loss_of`: the gradients for the weights, and those for the float inputs.

    Args:
        model: the model.
        x: a batch for it.
        open_axes: as for `ways`.
        ranks: number of axes of each float output.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return gradients_of_tensorflow(model, x, open_axes, ranks)
    if backend == "jax":
        return gradients_of_jax(model)

    def function(x: Any, factors: list[Any]) -> list[list[Any]]:
        x = tensors_of(x)
        watched = [leaf.requires_grad_() for leaf in keras.tree.flatten(x) if leaf.is_floating_point()]
        variables = [weight.value for weight in model.trainable_variables]
        for variable in variables:
            variable.grad = None
        loss_of(with_masks(model(x, training=False)), tensors_of(factors)).backward()
        return [[as_gradient(leaf.grad, leaf) for leaf in group] for group in (variables, watched)]

    return function


def gradients_of_tensorflow(model: Any, x: Any, open_axes: Any, ranks: list[int]) -> Any:
    import tensorflow as tf

    signature = [open_signature(x, open_axes), [tf.TensorSpec([None] * rank, "float32") for rank in ranks]]

    @tf.function(input_signature=signature)
    def gradient(x: Any, factors: Any) -> Any:
        groups = [weight.value for weight in model.trainable_variables], [y for y in keras.tree.flatten(x) if y.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(groups[1])
            loss = loss_of(with_masks(model(x, training=False)), factors)
        return tape.gradient(loss, groups, unconnected_gradients="zero")

    return lambda x, factors: [[as_gradient(y, y) for y in group] for group in gradient(tensors_of(x), tensors_of(factors))]


def gradients_of_jax(model: Any) -> Any:
    import jax

    variables, rest = ([weight.value for weight in group] for group in (model.trainable_variables, model.non_trainable_variables))

    def loss(variables: Any, watched: list[Any], x: Any, factors: Any) -> Any:
        left = iter(watched)
        x = keras.tree.map_structure(lambda leaf: next(left) if keras.backend.is_float_dtype(leaf.dtype) else leaf, x)
        return loss_of(with_masks(model.stateless_call(variables, rest, x, training=False)[0]), factors)

    slope = jax.jit(jax.grad(loss, argnums=(0, 1)))

    def function(x: Any, factors: Any) -> Any:
        x = tensors_of(x)
        watched = [leaf for leaf in keras.tree.flatten(x) if keras.backend.is_float_dtype(leaf.dtype)]
        return [[as_gradient(y, y) for y in group] for group in slope(variables, watched, x, tensors_of(factors))]

    return function


def as_gradient(value: Any, like: Any) -> Any:
    """Return a gradient as an array; zeros where the loss does not depend on `like`."""
    return np.zeros(tuple(like.shape), "float32") if value is None else ops.convert_to_numpy(ops.convert_to_tensor(value))


@contextlib.contextmanager
def other_weights(model: Any, rng: Any) -> Iterator[None]:
    """Give a model random weights and moving statistics, which hide nothing, and put its own back afterwards; not if `rng` is None."""
    before = [] if rng is None else [(weight, ops.convert_to_numpy(weight.value)) for weight in model.weights]
    try:
        for weight, value in before:
            if keras.backend.is_float_dtype(weight.dtype):
                changed = value * rng.uniform(0.8, 1.2, value.shape)
                if weight.trainable or "mean" in weight.name:  # a variance stays above zero
                    changed = changed + rng.normal(0, 0.1, value.shape)
                weight.assign(changed.astype(value.dtype))
        yield
    finally:
        for weight, value in before:
            weight.assign(value)
