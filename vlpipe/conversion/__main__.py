"""One of the processes of `workers`: told what to do by a line of JSON on standard input, it answers by lines of JSON.

Each has the record that it is at and the bytes that are done; the last one the error that there was, or the shards and how many bytes the
rows of the index have, which follow.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from vlpipe.conversion.work import Part
from vlpipe.errors import DatasetError, VlpipeError
from vlpipe.layouts.registry import from_json
from vlpipe.sources.open import open_anywhere


def main() -> None:
    """Do what the first line of standard input says, which stays open as long as the process lives that asks."""
    line = sys.stdin.buffer.readline()
    if line:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        _work(json.loads(line))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing ever comes, but the end; of the buffered file, this would hold a lock that the exit needs
    os._exit(1)


def _work(job: dict[str, Any]) -> None:
    part = None
    try:
        index = open_anywhere(job["source"], job["layout"] and from_json(job["layout"]))
        if index.fingerprint != job["fingerprint"]:
            raise DatasetError(f"{job['source'][0]}: was changed while it was converted. Convert it again when it is complete.")
        names = dict(enumerate(job["names"]))
        part = Part(index, job["target"], Path(job["directory"]), names, job["number"], job["parts"])
        rows, shards = part.convert(lambda: _send(part))
    except VlpipeError as error:
        _send(part, error=[type(error).__name__, str(error)])
    else:
        content = rows.tobytes()
        _send(part, shards={number: shard.state() for number, shard in shards.items()}, rows=len(content))
        _write(content)


def _send(part: Part | None, **more: Any) -> None:
    place = {"row": 0, "bytes": 0} if part is None else {"row": part.row, "bytes": part.bytes}
    _write(json.dumps({**place, **more}).encode() + b"\n")


def _write(content: bytes) -> None:
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # nobody waits for it any more
        os._exit(1)


if __name__ == "__main__":
    main()
