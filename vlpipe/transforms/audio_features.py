"""Audio features as a transform: those of `vlpipe.audio`, computed in the graph for all waveforms of a batch together.

The waveforms stay concatenated. Each is padded with zeros to whole blocks of H samples, H from one frame to the next, so that every frame
is a run of consecutive blocks. Spectra are computed in float64, as by NumPy: in float32 the rounding of a loud tone exceeds the energy of
the quiet bands beside it (a log-mel value of a full-scale sine differs by up to 1.6e-4 of itself), and takes only a quarter less time.
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
_PORTION = 1 << 16
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
            waveforms: floats `[B, None]` or `[B, None, 1]`, at the rate of the features.
            ids: int64 `[B]`, to name a record in an error.

        Raises:
            tf.errors.InvalidArgumentError: while iterating, a sample is not finite or beyond 1e9.
        """
        import tensorflow as tf

        waveforms = waveforms.with_values(tf.reshape(waveforms.values, [-1]))
        with tf.control_dependencies([self._in_range(waveforms, ids)]):
            waveforms = waveforms.with_values(tf.identity(waveforms.values))
        window, hop = self.features.window, self.features.hop
        samples = waveforms.row_lengths()
        counts = tf.where(samples > 0, 1 - tf.minimum(window - samples, 0) // hop, 0)
        blocks_of_frame = -(-window // hop)
        blocks_of = tf.where(counts > 0, counts + blocks_of_frame - 1, 0)
        blocks = _blocks(waveforms, blocks_of, hop)
        if isinstance(self.features, LogMel):
            blocks = tf.cast(blocks, tf.float64)  # here, and not frame by frame: most samples are in several frames
        begins = tf.cumsum(blocks_of, exclusive=True)
        firsts = tf.ragged.range(begins, begins + counts).values
        features = tf.RaggedTensor.from_row_lengths(self._in_portions(blocks, firsts, blocks_of_frame), counts, validate=False)
        return _with_slopes(features, self.features.deltas) if isinstance(self.features, LogMel) else features

    def _in_portions(self, blocks: tf.Tensor, firsts: tf.Tensor, blocks_of_frame: int) -> tf.Tensor:
        """float32 `[F, d]`: the features, without slopes, of the frames that begin with these blocks (int64 `[F]`)."""
        import tensorflow as tf

        of_blocks = functools.partial(_computed, self.features, tf.range(blocks_of_frame, dtype=tf.int64), blocks)
        if not isinstance(self.features, LogMel):
            return of_blocks(firsts)
        count = tf.size(firsts, tf.int64)
        portions = tf.maximum(-(-count * _points(self.features) // _PORTION), 1)
        size = -(-count // portions)
        padded = tf.reshape(tf.pad(firsts, [[0, portions * size - count]]), [portions, size])
        size_of_frame = self.features.dim // (1 + self.features.deltas)
        spec = tf.TensorSpec([None, size_of_frame], tf.float32)
        values = tf.map_fn(of_blocks, padded, fn_output_signature=spec, parallel_iterations=1)
        return tf.reshape(values, [-1, size_of_frame])[:count]

    def _in_range(self, waveforms: tf.RaggedTensor, ids: tf.Tensor) -> tf.Operation:
        """Compare all samples with the greatest amplitude."""
        import tensorflow as tf

        from vlpipe.storage.example import require

        def compared() -> tf.Tensor:
            return tf.abs(waveforms.values) < MAX_AMPLITUDE

        def message() -> tf.Tensor:
            position = tf.argmin(tf.cast(compared(), tf.int32))
            row = waveforms.value_rowids()[position]
            sample = tf.strings.as_string(position - waveforms.row_starts()[row])
            value = tf.strings.as_string(waveforms.values[position], shortest=True)
            parts = ["transform: record with id ", tf.strings.as_string(ids[row]), ": sample ", sample, " is ", value]
            return tf.strings.join(
                [*parts, f"; audio features need finite samples below {MAX_AMPLITUDE:g}. Leave the record out (select)."]
            )

        # A sum takes a quarter of the time of comparing each sample, and is not below if one of them is not finite.
        few = tf.reduce_sum(tf.abs(waveforms.values)) < MAX_AMPLITUDE
        return require(tf.cond(few, lambda: True, lambda: tf.reduce_all(compared())), message)


def scaled(samples: tf.Tensor) -> tf.Tensor:
    """Samples as floats in [-1, 1], as `vlpipe.audio.load` returns them: integers are divided by 2**(bits - 1), floats stay."""
    import tensorflow as tf

    dtype = samples.dtype
    if dtype.is_floating:
        return samples if dtype.size >= 4 else tf.cast(samples, tf.float32)
    half = 2.0 ** (8 * dtype.size - 1)
    # float32 does not hold all integers of 32 bits: as with the decoded samples of a file, the quotients are rounded to it.
    floats = tf.cast(samples, tf.float64 if dtype.size >= 4 else tf.float32)
    return tf.cast((floats - half if dtype.is_unsigned else floats) * (1 / half), tf.float32)


def _blocks(waveforms: tf.RaggedTensor, counts: tf.Tensor, hop: int) -> tf.Tensor:
    """`[blocks, hop]`: the waveforms one after another, each padded with zeros to its number of blocks (int64 `[B]`)."""
    import tensorflow as tf

    missing = counts * hop - waveforms.row_lengths()
    zeros = tf.RaggedTensor.from_row_lengths(tf.zeros([tf.reduce_sum(missing)], waveforms.dtype), missing, validate=False)
    return tf.reshape(tf.concat([waveforms, zeros], 1).values, [-1, hop])


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
    count = tf.size(firsts, tf.int64)
    if isinstance(features, LogMel):
        firsts = tf.concat([firsts, tf.repeat(firsts[:1], -count % _together(features))], 0)
    frames = tf.reshape(tf.gather(blocks, firsts[:, None] + run), [-1, samples])
    if not isinstance(features, LogMel):
        return tf.cast(frames[:, : features.window], tf.float32)
    window = np.zeros(samples)
    window[: features.window] = hann(features.window)
    # Samples behind the window become 0, so that the transform may take them in, or cut them off.
    spectrum = tf.signal.rfft(frames * window, [_points(features)])
    # What follows loses no digits in float32, except where the terms of a DCT cancel, or the floor is below its range.
    dtype = tf.float64 if isinstance(features, MFCC) or features.floor < _LEAST_FLOAT32 else tf.float32
    if dtype == tf.float32:
        spectrum = tf.cast(spectrum, tf.complex64)
    powers = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    energies, floor = tf.matmul(powers, tf.constant(filters_of(features), dtype)), tf.constant(features.floor, dtype)
    # Slopes of silence are to be 0.
    values = tf.where(energies > floor, tf.math.log(tf.maximum(energies, floor)), tf.constant(np.log(features.floor), dtype))
    if isinstance(features, MFCC):
        values = tf.matmul(values, tf.constant(cosines(features.mels, features.coefficients), dtype))
    return tf.cast(values[:count], tf.float32)


def _together(features: LogMel) -> int:
    """A frame has the same bits in every batch if the number of frames is a multiple of this.

    TensorFlow multiplies a single row by another routine, and takes the logarithms of the values behind the last whole vector register
    one by one, by another one.
    """
    return max(2, _REGISTER // math.gcd(_REGISTER, features.mels))
