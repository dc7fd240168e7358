"""A worker process of `workers`: each task is a file to index."""

from __future__ import annotations

from typing import Any

from vlpipe.layouts.registry import from_json
from vlpipe.processes import Progress, run_worker
from vlpipe.sources.foreign.build_index import index_file


def _index(task: dict[str, Any], _: Progress) -> tuple[None, bytes]:
    """Index a file; its index is stored, not sent."""
    index_file(task["path"], from_json(task["layout"]))
    return None, b""


if __name__ == "__main__":
    run_worker(_index)
