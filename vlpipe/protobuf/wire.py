"""Read the protocol buffer of one third-party record: the position in its bytes of the values of each feature.

    Example          {features=1: Features}
    SequenceExample  {context=1: Features, feature_lists=2: {repeated feature_list=1: map entry {key=1: text, value=2: FeatureList}}}
    Features         {repeated feature=1: map entry {key=1: text, value=2: Feature}}
    FeatureList      {repeated feature=1: Feature}
    Feature          one of bytes_list=1, float_list=2, int64_list=3, each {repeated value=1}, numbers packed or not

Sources: tensorflow/core/example/feature.proto and example.proto; the encoding is protobuf.dev/programming-guides/encoding.

`walk` is slow and complete: it accepts fields in any order, skips unknown fields, merges a message in several parts, and takes the last
value of a repeated key, as every reader does. `vectorized` reads thousands of records at once if they have the usual encoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
KINDS = {1: "bytes", 2: "float", 3: "int64"}
_MAX_VARINT_BYTES = 10
_CONTINUATION_BYTES = bytes(range(0x80, 0x100))  # all bytes of a varint except the last
_ENDLESS = re.compile(rb"[\x80-\xff]{%d}" % _MAX_VARINT_BYTES)
_FLOAT_TAG = b"\x0d"  # field 1, 4 bytes
_EMPTY_FRAMES = re.compile(rb"(?:\x0a\x00)+")  # of a feature list: field 1, no bytes
_MAX_KEYS = 65_536  # of a record: in a malicious file, an entry takes only 2 bytes
_MAX_PARTS = 1 << 22  # of a list: frames, or unpacked values; each takes about 100 bytes of memory


class WireError(ValueError):
    """The bytes are not the expected message.

    Attributes:
        at: the position in the record.
    """

    def __init__(self, at: int, problem: str) -> None:
        super().__init__(problem)
        self.at = at


@dataclass
class Feature:
    """The values of one key.

    Attributes:
        kind: "bytes", "float", "int64", or "" for a feature without a list.
        count: the number of values.
        ranges: begin and end of each bytes value, of each run of packed numbers, or of each unpacked number.
        packed: whether the numbers are packed, several in each range.
    """

    kind: str = ""
    count: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    packed: bool = True

    @property
    def whole(self) -> tuple[int, int] | None:
        """Begin and end of the values if they form a single range, else None; `(0, 0)` for no values."""
        if not self.count:
            return 0, 0
        return self.ranges[0] if len(self.ranges) == 1 else None


@dataclass
class Message:
    """The content of a record.

    Attributes:
        features: the features, or the context of a SequenceExample, by key.
        lists: the frames of each feature list, by key.
        spans: begin and end of the bytes of each feature list, by key.
        is_sequence: whether it is a SequenceExample.
    """

    features: dict[str, Feature] = field(default_factory=dict)
    lists: dict[str, list[Feature]] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_sequence: bool = False


def walk(data: bytes) -> Message:
    """Read every feature of a serialized Example or SequenceExample.

    Raises:
        WireError: it is neither.
    """
    message = Message()
    for number, wire, begin, end in fields(data, 0, len(data)):
        if number in (1, 2) and wire != BYTES:
            raise WireError(begin, f"field {number} of the record with wire type {wire}, expected a message")
        if number == 1:
            for key, first, last in _entries(data, begin, end):
                message.features[key] = _feature(data, first, last)
        elif number == 2:
            message.is_sequence = True
            for key, first, last in _entries(data, begin, end):
                message.spans[key] = (first, last)
                message.lists[key] = _frames(data, first, last)
        if len(message.features) + len(message.lists) > _MAX_KEYS:
            raise WireError(begin, f"more than {_MAX_KEYS} keys")
    return message


def feature_list(data: bytes) -> list[Feature]:
    """Read the steps of a serialized FeatureList.

    Raises:
        WireError: it is none.
    """
    return [_feature(data, *step) for step in _messages(data, 0, len(data))]


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message as (number, wire type, begin and end of the value)."""
    while at < end:
        here = at
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number < 2**29 or (data[at - 1] == 0):  # longer than necessary: no writer does this, and not every reader accepts it
            raise WireError(here, f"field number {number} in {at - here} bytes")
        if wire == VARINT:
            begin, (_, stop) = at, varint(data, at, end)
        elif wire in (FIXED64, FIXED32):
            begin, stop = at, at + (8 if wire == FIXED64 else 4)
        elif wire == BYTES:
            size, begin = varint(data, at, end)
            stop = begin + size
        else:
            raise WireError(here, f"the unknown wire type {wire}")
        if stop > end:
            raise WireError(here, f"a field of {stop - begin} bytes where {end - begin} are left")
        yield number, wire, begin, stop
        at = stop


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return an unsigned varint and the position after it.

    Raises:
        WireError: it has more than 10 bytes, or reaches beyond `end`.
    """
    value = 0
    for position in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = data[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + 1
    raise WireError(at, "a varint that does not end")


def signed(value: int) -> int:
    """Return the int64 that an unsigned varint encodes."""
    return value - (1 << 64) if value >> 63 else value


def integers(data: bytes, feature: Feature) -> list[int]:
    """Return the values of an int64 feature."""
    values = []
    for at, end in feature.ranges:
        while at < end:
            value, at = varint(data, at, end)
            values.append(signed(value))
    return values


def is_plain(data: bytes, key: str) -> bool:
    """Return whether TensorFlow's parser reads the numbers of this key in an Example correctly.

    The parser (core/util/example_proto_fast_parsing.cc) supports less than the protocol allows and skips some of the rest silently: each
    entry of the map must be one key and one value, a Feature one list, and a list one run of packed numbers, or unpacked numbers only.
    """
    for number, _, begin, end in fields(data, 0, len(data)):
        for inner, _, first, last in fields(data, begin, end) if number == 1 else ():
            parts = [(part, at, stop) for part, _, at, stop in fields(data, first, last)] if inner == 1 else []
            if sorted(part for part, *_ in parts) != [1, 2]:
                return False
            (_, *name), (_, *value) = sorted(parts)
            if data[slice(*name)] == key.encode() and not _is_one_list(data, *value):
                return False
    return True


def _is_one_list(data: bytes, begin: int, end: int) -> bool:
    lists = list(fields(data, begin, end))
    if len(lists) != 1:
        return not lists
    number, _, begin, end = lists[0]
    if number not in KINDS or _are_single_floats(data, begin, end):
        return number in KINDS
    values = [(number, wire) for number, wire, *_ in fields(data, begin, end)]
    return values == [(1, BYTES)] or all(value in ((1, VARINT), (1, FIXED32)) for value in values)


def _are_single_floats(data: bytes, begin: int, end: int) -> bool:
    """Return whether all bytes are unpacked floats: one slice comparison instead of 1 µs a float."""
    count, rest = divmod(end - begin, 5)
    return not rest and data[begin:end:5] == _FLOAT_TAG * count


def _messages(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each message of the repeated field 1."""
    for number, wire, first, last in fields(data, begin, end):
        if number == 1:
            if wire != BYTES:
                raise WireError(first, f"field 1 with wire type {wire}, expected a message")
            yield first, last


def _frames(data: bytes, begin: int, end: int) -> list[Feature]:
    """Return the frames of a feature list. Empty ones that follow each other are one object: a malicious file has them by the million."""
    frames: list[Feature] = []
    while begin < end:
        if run := _EMPTY_FRAMES.match(data, begin, end):
            frames += [Feature()] * ((run.end() - begin) // 2)
            begin = run.end()
        else:
            until = data.find(b"\x0a\x00\x0a\x00", begin, end)  # inside a value too: the rest of it follows then
            messages = _messages(data, begin, end)
            for first, last in messages:
                frames.append(_feature(data, first, last))
                begin = last
                if 0 <= until < last or len(frames) > _MAX_PARTS:
                    break
            else:
                begin = end
        _check_parts(begin, len(frames))
    return frames


def _entries(data: bytes, begin: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield the key, and begin and end of the value, of each entry of a map."""
    for first, last in _messages(data, begin, end):
        key, value = "", (last, last)
        for number, wire, at, stop in fields(data, first, last):
            if number in (1, 2) and wire != BYTES:
                raise WireError(at, f"a map entry with wire type {wire}, expected a key and a value")
            if number == 1:
                try:
                    key = data[at:stop].decode("utf-8")
                except UnicodeDecodeError as error:
                    raise WireError(at, "a key that is not UTF-8") from error
            elif number == 2:
                value = (at, stop)
        yield key, *value


def _feature(data: bytes, begin: int, end: int) -> Feature:
    feature = Feature()
    for number, wire, first, last in fields(data, begin, end):
        kind = KINDS.get(number)
        if kind is None:
            continue
        if wire != BYTES:
            raise WireError(first, f"a list of values with wire type {wire}, expected a message")
        if kind != feature.kind:  # the last kind counts, and parts of one kind are merged
            feature = Feature(kind)
        _add_values(data, first, last, feature)
    return feature


def _add_values(data: bytes, begin: int, end: int, feature: Feature) -> None:
    single = {"bytes": BYTES, "float": FIXED32, "int64": VARINT}[feature.kind]
    if end - begin > 5 and feature.kind == "float" and _are_single_floats(data, begin, end):
        feature.ranges += zip(range(begin + 1, end, 5), range(begin + 5, end + 1, 5), strict=True)
        feature.count += (end - begin) // 5
        feature.packed = False
        return
    for number, wire, first, last in fields(data, begin, end):
        if number != 1:
            continue
        if wire == single:
            feature.ranges.append((first, last))
            feature.count += 1
            feature.packed &= feature.kind == "bytes" or feature.count == 1
            _check_parts(first, len(feature.ranges))
        elif wire == BYTES and feature.kind == "float":
            if (last - first) % 4:
                raise WireError(first, f"{last - first} bytes of packed floats, not a multiple of 4")
            _add_packed(feature, first, last, (last - first) // 4)
        elif wire == BYTES:
            run = data[first:last]
            if run[-1:] >= b"\x80" or _ENDLESS.search(run):
                raise WireError(first, "a packed varint that does not end")
            _add_packed(feature, first, last, len(run.translate(None, _CONTINUATION_BYTES)))
        else:
            raise WireError(first, f"a value of kind {feature.kind} with wire type {wire}")


def _check_parts(at: int, parts: int) -> None:
    if parts > _MAX_PARTS:
        raise WireError(at, f"a list of more than {_MAX_PARTS} parts")


def _add_packed(feature: Feature, begin: int, end: int, count: int) -> None:
    if count:
        feature.ranges.append((begin, end))
        feature.count += count
