"""Encode and decode records, compared with `tf.train.Example`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.numpy_reference import equal
from vlpipe.storage.example import decode, encode, parse, varint
from vlpipe.storage.schema import FIXED_DTYPES, SEQUENCE_DTYPES, Field, Fixed, Schema, Sequence, Text

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
    # Protocol buffers leave the order of map entries open: compare one feature at a time.
    parsed = tf.train.Example.FromString(data)
    assert set(parsed.features.feature) == set(schema.fields)
    for name, field in schema.fields.items():
        assert parsed.features.feature[name].SerializeToString() == feature_of(field, record[name]).SerializeToString()
    assert parsed.ByteSize() == len(data)  # it has no unknown fields


@given(schemas_and_records())
def test_the_fields_are_in_the_order_of_the_schema(case: tuple[Schema, dict[str, Any]]) -> None:
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
    # The varints before the frames grow at 2**7, 2**14 and 2**21 bytes, of the payload and of its enclosing messages.
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
def test_encoded_records_are_parsed_back(case: tuple[Schema, dict[str, Any]]) -> None:
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


# ---- decode, without TensorFlow --------------------------------------------------------------------------------------------------

RICH = Schema(
    длина=Sequence((2,), "int16"),
    words=Sequence((), "uint8"),
    label=Fixed((), "int16"),
    wide=Fixed((2, 2), "int64"),
    half=Fixed(2, "float16"),
    real=Fixed((), "float32"),
    text=Text(),
)
RECORD = {
    "длина": np.arange(6, dtype=np.int16).reshape(3, 2),
    "words": np.zeros(0, np.uint8),
    "label": -3,
    "wide": [[1, 300], [-(2**63), 2**63 - 1]],
    "half": [0.5, -2.0],  # one flipped bit makes no NaN of these
    "real": np.float32(1e-3),
    "text": "Größe",
}
DATA = encode(RICH, RICH.check(RECORD)).data


def again(schema: Schema, data: bytes) -> bytes | None:
    """Decode and encode again; None if the data are refused, by a `ValueError` that names a byte."""
    try:
        values, starts = decode(schema, data)
    except ValueError as error:
        return None if str(error).startswith("byte ") else b"an error that names no byte"
    encoded = encode(schema, values)
    assert encoded.starts == starts
    return encoded.data


@given(schemas_and_records())
def test_encoded_records_are_decoded(case: tuple[Schema, dict[str, Any]]) -> None:
    schema, record = case
    values = schema.check(record)
    data, starts = encode(schema, values)
    decoded = decode(schema, data)
    assert decoded.starts == starts
    assert list(decoded.values) == list(values)
    for name, value in decoded.values.items():
        field = schema.fields[name]
        if isinstance(value, bytes):
            assert value == values[name]
        elif isinstance(field, Fixed) and field.dtype == "float16":  # through float32: the bits of a NaN may change
            np.testing.assert_array_equal(value, values[name])
        else:
            assert equal(value, values[name])
            assert value.dtype.byteorder in "=|<"


def test_sequences_are_views_of_the_data() -> None:
    value = decode(RICH, DATA).values["длина"]
    assert not isinstance(value, bytes)
    assert not value.flags.owndata
    assert not value.flags.writeable
    assert decode(RICH, DATA).values["words"].shape == (0,)  # type: ignore[union-attr]


def test_each_flipped_bit_is_refused_or_is_another_record() -> None:
    refused = 0
    for position in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[position // 8] ^= 1 << position % 8
        result = again(RICH, bytes(damaged))
        assert result in (None, bytes(damaged))
        refused += result is None
    assert refused > 4 * len(DATA)  # most of the bytes are names, tags and lengths


def test_each_cut_and_each_byte_more_is_refused() -> None:
    for size in range(len(DATA)):
        assert again(RICH, DATA[:size]) is None
        assert again(RICH, DATA[size + 1 :]) is None
        assert again(RICH, DATA[:size] + b"\0" + DATA[size:]) in (None, DATA[:size] + b"\0" + DATA[size:])
    assert again(RICH, DATA + b"\0") is None


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(0, len(DATA)), st.integers(0, len(DATA)))
def test_noise_is_refused_or_is_another_record(noise: bytes, begin: int, end: int) -> None:
    data = DATA[:begin] + noise + DATA[end:]
    assert again(RICH, data) in (None, data)
    assert again(RICH, noise) is None


ONE = Schema(x=Sequence((), "float32"))


@pytest.mark.parametrize("length", [b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x80\x80\x80\x40", b"\x7f"])
def test_a_length_beyond_its_message_is_refused(length: bytes) -> None:
    data = encode(ONE, ONE.check({"x": [1.0, 2.0]})).data
    assert decode(ONE, data).starts == (13,)
    for position in (1, 3, 5, 8, 10, 12):
        with pytest.raises(ValueError, match=r"byte \d+ of the data: .* claims \d+ bytes, expected (at most )?\d+"):
            decode(ONE, data[:position] + length + data[position + 1 :])


@pytest.mark.parametrize("varint_of", [b"\x80" * 10 + b"\x01", b"\xff" * 12, b"\xff" * 9 + b"\x02", b"\x80\x00", b"\x80" * 200_000])
def test_bytes_that_are_not_a_varint_are_refused(varint_of: bytes) -> None:
    with pytest.raises(ValueError, match="byte 1 of the data: expected a varint of at most 64 bits"):
        decode(ONE, b"\x0a" + varint_of)


def packed(payload: bytes, name: bytes = b"y", tag: bytes = b"\x1a", rest: bytes = b"") -> bytes:
    """A record of `Schema(x=Sequence(), y=...)` whose second field is encoded by hand."""

    def inside(tag: bytes, data: bytes) -> bytes:
        return tag + varint(len(data)) + data

    first = encode(ONE, ONE.check({"x": []})).data[2:]
    entry = inside(b"\x0a", name) + inside(b"\x12", inside(tag, inside(b"\x0a", payload)))
    return inside(b"\x0a", first + inside(b"\x0a", entry) + rest)


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        (Fixed(), packed(b"\x01", name=b"z"), "the field is called b'z', expected \"y\""),
        (Fixed(), packed(b"\x01", tag=b"\x12"), 'the list of "y" should begin with 0x1a, found 0x12'),
        (Fixed(), packed(b"\x01", rest=b"\x0a\x00"), "2 bytes follow the last field of the schema"),
        (Fixed(), packed(b""), 'the 0 bytes of "y" are not 1 numbers'),
        (Fixed(2), packed(b"\x01"), 'the 1 bytes of "y" are not 2 numbers'),
        (Fixed(), packed(b"\x01" * 100_000), 'the 100000 bytes of "y" are not 1 numbers'),
        (Fixed((), "int8"), packed(b"\x80\x01"), '"y" holds 128, which int8 cannot represent'),
        (Fixed((), "float16"), packed(np.float32(1e6).tobytes(), tag=b"\x12"), '"y" holds 1000000.0, which float16 cannot represent'),
        (Fixed((), "float32"), packed(b"12345", tag=b"\x12"), 'the 5 bytes of "y" are not 1 numbers'),
        (Text(), packed(b"a\xff", tag=b"\x0a"), r'byte 25 of the data: "y" is not UTF-8 \(invalid start byte\)'),
        (Sequence(), packed(b"12345", tag=b"\x0a"), 'byte 24 of the data: "y" holds 5 bytes, not a multiple of 4'),
        (Fixed(), b"", "byte 0 of the data: the Example should begin with 0x0a, found the end"),
    ],
)
def test_data_that_do_not_fit_the_schema_are_refused(field: Field, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(Schema(x=Sequence(), y=field), data)


def test_many_fields_are_decoded() -> None:
    schema = Schema(x=Sequence(), **{f"field {number}": Fixed() for number in range(2000)})
    record = {"x": np.zeros(0, np.float32)} | {f"field {number}": number for number in range(2000)}
    values = decode(schema, encode(schema, schema.check(record)).data).values
    assert [int(value) for name, value in values.items() if name != "x"] == list(range(2000))
