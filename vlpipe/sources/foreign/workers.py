"""Index files in several processes. Each stores the index of a file where `cache` looks for it, and answers only that it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import to_json
from vlpipe.processes import Workers


def in_processes(paths: list[str], layout: Layout, workers: int) -> Iterator[int]:
    """Index files; yield the position of each one that is done, in the order of completion.

    A process that dies, or cannot be started, leaves its files to the caller.

    Args:
        layout: a layout without functions of the user's.
        workers: processes; with one, nothing is started and nothing is indexed.

    Raises:
        VlpipeError: a file cannot be indexed; of several such files, the error of the first one in the list.
    """
    if workers < 2:
        return
    failures = {}
    document = to_json(layout)
    with Workers("vlpipe.sources.foreign", [{"path": path, "layout": document} for path in paths]) as processes:
        with contextlib.suppress(OSError):
            processes.start(workers)
        for message in processes.messages():
            if message.kind == "error":
                failures[message.task] = message.value
                processes.drop_waiting_tasks()  # the files before this one are done or in progress
            elif message.kind == "result":
                yield message.task
    if failures:
        raise failures[min(failures)]
