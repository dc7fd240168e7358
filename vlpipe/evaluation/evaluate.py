"""`evaluate`: losses and metrics over real frames and real rows only."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.evaluation.batches import of_dataset, of_plan, plan_of, with_progress
from vlpipe.evaluation.losses import Losses
from vlpipe.evaluation.pairing import Pairing
from vlpipe.evaluation.predict import warn_of_padding
from vlpipe.evaluation.runner import RAW, Runner, is_exact, said
from vlpipe.evaluation.units import steps_of
from vlpipe.layers.model import Model
from vlpipe.storage.paths import Source

if TYPE_CHECKING:  # the package that provides it is TensorFlow's own requirement, and only type checkers need it
    import tensorflow as tf
    from typing_extensions import Unpack

    from vlpipe.planning.argument_types import Arguments

_log = logging.getLogger("vlpipe")
_OWN = ("test_step", "compute_loss", "compute_metrics")  # methods whose overrides would see single frames instead of batches


def evaluate(model: Any, source_or_dataset: Source | tf.data.Dataset, **arguments: Unpack[Arguments]) -> dict[str, Any]:
    """The loss and the metrics of a compiled model over every record once: real frames and real rows only.

    The result is what Keras would compute for a single batch of all real frames (where the model answers each frame and the label has a
    value for each) or of all records (where it gives one answer a record). Where lengths of answers and labels differ, as for CTC, each
    record is evaluated alone, and the loss is the mean over records. `model.evaluate(dataset)` averages over batches, and its metrics
    count padded frames or depend on which records share a batch.

    Metrics get the real frames or records alone, `weighted_metrics` and losses also their sample weights. Batches are made as for
    `vlpipe.predict`, so that by default each record gets the answers that it would get alone. Of a mix, each record counts once, whatever
    the weights.

    Args:
        model: a compiled Keras model, on any backend, as for `vlpipe.predict`.
        source_or_dataset: a source, as for `make_dataset`; or a `tf.data.Dataset` of (x, y) or (x, y, sample_weight), such as
            `make_dataset(..., lengths=True)` returns, whose rows of weight 0 are left out. Of a dataset with padding, the model must
            not let padding change its answers.
        **arguments: as for `make_dataset`; none with a dataset.

    Returns:
        "loss" and the metrics by name, as `model.evaluate(..., return_dict=True)`; several outputs have a loss each, NAME_loss.

    Raises:
        VlpipeError: as for `vlpipe.predict`; or the model is not compiled, or has a `test_step`, `compute_loss` or `compute_metrics` of
            its own, or layers that add losses of their own; labels and outputs do not match; or there is no record.

    Example:
        >>> vlpipe.write("data/test", ({"features": np.ones((t, 4), np.float32), "label": t % 2} for t in (5, 2, 9)))
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])
        >>> model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        >>> sorted(vlpipe.evaluate(model, "data/test"))
        ['accuracy', 'loss']
    """
    runner, plan = Runner(model), None
    _check_compiled(model)
    exact = is_exact(model)
    if hasattr(source_or_dataset, "element_spec"):
        if arguments:
            raise ArgumentError(f"evaluate: {', '.join(sorted(arguments))} came with a dataset, which is already made. Pass its source.")
        if getattr(source_or_dataset, "vlpipe_remainder", None) == "pad":
            _log.warning('evaluate: the dataset was made with remainder="pad"; its repeated rows of weight 0 are left out')
        dataset: Any = source_or_dataset
        batches, total = of_dataset(dataset), int(dataset.cardinality())
    else:
        if arguments.get("windows") is not None:
            raise ArgumentError(
                "windows: frames that several windows have would count several times in evaluate. Leave windows out, or use "
                "vlpipe.predict, vlpipe.stitch and a loss of the result."
            )
        options, plan = plan_of(source_or_dataset, dict(arguments), exact=exact)
        warn_of_padding(runner, arguments, options, plan, exact=exact)
        batches, total = of_plan(plan, options), plan.steps_per_epoch
    model.reset_metrics()
    losses, pairing = Losses(model), Pairing(runner, plan)
    count = 0
    with contextlib.closing(with_progress("evaluating", batches, total)) as shown:
        for batch in shown:
            answers = runner(batch)
            for (y, y_pred, weight), units in steps_of(pairing(answers, batch), batch, answers):
                count += units
                try:
                    losses.add(y, y_pred, weight)
                    model.compute_metrics(None, y, y_pred, weight)
                except RAW as error:
                    raise _mismatch(model.name, y, y_pred, error) from error
    if not count:
        raise ArgumentError(
            "evaluate: there is no record, or none has a frame; expected at least one. Pass another source or length_range."
        )
    _check_losses(model)
    metrics = {name: value for name, value in model.get_metrics_result().items() if name not in ("loss", *losses.names)}
    return {name: _plain(value) for name, value in {**losses.results(), **metrics}.items()}


def _plain(value: Any) -> Any:
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return array.item() if array.ndim == 0 else array


def _check_compiled(model: Any) -> None:
    if not model.compiled:
        raise ArgumentError(f'evaluate: model "{model.name}" is not compiled. Call model.compile(loss=..., metrics=...) first.')
    own = [name for name in _OWN if getattr(type(model), name) not in (getattr(keras.Model, name), getattr(Model, name))]
    if own:
        raise ArgumentError(
            f'evaluate: model "{model.name}" has its own {", ".join(own)}, which expects batches as they are padded. Use vlpipe.predict, '
            "and compute from its answers."
        )


def _mismatch(name: str, y: Any, y_pred: Any, error: Exception) -> ArgumentError:
    """The error for a loss or a metric that cannot compare labels with answers."""
    labels, answers = (", ".join(str(np.shape(part)) for part in keras.tree.flatten(parts)) for parts in (y, y_pred))
    return ArgumentError(
        f'evaluate: a loss or metric of model "{name}" cannot compare labels of the shape {labels} with answers of the shape {answers}: '
        f"{said(error)}. Pass the label that belongs to each output (label=...), or another loss."
    )


def _check_losses(model: Any) -> None:
    """Refuse losses that depend on the batches: Keras adds up those of the layers, padding included."""
    regularized = [variable for variable in model.trainable_variables if variable.regularizer is not None]
    active = [layer for layer in model._flatten_layers() if getattr(layer, "activity_regularizer", None) is not None]
    if active or len(model.losses) > len(regularized):  # on JAX, a model keeps no losses of its layers
        raise ArgumentError(
            f'evaluate: layers of model "{model.name}" add losses of their own (add_loss or activity_regularizer), over padded batches. '
            "Use vlpipe.predict, and compute the loss from its answers."
        )
