"""Files indexed by several processes, each of which is told the files by lines of text, and keeps what it finds beside them."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator

from vlpipe import errors
from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import to_json
from vlpipe.processes import start


def in_processes(paths: list[str], layout: Layout, workers: int) -> Iterator[int]:
    """Index files; the number of each that is done, in no order. A process that dies leaves its file to the caller.

    Args:
        workers: processes; with one, there is nothing to start, and nothing is done.

    Raises:
        VlpipeError: a file cannot be indexed; the first such error in the order of the files.
    """
    if workers < 2:
        return
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(paths)):
        waiting.put(number)
    done: queue.SimpleQueue[tuple[int, str, str] | None] = queue.SimpleQueue()
    threads = [threading.Thread(target=_serve, args=(paths, layout, waiting, done), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    failures = []
    running = workers
    while running:
        result = done.get()
        if result is None:
            running -= 1
        elif result[1]:
            failures.append(result)
            while not waiting.empty():  # files before this one are under way or done
                waiting.get()
        else:
            yield result[0]
    if failures:
        _, kind, text = min(failures)
        raise getattr(errors, kind, errors.DatasetError)(text)


def _serve(paths: list[str], layout: Layout, waiting: queue.SimpleQueue[int], done: queue.SimpleQueue[tuple[int, str, str] | None]) -> None:
    """Give one process file after file."""
    try:
        with start("vlpipe.sources.foreign", json.dumps(to_json(layout)), text=True) as process:
            if process.stdin is None or process.stdout is None:
                return
            while True:
                number = waiting.get_nowait()
                process.stdin.write(json.dumps(paths[number]) + "\n")
                process.stdin.flush()
                kind, text = json.loads(process.stdout.readline())
                done.put((number, kind, text))
    except (queue.Empty, OSError, ValueError):  # nothing left; or the process has died, and whoever asked does the rest itself
        pass
    finally:
        done.put(None)
