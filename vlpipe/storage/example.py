"""A record of a vlpipe dataset: a `tf.train.Example`, encoded and decoded without TensorFlow, and parsed in the graph.

Byte layout (format version 1): an Example is `Features{feature: map<name, Feature>}`, with the map entries in the order of the schema.
Each kind of field has one form:

    Sequence   bytes_list with one value: the frames in C order, little-endian, in the schema's dtype
    Fixed      float_list (float16, float32) or int64_list (integers), packed, C order
    Text       bytes_list with one value: UTF-8

A Sequence is read by copying its bytes, and any TFRecord reader can read the file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlpipe.storage.schema import Fixed, Schema, Sequence, Text

if TYPE_CHECKING:
    import tensorflow as tf

# Protocol-buffer tags: field number << 3 | 2 (length-delimited). Most messages here have field 1; Feature also has 2 and 3.
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"


class Encoded(NamedTuple):
    """The bytes of a record, and the position of the first frame of each sequence in them (schema order)."""

    data: bytes
    starts: tuple[int, ...]


def encode(schema: Schema, values: dict[str, np.ndarray | bytes]) -> Encoded:
    """Return the serialized Example of a record.

    Args:
        schema: of the record.
        values: the values that `Schema.check` returned.

    Example:
        >>> schema = Schema(x=Sequence((), "uint8"))
        >>> encode(schema, schema.check({"x": [1, 2, 3]})).starts
        (13,)
    """
    parts: list[bytes] = []
    starts: list[int] = []
    position = 0
    for name, field in schema.fields.items():
        payload = _payload(field, values[name])
        head = _head(name, _list_tag(field), len(payload))
        if isinstance(field, Sequence):
            starts.append(position + len(head))
        parts += head, payload
        position += len(head) + len(payload)
    outer = _FIRST + varint(position)
    return Encoded(b"".join([outer, *parts]), tuple(len(outer) + start for start in starts))


@functools.lru_cache(4096)  # many records have the same size
def _head(name: str, tag: bytes, size: int) -> bytes:
    """Return the bytes before the payload of a field."""
    numbers = _FIRST + varint(size)
    feature = tag + varint(len(numbers) + size) + numbers
    key = name.encode("utf-8")
    entry = _FIRST + varint(len(key)) + key + _SECOND + varint(len(feature) + size) + feature
    return _FIRST + varint(len(entry) + size) + entry


def varint(number: int) -> bytes:
    """Return a non-negative integer as a protocol-buffer varint."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _payload(field: Sequence | Fixed | Text, value: np.ndarray | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(field, Sequence):
        return value.tobytes()
    if value.dtype.kind == "f":
        return value.astype("<f4").tobytes()
    return b"".join(varint(int(number) & 0xFFFFFFFFFFFFFFFF) for number in value.ravel())


class Decoded(NamedTuple):
    """The values of a record, as from `Schema.check`, and the position of the first frame of each sequence in its bytes (schema order)."""

    values: dict[str, np.ndarray | bytes]
    starts: tuple[int, ...]


def decode(schema: Schema, data: bytes) -> Decoded:
    """Return the values that `encode` was called with; sequences are views of `data`.

    Only the byte layout above is accepted, and nothing else that protocol buffers allow (another order, a repeated field, a list in
    pieces), so that schema and data bound the work. A length that reaches beyond its enclosing message is refused.

    Raises:
        ValueError: the data do not fit the schema; the text has the byte and what is there. The caller adds the name of the record.
    """
    values: dict[str, np.ndarray | bytes] = {}
    starts: list[int] = []
    position, end = _enter(data, 0, len(data), _FIRST, "the Example", last=True)
    for name, field in schema.fields.items():
        begin, entry_end = _enter(data, position, end, _FIRST, f'the entry of "{name}"')
        key, key_end = _enter(data, begin, entry_end, _FIRST, f'the name of "{name}"')
        if data[key:key_end] != name.encode("utf-8"):
            raise ValueError(f'byte {key} of the data: the field is called {data[key:key_end][:40]!r}, expected "{name}"')
        begin, _ = _enter(data, key_end, entry_end, _SECOND, f'the feature "{name}"', last=True)
        begin, _ = _enter(data, begin, entry_end, _list_tag(field), f'the list of "{name}"', last=True)
        begin, _ = _enter(data, begin, entry_end, _FIRST, f'the values of "{name}"', last=True)
        if isinstance(field, Sequence):
            starts.append(begin)
        values[name] = _value(name, field, data, begin, entry_end)
        position = entry_end
    if position != end:
        raise ValueError(f"byte {position} of the data: {end - position} bytes follow the last field of the schema")
    return Decoded(values, tuple(starts))


def _enter(data: bytes, begin: int, end: int, tag: bytes, name: str, last: bool = False) -> tuple[int, int]:
    """Return begin and end of the content of the length-delimited message at `begin`.

    Args:
        end: where the message must end at the latest, or exactly if it is the `last`.
        tag: the byte that it must begin with.
        name: of the message, for an error.
    """
    if begin >= end or data[begin] != tag[0]:
        byte = f"0x{data[begin]:02x}" if begin < end else "the end"
        raise ValueError(f"byte {begin} of the data: {name} should begin with 0x{tag[0]:02x}, found {byte}")
    length, inside = _read_varint(data, begin + 1, end)
    if length > end - inside or (last and length != end - inside):
        at_most = "" if last else "at most "
        raise ValueError(f"byte {begin} of the data: {name} claims {length} bytes, expected {at_most}{end - inside}")
    return inside, inside + length


def _read_varint(data: bytes, begin: int, end: int) -> tuple[int, int]:
    """Return the number at `begin`, and the position behind it."""
    if begin < end and data[begin] < 0x80:  # nearly always
        return data[begin], begin + 1
    number = 0
    for position, byte in enumerate(data[begin : min(end, begin + 10)]):
        number |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if number >= 1 << 64 or (position and not byte):  # only the shortest form is accepted
                break
            return number, begin + position + 1
    raise ValueError(f"byte {begin} of the data: expected a varint of at most 64 bits")


def _value(name: str, field: Sequence | Fixed | Text, data: bytes, begin: int, end: int) -> np.ndarray | bytes:
    if isinstance(field, Text):
        try:
            data[begin:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f'byte {begin + error.start} of the data: "{name}" is not UTF-8 ({error.reason})') from error
        return data[begin:end]
    if isinstance(field, Fixed):
        return _fixed(name, field, data, begin, end)
    frames, rest = divmod(end - begin, field.frame_bytes)
    if rest:
        raise ValueError(f'byte {begin} of the data: "{name}" holds {end - begin} bytes, not a multiple of {field.frame_bytes}')
    dtype = np.dtype(field.dtype).newbyteorder("<")
    values: np.ndarray = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, begin)
    return values.reshape(frames, *field.dimensions)


def _fixed(name: str, field: Fixed, data: bytes, begin: int, end: int) -> np.ndarray:
    count, dtype = math.prod(field.dimensions), np.dtype(field.dtype)
    values: np.ndarray
    if dtype.kind == "f":
        actual = (end - begin) / 4
        numbers = np.frombuffer(data, "<f4", (end - begin) // 4, begin)
        with np.errstate(over="ignore", invalid="ignore"):
            values = numbers.astype(dtype)
            wrong = numbers[(values != numbers) & (numbers == numbers)].tolist()  # a NaN stays a NaN in any dtype
    else:
        integers = _read_integers(data, begin, end, count)
        actual, limits = len(integers), np.iinfo(dtype)
        wrong = [number for number in integers if not limits.min <= number <= limits.max]
        values = np.array([] if wrong else integers, dtype)
    if actual != count:
        raise ValueError(f'byte {begin} of the data: the {end - begin} bytes of "{name}" are not {count} numbers')
    if wrong:
        raise ValueError(f'byte {begin} of the data: "{name}" holds {wrong[0]}, which {dtype} cannot represent')
    return values.reshape(field.dimensions)


def _read_integers(data: bytes, begin: int, end: int, count: int) -> list[int]:
    """Return the numbers from `begin` to `end`, in two's complement; of more than `count`, only one more."""
    numbers: list[int] = []
    while begin < end and len(numbers) <= count:
        number, begin = _read_varint(data, begin, end)
        numbers.append(number - (number >> 63 << 64))
    return numbers


def _list_tag(field: Sequence | Fixed | Text) -> bytes:
    if not isinstance(field, Fixed):
        return _FIRST
    return _SECOND if field.dtype.startswith("float") else _THIRD


def parse(schema: Schema, names: Iterable[str], data: tf.Tensor, where: Callable[[], tf.Tensor]) -> dict[str, tf.Tensor]:
    """Parse the named fields of one serialized record, in the graph.

    Args:
        schema: the schema that the record was written with.
        names: the fields to parse; the others are skipped.
        data: string scalar, the serialized Example.
        where: returns the name of the record for an error; called only when there is one.

    Returns:
        A tensor per name: `[T, *shape]` of the schema's dtype for a Sequence, `shape` for a Fixed, a string scalar for a Text.

    Raises:
        tf.errors.InvalidArgumentError: the record does not fit the schema, or the bytes of a Sequence are not a whole number of frames.
    """
    import tensorflow as tf

    fields = {name: schema.fields[name] for name in names}
    parsed = tf.io.parse_single_example(data, {name: _feature_spec(field) for name, field in fields.items()})
    return {name: _decode(name, field, parsed[name], where) for name, field in fields.items()}


def parse_batch(schema: Schema, names: Iterable[str], data: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parse the named fields of a batch of serialized records, in one operation of the graph; a Sequence stays bytes.

    Args:
        schema: the schema that the records were written with.
        names: the fields to parse; the others are skipped.
        data: string `[B]`, serialized Examples.

    Returns:
        A tensor per name: `[B, *shape]` of the schema's dtype for a Fixed, string `[B]` for a Text or a Sequence.

    Raises:
        tf.errors.InvalidArgumentError: a record does not fit the schema.
    """
    import tensorflow as tf

    fields = {name: schema.fields[name] for name in names}
    parsed = tf.io.parse_example(data, {name: _feature_spec(field) for name, field in fields.items()})
    return {name: tf.cast(parsed[name], field.dtype) if isinstance(field, Fixed) else parsed[name] for name, field in fields.items()}


def _feature_spec(field: Sequence | Fixed | Text) -> Any:
    import tensorflow as tf

    if not isinstance(field, Fixed):
        return tf.io.FixedLenFeature([], tf.string)
    return tf.io.FixedLenFeature(field.dimensions, tf.float32 if np.dtype(field.dtype).kind == "f" else tf.int64)


def _decode(name: str, field: Sequence | Fixed | Text, value: tf.Tensor, where: Callable[[], tf.Tensor]) -> tf.Tensor:
    import tensorflow as tf

    if isinstance(field, Text):
        return value
    if isinstance(field, Fixed):
        return tf.cast(value, field.dtype)
    size = tf.strings.length(value)
    d = " x ".join(map(str, field.dimensions)) or "1"
    expected = f"bytes, not a multiple of {field.frame_bytes} (d = {d}, {field.dtype}). Pass the schema that wrote it."

    def message() -> tf.Tensor:
        return tf.strings.join([where(), f': "{name}" holds ', tf.strings.as_string(size), " ", expected])

    with tf.control_dependencies([require(size % field.frame_bytes == 0, message)]):
        return tf.reshape(tf.io.decode_raw(value, field.dtype, little_endian=True), [-1, *field.dimensions])


def require(condition: tf.Tensor, message: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Return a tensor for `tf.control_dependencies` that fails unless a condition holds.

    Args:
        condition: bool scalar.
        message: returns the string scalar of the error; evaluated only if the condition is false.

    Raises:
        tf.errors.InvalidArgumentError: the tensor is evaluated and the condition is false.
    """
    import tensorflow as tf

    # tf.debugging.Assert without this tf.cond would format the message for every record.
    def fail() -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(False, [message()])]):
            return tf.constant(False)

    return tf.cond(condition, lambda: tf.constant(True), fail)
