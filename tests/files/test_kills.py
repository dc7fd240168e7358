"""A process that is killed, or whose system fails, at any file operation: the target is the old or the new one, and the next run succeeds.

Python announces each file operation to its audit hooks, before it happens. A forked child counts them, and at the one that was chosen it
kills itself, or raises what the system would answer (`tests/helpers/forks.py`). `Backup` saves weights of a model that is none.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlpipe
from tests.helpers.forks import DONE, OTHER, REFUSED, Forks, in_memory
from tests.helpers.killed_jobs import CACHES, LAYOUT, WRITERS, backup, contents, prepare, save_backup, write_dataset
from vlpipe.sources.compute_statistics import with_statistics

KILL = -signal.SIGKILL


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks("tests.helpers.killed_jobs", {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))})
    yield forks
    forks.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with in_memory() as directory:
        yield directory / "folder"


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
def test_killed_at_every_operation(forks: Forks, folder: Path, name: str, old: bool, exchange: bool, step: int) -> None:
    """At every third where the operations are nearly those of another case."""
    job = ("run", name, str(folder), exchange)
    prepare(folder, old)
    before = contents(folder / "it")
    end, operations = forks.run(*job)
    after = contents(folder / "it")
    assert (end, sorted(os.listdir(folder))[-1]) == (DONE, "it")
    assert operations > 10
    missing = 0
    for at in range(0, operations, step):
        prepare(folder, old)
        end, _ = forks.run(*job, at=at, then=KILL)
        assert end == KILL
        found = contents(folder / "it")
        # Without an exchange the target may be missing for an instant; the old directory then lies beside it.
        set_aside = [path for path in folder.iterdir() if path.name.endswith("-old")]
        missing += found is None and old
        assert found in (before, after) or (found is None and contents(set_aside[0]) == before), f"operation {at}"
        # A writer that fails loses neither of them.
        forks.run("fail", str(folder))
        assert contents(folder / "it") in (before, after), f"after operation {at} and a writer that failed"
        assert forks.run(*job)[0] == DONE
        assert contents(folder / "it") == after
        assert [entry for entry in os.listdir(folder) if entry not in ("a.tfrecord", "it", ".vlpipe-index")] == []
    assert missing == (old and not exchange) or (step > 1 and missing == 0)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_backup_that_is_killed_at_every_operation(forks: Forks, folder: Path, exchange: bool) -> None:
    """The next `Backup` finds the last save or the one before it, with the weights that belong to it."""
    job = ("run", "backup", str(folder), exchange)
    prepare(folder, old=False)
    write_dataset(folder)
    save_backup(folder, 1)
    saved = folder / "backup"
    before = contents(saved)
    _, operations = forks.run(*job)
    after = contents(saved)
    assert (backup(folder).state["batch"], before == after) == (2, False)
    for at in range(operations):
        shutil.rmtree(saved)
        save_backup(folder, 1)
        assert forks.run(*job, at=at, then=KILL)[0] == KILL
        state = backup(folder).state
        assert state["batch"] in (1, 2)
        assert (saved / "model.weights.h5").read_bytes() == bytes([state["batch"]]) * 1000
        save_backup(folder, 2)
        assert contents(saved) == after
        assert sorted(os.listdir(folder)) == ["a.tfrecord", "backup", "it"]


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
def test_a_system_that_fails_at_every_operation(forks: Forks, folder: Path, name: str, exchange: bool, number: int, step: int) -> None:
    """The error is a `VlpipeError`, and says whether the old or the new is there."""
    job = ("run", name, str(folder), exchange)
    prepare(folder, old=True)
    before = contents(folder / "it")
    _, operations = forks.run(*job)
    after = contents(folder / "it")
    for at in range(0, operations, step):
        prepare(folder, old=True)
        end, _ = forks.run("run_checked", *job[1:], after, at=at, then=number)
        assert end in (DONE, REFUSED), f"operation {at}"
        assert contents(folder / "it") in ((after,) if end == DONE else (before, after)), f"operation {at}"
        assert forks.run(*job)[0] == DONE
        assert contents(folder / "it") == after
        assert [entry for entry in os.listdir(folder) if entry not in ("a.tfrecord", "it", ".vlpipe-index")] == []


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_is_killed_at_every_operation(forks: Forks, folder: Path, name: str) -> None:
    job = ("run", name, str(folder))
    prepare(folder, old=False)
    _, operations = forks.run(*job)
    kept = contents(folder / ".vlpipe-index")
    for at in range(operations):
        prepare(folder, old=False)
        assert forks.run(*job, at=at, then=KILL)[0] == KILL
        assert forks.run(*job)[0] == DONE
        assert contents(folder / ".vlpipe-index") == kept, f"operation {at}"
    index = with_statistics(vlpipe.build_index(folder / "a.tfrecord", LAYOUT))
    assert index.frames("x").tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_whose_system_fails_at_every_operation(forks: Forks, folder: Path, name: str) -> None:
    job = ("run", name, str(folder))
    prepare(folder, old=False)
    _, operations = forks.run(*job)
    for at in range(operations):
        prepare(folder, old=False)
        assert forks.run(*job, at=at, then=errno.EIO)[0] in (DONE, REFUSED), f"operation {at}"
        assert forks.run(*job)[0] == DONE


@pytest.mark.parametrize("name", [*WRITERS, *CACHES])
def test_a_disk_that_is_full(forks: Forks, folder: Path, name: str) -> None:
    """No file can grow beyond a limit, as on a disk without space: the old dataset stays, a cache is not kept."""
    job = ("run", name, str(folder))
    ends = set()
    for limit in (0, 1, 100, 300, 700, 1000, 3000):
        prepare(folder, old=True)
        before = contents(folder / "it")
        end, _ = forks.run(*job, limit=limit)
        ends.add(end)
        assert end in (DONE, REFUSED), f"limit {limit}"
        assert end == DONE or contents(folder / "it") == before, f"limit {limit}"
        assert forks.run(*job)[0] == DONE
        assert sorted(entry for entry in os.listdir(folder) if entry != ".vlpipe-index") == ["a.tfrecord", "it"]
    assert REFUSED in ends or name in CACHES


def test_a_failing_operation_is_noticed(forks: Forks, tmp_path: Path) -> None:
    assert forks.run("read_text", str(tmp_path / "missing"))[0] == OTHER
    assert forks.run("list_folder", str(tmp_path), at=0, then=KILL)[0] == KILL
    assert forks.run("list_folder", str(tmp_path), at=0, then=errno.EIO)[0] == OTHER
    assert forks.run("list_folder", str(tmp_path)) == (DONE, 1)
