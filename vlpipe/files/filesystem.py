"""Files and directories by a path, or by an address that TensorFlow's file systems know (gs://bucket/file): opened, listed, measured alike.

Whatever goes wrong at an address is an OSError, as it is with a path. TensorFlow is loaded for addresses only.
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

Path = str | os.PathLike[str]

BUFFER_BYTES = 1 << 16  # that are asked for at the least
AT_ONCE = 8  # addresses: whoever asks for one is mostly waiting

Result = TypeVar("Result")


class Measures(NamedTuple):
    """What a file system knows of what is at a place.

    Attributes:
        bytes: its size.
        mtime_ns: when it was changed; 0 where that is not known.
        is_directory: it is a directory.
        is_file: it is a file, and not a pipe, say, which would be waited for.
    """

    bytes: int
    mtime_ns: int
    is_directory: bool
    is_file: bool


def is_address(path: Path) -> bool:
    """Whether TensorFlow's file systems have to be asked."""
    return "://" in os.fspath(path)


def is_file(path: Path) -> bool:
    """Whether there is a file; False too where that cannot be told."""
    with contextlib.suppress(OSError):
        return measured(path).is_file
    return False


def measured(path: Path) -> Measures:
    """What is at a place.

    Raises:
        OSError: nothing is, or it cannot be told.
    """
    if not is_address(path):
        found = os.stat(path)
        return Measures(found.st_size, found.st_mtime_ns, stat.S_ISDIR(found.st_mode), stat.S_ISREG(found.st_mode))
    with _as_os_errors(path) as gfile:
        statistics = gfile.stat(path)
        return Measures(statistics.length, statistics.mtime_nsec, statistics.is_directory, not statistics.is_directory)


def names_in(directory: Path) -> list[str]:
    """The names of everything in a directory, sorted; in a bucket, those of directories may have a slash behind.

    Raises:
        OSError: there is none, or it cannot be listed.
    """
    if not is_address(directory):
        return sorted(os.listdir(directory))
    with _as_os_errors(directory) as gfile:
        return sorted(gfile.listdir(directory))


def globbed(pattern: str) -> list[str]:
    """The files and directories that a glob names, sorted; `**` is followed on local file systems only.

    Raises:
        OSError: they cannot be listed.
    """
    if not is_address(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    with _as_os_errors(pattern) as gfile:
        return sorted(gfile.glob(pattern))


def open_file(path: Path) -> BinaryIO:
    """A file open for reading, at any place of it. What stands at an address is read in portions, and not copied.

    Raises:
        OSError: it cannot be opened; while it is read, a DatasetError that names the address.
    """
    return io.BufferedReader(_Remote(os.fspath(path)), BUFFER_BYTES) if is_address(path) else open(path, "rb")


def each(function: Callable[[str], Result], paths: Sequence[str]) -> Iterator[Result]:
    """What a function says of each path, in their order; several addresses are asked at a time, by as many threads."""
    if not any(map(is_address, paths)):
        yield from map(function, paths)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = [pool.submit(function, path) for path in paths]
        try:
            for answer in answers:
                yield answer.result()
        finally:
            for answer in answers:
                answer.cancel()


class _Remote(io.RawIOBase):
    """A file at an address."""

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
            raise DatasetError(
                f"{self._address}: cannot be read from byte {self._at} on ({error.strerror}). Try again, or copy the file here."
            ) from error
        if not data:
            raise DatasetError(
                f"{self._address}: ends after {self._at} bytes, it had {self._size} when it was opened: it was cut meanwhile. Try again "
                "when it is complete."
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
    """`tf.io.gfile`, and its errors as those of a local file system.

    Raises:
        OSError: instead of an `OpError`.
    """
    import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, error.message or os.strerror(errno.ENOENT), os.fspath(path)) from error
    except tf.errors.UnimplementedError as error:
        hint = "some file systems need a package that registers them, such as tensorflow-io (import tensorflow_io)"
        raise OSError(errno.ENOTSUP, f"{error.message}; {hint}", os.fspath(path)) from error
    except (tf.errors.OpError, UnicodeError) as error:
        raise OSError(errno.EIO, getattr(error, "message", "") or str(error) or type(error).__name__, os.fspath(path)) from error
