"""The result of a verification, and its text."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from vlpipe.errors import counted, record_place
from vlpipe.text_tables import WIDE, columns, text

MAX_PROBLEMS = 100  # listed in a report; a shard that was replaced has as many as records


@dataclass(frozen=True)
class Problem:
    """One thing that differs from what was written.

    Attributes:
        shard: path of the file.
        record: number of the record in the file, from 0; None where the problem concerns the file as a whole.
        offset: byte of the file (of its uncompressed content) at which the record, or the unreadable rest, begins; None for the whole file.
        kind: one of

            - `"unreadable"`: the file is missing, not a regular file, compressed and damaged, or its disk fails;
            - `"cut"`: the file ends in or before the record; `"size"`: bytes follow its last record;
            - `"header"`: the length of the record is corrupt; readers without an index cannot continue from there;
            - `"length"`: another record, of another length; `"replaced"`: another record of the same length;
            - `"data"`: the data are corrupt; `"footer"`: only the checksum after the data is;
            - `"example"`: the data do not match the schema or the layout; `"index"`: the index does not match the data;
            - `"digest"`: the file has another SHA-256, or `vlpipe.json` has no digest of its content;
            - `"records"`: TensorFlow Datasets counted another number of records;
            - `"finite"`: with `finite=True`, a field of floats has a NaN or an infinity.
        found: what was found.
        expected: what was expected.
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
        place = record_place(os.path.basename(self.shard), self.record, self.offset)
        return f"{place}: {self.found}, expected {self.expected}. {self.action}"


@dataclass(frozen=True, eq=False)
class Damage:
    """The damaged records of one file, all of them: unlike problems, they are only numbers.

    Attributes:
        shard: path of the file.
        records: int64 `[n]`, their numbers in the file, ascending.
        lost_from: from this record on, all are lost too: 0 where the whole file is; None: none.
    """

    shard: str
    records: np.ndarray
    lost_from: int | None


@dataclass(frozen=True)
class Report:
    """The result of `vlpipe.verify`.

    Attributes:
        shards: number of files.
        records: records of the dataset; of third-party files, those that could be reached.
        bytes: bytes that were read.
        damaged: records that cannot be read, or differ from what was written; with `finite=True` also those with a value that is not
            finite.
        lost: bytes after a corrupt length; the number of records among them is unknown.
        problems: the first 100, in the order of shards and records.
        unlisted: number of further problems.
        layout: what the records were compared with: "vlpipe", or the name of a layout; None: only with their checksums.
        damage: of each file that has damaged records, which they are, whether their problems are listed or not: what
            `source.select(without=report)` leaves out.
        files: the paths of all files that were verified.
    """

    shards: int
    records: int
    bytes: int
    damaged: int
    lost: int
    problems: tuple[Problem, ...]
    unlisted: int
    layout: str | None
    damage: tuple[Damage, ...] = field(default=(), repr=False, compare=False)
    files: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def __repr__(self) -> str:
        found = "no problem" if self.ok else f"{counted(len(self.problems) + self.unlisted, 'problem')}; .report() lists them"
        return f"Report: {counted(self.records, 'record')} in {counted(self.shards, 'shard')}, {found}"

    def report(self) -> str:
        """Return the report as a table: a line of totals, the problems, and what to do about them."""
        files = f"{counted(self.records, 'record')} in {counted(self.shards, 'shard')}, {self.bytes / 1e6:,.1f} MB read"
        if self.ok:
            return f"{files}: {_what_was_compared(self.layout)}"
        rows = [
            (os.path.basename(problem.shard), problem.record, problem.offset, problem.kind, problem.found, problem.expected)
            for problem in self.problems
        ]
        table = columns("shard", "record", "at byte", "problem", "found", "expected", rows=rows, most=len(rows))
        more = [f"… and {counted(self.unlisted, 'more problem')}"] if self.unlisted else []
        notes = [f"note: {_NOT_COMPARED}"] if self.layout is None else []
        lost = f" and {counted(self.lost, 'byte')} that cannot be reached" if self.lost else ""
        damaged = f"{counted(self.damaged, 'record')}{lost} {'is' if self.damaged == 1 and not lost else 'are'} damaged or lost"
        totals = f"{files}: {damaged}, {counted(len(self.problems) + self.unlisted, 'problem')}"
        return text(totals, table, *more, "\n".join([*self._actions(), *notes]), width=WIDE)

    def _actions(self) -> list[str]:
        """One line for each action: the kinds of problem that it solves, and the action."""
        kinds: dict[str, list[str]] = {}
        for problem in self.problems:
            kinds.setdefault(problem.action, []).append(problem.kind)
        return [f"{', '.join(dict.fromkeys(names))}: {action}" for action, names in kinds.items()]


_NOT_COMPARED = (
    "the content of the records was not compared, as their layout is unknown (`vlpipe inspect` shows possible ones; then pass --layout)"
)


def _what_was_compared(layout: str | None) -> str:
    if layout == "vlpipe":
        return "all as they were written"
    return "every checksum matches" + (f"; {_NOT_COMPARED}" if layout is None else f", and every record fits the layout {layout}")
