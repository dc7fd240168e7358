"""`shapes="static"`: few shapes, all known before reading, in place of three arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

from vlpipe.arguments import Default
from vlpipe.errors import ArgumentError

STATIC_BUCKETS = 8  # XLA compiles a model for each; as many as pad_to="boundary" has at most by itself


class Batched(NamedTuple):
    """The arguments that decide about the shapes of batches."""

    pad_to: Any
    remainder: Any
    buckets: Any


def batched(shapes: str, batching: str, chosen: Batched) -> Batched:
    """The arguments that `shapes` decides about; defaults become plain texts, because the values in states are compared with their types.

    Args:
        shapes, batching: as for `make_dataset`.
        chosen: the arguments of the user, or defaults.

    Raises:
        ArgumentError: shapes="static", and an argument that the user named says otherwise.
    """
    taken = _static(batching, chosen) if shapes == "static" else chosen
    return taken._replace(pad_to=str(taken.pad_to), remainder=str(taken.remainder))


def _static(batching: str, chosen: Batched) -> Batched:
    """Every batch of a bucket is padded to its boundary and has the same number of rows."""
    if batching in ("ragged", "same_length"):
        raise ArgumentError(
            f'shapes="static": batching={batching!r} makes a shape for every length. Use batching="bucket" or "pad", or leave shapes out.'
        )
    static = Batched("boundary", "pad", STATIC_BUCKETS if chosen.buckets is None and batching == "bucket" else chosen.buckets)
    for name in ("pad_to", "remainder"):
        value, expected = getattr(chosen, name), getattr(static, name)
        if value != expected and not isinstance(value, Default):
            raise ArgumentError(f'shapes="static": stands for {name}={expected!r}, but {name} is {value!r}. Leave {name} out, or shapes.')
    return static
