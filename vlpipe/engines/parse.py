"""Values that are stored in another form than they are delivered in, parsed in the graph: a whole batch in one call.

Integers are varints in Int64Lists, floats may not be packed, audio is encoded, and a user's function may do anything. The results are
compared with the index, which the plan was made from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.grouping import Flat, padding_tensor
from vlpipe.engines.labels import list_dtype
from vlpipe.engines.parsed_fields import ParsedFields
from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.errors import AudioError, DatasetError
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.protobuf.wire import walk
from vlpipe.sources.foreign.decode import samples_of
from vlpipe.sources.foreign.integer_lists import in_records
from vlpipe.storage.example import require
from vlpipe.storage.schema import Fixed, Sequence, Text

_PARSED = {"integers": tf.int64, "floats": tf.float32}


class Parser(ParsedFields):
    """Parses these fields of a batch, in the graph."""

    def __call__(
        self, data: tf.Tensor, rows: tf.Tensor, frames: dict[str, tf.Tensor], pieces: PieceFrames, bucket: tf.Tensor | None
    ) -> Flat:
        """The parts of a flat batch; features and aligned labels are ragged, truncated and cropped.

        Args:
            data: string `[B]`, the serialized records.
            rows: int64 `[B]`, their rows in the index.
            frames: int64 `[B]` by the names in `lengths`, the frames that the index has.
            pieces: which frames are kept of the key feature, and of all that is aligned with it.
            bucket: int64 scalar; None where labels are padded to their longest.

        Raises:
            tf.errors.InvalidArgumentError: while iterating, a record does not agree with the index; the text names it.
        """
        flat: Flat = {}
        custom = self._custom(data) if self._is_custom else {}
        for part in self._parts:
            name = part.name
            sequences = custom[name] if name in custom else self._parsed(name, data, rows)
            sequences = self._checked(name, sequences, frames[name], rows)
            if part.with_key and not self._plan.frame_plan.frame_range.is_all:
                sequences = _cut(sequences, pieces)
            values = tf.cast(sequences.values, self._plan.frame_plan.reading_dtype(name))
            values = tf.ensure_shape(values, [None, *self._index.schema.sequences[name].dimensions])
            flat[part.flat] = sequences.with_values(values)
            flat[f"n:{part.flat}"] = tf.cast(sequences.row_lengths(), tf.int32)
        for name in self.labels:
            flat |= self._label(name, custom[name] if name in custom else self._parsed(name, data, rows), bucket)
        return flat

    def _parsed(self, name: str, data: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
        field, parsed = self._index.schema.sequences[name], self._index.stored(name).parsed
        if parsed == "audio":
            return self._decoded(name, data, rows)
        if parsed == "integer_frames":
            return self._integer_steps(name, field, data)
        feature = tf.io.RaggedFeature(_PARSED[parsed], row_splits_dtype=tf.int64)
        flat = tf.io.parse_example(data, {name: feature})[name]
        per_frame = int(np.prod(field.dimensions, dtype=np.int64))
        if parsed == "integers":
            flat = self._in_range(name, field.dtype, flat, rows)
        return tf.RaggedTensor.from_row_splits(
            tf.reshape(flat.values, [-1, *field.dimensions]), flat.row_splits // per_frame, validate=False
        )

    def _in_range(self, name: str, dtype: str, flat: tf.RaggedTensor, rows: tf.Tensor) -> tf.RaggedTensor:
        """The values in the dtype of the schema, which must be able to hold them."""
        limits = np.iinfo(dtype)
        good = (flat.values >= int(limits.min)) & (flat.values <= int(limits.max))

        def message() -> tf.Tensor:
            wrong = tf.argmin(tf.cast(good, tf.int32))
            value = tf.strings.as_string(flat.values[wrong])
            what = [f': "{name}" holds ', value, f", which is outside the range of {dtype}. Pass a layout with another dtype."]
            return tf.strings.join([self._where(rows[flat.value_rowids()[wrong]]), *what])

        with tf.control_dependencies([require(tf.reduce_all(good), message)]):
            return flat.with_values(tf.cast(flat.values, dtype))

    def _decoded(self, name: str, data: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
        (width,), channels = self._index.schema.sequences[name].dimensions, self._index.stored(name).channels

        def decode(self: Parser, data: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            sequences = [np.zeros((0, width), np.float32)]
            for record, row in zip(data.tolist(), rows.tolist(), strict=True):
                begin, end = walk(record).features[name].ranges[0]
                try:
                    sequences.append(samples_of(record[begin:end], f'"{name}"', channels))
                except AudioError as error:
                    raise DatasetError(f"{self._index.where(row)}: {error}") from error
            return np.concatenate(sequences), np.array([len(samples) for samples in sequences[1:]], np.int64)

        values, lengths = tf.numpy_function(wait_at_exit(decode, self), [data, rows], [tf.float32, tf.int64], stateful=False)
        values.set_shape([None, width])
        lengths.set_shape(data.shape)
        return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)

    def _integer_steps(self, name: str, field: Sequence, data: tf.Tensor) -> tf.RaggedTensor:
        """A feature list of integers."""

        def decode(_: Parser, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            lists = in_records(data.tolist(), name)
            return lists.values, lists.steps

        values, steps = tf.numpy_function(wait_at_exit(decode, self), [data], [tf.int64, tf.int64], stateful=False)
        values.set_shape([None])
        steps.set_shape(data.shape)
        return tf.RaggedTensor.from_row_lengths(tf.reshape(values, [-1, *field.dimensions]), steps, validate=False)

    def _custom(self, data: tf.Tensor) -> dict[str, Any]:
        """Every field, as the user's function returns it for each record."""
        schema, parse = self._index.schema, self._index.foreign and self._index.foreign.parse
        specs = {name: _spec(field) for name, field in schema.fields.items()}
        fields: dict[str, Any] = tf.map_fn(parse, data, fn_output_signature=specs)
        return fields

    def _checked(self, name: str, sequences: tf.RaggedTensor, expected: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
        lengths = sequences.row_lengths()
        same = lengths == expected

        def message() -> tf.Tensor:
            wrong = tf.argmin(tf.cast(same, tf.int32))
            numbers = tf.strings.as_string(lengths[wrong]), tf.strings.as_string(expected[wrong])
            source = self.lengths[name].name
            says = "the index says " if source == name else f'"{source}", with which it is aligned, has '
            advice = "Fix the layout's functions, then change its `name` so that the files are re-indexed."
            return tf.strings.join(
                [self._where(rows[wrong]), f': "{name}" has ', numbers[0], f" frames, {says}", numbers[1], f". {advice}"]
            )

        with tf.control_dependencies([require(tf.reduce_all(same), message)]):
            return sequences.with_values(tf.identity(sequences.values))

    def _where(self, row: tf.Tensor) -> tf.Tensor:
        """Names a record as `Index.where` does; runs only for an error."""

        def where(self: Parser, row: np.ndarray) -> bytes:
            return self._index.where(int(row)).encode()

        return tf.numpy_function(wait_at_exit(where, self), [row], tf.string, stateful=False)

    def _label(self, name: str, value: Any, bucket: tf.Tensor | None) -> Flat:
        if not isinstance(value, tf.RaggedTensor):
            return {f"y:{name}": value}
        values = value.with_values(tf.cast(value.values, list_dtype(self._index.schema.sequences[name])))
        padding = padding_tensor(self._plan.selection.paddings.of(f"y:{name}"), values.dtype)
        lengths = values.row_lengths()
        upper = tf.reduce_max(lengths)
        if bucket is not None:
            upper = tf.maximum(upper, tf.constant(self._plan.least_by_part[f"y:{name}"])[bucket])
        shape = tf.stack([values.nrows(), upper, *(tf.constant(n, tf.int64) for n in values.values.shape[1:])])
        return {f"y:{name}": values.to_tensor(padding, shape=shape), f"n:y:{name}": tf.cast(lengths, tf.int32)}


def _spec(field: Sequence | Fixed | Text) -> Any:
    if isinstance(field, Text):
        return tf.TensorSpec([], tf.string)
    if isinstance(field, Fixed):
        return tf.TensorSpec(field.dimensions, field.dtype)
    return tf.RaggedTensorSpec([None, *field.dimensions], field.dtype, ragged_rank=0)


def _cut(sequences: tf.RaggedTensor, pieces: PieceFrames) -> tf.RaggedTensor:
    """The frames that are kept."""
    begins = sequences.row_starts() if pieces.firsts is None else sequences.row_starts() + pieces.firsts
    values = tf.gather(sequences.values, tf.ragged.range(begins, begins + pieces.counts).values)
    return tf.RaggedTensor.from_row_lengths(values, pieces.counts, validate=False)
