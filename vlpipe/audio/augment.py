"""Any function of samples as an augmentation of waveforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vlpipe.errors import ArgumentError


@dataclass(frozen=True, repr=False)
class Augment:
    """A function of one waveform in Python, for `make_dataset(augment=)`: such as those of audiomentations, or one of your own.

    The generator that it gets is seeded anew for each sequence, by (seed, epoch, record) alone; each window and each copy of a record
    has its own. So a function that draws from it, and from nothing else, does the same with a sequence on every engine and rank, and
    after resuming. Calls do not overlap: a function whose random numbers come from Python's or NumPy's global state can seed these by
    the generator, as in the example.

    Python is slower than the graph, and one process calls it on one core at a time. The graph engine, a pure graph, cannot call it. A
    resume state knows the function by its name alone.

    Args:
        fn: takes the samples, floats `[N]`, N >= 1, a copy that it may change; and a `numpy.random.Generator`. It returns as many samples
            (integers or floats); sequences that have one value a sample (`aligned`) stay as they are.

    Raises:
        ArgumentError: `fn` is not a function.

    Example:
        >>> vlpipe.write("data/train", [{"audio": np.ones(4, np.float32)}])
        >>> flip = vlpipe.audio.Augment(lambda samples, generator: samples * generator.choice([-1, 1]))
        >>> [abs(x).tolist() for x, in vlpipe.make_dataset("data/train", augment=flip, seed=1).as_numpy_iterator()]
        [[[1.0, 1.0, 1.0, 1.0]]]
        >>> def seeded(samples, generator):  # for a library that draws from global states
        ...     random.seed(int(generator.integers(2**32)))
        ...     np.random.seed(int(generator.integers(2**32)))
        ...     return compose(samples, sample_rate=16000)
    """

    fn: Callable[[np.ndarray, np.random.Generator], Any]

    stage: ClassVar[str] = "samples"
    draws: ClassVar[int] = 2
    makes_fractions: ClassVar[bool] = True
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ArgumentError(f"Augment: came as {self.fn!r:.100}, expected a function of samples [N] and a numpy.random.Generator.")

    def __repr__(self) -> str:
        return f"Augment({self.name})"

    @property
    def name(self) -> str:
        """Of the function: an address, as Python shows it, would differ in every process."""
        return str(getattr(self.fn, "__qualname__", type(self.fn).__name__))

    def __call__(self, samples: np.ndarray, draws: np.ndarray, number: int) -> np.ndarray:
        """The augmented waveform, in the shape and dtype of the samples.

        Args:
            samples: floats `[N]` or `[N, 1]`.
            draws: int64 `[2]`, random numbers below 2**32, which seed the generator.
            number: the id of the record, for errors.

        Raises:
            ArgumentError: the function fails, or does not return N numbers.
        """
        if not samples.size:
            return samples
        generator = np.random.default_rng([int(number) for number in draws])
        try:
            result = np.asarray(self.fn(samples.reshape(-1).copy(), generator))
        except Exception as error:  # the user's function may raise anything
            raise ArgumentError(
                f"{self!r}: record with id {number}: fails for {samples.dtype} [{samples.size}] ({type(error).__name__}: {error}). It is "
                "called with samples [N] and a numpy.random.Generator."
            ) from error
        if result.shape != (samples.size,) or result.dtype.kind not in "iuf":
            raise ArgumentError(
                f"{self!r}: record with id {number}: returns {result.dtype} {list(result.shape)}, expected {samples.size} samples, as many "
                "as it gets, in integers or floats. Cut, pad or convert what it returns."
            )
        with np.errstate(over="ignore"):  # what is too great for the dtype becomes infinite, as in the graph; features name the record
            return result.astype(samples.dtype).reshape(samples.shape)
