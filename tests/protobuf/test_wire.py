"""Protocol buffers read one by one and vectorized: the same values as TensorFlow's parser, and a `WireError` for malicious bytes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.foreign_files import example, floats, ints, raw, sequence_example
from vlpipe.protobuf import vectorized, wire
from vlpipe.protobuf.vectorized import BYTES_LIST, FLOAT_LIST, INT64_LIST
from vlpipe.protobuf.wire import Feature, WireError, integers, varint, walk
from vlpipe.storage.example import varint as encoded

KEYS = st.text(min_size=1, max_size=6)
VALUES = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(floats),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda values: ints(*values)),
    st.lists(st.binary(max_size=200), max_size=3).map(lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))),
    st.just(tf.train.Feature()),
)


def values_of(data: bytes, feature: Feature) -> tuple[str, list[Any]]:
    if feature.kind == "int64":
        return "int64", integers(data, feature)
    parts = [data[slice(*span)] for span in feature.ranges]
    return feature.kind, parts if feature.kind == "bytes" else np.frombuffer(b"".join(parts), "<f4").tolist()


def expected_of(feature: tf.train.Feature) -> tuple[str, list[Any]]:
    kind = feature.WhichOneof("kind")
    return (kind.removesuffix("_list"), list(getattr(feature, kind).value)) if kind else ("", [])


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.dictionaries(KEYS, st.lists(VALUES, max_size=3), max_size=3))
def test_walk_agrees_with_the_parser_of_tensorflow(features: dict[str, Any], lists: dict[str, list[Any]]) -> None:
    data = sequence_example(features, lists) if lists else example(features)
    message = walk(data)
    assert message.is_sequence == bool(lists)
    assert {key: values_of(data, feature) for key, feature in message.features.items()} == {k: expected_of(v) for k, v in features.items()}
    assert {key: [values_of(data, frame) for frame in frames] for key, frames in message.lists.items()} == {
        key: [expected_of(frame) for frame in frames] for key, frames in lists.items()
    }
    for key, feature in message.features.items():
        assert feature.count == len(expected_of(features[key])[1])
        assert (feature.whole is None) == (feature.kind == "bytes" and feature.count > 1)


def field(number: int, content: bytes) -> bytes:
    return encoded(number << 3 | 2) + encoded(len(content)) + content


def entry(key: bytes, feature: bytes) -> bytes:
    return field(1, field(1, key) + field(2, feature))


def test_walk_reads_unusual_encodings() -> None:
    """Unpacked numbers, a value before its key, unknown fields, a message and a list in two parts, a repeated key."""
    unpacked = field(3, b"\x08\x05" + b"\x08" + encoded(300))
    loose = field(2, b"\x0d" + np.float32(1.5).tobytes() + b"\x0d" + np.float32(2.5).tobytes())
    parts = field(3, field(1, b"\x01")) + field(3, field(1, b"\x02\x03"))
    swapped = field(1, field(2, field(3, field(1, b"\x07"))) + field(1, b"swapped"))
    unknown = field(9, b"xyz") + b"\x50\x01" + b"\x5d1234" + b"\x6112345678"
    data = field(1, entry(b"a", unpacked) + entry(b"f", loose)) + unknown
    data += field(1, unknown + entry(b"p", parts) + swapped + entry(b"a", field(3, field(1, b"\x01"))) + entry(b"a", unpacked))
    message = walk(data)
    parsed = tf.train.Example.FromString(data).features.feature
    assert {key: values_of(data, feature) for key, feature in message.features.items()} == {k: expected_of(v) for k, v in parsed.items()}
    assert integers(data, message.features["a"]) == [5, 300]
    assert not message.features["f"].packed
    assert message.features["f"].whole is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x0a\x05abc", "a field of 5 bytes where 3 are left"),
        (b"\x0a", "a varint that does not end"),
        (b"\x80" * 11, "a varint that does not end"),
        (b"\x0b\x0c", "the unknown wire type 3"),
        (b"\x00\x00", "field number 0"),
        (b"\x08\x01", "field 1 of the record with wire type 0, expected a message"),
        (field(1, b"\x08\x01"), "field 1 with wire type 0, expected a message"),
        (field(1, field(1, b"\x08\x01")), "a map entry with wire type 0, expected a key and a value"),
        (field(1, entry(b"\xff", b"")), "a key that is not UTF-8"),
        (field(1, entry(b"k", b"\x08\x01")), "a list of values with wire type 0, expected a message"),
        (field(1, entry(b"k", field(2, field(1, b"12345")))), "5 bytes of packed floats, not a multiple of 4"),
        (field(1, entry(b"k", field(3, field(1, b"\x80")))), "a packed varint that does not end"),
        (field(1, entry(b"k", field(3, field(1, b"\x80" * 10 + b"\x00\x01")))), "a packed varint that does not end"),
        (field(1, entry(b"k", field(2, b"\x08\x01"))), "a value of kind float with wire type 0"),
        (field(1, b"".join(entry(b"%x" % n, b"") for n in range(66_000))), "^more than 65536 keys"),
    ],
)
def test_malformed_messages_are_refused_with_the_position(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem) as caught:
        walk(data)
    assert 0 <= caught.value.at <= len(data)


@pytest.mark.parametrize("data", [field(2, entry(b"k", b"\x0a\x00" * 1001)), field(1, entry(b"k", field(1, b"\x0a\x00" * 1001)))])
def test_the_number_of_frames_and_values_is_limited(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MAX_PARTS", 1000)
    with pytest.raises(WireError, match="a list of more than 1000 parts"):
        walk(data)


def test_walk_of_malicious_bytes_returns_a_message_or_raises_wire_error() -> None:
    chooser = random.Random(1)
    good = example({"x": floats([1, 2, 3]), "n": ints(1, 2**40), "t": raw(b"text")})
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(chooser.randint(1, 4)):
            data[chooser.randrange(len(data))] = chooser.randrange(256)
        data = data[: chooser.randint(0, len(data))] if chooser.random() < 0.3 else data
        try:
            message = walk(bytes(data))
        except WireError:
            continue
        for feature in message.features.values():
            assert all(0 <= begin <= end <= len(data) for begin, end in feature.ranges)


@pytest.mark.parametrize("value", [5, 300, -1])
def test_integers_of_a_long_record(value: int) -> None:
    """The numbers are decoded in pieces that end between two numbers."""
    values = [value, 1] * 20_000
    data = example({"x": ints(*values)})
    assert vectorized.integers(data, walk(data).features["x"]).tolist() == values


def read_vectorized(
    records: list[bytes], keys: tuple[str, ...]
) -> tuple[dict[str, vectorized.Payloads], dict[str, vectorized.Spans], np.ndarray, np.ndarray]:
    data = np.frombuffer(b"??".join([b"", *records, b"????????"]), np.uint8)
    sizes = np.array([len(record) for record in records])
    begins = np.cumsum(sizes + 2) - sizes
    context, lists = vectorized.messages(data, begins, begins + sizes)
    features = vectorized.entries(data, context, keys)
    return {key: vectorized.payloads(data, span) for key, span in features.items()}, vectorized.entries(data, lists, keys), data, begins


@given(st.lists(st.tuples(st.dictionaries(st.sampled_from("abc"), VALUES), st.booleans()), min_size=1, max_size=20))
def test_vectorized_reading_agrees_with_walk(records: list[tuple[dict[str, Any], bool]]) -> None:
    lists = {"b": [floats([1.0, 2.0])] * 3, "a": [ints(5)]}
    serialized = [sequence_example(features, lists) if is_sequence else example(features) for features, is_sequence in records]
    payloads, spans, data, begins = read_vectorized(serialized, ("a", "b"))
    for row, record in enumerate(serialized):
        message = walk(record)
        for key in ("a", "b"):
            feature = message.features.get(key, Feature())
            payload = payloads[key]
            assert payload.irregular[row] == (feature.whole is None), (key, feature)
            if not payload.irregular[row]:
                assert payload.tags[row] == {"": 0, "bytes": BYTES_LIST, "float": FLOAT_LIST, "int64": INT64_LIST}[feature.kind]
                begin, end = feature.whole or (0, 0)
                assert bytes(data[payload.begins[row] : payload.ends[row]]) == record[begin:end]
            assert not spans[key].irregular[row]
            span = message.spans.get(key)
            assert (
                (spans[key].begins[row] - begins[row], spans[key].ends[row] - begins[row]) == span if span else spans[key].begins[row] == -1
            )


def test_vectorized_reading_of_malicious_bytes_stays_inside_the_record() -> None:
    """Each record lies between bytes that would extend it; the regular records have the same values as in `walk`."""
    chooser = random.Random(2)
    good = sequence_example({"x": floats([1, 2, 3]), "n": ints(1, 2**40)}, {"x": [raw(b"abc")] * 2})
    records = []
    for _ in range(4000):
        data = bytearray(good)
        for _ in range(chooser.randint(0, 3)):
            data[chooser.randrange(len(data))] = chooser.choice([0, 1, 2, 0x0A, 0x12, 0x1A, 0x7F, 0x80, 0xFF])
        records.append(bytes(data[: chooser.randint(0, len(data))] if chooser.random() < 0.2 else data))
    payloads, _, data, begins = read_vectorized(records, ("x", "n"))
    checked = 0
    for row, record in enumerate(records):
        for key, payload in payloads.items():
            if payload.irregular[row]:
                continue
            begin, end = payload.begins[row] - begins[row], payload.ends[row] - begins[row]
            assert payload.begins[row] == payload.ends[row] == 0 or 0 <= begin <= end <= len(record)
            try:
                feature = walk(record).features.get(key, Feature())
            except WireError:  # in a part that vectorized reading skips
                continue
            checked += 1
            assert record[slice(*(feature.whole or (0, 0)))] == bytes(data[payload.begins[row] : payload.ends[row]])
    assert checked > 1000


def test_a_length_beyond_its_message_is_irregular() -> None:
    """The following record could satisfy the inner lengths that are too large; a repeated key is irregular too."""
    inner = entry(b"x", field(1, field(1, b"abcdef")))
    feature = field(1, field(1, b"abcdef"))
    records = [field(1, inner), field(1, inner[:-3]), field(1, inner)[:-3], field(1, inner + inner), field(1, inner + b"\x0a\x40")]
    records += [field(1, field(1, field(1, b"x") + field(2, feature[:-3]))), field(1, field(1, b"\x0a\x30x"))]
    for record in records:
        payloads, _, _, _ = read_vectorized([record, records[0]], ("x",))
        assert payloads["x"].irregular.tolist() == [record != records[0], False]


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6), min_size=1, max_size=10))
def test_packed_integers(records: list[list[int]]) -> None:
    packed = [b"".join(encoded(number & 2**64 - 1) for number in numbers) for numbers in records]
    data = np.frombuffer(b"?".join([b"", *packed, b""]), np.uint8)
    sizes = np.array([len(part) for part in packed])
    begins = np.cumsum(sizes + 1) - sizes
    values, counts, irregular = vectorized.packed_integers(data, begins, begins + sizes)
    assert counts.tolist() == [len(numbers) for numbers in records]
    assert values.tolist() == [number for numbers in records for number in numbers]
    assert not irregular.any()


def test_packed_integers_that_do_not_end_are_irregular() -> None:
    data = np.frombuffer(b"\x01\x80" + b"\xff" * 10 + b"\x01" + b"\x07", np.uint8)
    assert vectorized.packed_integers(data, np.array([0, 13]), np.array([2, 14]))[2].tolist() == [True, False]
    assert vectorized.packed_integers(data, np.array([0, 2, 13]), np.array([1, 13, 14]))[2].tolist() == [False, True, False]
    with pytest.raises(WireError, match="a varint that does not end"):
        varint(b"\xff" * 10 + b"\x01", 0, 11)


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=6), st.sets(KEYS, max_size=3))
def test_every_key_that_is_not_known_is_noticed_with_its_first_record(records: list[dict[str, Any]], known: set[str]) -> None:
    data = [example(record) for record in records]
    ends = np.cumsum([len(record) for record in data])
    content = np.frombuffer(b"".join(data), np.uint8)
    context, _ = vectorized.messages(content, ends - [len(record) for record in data], ends)
    new = vectorized.NewKeys(known)
    vectorized.entries(content, context, [], new)
    expected: dict[str, int] = {}
    for number, record in enumerate(records):
        for key in record:
            expected.setdefault(key, number)
    assert new.first == {key: number for key, number in expected.items() if key not in known}


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=8))
def test_hashes_are_of_all_bytes(keys: list[bytes]) -> None:
    ends = np.cumsum([len(key) for key in keys])
    content = np.frombuffer(b"".join(keys), np.uint8)
    hashes = vectorized.key_hashes(content, ends - [len(key) for key in keys], ends).tolist()
    assert len(set(hashes)) == len(set(keys))
    assert all(
        (one == other) == (mine == theirs)
        for one, mine in zip(hashes, keys, strict=True)
        for other, theirs in zip(hashes, keys, strict=True)
    )
