"""What is to be ingested: the files, their labels, and the split that each belongs to."""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlpipe.errors import ArgumentError, DatasetError

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".mp3")


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


def find_recordings(folder: str | os.PathLike[str]) -> tuple[list[Recording], int]:
    """All audio files below a folder, in the order of their paths, and the number of other files; hidden ones do not count.

    Raises:
        DatasetError: there is no such folder, it cannot be read, or no audio file is in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: not a folder. Pass the folder that holds the recordings.")
    # A link to nothing counts, and is reported when it is read; a pipe does not, since reading it would never end.
    files = [path for path in _files_below(folder) if path.is_file() or not path.exists()]
    audio = [path for path in files if path.suffix.lower() in EXTENSIONS]
    if not audio:
        raise DatasetError(
            f"{folder}: holds {len(files)} files, none of which ends in {', '.join(EXTENSIONS)}. Pass the folder of recordings."
        )
    recordings = [Recording(path, path.relative_to(folder).as_posix()) for path in audio]
    unnamed = [os.fsencode(recording.key) for recording in recordings if not _is_text(recording.key)]
    if unnamed:
        raise DatasetError(f"{folder}: {len(unnamed)} names are not UTF-8, such as {unnamed[:3]}. Rename these files.")
    return sorted(recordings, key=lambda recording: recording.key), len(files) - len(audio)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files, links among them; folders behind links too, but each folder once, since links can lead in a circle."""

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror}). Its recordings would be missing: make it readable.")

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        place = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if place not in seen else []
        if place not in seen:
            yield from (Path(parent, name) for name in names if not name.startswith("."))
        seen.add(place)


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def read_manifest(manifest: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Recording]:
    """The recordings that a CSV file lists: columns `path` (relative to `folder`), `label` if there is one, and further texts.

    Raises:
        DatasetError: the file cannot be read, lacks a column or a label, or lists a file twice or one that is missing.
    """
    folder, recordings = Path(folder), {}
    columns, rows = _read_csv(manifest)
    for number, row in enumerate(rows, start=1):
        where = f"{manifest}, row {number} below the header"
        if None in row or None in row.values() or not row["path"]:
            raise DatasetError(f"{where}: has not {len(columns)} values, or no path: {list(row.values())}. Mend the row.")
        path = folder / row["path"]
        key = Path(os.path.relpath(path, folder)).as_posix()
        if key in recordings:
            raise DatasetError(f"{where}: {key} is listed a second time. List each file once.")
        if not path.is_file():
            raise DatasetError(f"{where}: {path} is missing. Paths are relative to {folder}.")
        if row.get("label") == "":
            raise DatasetError(f"{where}: {key} has no label, others have. Fill it in, or leave the row out.")
        texts = {name: value for name, value in row.items() if name not in ("path", "label")}
        recordings[key] = Recording(path, key, row.get("label"), texts)
    if not recordings:
        raise DatasetError(f"{manifest}: lists no files below its header {','.join(columns)}. List one a row.")
    return [recordings[key] for key in sorted(recordings)]


def _read_csv(manifest: str | os.PathLike[str]) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with open(manifest, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{manifest}: cannot be read as CSV in UTF-8 ({error}). Check the file.") from error
    if "path" not in columns or "" in columns or "features" in columns or len(set(columns)) != len(columns):
        raise DatasetError(
            f"{manifest}: its columns are {columns}, expected a header with path, label if there is one, and others with names of "
            'their own (not "features"). Mend the first line.'
        )
    return columns, rows


def label_by_regex(recordings: list[Recording], pattern: str) -> list[Recording]:
    """Labels from the relative path: the group `label` of the first match, else group 1.

    Raises:
        ArgumentError: the pattern is wrong, has no group, or gives no label for some path.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ArgumentError(f"label-regex: {pattern!r} is not a regular expression ({error}).") from error
    if not regex.groups:
        raise ArgumentError(f"label-regex: {pattern!r} has no group; put the label in parentheses, as in '([a-z]+)_'.")
    group = "label" if "label" in regex.groupindex else 1
    matches = [(recording, regex.search(recording.key)) for recording in recordings]
    labelled = [replace(recording, label=match[group]) for recording, match in matches if match and match[group]]
    if len(labelled) < len(recordings):
        missing = [recording.key for recording, match in matches if not (match and match[group])]
        raise ArgumentError(
            f"label-regex: {pattern!r} gives no label for {len(missing)} of {len(recordings)} paths, such as {missing[:3]}. "
            "It is searched for in the path below AUDIO_DIR; mend it, or move these files."
        )
    return labelled


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
        if not re.fullmatch(r"\w[\w-]*", name) or name in splits or not re.fullmatch(r"[0-9]*\.?[0-9]+", fraction) or not float(fraction):
            raise ArgumentError(f"split: {part!r} in {text!r}, expected different names with fractions above 0, such as train=0.9,val=0.1.")
        splits[name] = float(fraction)
    if not math.isclose(sum(splits.values()), 1.0, abs_tol=1e-6):
        raise ArgumentError(f"split: the fractions of {text!r} sum to {sum(splits.values()):g}, expected 1.")
    return splits


def split_of(key: str, splits: dict[str, float]) -> str:
    """The split of a file, by a hash of its path: the same on any machine, and when other files come or go."""
    place = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
    names = list(splits)
    for name, end in zip(names, itertools.accumulate(splits.values()), strict=True):
        if place < end:
            return name
    return names[-1]
