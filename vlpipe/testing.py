"""Assertions for the tests of a project that uses vlpipe: padding changes no answer, and a stopped run goes on as if it had not stopped.

vlpipe.testing.assert_padding_invariant(vlpipe.layers.mask_aware(model), plain=model)
vlpipe.testing.assert_resumes(make, plan)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.layers.testing import assert_padding_invariant

__all__ = ["assert_padding_invariant", "assert_resumes"]


def __dir__() -> list[str]:
    return list(__all__)


def assert_resumes(make: Callable[[Any], Any], plan: Any, *, epochs: int = 1, batches: int = 2) -> None:
    """Fail if a dataset that is resumed anywhere does not go on with the very batches of the run that was never stopped.

    Args:
        make: returns the dataset for a state, and for None the one of a new run, as
            `lambda state: vlpipe.make_dataset(..., repeat=True, seed=1, resume=state)` does, with whatever `map` comes after.
        plan: `vlpipe.plan(...)` of the same arguments.
        epochs: resume at every batch of so many epochs.
        batches: compare so many batches after each position; two cross the end of an epoch.

    Raises:
        AssertionError: a batch has other arrays, or there is none; the message names the position.
        ArgumentError: `epochs` or `batches` is below 1, or the plan cannot be resumed.

    Example:
        >>> import numpy as np, tempfile, vlpipe
        >>> from vlpipe.testing import assert_resumes
        >>> path = tempfile.mkdtemp() + "/data"
        >>> _ = vlpipe.write(path, ({"features": np.ones((n, 2), "float32"), "label": n} for n in (3, 5, 4)))
        >>> arguments = {"batch_size": 2, "seed": 1}
        >>> make = lambda state: vlpipe.make_dataset(path, repeat=True, resume=state, **arguments)
        >>> assert_resumes(make, vlpipe.plan(path, repeat=True, **arguments))
    """
    steps = plan.steps_per_epoch
    positions = integer("epochs", epochs, 1) * steps
    whole = list(itertools.islice(arrays(make(None)), positions + integer("batches", batches, 1)))
    for position in range(positions):
        epoch, batch = divmod(position, steps)
        resumed = list(itertools.islice(arrays(make(plan.state(epoch, batch))), batches))
        for ahead, want in enumerate(whole[position : position + batches]):
            place = f"assert_resumes: resumed at batch {batch} of epoch {epoch}, batch {ahead} after it"
            if ahead >= len(resumed):
                raise AssertionError(f"{place} is missing. Pass repeat=True, and the state as resume, to make_dataset.")
            for number, (got, wanted) in enumerate(zip(resumed[ahead], want, strict=True)):
                if got.dtype != wanted.dtype or not np.array_equal(got, wanted, equal_nan=got.dtype.kind == "f"):
                    raise AssertionError(
                        f"{place} has another array {number} ({wanted.dtype} {wanted.shape} in the run that was not stopped, {got.dtype} "
                        f"{got.shape} here). Pass the state as resume, the same seed, and no randomness of your own in map."
                    )


def arrays(dataset: Any) -> Iterator[list[Any]]:
    """Yield the arrays of each batch of a dataset; a ragged tensor has two."""
    import tensorflow as tf

    for batch in dataset:
        yield [np.asarray(part) for part in tf.nest.flatten(batch, expand_composites=True)]
