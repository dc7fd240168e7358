"""What TFRecord files hold, of any program, and the call that reads them: `vlpipe inspect`."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from vlpipe.errors import ArgumentError, counted, printable, shortened
from vlpipe.files.compression import compression_of
from vlpipe.files.filesystem import each, stat_file
from vlpipe.layouts.deliverable import field_of
from vlpipe.layouts.detect import guess
from vlpipe.layouts.guesses import Guess
from vlpipe.layouts.sample import Sample, read_sample
from vlpipe.layouts.sidecars import read_sidecars
from vlpipe.sources.foreign.find_files import files_of, is_foreign
from vlpipe.storage.paths import Opened, Paths, items
from vlpipe.text_tables import text

_MOST_CANDIDATES = 5  # shown; a record with 80 keys can have as many


@dataclass(frozen=True)
class Candidate:
    """A layout that the records may have.

    Attributes:
        layout: its name in `vlpipe.layouts`.
        confidence: from 0 to 1.
        reasons: what speaks for it.
        call: the call of `make_dataset`; "..." stands for what the records do not show.
        option: the value of `--layout`; None if the call is not complete.
    """

    layout: str
    confidence: float
    reasons: tuple[str, ...]
    call: str
    option: str | None


@dataclass(frozen=True, repr=False)
class Inspected:
    """What `vlpipe.inspect` returns; it prints as `vlpipe inspect` does.

    Attributes:
        files, bytes: all files, and their size.
        records_read: how many of their first records were read.
        compression: of the first file, "GZIP" or "ZLIB"; None: not compressed.
        message: "Example", "SequenceExample", or both with "and".
        keys: for each key a dict: "key", "place", "kind", "records", and the smallest and the largest of "counts", "bytes" and "values".
        layout: the layout; None if the records fit several, or none.
        confidence: of the layout, from 0 to 1.
        reasons: what speaks for it.
        call: the call of `make_dataset` that reads the files; None without a layout.
        option: the layout as the value of `--layout`; None if none is needed, or it is not complete.
        candidates: all layouts that the records may have.
        refusals: what speaks against others.
        cannot_be_delivered: the keys that cannot be delivered beside the frames, and why.
    """

    files: int
    bytes: int
    records_read: int
    compression: str | None
    message: str
    keys: tuple[dict[str, Any], ...]
    layout: str | None = None
    confidence: float = 0.0
    reasons: tuple[str, ...] = ()
    call: str | None = None
    option: str | None = None
    candidates: tuple[Candidate, ...] = ()
    refusals: tuple[str, ...] = ()
    cannot_be_delivered: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """The facts as `vlpipe inspect` prints them: the keys as a table, and the layout or the candidates."""
        undeliverable = [f"{printable(key)} cannot be delivered beside the frames: {why}" for key, why in self.cannot_be_delivered.items()]
        lines = [*_heading(self), "", text(_keys(self), width=120), "", *undeliverable, *[""] * bool(undeliverable), *_layout(self)]
        return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines())

    def __repr__(self) -> str:
        return self.report()


def inspect(source: Paths) -> Inspected:
    """What the first records of TFRecord files hold, and the call of `make_dataset` that reads them.

    Args:
        source: files, a glob, a directory, or a list of these.

    Raises:
        ArgumentError: the source is an open one.
        VlpipeError: the files cannot be read, or their records are not Examples.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.zeros((n, 80), np.float32), "label": n} for n in (2, 3)])
        >>> inspected = vlpipe.inspect("data/train")
        >>> [key["key"] for key in inspected.keys], inspected.call
        (['features', 'label'], "vlpipe.make_dataset('data/train')")
    """
    if isinstance(source, Opened):
        raise ArgumentError("inspect: came with an open source, whose layout is known: print it. Pass the paths of files.")
    named = items(source)
    paths = files_of(named)
    sample = read_sample(paths)
    foreign = is_foreign(named)
    argument = repr(named[0] if isinstance(source, (str, os.PathLike)) else named)
    fields = {key: field_of(stats, len(sample.records)) for key, stats in sample.key_stats.items()} if foreign else {}
    return Inspected(
        files=len(paths),
        bytes=sum(found.bytes for found in each(stat_file, paths)),
        records_read=len(sample.records),
        compression=compression_of(paths[0]),
        message=" and ".join(sorted({"SequenceExample" if record.message.is_sequence else "Example" for record in sample.records})),
        keys=tuple(stats.to_json() for stats in sample.key_stats.values()),
        cannot_be_delivered={key: reason for key, reason in fields.items() if isinstance(reason, str)},
        **_call_of(argument, paths, sample, foreign=foreign),
    )


def _call_of(argument: str, paths: list[str], sample: Sample, *, foreign: bool) -> dict[str, Any]:
    """The attributes of `Inspected` that say how to read the files."""
    plain = f"vlpipe.make_dataset({argument})"
    if not foreign:
        return {"layout": "vlpipe", "confidence": 1.0, "reasons": ("vlpipe.json is beside the files",), "call": plain}
    known = read_sidecars(paths)
    if known is not None:
        return {"layout": known[0].name, "confidence": 1.0, "reasons": (f"{known[1]} is beside the files",), "call": plain}
    guesses = guess(sample)
    candidates = tuple(_candidate(found, argument) for found in guesses.candidates)
    best = {} if guesses.only is None else vars(candidates[guesses.candidates.index(guesses.only)])
    return {**best, "candidates": candidates, "refusals": tuple(guesses.refusals)}


def _candidate(found: Guess, argument: str) -> Candidate:
    call = f"vlpipe.make_dataset({argument}, layout={found.call})"
    return Candidate(found.function, found.confidence, tuple(found.reasons), call, found.argument if found.is_complete else None)


def _heading(inspected: Inspected) -> list[str]:
    compressed = f", compressed with {inspected.compression}" if inspected.compression else ""
    read = inspected.records_read
    kind = f"record is a {inspected.message}" if read == 1 else f"{read:,} records are {inspected.message}s"
    return [f"{counted(inspected.files, 'file')}, {counted(inspected.bytes, 'byte')}{compressed}; the first {kind}"]


def _keys(inspected: Inspected) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("key", "in", "kind", "records", "values or frames", "bytes each", "range"):
        table.add_column(heading, justify="left" if heading in ("key", "in", "kind") else "right")
    for fact in inspected.keys:
        place = "feature list" if fact["place"] == "lists" else "context" if inspected.message == "SequenceExample" else "features"
        spans = [_span(fact.get(name)) for name in ("counts", "bytes", "values")]
        table.add_row(shortened(fact["key"], 60), place, fact["kind"], f"{fact['records']:,}", *spans)
    return table


def _layout(inspected: Inspected) -> list[str]:
    notes = [f"note: {refusal}" for refusal in inspected.refusals]
    if inspected.layout:
        sure = f"layout: {inspected.layout}, {inspected.confidence:.0%} sure: {'; '.join(inspected.reasons)}"
        option = [f"  --layout {shlex.quote(inspected.option)}"] if inspected.option else []
        return [sure, "", f"  {inspected.call}", *option, *notes]
    lines = ["layout: unknown" + ("; candidates:" if inspected.candidates else "")]
    for found in inspected.candidates[:_MOST_CANDIDATES]:
        lines += ["", f"{found.layout}, {found.confidence:.0%}: {'; '.join(found.reasons)}", f"  {found.call}"]
    more = len(inspected.candidates) - _MOST_CANDIDATES
    lines += ["", f"… and {counted(more, 'more candidate')}, which --json lists"] if more > 0 else []
    return lines + notes


def _span(values: list[int] | None) -> str:
    if values is None:
        return ""
    return f"{values[0]:,}" if values[0] == values[1] else f"{values[0]:,} to {values[1]:,}"
