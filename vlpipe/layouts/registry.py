"""The registry of published layouts by name, and layouts as JSON values."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from vlpipe.errors import ArgumentError
from vlpipe.layouts import published
from vlpipe.layouts.base import Frames, Layout, Listed, Number, Words

TABLE: dict[str, Callable[..., Layout]] = {
    function.__name__: function
    for function in (
        published.float_list,
        published.int_list,
        published.raw_bytes,
        published.serialized_tensor,
        published.ragged_rows,
        published.float_frames,
        published.byte_frames,
        published.audioset,
        published.youtube8m,
        published.encoded_audio,
    )
}
_LISTS = ("frames", "fields", "defaults")  # the attributes of a layout that hold parts
_PARTS = {part.__name__: part for part in (Frames, Number, Listed, Words)}


def named(layout: Any) -> Layout:
    """Return a layout unchanged, or look up the name of a layout that needs no arguments.

    Raises:
        ArgumentError: `layout` is neither.
    """
    if isinstance(layout, Layout):
        return layout
    if not isinstance(layout, str) or layout not in TABLE:
        raise ArgumentError(f"layout: came as {layout!r}, expected a layout of vlpipe.layouts, or one of {', '.join(TABLE)}.")
    parameters = inspect.signature(TABLE[layout]).parameters.values()
    if any(parameter.default is parameter.empty for parameter in parameters):
        raise ArgumentError(f'layout: "{layout}" has required arguments; pass layout=vlpipe.layouts.{layout}(...).')
    return TABLE[layout]()


def to_json(layout: Layout) -> dict[str, Any]:
    """Return the layout as JSON values, the input of `from_json`."""
    document = {**dataclasses.asdict(layout)}
    for name in _LISTS:
        document[name] = [[type(part).__name__, dataclasses.asdict(part)] for part in getattr(layout, name)]
    return document


def from_json(document: dict[str, Any]) -> Layout:
    """Return the layout from the result of `to_json`."""
    parts = {
        name: tuple(_PARTS[kind](**{key: _tupled(value) for key, value in values.items()}) for kind, values in document[name])
        for name in _LISTS
    }
    return Layout(**{**{name: _tupled(value) for name, value in document.items()}, **parts})


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
