"""`vlpipe plan`: forecast an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import vlpipe
from vlpipe.cli.common import echo, layout_option, print_json, selected, source_argument, where_option


def _parse_buckets(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | list[int] | None:
    if value is None:
        return None
    try:
        return [int(part) for part in value.split(",")] if "," in value else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither an integer nor a list such as 100,200,400.") from None


def _parse_range(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int | None, int | None]:
    shortest, colon, longest = value.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(shortest) if shortest else None, int(longest) if longest else None
    except ValueError:
        raise click.BadParameter(f"{value!r} is not of the form SHORTEST:LONGEST, such as 1: or 10:2000.") from None


@click.command(short_help="Forecast an epoch: batches, shapes, padding, memory.")
@source_argument
@layout_option
@where_option
@click.option(
    "--batching",
    type=click.Choice(["bucket", "pad", "ragged", "same_length"]),
    default="bucket",
    show_default=True,
    help="How sequences are grouped into batches.",
)
@click.option("--batch-size", type=int, help="Sequences per batch.  [default: 32, or no limit with --frames-per-batch]")
@click.option("--frames-per-batch", type=int, help="Budget of padded frames per batch.")
@click.option("--buckets", callback=_parse_buckets, metavar="K|B1,B2,...", help="Number of buckets, or their inclusive upper lengths.")
@click.option(
    "--pad-to",
    type=click.Choice(["longest", "boundary"]),
    help="Pad to the longest sequence of the batch, or to the boundary of its bucket.  [default: longest]",
)
@click.option(
    "--remainder",
    type=click.Choice(["keep", "drop", "pad"]),
    help="Incomplete last batch of a bucket: deliver it, leave it out (and count it), or fill it up.  [default: keep]",
)
@click.option(
    "--shapes",
    type=click.Choice(["any", "static"]),
    default="any",
    show_default=True,
    help="Static: few shapes, for JAX and XLA; --pad-to boundary --remainder pad, and 8 buckets unless --buckets says otherwise.",
)
@click.option(
    "--length-range",
    callback=_parse_range,
    default="1:",
    show_default=True,
    metavar="SHORTEST:LONGEST",
    help="Shortest and longest length in frames.",
)
@click.option(
    "--out-of-range",
    type=click.Choice(["error", "drop", "truncate"]),
    default="error",
    show_default=True,
    help="What to do with records outside --length-range.",
)
@click.option("--crop", type=int, metavar="FRAMES", help="Crop each sequence to at most this many frames.")
@click.option("--windows", type=int, metavar="FRAMES", help="Cut each sequence into windows of this many frames.")
@click.option("--hop", type=int, metavar="FRAMES", help="Frames from one window to the next.  [default: those of a window]")
@click.option(
    "--tail",
    type=click.Choice(["shift", "keep", "pad", "drop"]),
    help="What is left behind the last window: one more at the end, a shorter one, a padded one, or nothing.  [default: shift]",
)
@click.option("--features", help="Name of the sequence in the schema, if it has several.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "mapped", "graph", "stream"]),
    default="auto",
    show_default=True,
    help="Engine that reads the records.",
)
@click.option("--world", type=click.IntRange(1), default=1, show_default=True, help="Number of ranks that share the records.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png", help="Draw lengths, buckets and padding into this file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plan(
    source: tuple[str, ...],
    layout: str | None,
    where: tuple[str, ...],
    world: int,
    plot: Path | None,
    as_json: bool,
    windows: int | None,
    hop: int | None,
    tail: Any,
    **arguments: Any,
) -> None:
    """Forecast an epoch over SOURCE (directory, glob or files): records, steps, shapes, padding and memory. No record is read.

    \b
    Examples:
      vlpipe plan data/train
      vlpipe plan data/train --where speaker=ann,bob --where 'frames>=100'
      vlpipe plan data/train --batch-size 64 --shapes static --plot plan.png
      vlpipe plan data/train --windows 300 --hop 150
    """
    if windows is not None:
        arguments["windows"] = vlpipe.Windows(windows, hop, tail or "shift")
    elif hop is not None or tail is not None:
        raise click.UsageError("--hop and --tail say where windows are; pass --windows FRAMES too.")
    # Labels do not affect the plan; without one, a schema with several candidates needs no choice.
    chosen, parsed = selected(source, layout, where)
    named = {name: value for name, value in arguments.items() if value is not None}
    forecast = vlpipe.plan(chosen, label=False, shard=(0, world), layout=parsed, **named)
    if as_json:
        names = (
            "engine",
            "total",
            "records",
            "windows",
            "refused",
            "truncated",
            "cropped",
            "over_budget",
            "steps_per_epoch",
            "valid_ratio",
            "boundaries",
            "batch_sizes",
            "shapes",
            "peak_batch_bytes",
        )
        print_json({name: getattr(forecast, name) for name in names})
    else:
        echo(forecast.report())
    if plot:
        forecast.plot(plot)
