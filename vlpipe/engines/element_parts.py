"""The parts of a user's elements `(x, y, sample_weight, ...)`: their names, and which option pads each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf


class Known(NamedTuple):
    """How the user knows a part.

    Attributes:
        name: of a feature or label, in messages and as a key of the option.
        option: which pads it; None: it is a sample weight.
    """

    name: str
    option: str | None


def known_beside_x(rest: list[Any]) -> dict[str, Known]:
    """The parts after x, by their names in a flat batch: "y:0", "y:1", ... in the order of `tf.nest.flatten`.

    Args:
        rest: the second part of an element (labels), the third (sample weights, as Keras takes it), and further ones (padded as labels).
    """
    numbered = tf.nest.pack_sequence_as(rest, range(len(tf.nest.flatten(rest))))
    known = {}
    for position, part in enumerate(numbered):
        for number, path in _paths(part, ()):
            if position == 0:
                known[f"y:{number}"] = Known("/".join(path) or "label", "label_padding")
            elif position == 1:
                known[f"y:{number}"] = Known("/".join(("sample_weight", *path)), None)
            else:
                known[f"y:{number}"] = Known("/".join((f"part {position + 2}", *path)), "label_padding")
    return known


def _paths(structure: Any, path: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The numbers in a nested structure, each with its path."""
    if isinstance(structure, (Mapping, tuple, list)):
        for key, part in structure.items() if isinstance(structure, Mapping) else enumerate(structure):
            yield from _paths(part, (*path, str(key)))
    else:
        yield structure, path
