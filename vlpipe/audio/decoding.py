"""Decode audio files into float32 samples, with soundfile or tensorflow-io."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import logging
import warnings
from types import ModuleType

import numpy as np

from vlpipe.arguments import integer
from vlpipe.audio.containers import read_header
from vlpipe.audio.header import Header
from vlpipe.errors import COPY_AGAIN, AudioError, import_extra

_log = logging.getLogger("vlpipe")
_loud: list[str] = []  # the first file whose samples exceed ±1
_NATIVE = ("WAV", "FLAC", "Ogg Vorbis", "MP3")
_BLOCK = 1 << 18  # samples that soundfile decodes at a time
_MAX_SAMPLES_A_BYTE = 1024  # FLAC stores about 400 samples of silence in a byte
_MAX_RESAMPLING = 1000  # soxr never returns from 1 Hz to 1 MHz, and a header with 1 Hz would fill the memory
# A WAV file with one sample of silence: decoding it proves that the native library loads.
_PROBE = b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x02\0\0\0\0\0"


def decode(data: bytes, *, name: str = "audio") -> tuple[np.ndarray, int]:
    """Decode the bytes of a WAV, FLAC, Ogg Vorbis or MP3 file, recognised by its content; with soundfile also AIFF and Opus.

    Integers are divided by 2**(bits - 1): 16-bit samples become int16 / 32768. Floats beyond ±1 are passed on unchanged, and logged once.
    WAV and FLAC decode to the same samples with both decoders, Vorbis and MP3 to within 1e-6.

    All of a file is decoded, or it is refused: the links of an Ogg chain one after another, and each frame of an MP3 file. The delay and
    the padding of an MP3 encoder are cut off where the file tells them (in the LAME extension of its first frame).

    Args:
        data: the whole file.
        name: name of the file in error messages.

    Returns:
        Samples, float32 `[N, channels]` in [-1, 1]; and their sample rate in Hz.

    Raises:
        AudioError: the data are in none of these formats, are truncated or corrupt, are several joined recordings, or do not match their
            header.
        MissingExtraError: no decoder is installed.

    Example:
        >>> import io, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros((8000, 2)), 8000, format="WAV")
        >>> samples, rate = vlpipe.audio.decode(file.getvalue())
        >>> samples.shape, rate
        ((8000, 2), 8000)
    """
    header = read_header(data, name)
    if header.samples == 0:
        return np.zeros((0, header.channels), np.float32), header.rate
    samples = _decode_natively(data, header) if _uses_tensorflow_io(header.kind) and _is_native(header, len(data)) else None
    rate = header.rate
    if samples is None:
        samples, rate = _decode_by_soundfile(data, header, name)
    if header.decoded is not None and len(samples) != header.decoded:
        raise AudioError(
            f"{name}: decoded {len(samples)} samples, the {header.kind} header announces {header.decoded}: the file is truncated or "
            f"corrupt. {COPY_AGAIN}"
        )
    samples = samples[header.trim[0] : len(samples) - header.trim[1]]
    if header.md5 is not None and header.bits in (8, 16, 24) and _md5(samples, header.bits) != header.md5:
        raise AudioError(f"{name}: the MD5 of the decoded samples is not the one in the FLAC header: the file is corrupt. {COPY_AGAIN}")
    if samples.shape[1] != header.channels or rate != header.rate:
        raise AudioError(
            f"{name}: decoded {samples.shape[1]} channels at {rate} Hz, the header announces {header.channels} at {header.rate} Hz. "
            "Convert the recording to WAV."
        )
    if header.floating:
        _say_once_if_loud(samples, name)
    return samples, rate


def _say_once_if_loud(samples: np.ndarray, name: str) -> None:
    """Log a warning for the first file of the process whose samples exceed ±1: most such files hold integers as floats."""
    peak = float(np.max(np.abs(samples), initial=0, where=np.isfinite(samples)))
    if peak > 1 and not _loud:
        _loud.append(name)
        _log.warning(
            "%s: samples reach %g, expected floats in [-1, 1]: they are passed on unchanged. If they are integers stored as floats, "
            "convert the recordings. Later files are not mentioned.",
            name,
            peak,
        )


def decoder() -> str:
    """Return the name of the decoder in use: "soundfile" where it is installed, else "tensorflow-io" where its native ops load.

    tensorflow-io loads TensorFlow into each process that decodes, which takes seconds.

    Example:
        >>> vlpipe.audio.decoder() in ("tensorflow-io", "soundfile")
        True
    """
    return "soundfile" if _has_soundfile() or not _tensorflow_io_loads() else "tensorflow-io"


def _uses_tensorflow_io(kind: str) -> bool:
    return decoder() == "tensorflow-io" or (kind == "MP3" and not _soundfile_decodes(kind) and _tensorflow_io_loads())


@functools.cache
def _tensorflow_io_loads() -> bool:
    try:
        # tensorflow-io warns on import and fails on use under a TensorFlow that it was not built for.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _tensorflow_io().audio.decode_wav(_PROBE, dtype="int16")
    except Exception:
        return False
    return True


def _tensorflow_io() -> ModuleType:
    return import_extra("tensorflow_io", extra="tfio", needed_for="decoding by tensorflow-io")


def _is_native(header: Header, size: int) -> bool:
    """Whether tensorflow-io decodes the file correctly: it reads 32-bit integers of a WAV file as floats, and trusts any length."""
    if header.samples is not None and header.samples > _MAX_SAMPLES_A_BYTE * size:
        return False
    if header.kind == "WAV":
        return header.plain and (header.bits == 32 if header.floating else header.bits in (8, 16, 24))
    # tensorflow-io 0.37.1 can loop forever on a corrupt FLAC frame; libsndfile always returns. In an MP3 file, tensorflow-io leaves out
    # frames whose data began in a frame that is missing; libsndfile delivers them.
    if header.kind in ("FLAC", "MP3"):
        return header.bits in (0, 8, 16, 24) and not (_has_soundfile() and _soundfile_decodes(header.kind))
    return header.kind in _NATIVE


@functools.cache
def _has_soundfile() -> bool:
    return importlib.util.find_spec("soundfile") is not None


def _soundfile_decodes(kind: str) -> bool:
    """Whether the libsndfile that is installed decodes this kind of file: MP3 since version 1.1."""
    return kind in import_extra("soundfile", extra="audio", needed_for=f"decoding {kind}").available_formats()


def _decode_natively(data: bytes, header: Header) -> np.ndarray | None:
    """Decode with tensorflow-io into samples [N, channels]; None if it fails: soundfile then tries, and reports the reason."""
    audio = _tensorflow_io().audio
    kind = "float32" if header.floating else {8: "uint8", 16: "int16", 24: "int32"}.get(header.bits, "float32")
    decoders = {
        "WAV": lambda part: audio.decode_wav(part, dtype=kind),
        "FLAC": lambda part: audio.decode_flac(part, dtype=kind),
        "Ogg Vorbis": audio.decode_vorbis,
        "MP3": audio.decode_mp3,
    }
    try:
        # Without the frame that tells soundfile the number of MP3 frames: tensorflow-io counts them itself.
        parts = [decoders[header.kind](part).numpy() for part in header.contents(data, prefix=header.kind != "MP3")]
        samples: np.ndarray = np.concatenate(parts)
    except Exception:  # TensorFlow raises several classes, some of them private
        return None
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return (samples / 2.0 ** (8 * samples.dtype.itemsize - 1)).astype(np.float32)
    return samples


def _md5(samples: np.ndarray, bits: int) -> bytes:
    """The MD5 of samples as FLAC defines it: of interleaved little-endian integers of whole bytes."""
    integers = np.round(samples * 2.0 ** (bits - 1)).astype("<i4")
    return hashlib.md5(np.ascontiguousarray(integers[..., None].view(np.uint8)[..., : bits // 8]).tobytes()).digest()


def _decode_by_soundfile(data: bytes, header: Header, name: str) -> tuple[np.ndarray, int]:
    soundfile = import_extra("soundfile", extra="audio", needed_for=f"decoding {name}")
    blocks: list[np.ndarray] = []
    rate = header.rate
    try:
        for part in header.contents(data):
            with soundfile.SoundFile(io.BytesIO(part)) as file:
                # Block by block: a header may announce more samples than fit in memory.
                while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                    blocks.append(block)
                rate = int(file.samplerate)
        samples = np.concatenate(blocks) if blocks else np.zeros((0, header.channels), np.float32)
        lead = len(samples) - (header.decoded or 0)
        return samples[lead if lead in header.lead else 0 :], rate
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        if not header.plain:
            raise AudioError(f"{name}: this encoding of {header.kind} is not supported ({error}). Convert it to WAV with PCM.") from error
        raise AudioError(f"{name}: cannot be decoded as {header.kind} ({error}). Copy it again, or convert it to WAV.") from error


def resample(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Change the sample rate, with soxr at high quality (linear phase, 20 bits).

    Args:
        samples: float32 `[N]` or `[N, channels]`.
        rate: the sample rate of `samples`, in Hz.
        sample_rate: the sample rate of the result, in Hz.

    Returns:
        float32 `[N']` or `[N', channels]`, where N' is about N * sample_rate / rate.

    Raises:
        ArgumentError: a rate is not a positive integer.
        AudioError: one rate is more than 1,000 times the other.
        MissingExtraError: soxr is not installed.

    Example:
        >>> vlpipe.audio.resample(np.zeros(8000, np.float32), 8000, 16000).shape
        (16000,)
    """
    integer("rate", rate, 1, expected="a positive integer, the rate of the samples in Hz")
    integer("sample_rate", sample_rate, 1, expected="a positive integer, the rate to return in Hz")
    if rate == sample_rate:
        return samples
    soxr = resampler(rate, sample_rate)
    return np.asarray(soxr.resample(samples, rate, sample_rate, quality="HQ"), np.float32)


def resampled_lengths(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """int64 `[n]`: the samples that `resample` makes of these numbers of samples (int64 `[n]`)."""
    return (2 * samples * sample_rate + rate) // (2 * rate)


def resampler(rate: int, sample_rate: int) -> ModuleType:
    """Return soxr, which changes the sample rate.

    Raises:
        AudioError: one rate is more than 1,000 times the other.
        MissingExtraError: soxr is not installed.
    """
    if max(rate, sample_rate) > _MAX_RESAMPLING * min(rate, sample_rate):
        raise AudioError(
            f"cannot be resampled from {rate} to {sample_rate} Hz, expected a factor of at most {_MAX_RESAMPLING}. "
            "Check the rate in the header of the file."
        )
    return import_extra("soxr", extra="audio", needed_for=f"resampling from {rate} to {sample_rate} Hz")
