"""Replace one file in a single step: at any moment, even after a kill, it has the old content or the new."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from pathlib import Path

from vlpipe.regular_files import create

_ATTEMPTS = 3
_SCRATCH = re.compile(r"\..+\.[0-9a-f]{8}\.new", re.DOTALL)
_cleared: set[tuple[int, int]] = set()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a random name beside it, and rename it. What killed processes left in its directory is removed.

    The directory and the file may not be links: the content would be written to wherever they lead. A link of the name of the file is
    replaced, and what it leads to is not touched.

    Args:
        path: the file; its directory exists.
        content: the bytes to write.

    Raises:
        OSError: the file cannot be written; the old one is what it was.

    Example:
        >>> import pathlib
        >>> replace_file(pathlib.Path("notes"), b"new")
        >>> pathlib.Path("notes").read_bytes()
        b'new'
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _remove_left_behind(directory)
        for attempt in range(_ATTEMPTS):
            try:
                _write(directory, path.name, content)
                return
            except FileNotFoundError:  # another process removed it before it was locked
                if attempt == _ATTEMPTS - 1:
                    raise
    finally:
        os.close(directory)


def _write(directory: int, name: str, content: bytes) -> None:
    scratch = f".{name}.{secrets.token_hex(4)}.new"
    file = create(scratch, directory=directory)
    try:
        with file:
            _lock(file.fileno())
            file.write(content)
            file.flush()
            os.rename(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=directory)
        raise


def _remove_left_behind(directory: int) -> None:
    """Remove the scratch files on which no process holds a lock; once for each directory, which may have very many files."""
    status = os.fstat(directory)
    if (status.st_dev, status.st_ino) in _cleared:
        return
    _cleared.add((status.st_dev, status.st_ino))
    for entry in os.listdir(directory):
        if _SCRATCH.fullmatch(entry):
            with contextlib.suppress(OSError):
                file = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
                try:
                    if _lock(file):
                        os.unlink(entry, dir_fd=directory)
                finally:
                    os.close(file)


def _lock(file: int) -> bool:
    """Lock a file; return whether it is locked: another process may hold the lock, or the file system may have none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
