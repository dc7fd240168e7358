"""The records that a verification found intact: `without` of `RecordSet.select`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.storage.index import Index


def not_damaged(index: Index, report: Any) -> np.ndarray:
    """bool `[records]`: the records in which `vlpipe.verify` found no problem.

    Args:
        report: the result of `vlpipe.verify`. (Its class is in a room that comes after this one.)

    Raises:
        ArgumentError: it is something else, or does not list all problems.
    """
    if not hasattr(report, "problems") or not hasattr(report, "unlisted"):
        raise ArgumentError(f"without: came as {type(report).__name__} {report!r:.100}, expected what vlpipe.verify returned.")
    if report.unlisted:
        raise ArgumentError(
            f"without: the report lists only {len(report.problems)} of {len(report.problems) + report.unlisted:,} problems, so the other "
            "damaged records are unknown. Restore the files that it names from a copy."
        )
    numbers, shards = index.numbers(), np.asarray(index.rows["shard"])
    paths = {os.path.realpath(shard.path): number for number, shard in enumerate(index.shards)}
    intact = np.ones(len(index), bool)
    for problem in report.problems:
        in_file = shards == paths.get(os.path.realpath(problem.shard), -1)
        if problem.kind in ("cut", "header") and problem.record is not None:
            intact &= ~(in_file & ((numbers == problem.record) if problem.kind == "header" else (numbers >= problem.record)))
        elif problem.record is not None:
            intact &= ~(in_file & (numbers == problem.record))
        elif problem.kind in ("unreadable", "digest"):
            intact &= ~in_file
    return intact
