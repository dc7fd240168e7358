"""Counts the calls from other threads that run Python code, waits for them when the process ends, and has garbage collected meanwhile.

Python's cyclic garbage collector runs in the thread that allocates the one object too many. In a call from TensorFlow, and in TensorFlow's
own Python code around it, that may collect the iterator that this call serves: the iterator's destructor waits for the call, and the call
for the destructor. Neither ends, and no garbage is collected any more. So the collector is disabled while there are calls, and a thread
that no iterator waits for collects in its place. Where the user has disabled it before, it stays so; a `gc.disable` meanwhile is not seen.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import time

QUIET_SECONDS = 0.02  # without a call: then no further call is about to begin
PATIENCE_SECONDS = 30  # for a call that reads from a slow disk, while the process ends or forks
PERIOD_SECONDS = 0.05  # between two looks at what there is to collect
# Without a call, until Python collects by itself again: TensorFlow formats the traceback of a call that failed in its own thread.
IDLE_SECONDS = 2.0
FULL_SHARE = 0.01  # of the time, at most, for finding out whether all objects are to be looked through


class ActiveCalls:
    """A context for each call; several threads may be in it.

    Attributes:
        running: calls that are active.
        last: when the last one began or ended; 0: none has.
        ending: the process ends, and new calls must fail.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.running, self.last, self.ending = 0, 0.0, False
        self._lock, self._over = threading.Lock(), threading.Event()
        self._collecting: threading.Thread | None = None

    def __enter__(self) -> None:
        thread = None
        with self._lock:
            self.running, self.last = self.running + 1, time.monotonic()
            if gc.isenabled() and not self.ending:
                gc.disable()
                if self._collecting is None:
                    self._collecting = thread = threading.Thread(target=self._collect, name="vlpipe-garbage", daemon=True)
        if thread is not None:
            thread.start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.running, self.last = self.running - 1, time.monotonic()

    def end(self) -> None:
        """Wait for the active calls, and for the collection of garbage: a thread in a destructor must not outlive the interpreter."""
        self.ending = True
        if not self.last:
            return
        deadline = time.monotonic() + PATIENCE_SECONDS
        self.last = time.monotonic()
        while (self.running or time.monotonic() - self.last < QUIET_SECONDS) and time.monotonic() < deadline:
            time.sleep(QUIET_SECONDS / 4)
        self._over.set()
        if (thread := self._collecting) is not None:
            thread.join(PATIENCE_SECONDS)

    def begin_anew(self) -> None:
        """In a child process, which has none of the threads."""
        was_collecting = self._collecting is not None
        self._reset()
        if was_collecting:
            gc.enable()

    def _collect(self) -> None:
        collection = _Collection()
        while not self._handed_back():
            with _collection_lock:
                collection.collect_due()

    def _handed_back(self) -> bool:
        """Wait a little; then, if there have been no calls for a while, enable Python's collector again, and return True."""
        ending = self._over.wait(PERIOD_SECONDS)
        self._lock.acquire()  # no `with`, which may allocate a tuple behind `gc.enable`, and so collect under the lock
        try:
            if not ending and (self.running or time.monotonic() - self.last < IDLE_SECONDS):
                return False
            self._collecting = None
            gc.enable()
            return True
        finally:
            self._lock.release()


# A child that is forked in the middle of a collection would never collect. It can be taken twice, because a finalizer may fork.
_collection_lock = threading.RLock()
os.register_at_fork(before=_collection_lock.acquire, after_in_parent=_collection_lock.release, after_in_child=_collection_lock.release)


class _Collection:
    """Collects what Python's collector would, by the same counts, with one exception.

    Python looks through all objects when the long-lived ones have grown by a quarter, and keeps their number to itself. Here it is the
    memory blocks of the interpreter that have grown. `gc.get_objects` would give the number, but it holds a reference to each object for a
    moment, also to tuples that other threads are filling, and `PyTuple_SetItem` refuses tuples with two references: TensorFlow 2.21, which
    releases the interpreter lock while it fills the tuple of a shape, then fails ("Error while creating shape") and frees a number twice.
    """

    def __init__(self) -> None:
        self._blocks, self._next_full = 0, 0.0

    def collect_due(self) -> None:
        """Collect the generations that are due."""
        counts, thresholds = gc.get_count(), gc.get_threshold()
        if not thresholds[0] or counts[0] <= thresholds[0]:
            return
        if counts[2] > thresholds[2] and self._have_grown():
            gc.collect()
            self._blocks = sys.getallocatedblocks()
        else:
            gc.collect(1 if counts[1] > thresholds[1] else 0)

    def _have_grown(self) -> bool:
        """Whether there are a quarter more blocks than after the last full collection. True if Python counts none (PYTHONMALLOC=malloc)."""
        begin = time.monotonic()
        if begin < self._next_full:
            return False
        have_grown = sys.getallocatedblocks() >= 1.25 * self._blocks
        self._next_full = begin + (time.monotonic() - begin) / FULL_SHARE
        return have_grown


calls = ActiveCalls()
atexit.register(calls.end)
os.register_at_fork(after_in_child=calls.begin_anew)
