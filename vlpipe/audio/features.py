"""Features of a waveform: log-mel, MFCC, and frames of the waveform itself.

Each splits the waveform x[0 .. N-1] into T frames of W samples, one every H samples. The last frame is padded with zeros, so
that no sample at the end is lost:

    W = round(sample_rate * window_ms / 1000),  H = round(sample_rate * hop_ms / 1000)
    T = 0 if N = 0, else 1 + ceil(max(0, N - W) / H)

Features are computed in float64 and returned as float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from vlpipe.arguments import integer, number
from vlpipe.audio.mel import cosines, filters, hann
from vlpipe.errors import ArgumentError, AudioError

_MAX_MELS = 4096
_MINUTE_MS = 60_000
_MAX_WINDOW = 1 << 24  # samples
MAX_DELTAS = 2
SLOPE_WEIGHTS = {1: 0.1, 2: 0.2}  # of the differences x[t + k] - x[t - k], which are exactly 0 where nothing changes
MAX_AMPLITUDE = 1e9  # the powers of larger samples can overflow


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What all features have in common: frames of W samples, one every H samples."""

    sample_rate: int = 16000
    window_ms: float = 25.0
    hop_ms: float = 10.0

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        integer("sample_rate", self.sample_rate, 1, expected="a positive integer, in Hz")
        for name in ("window_ms", "hop_ms"):
            value = getattr(self, name)
            number(name, value, 0, _MINUTE_MS, expected="a number of milliseconds: at least one sample, at most a minute")
            if round(self.sample_rate * value / 1000) < 1:
                raise ArgumentError(
                    f"{name}: came as {value!r}, which is less than one sample at {self.sample_rate} Hz. Pass a longer time."
                )

        if max(self.window, self.hop) > _MAX_WINDOW:
            raise ArgumentError(
                f"window_ms: {self.window_ms!r} and hop_ms: {self.hop_ms!r} at {self.sample_rate} Hz are more than {_MAX_WINDOW} samples. "
                "Pass a shorter time, or check the sample rate."
            )

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def dim(self) -> int:
        """Numbers in a frame of the features: d of `[T, d]`."""
        raise NotImplementedError

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Compute the features of a mono waveform.

        Args:
            samples: floats `[N]` at `sample_rate`.

        Returns:
            float32 `[T, dim]`.

        Raises:
            AudioError: the waveform has another shape or dtype, or a sample is not finite or is beyond 1e9.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise AudioError(f"{self.kind}: came with {samples.dtype} {list(samples.shape)}, expected a mono waveform [N] of floats.")
        in_range = np.abs(samples) < MAX_AMPLITUDE
        if not in_range.all():
            first = int(np.argmin(in_range))
            raise AudioError(
                f"{self.kind}: sample {first} is {samples[first]}, expected finite samples below {MAX_AMPLITUDE:g}. Leave the "
                "recording out."
            )
        values = [self._of_frames(self._frames(samples))]
        for _ in range(getattr(self, "deltas", 0)):
            values.append(_slopes(values[-1]))
        return np.concatenate(values, axis=1).astype(np.float32)

    def lengths(self, samples: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the frames T of waveforms of these numbers of samples N."""
        samples = np.asarray(samples, np.int64)
        frames: np.ndarray = np.where(samples > 0, 1 - np.minimum(self.window - samples, 0) // self.hop, 0)
        return frames

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        count = int(self.lengths(np.array(len(samples))))
        padded = np.zeros(max(self.window, (count - 1) * self.hop + self.window), np.float64)
        padded[: len(samples)] = samples
        return np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop][:count]

    def _of_frames(self, frames: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The kind and its parameters as JSON values, from which `from_settings` makes the same features."""
        return {"kind": self.kind} | {
            name: value.item() if isinstance(value, np.generic) else value for name, value in asdict(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class Frames(Feature):
    """The waveform itself in frames `[T, W]`.

    Args:
        sample_rate: in Hz.
        window_ms: length of a frame in milliseconds.
        hop_ms: time from one frame to the next in milliseconds.

    Raises:
        ArgumentError: a parameter is out of range.

    Example:
        >>> vlpipe.audio.Frames(sample_rate=8000, window_ms=20, hop_ms=20)(np.zeros(8000, np.float32)).shape
        (50, 160)
    """

    kind: ClassVar[str] = "frames"

    @property
    def dim(self) -> int:
        """Samples in a frame."""
        return self.window

    def _of_frames(self, frames: np.ndarray) -> np.ndarray:
        return frames


@dataclass(frozen=True, kw_only=True)
class LogMel(Feature):
    """Log-mel energies `[T, mels]`.

    Each frame is multiplied by the periodic Hann window 0.5 - 0.5 cos(2 pi n / W) and transformed to its spectrum X. Filter m gives

        E[m] = sum over k of  w[m, k] |X[k]|**2,    feature = ln(max(E[m], floor)).

    w[m] is a triangle over frequency in Hz: 0 at edges m and m + 2, and 1 at edge m + 1. The mels + 2 edges are equidistant from
    `low_hz` to `high_hz` on the mel scale 2595 log10(1 + f / 700) (O'Shaughnessy 1987, as in HTK; librosa's `htk=True, norm=None`).
    The FFT length is the smallest power of two, at least W, for which no filter is empty.

    Args:
        sample_rate: in Hz.
        window_ms: length of a frame in milliseconds.
        hop_ms: time from one frame to the next in milliseconds.
        mels: number of filters, at most 4,096.
        low_hz: lower edge of the first filter in Hz.
        high_hz: upper edge of the last filter in Hz; None: half the sample rate.
        floor: minimum energy, so that the logarithm of silence is finite.
        deltas: 1: the slopes d of the features over time follow in each frame, `[T, 2 mels]`; 2: also those of d, `[T, 3 mels]`. As in HTK

                d[t] = sum over k = 1, 2 of  k (x[t + k] - x[t - k]) / 10,    with the first and the last frame repeated beyond the ends.

    Raises:
        ArgumentError: a parameter is out of range, or the band is too narrow for this many filters.

    Example:
        >>> vlpipe.audio.LogMel(sample_rate=16000)(np.zeros(16000, np.float32)).shape
        (99, 80)
    """

    mels: int = 80
    low_hz: float = 20.0
    high_hz: float | None = None
    floor: float = 1e-6
    deltas: int = 0

    kind: ClassVar[str] = "log_mel"

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("mels", self.mels, 1, _MAX_MELS)
        number("low_hz", self.low_hz, 0, expected="a frequency in Hz")
        high = number("high_hz", _upper_hz(self), 0, expected="a frequency in Hz")
        number("floor", self.floor, 0, expected="a positive energy")
        if not 0 <= self.low_hz < high <= self.sample_rate / 2 or self.floor <= 0:
            raise ArgumentError(
                f"low_hz={self.low_hz}, high_hz={high}, floor={self.floor}: expected 0 <= low_hz < high_hz <= {self.sample_rate / 2} "
                "(half the sample rate) and floor > 0."
            )
        object.__setattr__(self, "deltas", integer("deltas", self.deltas, 0, MAX_DELTAS))
        filters_of(self)

    @property
    def dim(self) -> int:
        """Number of filters, times 1 + `deltas`."""
        return self.mels * (1 + self.deltas)

    def _of_frames(self, frames: np.ndarray) -> np.ndarray:
        weights = filters_of(self)
        spectrum = np.fft.rfft(frames * hann(self.window), n=2 * (len(weights) - 1), axis=1)
        return np.log(np.maximum((spectrum.real**2 + spectrum.imag**2) @ weights, self.floor))

    def settings(self) -> dict[str, Any]:
        """As for `Frames`; `deltas` only where there are any, so that the settings of earlier datasets stay the same."""
        return {name: value for name, value in super().settings().items() if name != "deltas" or value}


@dataclass(frozen=True, kw_only=True)
class MFCC(LogMel):
    """Mel-frequency cepstral coefficients `[T, coefficients]`: the first coefficients of the orthonormal DCT-II of `LogMel`.

        c[i] = s[i] sum over m of  logmel[m] cos(pi i (m + 1/2) / mels),    s[0] = sqrt(1 / mels), else sqrt(2 / mels)

    Args:
        coefficients: number of coefficients including the zeroth, at most `mels`.
        sample_rate, window_ms, hop_ms, mels, low_hz, high_hz, floor, deltas: as in `LogMel`.

    Raises:
        ArgumentError: as `LogMel`, or `coefficients` is not from 1 to `mels`.

    Example:
        >>> vlpipe.audio.MFCC(sample_rate=16000)(np.zeros(16000, np.float32)).shape
        (99, 13)
    """

    mels: int = 40
    coefficients: int = 13

    kind: ClassVar[str] = "mfcc"

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("coefficients", self.coefficients, 1, self.mels, expected=f"an integer from 1 to {self.mels}, the number of mels")

    @property
    def dim(self) -> int:
        """Number of coefficients, times 1 + `deltas`."""
        return self.coefficients * (1 + self.deltas)

    def _of_frames(self, frames: np.ndarray) -> np.ndarray:
        return super()._of_frames(frames) @ cosines(self.mels, self.coefficients)


def _slopes(values: np.ndarray) -> np.ndarray:
    """float64 `[T, d]`: how fast values `[T, d]` change from frame to frame."""
    at, last = np.arange(len(values)), max(len(values) - 1, 0)
    terms = [(values[np.minimum(at + k, last)] - values[np.maximum(at - k, 0)]) * weight for k, weight in SLOPE_WEIGHTS.items()]
    slopes: np.ndarray = terms[0] + terms[1]
    return slopes


def filters_of(features: LogMel) -> np.ndarray:
    """The weights w of `LogMel`, float64 [K, mels], for an FFT of 2 (K - 1) points."""
    return filters(features.sample_rate, features.window, features.mels, features.low_hz, _upper_hz(features))


def _upper_hz(features: LogMel) -> float:
    return features.sample_rate / 2 if features.high_hz is None else features.high_hz


_CLASSES: dict[str, type[Feature]] = {entry.kind: entry for entry in (Frames, LogMel, MFCC)}


def from_settings(settings: dict[str, Any]) -> Frames | LogMel | MFCC:
    """Make the features that `settings()` describes; `vlpipe ingest` stores these settings in the metadata of a dataset.

    Args:
        settings: the kind ("frames", "log_mel" or "mfcc") and the parameters of its class.

    Raises:
        ArgumentError: the kind or a parameter is unknown, or a parameter is out of range.

    Example:
        >>> vlpipe.audio.from_settings({"kind": "log_mel", "mels": 40}).dim
        40
    """
    features: Any = _CLASSES.get(str(settings.get("kind"))) if isinstance(settings, dict) else None
    if features is None:
        raise ArgumentError(f"settings: came as {settings!r}, expected a dict whose kind is one of {', '.join(_CLASSES)}.")
    try:
        return features(**{name: value for name, value in settings.items() if name != "kind"})
    except TypeError as error:
        raise ArgumentError(f"settings: {error}; the kind {settings['kind']} has no such parameter.") from error
