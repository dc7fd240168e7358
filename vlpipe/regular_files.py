"""Open regular files, and nothing else: a pipe would wait for a writer, a device has no end, and a link may lead to another user's file.

Every file of a user that vlpipe opens itself is opened here (`tests/test_regular_files.py` holds that); at an address, by
`files/filesystem.py`.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import Any, BinaryIO

from vlpipe.errors import DatasetError

Path = str | os.PathLike[str]

# Opening never waits (O_NONBLOCK: a pipe without a writer), never makes a terminal that of the process, never reaches a child.
_ALWAYS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_BLOCK = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(mode: int) -> str:
    """Return what a file is, by its `st_mode`: "a regular file", "a pipe", "a directory", ..."""
    return _KINDS.get(stat.S_IFMT(mode), "a regular file" if stat.S_ISREG(mode) else "something unknown")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without ever waiting.

    Raises:
        OSError: the file cannot be opened, or is not a regular file; its `strerror` says what it is instead. A read that fails later
            raises a `DatasetError` that names the file and the byte.

    Example:
        >>> import os
        >>> os.mkfifo("pipe")
        >>> open_regular("pipe")
        Traceback (most recent call last):
        OSError: [Errno 22] it is a pipe, not a regular file: 'pipe'
    """
    try:
        _refuse_other(os.stat(path), path)  # before it is opened: opening a device can already do something
        file = os.open(path, os.O_RDONLY | _ALWAYS)
    except ValueError as error:  # a zero byte, or a lone surrogate
        raise OSError(errno.EINVAL, f"no file can have this name: {error}", os.fspath(path)) from error
    try:
        _refuse_other(os.fstat(file), path)  # it may have been exchanged in between
        return io.BufferedReader(_Local(file, os.fspath(path)))
    except BaseException:
        os.close(file)
        raise


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        most: bytes that the file may have; None: any number.

    Raises:
        OSError: as `open_regular`; or the file is larger (`strerror` says so).
    """
    with open_regular(path) as file:
        return read_open(file, path, most)


def read_open(file: BinaryIO, path: Path, most: int | None = None) -> bytes:
    """Return the content of an open file; `path` is its name in an error. Arguments and errors are those of `read_regular`."""
    if most is None:
        return file.read()
    blocks, size = [], 0
    while size <= most and (block := file.read(_BLOCK)):  # not most + 1 at once: memory for all of it would be reserved
        blocks.append(block)
        size += len(block)
    if size > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes, the most that is read", os.fspath(path))
    return b"".join(blocks)


def create(path: Path, *, directory: int | None = None) -> BinaryIO:
    """Create a file that does not exist yet, and open it for writing. Where the name is taken, by a link too, nothing is touched.

    Args:
        path: of the file.
        directory: descriptor of the directory that `path` is relative to; None: the working directory.

    Raises:
        FileExistsError: the name is taken.
        OSError: the file cannot be created.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _ALWAYS, 0o666, dir_fd=directory), "wb")


def open_to_append(path: Path) -> BinaryIO:
    """Open a file for writing at its end, and create it where it does not exist; links are not followed.

    Raises:
        OSError: the file cannot be opened, or is not a regular file with one name.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | _ALWAYS, 0o666)
    try:
        _refuse_other(os.fstat(file), path)
        return os.fdopen(file, "ab")
    except BaseException:
        os.close(file)
        raise


def _refuse_other(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(status.st_mode)}, not a regular file", os.fspath(path))


class _Local(io.FileIO):
    """A local file whose failing reads say where."""

    def __init__(self, file: int, path: str) -> None:
        super().__init__(file, "rb")
        self._path = path

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise self._named(error) from error

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            raise self._named(error) from error

    def _named(self, error: OSError) -> DatasetError:
        named = DatasetError(
            f"{self._path}: cannot be read from byte {self.tell()} on ({error.strerror}): its disk or its file system fails. "
            "Try again, or restore the file from a copy."
        )
        named.strerror = error.strerror  # for callers that name the place themselves
        return named
