"""A directory that appears complete or not at all.

It is filled under a hidden name beside the target, flushed to disk, and renamed. If it replaces an existing target, the two are exchanged
in a single step: at any moment, even after a crash, the target is the old directory or the new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from vlpipe.errors import ArgumentError, DatasetError, DatasetExistsError, VlpipeError
from vlpipe.files.filesystem import is_address

# An address that went through `pathlib`, which keeps one slash of two; a drive of Windows has one letter.
_SQUEEZED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+")


class AtomicDirectory:
    """A directory to fill (`path`), which `commit` makes the target and `abort` removes.

    It locks the target: a second one for the same target is refused, in this process and in others. If this process is killed, the kernel
    releases the lock, and the next `AtomicDirectory` for the target removes the files left behind.

    Args:
        target: the directory to make; missing parents are made.
        overwrite: replace an existing target.
        replaceable: given the path of an existing target, returns None if it may be replaced, else the reason why not.

    Attributes:
        target: real path of the target.
        path: where to write the files.

    Raises:
        ArgumentError: the target is an address.
        DatasetExistsError: the target exists and may not be replaced, or is being written by another process.
        DatasetError: the directory cannot be made: no permission, no room, a parent that is a file.

    Example:
        >>> directory = AtomicDirectory("results", overwrite=False, replaceable=lambda path: "it is not mine")
        >>> _ = (directory.path / "scores.txt").write_text("0.9")
        >>> directory.commit()
        >>> os.listdir("results")
        ['scores.txt']
    """

    def __init__(self, target: str | os.PathLike[str], *, overwrite: bool, replaceable: Callable[[Path], str | None]) -> None:
        refuse_address_as_target(target)
        self.target = Path(os.path.realpath(target))
        self._process = os.getpid()
        self._overwrite = overwrite
        self._replaceable = replaceable
        try:
            self._prepare()
        except VlpipeError:
            raise
        except OSError as error:
            raise DatasetError(
                f"{self.target}: cannot be made ({error.strerror}: {error.filename}). Choose another target, or make room for it."
            ) from error

    def _prepare(self) -> None:
        self._refuse_existing()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _Lock(self.target.parent / f".{self.target.name}.lock", self.target)
        try:
            # The full pattern: a directory of a target that is called "NAME.staged-2" is not left over from NAME.
            left_behind = re.compile(re.escape(f".{self.target.name}.staged-") + "[0-9a-f]{8}(-old)?")
            for entry in os.listdir(self.target.parent):
                if left_behind.fullmatch(entry):
                    shutil.rmtree(self.target.parent / entry, ignore_errors=True)
            self.path = self.target.parent / f".{self.target.name}.staged-{secrets.token_hex(4)}"
            self.path.mkdir()
        except BaseException:
            self._lock.release()
            raise

    def commit(self) -> None:
        """Make the filled directory the target. Even after a crash during the commit, the target is never partial.

        Raises:
            DatasetExistsError: the target has appeared since, and may not be replaced.
            OSError: the system cannot write the directory; the target stays as it was.
        """
        try:
            for file in sorted(self.path.iterdir()):
                _flush(file)
            _flush(self.path)
            self._refuse_existing()  # again: the flush can take long enough for a target to appear
            _replace(self.path, self.target)
            _flush(self.target.parent)
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove the directory and release the lock. Does nothing after a commit, or in a forked process."""
        if os.getpid() != self._process:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self.target.is_dir():
            raise DatasetExistsError(f"{self.target}: exists and is not a directory. Choose another target.")
        if not any(self.target.iterdir()):
            return
        if not self._overwrite:
            raise DatasetExistsError(
                f"{self.target}: exists already. Pass overwrite=True (--overwrite) to replace it, or choose another target."
            )
        reason = self._replaceable(self.target)
        if reason:
            raise DatasetExistsError(f"{self.target}: not replaced, because {reason}. Choose another target, or remove it yourself.")


def refuse_address_as_target(target: str | os.PathLike[str]) -> None:
    """Refuse to write to an address: as a path, s3://bucket/train is a folder named "s3:" in the working directory.

    Raises:
        ArgumentError: the target is an address, such as s3://bucket/train.
    """
    text = os.fsdecode(target)
    squeezed = _SQUEEZED.match(text)
    if is_address(text) or squeezed:
        address = f"{squeezed[1]}//{text[squeezed.end() :]}" if squeezed else text
        raise ArgumentError(
            f"{address}: is an address, and vlpipe writes to local directories only. Write to a local directory, then copy that "
            "directory as a whole, with fsspec or the command of the object store."
        )


class _Lock:
    """An advisory lock on a file beside the target; the kernel releases it when the process ends, in whatever way."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path = path
        self._file: int | None = None
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _read_holder(file)
                os.close(file)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise DatasetError(f"{path}: cannot be locked ({error.strerror}). Write to a file system that has locks.") from error
                raise DatasetExistsError(
                    f"{target}: is being written by {holder}. Wait until it ends, stop it, or choose another target."
                ) from error
            # The previous holder may have removed the file between our open and our lock: then this lock protects nothing.
            if _is_same_file(file, path):
                break
            os.close(file)
        self._file = file
        holder_note = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder_note).encode(), 0)
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
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


_locks: weakref.WeakSet[_Lock] = weakref.WeakSet()


def _leave_locks_to_parent() -> None:
    for lock in _locks:
        lock.leave_to_parent()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


def _read_holder(file: int) -> str:
    try:
        holder = json.loads(os.pread(file, 4096, 0))
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _replace(new: Path, target: Path) -> None:
    """Rename `new` to `target`. A directory that was the target takes the name of `new`."""
    try:
        os.rename(new, target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _exchange(new, target):
        return
    # This system cannot exchange directories: for an instant the target is missing, and the old one lies beside it.
    aside = target.parent / f"{new.name}-old"
    os.rename(target, aside)
    os.rename(new, target)
    with contextlib.suppress(OSError):
        os.rename(aside, new)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two directories in one step; return False if the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    at_fdcwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange) == 0
