"""Calls from TensorFlow into Python, which must have come back when the interpreter ends.

tf.data works ahead: when a script ends, or stops in the middle of an epoch, a thread of TensorFlow may be inside a Python function. The
interpreter never lets it go on, and the iterator's destructor waits for it: the process hangs, about one time in three.

The cyclic garbage collector runs in whichever thread makes the object that is one too many. In such a call it may find an iterator of
which this very call is a part: the iterator's destructor waits for the call, and the call for the destructor. So it is kept out of them.

And a thread that Python did not start is a stranger to it at every call: its state is made and, with the stack of its frames, unmapped
again. So each thread is introduced once: 10 % more batches a second where they are small.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

QUIET_SECONDS = 0.02  # without a call, after which none is on its way any more
PATIENCE_SECONDS = 30  # for one that reads from a slow disk


class _Calls:
    """How many are under way, and when the last one came or went."""

    def __init__(self) -> None:
        self.running, self.last, self.ending = 0, 0.0, False
        self.lock = threading.Lock()

    def change(self, by: int) -> None:
        with self.lock:
            self.running, self.last = self.running + by, time.monotonic()

    def end(self) -> None:
        """Wait for the calls under way; those that still come fail at once."""
        self.ending = True
        if not self.last:
            return
        deadline = time.monotonic() + PATIENCE_SECONDS
        self.change(0)
        while (self.running or time.monotonic() - self.last < QUIET_SECONDS) and time.monotonic() < deadline:
            time.sleep(QUIET_SECONDS / 4)


_calls = _Calls()
atexit.register(_calls.end)


class _Collector:
    """Python's cyclic garbage collector, off while any call runs Python, except where it copies."""

    def __init__(self) -> None:
        self._running, self._was_on = 0, True
        self._lock = threading.Lock()

    def pause(self) -> None:
        """Keep it off, until `resume` was called as often."""
        with self._lock:
            if not self._running:
                self._was_on = gc.isenabled()
                gc.disable()
            self._running += 1

    def resume(self) -> None:
        """What the user had, if no other call runs Python."""
        with self._lock:
            self._running -= 1
            if not self._running and self._was_on:
                gc.enable()


collector = _Collector()
_thread = threading.local()


def _stay() -> None:
    """Let the interpreter keep what it knows of this thread until it ends: some 7 KB; TensorFlow has two new threads for an iterator."""
    if not hasattr(_thread, "known"):
        _thread.known = ctypes.pythonapi.PyGILState_Ensure()  # and never released


def wait_at_exit(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for `tf.numpy_function` whose calls have come back before the interpreter ends."""

    def call(*arguments: Any) -> Any:
        collector.pause()
        _calls.change(1)
        _stay()
        try:
            if _calls.ending:
                raise RuntimeError("the process is ending")
            return function(*arguments)
        finally:
            _calls.change(-1)
            collector.resume()

    return call
