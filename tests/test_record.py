"""Encoding of a record, against `tf.train.Example`: what TensorFlow would write, and where the frames stand in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twin import equal
from vlpipe.record import encode, parse, varint
from vlpipe.schema import FIXED_DTYPES, SEQUENCE_DTYPES, Field, Fixed, Schema, Sequence, Text

NAMES = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\u00a0\u2007\u202f"), min_size=1, max_size=8
).filter(str.isprintable)
SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)


def any_bits(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of any bit patterns: NaNs, infinities, extremes."""
    count = int(np.prod(shape))
    return np.frombuffer(
        draw(st.binary(min_size=count * np.dtype(dtype).itemsize, max_size=count * np.dtype(dtype).itemsize)), dtype
    ).reshape(shape)


@st.composite
def schemas_and_records(draw: st.DrawFn) -> tuple[Schema, dict[str, Any]]:
    fields: dict[str, Field] = {}
    record: dict[str, Any] = {}
    for number, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))):
        kind = "sequence" if number == 0 else draw(st.sampled_from(["sequence", "fixed", "text"]))
        shape = draw(SHAPES)
        if kind == "sequence":
            dtype = draw(st.sampled_from(SEQUENCE_DTYPES))
            fields[name], record[name] = Sequence(shape, dtype), any_bits(draw, (draw(st.integers(0, 40)), *shape), dtype)
        elif kind == "fixed":
            dtype = draw(st.sampled_from(FIXED_DTYPES))
            fields[name], record[name] = Fixed(shape, dtype), any_bits(draw, shape, dtype)
        else:
            fields[name], record[name] = (
                Text(),
                draw(st.text(max_size=200).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))),
            )
    return Schema(**fields), record


def feature_of(field: Field, value: Any) -> tf.train.Feature:
    """The field as a user of plain TensorFlow would write it."""
    if isinstance(field, Sequence):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.astype(value.dtype.newbyteorder("<")).tobytes()]))
    if isinstance(field, Text):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
    if value.dtype.kind == "f":
        values = tf.train.FloatList(value=value.astype(np.float32).ravel())
        if np.isnan(value).any():  # Python's numbers would make a signalling NaN quiet; a writer in C keeps its bits
            packed = value.astype("<f4").tobytes()
            values = tf.train.FloatList.FromString(b"\n" + varint(len(packed)) + packed)
        return tf.train.Feature(float_list=values)
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value.ravel().tolist()))


@given(schemas_and_records())
def test_the_bytes_are_those_of_an_example(case: tuple[Schema, dict[str, Any]]) -> None:
    schema, record = case
    data = encode(schema, schema.check(record)).data
    # Serialized on its own, an Example orders its map as it likes; one feature at a time there is no order.
    parsed = tf.train.Example.FromString(data)
    assert set(parsed.features.feature) == set(schema.fields)
    for name, field in schema.fields.items():
        assert parsed.features.feature[name].SerializeToString() == feature_of(field, record[name]).SerializeToString()
    assert parsed.ByteSize() == len(data)  # nothing is in it that an Example does not know


@given(schemas_and_records())
def test_the_fields_stand_in_the_order_of_the_schema(case: tuple[Schema, dict[str, Any]]) -> None:
    schema, record = case
    data = encode(schema, schema.check(record)).data
    single = [
        encode_alone(name, field, record[name]) for name, field in schema.fields.items()
    ]  # a map's entries can be concatenated: the Example is the sum of its parts
    assert data.endswith(b"".join(single))


def encode_alone(name: str, field: Field, value: Any) -> bytes:
    example = tf.train.Example(features=tf.train.Features(feature={name: feature_of(field, value)}))
    return example.features.SerializeToString()


@given(schemas_and_records())
def test_starts_point_to_the_frames(case: tuple[Schema, dict[str, Any]]) -> None:
    schema, record = case
    data, starts = encode(schema, schema.check(record))
    assert len(starts) == len(schema.sequences)
    for name, start in zip(schema.sequences, starts, strict=True):
        frames = record[name]
        assert data[start : start + frames.nbytes] == frames.tobytes()


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 16382, 16383, 16384, 2**21 - 1, 2**21, 2**21 + 7])
def test_starts_are_right_where_the_lengths_take_one_more_byte(size: int) -> None:
    # The varints before the frames grow at 2**7, 2**14 and 2**21 bytes, of the payload and of what encloses it.
    schema = Schema(x=Sequence((), "uint8"), y=Sequence((), "uint8"))
    x, y = np.arange(size, dtype=np.uint32).astype(np.uint8), np.array([7, 8], np.uint8)
    data, starts = encode(schema, schema.check({"x": x, "y": y}))
    assert data[starts[0] : starts[0] + size] == x.tobytes()
    assert data[starts[1] : starts[1] + 2] == y.tobytes()
    assert tf.train.Example.FromString(data).features.feature["x"].bytes_list.value[0] == x.tobytes()


@given(st.integers(0, 2**64 - 1))
def test_varint_is_that_of_protocol_buffers(number: int) -> None:
    groups = [number >> shift & 0x7F for shift in range(0, 70, 7)]
    while len(groups) > 1 and groups[-1] == 0:
        groups.pop()
    assert varint(number) == bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def test_a_negative_number_takes_the_ten_bytes_of_its_complement() -> None:
    schema = Schema(x=Sequence(), label=Fixed(2))
    data = encode(schema, schema.check({"x": [], "label": [-1, -(2**63)]})).data
    assert b"\xff" * 9 + b"\x01" + b"\x80" * 9 + b"\x01" in data
    assert list(tf.train.Example.FromString(data).features.feature["label"].int64_list.value) == [-1, -(2**63)]


@settings(max_examples=15)  # each traces a graph
@given(schemas_and_records())
def test_what_is_encoded_is_parsed_back(case: tuple[Schema, dict[str, Any]]) -> None:
    schema, record = case
    data = encode(schema, schema.check(record)).data
    parsed = tf.function(lambda: parse(schema, schema.fields, tf.constant(data), lambda: tf.constant("nowhere")))()
    for name, field in schema.fields.items():
        value = parsed[name].numpy()
        if isinstance(field, Text):
            assert value == record[name].encode()
        elif isinstance(field, Fixed) and field.dtype == "float16":
            # Through float32 and back: every value survives, the payload of a signalling NaN need not.
            np.testing.assert_array_equal(value, record[name])
        else:
            assert equal(value, record[name])
