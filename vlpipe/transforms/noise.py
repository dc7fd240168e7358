"""Noise that is added to waveforms: which recording, from which sample on, and how loud."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import google_crc32c
import numpy as np

from vlpipe.arguments import number, source_named
from vlpipe.errors import ArgumentError, DatasetError, counted
from vlpipe.sources.open import open_anywhere
from vlpipe.sources.records import Records
from vlpipe.storage.index import Index
from vlpipe.transforms.waveforms import interval, rounded, uniform

if TYPE_CHECKING:
    import tensorflow as tf

_LEAST_PEAK = 2.0**-24  # the greatest sample of recordings in usual units, also of float16, is between it and its inverse
MAX_NOISE_BYTES = 1 << 30  # 9 hours of 16 bits at 16 kHz; a graph that holds more than 2 GiB cannot be serialized


@dataclass(frozen=True, repr=False)
class AddNoise:
    """Adds noise from recordings to each waveform `[N]` or `[N, 1]`, other noise in every epoch.

    For each sequence one recording of the noise is drawn, each with equal probability whatever its length (of a mix, `vlpipe.mix`, with
    its rate), and from it N samples, from a place that is drawn too; a recording of fewer samples is repeated. They are multiplied by one
    factor and added, so that the ratio of the power (mean square) of the sequence to that of the added noise is a number of decibels with
    a uniform distribution between those of `snr_db`. Both powers are those of the N real samples: padding comes later. The sum is not
    clipped. A sequence stays as it is where it is silent (all zeros), or the noise drawn for it is, or a sample of it is not finite: there
    is no ratio then.

    All of this depends on (seed, epoch, record) alone, on the index of the noise, and on its files; each window and each copy of a record
    has its own noise. The unit of the noise does not matter, as its loudness follows from `snr_db`: integers and floats can be mixed.

    The noise is read once, with its checksums, when the dataset is made, and stays in memory as stored: 2 bytes a sample for int16, at most
    1 GiB. `plan.report()` says how much it is.

    Args:
        source: of the noise: anything that `vlpipe.open` takes, or what it returns. Its records have one waveform `[N]` or `[N, 1]`, of
            floats or signed integers; other fields are ignored. A sample rate that differs from that of the data is refused, where both
            are known (by `metadata["sample_rate"]`, the layout `encoded_audio`, or an audio feature as `transform`).
        snr_db: the least and the greatest signal-to-noise ratio in decibels, from -120 to 120.
        probability: with which a sequence gets noise, 0 to 1.
        features: name of the sequence of the source that has the noise; None: the only waveform.

    Raises:
        ArgumentError: a value is not allowed, the records have no waveform, or more samples than fit.
        VlpipeError: the source is missing or damaged; when the dataset is made, all of it is silent.

    Example:
        >>> vlpipe.write("data/train", [{"audio": np.ones(900, np.float32)}])
        >>> vlpipe.write("noise", [{"audio": np.random.normal(size=500).astype(np.float32)}])
        >>> noisy = vlpipe.make_dataset("data/train", augment=vlpipe.AddNoise("noise", snr_db=(20, 20)), seed=1)
        >>> [round(float(np.var(x - 1)), 3) for x, in noisy.as_numpy_iterator()]
        [0.01]
    """

    source: Any
    snr_db: tuple[float, float] = (5.0, 20.0)
    probability: float = 1.0
    features: str | None = None
    index: Index = field(init=False, compare=False)
    sequence: str = field(init=False, compare=False)

    stage: ClassVar[str] = "samples"
    draws: ClassVar[int] = 4
    makes_fractions: ClassVar[bool] = True
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "snr_db", interval("AddNoise: snr_db", self.snr_db))
        share = number("AddNoise: probability", self.probability, 0, 1, expected="a probability from 0 to 1")
        object.__setattr__(self, "probability", share)
        with source_named("AddNoise: source"):
            object.__setattr__(self, "index", open_anywhere(self.source))
        object.__setattr__(self, "sequence", _waveform_in(self.index, self.features))
        if not self.samples:
            raise ArgumentError(f'AddNoise: "{self.sequence}" of the source has no samples in {counted(len(self.index), "record")}.')
        if self.bytes > MAX_NOISE_BYTES:
            raise ArgumentError(
                f"AddNoise: the source has {self.samples:,} samples, {self.bytes / 2**30:.1f} GiB, and at most "
                f"{MAX_NOISE_BYTES / 2**30:g} GiB are kept in memory. Pass a part of it, such as "
                f"vlpipe.open(...).select(fraction={0.9 * MAX_NOISE_BYTES / self.bytes:.2g})."
            )

    def __repr__(self) -> str:
        return f"AddNoise({counted(len(self.index), 'recording')}, snr_db={self.snr_db}, probability={self.probability})"

    @property
    def samples(self) -> int:
        """Samples of all recordings of the noise."""
        return int(self.index.frames(self.sequence).sum())

    @property
    def bytes(self) -> int:
        """Bytes of memory that they take."""
        return self.samples * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype:
        """Of the samples in memory."""
        return np.dtype(Records(self.index).schema.sequences[self.sequence].dtype)

    @property
    def identity(self) -> str:
        """What of it decides what is delivered, for a resume state: the noise by the fingerprint of its index, not by its place."""
        rates = self._rates.astype("<f8").tobytes()
        mixed = "" if self.index.mixture is None else f"-{google_crc32c.value(rates):08x}"
        return f"AddNoise({self.index.fingerprint}{mixed} {self.sequence}, snr_db={self.snr_db}, probability={self.probability})"

    @property
    def _rates(self) -> np.ndarray:
        """float64 `[records]`: how often each recording comes, in proportion."""
        return np.ones(len(self.index)) if self.index.mixture is None else self.index.mixture.rates()

    def check_rate(self, rate: int | None, whose: str) -> None:
        """Compare the sample rates.

        Args:
            rate: that of the waveforms, in Hz; None: unknown.
            whose: says who has it, for the error.

        Raises:
            ArgumentError: both are known and differ.
        """
        other = next((own for own in self.index.sample_rates if own != rate), None)
        if rate is not None and other is not None:
            raise ArgumentError(
                f"AddNoise: the noise has {other} samples a second, but {whose} {rate}. Resample the noise (vlpipe.audio.resample) and "
                "write it again."
            )

    def load(self, samples: np.ndarray) -> Noise:
        """Read all recordings.

        Args:
            samples: `[samples]` of `dtype`, which is filled.

        Raises:
            DatasetError: a record is damaged, or a sample is not finite, which the message names; or all samples are 0.
        """
        counts = self.index.frames(self.sequence)
        ends = np.cumsum(counts)
        with Records(self.index) as records:
            for row in self.index.by_shard().tolist():
                values = np.asarray(records.values(row, [self.sequence])[self.sequence]).reshape(-1)
                if len(values) != counts[row]:
                    raise DatasetError(
                        f"{self.index.where(row)}: the noise has {len(values)} samples, but {counts[row]} were indexed. Index it again."
                    )
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    raise DatasetError(
                        f"{self.index.where(row)}: the noise has a sample that is not finite, expected finite ones. Leave the record out "
                        "(vlpipe.open(...).select)."
                    )
                samples[ends[row] - counts[row] : ends[row]] = _in_common_unit(values)
        if not samples.any():
            raise DatasetError(
                f"AddNoise: all {len(samples):,} samples of the noise are 0, so that there is nothing to add. Pass recordings of noise."
            )
        return Noise(samples, ends - counts, counts, _edges(np.where(counts > 0, self._rates, 0)))


class Noise(NamedTuple):
    """The samples of all recordings of noise: NumPy arrays, or the same as tensors.

    Attributes:
        samples: `[S]`, of one recording after another.
        starts: int64 `[records]`, where each begins.
        counts: int64 `[records]`, how many it has.
        edges: int64 `[records]`, ascending to 2**32: recording k is drawn by the numbers from edge k - 1 to edge k.
    """

    samples: Any
    starts: Any
    counts: Any
    edges: Any


def _in_common_unit(values: np.ndarray) -> np.ndarray:
    """The samples of a recording; of floats whose powers or factors would leave float32, a multiple by a power of two, which is exact."""
    peak = float(np.abs(values).max(initial=0)) if values.dtype.kind == "f" else 0.0
    if peak == 0 or _LEAST_PEAK <= peak <= 1 / _LEAST_PEAK:
        return values
    scaled: np.ndarray = np.ldexp(values.astype(np.float64), -int(np.frexp(peak)[1]))
    return scaled


def _edges(rates: np.ndarray) -> np.ndarray:
    ends = np.cumsum(rates)
    return np.ceil(ends / ends[-1] * 2**32).astype(np.int64)


def _waveform_in(index: Index, wanted: str | None) -> str:
    """The name of the waveform of a source that is wanted, or of the only one."""
    sequences = index.schema.sequences
    names: Iterable[str] = sequences if index.default_features is None else index.default_features
    if wanted is not None:
        names = [name for name in sequences if name == wanted]
    waveforms = [name for name in names if sequences[name].dimensions in ((), (1,)) and np.dtype(sequences[name].dtype).kind in "if"]
    scaled = [name for name in names if sequences[name].dimensions in ((), (1,)) and index.stored(name).scale is not None]
    found = list(dict.fromkeys([*waveforms, *scaled]))
    if len(found) != 1 or not index.access(found[0], as_feature=True).is_counted:
        expected = "one waveform" if wanted is None else f"the waveform {wanted!r}"
        raise ArgumentError(
            f"AddNoise: the source has the sequences {dict(sequences)}, expected {expected}, [N] or [N, 1], of floats or signed integers. "
            "Name it, vlpipe.AddNoise(..., features=NAME), write the noise as records with one waveform, or pass a layout: "
            "vlpipe.open(..., layout=...)."
        )
    return found[0]


def with_noise(augment: AddNoise, noise: Noise, samples: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """A waveform with noise.

    Args:
        noise: its samples, as tensors.
        samples: floats `[N]` or `[N, 1]`.
        draws: int64 `[4]`, random numbers below 2**32: for the recording, the place, the ratio, and whether there is noise.
    """
    import tensorflow as tf

    length, chosen = tf.shape(samples, tf.int64)[0], tf.searchsorted(noise.edges, draws[:1], side="right")[0]
    start, count = noise.starts[chosen], noise.counts[chosen]
    places = tf.where(count >= length, count - length + 1, count)  # a longer recording is cut, a shorter one repeated from anywhere
    first = draws[1] * places // 2**32
    added = tf.cond(
        count >= length,
        lambda: noise.samples[start + first : start + first + length],
        lambda: tf.gather(noise.samples, start + (first + tf.range(length)) % count),
    )
    added = tf.cast(tf.reshape(added, tf.shape(samples)), samples.dtype)
    energy, wanted = _energy(samples), _energy(added) * tf.pow(tf.constant(10.0, tf.float64), uniform(draws[2], augment.snr_db) / 10)
    factor = rounded(tf.sqrt(energy / wanted), samples.dtype)
    is_noisy = (tf.cast(draws[3], tf.float64) < augment.probability * 2**32) & (wanted > 0) & tf.math.is_finite(factor)
    return tf.where(is_noisy, samples + factor * added, samples)


def _energy(samples: tf.Tensor) -> tf.Tensor:
    """float64 scalar: the sum of the squares of the samples."""
    import tensorflow as tf

    return 2 * tf.nn.l2_loss(tf.cast(samples, tf.float64))  # without an array of the squares
