"""SplitMix64 in a TensorFlow graph: the same integers as `planning.splitmix`, from the same arithmetic."""

from __future__ import annotations

import tensorflow as tf

from vlpipe.planning import splitmix


def uint64(number: int) -> tf.Tensor:
    """A constant."""
    return tf.constant(number, tf.uint64)


def mix(numbers: tf.Tensor) -> tf.Tensor:
    """`splitmix.mix` of every element."""
    for shift, multiplier in zip(splitmix.SHIFTS, (*splitmix.MULTIPLIERS, 1), strict=True):
        numbers = tf.bitwise.bitwise_xor(numbers, tf.bitwise.right_shift(numbers, uint64(shift))) * uint64(multiplier)
    return numbers


def hashes(seed: int, epoch: tf.Tensor, purpose: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """The outputs of SplitMix64 with these numbers, counted from 0: `splitmix.hashes` returns the first ones.

    Args:
        epoch: int64 scalar.
        purpose: uint64.
        numbers: int64, of a shape that broadcasts with that of `purpose`.
    """
    start = mix(mix(uint64(splitmix.mix(seed)) + tf.cast(epoch, tf.uint64)) + purpose)
    return mix(tf.cast(numbers + 1, tf.uint64) * uint64(splitmix.GOLDEN) + start)


def order_in_groups(groups: tf.Tensor, hashed: tf.Tensor, count: int, greatest: int) -> tf.Tensor:
    """int64 `[count]`: `splitmix.order_in_groups` of int64 groups and uint64 hashes."""
    position_bits, hash_bits = splitmix.sort_bits(count, greatest)
    left, right, either = tf.bitwise.left_shift, tf.bitwise.right_shift, tf.bitwise.bitwise_or
    packed = either(right(hashed, uint64(64 - hash_bits)), left(tf.cast(groups, tf.uint64), uint64(hash_bits)))
    packed = either(left(packed, uint64(position_bits)), tf.cast(tf.range(count, dtype=tf.int64), tf.uint64))
    return tf.bitwise.bitwise_and(tf.sort(tf.bitcast(packed, tf.int64)), (1 << position_bits) - 1)


def part_numbers(parts: tf.Tensor) -> tf.Tensor:
    """int64: `splitmix.part_numbers` of int64 numbers."""
    return tf.bitcast(mix(tf.bitcast(parts, tf.uint64)), tf.int64)


def draws(seed: int, epoch: tf.Tensor, purpose: int, records: tf.Tensor, count: int) -> tf.Tensor:
    """int64 `[B, count]`: `splitmix.draws` of the purposes `purpose`, `purpose + 1` and so on, for each record (int64 `[B]`)."""
    purposes = tf.range(purpose, purpose + count, dtype=tf.int64)
    numbers = hashes(seed, epoch, tf.cast(purposes, tf.uint64), records[:, None])
    return tf.cast(tf.bitwise.right_shift(numbers, uint64(32)), tf.int64)
