"""Which conversions of stored to delivered values can lose some of them.

The engines test each value as it is read, but only for these pairs of dtypes: the others cost nothing. An integer is lost if the float
does not hold exactly it, so that two ids would become one; a float only if it becomes infinite, because rounding is what floats do.
"""

from __future__ import annotations

import numpy as np

from vlpipe.planning.paddings import GREATEST

_EXACT_BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}  # integers of up to so many bits are exact
WIDE_BYTES = 4  # integers of this size or more are delivered as they are: float32 does not hold all of them


def can_lose(stored: str, delivered: str) -> bool:
    """Whether a value of one dtype may be lost in another, which a schema accepts for it."""
    if delivered not in _EXACT_BITS:
        return False  # a wider integer: narrower ones are refused
    if np.dtype(stored).kind in "iu":
        return int(np.iinfo(stored).max).bit_length() > _EXACT_BITS[delivered]
    return GREATEST[stored] > GREATEST[delivered]


def is_wide(stored: str) -> bool:
    """Whether values are integers that float32 may not hold."""
    dtype = np.dtype(stored)
    return dtype.kind in "iu" and dtype.itemsize >= WIDE_BYTES
