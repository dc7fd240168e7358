"""From a folder of recordings to datasets: what `vlpipe ingest` does.

Files are decoded and turned into features by several processes and written in the order of their paths, so that the
datasets are the same whatever the number of processes. All of them are committed in the end, or none.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import hashlib
import itertools
import math
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlpipe.audio import MFCC, Frames, LogMel, load
from vlpipe.errors import ArgumentError, AudioError, DatasetError, VlpipeError
from vlpipe.schema import Field, Fixed, Schema, Sequence, Text
from vlpipe.writer import Writer

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".mp3")
_CHUNK = 8  # files a task: enough that its start costs little
_RESERVED = ("features", "path")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Recording:
    """One file to ingest.

    Attributes:
        path: where it is.
        key: its path relative to the folder, with "/": what it is called in messages, splits and records.
        label: what it is, None without labels.
        texts: further columns of the manifest.
    """

    path: Path
    key: str
    label: str | None = None
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class Summary:
    """What an ingestion did; `bad` are the files that could not be used, with the reason."""

    classes: list[str] | None
    records: dict[str, int]
    frames: int = 0
    seconds: float = 0.0
    bad: list[tuple[str, str]] = field(default_factory=list)


class IngestError(VlpipeError):
    """Some recordings cannot be used; nothing was committed."""


def find_recordings(folder: str | os.PathLike[str]) -> tuple[list[Recording], int]:
    """All audio files below a folder, in the order of their paths, and the number of other files; hidden ones do not count.

    Raises:
        DatasetError: there is no such folder, or no audio file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: not a folder. Pass the folder that holds the recordings.")
    files = [
        path for path in folder.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    audio = [path for path in files if path.suffix.lower() in EXTENSIONS]
    if not audio:
        raise DatasetError(
            f"{folder}: holds {len(files)} files, none of which ends in {', '.join(EXTENSIONS)}. Pass the folder of recordings."
        )
    recordings = [Recording(path, path.relative_to(folder).as_posix()) for path in audio]
    return sorted(recordings, key=lambda recording: recording.key), len(files) - len(audio)


def read_manifest(manifest: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Recording]:
    """The recordings that a CSV file lists: columns `path` (relative to `folder`), `label` if there is one, and further texts.

    Raises:
        DatasetError: the file cannot be read, lacks a column, or lists a file twice or one that is missing.
    """
    folder, recordings = Path(folder), {}
    try:
        with open(manifest, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{manifest}: cannot be read as CSV in UTF-8 ({error}). Check the file.") from error
    wrong = sorted(set(columns) & {"features"})
    if "path" not in columns or wrong or len(set(columns)) != len(columns):
        raise DatasetError(
            f"{manifest}: its columns are {columns}, expected path, label if there is one, and others with names of their own."
        )
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values() or not row["path"]:
            raise DatasetError(f"{manifest}, row {line}: has not {len(columns)} values, or no path: {list(row.values())}. Mend the row.")
        path = folder / row["path"]
        key = Path(os.path.relpath(path, folder)).as_posix()
        if key in recordings:
            raise DatasetError(f"{manifest}, row {line}: {key} is listed a second time. List each file once.")
        if not path.is_file():
            raise DatasetError(f"{manifest}, row {line}: {path} is missing. Paths are relative to {folder}.")
        texts = {name: value for name, value in row.items() if name not in ("path", "label")}
        recordings[key] = Recording(path, key, row.get("label"), texts)
    if not recordings:
        raise DatasetError(f"{manifest}: lists no files.")
    return [recordings[key] for key in sorted(recordings)]


def label_by_regex(recordings: list[Recording], pattern: str) -> list[Recording]:
    """Labels from the relative path: the group `label` of the first match, else group 1.

    Raises:
        ArgumentError: the pattern is wrong, has no group, or does not match some path.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ArgumentError(f"label-regex: {pattern!r} is not a regular expression ({error}).") from error
    if not regex.groups:
        raise ArgumentError(f"label-regex: {pattern!r} has no group; put the label in parentheses, as in '([a-z]+)_'.")
    group = "label" if "label" in regex.groupindex else 1
    matches = [(recording, regex.search(recording.key)) for recording in recordings]
    missing = [recording.key for recording, match in matches if match is None or match[group] is None]
    if missing:
        raise ArgumentError(f"label-regex: {pattern!r} does not match {len(missing)} of {len(recordings)} paths, such as {missing[:3]}.")
    return [replace(recording, label=match[group]) for recording, match in matches if match is not None]


def label_by_parent(recordings: list[Recording]) -> list[Recording]:
    """Labels from the name of the folder that each file lies in.

    Raises:
        ArgumentError: a file lies directly in the ingested folder.
    """
    missing = [recording.key for recording in recordings if "/" not in recording.key]
    if missing:
        raise ArgumentError(
            f"label-from-parent: {len(missing)} files lie in no subfolder, such as {missing[:3]}. Move them, or use label-regex."
        )
    return [replace(recording, label=recording.key.split("/")[-2]) for recording in recordings]


def parse_splits(text: str) -> dict[str, float]:
    """ "train=0.9,val=0.1" as a dict.

    Raises:
        ArgumentError: it is not of that form, or the fractions do not sum to 1.
    """
    splits: dict[str, float] = {}
    for part in text.split(","):
        name, _, fraction = (piece.strip() for piece in part.partition("="))
        if not re.fullmatch(r"[\w-]+", name) or name in splits or not re.fullmatch(r"[0-9]*\.?[0-9]+", fraction):
            raise ArgumentError(f"split: {part!r} in {text!r}, expected different names with fractions, such as train=0.9,val=0.1.")
        splits[name] = float(fraction)
    if not math.isclose(sum(splits.values()), 1.0, abs_tol=1e-6):
        raise ArgumentError(f"split: the fractions of {text!r} sum to {sum(splits.values()):g}, expected 1.")
    return splits


def split_of(key: str, splits: dict[str, float]) -> str:
    """The split of a file, by a hash of its path: the same on any machine, and when other files come or go."""
    place = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
    names = list(splits)
    for name, end in zip(names, itertools.accumulate(splits.values()), strict=True):
        if place < end:
            return name
    return names[-1]


def ingest(
    recordings: list[Recording],
    out: str | os.PathLike[str],
    features: Frames | LogMel | MFCC,
    *,
    dtype: str = "float32",
    num_shards: int = 16,
    splits: dict[str, float] | None = None,
    workers: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> Summary:
    """Decode recordings, compute features, and write one dataset, or one a split below `out`.

    Each record has `features`, `path`, `label` if there are labels, and the texts of the manifest. Labels that are
    whole numbers stay what they are; others become positions in a sorted list of classes, in the metadata.

    Args:
        recordings: what to ingest, in the order in which it is written.
        out: the dataset's directory, or the folder of the splits.
        features: what to compute.
        dtype: what to store, "float32" or "float16".
        num_shards: TFRecord files a dataset.
        splits: fraction of each split, None for one dataset.
        workers: processes; None: one a core.
        skip_bad: leave out what cannot be used, instead of failing in the end.
        overwrite: replace datasets that exist.
        progress: called after each file.

    Raises:
        IngestError: recordings cannot be used, all of which are listed, or a worker process died. Nothing is committed.
        VlpipeError: as `Writer`.
    """
    classes = _classes(recordings)
    schema = _schema(recordings, features, dtype)
    targets = {name: Path(out) / name for name in splits} if splits else {"": Path(out)}
    summary = Summary(classes, dict.fromkeys(targets, 0))
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, target in targets.items():
            writers[name] = Writer(target, schema, num_shards=num_shards, overwrite=overwrite)
            stack.callback(writers[name].abort)
        for recording, result in _extract(recordings, features, workers or os.cpu_count() or 1):
            if isinstance(result, str):
                summary.bad.append((recording.key, result))
            elif skip_bad or not summary.bad:
                name = split_of(recording.key, splits) if splits else ""
                frames, seconds = result
                writers[name].write(_record(recording, frames.astype(dtype), classes))
                summary.records[name] += 1
                summary.frames += len(frames)
                summary.seconds += seconds
            progress()
        if summary.bad and not skip_bad:
            reasons = "\n".join(f"  {reason}" for _, reason in summary.bad)
            raise IngestError(
                f"{len(summary.bad)} of {len(recordings)} recordings cannot be used; nothing was written. Mend them, or pass --skip-bad to "
                f"leave them out:\n{reasons}"
            )
        for writer in writers.values():
            writer.metadata |= {"features": features.settings(), "skipped": [key for key, _ in summary.bad]}
            writer.metadata |= {} if classes is None else {"classes": classes}
        for writer in writers.values():
            writer.close()
    return summary


def _classes(recordings: list[Recording]) -> list[str] | None:
    labels = {recording.label for recording in recordings} - {None}
    if all(_INTEGER.fullmatch(str(label)) for label in labels):
        return None
    return sorted(str(label) for label in labels)


def _schema(recordings: list[Recording], features: Frames | LogMel | MFCC, dtype: str) -> Schema:
    first = recordings[0]
    fields: dict[str, Field] = {"features": Sequence(features.dim, dtype)}
    if first.label is not None:
        fields["label"] = Fixed((), "int64")
    fields["path"] = Text()
    return Schema(**fields, **{name: Text() for name in first.texts})


def _record(recording: Recording, frames: np.ndarray, classes: list[str] | None) -> dict[str, Any]:
    record: dict[str, Any] = {"features": frames, "path": recording.key, **recording.texts}
    if recording.label is not None:
        record["label"] = int(recording.label) if classes is None else classes.index(recording.label)
    return record


_Result = tuple[np.ndarray, float] | str


def _extract(recordings: list[Recording], features: Frames | LogMel | MFCC, workers: int) -> Iterator[tuple[Recording, _Result]]:
    """Frames and seconds of each recording, or why it cannot be used, in order; a limited number of files is under way."""
    # Each process is one of several: a linear-algebra library that starts threads of its own in each only slows all down.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Not forked: TensorFlow's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    waiting: collections.deque[tuple[list[Recording], Future[list[_Result]]]] = collections.deque()
    try:
        for chunk in _chunks(recordings):
            waiting.append((chunk, pool.submit(_extract_chunk, [str(recording.path) for recording in chunk], features)))
            if len(waiting) >= 4 * workers:
                yield from _results(*waiting.popleft())
        while waiting:
            yield from _results(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _results(chunk: list[Recording], future: Future[list[_Result]]) -> Iterable[tuple[Recording, _Result]]:
    try:
        return zip(chunk, future.result(), strict=True)
    except BrokenProcessPool as error:
        keys = [recording.key for recording in chunk]
        raise IngestError(
            f"a worker process died at or after one of {keys}; nothing was written. It was killed or ran out of memory: try fewer "
            "--workers, or leave these files out."
        ) from error


def _chunks(recordings: list[Recording]) -> Iterator[list[Recording]]:
    for start in range(0, len(recordings), _CHUNK):
        yield recordings[start : start + _CHUNK]


def _ignore_interrupts() -> None:
    """Ctrl-C goes to every process of a terminal; the parent ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _extract_chunk(paths: list[str], features: Frames | LogMel | MFCC) -> list[_Result]:
    return [_extract_one(path, features) for path in paths]


def _extract_one(path: str, features: Frames | LogMel | MFCC) -> _Result:
    try:
        samples, rate = load(path, sample_rate=features.sample_rate)
        if not len(samples):
            raise AudioError(f"{path}: holds no samples, expected at least one. Leave it out.")
        return features(samples), len(samples) / rate
    except AudioError as error:
        reason = str(error)
        return reason if path in reason else f"{path}: {reason}"
