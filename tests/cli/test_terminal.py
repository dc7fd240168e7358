"""Commands on a terminal: a progress bar that says what is done, and Ctrl-C, which ends each within a second, with nothing half written.

Each command runs in a pseudo-terminal of its own, as the leader of its session, so that byte 3 interrupts all of its processes.
"""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.helpers.tones import write_wav
from vlpipe import text_tables
from vlpipe.cli import main
from vlpipe.text_tables import progress_bar

COMMAND = [sys.executable, "-m", "vlpipe.cli"]
ROOT = str(Path(vlpipe.__file__).parents[1])
MOST_SECONDS = 3.0  # from Ctrl-C to the end; one on a machine that does nothing else
FILES = 300


class Terminal:
    """A command in a pseudo-terminal of its own."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.shown = ""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(arguments[0], arguments, {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm", "COLUMNS": "120"})

    def read(self, seconds: float) -> bool:
        """Wait for output; False at its end."""
        try:
            if select.select([self._terminal], [], [], seconds)[0]:
                self.shown += os.read(self._terminal, 65536).decode(errors="replace")
            return True
        except OSError:  # the last process with the terminal has ended
            return False

    def wait_for(self, condition: Callable[[], object], most: float = 60) -> None:
        deadline = time.monotonic() + most
        while not condition():
            assert time.monotonic() < deadline, self.shown
            assert self.read(0.02), self.shown

    def interrupt(self) -> None:
        os.write(self._terminal, b"\x03")

    def end(self) -> tuple[int, float]:
        """The exit status, and the seconds until then."""
        started = time.monotonic()
        while self.read(0.05):
            assert time.monotonic() < started + 60, self.shown
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._terminal)
        return status, time.monotonic() - started


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Third-party files and recordings that keep a command busy for many seconds: links to one file each."""
    folder = tmp_path_factory.mktemp("terminal")
    vlpipe.write(folder / "one", ({"mel": np.ones((40, 8), np.float32), "class": n % 3} for n in range(5000)), num_shards=1)
    sound = write_wav(folder / "original.wav", seconds=10)
    shard = folder / "one/one-00000-of-00001.tfrecord"
    for number in range(FILES):
        for original, name in ((shard, "many/{}.tfrecord"), (shard, "few/{}.tfrecord"), (sound, "audio/{}.wav")):
            if name.startswith("few") and number >= FILES // 10:
                continue
            link = folder / name.format(f"{number:04d}")
            link.parent.mkdir(exist_ok=True)
            os.link(original, link)
    return folder


def in_session(leader: int) -> list[int]:
    """The processes of a session that are running."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def unfinished(folder: Path) -> list[str]:
    """Files that a writer leaves if it is killed."""
    return [path.name for path in folder.rglob("*") if "staged" in path.name or path.name.endswith((".lock", ".tmp"))]


LAYOUT = ["--layout", '{"raw_bytes": {"key": "mel", "dtype": "float32", "d": 8}}']
# What a command says that it does, and its arguments.
COMMANDS = {
    "ingest": ("decoding", ["ingest", "audio", "OUT", "--workers", "2"]),
    "index": ("indexing", ["index", "many/*.tfrecord", *LAYOUT, "--workers", "2"]),
    "index in one process": ("indexing", ["index", "many/*.tfrecord", *LAYOUT, "--workers", "1"]),
    "verify": ("verifying", ["verify", "many/*.tfrecord", *LAYOUT]),
    "convert": ("converting", ["convert", "few/*.tfrecord", "OUT", *LAYOUT, "--workers", "2"]),
    "convert in one process": ("converting", ["convert", "few/*.tfrecord", "OUT", *LAYOUT, "--workers", "1"]),
    "stats": ("computing statistics", ["stats", "few/*.tfrecord", *LAYOUT, "--compute"]),
    "report": ("verifying", ["report", "few/*.tfrecord", *LAYOUT, "--verify", "-n", "0", "-o", "OUT"]),
}
# Work that is done at once, unless a disk is slow: the file whose opening takes a minute, and the arguments.
AT_ONCE = {
    "starting": ("/contents.", ["--version"]),
    "plan": ("index.npy", ["plan", "one", "--plot", "OUT"]),
    "stats": ("index.npy", ["stats", "one"]),
    "head": (".tfrecord", ["head", "one"]),
    "histogram": ("index.npy", ["histogram", "one", "-o", "OUT"]),
    "inspect": (".tfrecord", ["inspect", "few/*.tfrecord"]),
    "report without reading": ("index.npy", ["report", "one", "-n", "0", "-o", "OUT"]),
    "check-model": ("model.keras", ["check-model", "model.keras"]),
}
SLOW = """
import sys, time
from vlpipe.errors import VlpipeError  # the package, which is there before its commands

def wait(event, arguments):
    if event == "open" and {name!r} in str(arguments[0]):
        print("in the middle", file=sys.stderr, flush=True)
        for _ in range(600):  # a signal between two bytecodes does not end a sleep that is about to begin
            time.sleep(0.1)

sys.addaudithook(wait)
from vlpipe.cli import run
run()
"""


def check_end(terminal: Terminal) -> None:
    """Whether Ctrl-C ended a command within a second, with one line."""
    status, seconds = terminal.end()
    last = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", terminal.shown.splitlines()[-1]).rpartition("^C")[2]  # the echo of the terminal
    assert (status, last) == (130, "vlpipe: interrupted; no output is half written"), terminal.shown
    assert seconds < MOST_SECONDS
    assert "Traceback" not in terminal.shown


def test_the_tables_have_every_command() -> None:
    listed = {arguments[0] for _, arguments in (*COMMANDS.values(), *AT_ONCE.values(), DEMO)}
    assert listed >= set(main.commands)


def test_ctrl_c_ends_what_is_done_at_once(data: Path, tmp_path: Path) -> None:
    (data / "model.keras").touch()
    terminals = []
    for name, arguments in AT_ONCE.values():  # at the same time: they wait for each other's imports, not for work
        own = [str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]
        terminals.append(Terminal([sys.executable, "-c", SLOW.format(name=name), *own], data))
    for terminal in terminals:
        terminal.wait_for(lambda shown=terminal: "in the middle" in shown.shown)
        terminal.interrupt()
        check_end(terminal)
    assert not list(tmp_path.iterdir())
    assert not unfinished(data)


HALF_CONSTRUCTED = """
import wave

def interrupt(*_):
    raise KeyboardInterrupt

wave.Wave_write.initfp = interrupt  # its __del__ then fails
from vlpipe.cli import run
run()
"""


def test_ctrl_c_in_the_construction_of_an_object_shows_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HALF_CONSTRUCTED, "demo", "--files", "20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "vlpipe: interrupted; no output is half written\n")


IN_TENSORFLOW = """
import sys

import tensorflow as tf

# Ctrl-C in the method of a shape that the C++ code of TensorFlow calls when it makes the iterator of an epoch
exec('''
import os, signal, sys
def length(self):
    if not sent and sys._getframe(1).f_code.co_name == "anonymous_iterator_v3":
        sent.append(os.kill(os.getpid(), signal.SIGINT))
    return len(self.as_list())
sent = []
''', vars(sys.modules[tf.TensorShape.__module__]))
tf.TensorShape.__len__ = sys.modules[tf.TensorShape.__module__].length
from vlpipe.cli import run
run()
"""


def test_ctrl_c_in_the_cpp_code_of_tensorflow_is_not_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_TENSORFLOW, "demo", "--files", "20", "--epochs", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (130, ["vlpipe: interrupted; no output is half written"]), done.stderr


DEMO = ("Epoch 2/999", ["demo", "--files", "20", "--epochs", "999"])


def test_ctrl_c_ends_the_demo(tmp_path: Path) -> None:
    trained, folder = tmp_path / "trained", tmp_path / "begun"
    for path in (trained, folder):
        path.mkdir()
    whole = Terminal([*COMMAND, *DEMO[1]], trained)
    begun = Terminal([*COMMAND, "demo", "--files", "9999"], folder)
    begun.wait_for(lambda: list(folder.glob("demo-output/.audio.staged-*/*/*.wav")))
    begun.interrupt()
    check_end(begun)
    assert [path.name for path in folder.rglob("*")] == ["demo-output"]
    whole.wait_for(lambda: DEMO[0] in whole.shown)
    whole.interrupt()
    check_end(whole)
    assert vlpipe.verify(trained / "demo-output/data/val").ok
    assert not unfinished(tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_it_with_one_line_and_nothing_half_written(data: Path, tmp_path: Path, name: str) -> None:
    says, arguments = COMMANDS[name]
    out = tmp_path / "out"
    terminal = Terminal([*COMMAND, *(str(out) if argument == "OUT" else argument for argument in arguments)], data)
    terminal.wait_for(lambda: says in terminal.shown)
    time.sleep(0.3)
    terminal.interrupt()
    check_end(terminal)
    deadline = time.monotonic() + 10
    while in_session(terminal.pid):  # multiprocessing's own helper ends when it sees that the command has
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())
    assert not unfinished(data)


def test_a_bar_says_what_is_done_how_fast_and_the_time_left_and_is_gone_at_the_end(data: Path) -> None:
    terminal = Terminal([*COMMAND, "verify", "few/*.tfrecord", *LAYOUT], data)
    status, _ = terminal.end()
    assert status == 0
    assert re.search(r"verifying .*/200 MB, [0-9,.]+ MB/s .*[0-9]+:[0-9]{2}:[0-9]{2}", terminal.shown)
    assert terminal.shown.replace("\r", "").endswith("and every record fits the layout raw_bytes\n")
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h") == 1  # the cursor, hidden meanwhile


def test_there_is_no_bar_where_nobody_looks(data: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": ROOT}  # as on many servers that run tests
    done = subprocess.run(
        [*COMMAND, "verify", "few/*.tfrecord", *LAYOUT], cwd=data, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stderr, done.stdout.count("\x1b")) == ("", 0)


def test_work_inside_of_other_work_adds_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("describing", "sections") as outer:
        outer(0, 2)
        with progress_bar("verifying", "MB", 1e6) as inner:
            inner(1_000_000, 2_000_000)
            assert [task.description for task in text_tables._visible[0].tasks] == ["describing", "verifying"]
        assert [task.description for task in text_tables._visible[0].tasks] == ["describing"]
        outer(2, 2)
    assert not text_tables._visible
    monkeypatch.setattr("vlpipe.processes._is_worker", True)
    with progress_bar("reading", "files") as show:
        show(1, 3)
    assert not text_tables._visible
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", shown)
    with progress_bar("indexing", "files") as show:
        show(3, 3)  # all is done already: nothing to show
    assert "indexing" not in shown.getvalue()
    calls: list[tuple[int, int]] = []
    with progress_bar("indexing", "files", given=lambda *done: calls.append(done)) as show:
        show(1, 3)
    assert (calls, "indexing" in shown.getvalue()) == ([(1, 3)], False)
