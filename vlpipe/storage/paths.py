"""From a source to paths: directories, globs, files and addresses."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlpipe.errors import ArgumentError, DatasetError, counted
from vlpipe.files.atomic_directory import set_aside
from vlpipe.files.filesystem import globbed, is_address
from vlpipe.storage.index import INDEX_NAME, METADATA_NAME, Index

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, eq=False, repr=False)
class Opened:
    """A source whose index is known already: what `vlpipe.open` returns (`sources.record_set.RecordSet`).

    Attributes:
        index: of its records.
        layout: with which it was opened (`layouts.Layout`, its name, or None), for what reads the files again.
        selected: how its records were selected, for people; "" where all are there.
    """

    index: Index
    layout: Any = None
    selected: str = ""


# What a user may pass as a source.
Source = Paths | Opened


def expand(source: Paths) -> list[str]:
    """The directories and files of a source, on local file systems.

    Raises:
        ArgumentError: it is neither a path nor a list of paths.
        DatasetError: nothing exists there.
    """
    return [path for item in items(source) for path in matches(item)]


def items(source: Paths) -> list[str]:
    """The paths, globs and addresses of a source, unchanged.

    Raises:
        ArgumentError: it is neither a path nor a list of paths.
    """
    expected = "expected a directory, a glob, a file or a list of files"
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if isinstance(source, bytes) or not isinstance(source, Iterable) or hasattr(source, "dtype"):
        raise ArgumentError(f"source: came as {type(source).__name__} {source!r:.200}, {expected}.")
    paths = []
    for position, item in enumerate(source):  # up to the first that is no path: batches, which may be endless, are iterable as well
        if isinstance(item, Opened):
            raise ArgumentError(
                f"source: entry {position} of the list is an open source of {counted(len(item.index), 'record')}, and a list has "
                "paths only. Pass it alone, or all as paths; or join open sources, each record once an epoch: "
                "vlpipe.mix([(a, len(a)), (b, len(b))])."
            )
        if not isinstance(item, (str, os.PathLike)) or not os.fspath(item):
            named = f"contains {type(item).__name__} {item!r:.200}"
            if not isinstance(source, (list, tuple)):
                named = f"a {type(source).__name__} of {type(item).__name__}"
            raise ArgumentError(f"source: {named}, {expected}.")
        paths.append(os.fspath(item))
    if not paths:
        raise ArgumentError("source: an empty list, expected at least one directory, glob or file.")
    return paths


def matches(text: str) -> list[str]:
    """The directories and files that match one path or glob.

    Raises:
        DatasetError: nothing exists there.
    """
    if os.path.basename(text) == METADATA_NAME:
        text = os.path.dirname(text) or "."
    if os.path.exists(text):
        return [text.rstrip("/") or "/"]
    if is_address(text) or text.startswith("~"):
        raise DatasetError(
            f"{text}: addresses are not supported inside a list or glob, and ~ is not expanded; pass a full path or one address."
        )
    if not glob.has_magic(text):
        old = None if "\0" in text else set_aside(Path(os.path.realpath(text)))
        if old is not None:
            raise DatasetError(
                f"{text}: not found: a process was killed while it replaced this directory. The old one lies beside it as {old.name}: "
                "rename it back, or run the writer again, which does that first."
            )
        parent = os.path.dirname(os.path.normpath(text)) or "."
        hint = f"{parent} contains {_names(parent)}" if os.path.isdir(parent) else f"{parent} does not exist either"
        raise DatasetError(f"{text}: not found; {hint}. Pass a dataset directory, a glob, a file or a list of files.")
    paths = [path for path in globbed(text) if os.path.basename(path) not in (METADATA_NAME, INDEX_NAME)]
    if not paths:
        raise DatasetError(f"{text}: the glob matches no file (working directory: {os.getcwd()}). Check the pattern.")
    return paths


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))[:8]
    except OSError as error:
        return [f"({error.strerror})"]
