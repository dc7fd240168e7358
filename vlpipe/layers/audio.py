"""Audio features inside the model, from waveforms: on the accelerator, and exact under any padding."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from vlpipe import audio
from vlpipe.audio.features import filters_of
from vlpipe.audio.mel import cosines, hann
from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, Reach, fill_padding, registered

_LEAST_FLOAT32 = 1e-37  # a smaller floor could become 0, and its logarithm infinite


@registered
class LogMel(MaskAware, keras.layers.Layer):
    """Log-mel energies of waveforms, as `vlpipe.audio.LogMel` computes them, each over its own samples only.

    A sequence of N real samples has the T frames that it has alone: its last frame is completed by zeros, whatever follows in the batch.
    Computed in float32: values differ from those of `vlpipe.audio.LogMel` (float64) by less than 1e-4 for speech and noise, and by up to
    2e-3 in bands that are far quieter than the loudest one, as beside a loud tone.

    Shapes: waveforms `[B, N, 1]` in [-1, 1], with a mask `[B, N]` (after `LengthMask`), in; `[B, T, mels]` with a mask `[B, T]` out, zero
    in the padding. Without a mask, all samples are real.

    Args:
        sample_rate, window_ms, hop_ms, mels, low_hz, high_hz, floor: as for `vlpipe.audio.LogMel`.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ArgumentError: an argument is out of range; or the inputs are not `[B, N, 1]`.

    Example:
        >>> from vlpipe.layers import LengthMask, LogMel
        >>> x = LengthMask()({"features": np.zeros((2, 16000, 1), "float32"), "lengths": np.array([16000, 4000])})
        >>> tuple(LogMel(sample_rate=16000, mels=40)(x).shape)
        (2, 99, 40)
    """

    _kind: ClassVar[type[audio.LogMel]] = audio.LogMel

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        mels: int = 80,
        low_hz: float = 20.0,
        high_hz: float | None = None,
        floor: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._take(
            {
                "sample_rate": sample_rate,
                "window_ms": window_ms,
                "hop_ms": hop_ms,
                "mels": mels,
                "low_hz": low_hz,
                "high_hz": high_hz,
                "floor": floor,
            }
        )

    def _take(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._feature = self._kind(**arguments)

    def get_config(self) -> dict[str, Any]:
        """The arguments, from which Keras makes the layer again."""
        return {**super().get_config(), **self._arguments}

    def output_frames(self, frames: Any) -> Any:
        window, hop = self._feature.window, self._feature.hop
        if isinstance(frames, int):
            return 1 + max(-((window - frames) // hop), 0) if frames > 0 else 0
        maximum, where = (np.maximum, np.where) if isinstance(frames, np.ndarray) else (ops.maximum, ops.where)
        return where(frames > 0, 1 + maximum(-((window - frames) // hop), 0), 0)

    def reach(self) -> Reach:
        return Reach(self._feature.window, Fraction(self._feature.hop))

    def sides(self) -> tuple[int, int]:
        return 0, self._feature.window - 1

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """`[B, T, mels]` for `[B, N, 1]`."""
        if len(input_shape) != 3 or input_shape[2] != 1:
            raise ArgumentError(
                f'{type(self).__name__} "{self.name}": called on {[*input_shape]}, expected waveforms [B, N, 1]. Add the last axis: '
                "keras.Input((None, 1))."
            )
        frames = input_shape[1]
        return input_shape[0], None if frames is None else max(self.output_frames(frames), 1), self._feature.dim

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        self.compute_output_shape(tuple(inputs.shape))
        x = ops.cast(inputs if mask is None else fill_padding(inputs, mask), "float32")[:, :, 0]
        window, hop, samples = self._feature.window, self._feature.hop, ops.shape(inputs)[1]
        count = self.output_frames(samples)
        count = max(count, 1) if isinstance(count, int) else ops.maximum(count, 1)
        # More zeros than any last frame lacks: how many it lacks depends on N, which a graph may not know.
        x = ops.pad(x, [[0, 0], [0, window + hop]])
        places = ops.expand_dims(ops.arange(count, dtype="int32") * hop, 1) + ops.expand_dims(ops.arange(window, dtype="int32"), 0)
        frames = ops.take(x, places, axis=1) * ops.convert_to_tensor(hann(window), dtype="float32")
        values = ops.cast(self._of_frames(frames), self.compute_dtype)
        return values if mask is None else fill_padding(values, self.compute_mask(inputs, mask))

    def _of_frames(self, frames: Any) -> Any:
        """float32 `[B, T, mels]`: log-mel energies of frames `[B, T, W]`, which the window has been applied to."""
        filters = filters_of(self._feature)
        real, imaginary = ops.rfft(frames, fft_length=2 * (len(filters) - 1))
        energies = ops.matmul(ops.square(real) + ops.square(imaginary), ops.convert_to_tensor(filters, dtype="float32"))
        return ops.log(ops.maximum(energies, max(self._feature.floor, _LEAST_FLOAT32)))


@registered
class MFCC(LogMel):
    """Mel-frequency cepstral coefficients of waveforms, as `vlpipe.audio.MFCC` computes them; see `LogMel`.

    Shapes: as for `LogMel`, with `[B, T, coefficients]` out.

    Args:
        coefficients: number of coefficients including the zeroth, at most `mels`.
        sample_rate, window_ms, hop_ms, mels, low_hz, high_hz, floor: as for `vlpipe.audio.MFCC`.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ArgumentError: as for `LogMel`.

    Example:
        >>> from vlpipe.layers import MFCC
        >>> tuple(MFCC(sample_rate=16000)(np.zeros((1, 16000, 1), "float32")).shape)
        (1, 99, 13)
    """

    _kind = audio.MFCC

    def __init__(self, *, mels: int = 40, coefficients: int = 13, **kwargs: Any) -> None:
        self._coefficients = coefficients
        super().__init__(mels=mels, **kwargs)

    def _take(self, arguments: dict[str, Any]) -> None:
        super()._take({**arguments, "coefficients": self._coefficients})

    def _of_frames(self, frames: Any) -> Any:
        matrix = cosines(self._arguments["mels"], self._coefficients)
        return ops.matmul(super()._of_frames(frames), ops.convert_to_tensor(matrix, dtype="float32"))
