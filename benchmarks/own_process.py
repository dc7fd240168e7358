"""A way in a process of its own: what one way loads, allocates or leaves running does not slow another.

Calling a run of such a way runs it in its process, and returns when it has ended. The two messages take a tenth of a millisecond.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any


@dataclass
class Way:
    """A way that takes part.

    Attributes:
        runs: by name; each call is an epoch.
        valid_ratio: share of the delivered frames that are not padding; None: it delivers nothing.
        notes: further entries in the JSON.
    """

    runs: dict[str, Callable[[], object]]
    valid_ratio: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def own_process(name: str, enter: Callable[[], Way]) -> Iterator[Way]:
    """The way that a function returns, which runs in a new process until the context ends.

    Args:
        name: of the way, for the error where its process ends.
        enter: a function of a module, or a `functools.partial` of one, with arguments that can be sent to the process. A SystemExit that
            it raises is raised here.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(enter, theirs))
    process.start()
    theirs.close()

    def answer() -> Any:
        try:
            received = ours.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            raise SystemExit(f"{name}: its process ended with status {process.exitcode}") from None
        if isinstance(received, SystemExit):
            raise received
        return received

    def run(which: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` reports that the process ended
            ours.send(which)
        answer()

    try:
        runs, valid_ratio, notes = answer()
        yield Way({which: functools.partial(run, which) for which in runs}, valid_ratio, notes)
    finally:
        ours.close()
        process.join()


def _serve(enter: Callable[[], Way], requests: Connection) -> None:
    """Run as the process of a way."""
    try:
        way = enter()
    except SystemExit as end:
        requests.send(end)
        return
    _return_freed_memory()
    requests.send((list(way.runs), way.valid_ratio, way.notes))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the other end is closed
        while True:
            way.runs[requests.recv()]()
            requests.send(None)


def _return_freed_memory() -> None:
    """Leave the memory that the check has freed to the page cache: the processes together hold gigabytes of it."""
    with contextlib.suppress(OSError, AttributeError):  # only the GNU C library has it
        ctypes.CDLL(None).malloc_trim(0)
