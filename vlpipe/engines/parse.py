"""What does not stand in its record as it is delivered, parsed in the graph: a whole batch in one call.

Integers are varints in an Int64List, floats may not be packed, audio is encoded, and a function of the user's own may do anything.
What comes out is held against the index, by which the plan was made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.apply_transforms import crop_range
from vlpipe.engines.grouping import Flat
from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.errors import AudioError, DatasetError
from vlpipe.planning.plan import Plan
from vlpipe.protobuf.wire import walk
from vlpipe.sources.foreign.decode import samples_of
from vlpipe.storage.example import require
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Fixed, Sequence, Text

_PARSED = {"integers": tf.int64, "floats": tf.float32}


class Parser:
    """Parses the features and labels of a batch that an index says have to be parsed.

    Attributes:
        features: those of the selection.
        labels: those of the selection.
    """

    def __init__(self, index: Index, plan: Plan) -> None:
        self._index, self._plan = index, plan
        self.features = [name for name in plan.selection.features if index.stored(name).parsed]
        self.labels = [
            name for name in plan.selection.labels if index.is_given(name) or (index.stored(name).parsed and name not in index.lists)
        ]

    def __bool__(self) -> bool:
        return bool(self.features or self.labels)

    def __call__(self, data: tf.Tensor, rows: tf.Tensor, frames: dict[str, tf.Tensor], ids: tf.Tensor, epoch: tf.Tensor) -> Flat:
        """The parts of a flat batch, features ragged, truncated and cropped.

        Args:
            data: string `[B]`, the serialized records.
            rows: int64 `[B]`, their rows in the index.
            frames: int64 `[B]` by feature, how many frames each has.
            ids: int64 `[B]`.
            epoch: int64 scalar.

        Raises:
            tf.errors.InvalidArgumentError: while iterating, a record is not what the index says of it; the text names it.
        """
        flat: Flat = {}
        given = self._given(data) if any(self._index.is_given(name) for name in (*self.features, *self.labels)) else {}
        for name in self.features:
            sequences = given[name] if name in given else self._parsed(name, data, rows)
            sequences = self._checked(name, sequences, frames[name], rows)
            if name == self._plan.selection.key:
                sequences = _cut(self._plan, sequences, ids, epoch)
            values = tf.cast(sequences.values, self._plan.reading_dtype(name))
            values = tf.ensure_shape(values, [None, *self._index.schema.sequences[name].dimensions])
            flat[f"x:{name}"] = sequences.with_values(values)
            flat[f"n:x:{name}"] = tf.cast(sequences.row_lengths(), tf.int32)
        for name in self.labels:
            flat |= self._label(name, given[name] if name in given else self._parsed(name, data, rows))
        return flat

    def _parsed(self, name: str, data: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
        field, parsed = self._index.schema.sequences[name], self._index.stored(name).parsed
        if parsed == "audio":
            return self._decoded(name, data, rows)
        feature = tf.io.RaggedFeature(_PARSED[parsed], row_splits_dtype=tf.int64)
        flat = tf.io.parse_example(data, {name: feature})[name]
        per_frame = int(np.prod(field.dimensions, dtype=np.int64))
        if parsed == "integers":
            flat = self._in_range(name, field.dtype, flat, rows)
        return tf.RaggedTensor.from_row_splits(
            tf.reshape(flat.values, [-1, *field.dimensions]), flat.row_splits // per_frame, validate=False
        )

    def _in_range(self, name: str, dtype: str, flat: tf.RaggedTensor, rows: tf.Tensor) -> tf.RaggedTensor:
        """The values as the dtype that they have in the schema, which has to hold them."""
        limits = np.iinfo(dtype)
        good = (flat.values >= int(limits.min)) & (flat.values <= int(limits.max))

        def message() -> tf.Tensor:
            wrong = tf.argmin(tf.cast(good, tf.int32))
            value = tf.strings.as_string(flat.values[wrong])
            what = [f': "{name}" holds ', value, f", which {dtype} cannot. Pass a layout with another dtype."]
            return tf.strings.join([self._where(rows[flat.value_rowids()[wrong]]), *what])

        with tf.control_dependencies([require(tf.reduce_all(good), message)]):
            return flat.with_values(tf.cast(flat.values, dtype))

    def _decoded(self, name: str, data: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
        index = self._index

        def decode(data: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = [np.zeros((0, 1), np.float32)]
            for record, row in zip(data.tolist(), rows.tolist(), strict=True):
                begin, end = walk(record).features[name].ranges[0]
                try:
                    found.append(samples_of(record[begin:end], f'"{name}"'))
                except AudioError as error:
                    raise DatasetError(f"{index.where(row)}: {error}") from error
            return np.concatenate(found), np.array([len(samples) for samples in found[1:]], np.int64)

        values, lengths = tf.numpy_function(wait_at_exit(decode), [data, rows], [tf.float32, tf.int64], stateful=False)
        values.set_shape([None, 1])
        lengths.set_shape(data.shape)
        return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)

    def _given(self, data: tf.Tensor) -> dict[str, Any]:
        """Every field, as the user's function gives it of each record."""
        schema, parse = self._index.schema, self._index.foreign and self._index.foreign.parse
        specs = {name: _spec(field) for name, field in schema.fields.items()}
        found: dict[str, Any] = tf.map_fn(parse, data, fn_output_signature=specs)
        return found

    def _checked(self, name: str, sequences: tf.RaggedTensor, expected: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
        found = sequences.row_lengths()
        same = found == expected

        def message() -> tf.Tensor:
            wrong = tf.argmin(tf.cast(same, tf.int32))
            numbers = tf.strings.as_string(found[wrong]), tf.strings.as_string(expected[wrong])
            what = [f': "{name}" has ', numbers[0], " frames, the index says ", numbers[1]]
            return tf.strings.join(
                [self._where(rows[wrong]), *what, ". Mend the layout's functions. Give the layout another name, that it is indexed again."]
            )

        with tf.control_dependencies([require(tf.reduce_all(same), message)]):
            return sequences.with_values(tf.identity(sequences.values))

    def _where(self, row: tf.Tensor) -> tf.Tensor:
        """Names a record as `Index.where` does; asked for only when there is something to say."""
        return tf.numpy_function(wait_at_exit(lambda row: self._index.where(int(row)).encode()), [row], tf.string, stateful=False)

    def _label(self, name: str, value: Any) -> Flat:
        if not isinstance(value, tf.RaggedTensor):
            return {f"y:{name}": value}
        values = value.with_values(tf.cast(value.values, tf.int64)) if value.dtype.is_integer else value
        padding = tf.cast(self._plan.options.label_padding, values.dtype)
        return {f"y:{name}": values.to_tensor(padding), f"n:y:{name}": tf.cast(values.row_lengths(), tf.int32)}


def _spec(field: Sequence | Fixed | Text) -> Any:
    if isinstance(field, Text):
        return tf.TensorSpec([], tf.string)
    if isinstance(field, Fixed):
        return tf.TensorSpec(field.dimensions, field.dtype)
    return tf.RaggedTensorSpec([None, *field.dimensions], field.dtype, ragged_rank=0)


def _cut(plan: Plan, sequences: tf.RaggedTensor, ids: tf.Tensor, epoch: tf.Tensor) -> tf.RaggedTensor:
    """What is kept of each sequence of the key feature: truncated, then cropped."""
    if plan.options.truncation is None and plan.options.crop is None:
        return sequences
    counts, firsts = crop_range(plan.options, sequences.row_lengths(), ids, epoch)
    begins = sequences.row_starts() if firsts is None else sequences.row_starts() + firsts
    values = tf.gather(sequences.values, tf.ragged.range(begins, begins + counts).values)
    return tf.RaggedTensor.from_row_lengths(values, counts, validate=False)
