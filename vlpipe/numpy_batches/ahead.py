"""Threads that make batches ahead of the loop that takes them: in order, for one iterator, as long as it is used.

The threads know the work and not the iterator, so that an iterator that nobody holds any more is deleted, and ends them. A process may fork
at any time: the forking thread first waits until no thread is inside a batch, so that the child inherits no lock that nobody releases.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from vlpipe.engines.active_calls import PATIENCE_SECONDS, calls


class _Gate:
    """Counts the threads inside a batch; closed while the process forks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Open, with nobody inside."""
        self._lock = threading.RLock()  # taken twice for each batch, without the Python code of the condition
        self._changed, self._inside, self._closed = threading.Condition(self._lock), 0, False

    def __enter__(self) -> None:
        with self._lock:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._closed:
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in, and wait until all are out."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._inside, PATIENCE_SECONDS)

    def open(self) -> None:
        """Let them in again."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()


_gate = _Gate()
os.register_at_fork(before=_gate.close, after_in_parent=_gate.open, after_in_child=_gate.reset)


def guarded(make: Callable[[int], Any], number: int) -> Any:
    """The batch with a number, made where no fork and no garbage collection comes between."""
    with _gate, calls:
        return make(number)


class _Cell:
    """One batch, from the moment that it is requested."""

    __slots__ = ("error", "is_ready", "lock", "number", "value")

    def __init__(self, number: int) -> None:
        self.number, self.value, self.error, self.is_ready = number, None, None, False
        self.lock = threading.Lock()
        self.lock.acquire()  # released when the batch is there: waiting for a lock takes a fraction of the time of an Event

    value: Any
    error: BaseException | None


class _Crew:
    """The threads of one iterator."""

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        self.tasks: SimpleQueue[_Cell | None] = SimpleQueue()
        self.is_over = False
        self.threads = [threading.Thread(target=self._work, args=(make,), name="vlpipe-batches", daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _work(self, make: Callable[[int], Any]) -> None:
        while (cell := self.tasks.get()) is not None:
            try:
                cell.value = None if self.is_over else guarded(make, cell.number)
            except BaseException as error:  # raised where the batch is taken
                cell.error = error
            cell.is_ready = True
            cell.lock.release()
            del cell  # the batch belongs to the user now

    def end(self) -> None:
        """End the threads after the batches that they are making."""
        self.is_over = True
        for _ in self.threads:
            self.tasks.put(None)


_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()


@atexit.register
def _join_all() -> None:
    """At the end of the process no thread may be inside a system call that copies into memory that is freed."""
    crews = list(_crews)
    for crew in crews:
        crew.end()
    for thread in [thread for crew in crews for thread in crew.threads]:
        thread.join(PATIENCE_SECONDS)


class Ahead(Iterator[Any]):
    """The batches with these numbers, in this order. Several threads may take them, and any may close it while others wait.

    What comes next is known from `taken` and the cells that wait alone, and each step changes one of them at once: an interrupt may come
    anywhere, and the next call goes on.

    Args:
        make: makes the batch with a number. Several threads call it.
        numbers: of the batches.
        threads: that make batches.
        ahead: batches that are made, or wait, at most, before they are taken; 0: each is made when it is taken, without threads.

    Attributes:
        taken: batches that were taken.
    """

    def __init__(self, make: Callable[[int], Any], numbers: range, threads: int, ahead: int) -> None:
        self._make, self._numbers, self._threads, self._ahead = make, numbers, min(threads, ahead), ahead
        self._waiting: deque[_Cell] = deque()
        self._crew: _Crew | None = None
        self._process, self._is_over = os.getpid(), False
        self._lock, self.taken = threading.Lock(), 0

    def __next__(self) -> Any:
        if self._process != os.getpid():  # a thread of the parent may have held the lock
            self._lock, self._crew, self._process = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._is_over or self.taken == len(self._numbers):
                self.close()
                raise StopIteration
            try:
                return self._first_waiting() if self._ahead else self._made()
            except Exception:
                self.close()
                raise

    def close(self) -> None:
        """End the threads; there are no further batches."""
        self._is_over = True
        self._waiting = deque()
        if self._crew is not None:
            self._crew.end()

    def _made(self) -> Any:
        value = guarded(self._make, self._numbers[self.taken])
        self.taken += 1
        return value

    def _first_waiting(self) -> Any:
        if self._crew is None:
            self._start()
        self._request(self._ahead)
        waiting = self._waiting  # `close` puts another in its place
        cell = waiting[0] if waiting else None
        if cell is not None and not cell.is_ready:  # an interrupt after the lock was taken must not make the next call wait for ever
            cell.lock.acquire()
        if cell is None or self._is_over:
            raise StopIteration
        if cell.error is not None:
            raise cell.error
        self._request(self._ahead + 1)
        self.taken += 1
        del waiting[0]  # right after the count: no interrupt comes between, because nothing is called
        return cell.value

    def _request(self, count: int) -> None:
        """Have as many batches made or waiting."""
        while self._crew is not None and len(self._waiting) < count:
            position = self.taken + len(self._waiting)
            if position >= len(self._numbers):
                return
            cell = _Cell(self._numbers[position])
            self._crew.tasks.put(cell)  # before it waits: a cell that waits is made
            self._waiting.append(cell)

    def _start(self) -> None:
        """Start the threads; in a child, which has none, the batches that the parent waits for are made again."""
        self._waiting = deque()
        crew = _Crew(self._make, self._threads)
        _crews.add(crew)
        weakref.finalize(self, crew.end).atexit = False
        self._crew = crew
