"""The content of a third-party file while it is indexed, at the positions that it has in the file.

A mapped file that another process cuts, or overwrites in place, ends this one (SIGBUS). So the records that are looked at are copied into
memory, with an error where the file has become shorter. Records above `MAX_COPIED` bytes on average are mapped all the same: indexing them
reads a few bytes of each, and copying the frames, too, would take many times as long (16 KB a record: eight times the processor time).
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from vlpipe.errors import DatasetError

MAX_COPIED = 1 << 12  # a page: smaller records are read from the disk as a whole anyway
_NO_RESERVE = 0x4000 if sys.platform.startswith("linux") else 0  # MAP_NORESERVE: no memory is set aside for the whole file


class Content(NamedTuple):
    """The content of a file.

    Attributes:
        data: uint8 `[bytes]`.
        load: makes some bytes of it readable, from the first to the end; others no longer are.
    """

    data: np.ndarray
    load: Callable[[int, int], None]


def content_of(file: BinaryIO, path: str | os.PathLike[str], records: int) -> Content:
    """Return the content of an open local file.

    Raises:
        DatasetError: it cannot be mapped into memory; from `load`, it was cut.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        return Content(np.zeros(0, np.uint8), lambda begin, end: None)
    is_copied = size <= MAX_COPIED * records and hasattr(mmap.mmap, "madvise")
    try:
        if not is_copied:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return Content(np.frombuffer(mapped, np.uint8), lambda begin, end: None)
        room = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path}: cannot be mapped into memory ({reason}), expected a TFRecord file.") from error
    return Content(np.frombuffer(room, np.uint8), _Copy(file, path, room).load)


class _Copy:
    """Copies pieces of a file into anonymous memory of its size, of which only these take memory."""

    def __init__(self, file: BinaryIO, path: str | os.PathLike[str], room: mmap.mmap) -> None:
        self._file, self._path, self._room = file, path, room

    def load(self, begin: int, end: int) -> None:
        self._room.madvise(mmap.MADV_DONTNEED)
        view = memoryview(self._room)
        while begin < end:
            copied = os.preadv(self._file.fileno(), [view[begin:end]], begin)
            if not copied:
                raise DatasetError(
                    f"{self._path}: was cut while it was indexed: nothing can be read at byte {begin} of {len(view)}. Index the file again "
                    "when it is complete."
                )
            begin += copied
