"""Every error that vlpipe raises deliberately, and the wording that their messages share.

    VlpipeError
    ├── ArgumentError         (ValueError)
    ├── SchemaError           (ValueError)
    ├── DatasetError          (OSError)
    ├── DatasetExistsError    (FileExistsError)
    ├── AudioError            (ValueError)
    └── MissingExtraError     (ImportError)

In parentheses: the built-in error that each class also derives from, so that code which does not know vlpipe catches it too.

A message states where the problem is, what was found, what was expected, and what to do next. The place of a record is worded by
`record_place`; advice that several modules give is a constant below.

Messages and log lines quote names and values from files, which anyone may have written. They never reach a terminal as they are: every
`VlpipeError`, and every line of the log "vlpipe", has control characters escaped and long lines shortened.

Inside a running tf.data pipeline an exception can only arrive as a `tf.errors.OpError`; it carries the same text.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

# Advice: the last sentence of a message. Each follows the name of the file, to which "it" refers.
RESTORE = "Restore it from a copy, or write the dataset again."
DAMAGED = "The file is damaged or was cut: restore it from a copy, or write the dataset again."
REWRITTEN = "The file is damaged, or was changed or replaced after it was written: restore it from a copy, or write the dataset again."
NOT_TFRECORD = "It is not a TFRecord file, or its beginning is damaged: pass another file, or restore it from a copy."
RESTORE_ALL = "Restore the shards, index.npy and vlpipe.json from the same copy, or write the dataset again."
WRITE_AGAIN = "Write the dataset again with this vlpipe, for example with `vlpipe convert`."
PREPARE_AGAIN = "Prepare the dataset again."  # one that TensorFlow Datasets wrote
COPY_AGAIN = "Copy it again."  # an original exists elsewhere


MAX_LETTERS = 2000  # of one line of a message
_CUT = " ... "


def printable(text: str) -> str:
    """Escape all characters of a text that could control a terminal, such as its cursor or colours.

    Example:
        >>> print(printable("ca\x1b[31mt"))
        ca\\x1b[31mt
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def counted(number: float, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1.

    Example:
        >>> counted(1, "file"), counted(2000, "file"), counted(0, "class"), counted(1.25, "time")
        ('1 file', '2,000 files', '0 classes', '1.25 times')
    """
    text = f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
    return f"{text} {noun if text == '1' else noun + ('es' if noun.endswith(('s', 'ch')) else 's')}"


def shortened(text: object, most: int) -> str:
    """Return a text, printable, with at most this many letters: the middle of a longer one is left out.

    Example:
        >>> shortened("abcdefghijklmnopqrstuvwxyz", 15)
        'abcde ... vwxyz'
    """
    text = str(text)
    if len(text) > most:  # before it is escaped: it may have millions of letters
        text = text[:most] + text[-most:]
    text = printable(text)
    if len(text) <= most:
        return text
    half = (most - len(_CUT)) // 2
    return text[: most - len(_CUT) - half] + _CUT + text[-half:]


def safe_lines(text: str, most: int = MAX_LETTERS) -> str:
    """Return a text of several lines, each `shortened`."""
    return "\n".join(shortened(line, most) for line in text.split("\n"))


class VlpipeError(Exception):
    """Base class of all errors that vlpipe raises deliberately."""

    def __str__(self) -> str:
        return safe_lines(super().__str__())


class _SafeLines(logging.Filter):
    """Escapes and shortens the lines of a log."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = safe_lines(record.getMessage()), None
        return True


logging.getLogger("vlpipe").addFilter(_SafeLines())


class ArgumentError(VlpipeError, ValueError):
    """An argument has a value that the function does not accept."""


class SchemaError(VlpipeError, ValueError):
    """A record, or a requested name, does not match the schema."""


class DatasetError(VlpipeError, OSError):
    """Files of a dataset are missing, damaged, or of a kind that this version cannot read."""


class DatasetExistsError(VlpipeError, FileExistsError):
    """The target of a write already exists, or another process is writing it."""


class AudioError(VlpipeError, ValueError):
    """An audio file cannot be decoded, or its samples are unsuitable for the requested features."""


class MissingExtraError(VlpipeError, ImportError):
    """An optional package is not installed."""


def record_place(file: str, record: int | None, offset: int | None) -> str:
    """Return how a message names a record, or a byte of a file.

    Args:
        file: name of the file.
        record: number of the record in the file, from 0; None: no record in particular.
        offset: byte of the file at which it begins; None: unknown.

    Example:
        >>> record_place("train-00003-of-00016.tfrecord", 17, 88120)
        'train-00003-of-00016.tfrecord, record 17 at byte 88120'
    """
    place = file if record is None else f"{file}, record {record}"
    return place if offset is None else f"{place} at byte {offset}"


def import_extra(module: str, *, extra: str, needed_for: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` with the command that installs it.

    Args:
        module: name of the module to import, such as `"matplotlib.figure"`.
        extra: name of vlpipe's extra that installs it, such as `"plot"`.
        needed_for: what the user called, such as `"Plan.plot"`.

    Raises:
        MissingExtraError: the module cannot be imported.

    Example:
        >>> import_extra("json", extra="plot", needed_for="an example").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'{needed_for} needs the package "{module.partition(".")[0]}", which cannot be imported ({error}). '
            f"Install it with: pip install 'vlpipe[{extra}]'"
        ) from error
