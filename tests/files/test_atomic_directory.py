"""`AtomicDirectory`: it appears complete or not at all, locks its target, and removes only what belongs to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import vlpipe
from vlpipe.errors import ArgumentError, DatasetError, DatasetExistsError, VlpipeError
from vlpipe.files import atomic_directory
from vlpipe.files.atomic_directory import AtomicDirectory, put_back


def open_atomic(target: Path, overwrite: bool = False, reason: str | None = None) -> AtomicDirectory:
    return AtomicDirectory(target, overwrite=overwrite, replaceable=lambda _: reason)


def fill(directory: AtomicDirectory, content: str = "new") -> AtomicDirectory:
    (directory.path / "file").write_text(content)
    return directory


def listing(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def old_target(parent: Path) -> Path:
    (parent / "it").mkdir()
    (parent / "it" / "file").write_text("old")
    return parent / "it"


def test_the_target_appears_with_the_commit_and_nothing_else_remains(tmp_path: Path) -> None:
    directory = fill(open_atomic(tmp_path / "it"))
    assert directory.path.parent == tmp_path  # beside the target, on the same file system
    assert all(name.startswith(".it.") for name in listing(tmp_path))
    directory.commit()
    assert listing(tmp_path) == ["it"]
    assert (tmp_path / "it" / "file").read_text() == "new"
    directory.abort()
    assert listing(tmp_path / "it") == ["file"]


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    fill(open_atomic(tmp_path / "it")).abort()
    assert listing(tmp_path) == []


def test_parents_are_made(tmp_path: Path) -> None:
    fill(open_atomic(tmp_path / "a" / "b" / "it")).commit()
    assert (tmp_path / "a" / "b" / "it" / "file").read_text() == "new"


def test_the_old_stays_until_the_new_is_complete(tmp_path: Path) -> None:
    target = old_target(tmp_path)
    directory = fill(open_atomic(target, overwrite=True))
    assert (target / "file").read_text() == "old"
    directory.commit()
    assert (target / "file").read_text() == "new"
    assert listing(tmp_path) == ["it"]


def test_without_an_exchange_the_old_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_directory, "_exchange", lambda *_: False)  # as on macOS
    target = old_target(tmp_path)
    fill(open_atomic(target, overwrite=True)).commit()
    assert (target / "file").read_text() == "new"
    assert listing(tmp_path) == ["it"]


def test_the_exchange_is_made_by_the_system_in_one_step(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is Linux's")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert atomic_directory._exchange(tmp_path / "a", tmp_path / "b")
    assert (listing(tmp_path / "a"), listing(tmp_path / "b")) == (["b"], ["a"])
    assert not atomic_directory._exchange(tmp_path / "a", tmp_path / "missing")


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    fill(open_atomic(tmp_path / "it")).commit()
    assert (tmp_path / "it" / "file").read_text() == "new"


def test_a_target_that_exists_is_refused(tmp_path: Path) -> None:
    target = old_target(tmp_path)
    with pytest.raises(
        DatasetExistsError, match=r"it: exists already\. Pass overwrite=True \(--overwrite\) to replace it, or choose another target\."
    ):
        open_atomic(target)
    assert listing(tmp_path) == ["it"]


def test_a_target_that_is_not_replaceable_is_refused(tmp_path: Path) -> None:
    target = old_target(tmp_path)
    with pytest.raises(DatasetExistsError, match=r"it: not replaced, because it sings\. Choose another target, or remove it yourself\."):
        open_atomic(target, overwrite=True, reason="it sings")
    assert (target / "file").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "it").write_text("precious")
    with pytest.raises(DatasetExistsError, match=r"it: exists and is not a directory\. Choose another target\."):
        open_atomic(tmp_path / "it", overwrite=overwrite)
    assert (tmp_path / "it").read_text() == "precious"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = old_target(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(target)
    fill(open_atomic(tmp_path / "link", overwrite=True)).commit()
    assert (tmp_path / "link").is_symlink()
    assert (target / "file").read_text() == "new"
    assert listing(tmp_path / "elsewhere") == ["it"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    directory = open_atomic(tmp_path / "it", overwrite=overwrite, reason="it is a user's")
    fill(directory)
    old_target(tmp_path)
    with pytest.raises(DatasetExistsError, match="it: exists already" if not overwrite else "it: not replaced, because it is a user's"):
        directory.commit()
    assert (tmp_path / "it" / "file").read_text() == "old"
    assert listing(tmp_path) == ["it"]


def test_a_target_that_appears_during_the_flush_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = fill(open_atomic(tmp_path / "it"))
    flush = atomic_directory._flush

    def slow_flush(path: Path) -> None:
        flush(path)
        if path == directory.path:
            old_target(tmp_path)

    monkeypatch.setattr(atomic_directory, "_flush", slow_flush)
    with pytest.raises(DatasetExistsError, match="it: exists already"):
        directory.commit()
    assert (tmp_path / "it" / "file").read_text() == "old"


# ---- two writers -----------------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_the_first(tmp_path: Path) -> None:
    first = open_atomic(tmp_path / "it")
    message = rf"it: is being written by process {os.getpid()} on {re.escape(socket.gethostname())} since [-\d]+ [:\d]+\. Wait until"
    with pytest.raises(DatasetExistsError, match=message):
        open_atomic(tmp_path / "it", overwrite=True)
    first.abort()
    open_atomic(tmp_path / "it").abort()
    assert listing(tmp_path) == []


def test_a_process_that_holds_the_lock_is_named(tmp_path: Path) -> None:
    make = f"AtomicDirectory({str(tmp_path / 'it')!r}, overwrite=False, replaceable=str)"
    code = f"from vlpipe.files.atomic_directory import AtomicDirectory; directory = {make}; print('ready'); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(DatasetExistsError, match=rf"it: is being written by process {other.pid} on "):
            open_atomic(tmp_path / "it")
        other.kill()
        other.wait()
    directory = fill(open_atomic(tmp_path / "it"))  # the lock ended with the process, and its directory is removed
    directory.commit()
    assert listing(tmp_path) == ["it"]


def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = """
import os, sys, time
from vlpipe.files.atomic_directory import AtomicDirectory
directory = AtomicDirectory(sys.argv[1], overwrite=False, replaceable=str)
if os.fork() == 0:
    directory.abort()  # as after an exception in the child: the directory belongs to the parent
    print(os.getpid(), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "it")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            with pytest.raises(DatasetExistsError, match=f"it: is being written by process {parent.pid} on "):
                open_atomic(tmp_path / "it")
            assert len(list(tmp_path.glob(".it.staged-*"))) == 1
            parent.kill()
            parent.wait()
            open_atomic(tmp_path / "it").abort()
        finally:
            parent.kill()
            os.kill(child, signal.SIGKILL)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"process": 1}', b"\xff" * 5000])
def test_a_lock_whose_note_cannot_be_read(tmp_path: Path, note: bytes) -> None:
    (tmp_path / ".it.lock").write_bytes(note)
    with (tmp_path / ".it.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatasetExistsError, match="it: is being written by another process. Wait until it ends"):
            open_atomic(tmp_path / "it")


def test_a_lock_file_without_a_holder_is_taken_over(tmp_path: Path) -> None:
    note = {"process": 1, "host": "left by a killed process, and longer than what replaces it" * 10, "since": ""}
    (tmp_path / ".it.lock").write_text(json.dumps(note))
    directory = open_atomic(tmp_path / "it")
    assert json.loads((tmp_path / ".it.lock").read_text())["process"] == os.getpid()
    directory.abort()
    assert listing(tmp_path) == []


def test_a_lock_file_that_was_removed_before_it_was_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock
    removed: list[Path] = []

    def removed_first(file: int, how: int) -> None:
        if not removed:
            removed.append(tmp_path / ".it.lock")
            removed[0].unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    directory = open_atomic(tmp_path / "it")
    with pytest.raises(DatasetExistsError, match="is being written by process"):
        open_atomic(tmp_path / "it")
    directory.abort()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(
        DatasetError, match=r"\.it\.lock: cannot be locked \(No locks available\)\. Write to a file system that has locks\."
    ):
        open_atomic(tmp_path / "it")


# ---- leftovers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["it", "a[b]*?", "with space", "漢字"])
def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, name: str) -> None:
    for left in (f".{name}.staged-0123abcd", f".{name}.staged-00000000-old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "file").touch()
    open_atomic(tmp_path / name).abort()
    assert listing(tmp_path) == []


def test_directories_of_other_targets_stay(tmp_path: Path) -> None:
    others = [".it.staged-2", ".it.staged-x.staged-0123abcd", ".other.staged-0123abcd", ".it", "it.staged-0123abcd", ".it2.staged-0123abcd"]
    for name in others:
        (tmp_path / name).mkdir()
    neighbour = open_atomic(tmp_path / "it.staged-y")
    open_atomic(tmp_path / "it").abort()
    assert neighbour.path.is_dir()
    neighbour.abort()
    assert listing(tmp_path) == sorted(others)


# ---- names that others made ------------------------------------------------------------------------------------------------------

FOREIGN = {
    "a link": lambda lock, precious: lock.symlink_to(precious),
    "a link to nothing": lambda lock, precious: lock.symlink_to("nothing"),
    "a second name": lambda lock, precious: os.link(precious, lock),
    "a file": lambda lock, precious: lock.write_text("mine"),
    "a long file": lambda lock, precious: lock.write_text('{"process": ' + "1" * 5000),
    "a directory": lambda lock, precious: lock.mkdir(),
    "a pipe": lambda lock, precious: os.mkfifo(lock),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_lock_file_that_is_not_ours_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    precious, lock = tmp_path / "precious", tmp_path / ".it.lock"
    precious.write_text("my thesis")
    FOREIGN[kind](lock, precious)
    before = os.lstat(lock)
    what = {"a link to nothing": "a link", "a second name": r"a file with 2 names \(hard links\)"}.get(kind, kind)
    what = {"a file": "a file of 4 bytes that vlpipe did not write", "a long file": "a file of 5012 bytes that"}.get(kind, what)
    message = rf"\.it\.lock: is {what}.*, where the lock file of vlpipe has to be\. Move it away, or choose another target\."
    with pytest.raises(DatasetError, match=message):
        open_atomic(tmp_path / "it")
    after = os.lstat(lock)
    assert (after.st_mode, after.st_size, after.st_ino, after.st_nlink) == (before.st_mode, before.st_size, before.st_ino, before.st_nlink)
    assert precious.read_text() == "my thesis"
    assert not (tmp_path / "it").exists()
    assert not (tmp_path / "nothing").exists()


def test_a_link_with_the_name_of_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    for name in (".it.staged-00000000", ".it.staged-00000000-old"):
        (tmp_path / name).symlink_to("mine")
    fill(open_atomic(tmp_path / "it")).commit()
    assert listing(tmp_path / "mine") == ["file"]
    assert (tmp_path / "it" / "file").read_text() == "new"


@pytest.mark.parametrize("note", [b"[" * 3000, b'{"process": 1, "host": "\\u001b[2J", "since": "' + b"x" * 3000 + b'"}'])
def test_a_hostile_note_of_a_lock_is_shown_short_and_printable(tmp_path: Path, note: bytes) -> None:
    (tmp_path / ".it.lock").write_bytes(note)
    with (tmp_path / ".it.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatasetExistsError, match=r"it: is being written by (another process|process 1 on \\x1b\[2J since)") as caught:
            open_atomic(tmp_path / "it")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


# ---- a system that cannot exchange directories ------------------------------------------------------------------------------------


def killed_between_the_renames(tmp_path: Path) -> None:
    """The files of a process that was killed when the old directory was set aside and the new one was not yet in its place."""
    fill(open_atomic(tmp_path / "it"), "old").commit()
    (tmp_path / "it").rename(tmp_path / ".it.staged-0123abcd-old")
    (tmp_path / ".it.staged-0123abcd").mkdir()
    (tmp_path / ".it.staged-0123abcd" / "file").write_text("new")


@pytest.mark.parametrize("empty", [False, True])
def test_the_old_directory_is_put_back_first(tmp_path: Path, empty: bool, caplog: pytest.LogCaptureFixture) -> None:
    killed_between_the_renames(tmp_path)
    if empty:
        (tmp_path / "it").mkdir()
    with pytest.raises(DatasetExistsError, match="it: exists already"):
        open_atomic(tmp_path / "it")
    assert (tmp_path / "it" / "file").read_text() == "old"
    assert "it: a process was killed while it replaced this directory; the old one was put back" in caplog.text
    directory = open_atomic(tmp_path / "it", overwrite=True)
    assert (tmp_path / "it" / "file").read_text() == "old"
    directory.abort()
    assert listing(tmp_path) == ["it"]


def test_the_error_of_a_reader_names_the_directory_that_was_set_aside(tmp_path: Path) -> None:
    killed_between_the_renames(tmp_path)
    expected = "killed while it replaced this directory. The old one lies beside it as .it.staged-0123abcd-old: rename it back"
    with pytest.raises(DatasetError, match=expected):
        vlpipe.open(tmp_path / "it")
    put_back(tmp_path / "it")
    assert (tmp_path / "it" / "file").read_text() == "old"
    put_back(tmp_path / "it")
    put_back(tmp_path / "another")
    assert listing(tmp_path) == ["it"]


def test_a_target_that_is_there_is_not_replaced_by_the_one_set_aside(tmp_path: Path) -> None:
    killed_between_the_renames(tmp_path)
    old_target(tmp_path)
    (tmp_path / "it" / "file").write_text("of the user")
    open_atomic(tmp_path / "it", overwrite=True).abort()
    assert (tmp_path / "it" / "file").read_text() == "of the user"
    assert listing(tmp_path) == ["it"]


def test_a_rename_that_fails_without_an_exchange_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_directory, "_exchange", lambda *_: False)
    target, rename, calls = old_target(tmp_path), os.rename, []

    def third_fails(*names: object) -> None:
        calls.append(names)
        if len(calls) == 3:
            raise OSError(errno.EIO, "Input/output error")
        rename(*names)

    directory = fill(open_atomic(target, overwrite=True))
    monkeypatch.setattr(os, "rename", third_fails)
    with pytest.raises(DatasetError, match=r"it: cannot be written \(Input/output error\); nothing is committed\. Make room for it, or"):
        directory.commit()
    assert (target / "file").read_text() == "old"
    assert listing(tmp_path) == ["it"]


# ---- failures around the commit ---------------------------------------------------------------------------------------------------


def test_a_flush_that_fails_after_the_commit_is_not_called_uncommitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, flush = old_target(tmp_path), atomic_directory._flush
    directory = fill(open_atomic(target, overwrite=True))

    def fails_for_the_parent(path: Path) -> None:
        if path == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        flush(path)

    monkeypatch.setattr(atomic_directory, "_flush", fails_for_the_parent)
    message = r"it: is complete and in its place, but the system does not confirm that its name is on the disk \(Input/output error\)"
    with pytest.raises(DatasetError, match=message):
        directory.commit()
    assert (target / "file").read_text() == "new"
    assert listing(tmp_path) == ["it"]


def test_a_lock_that_cannot_be_removed_does_not_hide_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = fill(open_atomic(tmp_path / "it"))

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fails)
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(DatasetError, match=r"it: cannot be written \(Read-only file system\); nothing is committed"):
        directory.commit()
    monkeypatch.undo()
    open_atomic(tmp_path / "it").abort()  # the lock was released
    assert listing(tmp_path) == []


def test_every_directory_that_was_made_is_flushed_with_the_one_that_lists_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(atomic_directory, "_flush", flushed.append)
    directory = fill(open_atomic(tmp_path / "a" / "b" / "it"))
    directory.commit()
    assert flushed == [directory.path / "file", directory.path, tmp_path / "a" / "b", tmp_path / "a", tmp_path]


def test_a_file_system_that_cannot_flush_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_files(file: int) -> None:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", only_files)
    fill(open_atomic(tmp_path / "it")).commit()
    assert (tmp_path / "it" / "file").read_text() == "new"


def test_a_forked_process_cannot_commit(tmp_path: Path) -> None:
    directory = fill(open_atomic(tmp_path / "it"))
    if (child := os.fork()) == 0:
        try:
            directory.commit()
            os._exit(1)
        except VlpipeError as error:
            expected = f"it: was opened for writing by process {os.getppid()}, and this is process {os.getpid()}, forked from it."
            os._exit(0 if expected in str(error) else 2)
    assert os.waitpid(child, 0)[1] == 0
    directory.commit()
    assert listing(tmp_path / "it") == ["file"]


# ---- targets that cannot be written -----------------------------------------------------------------------------------------------


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(DatasetError, match=r"file/it: cannot be made \(.+\)\. Choose another target, or make room for it\."):
        open_atomic(tmp_path / "file" / "it")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"xxx: cannot be made \(File name too long"):
        open_atomic(tmp_path / ("x" * 250))
    assert listing(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DatasetError, match=r"it: cannot be made \(Permission denied"):
        open_atomic(tmp_path / "it")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("step", ["pwrite", "mkdir"])
def test_a_full_disk_at_the_start_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(DatasetError, match=r"it: cannot be made \(No space left on device"):
            open_atomic(tmp_path / "it")
    assert listing(tmp_path) == []
    open_atomic(tmp_path / "it").abort()


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failure_in_the_commit_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = old_target(tmp_path)
    directory = fill(open_atomic(target, overwrite=True))

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fails)
        with pytest.raises(OSError, match="Input/output error"):
            directory.commit()
    assert (target / "file").read_text() == "old"
    assert listing(tmp_path) == ["it"]


def test_the_errors_are_vlpipe_errors() -> None:
    assert issubclass(DatasetExistsError, VlpipeError)


@pytest.mark.parametrize("target", ["s3://bucket/it", "gs://bucket", "file:///tmp/it", "hdfs://host:8020/a/it"])
@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_refused_before_anything_is_made(target: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path keeps one slash of two."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"://\S+: is an address, and vlpipe writes to local directories only. .* copy that"):
        open_atomic(kind(target))
    assert listing(tmp_path) == []


@pytest.mark.parametrize("target", ["C:/it", "./s3:/it", "s3:", "it:1", "a:b/it"])
def test_a_name_with_a_colon_is_no_address(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(AtomicDirectory(target, overwrite=False, replaceable=lambda _: None)).commit()
    assert listing(tmp_path / target) == ["file"]
