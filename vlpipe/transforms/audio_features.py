"""Audio features as a transform: those of `vlpipe.audio`, computed in the graph for all waveforms of a batch together.

The waveforms stay concatenated, in the dtype in which they are stored: it is narrow, and the samples of a batch do not fit the cache. Each
is padded with zeros to whole blocks of H samples, H from one frame to the next, so that every frame is a run of consecutive blocks. What
is wider (float64, spectra) exists for a portion of the frames only. Spectra are computed in float64, as by NumPy: in float32 the rounding
of a loud tone exceeds the energy of the quiet bands beside it (a log-mel value of a full-scale sine differs by up to 1.6e-4 of itself),
and takes only a quarter less time.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlpipe.audio.decoding import resampled_lengths, resampler
from vlpipe.audio.features import MAX_AMPLITUDE, MFCC, SLOPE_WEIGHTS, Feature, LogMel, filters_of
from vlpipe.audio.mel import cosines, hann
from vlpipe.errors import ArgumentError
from vlpipe.storage.schema import Sequence

if TYPE_CHECKING:
    import tensorflow as tf

# Points of all Fourier transforms that are computed together: the spectra of 2**20 leave the cache, and take a quarter more time.
_PORTION = 1 << 18
_REGISTER = 16  # float32 in the widest vector register
_LEAST_FLOAT32 = 1e-30  # smaller energies soon lose digits


@dataclass(frozen=True, eq=False)
class WaveformFeatures:
    """The features of a sequence that is a waveform.

    Attributes:
        features: what is computed.
        rate: sample rate of the waveforms in Hz: they are resampled where it is not that of the features.
    """

    features: Feature
    rate: int

    @classmethod
    def of(cls, features: Feature, name: str, field: Sequence, *, rates: tuple[int, ...], decoded: bool) -> WaveformFeatures:
        """The features of the sequence `name`.

        Args:
            field: as the schema has it.
            rates: the sample rates in Hz that are known: several of datasets that were opened together, none where nobody says it.
            decoded: the waveforms are decoded from audio files, so that they can be resampled.

        Raises:
            ArgumentError: the sequence is no waveform, its values have no known range, or it has another rate and is not decoded.
            AudioError, MissingExtraError: it cannot be resampled.
        """
        kind = type(features).__name__
        if field.dimensions not in ((), (1,)):
            raise ArgumentError(
                f'transform: {kind} takes a waveform, [N] or [N, 1], but "{name}" has frames {list(field.dimensions)}. Name the waveform, '
                "features=..., or leave transform out."
            )
        if field.dtype in ("int64", "uint64"):
            raise ArgumentError(
                f'transform: {kind} scales integers to [-1, 1] by the range of their dtype, but "{name}" is stored as {field.dtype}, which '
                'says nothing about it. Pass the dtype of the samples, such as layout=vlpipe.layouts.int_list(KEY, d=1, dtype="int16").'
            )
        known = next((rate for rate in rates if rate != features.sample_rate), features.sample_rate)
        if len(rates) > 1:
            raise ArgumentError(
                f"transform: {kind} has sample_rate={features.sample_rate}, but of the datasets that are read together "
                f'"{name}" is stored at {" and ".join(map(str, rates))} Hz. Store all at one rate, or read them one by one.'
            )
        if known != features.sample_rate:
            if not decoded:
                raise ArgumentError(
                    f'transform: {kind} has sample_rate={features.sample_rate}, but "{name}" is stored at {known} Hz. Pass '
                    f"{kind}(sample_rate={known}), or store the recordings at {features.sample_rate} Hz."
                )
            resampler(known, features.sample_rate)
        return cls(features, known)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Shape of a frame of the features."""
        return (self.features.dim,)

    @property
    def identity(self) -> str:
        """The settings, equal for equal features: 25 ms are 25.0 ms."""
        values = self.features.settings() | {"rate": self.rate}
        return ", ".join(f"{name}={value if isinstance(value, str) or value is None else float(value)}" for name, value in values.items())

    @property
    def is_resampled(self) -> bool:
        """Whether the waveforms have another rate than the features."""
        return self.rate != self.features.sample_rate

    def heard(self, samples: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the samples at the rate of the features, of waveforms of these numbers of samples as stored."""
        return resampled_lengths(samples, self.rate, self.features.sample_rate) if self.is_resampled else samples

    def __call__(self, waveforms: tf.RaggedTensor, ids: tf.Tensor) -> tf.RaggedTensor:
        """The features, float32 `[B, None, dim]`.

        Args:
            waveforms: `[B, None]` or `[B, None, 1]`, at the rate of the features: floats, or integers that `are_narrow` as they are stored.
            ids: int64 `[B]`, to name a record in an error.

        Raises:
            tf.errors.InvalidArgumentError: while iterating, a sample is not finite or beyond 1e9.
        """
        import tensorflow as tf

        waveforms = waveforms.with_values(tf.reshape(waveforms.values, [-1]))
        samples, hop = waveforms.row_lengths(), self.features.hop
        blocks = self._blocks(samples)
        missing = blocks * hop - samples
        zeros = tf.RaggedTensor.from_row_lengths(tf.zeros([tf.reduce_sum(missing)], waveforms.dtype), missing, validate=False)
        values = tf.reshape(tf.concat([waveforms, zeros], 1).values, [-1, hop])
        return self.of_blocks(tf.RaggedTensor.from_row_lengths(values, blocks, validate=False), ids)

    def missing(self, samples: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the zeros behind waveforms of these numbers of samples that make whole blocks of them, for `of_blocks`."""
        frames = self.features.lengths(samples)
        zeros: np.ndarray = np.where(frames > 0, frames + self._blocks_of_frame - 1, 0) * self.features.hop - samples
        return zeros

    def in_blocks(self, waveform: tf.Tensor) -> tf.Tensor:
        """`[blocks, H]`: a single waveform `[N]` or `[N, 1]`, padded with zeros to whole blocks, for `of_blocks`."""
        import tensorflow as tf

        samples, hop = tf.size(waveform, tf.int64), self.features.hop
        missing = self._blocks(samples) * hop - samples
        return tf.reshape(tf.pad(tf.reshape(waveform, [-1]), [[0, missing]]), [-1, hop])

    def of_blocks(self, blocks: tf.RaggedTensor, ids: tf.Tensor) -> tf.RaggedTensor:
        """The features of waveforms `[B, None, H]` that are padded with zeros to whole blocks; otherwise as by a call."""
        import tensorflow as tf

        if blocks.dtype.is_floating:
            with tf.control_dependencies([self._in_range(blocks, ids)]):
                blocks = blocks.with_values(tf.identity(blocks.values))
        counts = tf.maximum(blocks.row_lengths() - (self._blocks_of_frame - 1), 0)
        firsts = tf.ragged.range(blocks.row_starts(), blocks.row_starts() + counts).values
        features = tf.RaggedTensor.from_row_lengths(self._in_portions(blocks.values, firsts), counts, validate=False)
        return _with_slopes(features, self.features.deltas) if isinstance(self.features, LogMel) else features

    def _blocks(self, samples: tf.Tensor) -> tf.Tensor:
        """int64: the blocks of waveforms of these numbers of samples; none of an empty one, else as many as its frames extend over."""
        import tensorflow as tf

        return tf.where(samples > 0, self._blocks_of_frame - tf.minimum(self.features.window - samples, 0) // self.features.hop, 0)

    @property
    def _blocks_of_frame(self) -> int:
        return -(-self.features.window // self.features.hop)

    def _in_portions(self, blocks: tf.Tensor, firsts: tf.Tensor) -> tf.Tensor:
        """float32 `[F, d]`: the features, without slopes, of the frames that begin with these blocks (int64 `[F]`)."""
        import tensorflow as tf

        of_blocks = functools.partial(_computed, self.features, tf.range(self._blocks_of_frame, dtype=tf.int64), blocks)
        if not isinstance(self.features, LogMel):
            return of_blocks(firsts)
        count, together = tf.size(firsts, tf.int64), _together(self.features)
        portions = tf.maximum(-(-count * _points(self.features) // _PORTION), 1)
        size = -(-count // (portions * together)) * together
        padded = tf.reshape(tf.pad(firsts, [[0, portions * size - count]]), [portions, size])
        size_of_frame = self.features.dim // (1 + self.features.deltas)
        spec = tf.TensorSpec([None, size_of_frame], tf.float32)
        values = tf.map_fn(of_blocks, padded, fn_output_signature=spec, parallel_iterations=1)
        return tf.reshape(values, [-1, size_of_frame])[:count]

    def _in_range(self, blocks: tf.RaggedTensor, ids: tf.Tensor) -> tf.Operation:
        """Compare all samples with the greatest amplitude."""
        import tensorflow as tf

        from vlpipe.storage.example import require

        samples, hop = tf.reshape(blocks.values, [-1]), self.features.hop

        def compared() -> tf.Tensor:
            return tf.abs(samples) < MAX_AMPLITUDE

        def message() -> tf.Tensor:
            position = tf.argmin(tf.cast(compared(), tf.int32))
            row = blocks.value_rowids()[position // hop]
            sample = tf.strings.as_string(position - hop * blocks.row_starts()[row])
            value = tf.strings.as_string(samples[position], shortest=True)
            parts = ["transform: record with id ", tf.strings.as_string(ids[row]), ": sample ", sample, " is ", value]
            return tf.strings.join(
                [*parts, f"; audio features need finite samples below {MAX_AMPLITUDE:g}. Leave the record out (select)."]
            )

        # Half the sum of all squares needs no array beside the samples, and is not below if one of them is too large or not finite.
        quiet = tf.nn.l2_loss(samples) < MAX_AMPLITUDE**2 / 4
        return require(tf.cond(quiet, lambda: True, lambda: tf.reduce_all(compared())), message)


def scaled(samples: tf.Tensor) -> tf.Tensor:
    """Samples as floats in [-1, 1], as `vlpipe.audio.load` returns them: integers are divided by 2**(bits - 1), floats stay."""
    import tensorflow as tf

    dtype = samples.dtype
    if dtype.is_floating:
        return samples if dtype.size >= 4 else tf.cast(samples, tf.float32)
    half = _half(dtype)
    # float32 does not hold all integers of 32 bits: as with the decoded samples of a file, the quotients are rounded to it.
    floats = tf.cast(samples, tf.float64 if dtype.size >= 4 else tf.float32)
    return tf.cast((floats - half if dtype.is_unsigned else floats) * (1 / half), tf.float32)


def are_narrow(dtype: str) -> bool:
    """Whether samples of a dtype can stay as they are stored: silence is 0, float32 holds each, and the window scales them for nothing."""
    return dtype in ("int8", "int16")


def _half(dtype: tf.DType) -> float:
    """Half the range of an integer dtype: the least sample of a signed one is -1 times this."""
    return 2.0 ** (8 * dtype.size - 1)


def _points(features: LogMel) -> int:
    """Points of the Fourier transform of a frame."""
    return 2 * (len(filters_of(features)) - 1)


def _with_slopes(features: tf.RaggedTensor, deltas: int) -> tf.RaggedTensor:
    """`[B, None, d * (1 + deltas)]`: each frame followed by how fast it changes, and how fast that changes."""
    import tensorflow as tf

    if not deltas:
        return features
    frames, rows = tf.range(tf.shape(features.values, tf.int64)[0]), features.value_rowids()
    first, last = (tf.gather(ends, rows) for ends in (features.row_starts(), features.row_limits() - 1))
    parts = [features.values]
    for _ in range(deltas):
        terms = [
            (tf.gather(parts[-1], tf.minimum(frames + k, last)) - tf.gather(parts[-1], tf.maximum(frames - k, first))) * weight
            for k, weight in SLOPE_WEIGHTS.items()
        ]
        parts.append(terms[0] + terms[1])
    return features.with_values(tf.concat(parts, 1))


def _computed(features: Feature, run: tf.Tensor, blocks: tf.Tensor, firsts: tf.Tensor) -> tf.Tensor:
    """float32 `[F, dim]`: the features of the frames that are a run of blocks from each of `firsts` (int64 `[F]`) on."""
    import tensorflow as tf

    samples = run.shape[0] * features.hop
    frames = tf.reshape(tf.gather(blocks, firsts[:, None] + run), [-1, samples])
    if not isinstance(features, LogMel):
        return tf.cast(scaled(frames[:, : features.window]), tf.float32)
    points = _points(features)
    frames = tf.pad(frames, [[0, 0], [0, points - samples]]) if samples < points else frames[:, :points]  # as stored: few bytes
    window = np.zeros(points)  # 0 for the samples behind the window
    window[: features.window] = hann(features.window)
    if frames.dtype.is_integer:
        window /= _half(frames.dtype)
    # What follows loses no digits in float32, except where the terms of a DCT cancel, or the floor is below its range.
    dtype = tf.float64 if isinstance(features, MFCC) or features.floor < _LEAST_FLOAT32 else tf.float32
    # As pairs of floats: TensorFlow converts and squares complex numbers one by one, and floats in vector registers.
    spectrum = tf.bitcast(tf.signal.rfft(tf.cast(frames, tf.float64) * window), tf.float64)
    squares = tf.bitcast(tf.square(tf.cast(spectrum, dtype)), tf.complex128 if dtype == tf.float64 else tf.complex64)
    powers = tf.math.real(squares) + tf.math.imag(squares)
    energies = tf.matmul(powers, tf.constant(filters_of(features), dtype))
    values = tf.math.log(tf.maximum(energies, tf.constant(features.floor, dtype)))
    if isinstance(features, MFCC):
        values = tf.matmul(values, tf.constant(cosines(features.mels, features.coefficients), dtype))
    return tf.cast(values, tf.float32)


def _together(features: LogMel) -> int:
    """A frame has the same bits in every batch if the number of frames is a multiple of this.

    TensorFlow multiplies a single row by another routine, and takes the logarithms of the values behind the last whole vector register
    one by one, by another one.
    """
    return max(2, _REGISTER // math.gcd(_REGISTER, features.mels))
