"""Commands for third-party TFRecord files: `vlpipe inspect` and `vlpipe index`."""

from __future__ import annotations

import dataclasses
import time

import click

from vlpipe.cli.common import complete_path, echo, layout_option, one_or_many, parse_layout, print_json, source_argument
from vlpipe.errors import ArgumentError, counted


@click.command(short_help="Show what third-party files hold and the call that reads them.")
@click.argument("file", nargs=-1, required=True, shell_complete=complete_path)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def inspect(file: tuple[str, ...], as_json: bool) -> None:
    """Show the keys of the records in FILE with kinds, sizes and ranges; the layout of the records; and the call that reads them.

    Reads the first records of the first files. Exit status 1 if they are not Examples.

    \b
    Examples:
      vlpipe inspect bal_train/00.tfrecord
      vlpipe inspect 'data/*.tfrecord' --json
    """
    from vlpipe.inspection.foreign import inspect as inspect_files

    inspected = inspect_files(one_or_many(file))
    if as_json:
        print_json(dataclasses.asdict(inspected))
    else:
        echo(inspected.report())


@click.command(short_help="Index third-party files, so that they open at once.")
@source_argument
@layout_option
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: one per core, fewer for little data]")
def index(source: tuple[str, ...], layout: str | None, workers: int | None) -> None:
    """Index the third-party TFRecord files in SOURCE (files, globs or directories) that are not indexed yet.

    `make_dataset` does the same when it first opens them. The index is stored in .vlpipe-index beside the files, or in the user's cache.

    \b
    Examples:
      vlpipe index 'bal_train/*.tfrecord'
      vlpipe index 'data/*.tfrecord' --layout '{"float_list": {"key": "mel", "d": 80, "label": "class"}}'
    """
    from vlpipe.sources.foreign.build_index import build_index
    from vlpipe.sources.foreign.find_files import is_foreign

    if layout is None and not is_foreign(one_or_many(source)):
        raise ArgumentError(f"{', '.join(source)}: already has an index, which vlpipe wrote with the dataset. Pass third-party files.")
    started = time.monotonic()
    parsed = parse_layout(layout)
    built = build_index(one_or_many(source), parsed, workers=workers)
    seconds = time.monotonic() - started
    size = sum(shard.bytes for shard in built.shards)
    echo(
        f"{counted(len(built.shards), 'file')}, {counted(len(built), 'record')}, {size / 1e6:,.1f} MB, "
        f"layout {built.metadata['layout']}, in {seconds:.1f} s"
    )
    for name in built.foreign.stored if built.foreign else ():
        if name not in built.lists:
            sequence = built.schema.sequences[name]
            echo(f"{name}: {counted(int(built.frames(name).sum()), 'frame')} of {list(sequence.dimensions)} {sequence.dtype}")
