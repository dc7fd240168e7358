"""Open, list and stat files by a path, or by an address that TensorFlow's file systems know (gs://bucket/file), in the same way.

Errors at an address are raised as `OSError`, like those of a path. TensorFlow is loaded for addresses only.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeVar

from vlpipe.errors import DatasetError
from vlpipe.regular_files import open_regular, read_open

Path = str | os.PathLike[str]

BUFFER_BYTES = 1 << 16  # the smallest request to an address
MAX_REQUESTS = 8  # addresses at a time: a request is mostly waiting

Result = TypeVar("Result")


class FileStat(NamedTuple):
    """The metadata of a file or directory.

    Attributes:
        bytes: size.
        mtime_ns: time of the last change, in nanoseconds; 0 if the file system does not know it.
        is_directory: whether it is a directory.
        is_file: whether it is a regular file, and not, for example, a pipe, which would block a reader.
    """

    bytes: int
    mtime_ns: int
    is_directory: bool
    is_file: bool


def is_address(path: Path) -> bool:
    """Return whether a path is an address, such as gs://bucket/file.

    Example:
        >>> is_address("gs://bucket/a.tfrecord"), is_address("data/a.tfrecord")
        (True, False)
    """
    return "://" in os.fspath(path)


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file; False also if the file system cannot tell."""
    with contextlib.suppress(OSError):
        return stat_file(path).is_file
    return False


def stat_file(path: Path) -> FileStat:
    """Return the metadata of a file or directory.

    Raises:
        OSError: it does not exist, or the file system cannot be asked.
    """
    if not is_address(path):
        status = os.stat(path)
        return FileStat(status.st_size, status.st_mtime_ns, stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode))
    with _as_os_errors(path) as gfile:
        status = gfile.stat(path)
        return FileStat(status.length, status.mtime_nsec, status.is_directory, not status.is_directory)


def names_in(directory: Path) -> list[str]:
    """Return the sorted names of all files and directories in a directory; in a bucket, names of directories may end with a slash.

    Raises:
        OSError: the directory does not exist, or cannot be listed.
    """
    if not is_address(directory):
        return sorted(os.listdir(directory))
    with _as_os_errors(directory) as gfile:
        return sorted(gfile.listdir(directory))


def globbed(pattern: str) -> list[str]:
    """Return the sorted files and directories that match a glob; `**` works on local file systems only.

    Raises:
        OSError: the file system cannot list them.
    """
    if not is_address(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    with _as_os_errors(pattern) as gfile:
        return sorted(gfile.glob(pattern))


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; it is seekable. A file at an address is read in pieces, without a copy.

    Raises:
        OSError: the file cannot be opened, or is not a regular file. A read that fails later raises a `DatasetError` that names it.
    """
    return io.BufferedReader(_Remote(os.fspath(path)), BUFFER_BYTES) if is_address(path) else open_regular(path)


def read_file(path: Path, most: int | None = None) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises:
        OSError: as `open_file`; or the file is larger.
    """
    with open_file(path) as file:
        return read_open(file, path, most)


def each(function: Callable[[str], Result], paths: Sequence[str]) -> Iterator[Result]:
    """Yield the result of a function for each path, in their order. For addresses, `MAX_REQUESTS` threads call it at the same time."""
    if not any(map(is_address, paths)):
        yield from map(function, paths)
        return
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        futures = [pool.submit(function, path) for path in paths]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


class _Remote(io.RawIOBase):
    """A file at an address, without a buffer."""

    def __init__(self, address: str) -> None:
        self._address, self._at = address, 0
        with _as_os_errors(address) as gfile:
            self._file = gfile.GFile(address, "rb")
            self._size = self._file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        try:
            with _as_os_errors(self._address):
                if self._at != self._file.tell():
                    self._file.seek(self._at)
                data = self._file.read(len(buffer))
        except OSError as error:
            named = DatasetError(
                f"{self._address}: cannot be read from byte {self._at} on ({error.strerror}). Try again, or copy the file here."
            )
            named.strerror = error.strerror  # for callers that name the place themselves
            raise named from error
        if not data:
            raise DatasetError(
                f"{self._address}: ends after {self._at} bytes, it had {self._size} when it was opened: it was cut meanwhile. "
                "Try again when it is complete."
            )
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def _as_os_errors(path: Path) -> Iterator[Any]:
    """Give access to `tf.io.gfile`; raise its errors as those of a local file system.

    Raises:
        OSError: instead of a `tf.errors.OpError`.
    """
    import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, error.message or os.strerror(errno.ENOENT), os.fspath(path)) from error
    except tf.errors.UnimplementedError as error:
        raise OSError(errno.ENOTSUP, f"{error.message}; {_way_to_a_file_system(tf.__version__)}", os.fspath(path)) from error
    except (tf.errors.OpError, UnicodeError) as error:
        raise OSError(errno.EIO, getattr(error, "message", "") or str(error) or type(error).__name__, os.fspath(path)) from error


def _way_to_a_file_system(tensorflow: str) -> str:
    """Advice where TensorFlow has no file system for an address.

    Args:
        tensorflow: its version. The last tensorflow-io, 0.37.1, loads its file systems under 2.16 and 2.17 only.
    """
    major, minor = (int(part) for part in tensorflow.split(".")[:2])
    if (major, minor) < (2, 18):
        return "some file systems need a package that registers them, such as tensorflow-io (import tensorflow_io)"
    return "tensorflow-io adds no file systems from TensorFlow 2.18 on: copy the files here, with fsspec or the command of the object store"
