"""`vlpipe convert`: from anything that can be read to the native format."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlpipe.cli.common import layout_option, one_or_many, parse_layout, print_json, progress

if TYPE_CHECKING:
    from vlpipe.conversion import Converted


@click.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("out", type=click.Path(path_type=Path))
@layout_option
@click.option("--num-shards", default=16, show_default=True, help="TFRecord files of the dataset.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes.  [default: one a core, where there is work for them]")
@click.option("--overwrite", is_flag=True, help="Replace a dataset that exists, when the new one is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a line of text.")
def convert(
    source: tuple[str, ...], out: Path, layout: str | None, num_shards: int, workers: int | None, overwrite: bool, as_json: bool
) -> None:
    """Write all records of SOURCE (files, globs or directories, whoever wrote them) as one dataset in the native format into OUT.

    Frames, labels and all other fields stay what they are; OUT appears when it is complete, or not at all.

    \b
    Examples:
      vlpipe convert 'bal_train/*.tfrecord' data/audioset
      vlpipe convert data/2023 data/2024 data/all --num-shards 64
      vlpipe convert 'mel/*.tfrecord' data/mel --layout '{"float_list": {"key": "mel", "d": 80, "label": "class", "only": ["speaker"]}}'
    """
    from vlpipe.conversion import convert as to_native

    started = time.monotonic()
    chosen = parse_layout(layout)
    with progress("MB", 1e6) as show:
        made = to_native(
            one_or_many(source), out, layout=chosen, num_shards=num_shards, workers=workers, overwrite=overwrite, progress=show
        )
    seconds = time.monotonic() - started
    if as_json:
        print_json({"path": str(out), **dataclasses.asdict(made), "seconds": round(seconds, 3)})
    else:
        click.echo(_as_text(out, made, seconds))


def _as_text(out: Path, made: Converted, seconds: float) -> str:
    frames = ", ".join(f"{count:,} frames of {name}" for name, count in made.frames.items())
    read, written = made.bytes
    lines = [
        f"{out}: {made.records:,} records, {frames}; {made.files[1]:,} files, {written / 1e6:,.1f} MB",
        f"from {made.files[0]:,} files, {read / 1e6:,.1f} MB, layout {made.layout or 'vlpipe'}, label {made.label or 'not noted'}",
        f"in {seconds:.1f} s by {made.workers} {'process' if made.workers == 1 else 'processes'} ({read / 1e6 / seconds:,.0f} MB/s)",
    ]
    return "\n".join(lines)
