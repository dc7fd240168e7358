"""A conversion by several processes: each opens the source by itself and writes shards of its own into the one staged directory."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vlpipe import errors
from vlpipe.errors import VlpipeError
from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import to_json
from vlpipe.processes import start
from vlpipe.storage.index import Index, row_dtype
from vlpipe.storage.schema import Schema
from vlpipe.storage.shard_writer import Shard, shards_of
from vlpipe.storage.transaction import Draft

_DONE = 1 << 62  # a record behind the last
Messages = queue.SimpleQueue[tuple[int, dict[str, Any] | None]]


def job(index: Index, source: list[str], layout: Layout | None, draft: Draft) -> dict[str, Any] | None:
    """What another process has to be told; None where it cannot be: a layout that has functions of the user's."""
    if layout is not None and layout.given is not None:
        return None
    return {
        "source": source,
        "layout": None if layout is None else to_json(layout),
        "fingerprint": index.fingerprint,
        "target": draft.path,
        "directory": str(draft.directory),
        "names": list(draft.names.values()),
    }


def in_processes(
    told: dict[str, Any], schema: Schema, records: int, parts: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, dict[int, Shard]]:
    """All rows of the index of the target, and its shards by number.

    Args:
        told: the `job`.
        schema: of the target.
        records: in the source.
        parts: processes.
        progress: called with the bytes that are done.

    Raises:
        VlpipeError: a record cannot be converted, the first such one whatever the number of processes; or a process has died.
    """
    rows = np.empty(records, row_dtype(schema))
    part_of = shards_of(records, len(told["names"])) % parts
    shards: dict[int, Shard] = {}
    with contextlib.ExitStack() as stack:
        messages: Messages = queue.SimpleQueue()
        for number in range(parts):
            process = stack.enter_context(_started())
            thread = threading.Thread(target=_listen, args=(process, {**told, "number": number, "parts": parts}, messages))
            thread.start()
            stack.callback(thread.join)
            stack.callback(process.kill)
        for number, message in _last_messages(told["target"], parts, messages, progress):
            rows[part_of == number] = np.frombuffer(message["rows"], rows.dtype)
            shards |= {int(shard): Shard.from_state(state) for shard, state in message["shards"].items()}
    return rows, shards


def _started() -> subprocess.Popen:
    # Ctrl-C goes to every process of a terminal. Those that are started here never hear it: whoever waits for them ends them.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return start("vlpipe.conversion")
    except OSError as error:
        raise VlpipeError(f"a worker process cannot be started ({error.strerror or error}). Try workers=1, which needs none.") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _listen(process: Any, told: dict[str, Any], messages: Messages) -> None:
    """Tell a process what to do and put down what it says; None when it says no more."""
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        process.stdin.flush()
        for line in process.stdout:
            message = json.loads(line)
            if "rows" in message:
                size = message["rows"]
                message["rows"] = process.stdout.read(size)
                if len(message["rows"]) < size:
                    break
            messages.put((told["number"], message))
    except (OSError, ValueError):  # it has died, maybe in the middle of a line
        pass
    finally:
        messages.put((told["number"], None))


def _last_messages(target: str, parts: int, messages: Messages, progress: Callable[[int], None]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What each process says last."""
    at, done = [0] * parts, [0] * parts
    failures: list[tuple[int, str, str]] = []
    while min(at) < _DONE:
        number, message = messages.get()
        if message is None:
            if at[number] < _DONE:
                raise VlpipeError(
                    f"{target}: a worker process died; nothing was written. It was killed or ran out of memory: try fewer workers."
                )
            continue
        at[number], done[number] = message["row"], message["bytes"]
        progress(sum(done))
        if "error" in message:
            failures.append((message["row"], *message["error"]))
        elif "rows" in message:
            yield number, message
        if "error" in message or "rows" in message:
            at[number] = _DONE
        # The others go on as far as the first record that failed: one before it may fail too.
        if failures and min(at) >= min(failures)[0]:
            _, kind, text = min(failures)
            raise getattr(errors, kind, errors.DatasetError)(text)
