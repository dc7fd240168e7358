"""SplitMix64: the random numbers of a run, from (seed, epoch, purpose, record) alone.

Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014. Integer arithmetic modulo 2**64, which NumPy and a
TensorFlow graph compute alike, now and in later versions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
# The purposes, each with its own random numbers. Those of augmentations are the first of a range: one for each number that they draw.
RECORDS, BATCHES, CROPS, MASKS = 1, 2, 3, 4
MIXES = 1 << 16
GAINS, NOISES, TIME_SHIFTS, FUNCTIONS, MIXUPS, SPEEDS = (MIXES + (kind << 13) for kind in (1, 2, 3, 4, 5, 6))
_AUGMENTATIONS = {
    "SpecAugment": MASKS,
    "Gain": GAINS,
    "AddNoise": NOISES,
    "TimeShift": TIME_SHIFTS,
    "Augment": FUNCTIONS,
    "Mixup": MIXUPS,
    "SpeedPerturb": SPEEDS,
}
_MASK = 2**64 - 1


def mix(number: int) -> int:
    """The finalizer of SplitMix64, for one Python integer modulo 2**64."""
    number &= _MASK
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        number = (number ^ number >> shift) * multiplier & _MASK
    return number


def purposes_of(kinds: Iterable[str]) -> list[int]:
    """The first purpose of each of several augmentations, given by the names of their classes.

    It does not depend on augmentations of other kinds: with a gain beside them, noise and masks stay the same.
    """
    before: dict[str, int] = {}
    purposes = []
    for kind in kinds:
        purposes.append(_AUGMENTATIONS[kind] + (before.get(kind, 0) << 24))
        before[kind] = before.get(kind, 0) + 1
    return purposes


def hashes(seed: int, epoch: int, purpose: int, count: int) -> np.ndarray:
    """uint64 `[count]`: the first outputs of SplitMix64, started from a mix of (seed, epoch, purpose)."""
    return _outputs(seed, epoch, purpose, np.arange(1, count + 1, dtype=np.uint64))


def draws(seed: int, epoch: int, purpose: int, records: np.ndarray) -> np.ndarray:
    """int64 `[n]`: a random number below 2**32 for each record (ids >= 0): the upper half of its hash."""
    return (_outputs(seed, epoch, purpose, records.astype(np.uint64) + np.uint64(1)) >> np.uint64(32)).astype(np.int64)


def hashes_in(seed: int, epochs: np.ndarray, purpose: int) -> np.ndarray:
    """uint64 `[n]`: output i of SplitMix64, counted from 1, started from a mix of (seed, epochs[i], purpose); epochs are int64 `[n]`."""
    starts = _mixed(epochs.astype(np.uint64) + np.uint64(mix(seed)))
    starts += np.uint64(purpose)
    starts = _mixed(starts)
    starts += np.arange(1, len(starts) + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return _mixed(starts)


def sort_bits(count: int, greatest: int) -> tuple[int, int]:
    """The bits of a packed sort key that hold the position, the lowest, and those that hold the hash: what the group leaves of 63.

    Args:
        count: number of positions.
        greatest: no group has a greater number.
    """
    position = max(1, count).bit_length()
    return position, 63 - position - greatest.bit_length()


def order_in_groups(groups: np.ndarray, hashed: np.ndarray, greatest: int) -> np.ndarray:
    """int64 `[n]`: positions sorted by group, and randomly within a group: by hash, equal ones by position.

    Each key is packed into one integer, which sorts much faster than three columns.

    Args:
        groups: integers `[n]`.
        hashed: uint64 `[n]`, overwritten.
        greatest: no group has a greater number.
    """
    position_bits, hash_bits = sort_bits(len(groups), greatest)
    hashed >>= np.uint64(64 - hash_bits)
    hashed |= groups.astype(np.uint64) << np.uint64(hash_bits)
    hashed <<= np.uint64(position_bits)
    hashed |= np.arange(len(hashed), dtype=np.uint64)
    ordered = hashed.view(np.int64)
    ordered.sort()
    ordered &= (1 << position_bits) - 1
    return ordered


def _outputs(seed: int, epoch: int, purpose: int, numbers: np.ndarray) -> np.ndarray:
    """The outputs with these numbers (uint64, counted from 1), computed in place."""
    numbers *= np.uint64(GOLDEN)
    numbers += np.uint64(mix(mix(mix(seed) + epoch) + purpose))
    return _mixed(numbers)


def part_numbers(parts: np.ndarray) -> np.ndarray:
    """int64 `[n]`: what is added to the id of a record for the random numbers of one of its parts (int64 `[n]`); 0 for part 0.

    It is `mix`, which permutes the integers below 2**64 and leaves 0 where it is: parts of different records practically never share one.
    """
    return _mixed(parts.astype(np.uint64)).view(np.int64)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """`mix` of uint64 numbers, computed in place."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(multiplier)
    return numbers
