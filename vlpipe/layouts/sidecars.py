"""What lies beside TFRecord files and describes them: the sidecars of TensorFlow Datasets (`prepared`) and of SeqIO (`seqio`)."""

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


def described(paths: Sequence[str]) -> tuple[Layout, str] | None:
    """The layout of files as a sidecar describes it, and what that is; None where none does.

    Raises:
        SchemaError: a sidecar cannot be read, describes nothing that can be delivered, or the sidecars describe different features.
    """
    layout = tfds.prepared(os.path.dirname(paths[0]))
    if layout is not None:
        return layout, f"{tfds.FEATURES_NAME} of TensorFlow Datasets"
    places = dict.fromkeys((os.path.dirname(path), seqio.split_of(os.path.basename(path))) for path in paths)
    found = {
        os.path.join(directory, seqio.info_name(split)): layout
        for directory, split in places
        if split is not None and (layout := seqio.cached(directory, split)) is not None
    }
    for path, layout in found.items():
        if layout != next(iter(found.values())):
            raise SchemaError(f"{path}: describes other features than {next(iter(found))}. Read the splits one by one, or pass layout=...")
    return next(((layout, f"{os.path.basename(path)} of SeqIO") for path, layout in found.items()), None)


def files_in(directory: str, records: list[str]) -> list[str]:
    """The names of the TFRecord files that are meant by a whole directory: those of its one split, or all where no sidecar knows of any.

    Args:
        records: names of all TFRecord files in it.

    Raises:
        ArgumentError: it has several splits.
        DatasetError: a file of its split is not there.
    """
    found = _splits(directory)
    if not found:
        return records
    if len(found) > 1:
        choices = " or ".join(os.path.join(directory, _pattern(split)) for split in found[:8] if split.files)
        raise ArgumentError(
            f"source: {directory} has the splits {[split.name for split in found]}, which are not mixed unasked. Pass the files of one, "
            f"such as {choices}; or those of all, {os.path.join(directory, '*.tfrec*')}."
        )
    (split,) = found
    if split.missing:
        raise DatasetError(
            f"{directory}: {split.sidecar} says that the split {split.name!r} has {len(split.files) + split.missing} files, "
            f"{split.missing} of these are not here. Copy them too, or pass the files that are to be read, or a glob of them."
        )
    return list(split.files)


def check_counts(paths: Sequence[str], counts: Sequence[int]) -> None:
    """Compare how many records files have with what the sidecars state.

    Raises:
        DatasetError: a file, or a split whose files are all there, has another number.
    """
    for directory in dict.fromkeys(map(os.path.dirname, paths)):
        found = {os.path.basename(path): count for path, count in zip(paths, counts, strict=True) if os.path.dirname(path) == directory}
        for split in _splits(directory):
            _check_split(directory, split, {name: found[name] for name in split.files if name in found})


def stated_count(path: str) -> tuple[int, str] | None:
    """How many records a file has, and what says so; None where nothing does."""
    directory, name = os.path.split(path)
    return next(((split.counts[name], split.sidecar) for split in _splits(directory) if name in split.counts), None)


def _check_split(directory: str, split: Split, found: dict[str, int]) -> None:
    for name, count in found.items():
        if split.counts.get(name, count) != count:
            raise DatasetError(
                f"{os.path.join(directory, name)}: holds {count} records, {split.sidecar} says {split.counts[name]}: it was cut at the end "
                "of a record, or replaced. Prepare the dataset again."
            )
    total, is_whole = sum(found.values()), len(found) == len(split.files) and not split.missing
    if split.records is not None and (total > split.records or (is_whole and total != split.records)):
        raise DatasetError(
            f"{directory}: {len(found)} files of the split {split.name!r} hold {total} records, stats.{split.name}.json says "
            f"{split.records}: a file was cut at the end of a record, or replaced. Cache the task again."
        )


def _splits(directory: str) -> list[Split]:
    try:
        names = frozenset(names_in(directory))
    except OSError:  # its files may be named one by one all the same
        return []
    return tfds.splits(directory, names) or seqio.splits(directory, names)


def _pattern(split: Split) -> str:
    """A glob of the files of a split."""
    return re.sub(r"\d+(-of-\d+)", r"*\1", glob.escape(split.files[0]))
