"""From serialized records to a flat batch, in the graph: for the engines that read records by TensorFlow's own ops."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.engines.graph_pieces import PieceBatch
from vlpipe.engines.grouping import Flat, padding_tensor
from vlpipe.engines.labels import list_dtype, multi_hot_in_graph, padded_in_graph, unpacked
from vlpipe.engines.parse import Parser
from vlpipe.planning.plan import Plan
from vlpipe.storage.example import parse_batch
from vlpipe.storage.field_access import FieldAccess, Location
from vlpipe.storage.schema import Fixed, Sequence
from vlpipe.storage.stored_frames import Stored

_SAME_WIDTH = {"float16": "uint16"}  # decode_raw with a fixed length has no kernel for float16


class BatchDecoder:
    """Makes flat batches of serialized records whose fields the index locates.

    Args:
        rows: int64 `[n]`, rows of the index; pieces name records by their positions among them.
        whole: deliver ragged features and padded labels whatever the options are, for an engine that pads later.
    """

    def __init__(self, plan: Plan, rows: np.ndarray, *, whole: bool = False) -> None:
        self._plan, self._options, index = plan, plan.options, plan.index
        self._schema = index.schema
        self._ragged = whole or plan.options.batching == "ragged"
        self._boundary = plan.options.pad_to == "boundary" and not whole
        self._weighted = plan.options.remainder == "pad" and not whole
        self._rows = tf.constant(rows)
        self._boundaries = tf.constant(plan.boundaries or (0,), tf.int64)
        self._parser = Parser(plan)
        table = index.rows[rows]
        self._features = {name: _Columns(index.access(name, as_feature=True), table) for name in plan.selection.features}
        self._labels = {name: _Columns(index.access(name), table) for name in plan.selection.labels}
        self._example_labels = [name for name, label in self._labels.items() if label.access.location is Location.EXAMPLE]

    def __call__(self, data: tf.Tensor, pieces: PieceBatch, real: tf.Tensor, bucket: tf.Tensor) -> Flat:
        """The flat batch of some pieces.

        Args:
            data: string `[B]`, their serialized records.
            real: int64 scalar, how many of them have weight 1.
            bucket: int64 scalar.
        """
        records = pieces.records
        flat: Flat = {}
        if self._parser:
            frames = {name: tf.gather(self._features[name].counts, records) for name in self._parser.features}
            cut = None if self._plan.frame_plan.frame_range.is_all else pieces.frames
            flat |= self._parser(data, tf.gather(self._rows, records), frames, cut)
        for name, feature in self._features.items():
            if name not in self._parser.features:
                flat |= self._feature(feature, data, pieces, bucket)
        values = parse_batch(self._schema, self._example_labels, data) if self._example_labels else {}
        flat |= {f"y:{name}": value for name, value in values.items()}
        for label in self._labels.values():
            flat |= self._label(label, data, records)
        if self._options.ids or self._plan.has_transforms:
            flat["id"] = pieces.ids
        if self._options.augment is not None:
            flat["number"] = pieces.numbers
        if self._weighted:
            flat["weight"] = tf.cast(tf.range(tf.size(records, tf.int64)) < real, tf.float32)
        return flat

    def _label(self, label: _Columns, data: tf.Tensor, records: tf.Tensor) -> Flat:
        """A label that is located by the index; nothing where it is parsed."""
        name, location = f"y:{label.access.name}", label.access.location
        if location is Location.ROW:
            return {name: tf.gather(label.values, records)}
        if location not in (Location.TEXT, Location.LIST, Location.FRAMES):
            return {}
        starts, counts = tf.gather(label.starts, records), tf.gather(label.counts, records)
        if location is Location.TEXT:
            return {name: tf.strings.substr(data, starts, counts)}
        field, padding = label.access.field, self._plan.selection.paddings.number(name)
        if isinstance(field, Fixed):
            return {name: multi_hot_in_graph(label.values, starts, counts, field.dimensions[0])}
        if location is Location.LIST:
            values = padded_in_graph(label.values, starts, counts, padding)
        else:
            payloads = _payloads(label, data, records, counts)
            values = _padded(payloads, label.access, counts, tf.reduce_max(counts), list_dtype(label.access.sequence), padding)
        return {name: values, f"n:{name}": tf.cast(counts, tf.int32)}

    def _feature(self, feature: _Columns, data: tf.Tensor, pieces: PieceBatch, bucket: tf.Tensor) -> Flat:
        access = feature.access
        name, field, stored = access.name, access.sequence, access.stored
        is_key = name == self._plan.selection.key
        first, frames = pieces.frames if is_key else (None, tf.gather(feature.counts, pieces.records))
        payloads = _payloads(feature, data, pieces.records, frames, first)
        lengths = {f"n:x:{name}": tf.cast(frames, tf.int32)}
        dtype = tf.as_dtype(self._plan.reading_dtype(name))
        if self._ragged or self._plan.has_transforms:
            payload = tf.strings.reduce_join(payloads)
            if stored == Stored():
                values = tf.cast(tf.reshape(tf.io.decode_raw(payload, field.dtype), [-1, *field.dimensions]), dtype)
            else:
                raw = tf.reshape(tf.io.decode_raw(payload, tf.uint8), [-1, stored.stride(field)])
                values = _third_party_values(raw, field, stored, dtype)
            return {f"x:{name}": tf.RaggedTensor.from_row_lengths(values, frames, validate=False), **lengths}
        upper = self._boundaries[bucket] if is_key and self._boundary else tf.reduce_max(frames)
        padding = self._plan.selection.paddings.number(f"x:{name}")
        return {f"x:{name}": _padded(payloads, access, frames, upper, dtype, padding), **lengths}


class _Columns:
    """What the index has of one field, for some rows, as tensors.

    Attributes:
        counts: int64 `[n]`, frames, list values or text bytes.
        starts: int64 `[n]`, where they start.
        values: those of a ROW `[n, ...]`, or of a LIST.
    """

    def __init__(self, access: FieldAccess, rows: np.ndarray) -> None:
        self.access = access
        self.counts = tf.constant(access.counts(rows)) if access.is_counted else None
        self.starts = tf.constant(access.starts(rows)) if access.is_counted else None
        self.values = tf.constant(access.row_values(rows) if access.location is Location.ROW else access.values)


def _payloads(columns: _Columns, data: tf.Tensor, records: tf.Tensor, frames: tf.Tensor, first: tf.Tensor | None = None) -> tf.Tensor:
    """string `[B]`: the stored bytes of `frames` frames of each record, from frame `first` on, each with the gap before it."""
    stored, stride = columns.access.stored, columns.access.stored.stride(columns.access.sequence)
    starts = tf.gather(columns.starts, records)
    if first is not None:
        starts += first * stride
    if stored.gap:  # a record without frames starts nowhere
        starts = tf.maximum(starts - stored.gap, 0)
    return tf.strings.substr(data, starts, frames * stride)


def _third_party_values(raw: tf.Tensor, field: Sequence, stored: Stored, dtype: tf.DType) -> tf.Tensor:
    """Delivered frames `[..., *field.dimensions]`, from their stored bytes, uint8 `[..., gap + bytes of a frame]`."""
    values = unpacked(raw, field.dtype, stored.byteorder, stored.gap)
    values = tf.reshape(values, tf.concat([tf.shape(raw)[:-1], field.dimensions], 0)) if len(field.dimensions) != 1 else values
    table = stored.table(dtype.as_numpy_dtype)
    return tf.cast(values, dtype) if table is None else tf.gather(tf.constant(table), tf.cast(values, tf.int32))


def _padded(payloads: tf.Tensor, access: FieldAccess, frames: tf.Tensor, upper: tf.Tensor, dtype: tf.DType, padding: float) -> tf.Tensor:
    """The frames in these bytes, padded to `[B, upper, ...]`."""
    field, stored = access.sequence, access.stored
    # decode_raw pads with zeros, and does not accept a fixed length of 0.
    size = tf.cast(tf.maximum(upper, 1) * stored.stride(field), tf.int32)
    if stored == Stored():
        values = tf.io.decode_raw(payloads, _SAME_WIDTH.get(field.dtype, field.dtype), fixed_length=size)
        values = tf.reshape(values, [tf.size(payloads), -1, *field.dimensions])[:, :upper]
        values = tf.cast(tf.bitcast(values, field.dtype), dtype)
    else:
        raw = tf.io.decode_raw(payloads, tf.uint8, fixed_length=size)
        raw = tf.reshape(raw, [tf.size(payloads), -1, stored.stride(field)])[:, :upper]
        values = _third_party_values(raw, field, stored, dtype)
    if padding != 0 or np.signbit(padding) or stored.scale is not None:
        inside = tf.sequence_mask(frames, upper)[(...,) + (None,) * len(field.dimensions)]
        values = tf.where(inside, values, padding_tensor(padding, dtype))
    return tf.ensure_shape(values, [None, None, *field.dimensions])
