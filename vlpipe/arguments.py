"""Checks of arguments that several rooms share."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError


def integer(name: str, value: Any, least: int, most: int = 2**63 - 1) -> int:
    """Return `value` as an int.

    Args:
        name: of the argument, for the error.

    Raises:
        ArgumentError: it is not an integer from `least` to `most`.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise ArgumentError(f"{name}: came as {value!r}, expected an integer >= {least}, at most {most}.")
    return int(value)
