"""`vlpipe convert`: convert any readable source to the native format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from vlpipe.cli.common import complete_path, echo, layout_option, print_json, selected, source_argument, where_option


@click.command(short_help="Write any readable records as a dataset of vlpipe.")
@source_argument
@click.argument("out", type=click.Path(path_type=Path))
@layout_option
@where_option
@click.option(
    "--classes",
    metavar="FILE|DATASET",
    shell_complete=complete_path,
    help="Write a label that is a text as its number in this list, or dataset.",
)
@click.option("--label", metavar="NAME", help="The text that --classes is for, if several can be meant.")
@click.option("--num-shards", default=16, show_default=True, help="Number of TFRecord files.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Number of processes.  [default: one per core, fewer for little data]")
@click.option("--overwrite", is_flag=True, help="Replace an existing dataset once the new one is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def convert(
    source: tuple[str, ...],
    out: Path,
    layout: str | None,
    where: tuple[str, ...],
    classes: str | None,
    label: str | None,
    num_shards: int,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the records of SOURCE (native or third-party files, globs or directories) as one dataset in the native format into OUT.

    Frames, labels and all other fields are unchanged; OUT appears once it is complete, or not at all.

    \b
    Examples:
      vlpipe convert 'bal_train/*.tfrecord' data/audioset
      vlpipe convert data/2023 data/2024 data/all --num-shards 64
      vlpipe convert data/all data/long --where 'frames>=100'
      vlpipe convert 'words/*.tfrecord' data/words --classes classes.txt
      vlpipe convert 'mel/*.tfrecord' data/mel --layout '{"float_list": {"key": "mel", "d": 80, "label": "class", "only": ["speaker"]}}'
    """
    from vlpipe.conversion import convert as convert_to_native

    if label and not classes:
        raise click.UsageError("--label names the text that --classes is for: pass --classes FILE|DATASET too.")
    numbered = {label: classes} if label else classes
    chosen, parsed = selected(source, layout, where)
    converted = convert_to_native(
        chosen, out, layout=parsed, label_classes=numbered, num_shards=num_shards, workers=workers, overwrite=overwrite
    )
    if as_json:
        print_json({**dataclasses.asdict(converted), "seconds": round(converted.seconds, 3)})
    else:
        echo(converted.report())
