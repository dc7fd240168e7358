"""Wait for Python's garbage collector."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def collect_garbage(until: Callable[[], bool], seconds: float = 30) -> None:
    """Collect garbage until a condition holds.

    Once is not enough: `gc.collect` returns at once while another thread collects, which may wait for a while in TensorFlow's destructors.

    Raises:
        TimeoutError: the condition does not hold after this many seconds.
    """
    deadline = time.monotonic() + seconds
    gc.collect()
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds} seconds of garbage collection the condition does not hold")
        time.sleep(0.01)
        gc.collect()
