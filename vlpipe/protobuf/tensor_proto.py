"""The TensorProto that `tf.io.serialize_tensor` writes: its dtype, its shape, and the position of its content.

    TensorProto {dtype=1, tensor_shape=2 {repeated dim=2 {size=1}}, tensor_content=4: the values, C order, little-endian}

Sources: tensorflow/core/framework/tensor.proto, tensor_shape.proto and types.proto.
"""

from __future__ import annotations

import numpy as np

from vlpipe.protobuf.vectorized import Cursors
from vlpipe.protobuf.wire import BYTES, VARINT, fields, varint

DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64", 17: "uint16", 19: "float16"}
NUMBERS = {name: number for number, name in DTYPES.items()}


def describe(data: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Return the dtype and shape of a serialized tensor with complete content, or None for any other message.

    Raises:
        WireError: `data` is not a protocol buffer.
    """
    dtype, shape, content = "", None, 0
    for number, wire, begin, end in fields(data, 0, len(data)):
        if number == 1 and wire == VARINT:
            dtype = DTYPES.get(varint(data, begin, end)[0], "")
        elif number == 2 and wire == BYTES:
            shape = tuple(_size(data, *span) for field, kind, *span in fields(data, begin, end) if field == 2 and kind == BYTES)
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
    """Return cursors at the content of each tensor.

    Args:
        data: uint8, the file.
        begins, ends: int64 `[n]`, the position of each TensorProto.
        dtype: the expected dtype.
        shape: the expected shape without the first axis, which may have any size.

    Returns:
        Cursors, marked irregular where there is another tensor, or none.
    """
    cursors = Cursors(data, begins, ends)
    cursors.skip_tag(0x08)
    cursors.mark_irregular(cursors.read_varint(2) != NUMBERS[dtype])
    cursors.skip_tag(0x12)
    sizes = _sizes(cursors, 1 + len(shape))
    for size, expected in zip(sizes[1:], shape, strict=True):
        cursors.irregular |= size != expected
    full = np.flatnonzero(~cursors.irregular & (sizes[0] > 0))  # an empty content is not written
    content = cursors.subset(full)
    content.skip_tag(0x22)
    content.mark_irregular(content.read_length() != content.end)
    content.mark_irregular(content.end - content.at != sizes[0][full] * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
    cursors.irregular[full] |= content.irregular
    cursors.at = cursors.at.copy()
    cursors.at[full] = content.at
    cursors.mark_irregular((sizes[0] == 0) & (cursors.at != cursors.end))
    return cursors


def _sizes(cursors: Cursors, rank: int) -> list[np.ndarray]:
    """Read a TensorShapeProto with `rank` dimensions, from its length on; return the int64 `[n]` sizes of each axis."""
    ends = cursors.read_length()
    shapes = Cursors(cursors.data, cursors.at, ends)
    sizes = []
    for _ in range(rank):
        shapes.skip_tag(0x12)
        ends = shapes.read_length()
        dims = Cursors(cursors.data, shapes.at, ends)
        shapes.at = ends
        size = np.zeros(len(ends), np.int64)
        written = np.flatnonzero(dims.at < dims.end)  # a size of 0 is not written
        values = dims.subset(written)
        values.skip_tag(0x08)
        size[written] = values.read_varint(5)
        values.mark_irregular(values.at != values.end)
        shapes.irregular[written] |= values.irregular
        sizes.append(size)
    shapes.mark_irregular(shapes.at != shapes.end)
    cursors.irregular |= shapes.irregular
    cursors.at = shapes.end
    return sizes
