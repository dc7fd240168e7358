"""The mapped engine: a batch is copied from memory-mapped shards straight to where TensorFlow will read it.

One Python call makes a batch (`engines/batch_reader.py`), and TensorFlow takes its arrays over without another copy. It parses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.apply_transforms import transform_batch
from vlpipe.engines.augment import Augmenter
from vlpipe.engines.batch_reader import AHEAD, BatchReader
from vlpipe.engines.epochs import Epochs
from vlpipe.engines.grouping import Flat
from vlpipe.engines.light_function import light_map
from vlpipe.engines.parse import Parser
from vlpipe.engines.python_calls import keep_alive, wait_at_exit
from vlpipe.planning.damage import Skipped
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.plan import Plan
from vlpipe.storage.example import parse_batch


def batches(plan: Plan, epochs: Epochs, deliver: Callable[[Flat], Any], skipped: Skipped | None = None) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: those to deliver.
        deliver: turns a flat batch into the user's element.
        skipped: counts the damaged records, which are left out; None: the first one is an error.
    """
    reader = _BatchReader(plan, skipped)
    # One number for epoch and batch: each further function that tf.data calls for a batch takes longer than copying 100 short records.
    make = tf.autograph.experimental.do_not_convert(lambda number: deliver(reader.in_graph(number)))
    numbers, parallelism = epochs.steps(plan.steps_per_epoch), _parallelism(plan)
    if reader.is_copy:
        delivered = light_map(numbers, make, parallelism)
    else:
        delivered = numbers.map(make, num_parallel_calls=parallelism, deterministic=True)
    keep_alive(reader, delivered, _BatchReader.release)
    return delivered


def _parallelism(plan: Plan) -> int:
    return plan.options.num_parallel_calls or AHEAD


class _BatchReader(BatchReader):
    """Reads the batch with a given number as tensors, too.

    Attributes:
        is_copy: the arrays are the tensors; nothing is computed in the graph.
    """

    def __init__(self, plan: Plan, skipped: Skipped | None = None) -> None:
        super().__init__(plan, skipped, ahead=_parallelism(plan))
        self._parser, self._augmenter = Parser(plan), Augmenter(plan)
        self.is_copy = not (self._parser or self.example_labels or plan.frame_plan.has_transforms or plan.options.batching == "ragged")

    def in_graph(self, number: tf.Tensor) -> Flat:
        """The flat batch with a number, as tensors."""
        # Stateless: the same number always gives the same batch.
        tensors = tf.numpy_function(
            wait_at_exit(_BatchReader.__call__, self), [number], [_tensor_dtype(part.dtype) for part in self.parts], stateful=False
        )
        batch = {}
        for part, tensor in zip(self.parts, tensors, strict=True):
            tensor.set_shape(part.shape)
            batch[part.name] = tensor
        data = batch.pop("records", None)
        if self.example_labels:
            values = parse_batch(self._index.schema, self.example_labels, data)
            batch |= {f"y:{name}": value for name, value in values.items()}
        if self._parser:
            frames = {name: batch.pop(f"frames:{name}") for name in self._parser.lengths}
            pieces = PieceFrames(batch.pop("firsts", None), batch.pop("counts"))
            batch |= self._parser(data, batch.pop("rows"), frames, pieces, batch.get("bucket"))
        for name in [name for name in batch if name.startswith("splits:")]:
            values = batch[name.removeprefix("splits:")]
            batch[name.removeprefix("splits:")] = tf.RaggedTensor.from_row_splits(values, batch.pop(name), validate=False)
        if self._plan.frame_plan.has_transforms:
            return transform_batch(self._plan, {**batch, "epoch": number // self._plan.steps_per_epoch}, self._augmenter)
        batch.pop("bucket", None)
        return batch


def _tensor_dtype(dtype: np.dtype) -> tf.DType:
    """The dtype of a tensor on an array; arrays of objects hold texts and records, as bytes."""
    return tf.string if dtype.kind == "O" else tf.as_dtype(dtype)
