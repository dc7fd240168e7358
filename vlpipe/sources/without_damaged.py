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
        ArgumentError: it is something else, or of other files.
    """
    if not hasattr(report, "damage"):
        raise ArgumentError(f"without: came as {type(report).__name__} {report!r:.100}, expected what vlpipe.verify returned.")
    numbers, shards = index.numbers(), np.asarray(index.rows["shard"])
    verified, used = {os.path.realpath(path) for path in report.files}, np.unique(shards).tolist()
    if verified and used and not any(os.path.realpath(index.shards[shard].path) in verified for shard in used):
        raise ArgumentError(
            f"without: the report is of other files, such as {report.files[0]}; the source has none of them, but files such as "
            f"{index.shards[used[0]].path}. Pass the result of vlpipe.verify(source)."
        )
    paths = {os.path.realpath(shard.path): number for number, shard in enumerate(index.shards)}
    intact = np.ones(len(index), bool)
    for damage in report.damage:
        in_file = np.flatnonzero(shards == paths.get(os.path.realpath(damage.shard), -1))
        damaged = np.isin(numbers[in_file], damage.records)
        if damage.lost_from is not None:
            damaged |= numbers[in_file] >= damage.lost_from
        intact[in_file[damaged]] = False
    return intact
