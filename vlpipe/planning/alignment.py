"""Which of the delivered sequences go frame by frame with the key feature, by their lengths in the index."""

from __future__ import annotations

import dataclasses

import numpy as np

from vlpipe.errors import ArgumentError, SchemaError
from vlpipe.planning.options import Options
from vlpipe.planning.selection import Selection
from vlpipe.storage.index import Index
from vlpipe.storage.schema import default_key


def with_aligned(index: Index, selection: Selection, options: Options) -> Selection:
    """The selection, with the further features and labels that have one value for each frame of the key feature.

    These are the sequences that `options.aligned` names and those that the schema has as aligned; without names, also all others that are
    as long as the key feature in every record. Without records, nothing is known of the others.

    Raises:
        SchemaError: a name is not in the schema, or no sequence.
        ArgumentError: a name is not delivered, or a record has another length than the key feature.
    """
    if options.aligned is False:
        return selection
    others = [name for name in (*selection.features, *selection.labels) if name in index.schema.sequences and name != selection.key]
    named = options.aligned if isinstance(options.aligned, tuple) else (options.aligned,) if options.aligned is not None else ()
    _check_names(index, selection, named, others)
    required = [name for name in others if name in named or _declared(index, selection, name)]
    for name in required:
        _check_lengths(index, selection.key, name)
    found = [name for name in others if options.aligned is None and name not in required and _as_long(index, selection.key, name)]
    return dataclasses.replace(selection, aligned=tuple(name for name in others if name in required or name in found))


def _declared(index: Index, selection: Selection, name: str) -> bool:
    """Whether the schema has a sequence as aligned with the key feature."""
    return index.schema.sequences[name].aligned and default_key(index.schema) in (selection.key, None)


def _check_names(index: Index, selection: Selection, named: tuple[str, ...], others: list[str]) -> None:
    for name in named:
        if name not in index.schema.fields:
            raise SchemaError(f'aligned: the schema has no field "{name}"; its fields are {list(index.schema.fields)}.')
        if name == selection.key:
            raise ArgumentError(f'aligned: "{name}" is the key feature, with which others are aligned. Name only the others: {others}.')
        if name not in index.schema.sequences:
            raise SchemaError(f'aligned: "{name}" is {index.schema.fields[name]!r}, expected a Sequence with one value a frame.')
        if name not in others:
            raise ArgumentError(f'aligned: "{name}" is not delivered; besides "{selection.key}" these sequences are: {others}.')


def _counted(index: Index, name: str) -> bool:
    """Whether the index knows its lengths; else (a label that a user's function returns) they are compared when it is read."""
    return index.access(name).is_counted


def _check_lengths(index: Index, key: str, name: str) -> None:
    if not _counted(index, name):
        return
    frames, values = index.frames(key), index.frames(name)
    differ = np.flatnonzero(frames != values)
    if len(differ):
        row = int(differ[0])
        raise ArgumentError(
            f'aligned: {index.where(row)}: "{name}" has {values[row]} values, "{key}" has {frames[row]} frames, expected one value a frame '
            f"({len(differ)} of {len(index)} records differ). Correct the data, or leave the name out of aligned (False: none)."
        )


def _as_long(index: Index, key: str, name: str) -> bool:
    return len(index) > 0 and _counted(index, name) and np.array_equal(index.frames(key), index.frames(name))
