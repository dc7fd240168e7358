"""Jobs in forked children of one small process: a child is made in two milliseconds, but in twenty of a process that loaded TensorFlow."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import vlpipe

OPERATIONS = {"open", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.listdir", "os.truncate", "fcntl.flock", "os.fsync"}
DONE, REFUSED, OTHER = 0, 10, 11  # how a child ends


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A temporary directory where no write waits for a disk, if there is such a place: a kill loses nothing that the system has taken."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as path:
        yield Path(path)


class Forks:
    """A process that imports a module, calls its `warm()`, and forks a child for each call of one of its functions."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, module],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def run(self, job: str, *arguments: Any, at: int = -1, then: int = 0, limit: int | None = None) -> tuple[int, int]:
        """Call a function in a child.

        Args:
            job: The name of the function.
            arguments: Its arguments, which JSON can hold.
            at: The number of a file operation, counted from 0.
            then: What happens before that operation: SIGKILL if it is negative, an OSError of this number if it is positive.
            limit: No file can grow beyond as many bytes, as on a disk without space.

        Returns:
            How the child ended (a signal is negative), and how many operations there were, where it ended by itself.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([job, arguments, at, then, limit]), file=self._process.stdin, flush=True)
        end, operations = json.loads(self._process.stdout.readline())
        return end, operations

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def _count_operations(at: int, then: int) -> Any:
    count, fsync = itertools.count(), os.fsync

    def hook(event: str, _: object) -> None:
        if event in OPERATIONS and next(count) == at and then:
            if then < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(then, os.strerror(then), "somewhere")

    def audited_fsync(file: int) -> None:
        sys.audit("os.fsync", file)
        fsync(file)

    os.fsync = audited_fsync
    sys.addaudithook(hook)
    return count


def _in_child(job: Callable[..., Any], arguments: list[Any], at: int, then: int, limit: int | None) -> tuple[int, int]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        end = OTHER
        try:
            logging.disable(logging.CRITICAL)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            count = _count_operations(at, then)
            try:
                job(*arguments)
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


if __name__ == "__main__":
    jobs = importlib.import_module(sys.argv[1])
    jobs.warm()
    for line in sys.stdin:
        name, *order = json.loads(line)
        print(json.dumps(_in_child(getattr(jobs, name), *order)), flush=True)
