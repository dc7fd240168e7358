"""What a verification finds, and how it is told."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vlpipe.text_tables import WIDE, columns, text

MAX_PROBLEMS = 100  # that a report lists; a shard that was replaced has as many as records


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was written.

    Attributes:
        shard: path of the file.
        record: its number in the file, from 0; None where the file as a whole is meant.
        offset: byte of the file (of what was compressed) at which the record begins, or from which on the problem lasts; None for the
            whole file.
        kind: one of

            - `"unreadable"`: the file is missing, is no file, is compressed and damaged, or the disk fails;
            - `"cut"`: the file ends in or before the record; `"size"`: bytes follow its last record;
            - `"header"`: the length of the record is damaged, and readers that have no index cannot go on from there;
            - `"length"`: there is another record, of another length; `"replaced"`: another one of the same length;
            - `"data"`: the data are damaged; `"footer"`: only the checksum that stands after them is;
            - `"example"`: the data are not what the schema or the layout describes; `"index"`: the index says something else of them;
            - `"digest"`: the SHA-256 of the whole file is another; `"records"`: TensorFlow Datasets counted another number of records.
        found: what is there.
        expected: what should be.
        action: what to do next.
    """

    shard: str
    record: int | None
    offset: int | None
    kind: str
    found: str
    expected: str
    action: str

    def __str__(self) -> str:
        place = os.path.basename(self.shard)
        if self.record is not None:
            place += f", record {self.record}"
        if self.offset is not None:
            place += f" at byte {self.offset}"
        return f"{place}: {self.found}, expected {self.expected}. {self.action}"


@dataclass(frozen=True)
class Report:
    """What `vlpipe.verify` found.

    Attributes:
        shards: files of the dataset.
        records: records of the dataset; in files that vlpipe did not write, those that were reached.
        bytes: bytes that were read.
        damaged: records that cannot be read, or are not what was written.
        lost: bytes behind a length that is damaged, of which nobody knows how many records they were.
        problems: by shard and place, at most 100.
        unlisted: how many more there are.
        layout: what the records were compared with: "vlpipe", or the name of a layout; None: with nothing but their checksums.
    """

    shards: int
    records: int
    bytes: int
    damaged: int
    lost: int
    problems: tuple[Problem, ...]
    unlisted: int
    layout: str | None

    @property
    def ok(self) -> bool:
        """Whether everything is as it was written."""
        return not self.problems

    def report(self) -> str:
        """The report as a table: a line of totals, then the problems, then what to do about them."""
        read = f"{self.records:,} records in {self.shards:,} shards, {self.bytes / 1e6:,.1f} MB read"
        if self.ok:
            return f"{read}: {_compared(self.layout)}"
        problems = len(self.problems) + self.unlisted
        rows = [
            (os.path.basename(problem.shard), problem.record, problem.offset, problem.kind, problem.found, problem.expected)
            for problem in self.problems
        ]
        grid = columns("shard", "record", "at byte", "problem", "found", "expected", rows=rows, most=len(rows))
        kinds: dict[str, list[str]] = {}
        for problem in self.problems:
            kinds.setdefault(problem.action, []).append(problem.kind)
        actions = [f"{', '.join(dict.fromkeys(of))}: {action}" for action, of in kinds.items()]
        more = [f"… and {self.unlisted:,} more problems"] if self.unlisted else []
        actions += [f"note: {_NOT_COMPARED}"] if self.layout is None else []
        lost = f" and {self.lost:,} bytes that cannot be reached" if self.lost else ""
        total = f"{read}: {self.damaged:,} records{lost} are damaged or lost, {problems:,} problems"
        return text(total, grid, *more, "\n".join(actions), width=WIDE)


_NOT_COMPARED = (
    "what the records hold was not compared, as their layout is not known (`vlpipe inspect` shows what it could be; then pass --layout)"
)


def _compared(layout: str | None) -> str:
    """What is known of records in which nothing is wrong."""
    if layout == "vlpipe":
        return "all as they were written"
    return "every checksum is right" + (f"; {_NOT_COMPARED}" if layout is None else f", and every record as the layout {layout} says")
