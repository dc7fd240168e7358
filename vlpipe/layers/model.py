"""`Model`: a Keras model that takes its inputs by key."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import call_with, registered
from vlpipe.layers.entry import LengthMask
from vlpipe.layers.lengths import check_known, narrowed
from vlpipe.layers.sequence_loss import SequenceLoss, check_losses

_log = logging.getLogger("vlpipe")


@functools.cache
def warn_of_repeated_rows() -> None:
    """Log, once, that Keras counts the rows that remainder="pad" repeats."""
    _log.warning(
        'evaluate: the dataset was made with remainder="pad", which completes batches by repeated rows of weight 0. Keras counts these in '
        'the denominator of the loss and in every unweighted metric. Use vlpipe.evaluate, which leaves them out, or remainder="keep"'
    )


def weights_of_frames(sample_weight: Any, y_pred: Any, compiled: Any) -> Any:
    """Return weights `[B]` as `[B, 1]` if an output has frames, `[B, T, ...]`: Keras would multiply the losses `[B, T]` by them along T.

    Losses `[B]` of other outputs take either shape. On PyTorch, Keras multiplies the weights by the mask in place: there they become
    `[B, T]`, unless a loss of the `compiled` ones is for whole sequences.
    """
    if not any(len(y.shape) > 2 for y in keras.tree.flatten(y_pred) if y is not None):
        return sample_weight

    def spread(weight: Any, y: Any) -> Any:
        if weight is None or len(weight.shape) != 1 or (y is not None and len(y.shape) < 3):
            return weight
        weight = ops.expand_dims(weight, -1)
        return weight if y is None else weight * ops.ones(ops.shape(y)[:2], dtype=weight.dtype)

    whole = any(isinstance(loss, SequenceLoss) for _, loss, *_ in getattr(compiled, "_flat_losses", None) or [])
    if keras.backend.backend() != "torch" or whole:
        return keras.tree.map_structure(lambda weight: spread(weight, None), sample_weight)
    if not keras.tree.is_nested(sample_weight):
        return keras.tree.map_structure(lambda y: spread(sample_weight, y), y_pred)
    return keras.tree.map_structure(spread, sample_weight, y_pred)


@registered
class Model(keras.Model):
    """`keras.Model` whose dict of inputs is taken by key; other keys of a batch, such as `"id"`, are ignored.

    `keras.Model` flattens a dict in the order of its sorted keys: given features, id and lengths, it takes the ids for the
    lengths, with a warning only. `mask_aware` returns a model of this class. (A subclass of `keras.Model` with a `call` of its
    own gets the whole dict; `LengthMask` takes its keys from it.)

    On JAX, whose compiled steps cannot raise, `fit`, `evaluate`, `predict` and their `_on_batch` forms check the lengths of
    each batch before its step.

    A weight for each sequence, `[B]`, as `make_dataset` delivers them, counts for all frames of an output with frames.

    Args:
        inputs: a dict of `keras.Input`, each named like its key. (Without a dict, the model is as any `keras.Model`.)
        outputs: a symbolic tensor that was computed from them, or a structure of several.
        name: name of the model.
        **kwargs: as for `keras.Model`.

    Shapes: those of the inputs, in a dict with at least their keys.

    Raises:
        ArgumentError: a batch is not a dict, or lacks the key of an input; on JAX, or outside of a graph, a length is below 0,
            beyond the frames of the batch, or no whole number (in a graph of TensorFlow: `tf.errors.InvalidArgumentError`).

    Example:
        >>> import keras, numpy as np
        >>> import vlpipe.layers as vl
        >>> inputs = {"features": keras.Input((None, 4), name="features"), "lengths": keras.Input((), dtype="int32", name="lengths")}
        >>> model = vl.Model(inputs, vl.GlobalMaxPooling1D()(vl.LengthMask()(inputs)))
        >>> batch = {"features": np.ones((2, 9, 4), "float32"), "id": np.array([70, 71]), "lengths": np.array([9, 5])}
        >>> tuple(model(batch).shape)
        (2, 4)
    """

    train_function: Any
    test_function: Any
    predict_function: Any
    _checked_losses: Any = None  # those whose shapes have been checked

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call_with(self._ready, super().__call__, args, kwargs)

    # The steps on JAX (`stateless_call`) and the symbolic build do not come through `__call__`.

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        masks = self._selected(mask) if isinstance(mask, dict) else mask
        return super().call(self._ready(inputs), training=training, mask=masks, **kwargs)

    def compute_output_spec(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().compute_output_spec(self._selected(inputs), *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return super().compute_output_shape(self._selected(input_shape))

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        if getattr(x, "vlpipe_remainder", None) == "pad":  # set by make_dataset
            warn_of_repeated_rows()
        return super().evaluate(x, *args, **kwargs)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().compute_loss(x, y, y_pred, weights_of_frames(sample_weight, y_pred, self._compile_loss), *args, **kwargs)
        finally:  # also if Keras fails, whose message is about shapes
            compiled = self._compile_loss
            if compiled is not None and compiled is not self._checked_losses and check_losses(self.name, compiled, y, y_pred):
                self._checked_losses = compiled

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().compute_metrics(x, y, y_pred, weights_of_frames(sample_weight, y_pred, self._compile_loss))

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return super().train_on_batch(self._before_jax(x), *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return super().test_on_batch(self._before_jax(x), *args, **kwargs)

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._checking(self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._checking(self.test_function)

    def make_predict_function(self, force: bool = False) -> Any:
        if self.predict_function is None or force:
            super().make_predict_function(force)
            self.predict_function = self._checking(self.predict_function)
        return self.predict_function

    def _selected(self, batch: Any) -> Any:
        """Return the entries of a batch that are inputs of this model."""
        inputs = getattr(self, "_inputs_struct", None)
        if not isinstance(inputs, dict):
            return batch
        if not isinstance(batch, dict):
            raise ArgumentError(
                f'Model "{self.name}": got {type(batch).__name__}; expected a dict with the keys {list(inputs)}. '
                "make_dataset(..., lengths=True) delivers such dicts."
            )
        missing = [key for key in inputs if key not in batch]
        if missing:
            raise ArgumentError(
                f'Model "{self.name}": the batch lacks {missing}; found {sorted(batch)}, expected the keys {list(inputs)}. '
                "make_dataset(..., lengths=True) delivers the lengths."
            )
        return {key: batch[key] for key in inputs}

    def _ready(self, batch: Any) -> Any:
        """Return the entries of a batch that are inputs of this model, with lengths that Keras' cast to int32 leaves what they are."""
        selected = self._selected(batch)
        for name, companion, features, key in self._entries:
            if companion == "lengths" and hasattr(selected[key], "dtype"):
                selected[key] = narrowed(name, selected[key], selected[features])
        return selected

    def _before_jax(self, batch: Any) -> Any:
        """Return a batch with its lengths checked before Keras makes tensors of it, in which JAX has no integers of 64 bits."""
        return self._ready(batch) if keras.backend.backend() == "jax" else batch

    def _checking(self, function: Any) -> Any:
        """Return the function of Keras that makes a step, with a check of the lengths in its batches before it."""
        entries = self._entries if keras.backend.backend() == "jax" else ()
        if not entries:
            return function

        @functools.wraps(function)
        def step(state: Any, iterator: Any) -> Any:
            batches = list(itertools.islice(iterator, self.steps_per_execution))
            try:
                for batch in batches:
                    self._check(keras.utils.unpack_x_y_sample_weight(batch)[0], entries)
            except ArgumentError:
                self._restore(state)
                raise
            return function(state, iter(batches))

        return step

    @functools.cached_property
    def _entries(self) -> tuple[tuple[str, str, str, str], ...]:
        """For each LengthMask at the inputs: its name, the kind of its companion, and the keys of both inputs."""
        return tuple(self._found_entries())

    def _found_entries(self) -> Iterator[tuple[str, str, str, str]]:
        inputs = getattr(self, "_inputs_struct", None)
        keys = {id(x): key for key, x in inputs.items()} if isinstance(inputs, dict) else {}
        for layer in self.layers:
            if isinstance(layer, LengthMask):
                for node in layer._inbound_nodes:
                    given = node.arguments.args[0]
                    companion = "mask" if "mask" in given else "lengths"
                    if id(given["features"]) in keys and id(given[companion]) in keys:
                        yield layer.name, companion, keys[id(given["features"])], keys[id(given[companion])]

    def _check(self, x: Any, entries: tuple[tuple[str, str, str, str], ...]) -> None:
        batch = self._selected(x)
        for name, companion, features, key in entries:
            check_known(name, companion, batch[key], batch[features].shape[1])

    def _restore(self, state: Any) -> None:
        """Give the variables their values back, which Keras took out of them before the step."""
        train, rest, *others = state
        groups = [self.trainable_variables, self.non_trainable_variables]
        groups += [self.optimizer.variables] if len(others) == 2 else []
        groups += [self.metrics_variables] if others else []
        for variables, values in zip(groups, (train, rest, *others), strict=True):
            for variable, value in zip(variables, values or [], strict=False):
                variable.assign(value)
