"""Stitching: from the outputs of windows to one output a record."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError
from vlpipe.transforms.stitch_arguments import arrays, check_alignment, check_counts, frames_of, integers
from vlpipe.transforms.windows import Windows

Weights = Literal["mean", "hann"]


class _Window(NamedTuple):
    """One window: where it begins in its record, how many frames it has, and the output of the model."""

    start: int
    frames: int
    output: np.ndarray


def stitch(
    outputs: Any,
    ids: Any,
    starts: Any,
    *,
    lengths: Any,
    windows: Windows | None = None,
    hop: int = 1,
    weights: Weights = "mean",
) -> list[np.ndarray]:
    """Put the outputs of windows together, to one array for each record, in the order of their ids.

    An output frame that several windows have is their weighted mean; one that no window has is NaN. A record of T frames has
    ceil(T / hop) output frames: those at the end, which a model with padding="valid" does not make, are NaN. With `Windows.exact`, each
    frame is that of the one window that has all of its context, and a record has as many as the model makes of all its frames. With one
    vector a window, a record has the mean of its windows. A window that came twice (remainder="pad") counts once.

    Args:
        outputs: of all windows: `[N, T', ...]` or a list of N arrays `[T', ...]`, padded or not; or one vector each, `[N, C]` (taken as
            such if C is not the number of output frames of the longest window).
        ids: integers `[N]`, the record of each window: x["id"] of `make_dataset(windows=, ids=True)`.
        starts: integers `[N]`, the first frame of each: x["start"].
        lengths: in input frames: `[N]`, of each window (x["lengths"]); or of each record: a dict {id: frames}, such as {7: 310, 9: 95}; or
            `[R]` if the ids are 0 to R - 1. Records without any window (dropped as too short) are missing among the ids: pass the dict, and
            they are returned too, as NaN.
        windows: those of the dataset: `Windows.exact(...)`; others only say how long a window is, if `lengths` are those of the records.
        hop: input frames of one output frame, >= 1 (the total stride of the model); with `Windows.exact` that of the model counts. All
            windows begin at its multiples: their hop is one, and tail="keep" or "pad".
        weights: "mean": all alike; "hann": frames in the middle of a window count more than those at its ends.

    Raises:
        ArgumentError: the numbers of outputs, ids, starts and lengths differ, or do not fit each other; an output holds no numbers or is
            of another shape; a window begins at no multiple of `hop`; or with `Windows.exact` a window is missing. The message names the
            window, from 0.

    Example:
        >>> outputs = np.array([[0.0, 0, 0, 0], [2, 2, 2, 2]])  # of a record of 6 frames, windows of 4 every 2
        >>> [y.tolist() for y in vlpipe.stitch(outputs, ids=[7, 7], starts=[0, 2], lengths={7: 6})]
        [[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]]
    """
    hop = integer("stitch: hop", hop, 1)
    if weights not in get_args(Weights):
        raise ArgumentError(f"stitch: weights came as {weights!r}, expected one of {', '.join(map(repr, get_args(Weights)))}.")
    if windows is not None and not isinstance(windows, Windows):
        raise ArgumentError(
            f"stitch: windows came as {windows!r:.100}, expected vlpipe.Windows(...) or vlpipe.Windows.exact(...), or None."
        )
    found, ids, starts = arrays(outputs), integers("ids", ids), integers("starts", starts)
    if not len(found) == len(ids) == len(starts):
        raise ArgumentError(
            f"stitch: got {len(found)} outputs, {len(ids)} ids and {len(starts)} starts, expected one of each for a window."
        )
    stride = Fraction(hop) if windows is None or windows.context is None else windows.context.stride
    totals, frames = frames_of(lengths, ids, starts, [len(array) * stride if array.ndim else 0 for array in found], windows)
    is_vector = _are_vectors(found, frames, stride, windows)
    if not is_vector:
        check_alignment(starts, windows, hop)
        check_counts(found, frames, stride, windows)
    by_record: dict[int, dict[int, _Window]] = {number: {} for number in totals}
    for number, start, count, array in zip(ids.tolist(), starts.tolist(), frames, found, strict=True):
        by_record[number].setdefault(start, _Window(start, count, array))
    shape, dtype = (found[0].shape[not is_vector :], np.result_type(*found, np.float32)) if found else ((), np.dtype(np.float32))
    stitched = []
    for number, by_start in by_record.items():
        ordered = [by_start[start] for start in sorted(by_start)]
        if is_vector:
            stitched.append(np.mean([window.output for window in ordered], 0, dtype) if ordered else np.full(shape, np.nan, dtype))
        elif windows is not None and windows.context is not None:
            stitched.append(_exact(number, ordered, totals[number], windows.context, shape, dtype))
        else:
            stitched.append(_averaged(ordered, math.ceil(totals[number] / stride), stride, weights, shape, dtype))
    return stitched


def _are_vectors(outputs: list[np.ndarray], frames: list[int], stride: Fraction, windows: Windows | None) -> bool:
    """Whether outputs are one vector (or number) a window."""
    if not outputs or outputs[0].ndim != 1 or (windows is not None and windows.context is not None):
        return bool(outputs) and outputs[0].ndim == 0
    sizes = {len(output) for output in outputs}
    longest = max(frames) / stride
    return len(sizes) == 1 and not sizes & {math.floor(longest), math.ceil(longest)}


def _averaged(windows: list[_Window], count: int, stride: Fraction, weights: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    total, weight = np.zeros((count, *shape), np.float64), np.zeros((count, *(1 for _ in shape)), np.float64)
    for window in windows:
        begin = round(window.start / stride)
        rows = min(len(window.output), math.ceil(window.frames / stride), count - begin)
        share = np.ones(rows) if weights == "mean" else np.sin(np.pi * (np.arange(rows) + 0.5) / max(rows, 1)) ** 2
        share = share.reshape(-1, *(1 for _ in shape))
        total[begin : begin + rows] += share * window.output[:rows]
        weight[begin : begin + rows] += share
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: no window has the frame
        return (total / weight).astype(dtype)


def _exact(number: int, windows: list[_Window], total: int, context: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The output of a record whose windows overlap by the context of the model."""
    parts, done = [np.zeros((0, *shape), dtype)], 0
    for window in windows:
        count = int(context.counts(np.array([window.frames]))[0])
        begin = int(window.start / context.stride)
        first = begin if window.start == 0 else math.ceil((window.start + context.before) / context.stride)
        end = begin + count
        if window.start + window.frames < total:
            end = min(end, math.ceil((window.start + window.frames - context.after) / context.stride))
        if first > done:
            raise ArgumentError(_missing(number, done, context.stride))
        parts.append(window.output[done - begin : end - begin])
        done = max(done, end)
    if done < int(context.counts(np.array([total]))[0]):
        raise ArgumentError(_missing(number, done, context.stride))
    return np.concatenate(parts).astype(dtype)


def _missing(number: int, done: int, stride: Fraction) -> str:
    return (
        f"stitch: the record with id {number} has no window with the context of output frame {done} (input frame {int(done * stride)}). "
        'Pass the outputs of all windows, of make_dataset(windows=vlpipe.Windows.exact(...)) with remainder="keep" or "pad".'
    )
