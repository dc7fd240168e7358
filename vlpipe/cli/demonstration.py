"""`vlpipe demo`: from audio files to a trained and scored model."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shlex
import time
from pathlib import Path
from typing import Any

import click

from vlpipe.cli.common import echo
from vlpipe.cli.ingestion import ingest
from vlpipe.errors import DatasetError
from vlpipe.files.atomic_directory import AtomicDirectory, os_errors_as_dataset_errors
from vlpipe.regular_files import open_to_append, read_regular

OUT = Path("demo-output")
OURS = b"vlpipe demo"  # at the end of a picture, behind what programs read of it: those of users, which lack it, are not replaced
MAX_CLASSES = 10_000  # of labels that are numbers: the model has an output for each up to the largest


@click.command(short_help="From audio files to a trained and scored model.")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Your own recordings.  [default: synthesise sounds]")
@click.option("--label-regex", metavar="REGEX", help="Of --data: as for ingest, with the groups label and speaker.  [default: see above]")
@click.option("--files", type=click.IntRange(20), default=800, show_default=True, help="Number of sounds to synthesise.")
@click.option("--epochs", type=click.IntRange(1), default=25, show_default=True, help="Number of epochs to train.")
@click.option("--on-the-fly", is_flag=True, help="Store waveforms; add noise, compute and mask features in every epoch.")
def demo(data: Path | None, label_regex: str | None, files: int, epochs: int, on_the_fly: bool) -> None:
    """Synthesise sounds (or take your own recordings), ingest them, split them by speaker where the names tell the speaker, train a small
    Conv1D model, and score it on recordings that it has not seen.

    The label is the folder of a recording, if there are several, else the first part of its name, up to a "_"; the speaker is another
    part, if it has letters and comes with several labels.

    All that it makes is in the folder demo-output. The lines that train and score are in vlpipe/demo/lesson.py, to copy.

    \b
    Examples:
      vlpipe demo
      vlpipe demo --data recordings
      vlpipe demo --data recordings --label-regex '(?P<speaker>[a-z]+)_(?P<label>[a-z]+)_'
      vlpipe demo --on-the-fly
    """
    if label_regex and data is None:
        raise click.UsageError("--label-regex says where the names of --data have the label: pass --data DIR too.")
    if data is None:
        data = _synthesised(OUT / "audio", files)
    train, held_out = str(OUT / "data/train"), str(OUT / "data/val")
    by_speaker, features = _ingest(data, OUT / "data", label_regex, on_the_fly)
    _check_labels(train, held_out)
    _forecast(train, OUT, features)
    _count_speed(train, features)
    from vlpipe.demo import lesson

    classes = lesson.count_classes(train, held_out)
    augment = _augment(OUT / "noise", features["transform"].sample_rate) if on_the_fly else None
    model = lesson.train(train, classes, epochs, augment, **features)
    accuracy = lesson.score(model, held_out, **features)
    echo(f"held-out accuracy: {accuracy:.1%}, {'by speaker' if by_speaker else 'by recording'}")


def _synthesised(folder: Path, files: int) -> Path:
    """A new folder of sounds, complete or not at all; it replaces that of an earlier run, in which nothing else may be."""
    from vlpipe.demo.sounds import write_corpus

    sounds = AtomicDirectory(folder, overwrite=True, replaceable=_why_not_replaced)
    echo(f"synthesising {files} sounds into {folder}")
    try:
        with os_errors_as_dataset_errors(str(folder)):
            write_corpus(sounds.path, files)
        sounds.commit()
    finally:
        sounds.abort()
    return folder


def _why_not_replaced(folder: Path) -> str | None:
    """Why a folder of sounds may not be replaced; None if it may."""
    from vlpipe.demo.sounds import is_of_corpus

    paths = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    other = next((path for path in paths if not is_of_corpus(path) and not _is_hidden(folder / path)), None)
    return None if other is None else f"it holds {other}, which is no sound of an earlier demo"


def _is_hidden(path: Path) -> bool:
    """Whether a file is one of those that file managers leave in each folder that they show, such as .DS_Store."""
    return (path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini")) and path.is_file() and not path.is_symlink()


def _ingest(data: Path, out: Path, label_regex: str | None, on_the_fly: bool) -> tuple[bool, dict[str, Any]]:
    """Run `vlpipe ingest`, into OUT/train and OUT/val.

    Returns:
        Whether the recordings are split by speaker, and what `make_dataset` then needs.
    """
    import vlpipe
    from vlpipe.demo.names import Naming, naming_of
    from vlpipe.ingest import find_recordings

    recordings, _ = find_recordings(data)
    rate = vlpipe.audio.load(recordings[0].path)[1]
    naming = naming_of([recording.key for recording in recordings])
    if label_regex:
        speaker = "the group speaker of --label-regex" if "(?P<speaker>" in label_regex else None
        options = ["--label-regex", label_regex, *(["--split-by", "speaker"] if speaker else [])]
        naming = Naming(options, "from --label-regex", speaker)
    arguments = [str(data), str(out), *naming.options, "--split", "train=0.8,val=0.2", "--overwrite"]
    arguments += ["--sample-rate", str(rate), *(["--raw"] if on_the_fly else ["--mels", "40"]), "--num-shards", "4"]
    echo(f"$ vlpipe ingest {shlex.join(arguments)}")
    with ingest.make_context("vlpipe ingest", arguments) as context:
        ingest.invoke(context)
    echo(f"label: {naming.label}")
    if not label_regex:
        echo("       (of another part of the names: --data DIR --label-regex REGEX, with a group (?P<label>...))")
    if naming.speaker:
        echo(f"split: by speaker, {naming.speaker}: the model is scored on speakers that it has not heard")
    else:
        echo("split: by recording, as the names tell no speaker: the model may have heard the speakers that it is scored on")
        echo("       (to split by speaker: --data DIR --label-regex REGEX, with a group (?P<speaker>...))")
    return bool(naming.speaker), {"transform": vlpipe.audio.LogMel(sample_rate=rate, mels=40)} if on_the_fly else {}


def _check_labels(train: str, held_out: str) -> None:
    """Both parts have records, and the labels are numbers of classes.

    Raises:
        DatasetError: they are not; training would fail late, or take memory for millions of classes.
    """
    import vlpipe

    parts = {part: vlpipe.open(part) for part in (train, held_out)}
    for part, source in parts.items():
        if not len(source):
            raise DatasetError(f"demo: {part} has no recordings after the split, expected some in both parts. Pass more recordings.")
    labels = parts[train].table()["label"]
    if not parts[train].classes and not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
        raise DatasetError(
            f"demo: the labels are the numbers {labels.min()} to {labels.max()}, expected classes from 0 to {MAX_CLASSES - 1}. Pass "
            "--label-regex with a group (?P<label>...) that finds another part of the names."
        )


def _forecast(train: str, out: Path, features: dict[str, Any]) -> None:
    """Print the plan of an epoch, and how much padding bucketing saves; draw it into a picture in `out`."""
    import vlpipe

    plan = vlpipe.plan(train, **features)
    echo(f"\n$ vlpipe plan {shlex.quote(train)}\n{plan.report()}\n")
    padding = {batching: 1 - vlpipe.plan(train, batching=batching, **features).valid_ratio for batching in ("bucket", "pad")}
    echo(f"padding: {padding['bucket']:.1%} of all frames with buckets, {padding['pad']:.1%} with plain padded batches")
    if importlib.util.find_spec("matplotlib"):
        with os_errors_as_dataset_errors(str(out)):
            picture = _picture_in(out)
            plan.plot(picture)
            with open_to_append(picture) as file:
                file.write(OURS)
        echo(f"picture: {picture}")
    else:
        echo("picture: none, as matplotlib is not installed: pip install matplotlib")


def _picture_in(folder: Path) -> Path:
    """The path of the picture: plan.png, or the first of plan-2.png and so on that is missing or was drawn by an earlier demo."""
    names = itertools.chain(["plan.png"], (f"plan-{number}.png" for number in itertools.count(2)))
    return next(path for path in map(folder.joinpath, names) if not os.path.lexists(path) or _is_picture_of_demo(path))


def _is_picture_of_demo(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and read_regular(path).endswith(OURS)


def _count_speed(train: str, features: dict[str, Any]) -> None:
    """Print how fast an epoch is read, before any model waits for it."""
    import vlpipe

    batches = vlpipe.make_dataset(train, seed=0, **features)
    started = time.perf_counter()
    records = sum(len(y) for _, y in batches)
    echo(f"reading: {records / (time.perf_counter() - started):,.0f} records/s\n")


def _augment(noise: Path, rate: int) -> list[Any]:
    """Noise for half of the waveforms, at 10 to 30 dB, and masks for the features."""
    import vlpipe
    from vlpipe.demo.sounds import write_noise

    write_noise(noise, rate)
    return [vlpipe.AddNoise(noise, snr_db=(10, 30), probability=0.5), vlpipe.SpecAugment(time_width=10, frequency_width=4)]
