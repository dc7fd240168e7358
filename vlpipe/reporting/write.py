"""`write_report`: the page from its sections, and the file that appears complete or not at all."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import vlpipe
from vlpipe import verification
from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError, DatasetExistsError, counted
from vlpipe.files.atomic_directory import refuse_address_as_target
from vlpipe.files.atomic_file import replace_file
from vlpipe.files.filesystem import is_address
from vlpipe.inspection.summary import LabelSummary, Summary, summarize
from vlpipe.reporting import dataset
from vlpipe.reporting.columns import columns, text_counts
from vlpipe.reporting.differences import differences
from vlpipe.reporting.markup import Headings, Html, join, page
from vlpipe.reporting.media import require_pictures
from vlpipe.reporting.records import first_records
from vlpipe.reporting.repeated import repeated_in
from vlpipe.sources.record_set import RecordSet
from vlpipe.text_tables import Show, progress_bar

MAX_SOURCES = 8
MAX_RECORDS = 100
_AUDIO_BYTES = 1_000_000  # of all players of a page
_SECTIONS = 5  # of every source, besides totals, damage and first records


@dataclass(frozen=True)
class _Options:
    by: tuple[str, ...]
    records: int
    verify: bool
    most_audio: int
    progress: Show | None
    section_done: Callable[[], None]


def write_report(
    sources: Sequence[tuple[str, RecordSet]],
    path: str | os.PathLike[str],
    *,
    by: Sequence[str] = (),
    records: int = 4,
    verify: bool = False,
    compute: bool = False,
    overwrite: bool = False,
    progress: Show | None = None,
) -> None:
    """Write one HTML page that describes sources, and compares each two of them.

    The page needs no network and runs no script. Besides the first records, it is made from the index.

    Args:
        sources: the name of each on the page, and the open source; its files may lie at an address.
        path: of the file; it appears when it is complete.
        by: scalar integer fields or texts: the lengths of each value are shown too; texts that are not in the index are read.
        records: how many records of each source are drawn, at most 100.
        verify: read all files, and list damage.
        compute: read the frames whose mean and deviation are unknown, and cache these.
        overwrite: replace the file if it exists.
        progress: called with the number of bytes that `verify` or `compute` has read so far, and the number of bytes to read;
            None: a bar, on a terminal.

    Raises:
        DatasetExistsError: the file exists.
        ArgumentError: the file cannot be written; an argument has no meaning; `verify` or `compute` and a source at an address.
        MissingExtraError: records are drawn, and matplotlib is not installed.
        SchemaError: a field of `by` is neither a scalar integer nor a text.
        DatasetError: a record read for `by` or `compute` is damaged. The page describes other damage.

    Example:
        >>> vlpipe.write("train", ({"features": np.zeros((t, 4), np.float32), "label": t % 2} for t in range(1, 9)))
        >>> from pathlib import Path
        >>> write_report([("train", vlpipe.open("train"))], "report.html", records=0)
        >>> "8" in Path("report.html").read_text("utf-8")
        True
    """
    if not 1 <= len(sources) <= MAX_SOURCES:
        raise ArgumentError(
            f"report: came as {counted(len(sources), 'source')}, expected 1 to {MAX_SOURCES}, each with sections of its own. Put a glob in "
            "quotes: its files are one source."
        )
    records = integer("records", records, 0, MAX_RECORDS, expected=f"an integer from 0 to {MAX_RECORDS}, the records to draw")
    target = _free(path, overwrite)
    if verify or compute:
        _refuse_addresses(sources)
    if records:
        require_pictures()
    steps = len(sources) * (_SECTIONS + bool(verify) + bool(records)) + math.comb(len(sources), 2)
    with progress_bar("describing", "sections", given=progress and (lambda done, total: None)) as show:
        done = itertools.count(1)
        options = _Options(
            tuple(dict.fromkeys(by)),
            records,
            verify,
            _AUDIO_BYTES // max(1, records * len(sources)),
            progress,
            lambda: show(next(done), steps),
        )
        show(0, steps)
        summaries = [summarize(source, compute=compute, progress=progress) for _, source in sources]
        content = _page(list(sources), summaries, options).encode("utf-8")
    _free(path, overwrite)  # another program may have made it meanwhile
    try:
        replace_file(target, content)
    except OSError as error:
        raise ArgumentError(f"output: {path} cannot be written ({error.strerror or error}). Pass another file.") from error


def _refuse_addresses(sources: Sequence[tuple[str, RecordSet]]) -> None:
    for name, source in sources:
        there = [shard.path for shard in source.index.shards if is_address(shard.path)]
        if there:
            raise ArgumentError(
                f"report: {there[0]} of the source {name} lies at an address, and verify and compute read local files only. Leave --verify "
                "and --compute out: the page then describes what the index knows; or copy the files to this machine first."
            )


def _free(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The path, with links of its folders followed.

    Raises:
        DatasetExistsError: it exists.
        ArgumentError: it is an address or a directory, or its folder does not exist.
    """
    text = os.fspath(path)
    refuse_address_as_target(path, "file", "files")
    if os.path.isdir(text) or not os.path.isdir(os.path.dirname(text) or "."):
        raise ArgumentError(f"output: {text} is a directory, or its folder does not exist. Pass a file such as report.html.")
    if os.path.lexists(text) and not overwrite:
        raise DatasetExistsError(f"output: {text} exists already. Pass another file, or --overwrite to replace it.")
    return Path(os.path.realpath(os.path.dirname(text) or "."), os.path.basename(text))


def _page(sources: list[tuple[str, RecordSet]], summaries: list[Summary], options: _Options) -> Html:
    headings = Headings()
    parts = []
    for (name, source), summary in zip(sources, summaries, strict=True):
        place = headings.reserve(2, name)
        parts.append(headings.filled(place, _source(source, summary, options, headings)))
    for (one, first), (two, second) in itertools.combinations(zip(sources, summaries, strict=True), 2):
        names, pair = (one[0], two[0]), (one[1], two[1])
        place = headings.reserve(2, f"{names[0]} and {names[1]}")
        counts = (_counts(pair[0], first, options.by), _counts(pair[1], second, options.by))
        parts.append(headings.filled(place, [differences(names, pair, (first, second), counts, headings)]))
        options.section_done()
    title = f"Report: {', '.join(name for name, _ in sources)}"
    return page(title, headings.navigation(), join(parts), f"Made by vlpipe {vlpipe.__version__}.")


def _source(source: RecordSet, summary: Summary, options: _Options, headings: Headings) -> list[Html]:
    index = source.index
    parts = [headings.section(3, "Totals", dataset.totals(source, summary))]

    def add(title: str, make: Callable[[], Html]) -> None:
        place = headings.reserve(3, title)
        parts.append(headings.filled(place, [make()]))
        options.section_done()

    if options.verify:
        report = verification.verify(source, progress=options.progress)
        add("Damage", lambda: dataset.damage(report))
    add("Lengths", lambda: dataset.by_sequence(summary, headings, lambda name, entry: dataset.lengths(index, name, entry)))
    add("Batches", lambda: dataset.forecast(source))
    add("Columns", lambda: columns(source, summary.labels, options.by, headings))
    add("Statistics", lambda: dataset.by_sequence(summary, headings, dataset.statistics))
    add("Repeated records", lambda: dataset.repeated(repeated_in(index), index, index))
    if options.records:
        add("First records", lambda: first_records(source, options.records, options.most_audio, headings))
    return parts


def _counts(source: RecordSet, summary: Summary, by: tuple[str, ...]) -> dict[str, LabelSummary]:
    """How often each value of the labels and texts comes."""
    read = {name: summarize(source, name).labels[name] for name in by if name not in summary.labels and name not in source.index.texts}
    return summary.labels | text_counts(source) | read
