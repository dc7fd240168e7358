"""Compressed TFRecord files: which they are, and what is in them as a file that can be read from any place.

TensorFlow compresses a file as a whole, with GZIP (RFC 1952) or ZLIB (RFC 1950). Where a record stands is its place in what was compressed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zlib
from typing import IO, Any, BinaryIO

from vlpipe.errors import DatasetError
from vlpipe.files.filesystem import is_address, open_file
from vlpipe.files.tfrecord import HEADER_BYTES, length_in

_BLOCK = 1 << 20
_WINDOW = {"GZIP": 31, "ZLIB": 15}  # as zlib calls them
COMPRESSIONS = ("", *_WINDOW)


def compression_of(path: str | os.PathLike[str]) -> str:
    """ "GZIP", "ZLIB", or "" for a file that is not compressed, by its first bytes.

    Raises:
        DatasetError: it cannot be read.
    """
    with _opened(path) as file:
        head = file.read(HEADER_BYTES)
    if len(head) == HEADER_BYTES and length_in(head) is not None:  # whatever the length looks like
        return ""
    if head[:3] == b"\x1f\x8b\x08":
        return "GZIP"
    return "ZLIB" if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0 else ""


def uncompressed(path: str | os.PathLike[str], compression: str) -> BinaryIO:
    """A file open for reading that has the records as they are: the file itself, or what is in it, in a temporary file without a name.

    Raises:
        DatasetError: it cannot be read, is damaged or cut, or there is no room for what is in it.
    """
    return _in_temporary_file(path, compression) if compression else _opened(path)


def on_disk(path: str | os.PathLike[str], compression: str) -> BinaryIO:
    """The same, but always a file of this machine, which can be mapped: what stands at an address is copied into a temporary one.

    Raises:
        DatasetError: as `uncompressed`.
    """
    return _in_temporary_file(path, compression) if compression or is_address(path) else _opened(path)


def _in_temporary_file(path: str | os.PathLike[str], compression: str) -> BinaryIO:
    with _opened(path) as source, contextlib.ExitStack() as unfinished:
        try:
            target: Any = unfinished.enter_context(tempfile.TemporaryFile())
            if compression:
                _inflate(source, target, _WINDOW[compression])
            else:
                shutil.copyfileobj(source, target, _BLOCK)
            target.seek(0)
        except (zlib.error, EOFError) as error:
            raise DatasetError(
                f"{path}: the file is damaged or was cut: what {compression} compressed cannot be read ({error}). Restore it from a copy."
            ) from error
        except DatasetError:
            raise
        except OSError as error:
            what = "uncompressed" if compression else "copied"
            raise DatasetError(
                f"{path}: cannot be {what} into {tempfile.gettempdir()} ({error.strerror or error}). Make room there, or set TMPDIR."
            ) from error
        unfinished.pop_all()
    found: BinaryIO = target
    return found


def _inflate(source: BinaryIO, target: IO[bytes], window: int) -> None:
    """What is in a compressed file; GZIP files may be several, one after another."""
    inflating, is_whole = zlib.decompressobj(window), False
    while block := source.read(_BLOCK):
        while block:
            if is_whole:
                inflating, is_whole = zlib.decompressobj(window), False
            target.write(inflating.decompress(block, _BLOCK))
            is_whole = inflating.eof
            block = inflating.unused_data if is_whole else inflating.unconsumed_tail
    while not is_whole and (rest := inflating.decompress(inflating.unconsumed_tail, _BLOCK)):
        target.write(rest)
        is_whole = inflating.eof
    if not is_whole:
        raise EOFError("it ends too early")


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected a TFRecord file.") from error
