"""The number of workers, and the protocol by which they get tasks and answer them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlpipe import processes
from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.processes import Message, Workers, check_workers, worker_count

# A module for `Workers`, in which the task decides what happens.
WORKER = """
import os, time
from vlpipe.errors import SchemaError
from vlpipe.processes import run_worker

class OtherError(SchemaError):
    pass

def work(task, progress):
    if task == "die":
        os._exit(3)
    if task == "wait":
        progress(None)
        time.sleep(60)
    if task == "fail":
        raise ZeroDivisionError
    if task == "refuse":
        raise SchemaError("ä: refused")
    if task == "refuse otherwise":
        raise OtherError("refused")
    for number in range(task["progress"]):
        progress({"at": number})
    return {"of": os.getpid()}, bytes(task["payload"])

run_worker(work)
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started, which run WORKER."""
    path, processes_started, original = tmp_path / "worker.py", [], subprocess.Popen
    path.write_text(WORKER)

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[1:] == ["-m", "vlpipe.worker"]
        processes_started.append(original([sys.executable, str(path)], **options))
        return processes_started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    return processes_started


def run(tasks: list[Any], count: int) -> list[Message]:
    with Workers("vlpipe.worker", tasks) as workers:
        workers.start(count)
        return list(workers.messages())


def test_every_task_is_answered_once(started: list[subprocess.Popen[bytes]]) -> None:
    messages = run([{"progress": number % 3, "payload": 100_000 * number} for number in range(7)], 2)
    results = {message.task: message for message in messages if message.kind == "result"}
    assert sorted(results) == list(range(7))
    assert {message.value["of"] for message in results.values()} <= {process.pid for process in started}
    for number in range(7):
        assert results[number].payload == bytes(100_000 * number)
        kinds = [(message.kind, message.value) for message in messages if message.task == number]
        assert kinds[:-1] == [("progress", {"at": step}) for step in range(number % 3)]
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


@pytest.mark.usefixtures("started")
def test_an_error_keeps_class_and_text_and_the_worker_continues() -> None:
    first, second, third = run(["refuse", "refuse otherwise", {"progress": 0, "payload": 0}], 1)
    assert (type(first.value), str(first.value)) == (SchemaError, "ä: refused")
    assert (type(second.value), str(second.value)) == (DatasetError, "refused")  # vlpipe.errors lacks its class
    assert third.kind == "result"


@pytest.mark.parametrize("task", ["die", "fail"])
def test_the_other_workers_do_the_tasks_that_a_dead_one_has_not_begun(
    started: list[subprocess.Popen[bytes]], task: str, capfd: pytest.CaptureFixture[str]
) -> None:
    messages = run([task, task, {"progress": 0, "payload": 0}], 2)
    assert sorted(messages) == [Message(0, "died"), Message(1, "died")]
    kinds = [message.kind for message in run([task, *[{"progress": 0, "payload": 0}] * 3], 2)]
    assert sorted(kinds) == ["died", "result", "result", "result"]
    assert len(started) == 4
    assert capfd.readouterr().err.count("Traceback") == (3 if task == "fail" else 0)


def test_no_further_task_is_handed_out(started: list[subprocess.Popen[bytes]]) -> None:
    with Workers("vlpipe.worker", [{"progress": 1, "payload": 0}] * 20_000) as workers:
        workers.start(1)
        messages = workers.messages()
        next(messages)
        workers.drop_waiting_tasks()
        assert 1 <= [message.kind for message in messages].count("result") < 20_000
    assert started[0].returncode is not None


def test_leaving_the_block_ends_the_workers(started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(KeyboardInterrupt), Workers("vlpipe.worker", [{"progress": 10**9, "payload": 0}] * 2) as workers:  # noqa: PT012
        workers.start(2)
        next(workers.messages())
        raise KeyboardInterrupt
    assert [process.returncode for process in started] == [-9, -9]


def test_workers_that_cannot_be_started_leave_the_tasks_to_the_others(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = processes.start

    def limited(module: str) -> subprocess.Popen[bytes]:
        if started:
            raise OSError(11, "Resource temporarily unavailable")
        return start(module)

    monkeypatch.setattr(processes, "start", limited)
    with Workers("vlpipe.worker", [{"progress": 0, "payload": 0}] * 3) as workers:
        with pytest.raises(OSError, match="temporarily unavailable"):
            workers.start(2)
        assert [message.kind for message in workers.messages()] == ["result"] * 3


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(("task", "code"), [(None, 0), ({"progress": 0, "payload": 0}, 0), ("wait", 1)], ids=["idle", "answered", "busy"])
def test_a_worker_ends_when_its_input_ends(task: Any, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    with processes.start("vlpipe.worker") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if task is not None:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith(b'{"progress"' if code else b'{"result"')
        process.stdin.close()
        try:
            assert process.wait(timeout=30) == code
        finally:
            process.kill()
    assert capfd.readouterr().err == ""


# ---- the number of workers ---------------------------------------------------------------------------------------------------------------


def test_how_many_workers_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (worker_count(None), worker_count(3), worker_count(np.int64(9))) == (6, 3, 9)
    assert (worker_count(None, tasks=4), worker_count(9, tasks=4), worker_count(3, tasks=4), worker_count(3, tasks=0)) == (4, 4, 3, 1)
    little, much = processes.MIN_BYTES_FOR_PROCESSES - 1, processes.MIN_BYTES_FOR_PROCESSES
    assert (worker_count(None, work_bytes=little), worker_count(None, work_bytes=much), worker_count(2, work_bytes=little)) == (1, 6, 2)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert worker_count(None) == 1


@pytest.mark.parametrize("bad", [0, -1, 1.0, True, np.bool_(True), "2", [2]])
def test_other_values_of_workers_are_refused(bad: Any) -> None:
    for check in (check_workers, worker_count):
        with pytest.raises(ArgumentError, match=r"^workers: came as .*, expected an integer >= 1, or None to let vlpipe choose\.$"):
            check(bad)


def test_more_than_the_limit_is_refused() -> None:
    assert worker_count(8, limit=8) == 8
    with pytest.raises(ArgumentError, match=r"workers: came as 9, expected an integer >= 1, at most 8, or None"):
        worker_count(9, limit=8)
