"""A directory that appears complete or not at all.

It is filled under a hidden name beside the target, flushed to disk, and renamed. If it replaces an existing target, the two are exchanged
in a single step: at any moment, even after a crash, the target is the old directory or the new one.

Some systems cannot exchange directories (NFS, many FUSE file systems, macOS). There the old directory is first renamed to
`.NAME.staged-XXXXXXXX-old` and then the new one to the target. A crash between the two leaves no target, but both directories: the next
writer puts the old one back before it does anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from vlpipe.errors import ArgumentError, DatasetError, DatasetExistsError, VlpipeError
from vlpipe.files.filesystem import is_address
from vlpipe.files.lock import Lock

_log = logging.getLogger("vlpipe")

# An address that went through `pathlib`, which keeps one slash of two; a drive of Windows has one letter.
_SQUEEZED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+")


class AtomicDirectory:
    """A directory to fill (`path`), which `commit` makes the target and `abort` removes.

    It locks the target: a second one for the same target is refused, in this process and in others. If this process is killed, the kernel
    releases the lock, and the next `AtomicDirectory` for the target puts the old directory back, should it be missing, and removes the
    files left behind. In a forked process it can neither be committed nor removed.

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
        parents = [self.target.parent, *self.target.parent.parents]
        # Where a parent is made, the directory that lists it has to reach the disk too.
        made = [parent for parent in parents if not parent.exists()]
        self._to_flush = parents[: len(made) + 1]
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.target.parent / f".{self.target.name}.lock", self.target)
        try:
            self._put_back()
            self._refuse_existing()  # what was put back
            for left_behind in sorted(self._left_behind()):
                _remove(left_behind)
            self.path = self.target.parent / f".{self.target.name}.staged-{secrets.token_hex(4)}"
            self.path.mkdir()
        except BaseException:
            self._lock.release()
            raise

    def _left_behind(self, ending: str = "(-old)?") -> Iterator[Path]:
        """Yield the directories that killed processes left for this target."""
        # The full pattern: a directory of a target that is called "NAME.staged-2" is not left over from NAME.
        pattern = re.compile(re.escape(f".{self.target.name}.staged-") + "[0-9a-f]{8}" + ending)
        for entry in os.listdir(self.target.parent):
            path = self.target.parent / entry
            if pattern.fullmatch(entry) and path.is_dir() and not path.is_symlink():
                yield path

    def _put_back(self) -> None:
        """Put the old directory back, where a process was killed after it had set it aside and before the new one was the target."""
        if os.path.lexists(self.target) and (not self.target.is_dir() or any(self.target.iterdir())):
            return
        # Between the two renames both are there: the old directory, set aside, and the new one under its own name.
        set_aside = [path for path in self._left_behind("-old") if path.with_name(path.name.removesuffix("-old")).is_dir()]
        if set_aside:
            os.rename(max(set_aside, key=lambda path: path.stat().st_mtime_ns), self.target)
            _flush(self.target.parent)
            _log.warning("%s: a process was killed while it replaced this directory; the old one was put back", self.target)

    def check_process(self) -> None:
        """Refuse to go on in a forked process: both would write the same files.

        Raises:
            VlpipeError: this is a fork of the process that opened the directory.
        """
        if os.getpid() != self._process:
            raise VlpipeError(
                f"{self.target}: was opened for writing by process {self._process}, and this is process {os.getpid()}, forked from it. "
                "Write and close in the process that opened it, or open it after the fork."
            )

    def commit(self) -> None:
        """Make the filled directory the target. Even after a crash during the commit, the target is never partial.

        Raises:
            DatasetExistsError: the target has appeared since, and may not be replaced.
            DatasetError: the system cannot write the directory; the message says whether the target is still the old one.
            VlpipeError: as `check_process`.
        """
        self.check_process()
        try:
            with os_errors_as_dataset_errors(str(self.target)):
                for file in sorted(self.path.iterdir()):
                    _flush(file)
                _flush(self.path)
                self._refuse_existing()  # again: the flush can take long enough for a target to appear
                _replace(self.path, self.target)
            try:
                for parent in self._to_flush:
                    _flush(parent)
            except OSError as error:
                raise DatasetError(
                    f"{self.target}: is complete and in its place, but the system does not confirm that its name is on the disk "
                    f"({error.strerror or error}): a power failure could still undo that. Check the disk; nothing has to be written again."
                ) from error
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


def put_back(target: Path) -> None:
    """Put a directory back that a process, killed while it replaced it, had set aside, for a reader that takes a missing directory as new.

    A writer does so first of all, under its lock.

    Raises:
        VlpipeError: another process is writing the directory.
    """
    if set_aside(target) is not None:  # asked without a lock: of several ranks that find nothing yet, none may refuse the others
        AtomicDirectory(target, overwrite=True, replaceable=lambda _: None).abort()


def set_aside(target: Path) -> Path | None:
    """The old directory of a missing target, which a process that was killed had set aside; None without one."""
    if os.path.lexists(target):
        return None
    return next(target.parent.glob(f".{glob.escape(target.name)}.staged-*-old"), None)


@contextlib.contextmanager
def os_errors_as_dataset_errors(path: str) -> Iterator[None]:
    """Raise errors of the system (no room, no permission) as a `DatasetError` that names the dataset: the file itself is removed anyway."""
    try:
        yield
    except VlpipeError:
        raise
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror or error}); nothing is committed. Make room for it, or choose another target."
        ) from error


def refuse_address_as_target(target: str | os.PathLike[str], one: str = "directory", many: str = "directories") -> None:
    """Refuse to write to an address: as a path, s3://bucket/train is a folder named "s3:" in the working directory.

    Args:
        one, many: what would be written.

    Raises:
        ArgumentError: the target is an address, such as s3://bucket/train.
    """
    text = os.fsdecode(target)
    squeezed = _SQUEEZED.match(text)
    if is_address(text) or squeezed:
        address = f"{squeezed[1]}//{text[squeezed.end() :]}" if squeezed else text
        raise ArgumentError(
            f"{address}: is an address, and vlpipe writes to local {many} only. Write to a local {one}, then copy that {one} as a whole, "
            "with fsspec or the command of the object store."
        )


def _flush(path: Path) -> None:
    """Wait until a file or a directory is on the disk; for a directory, where the file system knows that."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        if path.is_dir():  # a parent that may be written to, but not listed
            return
        raise
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
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
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    with contextlib.suppress(OSError):
        os.rename(aside, new)


def _remove(left_behind: Path) -> None:
    """Remove a directory; one that was set aside loses its name first, so that what is left after a kill is never put back."""
    nameless = left_behind.with_name(left_behind.name.removesuffix("-old"))
    with contextlib.suppress(OSError):
        os.rename(left_behind, nameless)
        shutil.rmtree(nameless, ignore_errors=True)


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
