"""Pictures and sounds inside the page, as data: addresses of limited size."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import numpy as np

from vlpipe.errors import import_extra
from vlpipe.reporting.markup import Html, tag

MAX_SECONDS = 10
_MAX_COLUMNS, _MAX_ROWS = 640, 128
_LARGEST = 1e290  # sums of larger numbers can overflow


def require_pictures() -> Any:
    """matplotlib's colour maps and its writer of PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    import_extra("matplotlib", extra="plot", needed_for="vlpipe report with pictures of records (--records 0 leaves them out)")
    from matplotlib import image

    return image


def spectrogram(frames: np.ndarray, alt: str) -> Html:
    """A picture of frames: time from left to right, the first dimension at the bottom, dark for small values.

    Args:
        frames: `[T, d]`, T and d > 0; values that are not finite are drawn as the least.
        alt: what the picture shows.
    """
    small = _averaged(_averaged(_finite(frames), _MAX_COLUMNS).T, _MAX_ROWS)
    low, high = np.percentile(small, [1, 99])  # a single click would make everything else dark
    content = io.BytesIO()
    picture = np.clip((small - low) / ((high - low) or 1), 0, 1)
    require_pictures().imsave(content, picture, vmin=0, vmax=1, cmap="magma", origin="lower", format="png")
    height = min(256, max(64, 2 * small.shape[0]))
    address = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return tag("img", src=Html(address), alt=alt, width=640, height=height, style=f"height:{height}px")


def player(samples: np.ndarray, sample_rate: int, most_bytes: int, label: str) -> tuple[Html, float]:
    """An audio player for the beginning of a waveform, as a WAV file of 16 bits.

    Args:
        samples: float32 `[N]` in [-1, 1], N > 0.
        sample_rate: in Hz.
        most_bytes: maximum size of the samples.
        label: what it plays.

    Returns:
        The player, and how many seconds it plays.
    """
    count = min(len(samples), MAX_SECONDS * sample_rate, most_bytes // 2)
    stored = np.clip(np.rint(np.nan_to_num(samples[:count]).astype(np.float64) * 32768), -32768, 32767).astype("<i2")
    content = io.BytesIO()
    with wave.Wave_write(content) as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(stored.tobytes())
    address = f"data:audio/wav;base64,{base64.b64encode(content.getvalue()).decode()}"
    return tag("audio", controls=True, preload="none", src=Html(address), aria_label=label), count / sample_rate


def as_samples(values: np.ndarray) -> np.ndarray:
    """Stored samples as float32 in [-1, 1]: integers are divided by 2**(bits - 1), as `make_dataset` does; floats stay."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    half = 2.0 ** (8 * values.dtype.itemsize - 1)
    return ((values.astype(np.float64) - (half if values.dtype.kind == "u" else 0)) / half).astype(np.float32)


def _finite(frames: np.ndarray) -> np.ndarray:
    finite = np.isfinite(frames)
    least = frames[finite].min() if finite.any() else 0
    return np.clip(np.where(finite, frames, least).astype(np.float64), -_LARGEST, _LARGEST)


def _averaged(frames: np.ndarray, most: int) -> np.ndarray:
    """At most this many rows, each the mean of equally many consecutive ones."""
    if len(frames) <= most:
        return frames
    starts = np.unique(np.linspace(0, len(frames), most, endpoint=False).astype(int))
    sizes = np.diff([*starts, len(frames)])
    return np.add.reduceat(frames, starts, axis=0) / sizes[:, None]
