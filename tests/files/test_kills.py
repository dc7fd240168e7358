"""A process that is killed, or whose system fails, at any file operation: the target is the old or the new one, and the next run succeeds.

Python announces each file operation to its audit hooks, before it happens. A forked child counts them, and at the one that was chosen it
kills itself, or raises what the system would answer. A forked process must not run TensorFlow: `Backup`, which imports it, saves weights of
a model that is none.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.attacks.records import example, floats, ints
from tests.attacks.records import write as write_tfrecord
from vlpipe import layouts
from vlpipe.conversion import convert
from vlpipe.files import atomic_directory, atomic_file
from vlpipe.files.atomic_directory import AtomicDirectory, os_errors_as_dataset_errors
from vlpipe.sources.compute_statistics import with_statistics

LAYOUT = layouts.float_list("x", d=3, label="label")
OPERATIONS = {"open", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.listdir", "os.truncate", "fcntl.flock", "os.fsync"}
DONE, REFUSED, OTHER = 0, 10, 11  # how a child ends


def write_dataset(folder: Path) -> None:
    records = [{"x": np.full((n + 1, 3), n, np.float32), "label": n} for n in range(6)]
    vlpipe.write(folder / "it", records, num_shards=1, overwrite=True)


def write_directory(folder: Path) -> None:
    """As `callbacks.Backup` saves."""
    directory = AtomicDirectory(folder / "it", overwrite=True, replaceable=lambda _: None)
    try:
        with os_errors_as_dataset_errors("it"):
            (directory.path / "state.json").write_text("new")
            (directory.path / "weights").write_bytes(bytes(100_000))
        directory.commit()
    finally:
        directory.abort()


def convert_file(folder: Path) -> None:
    convert(folder / "a.tfrecord", folder / "it", layout=LAYOUT, num_shards=1, workers=1, overwrite=True)


def index_file(folder: Path) -> None:
    vlpipe.build_index(folder / "a.tfrecord", LAYOUT)


def compute(folder: Path) -> None:
    with_statistics(vlpipe.build_index(folder / "a.tfrecord", LAYOUT), workers=1)


class Weights:
    """In the place of a Keras model: a forked process must not run TensorFlow."""

    def __init__(self, value: int) -> None:
        self.value = value

    def save_weights(self, path: Path) -> None:
        path.write_bytes(bytes([self.value]) * 1000)


def backup(folder: Path) -> Any:
    from vlpipe.callbacks import Backup

    return Backup(folder / "backup", vlpipe.plan(folder / "it", batch_size=1, seed=1), save_every=1)


def save_backup(folder: Path, value: int = 1) -> None:
    """Save after as many batches as `value`, which is also what the weights are made of."""
    callback = backup(folder)
    callback.set_model(Weights(value))
    callback._trained = value
    callback.save()


WRITERS = {"Writer": write_dataset, "AtomicDirectory": write_directory, "convert": convert_file}
CACHES = {"build_index": index_file, "statistics": compute}


def contents(directory: Path) -> dict[str, str] | None:
    """The digests of the files of a directory; None without one."""
    if not directory.exists():
        return None
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def prepare(folder: Path, old: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_tfrecord(folder / "a.tfrecord", [example({"x": floats(np.arange(3 * n)), "label": ints(n)}) for n in range(1, 6)])
    os.utime(folder / "a.tfrecord", ns=(10**18, 10**18))
    if old:
        vlpipe.write(folder / "it", [{"x": np.zeros((2, 3), np.float32), "label": 7}], num_shards=1)


def in_child(job: Callable[[], Any], at: int = -1, then: Callable[[], Any] | None = None) -> tuple[int, int]:
    """Run a job in a forked child; before its operation number `at`, call `then`.

    Returns:
        How the child ended (a signal is negative), and how many operations there were, where it ended by itself.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        end = OTHER
        try:
            logging.disable(logging.CRITICAL)
            count = _count_operations(at, then)
            try:
                job()
                end = DONE
            except vlpipe.VlpipeError:
                end = REFUSED
            os.write(write, str(next(count)).encode())
        finally:
            os._exit(end)
    os.close(write)
    with os.fdopen(read) as answers:
        operations = int(answers.read() or -1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), operations


def _count_operations(at: int, then: Callable[[], Any] | None) -> Any:
    count, fsync = itertools.count(), os.fsync

    def hook(event: str, _: object) -> None:
        if event in OPERATIONS and next(count) == at and then is not None:
            then()

    def audited_fsync(file: int) -> None:
        sys.audit("os.fsync", file)
        fsync(file)

    os.fsync = audited_fsync
    sys.addaudithook(hook)
    return count


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "old", "exchange", "step"),
    [
        ("AtomicDirectory", False, True, 1),
        ("AtomicDirectory", True, True, 1),
        ("AtomicDirectory", True, False, 1),
        ("Writer", True, True, 3),
        ("Writer", True, False, 1),
        ("convert", True, False, 3),
    ],
)
def test_killed_at_every_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: bool, exchange: bool, step: int
) -> None:
    """At every third where the operations are nearly those of another case."""
    if not exchange:
        monkeypatch.setattr(atomic_directory, "_exchange", lambda *_: False)
    folder, job = tmp_path / "folder", WRITERS[name]
    prepare(folder, old)
    before = contents(folder / "it")
    end, operations = in_child(lambda: job(folder))
    after = contents(folder / "it")
    assert (end, sorted(os.listdir(folder))[-1]) == (DONE, "it")
    assert operations > 10
    missing = 0
    for at in range(0, operations, step):
        prepare(folder, old)
        end, _ = in_child(lambda: job(folder), at, kill)
        assert end == -signal.SIGKILL
        found = contents(folder / "it")
        # Without an exchange the target may be missing for an instant; the old directory then lies beside it.
        set_aside = [path for path in folder.iterdir() if path.name.endswith("-old")]
        missing += found is None and old
        assert found in (before, after) or (found is None and contents(set_aside[0]) == before), f"operation {at}"
        # A writer that fails loses neither of them.
        in_child(lambda: _fail(folder))
        assert contents(folder / "it") in (before, after), f"after operation {at} and a writer that failed"
        assert in_child(lambda: job(folder))[0] == DONE
        assert contents(folder / "it") == after
        assert [entry for entry in os.listdir(folder) if entry not in ("a.tfrecord", "it", ".vlpipe-index")] == []
    assert missing == (old and not exchange) or (step > 1 and missing == 0)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_backup_that_is_killed_at_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    """The next `Backup` finds the last save or the one before it, with the weights that belong to it."""
    if not exchange:
        monkeypatch.setattr(atomic_directory, "_exchange", lambda *_: False)
    folder = tmp_path / "folder"
    prepare(folder, old=False)
    write_dataset(folder)
    save_backup(folder, 1)
    saved = folder / "backup"
    before = contents(saved)
    _, operations = in_child(lambda: save_backup(folder, 2))
    after = contents(saved)
    assert (backup(folder).state["batch"], before == after) == (2, False)
    for at in range(operations):
        shutil.rmtree(saved)
        save_backup(folder, 1)
        assert in_child(lambda: save_backup(folder, 2), at, kill)[0] == -signal.SIGKILL
        state = backup(folder).state
        assert state["batch"] in (1, 2)
        assert (saved / "model.weights.h5").read_bytes() == bytes([state["batch"]]) * 1000
        save_backup(folder, 2)
        assert contents(saved) == after
        assert sorted(os.listdir(folder)) == ["a.tfrecord", "backup", "it"]


def _fail(folder: Path) -> None:
    AtomicDirectory(folder / "it", overwrite=True, replaceable=lambda _: None).abort()


@pytest.mark.parametrize(
    ("name", "exchange", "number", "step"),
    [
        ("AtomicDirectory", False, errno.ENOSPC, 1),
        ("AtomicDirectory", True, errno.EACCES, 1),
        ("Writer", True, errno.EIO, 3),
        ("Writer", False, errno.EIO, 1),
        ("convert", True, errno.EIO, 3),
    ],
)
def test_a_system_that_fails_at_every_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, exchange: bool, number: int, step: int
) -> None:
    """The error is a `VlpipeError`, and says whether the old or the new is there."""
    if not exchange:
        monkeypatch.setattr(atomic_directory, "_exchange", lambda *_: False)
    folder, job = tmp_path / "folder", WRITERS[name]
    prepare(folder, old=True)
    before = contents(folder / "it")
    _, operations = in_child(lambda: job(folder))
    after = contents(folder / "it")

    def fail() -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    def checked() -> None:
        try:
            job(folder)
        except vlpipe.VlpipeError as error:
            if contents(folder / "it") == after and "is complete and in its place" not in str(error):
                raise RuntimeError("it says that nothing is committed") from error
            raise

    for at in range(0, operations, step):
        prepare(folder, old=True)
        end, _ = in_child(checked, at, fail)
        assert end in (DONE, REFUSED), f"operation {at}"
        assert contents(folder / "it") in ((after,) if end == DONE else (before, after)), f"operation {at}"
        assert in_child(lambda: job(folder))[0] == DONE
        assert contents(folder / "it") == after
        assert [entry for entry in os.listdir(folder) if entry not in ("a.tfrecord", "it", ".vlpipe-index")] == []


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_is_killed_at_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, job = tmp_path / "folder", CACHES[name]
    prepare(folder, old=False)
    _, operations = in_child(lambda: job(folder))
    kept = contents(folder / ".vlpipe-index")
    for at in range(operations):
        prepare(folder, old=False)
        atomic_file._cleared.clear()
        assert in_child(lambda: job(folder), at, kill)[0] == -signal.SIGKILL
        assert in_child(lambda: job(folder))[0] == DONE
        assert contents(folder / ".vlpipe-index") == kept, f"operation {at}"
    index = with_statistics(vlpipe.build_index(folder / "a.tfrecord", LAYOUT))
    assert index.frames("x").tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_whose_system_fails_at_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, job = tmp_path / "folder", CACHES[name]
    prepare(folder, old=False)
    _, operations = in_child(lambda: job(folder))

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    for at in range(operations):
        prepare(folder, old=False)
        assert in_child(lambda: job(folder), at, fail)[0] in (DONE, REFUSED), f"operation {at}"
        assert in_child(lambda: job(folder))[0] == DONE


@pytest.mark.parametrize("name", [*WRITERS, *CACHES])
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No file can grow beyond a limit, as on a disk without space: the old dataset stays, a cache is not kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, job = tmp_path / "folder", {**WRITERS, **CACHES}[name]
    ends = set()
    for limit in (0, 1, 100, 300, 700, 1000, 3000):
        prepare(folder, old=True)
        before = contents(folder / "it")

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            job(folder)

        end, _ = in_child(limited)
        ends.add(end)
        assert end in (DONE, REFUSED), f"limit {limit}"
        assert end == DONE or contents(folder / "it") == before, f"limit {limit}"
        assert in_child(lambda: job(folder))[0] == DONE
        assert sorted(entry for entry in os.listdir(folder) if entry != ".vlpipe-index") == ["a.tfrecord", "it"]
    assert REFUSED in ends or name in CACHES


def test_a_failing_operation_is_noticed(tmp_path: Path) -> None:
    assert in_child(lambda: (tmp_path / "missing").read_text())[0] == OTHER
    assert in_child(lambda: os.listdir(tmp_path), 0, kill)[0] == -signal.SIGKILL
    assert in_child(lambda: os.listdir(tmp_path)) == (DONE, 1)
