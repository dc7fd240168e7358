"""Commands that show or check the content of a dataset: `vlpipe verify`, `stats`, `head`, `histogram`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlpipe.cli.common import echo, layout_option, one_or_many, parse_layout, print_json, selected, source_argument, where_option

if TYPE_CHECKING:
    from vlpipe.verification import Report


def _json_option(default_output: str) -> Callable[[Any], Any]:
    return click.option("--json", "as_json", is_flag=True, help=f"Print JSON instead of {default_output}.")


@click.command(short_help="Read everything and list what differs from what was written.")
@source_argument
@layout_option
@click.option("--finite", is_flag=True, help="Also list NaN and infinities in features and labels of floats.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Number of shards read at a time.  [default: one per core]")
@_json_option("a table")
def verify(source: tuple[str, ...], layout: str | None, finite: bool, workers: int | None, as_json: bool) -> None:
    """Read all of SOURCE (directory, glob or files) and list what differs from what was written: checksums, lengths, fields, digests.

    In third-party TFRecord files, checksums and lengths are always checked; the content of the records only if the layout is passed or
    is unambiguous. Exit status 1 if there are problems.

    \b
    Examples:
      vlpipe verify data/train
      vlpipe verify 'data/*' --json
      vlpipe verify data/train --finite
      vlpipe verify 'bal_train/*.tfrecord' --layout audioset
    """
    from vlpipe import verification

    parsed = parse_layout(layout)
    report = verification.verify(one_or_many(source), parsed, finite=finite, workers=workers)
    if as_json:
        print_json({"ok": report.ok} | _without_numbers(report))
    else:
        echo(report.report())
    sys.exit(0 if report.ok else 1)


def _without_numbers(report: Report) -> dict[str, Any]:
    """A report for JSON, with the problems that it lists, but neither the paths of all files nor the number of every damaged record."""
    document = dataclasses.asdict(dataclasses.replace(report, damage=()))
    return {name: value for name, value in document.items() if name not in ("damage", "files")}


@click.command(short_help="Summarise: records, lengths, mean and deviation, classes.")
@source_argument
@layout_option
@where_option
@click.option(
    "--by",
    metavar="LABEL",
    help="List only the classes of this label or text column, with the lengths of their records.  [default: all labels]",
)
@click.option(
    "--compute", is_flag=True, help="Read the frames whose mean and deviation are unknown, and cache these for normalize='global'."
)
@_json_option("tables")
def stats(source: tuple[str, ...], layout: str | None, where: tuple[str, ...], by: str | None, compute: bool, as_json: bool) -> None:
    """Summarise SOURCE (directory, glob or files): records, frames, lengths, mean and deviation, classes and their weights.

    Mean and deviation are stored in datasets that vlpipe wrote, for the whole dataset. No record is read without --compute.

    \b
    Examples:
      vlpipe stats data/train
      vlpipe stats data/train --by label
      vlpipe stats data/train --by speaker
      vlpipe stats 'bal_train/*.tfrecord' --layout audioset --compute
      vlpipe stats data/train --where speaker=ann,bob --where 'frames>=100'
      vlpipe stats data/train --json > train.json    # for make_dataset(validation, normalize="train.json")
    """
    from vlpipe.inspection.summary import stats as stats_of

    chosen, parsed = selected(source, layout, where)
    summary = stats_of(chosen, by=by, layout=parsed, compute=compute)
    if as_json:
        print_json(dataclasses.asdict(summary))
    else:
        echo(summary.report())


@click.command(short_help="Show the first records.")
@source_argument
@layout_option
@click.option("-n", "--records", type=click.IntRange(1), default=5, show_default=True, help="Number of records.")
@_json_option("tables")
def head(source: tuple[str, ...], layout: str | None, records: int, as_json: bool) -> None:
    """Show the first records of SOURCE (directory, glob or files), in the order in which they were written.

    \b
    Examples:
      vlpipe head data/train
      vlpipe head data/train -n 1 --json
      vlpipe head 'bal_train/*.tfrecord' --layout audioset
    """
    from vlpipe.inspection.head import first_records

    views = first_records(one_or_many(source), records, parse_layout(layout))
    if as_json:
        print_json([dataclasses.asdict(view) for view in views])
    else:
        for view in views:
            echo(view.report())


@click.command(short_help="Show or draw a histogram of the lengths.")
@source_argument
@layout_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png", help="Draw the histogram into this file."
)
@click.option(
    "--bins", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Maximum number of bins; all have the same width."
)
@click.option("--features", help="Name of the sequence in the schema.  [default: the first]")
@_json_option("bars")
def histogram(source: tuple[str, ...], layout: str | None, output: Path | None, bins: int, features: str | None, as_json: bool) -> None:
    """Show a histogram of the sequence lengths of SOURCE (directory, glob or files). No record is read.

    \b
    Examples:
      vlpipe histogram data/train
      vlpipe histogram data/train -o lengths.png --bins 80
    """
    from vlpipe.inspection.histogram import histogram as histogram_of

    lengths = histogram_of(one_or_many(source), bins=bins, features=features, layout=parse_layout(layout))
    if output:
        lengths.plot(output)
    if as_json:
        print_json(dataclasses.asdict(lengths))
    elif not output:
        echo(lengths.report())
