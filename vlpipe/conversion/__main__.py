"""A worker process of `workers`: its task is a part of a conversion, its progress the record it is at and the bytes that are done."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from vlpipe.conversion.work import Part
from vlpipe.errors import DatasetError
from vlpipe.layouts.registry import from_json
from vlpipe.processes import Progress, run_worker
from vlpipe.regular_files import open_regular
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.index import Index


def _convert(task: dict[str, Any], progress: Progress) -> tuple[dict[str, Any], bytes]:
    """Write some shards; return their states by number and the values of texts, and the bytes of the rows of the index."""
    index = _index(task)
    if index.fingerprint != task["fingerprint"]:
        raise DatasetError(f"{index.shards[0].path}: was changed while it was converted. Convert it again when it is complete.")
    part = Part(index, task["target"], Path(task["directory"]), dict(enumerate(task["names"])), task["number"], task["parts"])

    def report() -> None:
        progress([part.row, part.bytes])

    try:
        rows, texts, shards = part.convert(report)
    finally:
        report()  # at an error too: of several processes, the first record that failed decides
    return {"shards": {number: shard.state() for number, shard in shards.items()}, "texts": texts}, rows.tobytes()


def _index(task: dict[str, Any]) -> Index:
    if "index" in task:
        with open_regular(task["index"]) as file:
            index: Index = pickle.load(file)
        return index
    return open_anywhere(task["source"], task["layout"] and from_json(task["layout"]))


if __name__ == "__main__":
    run_worker(_convert)
