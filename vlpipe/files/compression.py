"""Compressed TFRecord files: detect the compression, and open the uncompressed content as a seekable file.

TensorFlow compresses a file as a whole, with GZIP (RFC 1952) or ZLIB (RFC 1950). Offsets of records refer to the uncompressed content.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from vlpipe.errors import NOT_TFRECORD, DatasetError
from vlpipe.files.filesystem import is_address, open_file
from vlpipe.files.tfrecord import HEADER_BYTES, length_in

_BLOCK = 1 << 20
_WINDOW = {"GZIP": 31, "ZLIB": 15}  # the wbits argument of zlib
COMPRESSIONS = ("", *_WINDOW)


def compression_of(path: str | os.PathLike[str]) -> str:
    """Detect by its first bytes how a file is compressed: "GZIP", "ZLIB", or "" for an uncompressed file.

    Raises:
        DatasetError: the file cannot be read.

    Example:
        >>> with open("a.tfrecord.gz", "wb") as file:
        ...     _ = file.write(bytes.fromhex("1f8b08"))
        >>> compression_of("a.tfrecord.gz")
        'GZIP'
    """
    with _open(path) as file:
        head = file.read(HEADER_BYTES)  # a `DatasetError` where the disk fails
    if len(head) == HEADER_BYTES and length_in(head) is not None:  # a valid TFRecord header, even if it looks like GZIP
        return ""
    if head[:3] == b"\x1f\x8b\x08":
        return "GZIP"
    return "ZLIB" if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0 else ""


def uncompressed(path: str | os.PathLike[str], compression: str) -> BinaryIO:
    """Open the uncompressed content of a file: the file itself, or an unnamed temporary file with the content.

    Args:
        path: path or address of the file.
        compression: of the file, from `compression_of`.

    Raises:
        DatasetError: the file cannot be read, is damaged or cut, is not a TFRecord file (then nothing of it is written), or there is no
            room for the temporary file.
    """
    return _in_temporary_file(path, compression) if compression else _open(path)


def on_disk(path: str | os.PathLike[str], compression: str) -> BinaryIO:
    """Open the uncompressed content of a file as a local file, which can be mapped into memory; a file at an address is copied.

    Raises:
        DatasetError: as `uncompressed`.
    """
    return _in_temporary_file(path, compression) if compression or is_address(path) else _open(path)


def _in_temporary_file(path: str | os.PathLike[str], compression: str) -> BinaryIO:
    with _open(path) as source, contextlib.ExitStack() as unfinished:
        try:
            target: Any = unfinished.enter_context(tempfile.TemporaryFile())
            if compression:
                target.writelines(_checked(_inflated(source, _WINDOW[compression]), path))
            else:
                shutil.copyfileobj(source, target, _BLOCK)
            target.seek(0)
        except (zlib.error, EOFError) as error:
            raise DatasetError(
                f"{path}: the file is damaged or was cut: its {compression} data cannot be uncompressed ({error}). Restore it from a copy."
            ) from error
        except DatasetError:
            raise
        except OSError as error:
            action = "uncompressed" if compression else "copied"
            raise DatasetError(
                f"{path}: cannot be {action} into {tempfile.gettempdir()} ({error.strerror or error}). Make room there, or set TMPDIR."
            ) from error
        unfinished.pop_all()
    content: BinaryIO = target
    return content


def _checked(blocks: Iterator[bytes], path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the blocks of a TFRecord file. Of anything else nothing: 1 MB of it could become 1 GB on the disk.

    Raises:
        DatasetError: the first 12 bytes are not the header of a record.
    """
    head: bytes | None = b""
    for block in blocks:
        if head is not None:
            block = head + block
            if len(block) < HEADER_BYTES:
                head = block
                continue
            head = None
            if length_in(block[:HEADER_BYTES]) is None:
                raise DatasetError(f"{path}: its uncompressed content has no record at byte 0, but a wrong checksum. {NOT_TFRECORD}")
        yield block
    yield head or b""


def _inflated(source: BinaryIO, window: int) -> Iterator[bytes]:
    """Yield the uncompressed content of a file, which may consist of several GZIP files, one after another, in blocks.

    Raises:
        EOFError: it ends too early.
    """
    inflating, is_whole = zlib.decompressobj(window), False
    while block := source.read(_BLOCK):
        while block:
            if is_whole:
                inflating, is_whole = zlib.decompressobj(window), False
            yield inflating.decompress(block, _BLOCK)
            is_whole = inflating.eof
            block = inflating.unused_data if is_whole else inflating.unconsumed_tail
    while not is_whole and (rest := inflating.decompress(inflating.unconsumed_tail, _BLOCK)):
        yield rest
        is_whole = inflating.eof
    if not is_whole:
        raise EOFError("it ends too early")


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected a TFRecord file.") from error
