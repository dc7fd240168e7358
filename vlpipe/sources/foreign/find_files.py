"""Find the files of a third-party source: paths and addresses, globs, directories, or lists of these."""

from __future__ import annotations

import glob
import os

from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.filesystem import FileStat, each, globbed, is_address, is_file, names_in, stat_file
from vlpipe.layouts.sidecars import files_in
from vlpipe.storage.index import INDEX_NAME, METADATA_NAME
from vlpipe.storage.paths import Paths, items, matches


def is_foreign(source: Paths) -> bool:
    """Return whether a source consists of TFRecord files without the metadata of vlpipe.

    Raises:
        ArgumentError: it has both third-party files and files written by vlpipe.
        DatasetError: a path does not exist, or a glob matches nothing.
    """
    paths = [path for item in items(source) for path in _expand(item)]
    stats = dict(zip(paths, each(_stat, paths), strict=True))
    directories = {path: path if stats[path].is_directory else os.path.dirname(path) for path in paths}
    unique = list(dict.fromkeys(directories.values()))
    has_metadata = dict(zip(unique, each(lambda directory: is_file(os.path.join(directory, METADATA_NAME)), unique), strict=True))
    own, foreign = [], []
    for path, file_stat in stats.items():
        if has_metadata[directories[path]]:
            own.append(path)
        elif file_stat.is_file or (file_stat.is_directory and _records_in(path)):
            foreign.append(path)
    if own and foreign:
        raise ArgumentError(
            f"source: vlpipe wrote {own[0]}, but not {foreign[0]}; they cannot be read together. Read them separately, or convert the "
            "latter (vlpipe convert)."
        )
    return bool(foreign)


def _stat(path: str) -> FileStat:
    try:
        return stat_file(path)
    except OSError:
        return FileStat(0, 0, is_directory=False, is_file=False)


def files_of(source: Paths) -> list[str]:
    """Return the files of a source, each once.

    Raises:
        ArgumentError: a file is named twice, or a directory has several splits.
        DatasetError: a path does not exist, a glob matches nothing, or a directory has no TFRecord files.
    """
    expanded = [path for item in items(source) for path in _expand(item)]
    paths = [path for files in each(_files_at, expanded) for path in files]
    if len(set(map(os.path.realpath, paths))) < len(paths):
        raise ArgumentError(
            f"source: {paths[0]} or another file is named twice; name each file once, so that its records are not delivered twice."
        )
    return [path if is_address(path) else os.path.abspath(path) for path in paths]


def _expand(item: str) -> list[str]:
    """Return the files and directories of a path, address or glob; an address that is not a glob may not exist."""
    if not is_address(item):
        return matches(item)
    if not glob.has_magic(item):
        return [item]
    try:
        paths = [path for path in globbed(item) if os.path.basename(path) not in (METADATA_NAME, INDEX_NAME)]
    except OSError as error:
        raise DatasetError(f"{item}: the glob cannot be expanded ({error.strerror}). Pass the paths of its files.") from error
    if not paths:
        raise DatasetError(f"{item}: the glob matches no file. Check the pattern and the access rights of the bucket.")
    return paths


def _files_at(path: str) -> list[str]:
    try:
        if not stat_file(path).is_directory:
            return [path]
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}). Pass TFRecord files, a glob, or a directory with TFRecord files."
        ) from error
    records = _records_in(path)
    if not records:
        raise DatasetError(f"{path}: has no file with .tfrecord in its name. Pass the files, or a glob.")
    return [os.path.join(path, name) for name in files_in(path, records)]


def _records_in(directory: str) -> list[str]:
    """Return the names of the TFRecord files in a directory; at an address, where each stat is slow, by their names only."""
    try:
        names = [name for name in names_in(directory) if ".tfrec" in name and not name.startswith(".") and not name.endswith("/")]
    except OSError as error:
        raise DatasetError(f"{directory}: cannot be listed ({error.strerror}). Pass the paths of its files.") from error
    return [name for name in names if is_address(directory) or is_file(os.path.join(directory, name))]
