"""Audio files as float32 samples, through tensorflow-io or soundfile."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np

from vlpipe.audio.containers import Header, read_header
from vlpipe.errors import ArgumentError, AudioError, import_extra

_BLOCK = 1 << 18
_MAX_SAMPLES_A_BYTE = 1024  # silence in FLAC has some 400
_MAX_RESAMPLING = 1000  # from 1 Hz to 1 MHz soxr never ends; a header that says 1 Hz would fill the memory
# One sample of silence: decoding it proves that the native library loads.
_PROBE = b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x02\0\0\0\0\0"


def load(path: str | os.PathLike[str], *, sample_rate: int | None = None, mono: bool = True) -> tuple[np.ndarray, int]:
    """Read an audio file.

    Args:
        path: a WAV, FLAC, Ogg Vorbis or MP3 file.
        sample_rate: resample to this rate, in Hz; None: keep the file's.
        mono: mix the channels into one, by their mean.

    Returns:
        Samples, float32 in [-1, 1], `[N]` or with mono=False `[N, channels]`; and their rate in Hz.

    Raises:
        AudioError: the file cannot be decoded; the message names it and says what was found.
        MissingExtraError: no decoder is installed.

    Example:
        >>> samples, rate = vlpipe.audio.load("speech.flac", sample_rate=16000)
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    samples, rate = decode(data, name=os.fspath(path))
    if mono:
        samples = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    if sample_rate is not None:
        try:
            samples, rate = resample(samples, rate, sample_rate), sample_rate
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from None
    return samples, rate


def decode(data: bytes, *, name: str = "audio") -> tuple[np.ndarray, int]:
    """Decode the bytes of a WAV, FLAC, Ogg Vorbis or MP3 file; its kind is told by its content.

    Integers are divided by 2**(bits - 1), so that 16-bit samples are int16 / 32768, the same through both decoders.
    Vorbis and MP3 agree between them to 1e-6.

    Args:
        data: the whole file.
        name: what to call it in an error.

    Returns:
        Samples float32 `[N, channels]` in [-1, 1], and their rate in Hz.

    Raises:
        AudioError: it is no such file, was cut, or holds other than it says.
        MissingExtraError: no decoder is installed.
    """
    header = read_header(data, name)
    if header.samples == 0:
        return np.zeros((0, header.channels), np.float32), header.rate
    samples = _decode_natively(data, header) if decoder() == "tensorflow-io" and _is_native(header, len(data)) else None
    rate = header.rate
    if samples is None:
        samples, rate = _decode_by_soundfile(data, header, name)
    if header.samples is not None and len(samples) != header.samples:
        raise AudioError(
            f"{name}: decoded {len(samples)} samples, the {header.kind} header says {header.samples}: it was cut or damaged. Copy it again."
        )
    if header.md5 is not None and header.bits in (8, 16, 24) and _md5(samples, header.bits) != header.md5:
        raise AudioError(f"{name}: the decoded samples do not have the MD5 that the FLAC header says: it is damaged. Copy it again.")
    if samples.shape[1] != header.channels or rate != header.rate:
        raise AudioError(
            f"{name}: decoded {samples.shape[1]} channels at {rate} Hz, the header says {header.channels} at {header.rate} Hz."
        )
    return samples, rate


@functools.cache
def decoder() -> str:
    """The decoder in use: "tensorflow-io" where its native ops load, else "soundfile"."""
    try:
        # Under a TensorFlow that it was not built for, it warns on import and fails on use.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _tensorflow_io().audio.decode_wav(_PROBE, dtype="int16")
    except Exception:
        return "soundfile"
    return "tensorflow-io"


def _tensorflow_io() -> ModuleType:
    return import_extra("tensorflow_io", extra="tfio", needed_for="decoding by tensorflow-io")


def _is_native(header: Header, size: int) -> bool:
    """Whether tensorflow-io decodes it rightly: it takes 32-bit integers of a WAV file for floats, and believes any length."""
    if header.samples is not None and header.samples > _MAX_SAMPLES_A_BYTE * size:
        return False
    if header.kind == "WAV":
        return header.plain and (header.bits == 32 if header.floating else header.bits in (8, 16, 24))
    # Damage within a FLAC frame can keep tensorflow-io 0.37.1 in its loop for ever; libsndfile ends.
    return header.kind != "FLAC" or (header.bits in (8, 16, 24) and not _has_soundfile())


def _has_soundfile() -> bool:
    return importlib.util.find_spec("soundfile") is not None


def _decode_natively(data: bytes, header: Header) -> np.ndarray | None:
    """Samples [N, channels] through tensorflow-io, or None where it fails, so that soundfile may try or say why."""
    audio = _tensorflow_io().audio
    kind = "float32" if header.floating else {8: "uint8", 16: "int16", 24: "int32"}.get(header.bits, "float32")
    decoders = {
        "WAV": lambda: audio.decode_wav(data, dtype=kind),
        "FLAC": lambda: audio.decode_flac(data, dtype=kind),
        "Ogg Vorbis": lambda: audio.decode_vorbis(data),
        "MP3": lambda: audio.decode_mp3(data),
    }
    try:
        samples: np.ndarray = decoders[header.kind]().numpy()
    except Exception:  # whatever TensorFlow raises: several classes, some of them private
        return None
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return (samples / 2.0 ** (8 * samples.dtype.itemsize - 1)).astype(np.float32)
    return samples


def _md5(samples: np.ndarray, bits: int) -> bytes:
    """MD5 of the samples as FLAC defines it: integers, interleaved, little-endian, in whole bytes."""
    integers = np.round(samples * 2.0 ** (bits - 1)).astype("<i4")
    return hashlib.md5(np.ascontiguousarray(integers[..., None].view(np.uint8)[..., : bits // 8]).tobytes()).digest()


def _decode_by_soundfile(data: bytes, header: Header, name: str) -> tuple[np.ndarray, int]:
    soundfile = import_extra("soundfile", extra="audio", needed_for=f"decoding {name}")
    blocks: list[np.ndarray] = []
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            # Block by block: a header may claim more samples than there is memory.
            while not blocks or len(blocks[-1]) == _BLOCK:
                blocks.append(file.read(_BLOCK, dtype="float32", always_2d=True))
            return np.concatenate(blocks), int(file.samplerate)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise AudioError(f"{name}: cannot be decoded as {header.kind} ({error}). Copy it again, or convert it to WAV.") from error


def resample(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Change the sample rate, by soxr at high quality (linear phase, 20 bits).

    Args:
        samples: float32 `[N]` or `[N, channels]`.
        rate: what they have, in Hz.
        sample_rate: what they shall have, in Hz.

    Returns:
        float32 `[N']` or `[N', channels]`, N' about N * sample_rate / rate.

    Raises:
        ArgumentError: a rate is no positive integer.
        AudioError: one is more than 1,000 times the other.
        MissingExtraError: soxr is not installed.
    """
    for what, value in (("rate", rate), ("sample_rate", sample_rate)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ArgumentError(f"{what}: came as {value!r}, expected a positive number of Hz.")
    if rate == sample_rate:
        return samples
    if max(rate, sample_rate) > _MAX_RESAMPLING * min(rate, sample_rate):
        raise AudioError(
            f"cannot be resampled from {rate} to {sample_rate} Hz, expected a factor of at most {_MAX_RESAMPLING}. "
            "Check the rate in its header."
        )
    soxr = import_extra("soxr", extra="audio", needed_for=f"resampling from {rate} to {sample_rate} Hz")
    return np.asarray(soxr.resample(samples, rate, sample_rate, quality="HQ"), np.float32)
