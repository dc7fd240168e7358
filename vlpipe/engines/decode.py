"""From serialized records to a flat batch, in the graph: for the engines that read records by TensorFlow's own ops."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.engines.graph_pieces import PieceBatch
from vlpipe.engines.grouping import Flat, padding_tensor
from vlpipe.engines.labels import multi_hot_in_graph, padded_in_graph, unpacked
from vlpipe.engines.parse import Parser
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.plan import Plan
from vlpipe.planning.selection import FramePart
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
        self._weighted = plan.options.remainder == "pad" and not whole
        self._rows = tf.constant(rows)
        least = {} if whole else plan.least_by_part
        self._least = {name: tf.constant(frames) for name, frames in least.items() if frames.any()}
        self._parser = Parser(plan)
        table = index.rows[rows]
        self._parsed_lengths = {name: tf.constant(access.counts(table)) for name, access in self._parser.lengths.items()}
        features, labels = plan.selection.features, plan.selection.labels
        self._columns = {name: _Columns(index.access(name, as_feature=name in features), table) for name in (*features, *labels)}
        self._example_labels = [name for name in labels if self._columns[name].access.location is Location.EXAMPLE]

    def __call__(self, data: tf.Tensor, batch: PieceBatch, real: tf.Tensor, bucket: tf.Tensor) -> Flat:
        """The flat batch of some pieces.

        Args:
            data: string `[B]`, their serialized records.
            real: int64 scalar, how many of them have weight 1.
            bucket: int64 scalar.
        """
        records, pieces = batch.records, batch.frames
        flat: Flat = {}
        if self._parser:
            frames = {name: tf.gather(lengths, records) for name, lengths in self._parsed_lengths.items()}
            flat |= self._parser(data, tf.gather(self._rows, records), frames, pieces, bucket if self._least else None)
        values = parse_batch(self._schema, self._example_labels, data) if self._example_labels else {}
        flat |= {f"y:{name}": value for name, value in values.items()}
        for name, columns in self._columns.items():
            if not isinstance(columns.access.field, Sequence):
                flat |= self._label(columns, data, records)
            elif not columns.access.is_parsed:
                flat |= self._sequence(self._plan.selection.part(name), columns, data, records, pieces, bucket)
        if self._options.needs_ids or self._plan.frame_plan.has_transforms:
            flat["id"] = batch.ids
        if self._options.ids and self._options.windows is not None:
            flat["start"] = pieces.firsts
        if self._options.augment is not None:
            flat["number"] = batch.numbers
        if self._options.speed is not None and batch.copies is not None:
            flat["speed"] = batch.copies % self._options.speeds
        if self._weighted:
            flat["weight"] = tf.cast(tf.range(tf.size(records, tf.int64)) < real, tf.float32)
        return flat

    def _label(self, label: _Columns, data: tf.Tensor, records: tf.Tensor) -> Flat:
        """A label that is no sequence and that the index locates; nothing where it is parsed."""
        name, location = f"y:{label.access.name}", label.access.location
        if location is Location.ROW:
            return {name: tf.gather(label.values, records)}
        if location not in (Location.TEXT, Location.LIST):
            return {}
        starts, counts = tf.gather(label.starts, records), tf.gather(label.counts, records)
        if isinstance(label.access.field, Fixed):
            return {name: multi_hot_in_graph(label.values, starts, counts, label.access.field.dimensions[0])}
        return {name: tf.strings.substr(data, starts, counts)}

    def _sequence(
        self, part: FramePart, columns: _Columns, data: tf.Tensor, records: tf.Tensor, pieces: PieceFrames, bucket: tf.Tensor
    ) -> Flat:
        """A feature, or a label of varying length."""
        first, frames = pieces if part.with_key else (None, tf.gather(columns.counts, records))
        lengths = {f"n:{part.flat}": tf.cast(frames, tf.int32)}
        dtype = tf.as_dtype(self._plan.frame_plan.reading_dtype(part.name))
        if part in self._plan.selection.frame_parts and (self._ragged or self._plan.frame_plan.has_transforms):
            values = _flat(columns, data, records, frames, first, dtype)
            return {part.flat: tf.RaggedTensor.from_row_lengths(values, frames, validate=False), **lengths}
        upper = tf.reduce_max(frames)
        if part.flat in self._least:
            upper = tf.maximum(upper, self._least[part.flat][bucket])
        padding = self._plan.selection.paddings.number(part.flat)
        if columns.access.location is Location.LIST:
            values = padded_in_graph(columns.values, _starts(columns, records, first), frames, padding, upper)
        else:
            values = _padded(_payloads(columns, data, records, frames, first), columns.access, frames, upper, dtype, padding)
        return {part.flat: values, **lengths}


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


def _starts(columns: _Columns, records: tf.Tensor, first: tf.Tensor | None, stride: int = 1) -> tf.Tensor:
    """int64 `[B]`: where frame `first` of each record starts; None: frame 0."""
    starts = tf.gather(columns.starts, records)
    return starts if first is None else starts + first * stride


def _payloads(columns: _Columns, data: tf.Tensor, records: tf.Tensor, frames: tf.Tensor, first: tf.Tensor | None) -> tf.Tensor:
    """string `[B]`: the stored bytes of `frames` frames of each record, from frame `first` on, each with the gap before it."""
    stored, stride = columns.access.stored, columns.access.stored.stride(columns.access.sequence)
    starts = _starts(columns, records, first, stride)
    if stored.gap:  # a record without frames starts nowhere
        starts = tf.maximum(starts - stored.gap, 0)
    return tf.strings.substr(data, starts, frames * stride)


def _flat(columns: _Columns, data: tf.Tensor, records: tf.Tensor, frames: tf.Tensor, first: tf.Tensor | None, dtype: tf.DType) -> tf.Tensor:
    """`[frames of the batch, ...]`: `frames` frames of each record, from frame `first` on."""
    access = columns.access
    if access.location is Location.LIST:
        starts = _starts(columns, records, first)
        return tf.gather(columns.values, tf.ragged.range(starts, starts + frames).values)
    field, stored = access.sequence, access.stored
    payload = tf.strings.reduce_join(_payloads(columns, data, records, frames, first))
    if stored == Stored():
        return tf.cast(tf.reshape(tf.io.decode_raw(payload, field.dtype), [-1, *field.dimensions]), dtype)
    raw = tf.reshape(tf.io.decode_raw(payload, tf.uint8), [-1, stored.stride(field)])
    return _third_party_values(raw, field, stored, dtype)


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
