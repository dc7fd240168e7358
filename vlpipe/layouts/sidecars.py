"""Sidecars that describe the TFRecord files beside them: those of TensorFlow Datasets (`tfds`) and of SeqIO (`seqio`)."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence

from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.files.filesystem import names_in
from vlpipe.layouts import seqio, tfds
from vlpipe.layouts.base import Layout
from vlpipe.layouts.sidecar_features import Split


def read_sidecars(paths: Sequence[str]) -> tuple[Layout, str] | None:
    """Return the layout of files from the sidecar in their directory, and the name of the sidecar; None without a sidecar.

    Raises:
        SchemaError: a sidecar cannot be read or has no features that can be delivered, or the sidecars contain different features.
    """
    layout = tfds.read_layout(os.path.dirname(paths[0]))
    if layout is not None:
        return layout, f"{tfds.FEATURES_NAME} of TensorFlow Datasets"
    splits = dict.fromkeys((os.path.dirname(path), seqio.split_of(os.path.basename(path))) for path in paths)
    layouts = {
        os.path.join(directory, seqio.info_name(split)): layout
        for directory, split in splits
        if split is not None and (layout := seqio.read_layout(directory, split)) is not None
    }
    for path, layout in layouts.items():
        if layout != next(iter(layouts.values())):
            raise SchemaError(f"{path}: has other features than {next(iter(layouts))}. Read the splits one at a time, or pass layout=...")
    return next(((layout, f"{os.path.basename(path)} of SeqIO") for path, layout in layouts.items()), None)


def files_in(directory: str, records: list[str]) -> list[str]:
    """Return the names of the TFRecord files of a directory: those of its only split, or all files without a sidecar.

    Args:
        directory: the directory.
        records: the names of all TFRecord files in it.

    Raises:
        ArgumentError: it has several splits.
        DatasetError: a file of the split is missing.
    """
    splits = _splits(directory)
    if not splits:
        return records
    if len(splits) > 1:
        choices = " or ".join(os.path.join(directory, _pattern(split)) for split in splits[:8] if split.files)
        raise ArgumentError(
            f"source: {directory} has the splits {[split.name for split in splits]}, expected one. Pass the files of one split, such as "
            f"{choices}; or the files of all splits, {os.path.join(directory, '*.tfrec*')}."
        )
    (split,) = splits
    if split.missing:
        raise DatasetError(
            f"{directory}: {split.missing} of the {len(split.files) + split.missing} files of the split {split.name!r} are missing, "
            f"according to {split.sidecar}. Copy them here, or pass the files to read, or a glob."
        )
    return list(split.files)


def check_counts(paths: Sequence[str], counts: Sequence[int]) -> None:
    """Compare the numbers of records of files with the sidecars.

    Raises:
        DatasetError: a file, or a split with all its files, has another number of records.
    """
    for directory in dict.fromkeys(map(os.path.dirname, paths)):
        by_name = {os.path.basename(path): count for path, count in zip(paths, counts, strict=True) if os.path.dirname(path) == directory}
        for split in _splits(directory):
            _check_split(directory, split, {name: by_name[name] for name in split.files if name in by_name})


def stated_count(path: str) -> tuple[int, str] | None:
    """Return the number of records of a file and the name of the sidecar that contains it; None without such a sidecar."""
    directory, name = os.path.split(path)
    return next(((split.counts[name], split.sidecar) for split in _splits(directory) if name in split.counts), None)


def _check_split(directory: str, split: Split, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if split.counts.get(name, count) != count:
            raise DatasetError(
                f"{os.path.join(directory, name)}: holds {count} records, but {split.sidecar} specifies {split.counts[name]}; the file was "
                "truncated after a record, or replaced. Prepare the dataset again."
            )
    total, is_whole = sum(counts.values()), len(counts) == len(split.files) and not split.missing
    if split.records is not None and (total > split.records or (is_whole and total != split.records)):
        raise DatasetError(
            f"{directory}: {len(counts)} files of the split {split.name!r} hold {total} records, but stats.{split.name}.json specifies "
            f"{split.records}; a file was truncated after a record, or replaced. Cache the task again."
        )


def _splits(directory: str) -> list[Split]:
    try:
        names = frozenset(names_in(directory))
    except OSError:  # the caller may still pass the files by name
        return []
    return tfds.splits(directory, names) or seqio.splits(directory, names)


def _pattern(split: Split) -> str:
    """Return a glob that matches the files of a split."""
    return re.sub(r"\d+(-of-\d+)", r"*\1", glob.escape(split.files[0]))
