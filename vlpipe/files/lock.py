"""The lock of a target that is being written: a file beside it, on which the kernel holds an advisory lock until the process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import stat
import time
import weakref
from pathlib import Path

from vlpipe.errors import DatasetError, DatasetExistsError, shortened
from vlpipe.regular_files import kind_of

_NOTE_BYTES = 4096
# What a lock file may contain: nothing (its process was killed before it wrote the note), the note, or the zeros of a power failure.
_OURS = re.compile(rb'\0*|\{"process": .*', re.DOTALL)


class Lock:
    """A lock on a file beside the target; the kernel releases it when the process ends, in whatever way.

    Nothing of a file that is not a lock file of vlpipe is changed, and no link is followed: who may write beside the target could
    otherwise choose a file of the user to be emptied.

    Args:
        path: of the lock file.
        target: what it protects, for an error.

    Raises:
        DatasetExistsError: another process, or this one, holds the lock.
        DatasetError: there is something else of this name, or the file system has no locks.
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self._path = path
        self._file: int | None = None
        while True:
            file = _open(path)
            try:
                _lock(file, path, target)  # before its content is looked at, which its holder may be writing
                # The previous holder may have removed the file between our open and our lock: then this lock protects nothing.
                if _is_same_file(file, path):
                    _refuse_foreign(file, path)
                    break
            except BaseException:
                os.close(file)
                raise
            os.close(file)
        self._file = file
        note = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(note).encode(), 0)
        except BaseException:
            self.release()
            raise
        _locks.add(self)

    def leave_to_parent(self) -> None:
        """Close the file in a forked process: otherwise a worker that outlives its killed parent would keep the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def release(self) -> None:
        """Remove the file and release the lock. Where the file cannot be removed it stays, unlocked: the next writer takes it over."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # raised here, it would hide the error that ended the work
            if _is_same_file(file, self._path):
                self._path.unlink()
        with contextlib.suppress(OSError):
            os.close(file)


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _leave_locks_to_parent() -> None:
    for lock in _locks:
        lock.leave_to_parent()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags, 0o644)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):
                raise _foreign(path, kind_of(mode)) from error
        raise


def _refuse_foreign(file: int, path: Path) -> None:
    """Refuse a file that vlpipe did not make as a lock: its content would be lost."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise _foreign(path, kind_of(status.st_mode))
    if status.st_nlink > 1:
        raise _foreign(path, f"a file with {status.st_nlink} names (hard links)")
    if status.st_size > _NOTE_BYTES or not _OURS.fullmatch(os.pread(file, _NOTE_BYTES, 0)):
        raise _foreign(path, f"a file of {status.st_size} bytes that vlpipe did not write")


def _foreign(path: Path, what: str) -> DatasetError:
    return DatasetError(f"{path}: is {what}, where the lock file of vlpipe has to be. Move it away, or choose another target.")


def _lock(file: int, path: Path, target: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise DatasetError(f"{path}: cannot be locked ({error.strerror}). Write to a file system that has locks.") from error
        raise DatasetExistsError(
            f"{target}: is being written by {_holder(file)}. Wait until it ends, stop it, or choose another target."
        ) from error


def _holder(file: int) -> str:
    try:
        note = json.loads(os.pread(file, _NOTE_BYTES, 0))
        return shortened(f"process {note['process']} on {note['host']} since {note['since']}", 200)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False
