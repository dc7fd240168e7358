"""Small SVG charts, drawn with a few lines and coloured by the style of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlpipe.inspection.histogram import Bins
from vlpipe.reporting.markup import Html, join, number, tag

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 8, 36
_MAX_POINTS = 640
_MAX_MARKS = 64
_LARGEST = 1e290  # differences of larger numbers can overflow


def figure(chart: Html, caption: str) -> Html:
    """A chart or picture with its caption."""
    return tag("figure", chart, tag("figcaption", caption))


def histogram(bins: Bins, alt: str, *, marks: Sequence[int] = (), other: Sequence[float] = ()) -> Html:
    """Bars for the sequences in each bin.

    Args:
        bins: of lengths; at least one.
        alt: what the chart shows, for readers who do not see it.
        marks: lengths at which a vertical line stands.
        other: heights of a second histogram with the same bins, drawn as an outline.
    """
    first, width, count = bins.first[0], bins.width, len(bins.first)
    top = max(1, *bins.records, *other)
    step = (_WIDTH - _LEFT - _RIGHT) / count
    tops = [_y(records / top) for records in bins.records]
    bars = [
        tag("rect", x=f"{_LEFT + step * k:.1f}", y=f"{y:.1f}", width=f"{max(0.5, step - 0.5):.1f}", height=f"{_y(0) - y:.1f}", class_="bar")
        for k, y in enumerate(tops)
    ]
    shown = marks if len(marks) <= _MAX_MARKS else ()
    at = [_LEFT + step * (mark + 1 - first) / width for mark in shown if first <= mark + 1 <= first + width * count]
    lines = [tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=_TOP, y2=f"{_y(0):.1f}", class_="mark") for x in at]
    corners = [(_LEFT + step * (k + side), _y(height / top)) for k, height in enumerate(other) for side in (0, 1)]
    outline = [tag("path", d=_path(corners), class_="other")] if corners else []
    return _chart(alt, [*bars, *lines, *outline], (first, first + width * count - 1), (0, top))


def curve(mean: np.ndarray, deviation: np.ndarray, alt: str) -> Html:
    """A line for the mean of each dimension in a band of one deviation; dimensions that are not finite are left out.

    Args:
        mean, deviation: float64 `[d]`.
        alt: what the chart shows.
    """
    known = np.flatnonzero(np.isfinite(mean) & np.isfinite(deviation))
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), _MAX_POINTS)).astype(int))] if len(known) else known
    if not len(chosen):
        return _chart(alt, [], (0, max(0, len(mean) - 1)), (0, 1))
    with np.errstate(over="ignore"):
        below, above = mean[chosen] - deviation[chosen], mean[chosen] + deviation[chosen]
    least, greatest = float(np.clip(below.min(), -_LARGEST, _LARGEST)), float(np.clip(above.max(), -_LARGEST, _LARGEST))
    height = greatest - least or 1.0
    x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * chosen / max(1, len(mean) - 1)
    y = [[_y(float((value - least) / height)) for value in np.clip(values, least, greatest)] for values in (below, above, mean[chosen])]
    edge = [*zip(x, y[1], strict=True), *reversed(list(zip(x, y[0], strict=True)))]
    parts = [tag("path", d=Html(_path(edge) + "Z"), class_="band"), tag("path", d=_path(list(zip(x, y[2], strict=True))), class_="curve")]
    if len(chosen) == 1:
        parts.append(tag("circle", cx=f"{x[0]:.1f}", cy=f"{y[2][0]:.1f}", r=3, class_="bar"))
    return _chart(alt, parts, (0, max(0, len(mean) - 1)), (least, greatest))


def envelope(values: np.ndarray, alt: str) -> Html:
    """The least and greatest value of each stretch of a series, such as the samples of a waveform.

    Args:
        values: `[T]`, T > 0; those that are not finite count as 0.
        alt: what the chart shows.
    """
    finite = np.clip(np.where(np.isfinite(values), values, 0).astype(np.float64), -_LARGEST, _LARGEST)
    starts = np.unique(np.linspace(0, len(finite), min(len(finite), _MAX_POINTS), endpoint=False).astype(int))
    low, high = np.minimum.reduceat(finite, starts), np.maximum.reduceat(finite, starts)
    least, greatest = float(low.min()), float(high.max())
    scale = (greatest - least) or 1.0
    x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * starts / max(1, len(finite) - 1)
    upper = [(a, _y((b - least) / scale) - 0.5) for a, b in zip(x, high.tolist(), strict=True)]
    lower = [(a, _y((b - least) / scale) + 0.5) for a, b in zip(x, low.tolist(), strict=True)]
    return _chart(
        alt, [tag("path", d=Html(_path([*upper, *reversed(lower)]) + "Z"), class_="wave")], (0, len(finite) - 1), (least, greatest)
    )


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _path(points: Sequence[tuple[float, float]]) -> Html:
    """The data of a path: markup, so that it is not shortened as texts are."""
    return Html("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points))


def _chart(alt: str, parts: list[Html], x: tuple[int, int], y: tuple[float, float]) -> Html:
    bottom = _y(0)
    axis = tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{bottom:.1f}", y2=f"{bottom:.1f}", class_="axis")
    labels = [
        tag("text", number(x[0]), x=_LEFT, y=_HEIGHT - 14),
        tag("text", number(x[1]), x=_WIDTH - _RIGHT, y=_HEIGHT - 14, text_anchor="end"),
        tag("text", number(y[0]), x=_LEFT - 6, y=f"{bottom:.1f}", text_anchor="end"),
        tag("text", number(y[1]), x=_LEFT - 6, y=_TOP + 10, text_anchor="end"),
    ]
    return tag("svg", join([axis, *parts, *labels]), viewBox=f"0 0 {_WIDTH} {_HEIGHT}", width=_WIDTH, role="img", aria_label=alt)
