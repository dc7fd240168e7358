"""The numbers of the epochs of a dataset: one for each iteration, or all of an endless run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vlpipe.engines.light_function import ON_ITS_DEVICE, tensors_of
from vlpipe.engines.python_calls import keep_alive
from vlpipe.planning.resume import ENDLESS

SEEDS = (4, 1)  # with these, the `known_numbers` all differ
STRIDE = 16  # seeds that TensorFlow draws for each epoch
KNOWN = 1 << 17  # seeds whose place is known: those of the first 8,192 epochs
_UINT32 = np.uint64(0xFFFFFFFF)
NUMBERS: dict[str, Any] = {"output_types": [tf.int64], "output_shapes": [[]]}


class Epochs(NamedTuple):
    """The epochs of an iteration.

    Attributes:
        numbers: pairs of int64: the number of an epoch, and the first batch to deliver of it; beyond the last batch: none.
        steps: a function of the number of batches in an epoch: the numbers of all batches from the first epoch and batch on, that is
            number of the epoch * batches + number of the batch; int64.
        counted: the finished dataset, with the count of epochs in the checkpoints of its iterators.
    """

    numbers: tf.data.Dataset
    steps: Callable[[int], tf.data.Dataset]
    counted: Callable[[tf.data.Dataset], tf.data.Dataset]


def epochs(repeat: bool, start: tuple[int, int]) -> Epochs:
    """The epochs of an iteration: all from `start` on, or a single one, the next for each new iterator.

    The count must be part of an iterator's checkpoint, also before its first batch and after its last one. TensorFlow saves neither
    variables nor the state of datasets that have ended there, but a dataset that shuffles always saves how many seeds its generator has
    drawn, and sets the generator back when it is restored. So `counted` shuffles a buffer of one element, which changes nothing, and each
    iteration that begins looks up which seed comes next. A new iterator draws one seed; an iteration that begins draws up to the next
    multiple of `STRIDE`, and its number is which multiple that was. Thus iterators that deliver nothing, of which Keras creates one after
    each epoch, take no number; where more than 14 are created between two that deliver, a number is left out. Iterations that begin at one
    moment in several threads may share a number: a mutex around the draw prevents it, but keeps 12 MB more and takes time at each start.

    A function of tf.data costs each new iterator 3 ms and more, because TensorFlow optimizes it anew: there are as few as possible.
    """
    if repeat:
        epoch, batch = start
        numbers = tf.data.Dataset.range(epoch, ENDLESS)
        first = tf.autograph.experimental.do_not_convert(lambda number: (number, tf.where(number == epoch, np.int64(batch), np.int64(0))))
        return Epochs(
            numbers.map(first), lambda steps: tf.data.Dataset.range(epoch * steps + min(batch, steps), ENDLESS), lambda batches: batches
        )
    with tf.device("CPU:0"):
        generator, deleter = tf.raw_ops.AnonymousSeedGenerator(seed=np.int64(SEEDS[0]), seed2=np.int64(SEEDS[1]), reshuffle=True)
    zeros = tf.data.Dataset.from_tensors(np.int64(0))
    return Epochs(
        tf.data.Dataset.zip((_drawn(generator, 1, np.int64(0)), zeros)),
        lambda steps: _unbatched(_drawn(generator, steps, np.arange(steps, dtype=np.int64))),
        functools.partial(_counted, generator, deleter),
    )


def _drawn(generator: tf.Tensor, factor: int, offsets: np.ndarray | np.int64) -> tf.data.Dataset:
    """A single element for each iteration: the number of its epoch * factor + offsets."""
    with tf.device("CPU:0"):
        # The raw op, because `Dataset.map` traces its function for every dataset, and TensorFlow keeps each of these for ever (150 KB).
        drawn = tf.raw_ops.MapDataset(
            input_dataset=tf.data.experimental.to_variant(tf.data.Dataset.from_tensors(offsets)),
            other_arguments=[tf.constant(factor, tf.int64), generator, *_known()],
            f=_draw(),
            output_types=[tf.int64],
            output_shapes=[offsets.shape],
        )
    return tf.data.experimental.from_variant(drawn, tf.TensorSpec(offsets.shape, tf.int64))


def _unbatched(numbers: tf.data.Dataset) -> tf.data.Dataset:
    """`numbers.unbatch()` without the map that it puts in between, whose function changes nothing."""
    with tf.device("CPU:0"):
        unbatched = tf.raw_ops.UnbatchDataset(input_dataset=tf.data.experimental.to_variant(numbers), **NUMBERS)
    return tf.data.experimental.from_variant(unbatched, tf.TensorSpec([], tf.int64))


def _counted(generator: tf.Tensor, deleter: tf.Tensor, batches: tf.data.Dataset) -> tf.data.Dataset:
    spec = batches.element_spec
    flat = tensors_of(spec)
    with tf.device("CPU:0"):
        shuffled = tf.raw_ops.ShuffleDatasetV3(
            input_dataset=tf.data.experimental.to_variant(batches),
            buffer_size=np.int64(1),
            seed=np.int64(SEEDS[0]),
            seed2=np.int64(SEEDS[1]),
            seed_generator=generator,
            output_types=[part.dtype for part in flat],
            output_shapes=[part.shape for part in flat],
            reshuffle_each_iteration=True,
        )
    counted = tf.data.experimental.from_variant(shuffled, spec)
    keep_alive((deleter, batches), counted)
    return counted


@functools.cache
def known_numbers() -> np.ndarray:
    """int64 `[KNOWN + 1, 3]`, ascending: the random number that each of the first seeds gives, the number of the epoch that it begins, and
    how many repetitions of a dataset draw the seeds that are left to the next multiple of `STRIDE`; and an end."""
    places = np.arange(KNOWN, dtype=np.uint32)
    zeros = np.zeros(KNOWN, np.uint32)
    # The generator of seeds makes four numbers at once: two seeds, of two numbers each.
    four = _philox(np.uint32(SEEDS[0]) + zeros, (places // 2, zeros, np.uint32(SEEDS[1]) + zeros, zeros))
    second = places % 2 == 1
    seeds = np.where(second, four[2], four[0]), np.where(second, four[3], four[1])
    numbers = _philox(seeds[0], (zeros, zeros, seeds[1], zeros))[0]
    left = (STRIDE - 1 - places.astype(np.int64)) % STRIDE
    times = np.where(left > 1, left - 1, left)  # a repetition draws a seed, and the end of all of them one more
    known = np.stack([numbers.astype(np.int64), places // STRIDE, times], axis=1)
    return np.append(known[np.argsort(numbers)], [[2**62, 0, 0]], axis=0)


@functools.cache
def _known() -> tuple[tf.Tensor, tf.Tensor]:
    """The `known_numbers`, which all datasets share: their first column as a row, and all."""
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(known_numbers()[None, :, 0]), tf.constant(known_numbers())


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
    """The function that begins an iteration: it returns the number of its epoch * factor + offsets. It is traced once in a process.

    It gets the offsets, the factor, the generator of seeds, and both tensors of `_known`.
    """
    signature = [tf.TensorSpec(None, tf.int64), tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.resource)]
    signature += [tf.TensorSpec([1, KNOWN + 1], tf.int64), tf.TensorSpec([KNOWN + 1, 3], tf.int64)]

    # As few operations as possible, and no tf.cond or loop, whose branches would be functions.
    @tf.function(input_signature=signature, autograph=False, experimental_attributes=ON_ITS_DEVICE)
    def draw(offsets: tf.Tensor, factor: tf.Tensor, generator: tf.Tensor, values: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        one = _random(generator)
        random = _single(one)
        at = tf.raw_ops.LowerBound(sorted_inputs=values, values=tf.reshape(random, [1, 1]), out_type=tf.int64)
        value, epoch, times = tf.unstack(tf.reshape(tf.raw_ops.GatherNd(params=known, indices=at), [3]))
        # Beyond the known seeds, an order that is random, yet the same for the same seed.
        epoch = tf.raw_ops.SelectV2(condition=tf.equal(value, random), t=epoch, e=KNOWN + random)
        repeated = tf.raw_ops.RepeatDataset(input_dataset=one, count=times, **NUMBERS)
        last = tf.raw_ops.TensorDataset(components=[offsets], output_shapes=[None])
        both = tf.raw_ops.ConcatenateDataset(input_dataset=repeated, another_dataset=last, output_types=[tf.int64], output_shapes=[None])
        skipped = tf.raw_ops.SkipDataset(input_dataset=both, count=times, output_types=[tf.int64], output_shapes=[None])
        offsets = tf.raw_ops.DatasetToSingleElement(dataset=skipped, output_types=[tf.int64], output_shapes=[None])[0]
        return offsets + epoch * factor

    return draw.get_concrete_function()


def _random(generator: tf.Tensor) -> tf.Tensor:
    """A dataset of one random number: each of its iterators draws a seed."""
    numbers = tf.raw_ops.RandomDatasetV2(
        seed=np.int64(SEEDS[0]), seed2=np.int64(SEEDS[1]), seed_generator=generator, rerandomize_each_iteration=True, **NUMBERS
    )
    return tf.raw_ops.TakeDataset(input_dataset=numbers, count=np.int64(1), **NUMBERS)


def _single(numbers: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.DatasetToSingleElement(dataset=numbers, **NUMBERS)[0]
