"""Convert in several processes: each opens the source by itself and writes some of the shards into the directory of the transaction."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vlpipe.errors import VlpipeError
from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import to_json
from vlpipe.processes import Workers
from vlpipe.regular_files import create
from vlpipe.storage.field_access import column
from vlpipe.storage.index import Index, row_dtype
from vlpipe.storage.paths import Opened
from vlpipe.storage.schema import Schema
from vlpipe.storage.shard_writer import WrittenShard, shard_numbers
from vlpipe.storage.text_columns import TextValues, merged_values, text_fields
from vlpipe.storage.transaction import DatasetTransaction

_DONE = 1 << 62  # greater than the number of any record


@contextmanager
def job_for(
    index: Index, source: list[str] | Opened, layout: Layout | None, transaction: DatasetTransaction
) -> Iterator[dict[str, Any] | None]:
    """Yield the conversion as JSON values, for other processes; None if its layout has functions of the user's, which stay here.

    Other processes open paths again. An open source may be a selection, so they load its index, from a file that is there for so long.
    """
    if index.foreign is not None and index.foreign.parse is not None:
        yield None
    elif not isinstance(source, Opened):
        yield _job(index, transaction) | {"source": source, "layout": None if layout is None else to_json(layout)}
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "index.pickle")
            with create(path) as file:
                pickle.dump(index, file, protocol=5)
            yield _job(index, transaction) | {"index": path}


def _job(index: Index, transaction: DatasetTransaction) -> dict[str, Any]:
    return {
        "fingerprint": index.fingerprint,
        "target": transaction.path,
        "directory": str(transaction.directory),
        "names": list(transaction.names.values()),
    }


def in_processes(
    job: dict[str, Any], schema: Schema, records: int, parts: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, TextValues, dict[int, WrittenShard]]:
    """Convert in several processes; return all rows of the target's index, the values of its texts, and its shards by number.

    Args:
        job: of `job_for`.
        schema: of the target.
        records: number of records in the source.
        parts: number of processes.
        progress: called with the bytes that are done.

    Raises:
        VlpipeError: a record cannot be converted: the first such record, whatever the number of processes. Or a process died.
    """
    names = text_fields(schema)
    rows = np.empty(records, row_dtype(schema, names))
    texts: list[TextValues] = [{} for _ in range(parts)]
    part_of_row = shard_numbers(records, len(job["names"])) % parts
    shards: dict[int, WrittenShard] = {}
    at, done = [0] * parts, [0] * parts
    failures: list[tuple[int, VlpipeError]] = []
    with Workers("vlpipe.conversion", [{**job, "number": number, "parts": parts} for number in range(parts)]) as workers:
        try:
            workers.start(parts)
        except OSError as error:
            raise VlpipeError(f"a worker process cannot be started ({error.strerror or error}). Try workers=1: it starts none.") from error
        for message in workers.messages():
            number = message.task
            if message.kind == "died":
                raise VlpipeError(
                    f"{job['target']}: a worker process died; nothing was written. It was killed or ran out of memory: try fewer workers."
                )
            if message.kind == "progress":
                at[number], done[number] = message.value
                progress(sum(done))
            elif message.kind == "result":
                rows[part_of_row == number] = np.frombuffer(message.payload, rows.dtype)
                texts[number] = message.value["texts"]
                shards |= {int(shard): WrittenShard.from_state(state) for shard, state in message.value["shards"].items()}
            else:
                failures.append((at[number], message.value))
            if message.kind != "progress":
                at[number] = _DONE
            _raise_first(failures, at)
    values: TextValues = {}
    for name in names:
        values[name], codes = merged_values([part[name] for part in texts])
        for number, table in enumerate(codes):
            place, mine = column(schema, "code", name), part_of_row == number
            rows[place][mine] = table[rows[place][mine]]
    return rows, values, shards


def _raise_first(failures: list[tuple[int, VlpipeError]], at: list[int]) -> None:
    """Raise the error of the first record that failed, once every process is past it: until then, an earlier record may still fail.

    Args:
        failures: record and error of each process that failed.
        at: the record that each process is at.
    """
    if failures:
        row, failure = min(failures, key=lambda entry: (entry[0], str(entry[1])))
        if min(at) >= row:
            raise failure
