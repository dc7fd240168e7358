"""Read and write `index.npy`: an array of rows in NumPy's format, whose header is never trusted.

The header of such a file is Python source of any length. Parsing a hostile one of 4 MB takes 2 GiB of memory; the columns that a schema
requires need a few hundred bytes.
"""

from __future__ import annotations

import ast
import io
import math
import struct
from typing import Any, BinaryIO

import numpy as np

from vlpipe.errors import RESTORE, DatasetError, shortened
from vlpipe.files.filesystem import is_address, open_file
from vlpipe.regular_files import create
from vlpipe.storage.index import METADATA_NAME

# An index up to this size, of about 20 million records, is read into memory. A larger one is mapped, so that the processes of a machine
# share it; if its file is cut or overwritten in place meanwhile, they end (SIGBUS).
IN_MEMORY_BYTES = 1 << 30
_SPARE_HEADER_BYTES = 4096  # NumPy versions differ in spaces
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}  # of the header, by format version


def save_rows(path: Any, rows: np.ndarray) -> None:
    """Save an array as `numpy.save` does, but without its warning about column names outside Latin-1, which need NumPy's format 3.0.

    Raises:
        OSError: the file exists, or cannot be written.
    """
    version = None if all(ord(letter) < 256 for letter in str(rows.dtype.names)) else (3, 0)
    write_array: Any = np.lib.format.write_array
    with create(path) as file:
        write_array(file, rows, version=version, allow_pickle=False)


def read_rows(path: str, dtype: np.dtype, records: int) -> np.ndarray:
    """Return the rows of an `index.npy`, `[records]`: in memory, or mapped where they are large and local.

    Args:
        path: the file, or its address.
        dtype: of the rows, from the schema.
        records: their number, from the table of shards.

    Raises:
        DatasetError: the file cannot be read, or contains something else.
    """
    try:
        with open_file(path) as file:
            shape, found = _read_header(file, dtype)
            begin, size = file.tell(), file.seek(0, io.SEEK_END)
            if min(shape, default=0) < 0 or math.prod(shape) * found.itemsize > size - begin:
                raise ValueError(f"its header announces {list(shape)} of {found.itemsize} bytes each, the file has {size - begin}")
            if found != dtype or len(shape) != 1:
                raise DatasetError(
                    f"{path}: is {shortened(found, 300)} {list(shape)}, the schema requires one axis of {shortened(dtype, 300)}. {RESTORE}"
                )
            if shape[0] != records:
                raise DatasetError(f"{path}: has {shape[0]} rows, {METADATA_NAME} says {records} records. {RESTORE}")
            wanted = records * dtype.itemsize
            if wanted > IN_MEMORY_BYTES and not is_address(path):
                mapped: Any = np.memmap(file, dtype, "r", begin, (records,))
                return mapped
            file.seek(begin)
            rows = np.empty(records, dtype)
            buffered: Any = file  # annotations lack readinto
            if buffered.readinto(rows.view(np.uint8)) < wanted:
                raise ValueError(f"it was cut while it was read, from {size} bytes")
            return rows
    except DatasetError:
        raise
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path}: cannot be read as a NumPy array ({shortened(reason, 300)}). {RESTORE}") from error


def _read_header(file: BinaryIO, dtype: np.dtype) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of an array; the file is then at its first byte.

    Raises:
        ValueError: this is no header, or none of rows of this dtype.
    """
    start = file.read(len(np.lib.format.MAGIC_PREFIX) + 2)
    length_format = _LENGTHS.get(start[-2]) if start[:-2] == np.lib.format.MAGIC_PREFIX else None
    if length_format is None:
        raise ValueError(f"it begins with {start!r}")
    packed = file.read(struct.calcsize(length_format))
    if len(packed) < struct.calcsize(length_format):
        raise ValueError("it ends in its header")
    (length,) = struct.unpack(length_format, packed)
    numpy_format: Any = np.lib.format  # functions without annotations
    most = len(repr(numpy_format.dtype_to_descr(dtype))) + _SPARE_HEADER_BYTES
    if length > most:
        raise ValueError(f"its header has {length} bytes, for these columns at most {most} are expected")
    try:
        header = ast.literal_eval(file.read(length).decode("utf-8" if start[-2] == 3 else "latin1"))
        shape, is_fortran, found = header["shape"], header["fortran_order"], numpy_format.descr_to_dtype(header["descr"])
    except Exception as error:  # the header is Python source: a damaged one raises anything that ast and tokenize can
        raise ValueError(f"its header is not a dict of descr, fortran_order and shape: {error or type(error).__name__}") from error
    if len(header) != 3 or is_fortran is not False or not isinstance(shape, tuple) or not all(type(axis) is int for axis in shape):
        raise ValueError("its header: expected the keys descr, fortran_order (False) and shape")
    if found.hasobject:
        raise ValueError("it holds Python objects")
    return shape, found
