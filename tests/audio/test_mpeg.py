"""MP3 files with tags, without a Xing header, cut, joined and corrupt: decoded whole by both decoders, or refused."""

from __future__ import annotations

import contextlib
import io
import struct
import time

import numpy as np
import pytest
import soundfile

from vlpipe import audio
from vlpipe.audio import decoding
from vlpipe.audio.containers import read_header
from vlpipe.errors import AudioError

DECODERS = ["tensorflow-io", "soundfile"] if decoding._tensorflow_io_loads() else ["soundfile"]

RATES = [8000, 16000, 44100]  # MPEG 2.5, 2 and 1


def speech(count: int, channels: int = 1) -> np.ndarray:
    """A chirp that fades in and out of noise, so that the bitrate varies."""
    time_ = np.arange(count)[:, None] / count
    noise = np.random.default_rng(0).normal(0, 0.1, (count, channels)) * (np.sin(20 * time_) > 0)
    return np.asarray(0.3 * np.sin(time_ * 900 * (1 + time_)) + noise)


def mp3(count: int = 30_000, rate: int = 16000, channels: int = 1, mode: str = "CONSTANT") -> bytes:
    """An MP3 file by LAME, with its Info or Xing frame."""
    file = io.BytesIO()
    soundfile.write(file, speech(count, channels), rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)
    return file.getvalue()


def frames(data: bytes) -> list[tuple[int, int]]:
    """Begin and end of each frame, by a plain loop."""
    out, at = [], 0
    while at + 4 <= len(data):
        version, bitrate = data[at + 1] >> 3 & 3, data[at + 2] >> 4
        rate = (44100, 48000, 32000)[data[at + 2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
        table = "32 40 48 56 64 80 96 112 128 160 192 224 256 320" if version == 3 else "8 16 24 32 40 48 56 64 80 96 112 128 144 160"
        size = (144 if version == 3 else 72) * 1000 * int(table.split()[bitrate - 1]) // rate + (data[at + 2] >> 1 & 1)
        out.append((at, at + size))
        at += size
    return out


def without_xing(data: bytes) -> bytes:
    return data[frames(data)[0][1] :]


def spf(rate: int) -> int:
    """Samples in a frame."""
    return 1152 if rate >= 32000 else 576


def by_each_decoder(data: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Decode with both decoders, where both are installed, and compare."""
    results = []
    for name in DECODERS:
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "decoder", lambda name=name: name)
            patch.setattr(decoding, "_has_soundfile", lambda name=name: name == "soundfile")
            results.append(audio.decode(data, name="song")[0])
    for other in results[1:]:
        assert other.shape == results[0].shape
        np.testing.assert_allclose(other, results[0], rtol=0, atol=1e-6)
    assert read_header(data, "song").samples == len(results[0])
    return results[0]


def refuse(data: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DECODERS:
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "decoder", lambda name=name: name)
            patch.setattr(decoding, "_has_soundfile", lambda name=name: name == "soundfile")
            with pytest.raises(AudioError, match=f"^song: {message}"):
                audio.decode(data, name="song")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
def test_all_samples_with_and_without_the_xing_header(mode: str, rate: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = mp3(30_000, rate, channels, mode)
    samples = by_each_decoder(data, monkeypatch)
    assert samples.shape == (30_000, channels)
    bare = without_xing(data)
    whole = by_each_decoder(bare, monkeypatch)
    assert len(whole) == len(frames(bare)) * spf(rate)
    # The same samples, behind the delay that only the Xing header tells.
    delay = next(skip for skip in range(len(whole) - 30_000 + 1) if np.allclose(whole[skip : skip + 30_000], samples, atol=1e-6))
    assert delay >= 529
    if mode == "CONSTANT" and channels == 1:
        assert np.corrcoef(samples[:, 0], speech(30_000)[:, 0])[0, 1] > 0.9


def id3(size: int, *, footer: bool = False) -> bytes:
    head = bytes([4, 0, 0x10 if footer else 0, 0, 0, size >> 7, size & 127])
    return b"ID3" + head + bytes(size) + (b"3DI" + head if footer else b"")


def ape(*, header: bool = True) -> bytes:
    item = struct.pack("<II", 4, 0) + b"Artist\0Anna"
    values = struct.pack("<III", 2000, 32 + len(item), 1)
    before = b"APETAGEX" + values + struct.pack("<I", 0xA0000000) + bytes(8) if header else b""
    return before + item + b"APETAGEX" + values + struct.pack("<I", 0x80000000 if header else 0) + bytes(8)


LYRICS = b"LYRICSBEGININD00002110LYR00010Hello worl000055LYRICS200"
TAG = b"TAG" + b"x" * 125


@pytest.mark.parametrize("xing", [True, False])
@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (id3(10) * 2, b""),
        (id3(300, footer=True), b""),
        (id3(10) + bytes(500), b""),
        (bytes(100), b""),
        (b"", TAG),
        (id3(10), ape() + TAG),
        (b"", ape(header=False)),
        (b"", b"TAG+" + bytes(223) + TAG),
        (b"", LYRICS + TAG),
        (b"", bytes(5000)),
        (b"", id3(200)),
        (b"", b"some text at the end " * 40),
    ],
)
def test_tags_and_padding_around_the_frames_change_nothing(
    before: bytes, behind: bytes, xing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mp3(mode="VARIABLE")
    data = data if xing else without_xing(data)
    expected = by_each_decoder(data, monkeypatch)
    assert np.array_equal(by_each_decoder(before + data + behind, monkeypatch), expected)


def test_a_truncated_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = mp3()
    bare = without_xing(data)
    places = frames(data)
    refuse(data[: places[25][0]], r"the MP3 header announces \d+ frames, the file has 24: it is truncated\. Copy", monkeypatch)
    refuse(data[: places[-1][0]], r"the MP3 header announces \d+ frames, the file has \d+: it is truncated", monkeypatch)
    refuse(data[:-1], r"the file ends within MP3 frame \d+, at byte \d+, after \d+ of \d+ bytes: it is truncated", monkeypatch)
    refuse(bare[:-1], r"the file ends within MP3 frame", monkeypatch)
    refuse(bare[:-40] + TAG, r"the file ends within MP3 frame", monkeypatch)
    refuse(bare[:-40] + ape(), r"the file ends within MP3 frame", monkeypatch)
    refuse(data[:50], r"the file ends within MP3 frame 0, at byte 0, after 50 of", monkeypatch)
    # Without a header that counts the frames, nothing tells a shorter recording from a file that is cut between two frames.
    at = frames(bare)[20][0]
    assert len(by_each_decoder(bare[:at], monkeypatch)) == 20 * 576


@pytest.mark.parametrize("joined", ["xing", "bare"])
def test_joined_files(joined: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, bare = mp3(), without_xing(mp3())
    assert len(by_each_decoder(bare + bare, monkeypatch)) == 2 * len(frames(bare)) * 576
    refuse(bare + data, r"a second MP3 header is at byte \d+: recordings were joined\. Decode and join", monkeypatch)
    refuse(data + data, r"a second MP3 header is at byte", monkeypatch)
    refuse(data + id3(50) + data, r"a second MP3 file begins at byte \d+, behind a tag", monkeypatch)
    refuse(data + bare, r"the MP3 header announces \d+ frames, the file has \d+: recordings were joined, or", monkeypatch)
    first = data if joined == "xing" else bare
    for other, text in ((mp3(rate=44100), "1 at 44100 Hz"), (mp3(channels=2), "2 at 16000 Hz"), (mp3(rate=24000), "1 at 24000 Hz")):
        for second in (other, without_xing(other)):
            refuse(first + second, rf"the MP3 frames change from 1 channels at 16000 Hz to {text}, at byte {len(first)}", monkeypatch)


@pytest.mark.parametrize("xing", [True, False])
def test_foreign_bytes_between_frames_are_refused(xing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = mp3() if xing else without_xing(mp3())
    at, end = frames(data)[30]
    for corrupt in (
        data[:at] + b"\0" + data[at + 1 :],
        data[:at] + bytes(1000) + data[at + 1000 :],
        data[:at] + b"some text" + data[at:],
        data[:at] + data[at + 1 :],
        data[:at] + data[end - 3 :],
    ):
        refuse(corrupt, r"\d+ bytes at byte \d+ are no MP3 frame \(b.*\), and frames follow them: the file is corrupt", monkeypatch)


def test_what_cannot_be_decoded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = without_xing(mp3())
    free = bytes([data[0], data[1], data[2] & 0x0F, data[3]]) + bytes(100)
    refuse(free * 10, r"the MP3 file has a free bitrate, which is not supported\. Convert", monkeypatch)
    refuse(b"\xff\xfb\x90\x00" + b"x" * 2000, r"begins with b'\\xff\\xfb\\x90\\x00x", monkeypatch)


def test_a_header_that_counts_itself_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = mp3()
    expected = by_each_decoder(data, monkeypatch)
    at = max(data.find(b"Info"), data.find(b"Xing")) + 8
    (count,) = struct.unpack_from(">I", data, at)
    assert len(by_each_decoder(data[:at] + struct.pack(">I", count + 1) + data[at + 4 :], monkeypatch)) == len(expected)
    assert len(by_each_decoder(data[:at] + bytes(4) + data[at + 4 :], monkeypatch)) == len(expected)
    head = data[: frames(data)[0][1]]
    vbri = head[:4] + bytes(32) + b"VBRI" + bytes(6) + struct.pack(">II", len(data), count)
    bare = without_xing(data)
    assert len(by_each_decoder(vbri.ljust(len(head), b"\0") + bare, monkeypatch)) == count * 576
    cut = bare[: frames(bare)[-3][0]]
    refuse(vbri.ljust(len(head), b"\0") + cut, r"the MP3 header announces \d+ frames, the file has", monkeypatch)


def test_a_hostile_file_takes_no_longer_than_its_size() -> None:
    data = without_xing(mp3())
    head = data[:4]
    for tail in (head * 500_000, b"\xff\xfb\x90\x64" * 500_000, b"\xff" * 2_000_000, b"ID3\4\0\0\0\0\0\0" * 200_000, bytes(2_000_000)):
        begin = time.perf_counter()
        with contextlib.suppress(AudioError):
            read_header(data + tail, "song")
        assert time.perf_counter() - begin < 10
