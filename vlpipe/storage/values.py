"""Values of a record before they are checked: as arrays, and in the words of an error."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_array(value: Any, expected: str) -> np.ndarray:
    """Return a value as an array.

    Args:
        value: anything.
        expected: what the schema has, for an error.

    Raises:
        ValueError: the value is not an array, or is a masked one.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"a masked array, whose mask would be lost; {expected}: pass an array without one, such as .filled(0)")
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{describe(value)}, which is not an array; {expected}") from error


def from_python(array: np.ndarray, dtype: str) -> np.ndarray:
    """Convert Python ints, floats and lists of them, which have no dtype, to `dtype`.

    Floats are rounded, as NumPy does. Integers that a conversion to float would change are returned in their dtype, which is then refused.

    Raises:
        ValueError: the dtype cannot hold a value.
    """
    target = np.dtype(dtype)
    if array.size == 0:
        return array.astype(target)
    if target.kind == "f":
        with np.errstate(all="ignore"):  # overflow is detected below
            converted = array.astype(target)
        if array.dtype.kind == "f":
            overflow = np.isinf(converted) & np.isfinite(array)
            if overflow.any():
                raise ValueError(f"the value {array[overflow].flat[0]}, which is beyond the range of {dtype}")
            return converted
        # Compared as Python numbers: NumPy would convert int64 and float32 to float64, which rounds the int64.
        same = np.isfinite(converted).all() and converted.ravel().tolist() == array.ravel().tolist()
        return converted if same else array
    if array.dtype.kind in "iu":
        limits = np.iinfo(target)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise ValueError(f"the value {extreme}, which {dtype} cannot hold")
        return array.astype(target)
    return array


def describe(value: Any) -> str:
    """Describe a value in an error: its type, and its dtype and shape or the beginning of its repr."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
