"""A NumPy reference for the places of windows, written independently of the library: slow and obvious."""

from __future__ import annotations

from tests.helpers.transforms_numpy import CROP, below, draw


def places(length: int, frames: int, hop: int, tail: str) -> tuple[list[tuple[int, int]], int]:
    """The windows of one record as (first frame, frames), and how many are left out."""
    if length < frames:
        return ([], 1) if tail == "drop" else ([(0, length)], 0)
    found = []
    first = 0
    while first + frames <= length:
        found.append((first, frames))
        first += hop
    if found[-1][0] + frames == length:
        return found, 0
    if tail == "drop":
        return found, 1
    if tail == "shift":
        return [*found, (length - frames, frames)], 0
    return (found if first >= length else [*found, (first, length - first)]), 0


def jittered(length: int, frames: int, hop: int, tail: str, seed: int, epoch: int, record: int) -> list[tuple[int, int]]:
    """The windows of one record in an epoch, if they are moved."""
    found, _ = places(length, frames, hop, tail)
    fitting = [window for window in found if window[0] % hop == 0 and window[0] + frames <= length]
    if not fitting:
        return found
    left = length - frames - fitting[-1][0]
    offset = below(left if tail == "shift" and left else left + 1, draw(seed, epoch, CROP, record))
    return [(first + offset, count) for first, count in fitting] + found[len(fitting) :]
