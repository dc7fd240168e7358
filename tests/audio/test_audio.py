"""Decoding against the samples that were written, features against plain loops and SciPy, and damage of every kind."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from vlpipe import audio
from vlpipe.audio import decoding
from vlpipe.errors import ArgumentError, AudioError, MissingExtraError

FORMATS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAVEX", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "ALAW"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
]


def tones(count: int = 3000, channels: int = 1) -> np.ndarray:
    time = np.arange(count)[:, None]
    return (0.4 * np.sin(time * 0.05 * (1 + np.arange(channels)))).astype(np.float64)


def encode(kind: str = "WAV", subtype: str = "PCM_16", samples: np.ndarray | None = None, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tones() if samples is None else samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_both_decoders_give_the_same_samples(kind: str, subtype: str, channels: int, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(kind, subtype, tones(channels=channels), rate)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    tolerance = 1e-6 if kind in ("OGG", "MP3") else 0
    for name in (audio.decoder(), "soundfile"):
        monkeypatch.setattr(decoding, "decoder", lambda name=name: name)
        monkeypatch.setattr(decoding, "_has_soundfile", lambda name=name: name == "soundfile")
        samples, found_rate = audio.decode(data)
        assert (samples.dtype, samples.shape, found_rate) == (np.float32, expected.shape, rate)
        np.testing.assert_allclose(samples, expected, rtol=0, atol=tolerance)


def test_16_bit_samples_are_divided_by_32768() -> None:
    integers = np.array([0, 1, -1, 32767, -32768], "<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16000, 0, "NONE", ""))
        writer.writeframes(integers.tobytes())
    samples, rate = audio.decode(file.getvalue())
    assert rate == 16000
    assert np.array_equal(samples[:, 0], integers / np.float32(32768))


def test_the_decoder_is_the_one_that_loads() -> None:
    import tensorflow as tf

    native = tf.__version__.startswith("2.17.")
    assert audio.decoder() == ("tensorflow-io" if native else "soundfile")


def refused(data: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=f"^song: {message}"):
        audio.decode(data, name="song")


def test_what_is_no_audio_is_refused_by_its_content() -> None:
    refused(b"", "the file is empty, expected WAV, FLAC, Ogg Vorbis or MP3")
    refused(b"hello, world", r"begins with b'hello, w', expected WAV, FLAC, Ogg Vorbis or MP3. Convert it, or leave it out")
    refused(encode()[:20], "a WAV file without samples: the data chunk is missing|the file ends within its header, after 20 bytes")
    refused(encode("FLAC")[:20], "the file ends within its header, after 20 bytes")
    refused(b"OggS" + bytes(100), r"an Ogg file whose first stream is not Vorbis \(Opus\?\)")
    assert len(audio.decode(encode("FLAC"), name="wrong.wav")[0]) == 3000


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def wav(*chunks: bytes) -> bytes:
    content = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WAVE" + content


def layout(encoding: int = 1, channels: int = 1, rate: int = 8000, align: int = 2, bits: int = 16) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", encoding, channels, rate, rate * align, align, bits))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (wav(layout()), "a WAV file without samples: the data chunk is missing"),
        (wav(chunk(b"data", bytes(4)), layout()), "its data come before their format, expected a fmt chunk first"),
        (wav(layout(align=3), chunk(b"data", bytes(6))), "6 bytes of samples in blocks of 3, 1 channels of 16 bits: these do not agree"),
        (wav(layout(), chunk(b"data", bytes(5))), "5 bytes of samples in blocks of 2"),
        (wav(layout(rate=0), chunk(b"data", bytes(4))), "WAV of 1 channels at 0 Hz, expected at least 1 of each"),
        (wav(layout(), chunk(b"data", bytes(400)))[:100], "the header says 400 bytes of samples, the file has 56: it was cut"),
        (wav(layout(), chunk(b"data", b"")) + bytes(40), "the header says 0 bytes of samples, the file has 40: it was never finished"),
        (b"ID3\4\0\0\0\0\7\0" + bytes(50), "the file ends within its ID3 tag, after 60 bytes: it was cut"),
        (wav(layout(encoding=99), chunk(b"data", bytes(40))), "cannot be decoded as WAV .*Copy it again, or convert it to WAV"),
    ],
)
def test_a_file_that_contradicts_itself(data: bytes, message: str) -> None:
    refused(data, message)


def test_damage_that_the_decoders_pass_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    vorbis, flac = encode("OGG", "VORBIS"), encode("FLAC")
    refused(vorbis[:-50], "the stream has no last page, after .* bytes: it was cut")
    last = vorbis.rfind(b"OggS")
    refused(vorbis[: last + 6] + b"\xff" * 8 + vorbis[last + 14 :], "the stream has no last page")
    silent = flac[:26] + bytes(15) + b"\1" + flac[42:]
    refused(silent, "the decoded samples do not have the MD5 that the FLAC header says")
    more = flac[:21] + bytes([flac[21] | 1]) + flac[22:]  # the header claims 2**32 samples more
    refused(more, "decoded 3000 samples, the FLAC header says 4294970296|cannot be decoded as FLAC")
    samples = np.zeros((3000, 2), np.float32)
    monkeypatch.setattr(decoding, "decoder", lambda: "soundfile")
    monkeypatch.setattr(decoding, "_decode_by_soundfile", lambda *_: (samples, 8000))
    refused(encode(), "decoded 2 channels at 8000 Hz, the header says 1 at 8000 Hz")


EVERY_BYTE_FLIPPED = """
import sys
from vlpipe import audio, errors
good = sys.stdin.buffer.read()
samples = audio.decode(good)[0].tobytes()
for place in range(len(good)):
    try:
        found = audio.decode(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1:])[0]
    except errors.AudioError:
        continue
    if found.tobytes() != samples:  # a flip in the vendor's name is no damage
        sys.exit(f"other samples, byte {place}")
print("ended")
"""


def test_damaged_flac_ends_and_is_found() -> None:
    # In a process of its own: a decoder in an endless loop holds the interpreter lock.
    random = np.random.default_rng(0).normal(0, 0.02, (1000, 1))
    data = encode("FLAC", samples=tones(1000) + random)
    done = subprocess.run([sys.executable, "-c", EVERY_BYTE_FLIPPED], input=data, capture_output=True, timeout=120)
    assert done.stdout == b"ended\n", done.stderr[-2000:]


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_cut_or_changed_files_give_samples_or_an_audio_error(kind: str, subtype: str) -> None:
    data = encode(kind, subtype, tones(channels=2))
    random = np.random.default_rng(0)
    outcomes = []
    damaged = [data[:kept] for kept in [*range(50), *range(50, len(data), len(data) // 40)]]
    for _ in range(60):
        content = bytearray(data)
        for position in random.integers(0, len(data), 3):
            content[position] = random.integers(256)
        damaged.append(bytes(content))
    for content in damaged:
        try:
            outcomes.append(audio.decode(content, name="song")[0].shape[1])
        except AudioError:
            outcomes.append(0)
    if kind != "MP3":  # an MP3 stream has no length that could be compared
        assert not any(outcomes[: len(damaged) - 60])
    assert outcomes.count(0) > 20


def test_random_bytes_are_no_audio() -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        with pytest.raises(AudioError):
            audio.decode(random.bytes(300))


def test_load_mixes_and_resamples(tmp_path: Path) -> None:
    stereo = tones(8000, 2)
    soundfile.write(tmp_path / "a.flac", stereo, 8000)
    both, rate = audio.load(tmp_path / "a.flac", mono=False)
    assert (both.shape, rate) == ((8000, 2), 8000)
    mono, _ = audio.load(tmp_path / "a.flac")
    np.testing.assert_allclose(mono, both.mean(axis=1), atol=1e-7)
    up, rate = audio.load(tmp_path / "a.flac", sample_rate=16000)
    assert (up.dtype, len(up), rate) == (np.float32, 16000, 16000)
    expected = scipy.signal.resample_poly(mono, 2, 1)
    np.testing.assert_allclose(up[500:-500], expected[500:-500], atol=2e-3)  # two filters, away from the ends
    assert audio.resample(mono, 8000, 8000) is mono
    soundfile.write(tmp_path / "slow.wav", mono, 7)
    with pytest.raises(AudioError, match=r"slow.wav: cannot be resampled from 7 to 16000 Hz, expected a factor of at most 1000"):
        audio.load(tmp_path / "slow.wav", sample_rate=16000)


def test_load_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match=r"none.wav: cannot be read \(No such file or directory\). Check the path"):
        audio.load(tmp_path / "none.wav")
    with pytest.raises(ArgumentError, match="sample_rate: came as 0, expected a positive number of Hz"):
        audio.resample(np.zeros(3, np.float32), 8000, 0)
    monkeypatch.setitem(sys.modules, "soxr", None)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match=r"resampling from 8000 to 16000 Hz needs the package \"soxr\".*vlpipe\[audio\]"):
        audio.resample(np.zeros(3, np.float32), 8000, 16000)
    with pytest.raises(MissingExtraError, match=r"decoding song needs the package \"soundfile\""):
        audio.decode(encode("WAV", "ALAW"), name="song")


def naive_frames(samples: np.ndarray, window: int, hop: int) -> np.ndarray:
    rows = []
    start = 0
    while len(samples) and (start == 0 or start - hop + window < len(samples)):
        row = np.zeros(window)
        piece = samples[start : start + window]
        row[: len(piece)] = piece
        rows.append(row)
        start += hop
    return np.array(rows).reshape(-1, window)


def naive_log_mel(samples: np.ndarray, features: audio.LogMel, points: int) -> np.ndarray:
    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    high = features.high_hz or features.sample_rate / 2
    edges = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(mel(features.low_hz), mel(high), features.mels + 2)]
    window = scipy.signal.get_window("hann", features.window, fftbins=True)
    rows = []
    for frame in naive_frames(samples, features.window, features.hop):
        power = np.abs(scipy.fft.fft(frame * window, points)[: points // 2 + 1]) ** 2
        row = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            energy = 0.0
            for k in range(points // 2 + 1):
                hertz = k * features.sample_rate / points
                weight = (hertz - left) / (centre - left) if hertz <= centre else (right - hertz) / (right - centre)
                energy += max(0.0, weight) * power[k]
            row.append(np.log(max(energy, features.floor)))
        rows.append(row)
    return np.array(rows).reshape(-1, features.mels)


@pytest.mark.parametrize(
    ("features", "points"),
    [
        (audio.LogMel(sample_rate=8000, mels=20), 256),
        (audio.LogMel(sample_rate=16000, mels=40, window_ms=32, hop_ms=16, low_hz=0, high_hz=4000, floor=1e-3), 512),
    ],
)
def test_log_mel_and_mfcc_are_those_of_plain_loops(features: audio.LogMel, points: int) -> None:
    samples = np.random.default_rng(0).standard_normal(1500).astype(np.float32) * 0.1
    expected = naive_log_mel(samples.astype(np.float64), features, points)
    found = features(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    settings = {name: value for name, value in features.settings().items() if name != "kind"}
    mfcc = audio.MFCC(coefficients=7, **settings)(samples)
    np.testing.assert_allclose(mfcc, scipy.fft.dct(expected, type=2, norm="ortho", axis=1)[:, :7], atol=2e-5)


def test_log_mel_is_that_of_librosa() -> None:
    """tests/golden/log_mel_librosa.npz holds samples and np.log(np.maximum(librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=512,
    win_length=512, hop_length=160, center=False, htk=True, norm=None, power=2, n_mels=40, fmin=20, fmax=8000), 1e-6)).T, of librosa 0.11.
    """
    path = Path(__file__).parents[1] / "golden" / "log_mel_librosa.npz"
    golden = np.load(path)
    found = audio.LogMel(sample_rate=16000, window_ms=32, hop_ms=10, mels=40)(golden["samples"])
    np.testing.assert_allclose(found[: len(golden["log_mel"])], golden["log_mel"], atol=1e-4)


@given(count=st.integers(0, 2000), window=st.integers(1, 60), hop=st.integers(1, 60))
def test_frames_lose_no_sample(count: int, window: int, hop: int) -> None:
    features = audio.Frames(sample_rate=1000, window_ms=window, hop_ms=hop)
    samples = np.arange(1, count + 1, dtype=np.float32)
    found = features(samples)
    assert found.dtype == np.float32
    assert found.shape == (0 if not count else 1 + -(-max(0, count - window) // hop), features.dim)
    assert np.array_equal(found, naive_frames(samples, window, hop))
    if hop <= window:
        assert set(samples) <= set(found.ravel())


def test_what_is_no_waveform_is_refused() -> None:
    features = audio.LogMel()
    with pytest.raises(AudioError, match=r"log_mel: came with int16 \[5\], expected a mono waveform \[N\] of floats"):
        features(np.zeros(5, np.int16))
    with pytest.raises(AudioError, match=r"came with float32 \[5, 2\], expected a mono"):
        features(np.zeros((5, 2), np.float32))
    with pytest.raises(AudioError, match="sample 3 is nan, expected finite samples. Leave the recording out"):
        features(np.array([0, 0, 0, np.nan], np.float32))
    with pytest.raises(AudioError, match=r"sample 1 is 1e\+200, expected finite samples"):
        features(np.array([0, 1e200]))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (audio.Frames, {"sample_rate": 0}, "sample_rate: came as 0, expected a positive number of Hz"),
        (audio.Frames, {"sample_rate": 16000.0}, "sample_rate: came as 16000.0"),
        (audio.Frames, {"window_ms": 0.01}, "window_ms: came as 0.01, which is less than one sample at 16000 Hz"),
        (audio.Frames, {"hop_ms": -1}, "hop_ms: came as -1, expected a number of milliseconds of at least one sample"),
        (audio.Frames, {"hop_ms": "10"}, "hop_ms: came as '10'"),
        (audio.LogMel, {"mels": 0}, "mels: came as 0, expected an integer >= 1"),
        (audio.LogMel, {"mels": 10**9}, "mels: came as 1000000000, expected an integer >= 1, at most 4096"),
        (audio.LogMel, {"mels": 4096, "high_hz": 100}, "4096 filters between 20.0 and 100 Hz are narrower than an FFT of 16384 points"),
        (audio.LogMel, {"low_hz": 10**400}, "low_hz: came as 1000"),
        (audio.Frames, {"window_ms": 1e308}, r"window_ms: came as 1e\+308, expected a number of milliseconds .* at most a minute"),
        (audio.LogMel, {"high_hz": 9000}, r"expected 0 <= low_hz < high_hz <= 8000.0 \(half the sample rate\), and floor > 0"),
        (audio.LogMel, {"floor": 0}, "floor=0: expected 0 <= low_hz"),
        (audio.LogMel, {"low_hz": float("nan")}, "low_hz: came as nan, expected a frequency in Hz"),
        (audio.MFCC, {"coefficients": 41}, "coefficients: came as 41, expected 1 to 40, the number of mels"),
    ],
)
def test_parameters_out_of_range(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    "features",
    [audio.Frames(window_ms=20), audio.LogMel(mels=23, high_hz=7000.0), audio.MFCC(coefficients=20), audio.LogMel(mels=np.int64(9))],
)
def test_settings_give_the_features_back(features: Any) -> None:
    assert audio.from_settings(json.loads(json.dumps(features.settings()))) == features


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ArgumentError, match="expected a dict with a kind of frames, log_mel, mfcc"):
        audio.from_settings({"kind": "cqt"})
    with pytest.raises(ArgumentError, match="'bands'; the kind log_mel does not have it"):
        audio.from_settings({"kind": "log_mel", "bands": 3})


def test_real_recordings(recordings: Path) -> None:
    features = audio.LogMel(sample_rate=8000, mels=40)
    for path in sorted(recordings.glob("*.wav"))[::100]:
        samples, rate = audio.load(path)
        with wave.open(str(path)) as file:
            assert (len(samples), rate) == (file.getnframes(), 8000)
        found = features(samples)
        assert found.shape[1] == 40
        assert np.isfinite(found).all()
        assert found.std() > 0.5


def test_the_import_loads_no_decoder() -> None:
    code = "import sys, vlpipe.audio; print({'tensorflow', 'tensorflow_io', 'soundfile', 'soxr'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
