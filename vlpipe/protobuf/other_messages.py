"""Tells other protocol buffers from Examples: the bytes of many of them can be read as an Example without keys, or with garbled ones.

An ExampleListWithContext, of TensorFlow Ranking, is {repeated Example examples=1; Example context=2}
(tensorflow_serving/apis/input.proto): read as an Example, each serialized feature becomes a key.
"""

from __future__ import annotations

from vlpipe.protobuf.wire import BYTES, Message, WireError, fields, walk

_WIRE_TYPES = {0: "a number", 1: "8 bytes", 2: "bytes", 5: "4 bytes"}
EXAMPLE_LIST = "an ExampleListWithContext, a list of Examples"
_MAX_FIELDS = 8  # in an error


def other_message(data: bytes, message: Message) -> str:
    """Describe what a record is if it is no Example, although it can be read as one; "" if it may be an Example.

    Args:
        data: the serialized record.
        message: what `walk` read in it.
    """
    keys = [*message.features, *message.lists]
    has_values = any(feature.kind for feature in message.features.values()) or any(message.lists.values())
    if has_values or any(key and key.isprintable() for key in keys):
        return ""
    found = {number: wire for number, wire, *_ in fields(data, 0, len(data))}
    if not keys and not set(found) - {1, 2}:
        return ""  # without any content
    if is_example_list(data):
        return EXAMPLE_LIST
    listed = [f"{number} ({_WIRE_TYPES[wire]})" for number, wire in sorted(found.items())[:_MAX_FIELDS]]
    return f"another protocol buffer, with the fields {', '.join(listed)}"


def is_example_list(data: bytes) -> bool:
    """Whether a record is an ExampleListWithContext: each of its parts is an Example of its own, with printable keys."""
    try:
        parts = list(fields(data, 0, len(data)))
        if not any(number == 1 for number, *_ in parts) or any(number not in (1, 2) or wire != BYTES for number, wire, *_ in parts):
            return False
        examples = [walk(data[begin:end]) for _, _, begin, end in parts]
    except WireError:
        return False
    keys = [key for example in examples for key in example.features]
    return bool(keys) and all(key and key.isprintable() for key in keys)
