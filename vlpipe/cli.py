"""The command `vlpipe`.

Exit status: 0 done, 1 it could not be done (one message on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vlpipe
from vlpipe import cli_foreign
from vlpipe.errors import ArgumentError, DatasetError, VlpipeError

if TYPE_CHECKING:
    from vlpipe.ingest import Recording, Summary


class _Commands(click.Group):
    """Turns vlpipe's errors into one message and exit status 1; any other exception is a bug and shows its trace."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except VlpipeError as error:
            click.echo(f"vlpipe: {error}", err=True)
            context.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(vlpipe.__version__, prog_name="vlpipe")
def main() -> None:
    """Input pipelines for variable-length sequences: from recordings to batches."""


for _command in cli_foreign.COMMANDS:
    main.add_command(_command)


@main.command()
@click.argument("audio_dir", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--label-regex", metavar="REGEX", help="Label: group 1 (or the group named label) of a match in the relative path.")
@click.option("--label-from-parent", is_flag=True, help="Label: name of the folder that the file lies in.")
@click.option("--manifest", type=click.Path(path_type=Path), help="CSV with a header: path (relative to AUDIO_DIR), label, further texts.")
@click.option("--mels", default=80, show_default=True, help="Mel filters: d of the features [T, d].")
@click.option("--sample-rate", default=16000, show_default=True, help="Hz; recordings are resampled to it.")
@click.option("--hop-ms", default=10.0, show_default=True, help="Milliseconds from one frame to the next.")
@click.option("--window-ms", default=25.0, show_default=True, help="Milliseconds of a frame.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True, help="How features are stored.")
@click.option("--num-shards", default=16, show_default=True, help="TFRecord files a dataset.")
@click.option("--split", metavar="NAME=FRACTION,...", help="Make OUT/NAME for each; a file's split is decided by a hash of its path.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be decoded, and list them; else they are an error.")
@click.option("--overwrite", is_flag=True, help="Replace datasets that exist.")
def ingest(
    audio_dir: Path,
    out: Path,
    label_regex: str | None,
    label_from_parent: bool,
    manifest: Path | None,
    mels: int,
    sample_rate: int,
    hop_ms: float,
    window_ms: float,
    dtype: str,
    num_shards: int,
    split: str | None,
    workers: int | None,
    skip_bad: bool,
    overwrite: bool,
) -> None:
    """Decode the recordings in AUDIO_DIR and write log-mel features [T, mels] as a dataset into OUT.

    \b
    Examples:
      vlpipe ingest speech data/speech
      vlpipe ingest digits data --label-regex '([0-9])_' --split train=0.9,val=0.1
      vlpipe ingest birds data/birds --label-from-parent --mels 64 --sample-rate 22050
    """
    if sum(map(bool, (label_regex, label_from_parent, manifest))) > 1:
        raise click.UsageError("--label-regex, --label-from-parent and --manifest are three ways to say the label; pass one.")
    from vlpipe import ingest as room
    from vlpipe.audio import LogMel

    features = LogMel(sample_rate=sample_rate, window_ms=window_ms, hop_ms=hop_ms, mels=mels)
    splits = room.parse_splits(split) if split else None
    recordings, ignored = _recordings(audio_dir, label_regex, label_from_parent, manifest)
    started = time.monotonic()
    with _progress(len(recordings)) as advance:
        summary = room.ingest(
            recordings,
            out,
            features,
            dtype=dtype,
            num_shards=num_shards,
            splits=splits,
            workers=workers,
            skip_bad=skip_bad,
            overwrite=overwrite,
            progress=advance,
        )
    _print_summary(summary, len(recordings), ignored, time.monotonic() - started)


def _recordings(audio_dir: Path, label_regex: str | None, label_from_parent: bool, manifest: Path | None) -> tuple[list[Recording], int]:
    from vlpipe import ingest as room

    if manifest:
        return room.read_manifest(manifest, audio_dir), 0
    recordings, ignored = room.find_recordings(audio_dir)
    if label_regex:
        recordings = room.label_by_regex(recordings, label_regex)
    elif label_from_parent:
        recordings = room.label_by_parent(recordings)
    return recordings, ignored


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar with rate and time left on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rate="")
        started = time.monotonic()

        def advance() -> None:
            done = bar.tasks[0].completed + 1
            bar.update(task, advance=1, rate=f"{done / max(1e-9, time.monotonic() - started):,.0f} files/s")

        yield advance


def _print_summary(summary: Summary, files: int, ignored: int, seconds: float) -> None:
    for target, total in summary.datasets.items():
        audio = f"{total.seconds / 3600:,.2f} hours of audio"
        click.echo(f"{target}: {total.records:,} records, {total.frames:,} frames, {audio}, {total.bytes / 1e6:,.1f} MB")
    if summary.classes is not None:
        shown = ", ".join(summary.classes[:10]) + (", …" if len(summary.classes) > 10 else "")
        click.echo(f"{len(summary.classes)} classes: {shown}")
    elif summary.numbers:
        numbers = summary.numbers.values()
        click.echo(f"{len(numbers)} labels: whole numbers from {min(numbers)} to {max(numbers)}")
    if ignored:
        click.echo(f"{ignored:,} other files were ignored")
    for _, reason in summary.bad:
        click.echo(f"skipped: {reason}")
    click.echo(f"{files:,} files in {seconds:.1f} s ({files / seconds:,.0f} files/s), {len(summary.bad):,} skipped")


def _buckets(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | list[int] | None:
    if value is None:
        return None
    try:
        return [int(part) for part in value.split(",")] if "," in value else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor a list such as 100,200,400.") from None


def _range(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int | None, int | None]:
    shortest, colon, longest = value.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(shortest) if shortest else None, int(longest) if longest else None
    except ValueError:
        raise click.BadParameter(f"{value!r} is not SHORTEST:LONGEST, such as 1: or 10:2000.") from None


@main.command()
@click.argument("source", nargs=-1, required=True)
@click.option(
    "--batching",
    type=click.Choice(["bucket", "pad", "ragged", "same_length"]),
    default="bucket",
    show_default=True,
    help="How sequences come together.",
)
@click.option("--batch-size", type=int, help="Sequences a batch.  [default: 32, or no limit with --frames-per-batch]")
@click.option("--frames-per-batch", type=int, help="A budget of padded frames a batch.")
@click.option("--buckets", callback=_buckets, metavar="K|B1,B2,...", help="How many buckets, or their inclusive upper lengths.")
@click.option(
    "--pad-to",
    type=click.Choice(["longest", "boundary"]),
    default="longest",
    show_default=True,
    help="Pad to the longest of the batch, or to the boundary of its bucket: few static shapes.",
)
@click.option(
    "--remainder",
    type=click.Choice(["keep", "drop", "pad"]),
    default="keep",
    show_default=True,
    help="A short last batch of a bucket: deliver it, leave it out (counted), or fill it up.",
)
@click.option(
    "--length-range",
    callback=_range,
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
    help="What becomes of records outside.",
)
@click.option("--features", help="Name of the sequence in the schema, where there are several.")
@click.option(
    "--engine", type=click.Choice(["auto", "mapped", "graph", "stream"]), default="auto", show_default=True, help="What reads the records."
)
@click.option("--world", type=click.IntRange(1), default=1, show_default=True, help="Ranks that share the records.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png", help="Draw lengths, buckets and padding.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plan(source: tuple[str, ...], world: int, plot: Path | None, as_json: bool, **arguments: Any) -> None:
    """Forecast an epoch over SOURCE (directory, glob or files): records, steps, shapes, padding and memory. No record is read.

    \b
    Examples:
      vlpipe plan data/train
      vlpipe plan data/train --batch-size 64 --buckets 8 --pad-to boundary --plot plan.png
    """
    # Labels change nothing here, so that a schema in which several fields could be the label needs no choice.
    forecast = vlpipe.plan(source[0] if len(source) == 1 else list(source), label=False, shard=(0, world), **arguments)
    if as_json:
        names = (
            "engine",
            "total",
            "records",
            "refused",
            "truncated",
            "over_budget",
            "steps_per_epoch",
            "valid_ratio",
            "boundaries",
            "batch_sizes",
        )
        document = {name: getattr(forecast, name) for name in (*names, "shapes", "peak_batch_bytes")}
        click.echo(json.dumps(document))
    else:
        click.echo(forecast.report())
    if plot:
        forecast.plot(plot)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--shortest", type=click.IntRange(1), help="Frames of the shortest sequence that the model will meet.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def check_model(model: Path, shortest: int | None, as_json: bool) -> None:
    """Name the layers of a saved Keras MODEL that break under variable length or let padding change an answer.

    Exit status 1 if there are any.

    \b
    Examples:
      vlpipe check-model model.keras
      vlpipe check-model model.keras --shortest 20
    """
    if not model.is_file():
        raise DatasetError(f"{model}: not found. Pass a model that Keras saved, such as model.keras.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from vlpipe import layers

    try:
        loaded = keras.saving.load_model(model, compile=False)
    except Exception as error:  # Keras raises what its many readers do
        raise ArgumentError(
            f"{model}: Keras cannot load it ({error}). Pass a .keras file; save again with this version of Keras."
        ) from error
    check = layers.check_model(loaded, shortest=shortest)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(check)))
    else:
        click.echo(check.report())
    sys.exit(0 if check.ok else 1)


if __name__ == "__main__":
    sys.exit(main())
