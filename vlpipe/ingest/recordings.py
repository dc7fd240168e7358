"""The recordings to ingest: files, labels and splits."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vlpipe.audio.span import WHOLE, Span
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.sources.partition import partition
from vlpipe.storage.mixture import exact

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".aif", ".aiff")


@dataclass(frozen=True)
class Recording:
    """One file to ingest, or a part of it.

    Attributes:
        path: path of the file.
        key: path relative to the folder, with "/": the name of the file in messages and records; with "#" and the part, if it is one.
        label: label of the recording; None without labels.
        texts: further columns of the manifest.
        span: the part of the file.
        where: the row of the manifest that lists the part, for errors.
    """

    path: Path
    key: str
    label: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    span: Span = WHOLE
    where: str = ""

    @property
    def file(self) -> str:
        """The key of the whole file, by which it comes into a split."""
        return self.key if self.span.is_whole else self.key.removesuffix(f"#{self.span.fragment}")


def find_recordings(folder: str | os.PathLike[str]) -> tuple[list[Recording], int]:
    """Find the audio files below a folder.

    Returns:
        The recordings, in the order of their paths, and the number of other files; hidden files do not count.

    Raises:
        DatasetError: the folder does not exist, cannot be read, or contains no audio file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: not a folder. Pass the folder of the recordings.")
    # A broken link counts: decoding reports it. A pipe does not count: reading it would never end.
    files = [path for path in _files_below(folder) if path.is_file() or not path.exists()]
    audio = [path for path in files if path.suffix.lower() in EXTENSIONS]
    if not audio:
        raise DatasetError(
            f"{folder}: contains {len(files)} files, none of which ends in {', '.join(EXTENSIONS)}. Pass the folder of the recordings."
        )
    recordings = [Recording(path, path.relative_to(folder).as_posix()) for path in audio]
    not_utf8 = [os.fsencode(recording.key) for recording in recordings if not _is_utf8(recording.key)]
    if not_utf8:
        raise DatasetError(f"{folder}: {len(not_utf8)} file names are not UTF-8, such as {not_utf8[:3]}. Rename these files.")
    return sorted(recordings, key=lambda recording: recording.key), len(files) - len(audio)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield all files, following links to files and folders; each folder is visited once, since links can form cycles."""

    def refuse(error: OSError) -> None:
        raise DatasetError(
            f"{error.filename}: cannot be read ({error.strerror}). Its recordings would be missing: make the folder readable."
        )

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        target = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if target not in seen else []
        if target not in seen:
            yield from (Path(parent, name) for name in names if not name.startswith("."))
        seen.add(target)


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def label_by_regex(recordings: list[Recording], pattern: str, text: str | None = None) -> list[Recording]:
    """Take labels from the relative path: the group `label` of the first match, else group 1.

    Args:
        text: a further named group, which becomes a text of the recordings; or "label".

    Raises:
        ArgumentError: the pattern is not a regular expression, has no group or no group `text`, or gives no label for some path.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ArgumentError(f"label-regex: {pattern!r} is not a regular expression ({error}).") from error
    if not regex.groups:
        raise ArgumentError(f"label-regex: {pattern!r} has no group; put the label in parentheses, as in '([a-z]+)_'.")
    if text is not None and text != "label" and text not in regex.groupindex:
        raise ArgumentError(
            f"split-by: {text!r} is no named group of --label-regex, such as (?P<{text}>[a-z]+); its groups are "
            f"{', '.join(dict.fromkeys([*regex.groupindex, 'label']))}."
        )
    group = "label" if "label" in regex.groupindex else 1
    matches = [(recording, regex.search(recording.key)) for recording in recordings]
    texts = [text] if text is not None and text != "label" else []
    labelled = [
        replace(recording, label=match[group], texts={name: match[name] or "" for name in texts})
        for recording, match in matches
        if match and match[group]
    ]
    if len(labelled) < len(recordings):
        missing = [recording.key for recording, match in matches if not (match and match[group])]
        raise ArgumentError(
            f"label-regex: {pattern!r} gives no label for {len(missing)} of {len(recordings)} paths, such as {missing[:3]}. "
            "It is searched in the path relative to AUDIO_DIR: fix the expression, or move these files."
        )
    return labelled


def label_by_parent(recordings: list[Recording]) -> list[Recording]:
    """Take labels from the name of the folder that contains each file.

    Raises:
        ArgumentError: a file is directly in the ingested folder.
    """
    missing = [recording.key for recording in recordings if "/" not in recording.key]
    if missing:
        raise ArgumentError(
            f"label-from-parent: {len(missing)} files are not in a subfolder, such as {missing[:3]}. Move them, or use label-regex."
        )
    return [replace(recording, label=recording.key.split("/")[-2]) for recording in recordings]


def parse_splits(text: str) -> dict[str, float]:
    """Parse the fractions of splits, such as "train=0.9,val=0.1", into a dict.

    Raises:
        ArgumentError: the text is not of this form, or the fractions do not sum to 1.

    Example:
        >>> parse_splits("train=0.9,val=0.1")
        {'train': 0.9, 'val': 0.1}
    """
    splits: dict[str, float] = {}
    for part in text.split(","):
        name, _, fraction = (piece.strip() for piece in part.partition("="))
        if not re.fullmatch(r"\w[\w-]*", name) or name in splits or not re.fullmatch(r"[0-9]*\.?[0-9]+", fraction) or not float(fraction):
            raise ArgumentError(f"split: {part!r} in {text!r}, expected distinct names with fractions above 0, such as train=0.9,val=0.1.")
        splits[name] = float(fraction)
    if not math.isclose(sum(splits.values()), 1.0, abs_tol=1e-6):
        raise ArgumentError(f"split: the fractions of {text!r} sum to {sum(splits.values()):g}, expected 1.")
    return splits


def splits_by_group(recordings: list[Recording], splits: dict[str, float], by: str) -> list[str]:
    """The split of each recording; recordings with the same value of a text, such as those of one speaker, come into the same split.

    The numbers of recordings are as near to the fractions as whole groups allow, as with `RecordSet.split`.

    Raises:
        ArgumentError: the recordings have no such text or label, a value is empty, or there are fewer values than splits.
    """
    values = [recording.label if by == "label" else recording.texts.get(by) for recording in recordings]
    if None in values:
        known = [*recordings[0].texts, *(["label"] if recordings[0].label is not None else [])]
        raise ArgumentError(
            f"split-by: {by!r} is neither a column of the manifest nor a named group of --label-regex, such as (?P<{by}>[a-z]+); "
            f"the recordings have {', '.join(known) or 'neither texts nor labels'}."
        )
    if "" in values:
        raise ArgumentError(f"split-by: {by!r} is empty for {recordings[values.index('')].key}. Fill it in, or leave this file out.")
    different, groups = np.unique(np.array(values), return_inverse=True)
    if len(different) < len(splits):
        raise ArgumentError(
            f"split-by: {by!r} has {len(different)} different values ({', '.join(different)}), fewer than the {len(splits)} splits."
        )
    parts = partition(len(values), [exact(share) for share in splits.values()], groups=groups.reshape(-1))
    return [list(splits)[part] for part in parts.tolist()]


def split_of(key: str, splits: dict[str, float]) -> str:
    """The split of a file, from a hash of its path: the same on any machine, whatever other files are added or removed."""
    position = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
    names = list(splits)
    for name, end in zip(names, itertools.accumulate(splits.values()), strict=True):
        if position < end:
            return name
    return names[-1]
