"""Every error that vlpipe raises on purpose.

A message says where, what came, what was expected, and what to do next. Each class also derives from
the built-in error that a caller would expect, so that code which knows nothing of vlpipe catches it too.

Inside a running tf.data pipeline an exception can only arrive as a `tf.errors.OpError`; it carries the same text.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class VlpipeError(Exception):
    """Base of all errors that vlpipe raises on purpose."""


class ArgumentError(VlpipeError, ValueError):
    """An argument has a value that the function cannot take."""


class SchemaError(VlpipeError, ValueError):
    """A record, or a name that was asked for, does not fit the schema."""


class DatasetError(VlpipeError, OSError):
    """Files of a dataset are missing, damaged, or of a kind that this version cannot read."""


class DatasetExistsError(VlpipeError, FileExistsError):
    """The target of a write exists already, or another process is writing it."""


class AudioError(VlpipeError, ValueError):
    """An audio file cannot be decoded, or holds what the features cannot be computed from."""


class MissingExtraError(VlpipeError, ImportError):
    """A package that not everyone needs is not installed."""


def import_extra(module: str, *, extra: str, needed_for: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` with the one command that brings it.

    Args:
        module: name of the module to import, such as `"matplotlib.figure"`.
        extra: name of vlpipe's extra that installs it, such as `"plot"`.
        needed_for: what the user asked for, such as `"Plan.plot"`.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'{needed_for} needs the package "{module.partition(".")[0]}", which cannot be imported ({error}). '
            f"Install it with: pip install 'vlpipe[{extra}]'"
        ) from error
