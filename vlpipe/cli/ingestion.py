"""`vlpipe ingest`: convert a folder of recordings into a dataset."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from vlpipe.cli.common import complete_path, echo
from vlpipe.errors import counted
from vlpipe.text_tables import progress_bar

if TYPE_CHECKING:
    from vlpipe.ingest import IngestResult, Recording
    from vlpipe.ingest.extraction import Features

_OF_FEATURES = ("mels", "hop_ms", "window_ms", "dtype")  # options that say nothing about waveforms


@click.command(short_help="Decode a folder of recordings into a dataset.")
@click.argument("audio_dir", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--label-regex", metavar="REGEX", help="Label: group 1 (or the group named label) of the first match in the relative path.")
@click.option("--label-from-parent", is_flag=True, help="Label: name of the folder that contains the file.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="CSV with a header: path (relative to AUDIO_DIR), optionally label, a part in seconds (start, end or duration), and texts.",
)
@click.option(
    "--classes",
    metavar="FILE|DATASET",
    shell_complete=complete_path,
    help="Number the labels as this dataset does, or by this file: one class name a line.",
)
@click.option("--raw", is_flag=True, help="Store waveforms (int16), not features: make_dataset(transform=) computes them in training.")
@click.option("--mels", default=80, show_default=True, help="Number of mel filters: d of the features [T, d].")
@click.option("--sample-rate", default=16000, show_default=True, help="In Hz; recordings are resampled to it.")
@click.option(
    "--channels",
    type=click.Choice(["mix", "first", "all"]),
    default="mix",
    show_default=True,
    help="Of several: their mean, the first, or with --raw all of them.",
)
@click.option("--hop-ms", default=10.0, show_default=True, help="Milliseconds from one frame to the next.")
@click.option("--window-ms", default=25.0, show_default=True, help="Length of a frame in milliseconds.")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True, help="dtype of the stored features."
)
@click.option("--num-shards", default=16, show_default=True, help="Number of TFRecord files per dataset.")
@click.option(
    "--split",
    metavar="NAME=FRACTION,...",
    help="Write one dataset OUT/NAME per split; a hash of its path assigns each file to a split; --split-by divides whole groups.",
)
@click.option(
    "--split-by",
    metavar="NAME",
    help="Keep recordings together that share this column of the manifest or named group of --label-regex, such as speaker.",
)
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: one per core]")
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be decoded, and list them, instead of failing.")
@click.option("--overwrite", is_flag=True, help="Replace existing datasets.")
def ingest(
    audio_dir: Path,
    out: Path,
    label_regex: str | None,
    label_from_parent: bool,
    manifest: Path | None,
    classes: str | None,
    raw: bool,
    mels: int,
    sample_rate: int,
    channels: Literal["mix", "first", "all"],
    hop_ms: float,
    window_ms: float,
    dtype: str,
    num_shards: int,
    split: str | None,
    split_by: str | None,
    workers: int | None,
    skip_bad: bool,
    overwrite: bool,
) -> None:
    """Decode the recordings in AUDIO_DIR and write log-mel features [T, mels], or waveforms, as a dataset into OUT.

    Without --label-regex, --label-from-parent or --manifest the records have no label, which is enough to predict.

    \b
    Examples:
      vlpipe ingest speech data/speech
      vlpipe ingest digits data --label-regex '([0-9])_' --split train=0.9,val=0.1
      vlpipe ingest speech data --label-regex '(?P<speaker>[a-z]+)_(?P<label>[0-9])' --split train=0.9,val=0.1 --split-by speaker
      vlpipe ingest digits2 data/more --label-regex '([a-z]+)_' --classes data/train
      vlpipe ingest birds data/birds --label-from-parent --mels 64 --sample-rate 22050
      vlpipe ingest birds data/birds --label-from-parent --raw --sample-rate 22050
      vlpipe ingest days data/calls --manifest calls.csv --channels first
    """
    if sum(map(bool, (label_regex, label_from_parent, manifest))) > 1:
        raise click.UsageError("--label-regex, --label-from-parent and --manifest are alternative sources of the label; pass one of them.")
    if split_by and not split:
        raise click.UsageError("--split-by keeps groups together in splits: pass --split NAME=FRACTION,... too.")
    given = [name for name in _OF_FEATURES if _is_given(name)]
    if raw and given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"--raw stores samples, not features: leave {options} out. Choose features in make_dataset(transform=).")
    from vlpipe.audio import LogMel
    from vlpipe.ingest import Waveform, parse_splits, read_classes
    from vlpipe.ingest import ingest as ingest_recordings

    features: Features = LogMel(sample_rate=sample_rate, window_ms=window_ms, hop_ms=hop_ms, mels=mels)
    if raw:
        features = Waveform(sample_rate)
    splits = parse_splits(split) if split else None
    class_list = read_classes(classes) if classes else None
    recordings, ignored = _find_recordings(audio_dir, label_regex, label_from_parent, manifest, split_by, features)
    started = time.monotonic()
    with progress_bar("decoding", "files") as show:
        done = itertools.count(1)
        result = ingest_recordings(
            recordings,
            out,
            features,
            dtype=dtype,
            num_shards=num_shards,
            splits=splits,
            split_by=split_by,
            classes=class_list,
            channels=channels,
            workers=workers,
            skip_bad=skip_bad,
            overwrite=overwrite,
            progress=lambda: show(next(done), len(recordings)),
        )
    _print_result(result, "sample" if raw else "frame", len(recordings), ignored, time.monotonic() - started)


def _is_given(option: str) -> bool:
    """Whether the user has passed an option."""
    return click.get_current_context().get_parameter_source(option) != ParameterSource.DEFAULT


def _find_recordings(
    audio_dir: Path, label_regex: str | None, label_from_parent: bool, manifest: Path | None, split_by: str | None, features: Features
) -> tuple[list[Recording], int]:
    from vlpipe.ingest import find_recordings, label_by_parent, label_by_regex, read_manifest
    from vlpipe.ingest.conversion import field_of

    if manifest:
        return read_manifest(manifest, audio_dir, field=field_of(features)), 0
    recordings, ignored = find_recordings(audio_dir)
    if label_regex:
        recordings = label_by_regex(recordings, label_regex, split_by)
    elif label_from_parent:
        recordings = label_by_parent(recordings)
    return recordings, ignored


def _print_result(result: IngestResult, unit: str, files: int, ignored: int, seconds: float) -> None:
    for target, total in result.datasets.items():
        audio = f"{total.seconds / 3600:,.2f} hours of audio"
        echo(f"{target}: {counted(total.records, 'record')}, {counted(total.frames, unit)}, {audio}, {total.bytes / 1e6:,.1f} MB")
    if result.classes is not None:
        names = ", ".join(result.classes[:10]) + (", …" if len(result.classes) > 10 else "")
        echo(f"{counted(len(result.classes), 'class')}: {names}")
    elif result.numbers:
        numbers = result.numbers.values()
        echo(f"{counted(len(numbers), 'label')}: integers from {min(numbers)} to {max(numbers)}")
    if ignored:
        echo(f"{counted(ignored, 'other file')} {'was' if ignored == 1 else 'were'} ignored")
    for _, reason in result.bad:
        echo(f"skipped: {reason}")
    echo(f"{counted(files, 'file')} in {seconds:.1f} s ({files / seconds:,.0f} files/s), {len(result.bad):,} skipped")
