"""Decoding compared with the samples that were written, features compared with plain loops and SciPy, and corrupt files."""

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


DECODERS = ["tensorflow-io", "soundfile"] if decoding._tensorflow_io_loads() else ["soundfile"]


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
    for name in DECODERS:
        monkeypatch.setattr(decoding, "decoder", lambda name=name: name)
        monkeypatch.setattr(decoding, "_has_soundfile", lambda name=name: name == "soundfile")
        samples, decoded_rate = audio.decode(data)
        assert (samples.dtype, samples.shape, decoded_rate) == (np.float32, expected.shape, rate)
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


def test_the_decoder_is_soundfile_where_it_is_installed_and_else_tensorflow_io(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    assert audio.decoder() == "soundfile"
    monkeypatch.setattr(decoding, "_has_soundfile", lambda: False)
    assert audio.decoder() == ("tensorflow-io" if tf.__version__.startswith("2.17.") else "soundfile")


def test_decoding_by_soundfile_does_not_load_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode())
    code = f"import sys, vlpipe; vlpipe.audio.load({str(tmp_path / 'a.wav')!r}); print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def assert_refused(data: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=f"^song: {message}"):
        audio.decode(data, name="song")


def test_the_content_decides_what_is_audio_not_the_name() -> None:
    assert_refused(b"", "the file is empty, expected WAV, FLAC, Ogg Vorbis, MP3 or AIFF")
    assert_refused(b"hello, world", r"begins with b'hello, w', expected WAV, FLAC, Ogg Vorbis, MP3 or AIFF. Convert it, or leave it out")
    assert_refused(encode()[:20], "the WAV file has no data chunk|the file ends within its header, after 20 bytes")
    assert_refused(encode("FLAC")[:20], "the file ends within its header, after 20 bytes")
    assert_refused(b"OggS" + bytes(100), "the Ogg file holds something else than Vorbis, Opus or FLAC .* which is not supported")
    assert len(audio.decode(encode("FLAC"), name="wrong.wav")[0]) == 3000


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def wav(*chunks: bytes) -> bytes:
    content = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WAVE" + content


def fmt(encoding: int = 1, channels: int = 1, rate: int = 8000, align: int = 2, bits: int = 16) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", encoding, channels, rate, rate * align, align, bits))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (wav(fmt()), "the WAV file has no data chunk, expected one with samples"),
        (wav(chunk(b"data", bytes(4)), fmt()), "the data chunk comes before the fmt chunk, expected fmt first"),
        (
            wav(fmt(align=3), chunk(b"data", bytes(6))),
            "the WAV header is inconsistent: 6 bytes of samples in blocks of 3 bytes, for 1 channels of 16 bits",
        ),
        (wav(fmt(), chunk(b"data", bytes(5))), "the WAV header is inconsistent: 5 bytes of samples in blocks of 2 bytes"),
        (
            wav(fmt(rate=0), chunk(b"data", bytes(4))),
            "the WAV header announces 1 channels at 0 Hz, expected at least 1 channel and 1 Hz",
        ),
        (wav(fmt(), chunk(b"data", bytes(400)))[:100], "the header announces 400 bytes of samples, the file has 56: it is truncated"),
        (wav(fmt(), chunk(b"data", b"")) + bytes(40), "the header announces 0 bytes of samples, the file has 40: it was never closed"),
        (b"ID3\4\0\0\0\0\7\0" + bytes(50), "the file ends within its ID3 tag, after 60 bytes: it is truncated"),
        (wav(fmt(encoding=99), chunk(b"data", bytes(40))), r"this encoding of WAV is not supported \(.*\)\. Convert it to WAV with PCM"),
    ],
)
def test_an_inconsistent_file_is_refused(data: bytes, message: str) -> None:
    assert_refused(data, message)


def test_damage_that_the_decoders_overlook_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    vorbis, flac = encode("OGG", "VORBIS"), encode("FLAC")
    assert_refused(vorbis[:-50], "the Ogg stream ends without a last page, after .* bytes: it is truncated")
    last = vorbis.rfind(b"OggS")
    assert_refused(vorbis[: last + 6] + b"\xff" * 8 + vorbis[last + 14 :], "the Ogg stream ends without a last page")
    silent = flac[:26] + bytes(15) + b"\1" + flac[42:]
    assert_refused(silent, "the MD5 of the decoded samples is not the one in the FLAC header: the file is corrupt")
    more = flac[:21] + bytes([flac[21] | 1]) + flac[22:]  # the header announces 2**32 more samples
    assert_refused(more, "decoded 3000 samples, the FLAC header announces 4294970296|cannot be decoded as FLAC")
    samples = np.zeros((3000, 2), np.float32)
    monkeypatch.setattr(decoding, "decoder", lambda: "soundfile")
    monkeypatch.setattr(decoding, "_decode_by_soundfile", lambda *_: (samples, 8000))
    assert_refused(encode(), "decoded 2 channels at 8000 Hz, the header announces 1 at 8000 Hz")


EVERY_BYTE_FLIPPED = """
import sys
from vlpipe import audio, errors
good = sys.stdin.buffer.read()
samples = audio.decode(good)[0].tobytes()
for position in range(len(good)):
    try:
        decoded = audio.decode(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1:])[0]
    except errors.AudioError:
        continue
    if decoded.tobytes() != samples:  # a flip in the vendor's name does no harm
        sys.exit(f"other samples, byte {position}")
print("ended")
"""


def test_decoding_corrupt_flac_ends_with_an_error() -> None:
    # In its own process: a decoder in an endless loop holds the interpreter lock.
    noise = np.random.default_rng(0).normal(0, 0.02, (1000, 1))
    data = encode("FLAC", samples=tones(1000) + noise)
    done = subprocess.run([sys.executable, "-c", EVERY_BYTE_FLIPPED], input=data, capture_output=True, timeout=120)
    assert done.stdout == b"ended\n", done.stderr[-2000:]


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_truncated_or_changed_files_give_samples_or_an_audio_error(kind: str, subtype: str) -> None:
    data = encode(kind, subtype, tones(channels=2))
    random = np.random.default_rng(0)
    outcomes = []
    damaged = [data[:size] for size in [*range(50), *range(50, len(data), len(data) // 40)]]
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
    if kind != "MP3":  # an MP3 header has no length to compare with
        assert not any(outcomes[: len(damaged) - 60])
    assert outcomes.count(0) > 20


def test_random_bytes_are_not_audio() -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        with pytest.raises(AudioError):
            audio.decode(random.bytes(300))


def test_load_mixes_and_resamples(tmp_path: Path) -> None:
    stereo = tones(8000, 2)
    soundfile.write(tmp_path / "a.flac", stereo, 8000)
    both, rate = audio.load(tmp_path / "a.flac", channels="all")
    assert (both.shape, rate) == ((8000, 2), 8000)
    mono, _ = audio.load(tmp_path / "a.flac")
    np.testing.assert_allclose(mono, both.mean(axis=1), atol=1e-7)
    up, rate = audio.load(tmp_path / "a.flac", sample_rate=16000)
    assert (up.dtype, len(up), rate) == (np.float32, 16000, 16000)
    expected = scipy.signal.resample_poly(mono, 2, 1)
    np.testing.assert_allclose(up[500:-500], expected[500:-500], atol=2e-3)  # two different filters, compared away from the ends
    assert audio.resample(mono, 8000, 8000) is mono
    soundfile.write(tmp_path / "slow.wav", mono, 7)
    with pytest.raises(AudioError, match=r"slow.wav: cannot be resampled from 7 to 16000 Hz, expected a factor of at most 1000"):
        audio.load(tmp_path / "slow.wav", sample_rate=16000)


def test_load_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match=r"none.wav: cannot be read \(No such file or directory\). Check the path"):
        audio.load(tmp_path / "none.wav")
    with pytest.raises(ArgumentError, match="^sample_rate: came as 0, expected a positive integer, the rate to return in Hz"):
        audio.resample(np.zeros(3, np.float32), 8000, 0)
    with pytest.raises(ArgumentError, match="^rate: came as 8000.0, expected a positive integer, the rate of the samples in Hz"):
        audio.resample(np.zeros(3, np.float32), 8000.0, 16000)  # type: ignore[arg-type]
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
def test_log_mel_and_mfcc_equal_plain_loops(features: audio.LogMel, points: int) -> None:
    samples = np.random.default_rng(0).standard_normal(1500).astype(np.float32) * 0.1
    expected = naive_log_mel(samples.astype(np.float64), features, points)
    values = features(samples)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, atol=1e-5)
    settings = {name: value for name, value in features.settings().items() if name != "kind"}
    mfcc = audio.MFCC(coefficients=7, **settings)(samples)
    np.testing.assert_allclose(mfcc, scipy.fft.dct(expected, type=2, norm="ortho", axis=1)[:, :7], atol=2e-5)


def test_log_mel_equals_librosa() -> None:
    """tests/golden/log_mel_librosa.npz holds samples and np.log(np.maximum(librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=512,
    win_length=512, hop_length=160, center=False, htk=True, norm=None, power=2, n_mels=40, fmin=20, fmax=8000), 1e-6)).T, by librosa 0.11.
    """
    path = Path(__file__).parents[1] / "golden" / "log_mel_librosa.npz"
    golden = np.load(path)
    values = audio.LogMel(sample_rate=16000, window_ms=32, hop_ms=10, mels=40)(golden["samples"])
    np.testing.assert_allclose(values[: len(golden["log_mel"])], golden["log_mel"], atol=1e-4)


@given(count=st.integers(0, 2000), window=st.integers(1, 60), hop=st.integers(1, 60))
def test_frames_contain_every_sample(count: int, window: int, hop: int) -> None:
    features = audio.Frames(sample_rate=1000, window_ms=window, hop_ms=hop)
    samples = np.arange(1, count + 1, dtype=np.float32)
    frames = features(samples)
    assert frames.dtype == np.float32
    assert frames.shape == (0 if not count else 1 + -(-max(0, count - window) // hop), features.dim)
    assert np.array_equal(frames, naive_frames(samples, window, hop))
    if hop <= window:
        assert set(samples) <= set(frames.ravel())


def test_features_refuse_all_but_mono_waveforms_of_finite_floats() -> None:
    features = audio.LogMel()
    with pytest.raises(AudioError, match=r"log_mel: came with int16 \[5\], expected a mono waveform \[N\] of floats"):
        features(np.zeros(5, np.int16))
    with pytest.raises(AudioError, match=r"came with float32 \[5, 2\], expected a mono"):
        features(np.zeros((5, 2), np.float32))
    with pytest.raises(AudioError, match=r"sample 3 is nan, expected finite samples below 1e\+09\. Leave the recording out"):
        features(np.array([0, 0, 0, np.nan], np.float32))
    with pytest.raises(AudioError, match=r"sample 1 is 1e\+200, expected finite samples"):
        features(np.array([0, 1e200]))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (audio.Frames, {"sample_rate": 0}, "sample_rate: came as 0, expected a positive integer, in Hz"),
        (audio.Frames, {"sample_rate": True}, "sample_rate: came as True, expected a positive integer, in Hz"),
        (audio.Frames, {"sample_rate": 16000.0}, "sample_rate: came as 16000.0, expected a positive integer"),
        (audio.Frames, {"window_ms": 0.01}, "window_ms: came as 0.01, which is less than one sample at 16000 Hz"),
        (audio.Frames, {"hop_ms": -1}, "hop_ms: came as -1, expected a number of milliseconds: at least one sample, at most a minute"),
        (audio.Frames, {"hop_ms": "10"}, "hop_ms: came as '10', expected a number of milliseconds"),
        (audio.LogMel, {"mels": 0}, "mels: came as 0, expected an integer >= 1"),
        (audio.LogMel, {"mels": 10**9}, "mels: came as 1000000000, expected an integer >= 1, at most 4096"),
        (
            audio.LogMel,
            {"mels": 4096, "high_hz": 100},
            "4096 filters between 20.0 and 100 Hz are too narrow for the resolution of an FFT of 16384 points",
        ),
        (audio.LogMel, {"low_hz": 10**400}, "low_hz: came as 1000"),
        (audio.Frames, {"window_ms": 1e308}, r"window_ms: came as 1e\+308, expected a number of milliseconds: .* at most a minute"),
        (audio.LogMel, {"high_hz": 9000}, r"expected 0 <= low_hz < high_hz <= 8000.0 \(half the sample rate\) and floor > 0"),
        (audio.LogMel, {"floor": 0}, "floor=0: expected 0 <= low_hz"),
        (audio.LogMel, {"low_hz": float("nan")}, "low_hz: came as nan, expected a frequency in Hz"),
        (audio.LogMel, {"high_hz": "8000"}, "high_hz: came as '8000', expected a frequency in Hz"),
        (audio.LogMel, {"floor": None}, "floor: came as None, expected a positive energy"),
        (audio.MFCC, {"coefficients": 41}, "coefficients: came as 41, expected an integer from 1 to 40, the number of mels"),
    ],
)
def test_parameters_out_of_range(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    "features",
    [audio.Frames(window_ms=20), audio.LogMel(mels=23, high_hz=7000.0), audio.MFCC(coefficients=20), audio.LogMel(mels=np.int64(9))],
)
def test_from_settings_makes_the_same_features(features: Any) -> None:
    assert audio.from_settings(json.loads(json.dumps(features.settings()))) == features


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ArgumentError, match="expected a dict whose kind is one of frames, log_mel, mfcc"):
        audio.from_settings({"kind": "cqt"})
    huge = {"kind": "log_mel", "sample_rate": 2**31 - 1, "window_ms": 60_000, "mels": 4096}  # 60 GB of filters, from a file
    with pytest.raises(ArgumentError, match=r"window_ms: 60000 and hop_ms: 10\.0 at 2147483647 Hz are more than 16777216 samples"):
        audio.from_settings(huge)
    with pytest.raises(ArgumentError, match="mels: 4096 filters of an FFT of 1048576 points are too many to compute"):
        audio.from_settings({**huge, "sample_rate": 16000})
    with pytest.raises(ArgumentError, match="'bands'; the kind log_mel has no such parameter"):
        audio.from_settings({"kind": "log_mel", "bands": 3})


def test_real_recordings(recordings: Path) -> None:
    features = audio.LogMel(sample_rate=8000, mels=40)
    for path in sorted(recordings.glob("*.wav"))[::100]:
        samples, rate = audio.load(path)
        with wave.open(str(path)) as file:
            assert (len(samples), rate) == (file.getnframes(), 8000)
        values = features(samples)
        assert values.shape[1] == 40
        assert np.isfinite(values).all()
        assert values.std() > 0.5


def test_the_import_loads_no_decoder() -> None:
    code = "import sys, vlpipe.audio; print({'tensorflow', 'tensorflow_io', 'soundfile', 'soxr'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 40])
def test_deltas_are_the_slopes_of_a_line_through_five_frames(frames: int) -> None:
    plain, samples = audio.LogMel(sample_rate=8000, mels=4, hop_ms=25), np.random.default_rng(frames).normal(size=frames * 200)
    expected = [plain(samples)]
    for _ in range(2):
        around = np.pad(expected[-1], ((2, 2), (0, 0)), mode="edge") if frames else np.zeros((4, 4))
        lines = [np.polyfit(np.arange(5), around[t : t + 5], 1)[0] for t in range(frames)]
        expected.append(np.array(lines).reshape(frames, 4))
    for deltas in (0, 1, 2):
        features = audio.LogMel(sample_rate=8000, mels=4, hop_ms=25, deltas=deltas)
        found = features(samples)
        assert found.shape == (frames, features.dim)
        np.testing.assert_allclose(found, np.concatenate(expected[: deltas + 1], axis=1), atol=1e-5)
        assert audio.from_settings(features.settings()) == features
    assert "deltas" not in plain.settings()
    with pytest.raises(ArgumentError, match="^deltas: came as 3, expected an integer >= 0, at most 2"):
        audio.LogMel(deltas=3)


def test_deltas_of_what_does_not_change_are_exactly_zero() -> None:
    found = audio.LogMel(sample_rate=8000, mels=4, deltas=2)(np.zeros(4000, np.float32))
    assert not found[:, 4:].any()
