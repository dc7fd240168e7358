"""The numbers of the epochs of a dataset: one for each iteration, or all of an endless run."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.python_calls import keep_alive

SEEDS = (1, 2)  # with these, the numbers of the first iterators all differ
KNOWN = 1 << 14  # epochs that a checkpoint before the first batch knows
_UINT32 = np.uint64(0xFFFFFFFF)
ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # TensorFlow's name of resources that are freed with their last handle


def epochs(repeat: bool, start: tuple[int, int]) -> tf.data.Dataset:
    """The epochs of an iteration as (number, first batch): all from `start` on, or a single one, the next for each new iterator."""
    if repeat:
        epoch, batch = start
        numbers = tf.data.Dataset.range(epoch, 2**62)
        return numbers.map(
            tf.autograph.experimental.do_not_convert(lambda number: (number, tf.where(number == epoch, np.int64(batch), np.int64(0))))
        )
    # The number must be part of an iterator's checkpoint, which holds the state of datasets but not variables. So the first of three
    # elements draws the number and has no batches; `scan` keeps it; the second has the batches; the third, which a restored iterator
    # makes too, has none. A checkpoint before the first batch has no such element yet: there `_creation_numbers` tell which it is.
    with tf.device("CPU:0"):
        # The raw resource, because in the scope of a strategy a tf.Variable has one for each replica, and no handle.
        counts = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[2], shared_name=ANONYMOUS)
        tf.raw_ops.AssignVariableOp(resource=counts, value=np.zeros(2, np.int64))
        # The raw op, because `Dataset.scan` traces its function for every dataset, and TensorFlow keeps each of these for ever (150 KB).
        scan = tf.raw_ops.ScanDataset(
            input_dataset=tf.data.experimental.to_variant(tf.data.Dataset.zip((tf.data.Dataset.range(3), _creation_numbers()))),
            initial_state=[np.int64(-1)],
            other_arguments=[counts, known_numbers()],
            f=_draw(),
            output_types=[tf.int64, tf.int64],
            output_shapes=[[], []],
            preserve_cardinality=True,
        )
    numbers = tf.data.experimental.from_variant(scan, (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64)))
    keep_alive(counts, numbers)
    return numbers


def _creation_numbers() -> tf.data.Dataset:
    """Random numbers from which an iterator knows as which it was created.

    TensorFlow draws the seeds of these numbers when an iterator is created, and saves in its checkpoint both the seeds and how many
    iterators had theirs; a restored dataset goes on from there. The numbers of the n-th iterator are always the same.
    """
    numbers = tf.raw_ops.RandomDatasetV2(
        seed=np.int64(SEEDS[0]),
        seed2=np.int64(SEEDS[1]),
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        rerandomize_each_iteration=True,
        output_types=[tf.int64],
        output_shapes=[[]],
    )
    return tf.data.experimental.from_variant(numbers, tf.TensorSpec([], tf.int64))


@functools.cache
def known_numbers() -> np.ndarray:
    """int64 `[1, KNOWN + 1]`, ascending: for each of the first iterators its first random number * KNOWN + which it is; and an end."""
    iterators = np.arange(KNOWN, dtype=np.uint32)
    zeros = np.zeros(KNOWN, np.uint32)
    # The generator of seeds makes four numbers at once, two for each iterator.
    four = _philox(np.uint32(SEEDS[0]) + zeros, (iterators // 2, zeros, np.uint32(SEEDS[1]) + zeros, zeros))
    second = iterators % 2 == 1
    seeds = np.where(second, four[2], four[0]), np.where(second, four[3], four[1])
    numbers = _philox(seeds[0], (zeros, zeros, seeds[1], zeros))[0]
    return np.append(np.sort(numbers.astype(np.int64) * KNOWN + iterators), np.int64(2**62))[None]


def _philox(key: np.ndarray, counter: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Philox4x32-10 (Salmon et al. 2011): four random uint32 `[n]` from keys below 2 ** 32 and counters."""
    low, high = key.astype(np.uint64), np.zeros_like(key, np.uint64)
    words: tuple[Any, ...] = tuple(word.astype(np.uint64) for word in counter)
    for _ in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = (second >> 32 ^ words[1] ^ low, second & _UINT32, first >> 32 ^ words[3] ^ high, first & _UINT32)
        low, high = low + np.uint64(0x9E3779B9) & _UINT32, high + np.uint64(0xBB67AE85) & _UINT32
    return tuple(word.astype(np.uint32) for word in words)


@functools.cache
def _draw() -> Any:
    """The function that draws the number of an epoch, traced once in a process.

    It gets the number that was drawn before, the position (0 to 2), one of `_creation_numbers`, the variable with the next number and the
    creations up to the last iterator that drew, and the `known_numbers`. It returns the number, and again the number with the first batch
    to deliver.

    Iterators that deliver nothing draw no number (Keras creates one after each epoch). So the next number is drawn, and not that of the
    creation, except where the iterator was restored, or created after one that was: then it is the first that draws in this process, or
    one created later drew before it.
    """
    number, counts, known = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.resource), tf.TensorSpec([1, KNOWN + 1], tf.int64)

    @tf.function(input_signature=[number, number, number, counts, known], autograph=False)
    def draw(held: tf.Tensor, position: tf.Tensor, random: tf.Tensor, counts: tf.Tensor, known: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Arithmetic instead of tf.cond: each branch would be a function, which costs 2 ms for every new iterator. And few operations:
        # TensorFlow optimizes them anew for each iterator.
        sought = random * KNOWN
        place = tf.raw_ops.LowerBound(sorted_inputs=known, values=tf.reshape(sought, [1, 1]), out_type=tf.int64)
        created = tf.reshape(tf.gather(tf.reshape(known, [-1]), place), []) - sought  # of known numbers, less than KNOWN
        following, after = tf.unstack(tf.raw_ops.ReadVariableOp(resource=counts, dtype=tf.int64), 2)
        is_first, is_known = position == 0, created < KNOWN
        is_restored = is_known & ((created < after) | (following == 0))
        drawn = tf.where(is_first, tf.where(is_restored, created, following), held)
        # After a restore in a new process the counts are behind and have to catch up. What is missing is added, so that what another
        # iterator adds meanwhile stays.
        missing = tf.stack([drawn + 1 - following, tf.where(is_first & is_known, created + 1 - after, 0)])
        with tf.control_dependencies([tf.raw_ops.AssignAddVariableOp(resource=counts, value=tf.maximum(missing, 0))]):
            drawn = tf.identity(drawn)
        return drawn, drawn, tf.where(position == 1, np.int64(0), np.int64(2**62))

    return draw.get_concrete_function()
