"""Processes that share work: how many to start, and how to send them tasks and get their answers.

`Workers` starts Python processes of a module of this package, which calls `run_worker`. The two sides talk over pipes, in lines of JSON:

    to the worker       a task: any JSON value, on one line; the next one follows when the last one has been answered
    from the worker     {"progress": VALUE}                         any number of times during a task
                        {"result": VALUE, "payload": N}, N bytes    the task is done; the bytes follow the line
                        {"error": [CLASS, TEXT]}                    the task failed with this `VlpipeError`

A worker ends when its standard input ends: quietly between two tasks; at once, with status 1, during a task, because its parent is gone
then. Ctrl-C, which a terminal sends to every process, does not reach it: its parent ends it. A worker that dies has not answered its task.

`start_pool` starts processes of `multiprocessing`. They run the user's script a second time, which starts further processes if it has no
`if __name__ == "__main__"`. Only commands may use them, not functions that a script calls.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from vlpipe import errors
from vlpipe.arguments import integer
from vlpipe.errors import VlpipeError

# Starting a process takes about half a second: for less work, that is more than it saves.
MIN_BYTES_FOR_PROCESSES = 1 << 28

Progress = Callable[[Any], None]


def check_workers(workers: Any, limit: int | None = None) -> int | None:
    """Return the `workers` argument of a public function: an integer from 1 to `limit`, or None.

    Raises:
        ArgumentError: it is something else.
    """
    if workers is None:
        return None
    at_most = "" if limit is None else f", at most {limit}"
    return integer("workers", workers, 1, limit or 2**31, expected=f"an integer >= 1{at_most}, or None to let vlpipe choose")


def worker_count(workers: Any, *, tasks: int | None = None, work_bytes: int | None = None, limit: int | None = None) -> int:
    """Return how many workers to start.

    The rule: as many as requested; without a request one per core, or a single one where `work_bytes` is less than
    `MIN_BYTES_FOR_PROCESSES`. In any case not more than there are tasks, and at least one.

    Args:
        workers: the request, or None.
        tasks: units of work that cannot be divided, such as files; None: any number.
        work_bytes: size of the work; None: large enough for all cores.
        limit: the largest request that is accepted.

    Raises:
        ArgumentError: as `check_workers`.

    Example:
        >>> worker_count(8, tasks=3), worker_count(None, work_bytes=1000)
        (3, 1)
    """
    count = check_workers(workers, limit)
    if count is None:
        count = 1 if work_bytes is not None and work_bytes < MIN_BYTES_FOR_PROCESSES else os.cpu_count() or 1
    return count if tasks is None else max(1, min(count, tasks))


# ---- the parent ------------------------------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """What a worker reports about a task.

    Attributes:
        task: position in the list of tasks.
        kind: "progress", or how the task ended: "result", "error", or "died" (the worker did, without an answer).
        value: the JSON value of a progress or result; the `VlpipeError` of an error; None of a worker that died.
        payload: the bytes that belong to a result.
    """

    task: int
    kind: Literal["progress", "result", "error", "died"]
    value: Any = None
    payload: bytes = b""


class Workers:
    """Processes that share a list of tasks. Use it in a `with` block: leaving the block kills those that are still running.

    Args:
        module: full name of the module to run, which calls `run_worker`.
        tasks: JSON values. Each process takes the next one when it has answered the last one.
    """

    def __init__(self, module: str, tasks: list[Any]) -> None:
        self._module = module
        self._waiting: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for task in enumerate(tasks):
            self._waiting.put(task)
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start processes.

        Raises:
            OSError: the system cannot start another one; those that are running already continue.
        """
        for _ in range(count):
            with _interrupts_blocked():
                process = start(self._module)
            self._processes.append(process)
            self._threads.append(threading.Thread(target=serve, args=(process, self._waiting, self._messages), daemon=True))
            self._threads[-1].start()

    def messages(self) -> Iterator[Message]:
        """Yield what the processes report, in the order of arrival, until no process has anything left to do."""
        running = len(self._threads)
        while running:
            message = self._messages.get()
            if message is None:
                running -= 1
            else:
                yield message

    def drop_waiting_tasks(self) -> None:
        """Hand out no further tasks; those in progress are still answered."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_waiting_tasks()
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            with process:  # closes the pipes and waits for its end
                pass


def serve(process: Any, waiting: queue.SimpleQueue[tuple[int, Any]], messages: queue.SimpleQueue[Message | None]) -> None:
    """Give a process task after task and queue its messages; None at the end, when no task is left or the process has died."""
    try:
        while True:
            number, task = waiting.get_nowait()
            try:
                process.stdin.write(json.dumps(task).encode() + b"\n")
                process.stdin.flush()
                for message in _read_answer(process.stdout, number):
                    messages.put(message)
            except (OSError, ValueError, EOFError):  # it has died, maybe in the middle of a line
                messages.put(Message(number, "died"))
                break
    except queue.Empty:
        pass
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()  # on which the process ends
        messages.put(None)


def _read_answer(stream: IO[bytes], number: int) -> Iterator[Message]:
    """Yield the messages about a task, up to its end.

    Raises:
        ValueError, EOFError: the process has died.
    """
    while True:
        document = json.loads(stream.readline())
        if "error" in document:
            name, text = document["error"]
            yield Message(number, "error", getattr(errors, name, errors.DatasetError)(text))
            return
        if "result" in document:
            payload = stream.read(document["payload"])
            if len(payload) < document["payload"]:
                raise EOFError
            yield Message(number, "result", document["result"], payload)
            return
        yield Message(number, "progress", document["progress"])


def start(module: str) -> subprocess.Popen[bytes]:
    """Run a module of this package in a new Python, with pipes to its standard input and from its standard output.

    Args:
        module: its full name, such as "vlpipe.sources.foreign".

    Raises:
        OSError: the system cannot start it.
    """
    package = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}
    return subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT (Ctrl-C goes to every process of a terminal) in this thread, and for good in the processes that it starts meanwhile."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


# ---- the worker ------------------------------------------------------------------------------------------------------------------


_is_worker = False


def is_worker() -> bool:
    """Whether this process works for another one, whose terminal it shares: it shows nothing there."""
    return _is_worker or multiprocessing.parent_process() is not None


def run_worker(function: Callable[[Any, Progress], tuple[Any, bytes]]) -> None:
    """Answer the tasks that come on standard input, until it ends. Call this in a module that `Workers` runs.

    Args:
        function: does a task, given the task and a function that reports progress (any JSON value); returns the result (a JSON value) and
            a payload of bytes. A `VlpipeError` is raised again in the parent; any other exception ends the process.
    """
    global _is_worker
    _is_worker = True
    tasks: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read_tasks, args=(tasks,), daemon=True).start()
    while (line := tasks.get()) is not None:
        payload = b""
        try:
            result, payload = function(json.loads(line), lambda value: _send({"progress": value}))
            answer = {"result": result, "payload": len(payload)}
        except VlpipeError as error:
            answer = {"error": [type(error).__name__, str(error)]}
        tasks.task_done()  # before the answer, after which the parent may close the input
        _send(answer, payload)


def _read_tasks(tasks: queue.Queue[bytes | None]) -> None:
    """Queue the lines of standard input and then None; end the process if the input ends during a task."""
    # Not through sys.stdin: this thread would hold its lock, which the interpreter needs when it shuts down.
    with open(0, "rb", closefd=False) as stdin:
        for line in stdin:
            tasks.put(line)
    if tasks.unfinished_tasks:
        os._exit(1)
    tasks.put(None)


def _send(document: dict[str, Any], payload: bytes = b"") -> None:
    try:
        sys.stdout.buffer.write(json.dumps(document).encode() + b"\n")
        sys.stdout.buffer.write(payload)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the parent is gone
        os._exit(1)


# ---- multiprocessing -------------------------------------------------------------------------------------------------------------


class Pool(ProcessPoolExecutor):
    """A pool that kills its processes if it is shut down during their work: after Ctrl-C nobody wants to wait for a long recording."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._others = set(multiprocessing.active_children())
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        future = super().submit(*arguments, **options)
        self._futures.add(future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if not cancel_futures or all(future.done() for future in self._futures):
            super().shutdown(wait, cancel_futures=cancel_futures)
            return
        results: Any = getattr(self, "_result_queue", None)
        super().shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()
            process.join()
        # One may have died in the middle of an answer, for whose rest the pool would wait as long as this process could write it.
        with contextlib.suppress(AttributeError, OSError):
            results._writer.close()


def start_pool(workers: int) -> ProcessPoolExecutor:
    """Start a pool of processes, which the caller shuts down."""
    # The linear-algebra library would start threads in each of the processes, which only slow each other down.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Not forked: TensorFlow's threads do not survive a fork.
    pool = Pool(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_pool_worker)
    with _interrupts_blocked():  # until the processes ignore them
        for _ in range(workers):
            pool.submit(os.getpid)
    return pool


def _prepare_pool_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is killed, which can then not end this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
