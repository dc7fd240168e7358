"""The files of a source that vlpipe did not write: paths and addresses, globs, directories, or lists of these."""

from __future__ import annotations

import glob
import os

from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.filesystem import FileStat, each, globbed, is_address, is_file, names_in, stat_file
from vlpipe.layouts.sidecars import files_in
from vlpipe.storage.index import INDEX_NAME, METADATA_NAME
from vlpipe.storage.paths import Source, items, matches


def is_foreign(source: Source) -> bool:
    """Whether a source is TFRecord files without the metadata of vlpipe.

    Raises:
        ArgumentError: some of it is, and some was written by vlpipe.
        DatasetError: a path or a glob names nothing.
    """
    paths = [path for item in items(source) for path in _named(item)]
    found = dict(zip(paths, each(_stat_or_nothing, paths), strict=True))
    homes = {path: path if found[path].is_directory else os.path.dirname(path) for path in paths}
    unique = list(dict.fromkeys(homes.values()))
    ours = dict(zip(unique, each(lambda home: is_file(os.path.join(home, METADATA_NAME)), unique), strict=True))
    own = [path for path in found if ours[homes[path]]]
    others = [path for path in found if not ours[homes[path]] and (found[path].is_file or (found[path].is_directory and _records_in(path)))]
    if own and others:
        raise ArgumentError(
            f"source: vlpipe wrote {own[0]}, but not {others[0]}: they are not read together. Read them one by one, or make a dataset of "
            "the latter (vlpipe convert)."
        )
    return bool(others)


def _stat_or_nothing(path: str) -> FileStat:
    try:
        return stat_file(path)
    except OSError:
        return FileStat(0, 0, is_directory=False, is_file=False)


def files_of(source: Source) -> list[str]:
    """The files of a source, each once.

    Raises:
        ArgumentError: a file is named twice, or a directory has several splits.
        DatasetError: a directory has no TFRecord files, or what is named is not there.
    """
    named = [path for item in items(source) for path in _named(item)]
    paths = [path for found in each(_files_at, named) for path in found]
    if len(set(map(os.path.realpath, paths))) < len(paths):
        raise ArgumentError(f"source: {paths[0]} or another file is named twice; name each once, or its records would be delivered twice.")
    return [path if is_address(path) else os.path.abspath(path) for path in paths]


def _named(item: str) -> list[str]:
    """What a path, address or glob names, whatever that is; of an address without a glob, it may be nothing."""
    if not is_address(item):
        return matches(item)
    if not glob.has_magic(item):
        return [item]
    try:
        found = [path for path in globbed(item) if os.path.basename(path) not in (METADATA_NAME, INDEX_NAME)]
    except OSError as error:
        raise DatasetError(f"{item}: cannot be listed ({error.strerror}). Pass its files one by one.") from error
    if not found:
        raise DatasetError(f"{item}: the glob matches no file. Check the pattern, and whether the bucket can be read.")
    return found


def _files_at(path: str) -> list[str]:
    try:
        if not stat_file(path).is_directory:
            return [path]
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}). Pass TFRecord files, a glob of them, or a directory that has some."
        ) from error
    records = _records_in(path)
    if not records:
        raise DatasetError(f"{path}: has no file with .tfrecord in its name. Pass the files, or a glob of them.")
    return [os.path.join(path, name) for name in files_in(path, records)]


def _records_in(directory: str) -> list[str]:
    """The names of the TFRecord files in a directory; at an address, where each question takes its time, whatever is called so."""
    try:
        names = [name for name in names_in(directory) if ".tfrec" in name and not name.startswith(".") and not name.endswith("/")]
    except OSError as error:
        raise DatasetError(f"{directory}: cannot be listed ({error.strerror}). Pass its files one by one.") from error
    return [name for name in names if is_address(directory) or is_file(os.path.join(directory, name))]
