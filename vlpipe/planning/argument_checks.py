"""Checks of single arguments of `make_dataset`; each returns the value in the form in which `Options` keeps it.

Those of `class_weight`, `on_damage`, `label_padding`, `padding_value` and `augment` are beside what these stand for.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from vlpipe.arguments import MAX_FRAMES, integer, source_named
from vlpipe.errors import ArgumentError
from vlpipe.sources.conditions import nearest
from vlpipe.sources.open import open as open_source
from vlpipe.storage.paths import Opened

Called = TypeVar("Called", bound=Callable[..., Any])

NORMALIZE = ("utterance", "global")


def checked_buckets(buckets: Any) -> int | tuple[int, ...] | None:
    """Return `buckets` as None, a number, or a tuple of ascending inclusive upper lengths.

    Raises:
        ArgumentError: it is none of these.
    """
    if buckets is None:
        return None
    if isinstance(buckets, (int, np.integer)) and not isinstance(buckets, bool):
        return integer("buckets", buckets, 1)
    if not isinstance(buckets, Iterable) or isinstance(buckets, (str, bytes)):
        raise ArgumentError(f"buckets: came as {buckets!r}, expected a number of buckets, or a list of their inclusive upper lengths.")
    boundaries = tuple(integer("buckets", boundary, 1, MAX_FRAMES) for boundary in buckets)
    if not boundaries or any(after <= before for before, after in itertools.pairwise(boundaries)):
        raise ArgumentError(f"buckets: came as {list(boundaries)}, expected ascending upper lengths, such as [100, 200, 400].")
    return boundaries


def checked_check_finite(check_finite: Any) -> Any:
    """Return `check_finite`, unchanged.

    Raises:
        ArgumentError: it is neither of its two values nor None.
    """
    if check_finite is None or (isinstance(check_finite, str) and check_finite in ("error", "zero")):
        return check_finite
    raise ArgumentError(f'check_finite: came as {check_finite!r}, expected "error", "zero", or None for no check.')


def checked_range(length_range: Any) -> tuple[int, int | None]:
    """Return `length_range` as (shortest, longest); shortest is 0 where the user says None.

    Raises:
        ArgumentError: it is no such pair.
    """
    if not isinstance(length_range, (tuple, list)) or len(length_range) != 2:
        raise ArgumentError(f"length_range: came as {length_range!r}, expected (shortest, longest), such as (1, None).")
    shortest, longest = length_range
    shortest = 0 if shortest is None else integer("length_range[0]", shortest, 0)
    longest = None if longest is None else integer("length_range[1]", longest, 0)
    if longest is not None and longest < shortest:
        raise ArgumentError(f"length_range: came as {length_range!r}, expected shortest <= longest.")
    return shortest, longest


def checked_shard(shard: Any) -> tuple[int, int]:
    """Return `shard` as (rank, world).

    Raises:
        ArgumentError: it is no such pair.
    """
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise ArgumentError(f"shard: came as {shard!r}, expected (rank, world), such as (0, 8).")
    rank, world = shard
    rank, world = integer("shard[0]", rank, 0), integer("shard[1]", world, 1)
    if rank >= world:
        raise ArgumentError(f"shard: came as {shard!r}, expected a rank from 0 to {world - 1}.")
    return rank, world


def checked_normalize(normalize: Any) -> str | Opened | None:
    """Return None, a method, an open source, or the absolute path of statistics; being absolute, it never equals the name of a method.

    A list of datasets is opened as one source.

    Raises:
        ArgumentError: it is none of these.
    """
    if normalize is None or isinstance(normalize, Opened) or (isinstance(normalize, str) and normalize in NORMALIZE):
        return normalize
    if isinstance(normalize, (str, os.PathLike)) and os.path.exists(normalize):
        return os.path.abspath(os.fsdecode(normalize))
    several = list(normalize) if isinstance(normalize, (tuple, list)) else []
    if several and all(isinstance(item, (str, os.PathLike)) and os.path.exists(item) for item in several):
        with source_named("normalize"):
            return checked_normalize(several[0]) if len(several) == 1 else open_source(several)
    if isinstance(normalize, (dict, np.ndarray)) or any(isinstance(item, (float, int, tuple, list, np.ndarray)) for item in several):
        raise ArgumentError(
            "normalize: came as numbers, which could be variances or deviations, of one feature or another. Pass the dataset that they are "
            "of, or begin the model with keras.layers.Normalization(mean=..., variance=...)."
        )
    raise ArgumentError(
        f"normalize: came as {normalize!r}, expected one of None, {', '.join(map(repr, NORMALIZE))}, or a path that exists: a dataset "
        "directory, its vlpipe.json, or a file that `vlpipe stats SOURCE --json` wrote; or a list of datasets, for their statistics "
        "together; or an open source."
    )


def checked_names(option: str, names: Any) -> str | tuple[str, ...] | None:
    """Return the names of fields as None, one name, or a tuple.

    Args:
        option: the argument that has them, for an error.

    Raises:
        ArgumentError: they are none of these, or a name is there twice.
    """
    if names is None or isinstance(names, str):
        return names
    if isinstance(names, (tuple, list)) and names and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        return tuple(names)
    raise ArgumentError(f"{option}: came as {names!r}, expected the name of a field or a tuple of different names.")


def suggesting_names(function: Called) -> Called:
    """A function that also says which argument may have been meant where a call names one that it does not have.

    Its signature, and its type, are those of `function`, from which callers, `help()` and editors learn the names.
    """
    known = set(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*positional: Any, **named: Any) -> Any:
        unknown = next((name for name in named if name not in known), None)
        if unknown is not None:  # a TypeError, as Python raises it, which has no suggestion before version 3.13
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {unknown!r}{nearest(unknown, known)}")
        return function(*positional, **named)

    return cast(Called, call)
