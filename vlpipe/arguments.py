"""Checks of arguments that several rooms share, and defaults that can be told from what the user names."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError

MAX_FRAMES = 2**31 - 2  # of a sequence: a boundary + 1 is still an int32


class Default(str):
    """A default that is not the same as its value named by the user.

    The dtype "float32" gives way to wide integers, and the padding to shapes="static"; where the user names either, it is what they get.
    """

    __slots__ = ()


@contextlib.contextmanager
def source_named(argument: str) -> Iterator[None]:
    """Errors about a source that is opened inside name the argument that it came in, where their text names the argument `source`."""
    try:
        yield
    except ArgumentError as error:
        if not str(error).startswith("source: "):
            raise
        raise ArgumentError(argument + str(error).removeprefix("source")) from None


def integer(name: str, value: Any, least: int, most: int = 2**63 - 1, *, expected: str = "") -> int:
    """Return `value` as an int.

    Args:
        name: of the argument, for the error.
        expected: for the error, instead of the bounds.

    Raises:
        ArgumentError: it is not an integer from `least` to `most`.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise ArgumentError(f"{name}: came as {value!r}, expected {expected or f'an integer >= {least}, at most {most}'}.")
    return int(value)


def number(name: str, value: Any, least: float = -math.inf, most: float = sys.float_info.max, *, expected: str) -> float:
    """Return `value` as a float.

    Args:
        name: of the argument, for the error.
        expected: for the error.

    Raises:
        ArgumentError: it is not a number from `least` to `most`.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)) or not least <= value <= most:
        raise ArgumentError(f"{name}: came as {value!r}, expected {expected}.")
    return float(value)
