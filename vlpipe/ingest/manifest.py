"""A CSV file that lists recordings, or parts of them."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from vlpipe.audio.span import Span
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.ingest.recordings import Recording
from vlpipe.regular_files import open_regular

_COLUMNS = ("path", "label", "start", "end")  # all others are texts, but for those that tell a part in other words
_WITH_MEANING = (*_COLUMNS, "offset", "duration")


def read_manifest(manifest: str | os.PathLike[str], folder: str | os.PathLike[str], *, field: str = "features") -> list[Recording]:
    """Read a CSV file that lists recordings.

    A row is a whole recording, or with the columns `start` and `end`, in seconds, a part of it (`vlpipe.audio.load`): the empty start is
    that of the recording, the empty end its end. `start` and `duration` (as in Lhotse) or `offset` and `duration` (as in NeMo) tell a part
    as well, and so do `offset` and `end`; where a row has end and duration, they may differ by 10 ms, and the end counts. A `duration` or
    an `offset` that is alone, or an `offset` beside `start`, is a text like any other. The key of a part is the path with the part, as in
    "day.flac#t=1.5,2.75".

    Args:
        manifest: CSV in UTF-8 with a header: `path` (relative to `folder`), optionally `label`, those of parts, and further columns of
            texts.
        folder: folder of the recordings.
        field: name of the field of features or samples, which no column can have.

    Returns:
        The recordings, in the order of their paths, and the parts of one in that of their time.

    Raises:
        DatasetError: the manifest cannot be read, lacks a column or a label, has a column such as "Path" or " label", lists a
            file or a part twice, lists a missing file, or a start and an end that are no part.
    """
    recordings: dict[str, Recording] = {}
    columns, rows = _read_csv(manifest, field)
    for number, row in enumerate(rows, start=1):
        where = f"{manifest}, row {number} below the header"
        if None in row or None in row.values() or not row["path"]:
            raise DatasetError(f"{where}: came with {list(row.values())}, expected {len(columns)} values, among them a path. Fix the row.")
        recording = _recording(row, Path(folder), where)
        if recording.key in recordings:
            raise DatasetError(f"{where}: {recording.key} is already listed in an earlier row. List each file, or part of it, once.")
        _check_row(row, recording, Path(folder), where)
        recordings[recording.key] = recording
    if not recordings:
        raise DatasetError(f"{manifest}: lists no files below its header {','.join(columns)}. List one file per row.")
    return sorted(recordings.values(), key=_order)


def _recording(row: dict[str, str], folder: Path, where: str) -> Recording:
    path = folder / row["path"]
    file = Path(os.path.relpath(path, folder)).as_posix()
    start = "offset" if "start" not in row and "offset" in row and ("duration" in row or "end" in row) else "start"
    has_part = start in row or "end" in row
    duration = row.get("duration", "") if has_part else ""
    try:
        span = Span.of_texts(row.get(start, ""), row.get("end", ""), duration, start_name=start)
    except ArgumentError as error:
        raise DatasetError(f"{where}: the part of {file}: {error} Fix the row.") from None
    told = {*_COLUMNS, start, *(["duration"] if has_part else [])}
    texts = {name: value for name, value in row.items() if name not in told}
    if span.is_whole:
        return Recording(path, file, row.get("label"), texts)
    return Recording(path, f"{file}#{span.fragment}", row.get("label"), texts, span, where)


def _check_row(row: dict[str, str], recording: Recording, folder: Path, where: str) -> None:
    if not recording.path.is_file():
        raise DatasetError(f"{where}: {recording.path} does not exist. Paths are relative to {folder}; fix the path.")
    if row.get("label") == "":
        raise DatasetError(f"{where}: the label of {recording.key} is empty. Fill it in, or remove the row.")


def _order(recording: Recording) -> tuple[str, float, float]:
    end = recording.span.end
    return recording.file, float(recording.span.start), float("inf") if end is None else float(end)


def _read_csv(manifest: str | os.PathLike[str], field: str) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with io.TextIOWrapper(open_regular(manifest), encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{manifest}: cannot be read as CSV in UTF-8 ({error}). Check the file.") from error
    for column in columns:
        meant = column.strip().lower()
        if meant in _WITH_MEANING and meant not in columns:
            raise DatasetError(
                f"{manifest}: has a column {column!r} (did you mean {meant!r}?), and none {meant!r}. Write its name in the first line in "
                "small letters, without spaces around it; give a column of other texts another name."
            )
    named = all(column and column.isprintable() for column in columns)
    if "path" not in columns or not named or field in columns or len(set(columns)) != len(columns):
        raise DatasetError(
            f'{manifest}: the columns are {columns}, expected a header with "path", optionally "label", "start" and "end", and further '
            f'printable, distinct names other than "{field}". Fix the first line.'
        )
    return columns, rows
