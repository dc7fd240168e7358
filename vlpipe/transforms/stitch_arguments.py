"""The checks of what `stitch` is given, with the place of each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError
from vlpipe.transforms.windows import Windows


def integers(name: str, values: Any) -> np.ndarray:
    """int64 `[n]`: an argument of `stitch`.

    Raises:
        ArgumentError: the values are something else, such as floats.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(())
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise ArgumentError(f"stitch: {name} came as {values!r:.100}, expected a list or an array of integers, one for each window.")
    return array.astype(np.int64)


def arrays(outputs: Any) -> list[np.ndarray]:
    """The outputs of all windows: numbers, of the same shape but for the frames.

    Raises:
        ArgumentError: an output holds something else, or is of another shape; the message names its window.
    """
    found: list[np.ndarray] = []
    try:
        for output in outputs:
            found.append(np.asarray(output))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"stitch: the output of window {len(found)} is no array ({error}), expected frames [T', ...].") from error
    for number, array in enumerate(found):
        if array.dtype.kind in "OSUMm" or array.dtype.names:
            raise ArgumentError(f"stitch: the output of window {number} holds {array.dtype}, expected numbers.")
        first = found[0]
        if array.ndim != first.ndim or array.shape[1:] != first.shape[1:]:
            raise ArgumentError(
                f"stitch: the output of window {number} has the shape {list(array.shape)}, that of window 0 {list(first.shape)}; expected "
                "the same shape but for the frames. Stitch the outputs of one model, and each output of a model alone."
            )
    return found


def frames_of(
    lengths: Any, ids: np.ndarray, starts: np.ndarray, available: list[Any], windows: Windows | None
) -> tuple[dict[int, int], list[int]]:
    """The frames of each record by its id, in the order of the ids; and the frames of each window.

    Args:
        available: input frames that the output of each window covers.
    """
    totals = _by_record(lengths, ids, windows, starts)
    if isinstance(totals, np.ndarray):
        frames = totals.tolist()
        totals = dict.fromkeys(np.unique(ids).tolist(), 0)
        for number, start, count in zip(ids.tolist(), starts.tolist(), frames, strict=True):
            totals[number] = max(totals[number], start + count)
        _check_starts(ids, starts, totals)
        return totals, frames
    _check_starts(ids, starts, totals)
    longest = available if windows is None else [windows.frames] * len(available)
    return totals, [
        min(totals[number] - start, int(most)) for number, start, most in zip(ids.tolist(), starts.tolist(), longest, strict=True)
    ]


def _by_record(lengths: Any, ids: np.ndarray, windows: Windows | None, starts: np.ndarray) -> dict[int, int] | np.ndarray:
    """`lengths` by id; an array where they are those of the windows."""
    if not isinstance(lengths, Mapping):
        return _from_array(integers("lengths", lengths), ids, windows, starts)
    totals = {integer("stitch: an id in lengths", key, -(2**63)): integer(f"stitch: lengths[{key!r}]", lengths[key], 0) for key in lengths}
    missing = [number for number in np.unique(ids).tolist() if number not in totals]
    if missing:
        raise ArgumentError(
            f"stitch: lengths has {len(totals)} entries, none for id {missing[0]}; expected one for each of the {len(set(ids.tolist()))} "
            "records."
        )
    return dict(sorted(totals.items()))


def _from_array(values: np.ndarray, ids: np.ndarray, windows: Windows | None, starts: np.ndarray) -> dict[int, int] | np.ndarray:
    if (values < 0).any():
        place = int(np.argmax(values < 0))
        raise ArgumentError(f"stitch: lengths[{place}] is {values[place]}, expected a number of frames, 0 or more.")
    found = np.unique(ids)
    is_by_id = np.array_equal(found, np.arange(len(values)))
    too_long = np.zeros(len(values), bool) if windows is None else values > windows.frames
    if is_by_id and (len(values) != len(ids) or too_long.any()):
        return dict(enumerate(values.tolist()))
    if len(values) != len(ids):
        raise ArgumentError(
            f"stitch: lengths has {len(values)} values for {len(ids)} windows of {len(found)} records; expected one for each window "
            '(x["lengths"]), or for each record if their ids are 0, 1, 2, ... Where they are others, or a record has no window, pass a '
            "dict {id: frames}."
        )
    if too_long.any():
        place = int(np.argmax(too_long))
        raise ArgumentError(
            f"stitch: lengths[{place}] is {values[place]}, but a window has at most {windows.frames if windows else 0} frames. Pass the "
            'lengths of the windows (x["lengths"]), or those of the records as a dict {id: frames}.'
        )
    if is_by_id and (starts.any() or not np.array_equal(values[ids], values)):
        raise ArgumentError(
            f"stitch: lengths has {len(values)} values for as many windows as records, which may be those of the windows or of the "
            "records. Pass a dict {id: frames}."
        )
    return dict(enumerate(values.tolist())) if is_by_id else values


def _check_starts(ids: np.ndarray, starts: np.ndarray, totals: dict[int, int]) -> None:
    for window, (number, start) in enumerate(zip(ids.tolist(), starts.tolist(), strict=True)):
        if start < 0 or start > max(0, totals[number] - 1):
            raise ArgumentError(
                f"stitch: window {window} starts at frame {start}, but the record with id {number} has {totals[number]} frames. Pass "
                "x['start'] of the same windows, and the lengths of the whole records."
            )


def check_alignment(starts: np.ndarray, windows: Windows | None, hop: int) -> None:
    """Refuse windows that begin between two output frames.

    Raises:
        ArgumentError: there is one.
    """
    context = None if windows is None else windows.context
    alignment = hop if context is None else context.alignment
    wrong = np.flatnonzero(starts % alignment)
    if len(wrong):
        raise ArgumentError(
            f"stitch: window {wrong[0]} starts at frame {starts[wrong[0]]}, no multiple of {alignment}, so its output frames lie between "
            'those of other windows. Use windows whose hop is a multiple of the stride of the model, with tail="keep" or "pad" and without '
            "jitter; or vlpipe.Windows.exact."
        )


def check_counts(outputs: list[np.ndarray], frames: list[int], stride: Fraction, windows: Windows | None) -> None:
    """Refuse outputs with fewer frames than the model makes of their windows. More are padding.

    Raises:
        ArgumentError: there is one.
    """
    if windows is not None and windows.context is not None:
        for window, (output, count, expected) in enumerate(
            zip(outputs, frames, np.asarray(windows.context.counts(np.array(frames, np.int64))).tolist(), strict=True)
        ):
            if len(output) < expected:
                raise ArgumentError(
                    f"stitch: the output of window {window} has {len(output)} frames; of a window of {count} frames the model of "
                    f"Windows.exact makes {expected}. Pass the outputs of that model, and the lengths of the same windows."
                )
        return
    # A model that makes c frames of n looks at more than n - c * stride at once; of so few it makes none.
    reach = [count - len(output) * stride for output, count in zip(outputs, frames, strict=True)]
    most = max(reach, default=Fraction(0))
    for window, (output, count) in enumerate(zip(outputs, frames, strict=True)):
        if 0 < count <= most and len(output):
            place = reach.index(most)
            raise ArgumentError(
                f"stitch: the output of window {place} has {len(outputs[place])} frames for a length of {frames[place]} with hop={stride}; "
                f"a model that makes so few has none for window {window}, of length {count}, but there are {len(output)}. Pass the lengths "
                'of the same windows; or windows with tail="shift" or "drop".'
            )
