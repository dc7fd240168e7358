"""A flat batch from serialized records whose places the index knows, in the graph: for whatever reads records by TensorFlow's own ops."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.engines.apply_transforms import crop_range
from vlpipe.engines.grouping import Flat
from vlpipe.engines.labels import multi_hot_in_graph, padded_in_graph, unpacked
from vlpipe.engines.parse import Parser
from vlpipe.planning.plan import Plan
from vlpipe.storage.example import parse_batch
from vlpipe.storage.index import Index, Stored, column
from vlpipe.storage.schema import Fixed, Sequence, Text

_SAME_WIDTH = {"float16": "uint16"}  # decode_raw to a fixed length has no kernel for it


class BatchDecoder:
    """Makes flat batches of records.

    Args:
        rows: int64 `[n]`, rows of the index; a record is known here by its position among them.
        whole: sequences come ragged, whatever the options say, and labels that are sequences padded.
    """

    def __init__(self, index: Index, plan: Plan, rows: np.ndarray, *, whole: bool = False) -> None:
        self._index, self._plan, self._options = index, plan, plan.options
        self._ragged = whole or plan.options.batching == "ragged"
        self._boundary = plan.options.pad_to == "boundary" and not whole
        self._weighted = plan.options.remainder == "pad" and not whole
        table = index.rows[rows]
        self._rows, self._ids = tf.constant(rows), tf.constant(index.ids[rows])
        selection, schema = plan.selection, index.schema
        self._parser = Parser(index, plan)
        sequences = [name for name in (*selection.features, *selection.labels) if isinstance(schema.fields[name], Sequence)]
        indexed = [name for name in sequences if name not in self._parser.labels]
        self._frames = {name: tf.constant(table[column(schema, "frames", name)].astype(np.int64)) for name in indexed}
        self._starts = {name: tf.constant(table[column(schema, "start", name)].astype(np.int64)) for name in indexed}
        inline = [name for name in selection.labels if index.is_inline(name)]
        self._values = {name: tf.constant(table[f"value:{name}"].astype(np.dtype(schema.fields[name].dtype))) for name in inline}  # type: ignore[union-attr]
        self._boundaries = tf.constant(plan.boundaries or (0,), tf.int64)
        labels = [name for name in selection.labels if name not in self._parser.labels]
        placed = [name for name in labels if name in index.lists or (index.foreign and isinstance(schema.fields[name], Text))]
        self._placed = {name: [tf.constant(table[f"{what}:{name}"].astype(np.int64)) for what in ("start", "frames")] for name in placed}
        self._lists = {name: tf.constant(values) for name, values in index.lists.items() if name in placed}
        known = (*self._parser.labels, *inline, *placed, *sequences)
        self._parsed = [name for name in selection.labels if name not in known]

    def __call__(self, data: tf.Tensor, records: tf.Tensor, real: tf.Tensor, bucket: tf.Tensor, epoch: tf.Tensor) -> Flat:
        """The flat batch.

        Args:
            data: string `[B]`, the serialized records.
            records: int64 `[B]`, their positions.
            real: int64 scalar, how many of them count.
            bucket: int64 scalar.
            epoch: int64 scalar.
        """
        selection, schema = self._plan.selection, self._index.schema
        ids = tf.gather(self._ids, records)
        flat: Flat = {}
        if self._parser:
            frames = {name: tf.gather(self._frames[name], records) for name in self._parser.features}
            flat |= self._parser(data, tf.gather(self._rows, records), frames, ids, epoch)
        for name in selection.features:
            if name not in self._parser.features:
                flat |= self._feature(name, schema.sequences[name], data, records, bucket, epoch)
        parsed = parse_batch(schema, self._parsed, data) if self._parsed else {}
        for name in selection.labels:
            if name not in self._parser.labels:
                flat |= self._label(name, data, records, parsed)
        if self._options.ids or self._plan.has_transforms:
            flat["id"] = ids
        if self._weighted:
            flat["weight"] = tf.cast(tf.range(tf.size(records, tf.int64)) < real, tf.float32)
        return flat

    def _label(self, name: str, data: tf.Tensor, records: tf.Tensor, parsed: dict[str, tf.Tensor]) -> Flat:
        field = self._index.schema.fields[name]
        if name in self._placed:
            return self._foreign_label(name, data, records)
        if not isinstance(field, Sequence):
            return {f"y:{name}": parsed[name] if name in parsed else tf.gather(self._values[name], records)}
        frames = tf.gather(self._frames[name], records)
        dtype = tf.int64 if np.dtype(field.dtype).kind in "iu" else tf.as_dtype(field.dtype)
        payloads = self._payloads(name, field, data, records, frames)
        padding = self._options.label_padding
        values = _padded(payloads, field, self._index.stored(name), frames, tf.reduce_max(frames), dtype, padding)
        return {f"y:{name}": values, f"n:y:{name}": tf.cast(frames, tf.int32)}

    def _foreign_label(self, name: str, data: tf.Tensor, records: tf.Tensor) -> Flat:
        """A label that the index holds, or a text of which it knows the place."""
        starts, counts = (tf.gather(column, records) for column in self._placed[name])
        field = self._index.schema.fields[name]
        if name not in self._lists:
            return {f"y:{name}": tf.strings.substr(data, starts, counts)}
        if isinstance(field, Fixed):
            return {f"y:{name}": multi_hot_in_graph(self._lists[name], starts, counts, field.dimensions[0])}
        values = padded_in_graph(self._lists[name], starts, counts, self._options.label_padding)
        return {f"y:{name}": values, f"n:y:{name}": tf.cast(counts, tf.int32)}

    def _feature(self, name: str, field: Sequence, data: tf.Tensor, records: tf.Tensor, bucket: tf.Tensor, epoch: tf.Tensor) -> Flat:
        options = self._options
        key = name == self._plan.selection.key
        frames, first = tf.gather(self._frames[name], records), None
        if key:
            frames, first = crop_range(options, frames, tf.gather(self._ids, records), epoch)
        payloads = self._payloads(name, field, data, records, frames, first)
        lengths = {f"n:x:{name}": tf.cast(frames, tf.int32)}
        dtype, stored = tf.as_dtype(self._plan.reading_dtype(name)), self._index.stored(name)
        if self._ragged or self._plan.has_transforms:
            payload = tf.strings.reduce_join(payloads)
            if stored == Stored():
                values = tf.cast(tf.reshape(tf.io.decode_raw(payload, field.dtype), [-1, *field.dimensions]), dtype)
            else:
                raw = tf.reshape(tf.io.decode_raw(payload, tf.uint8), [-1, stored.gap + field.frame_bytes])
                values = _foreign_values(raw, field, stored, dtype)
            return {f"x:{name}": tf.RaggedTensor.from_row_lengths(values, frames, validate=False), **lengths}
        room = self._boundaries[bucket] if key and self._boundary else tf.reduce_max(frames)
        return {f"x:{name}": _padded(payloads, field, stored, frames, room, dtype, options.padding_value), **lengths}

    def _payloads(
        self, name: str, field: Sequence, data: tf.Tensor, records: tf.Tensor, frames: tf.Tensor, first: tf.Tensor | None = None
    ) -> tf.Tensor:
        """string `[B]`: the bytes of so many frames of each record, from the first on, and what stands before each frame."""
        gap = self._index.stored(name).gap
        starts = tf.gather(self._starts[name], records)
        if first is not None:
            starts += first * (gap + field.frame_bytes)
        if gap:  # a record without frames begins nowhere
            starts = tf.maximum(starts - gap, 0)
        return tf.strings.substr(data, starts, frames * (gap + field.frame_bytes))


def _foreign_values(raw: tf.Tensor, field: Sequence, stored: Stored, dtype: tf.DType) -> tf.Tensor:
    """The frames `[..., *field.dimensions]` as delivered, of their bytes, uint8 `[..., gap + bytes of a frame]`."""
    values = unpacked(raw, field.dtype, stored.byteorder, stored.gap)
    values = tf.reshape(values, tf.concat([tf.shape(raw)[:-1], field.dimensions], 0)) if len(field.dimensions) != 1 else values
    table = stored.table(dtype.as_numpy_dtype)
    return tf.cast(values, dtype) if table is None else tf.gather(tf.constant(table), tf.cast(values, tf.int32))


def _padded(
    payloads: tf.Tensor, field: Sequence, stored: Stored, frames: tf.Tensor, room: tf.Tensor, dtype: tf.DType, padding: float
) -> tf.Tensor:
    """The frames whose bytes these are, `[B, room, ...]`."""
    # It pads with zeros, and knows no rows without a byte.
    size = tf.cast(tf.maximum(room, 1) * (stored.gap + field.frame_bytes), tf.int32)
    if stored == Stored():
        values = tf.io.decode_raw(payloads, _SAME_WIDTH.get(field.dtype, field.dtype), fixed_length=size)
        values = tf.reshape(values, [tf.size(payloads), -1, *field.dimensions])[:, :room]
        values = tf.cast(tf.bitcast(values, field.dtype), dtype)
    else:
        raw = tf.io.decode_raw(payloads, tf.uint8, fixed_length=size)
        raw = tf.reshape(raw, [tf.size(payloads), -1, stored.gap + field.frame_bytes])[:, :room]
        values = _foreign_values(raw, field, stored, dtype)
    if padding != 0 or np.signbit(padding) or stored.scale is not None:
        inside = tf.sequence_mask(frames, room)[(...,) + (None,) * len(field.dimensions)]
        values = tf.where(inside, values, tf.cast(tf.constant(padding, tf.float64 if isinstance(padding, float) else tf.int64), dtype))
    return tf.ensure_shape(values, [None, None, *field.dimensions])
