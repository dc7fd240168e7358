"""The dtypes in which features can be delivered."""

from __future__ import annotations

import numpy as np

FLOAT_DTYPES = ("float32", "float16", "float64", "bfloat16")
INTEGER_DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "int64")


def itemsize_of(dtype: str) -> int:
    """Bytes of one value; NumPy does not know bfloat16."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
