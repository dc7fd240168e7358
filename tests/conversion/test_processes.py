"""`vlpipe convert` and its processes: killed or interrupted at any moment, it leaves no partial dataset and no process."""

from __future__ import annotations

import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.cli.test_cli import run
from tests.helpers.foreign_files import example, floats, ints, raw, write
from tests.ingest.test_ingest import in_session
from tests.storage.test_writer import contents, listing
from vlpipe import layouts
from vlpipe.conversion import convert
from vlpipe.layouts.registry import to_json
from vlpipe.processes import Message, serve, start
from vlpipe.storage.metadata import open_directory

LAYOUT = '{"float_list": {"key": "x", "d": 3, "label": "label"}}'
RECORDS = 60_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose conversion takes some seconds."""
    path = tmp_path_factory.mktemp("source") / "a.tfrecord"
    return write(path, [example({"x": floats(np.arange(900)), "label": ints(n)}) for n in range(3)] * (RECORDS // 3))


class Session:
    """`vlpipe convert` with two worker processes, in its own session."""

    def __init__(self, source: Path, target: Path) -> None:
        self.parent = target.parent
        command = [sys.executable, "-m", "vlpipe.cli", "convert", str(source), str(target), "--layout", LAYOUT]
        options = ["--workers", "2", "--num-shards", "2", "--overwrite"]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.deadline = time.monotonic() + 120

    def wait_for(self, condition: Callable[[], object]) -> None:
        while not condition():
            assert time.monotonic() < self.deadline, f"timed out, status {self.process.poll()}"
            time.sleep(0.002)

    def wait_until(self, moment: str) -> None:
        directory = ".d.staged-*"
        conditions: dict[str, Callable[[], object]] = {
            "starting": lambda: len(in_session(self.process.pid)) == 3,
            "writing": lambda: len([path for path in self.parent.glob(f"{directory}/*.tfrecord") if path.stat().st_size]) == 2,
            "assembling": lambda: list(self.parent.glob(f"{directory}/index.npy")),
        }
        self.wait_for(conditions[moment])

    def workers(self) -> list[int]:
        return [process for process in in_session(self.process.pid) if process != self.process.pid]

    def end(self) -> str:
        """Wait until all of its processes have ended; return what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=60)
        self.wait_for(lambda: not in_session(self.process.pid))
        return errors


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.mark.parametrize(("moment", "old"), [("starting", False), ("writing", True), ("assembling", False), ("assembling", True)])
def test_killed(tmp_path: Path, source: Path, moment: str, old: bool) -> None:
    if old:
        vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 3), np.float32)}])
    before = contents(tmp_path / "d")
    session = Session(source, tmp_path / "d")
    session.wait_until(moment)
    session.process.kill()
    assert session.end() == ""
    complete = moment == "assembling" and (tmp_path / "d").exists() and len(open_directory(tmp_path / "d")) == RECORDS
    assert complete or contents(tmp_path / "d") == before
    assert complete or (tmp_path / "d").exists() == old
    small = write(tmp_path / "small.tfrecord", [example({"x": floats([1, 2, 3]), "label": ints(1)})])
    convert(small, tmp_path / "d", layout=layouts.float_list("x", d=3), overwrite=True)
    assert set(listing(tmp_path)) == {"d", "small.tfrecord", ".vlpipe-index"}
    assert len(open_directory(tmp_path / "d")) == 1


@pytest.mark.parametrize("moment", ["starting", "writing"])
def test_a_killed_worker_ends_the_conversion(tmp_path: Path, source: Path, moment: str) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((2, 3), np.float32)}])
    before = contents(tmp_path)
    session = Session(source, tmp_path / "d")
    session.wait_until(moment)
    os.kill(session.workers()[0], signal.SIGKILL)
    errors = session.end()
    assert session.process.returncode == 1
    assert errors == (
        f"vlpipe: {tmp_path / 'd'}: a worker process died; nothing was written. It was killed or ran out of memory: try fewer workers.\n"
    )
    assert contents(tmp_path) == before
    assert listing(tmp_path) == ["d"]


@pytest.mark.parametrize("moment", ["starting", "writing"])
def test_interrupted(tmp_path: Path, source: Path, moment: str) -> None:
    session = Session(source, tmp_path / "d")
    session.wait_until(moment)
    os.killpg(session.process.pid, signal.SIGINT)  # as a terminal does
    assert session.end().strip() == "vlpipe: interrupted; no output is half written"
    assert session.process.returncode == 130
    assert listing(tmp_path) == []


def test_two_conversions_to_one_target(tmp_path: Path, source: Path) -> None:
    first = Session(source, tmp_path / "d")
    first.wait_until("starting")
    second = Session(source, tmp_path / "d")
    assert f"d: is being written by process {first.process.pid} on " in second.end()
    assert second.process.returncode == 1
    assert first.end() == ""
    assert first.process.returncode == 0
    assert len(open_directory(tmp_path / "d")) == RECORDS
    assert listing(tmp_path) == ["d"]


def test_an_answer_that_was_cut_is_that_of_a_dead_worker() -> None:
    class Dead:
        def __init__(self, output: bytes) -> None:
            self.stdin, self.stdout = io.BytesIO(), io.BytesIO(output)

    whole = b'{"progress": [1, 2]}\n'
    for output in (whole, whole + b'{"progress": [3, ', whole + b'{"result": {}, "payload": 10}\nshort'):
        waiting: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        waiting.put((5, "task"))
        messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        serve(Dead(output), waiting, messages)
        assert [messages.get(), messages.get(), messages.get()] == [Message(5, "progress", [1, 2]), Message(5, "died"), None]
        assert messages.empty()


def test_a_worker_without_a_task_ends() -> None:
    done = subprocess.run([sys.executable, "-m", "vlpipe.conversion"], input=b"", capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_worker_whose_parent_is_gone_ends_during_any_task(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", [example({"x": floats(np.ones(3))})] * 100_000)  # indexing it takes a while
    layout = to_json(layouts.float_list("x", d=3))
    with start("vlpipe.conversion") as process:
        process.stdin.write(json.dumps({"source": [str(tmp_path / "a.tfrecord")], "layout": layout}).encode() + b"\n")
        process.stdin.close()
        try:
            assert process.wait(timeout=30) == 1
        finally:
            process.kill()


# ---- the command -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    records = [example({"x": floats(np.ones(3 * n)), "label": ints(n), "name": raw(b"\xff"), "age": ints(n)}) for n in range(9)]
    return [write(tmp_path / f"{part}.tfrecord", records[part::2]) for part in (0, 1)]


def test_what_the_command_prints(tmp_path: Path, files: list[Path]) -> None:
    only = '{"float_list": {"key": "x", "d": 3, "label": "label", "only": ["age"]}}'
    made = run("convert", *files, tmp_path / "d", "--layout", only, "--num-shards", 2)
    assert (made.exit_code, made.stderr) == (0, "")
    lines = made.stdout.splitlines()
    assert lines[0] == f"{tmp_path / 'd'}: 9 records, 36 frames of x; 2 files, 0.0 MB"
    assert lines[1] == "from 2 files, 0.0 MB, layout float_list, label label"
    assert re.fullmatch(r"in \d+\.\d s by 1 process \(0 MB/s\)", lines[2])
    assert list(open_directory(tmp_path / "d").schema.fields) == ["x", "label", "age"]
    again = run("convert", tmp_path / "d", tmp_path / "e", "--workers", 2, "--json")
    document: dict[str, Any] = json.loads(again.stdout)
    assert document.pop("seconds") > 0
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("*.tfrecord")) for name in "de"]
    assert document == {"path": str(tmp_path / "e"), "records": 9, "frames": {"x": 36}, "files": [2, 16], "bytes": sizes} | {
        "layout": None,
        "label": "label",
        "workers": 2,
    }


def test_an_error_is_one_message(tmp_path: Path, files: list[Path]) -> None:
    for arguments, message in (
        ([files[0], tmp_path / "d", "--layout", LAYOUT], '0.tfrecord, record 0 at byte 0: "name" is not UTF-8 at its byte 0'),
        ([files[0], tmp_path / "d", "--layout", '{"float_list": {"key": "x", "d": 3, "only": 5}}'], "--layout: "),
        ([tmp_path / "gone", tmp_path / "d"], f"{tmp_path / 'gone'}: not found"),
    ):
        result = run("convert", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"vlpipe: {message}")
        assert not (tmp_path / "d").exists()
    for usage in (["a"], ["a", "b", "--workers", 0], ["a", "b", "--num-shards", "x"]):
        assert run("convert", *usage).exit_code == 2
