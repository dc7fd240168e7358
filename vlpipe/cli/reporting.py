"""`vlpipe report`: a page that describes sources."""

from __future__ import annotations

from pathlib import Path

import click

from vlpipe.cli.common import echo, layout_option, selected, source_argument, where_option


@click.command(short_help="Describe and compare datasets on one HTML page.")
@source_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE.html", help="The file to write; it is self-contained."
)
@layout_option
@where_option
@click.option(
    "--by", multiple=True, metavar="FIELD", help="Show the lengths of each value of this label or text column. May be passed several times."
)
@click.option("-n", "--records", type=int, default=4, show_default=True, help="Number of first records to draw, of each SOURCE.")
@click.option("--verify", is_flag=True, help="Also read all files, and list damage.")
@click.option("--compute", is_flag=True, help="Read the frames whose mean and deviation are unknown, and cache these.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.html if it exists.")
def report(
    source: tuple[str, ...],
    output: Path,
    layout: str | None,
    where: tuple[str, ...],
    by: tuple[str, ...],
    records: int,
    verify: bool,
    compute: bool,
    overwrite: bool,
) -> None:
    """Describe each SOURCE (directory, quoted glob or file) in one HTML page: lengths, batches, classes, statistics, first records.

    Each two sources are compared: lengths, classes, and what is in both. The page needs no network. Pictures of records need matplotlib.

    \b
    Examples:
      vlpipe report data/train -o report.html
      vlpipe report data/train data/val -o report.html --by speaker --verify
      vlpipe report 'bal_train/*.tfrecord' -o report.html --layout audioset --overwrite
    """
    from vlpipe.reporting import write_report
    from vlpipe.sources.open import open as open_source

    opened = []
    for path in source:
        chosen, parsed = selected((path,), layout, where)
        opened.append((path, open_source(chosen, layout=parsed)))
    write_report(opened, output, by=by, records=records, verify=verify, compute=compute, overwrite=overwrite)
    echo(f"{output}: {output.stat().st_size / 1e6:,.2f} MB", err=True)
