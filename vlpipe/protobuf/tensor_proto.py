"""A TensorProto as `tf.io.serialize_tensor` writes it: its dtype, its shape, and where its content stands.

    TensorProto {dtype=1, tensor_shape=2 {repeated dim=2 {size=1}}, tensor_content=4: the values, C order, little-endian}

tensorflow/core/framework/tensor.proto, tensor_shape.proto and types.proto.
"""

from __future__ import annotations

import numpy as np

from vlpipe.protobuf.vectorized import Cursors
from vlpipe.protobuf.wire import BYTES, VARINT, fields, varint

DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64", 17: "uint16", 19: "float16"}
NUMBERS = {name: number for number, name in DTYPES.items()}


def describe(data: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Dtype and shape of a serialized tensor whose content is there in full; None if it is anything else.

    Raises:
        WireError: it is no protocol buffer at all.
    """
    dtype, shape, content = "", None, 0
    for number, wire, begin, end in fields(data, 0, len(data)):
        if number == 1 and wire == VARINT:
            dtype = DTYPES.get(varint(data, begin, end)[0], "")
        elif number == 2 and wire == BYTES:
            shape = tuple(_size(data, *at) for field, kind, *at in fields(data, begin, end) if field == 2 and kind == BYTES)
        elif number == 4 and wire == BYTES:
            content = end - begin
        else:
            return None
    if not dtype or not shape or content != np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.float64)):
        return None
    return dtype, shape


def _size(data: bytes, begin: int, end: int) -> int:
    return next((varint(data, at, stop)[0] for field, wire, at, stop in fields(data, begin, end) if field == 1 and wire == VARINT), 0)


def contents(data: np.ndarray, begins: np.ndarray, ends: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Cursors:
    """Cursors that stand on the content of each tensor, `[T, *shape]` of a dtype; odd where it is another tensor, or none."""
    found = Cursors(data, begins, ends)
    found.tag(0x08)
    found.refuse(found.number(2) != NUMBERS[dtype])
    found.tag(0x12)
    ends = found.length()
    inner = Cursors(data, found.at, ends)
    sizes = []
    for _ in range(1 + len(shape)):
        inner.tag(0x12)
        ends = inner.length()
        dims = Cursors(data, inner.at, ends)
        inner.at = ends
        size = np.zeros(len(begins), np.int64)
        there = np.flatnonzero(dims.at < dims.end)  # a size of 0 is not written
        some = dims.some(there)
        some.tag(0x08)
        size[there] = some.number(5)
        some.refuse(some.at != some.end)
        inner.odd[there] |= some.odd
        sizes.append(size)
    inner.refuse(inner.at != inner.end)
    found.odd |= inner.odd
    for size, expected in zip(sizes[1:], shape, strict=True):
        found.odd |= size != expected
    found.at = inner.end
    full = np.flatnonzero(~found.odd & (sizes[0] > 0))  # an empty content is not written
    some = found.some(full)
    some.tag(0x22)
    some.refuse(some.length() != some.end)
    some.refuse(some.end - some.at != sizes[0][full] * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
    found.odd[full] |= some.odd
    found.at = found.at.copy()
    found.at[full] = some.at
    found.refuse((sizes[0] == 0) & (found.at != found.end))
    return found
