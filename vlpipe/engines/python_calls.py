"""Calls from TensorFlow into Python that return before the interpreter ends.

tf.data works ahead: when a script ends, or stops in the middle of an epoch, a thread of TensorFlow may be inside a Python function. The
ending interpreter never lets that thread continue, and the iterator's destructor waits for it: the process hangs, about one time in three.

The cyclic garbage collector runs in the thread that happens to allocate the one object too many. Inside such a call it may collect the
iterator that this call serves: the iterator's destructor then waits for the call, and the call for the destructor. So the collector is
disabled during calls.

Python creates a thread state for a thread that it did not start at every call, and frees it (with the stack of its frames) at the end.
Keeping the state of each thread gives 10 % more batches a second where batches are small.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

QUIET_SECONDS = 0.02  # without a call: then no further call is about to begin
PATIENCE_SECONDS = 30  # for a call that reads from a slow disk
ERROR_SECONDS = (
    1.0  # in which TensorFlow formats the traceback of a call that failed, in its own thread, where nothing may be collected either
)


class _Calls:
    """Counts the active calls, and remembers when the last one began or ended."""

    def __init__(self) -> None:
        self.running, self.last, self.ending = 0, 0.0, False
        self.lock = threading.Lock()

    def change(self, by: int) -> None:
        with self.lock:
            self.running, self.last = self.running + by, time.monotonic()

    def end(self) -> None:
        """Wait for the active calls; new ones fail at once."""
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
    """Disables Python's cyclic garbage collector while any call runs Python code, except while it copies."""

    def __init__(self) -> None:
        self._running, self._was_on = 0, True
        self._lock = threading.Lock()

    def pause(self) -> None:
        """Disable the collector, until `resume` was called as often as `pause`."""
        with self._lock:
            if not self._running:
                self._was_on = gc.isenabled()
                gc.disable()
            self._running += 1

    def resume(self, *, after: float = 0.0) -> None:
        """Restore the user's setting, `after` some seconds, if no other call runs Python code."""
        if after:
            timer = threading.Timer(after, self.resume)
            timer.daemon = True
            timer.start()
            return
        with self._lock:
            self._running -= 1
            if not self._running and self._was_on:
                gc.enable()


collector = _Collector()
_thread = threading.local()


def _keep_thread_state() -> None:
    """Keep the thread state of this thread until the process ends: about 7 KB; TensorFlow starts two threads for an iterator."""
    if not hasattr(_thread, "known"):
        _thread.known = ctypes.pythonapi.PyGILState_Ensure()  # never released


def wait_at_exit(function: Callable[..., Any], owner: Any) -> Callable[..., Any]:
    """Wrap a function for `tf.numpy_function` so that its calls return before the interpreter ends.

    Args:
        function: called with the owner and the arrays. It must not refer to the owner, or to anything large, itself: TensorFlow never
            frees a function that it has registered.
        owner: the object whose data the function needs. The wrapped function does not keep it alive: `keep_alive` does.
    """
    reference = weakref.ref(owner)

    def call(*arguments: Any) -> Any:
        collector.pause()
        _calls.change(1)
        _keep_thread_state()
        wait = 0.0
        try:
            if _calls.ending:
                raise RuntimeError("the process is ending")
            alive = reference()
            if alive is None:
                raise RuntimeError("the dataset was deleted while something still reads it: keep a reference to the tf.data.Dataset")
            return function(alive, *arguments)
        except BaseException:
            wait = ERROR_SECONDS
            raise
        finally:
            _calls.change(-1)
            collector.resume(after=wait)

    return call


_immortal: list[Any] = []


def keep_alive(owner: Any, dataset: tf.data.Dataset, release: Callable[[Any], None] = lambda owner: None) -> None:
    """Keep the owner of wrapped functions as long as a dataset; then call `release` with it.

    A dataset that is made inside a `tf.function` is gone when that function is traced, while the graph goes on reading: its owner stays.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        weakref.finalize(dataset, release, owner).atexit = False
    else:
        _immortal.append(owner)
