"""The class list of another dataset, or of a file: two ingestions that share one number alike."""

from __future__ import annotations

import io
import os

from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.files.filesystem import is_address
from vlpipe.regular_files import open_regular
from vlpipe.sources.classes import class_names
from vlpipe.storage.index import METADATA_NAME
from vlpipe.storage.metadata import open_directory


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """Read the names of classes, by number: those of a dataset, or the lines of a text file in UTF-8.

    Args:
        path: a dataset directory or its address, or a file with one name a line.

    Raises:
        ArgumentError: the dataset has no class names; or the file has none, an empty line or a name twice.
        DatasetError: the dataset or the file cannot be read.

    Example:
        >>> with open("classes.txt", "w") as file:
        ...     _ = file.write("cat\\ndog\\n")
        >>> read_classes("classes.txt")
        ['cat', 'dog']
    """
    text = os.fspath(path)
    if os.path.basename(text) == METADATA_NAME:
        text = os.path.dirname(text) or "."
    if os.path.isdir(text) or is_address(text):
        names = class_names(open_directory(text).metadata)
        if not names:
            raise ArgumentError(f"classes: the dataset {text} has no names of its classes. Pass a file with one name a line.")
        return names
    try:
        with io.TextIOWrapper(open_regular(text), encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{text}: the classes cannot be read as a text in UTF-8 ({error}). Pass a dataset, or a text file.") from error
    names = lines[:-1] if lines[-1] == "" else lines  # the last line may have an end, as the others
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise ArgumentError(f"classes: line {number} of {text} is empty, expected the name of a class. Remove the line.")
        first = names.index(name) + 1
        if first < number:
            raise ArgumentError(f"classes: line {number} of {text} has {name!r}, as line {first} has. Name each class once.")
    if not names:
        raise ArgumentError(f"classes: {text} is empty, expected one class name a line.")
    return names
