"""WAV, AIFF and FLAC files that unusual writers leave: decoded whole by both decoders, or refused by name."""

from __future__ import annotations

import io
import logging
import struct

import numpy as np
import pytest
import soundfile

from tests.audio.test_audio import chunk, fmt, wav
from tests.audio.test_mpeg import by_each_decoder, id3, refuse, speech
from vlpipe import audio
from vlpipe.audio import decoding

INTEGERS = np.round(speech(4000)[:, 0] * 20_000).astype("<i2")
EXPECTED = (INTEGERS / np.float32(32768))[:, None]


def flac(subtype: str = "PCM_16", count: int = 9000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speech(count), 16000, format="FLAC", subtype=subtype)
    return file.getvalue()


def without_total(data: bytes, *, md5: bool) -> bytes:
    (packed,) = struct.unpack_from(">Q", data, 18)
    return data[:18] + struct.pack(">Q", packed >> 36 << 36) + (data[26:42] if md5 else bytes(16)) + data[42:]


@pytest.mark.parametrize(
    "data",
    [
        wav(fmt(), b"data" + struct.pack("<I", 0xFFFFFFFF) + INTEGERS.tobytes()),
        wav(fmt(), b"data" + struct.pack("<I", 0x7FFFF000) + INTEGERS.tobytes()),
        b"RIFF\xff\xff\xff\xffWAVE" + fmt() + chunk(b"LIST", b"INFO") + b"data\xff\xff\xff\xff" + INTEGERS.tobytes(),
        id3(10) + wav(fmt(), chunk(b"data", INTEGERS.tobytes())),
        id3(10, footer=True) * 2 + wav(fmt(), chunk(b"data", INTEGERS.tobytes())),
        wav(fmt(), b"LIST" + struct.pack("<I", 5) + b"INFOx", chunk(b"data", INTEGERS.tobytes())),  # no byte behind an odd size
        wav(fmt(), chunk(b"LIST", b"INFO") + b"\0", chunk(b"data", INTEGERS.tobytes())),  # one behind an even size
        wav(b"xyz " + struct.pack("<I", 3) + b"abc\0", fmt(), chunk(b"data", INTEGERS.tobytes()), chunk(b"LIST", b"INFO")),
        b"RF64\xff\xff\xff\xffWAVE"
        + chunk(b"ds64", struct.pack("<QQQI", 0, 8000, 4000, 0))
        + fmt()
        + b"data\xff\xff\xff\xff"
        + INTEGERS.tobytes(),
    ],
)
def test_wav_files_by_unusual_writers(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.array_equal(by_each_decoder(data, monkeypatch), EXPECTED)


def test_24_bits_whose_size_counts_the_pad(monkeypatch: pytest.MonkeyPatch) -> None:
    content = np.arange(3003 * 3, dtype=np.uint32).astype(np.uint8).tobytes()
    header = fmt(align=3, bits=24)
    expected = by_each_decoder(wav(header, chunk(b"data", content), b"\0"), monkeypatch)
    assert len(expected) == 3003
    assert np.array_equal(by_each_decoder(wav(header, chunk(b"data", content + b"\0")), monkeypatch), expected)


def test_wav_files_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = wav(fmt(), chunk(b"data", INTEGERS.tobytes()))
    refuse(good + good, r"a second WAV file begins at byte 8044: recordings were joined\. Join their", monkeypatch)
    more = wav(fmt(), chunk(b"data", INTEGERS.tobytes()), chunk(b"data", bytes(400)))
    refuse(more, r"a second data chunk begins at byte 8044, expected one\. Convert", monkeypatch)
    refuse(id3(10) + good[:-100], r"the header announces 8000 bytes of samples, the file has 7900: it is truncated", monkeypatch)
    open_end = wav(fmt(), b"data\xff\xff\xff\xff" + INTEGERS.tobytes() + b"\0")
    refuse(open_end[:-1] * 2, r"another WAV header follows within the samples: recordings were joined", monkeypatch)
    refuse(open_end, r"the WAV header is inconsistent: 8001 bytes of samples in blocks of 2 bytes", monkeypatch)
    refuse(wav(fmt(encoding=99), chunk(b"data", bytes(40))), r"this encoding of WAV is not supported \(.*\)\. Convert", monkeypatch)
    many = b"RIFF\0\0\0\0WAVE" + chunk(b"junk", b"") * 1_000_000
    refuse(many, r"the WAV file has no data chunk", monkeypatch)


@pytest.mark.parametrize("kind", ["AIFF", "RIFX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_that_only_soundfile_writes(kind: str, subtype: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    samples = speech(3001, channels)
    arguments = {"format": "WAV", "endian": "BIG"} if kind == "RIFX" else {"format": kind}
    soundfile.write(file, samples, 16000, subtype=subtype, **arguments)
    expected, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)
    for before in (b"", id3(10)):
        decoded, rate = audio.decode(before + file.getvalue())
        assert rate == 16000
        assert np.array_equal(decoded, expected)
    if subtype != "ULAW":
        refuse(file.getvalue()[:-100], r"the (AIFF )?header announces \d+ bytes of samples, the file has \d+: it is truncated", monkeypatch)


def test_an_aiff_file_without_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(b"FORM\0\0\0\x0cAIFFSSND\0\0\0\0", "the AIFF file has no COMM chunk, expected one", monkeypatch)


@pytest.mark.parametrize("md5", [True, False])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("count", [1, 300, 9000, 40_960])
def test_flac_without_a_total(subtype: str, count: int, md5: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = flac(subtype, count)
    expected = by_each_decoder(data, monkeypatch)
    assert len(expected) == count
    bare = without_total(data, md5=md5)
    for file in (bare, id3(10) + bare, id3(10) + data, bare + b"TAG" + bytes(125)):
        assert np.array_equal(by_each_decoder(file, monkeypatch), expected)
    for cut in (bare[:-1], bare[: len(bare) - len(bare) // 3], bare[:-1] + bytes([bare[-1] ^ 1])):
        if len(cut) > 8300:
            refuse(cut, "the FLAC header has no total, and the file does not end with a whole frame", monkeypatch)


def test_flac_without_frames_or_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    data = flac()
    refuse(data + data, r"a second FLAC file begins at byte \d+: recordings were joined", monkeypatch)
    position, last = 4, False
    while not last:
        last = data[position] >= 128
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    assert audio.decode(without_total(data, md5=False)[:position])[0].shape == (0, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            r"a pointer of Git LFS or git-annex, not the file.*git lfs pull",
        ),
        (b"../.git/annex/objects/x1/y2/SHA256E-s9--0.wav", "a pointer of Git LFS or git-annex"),
        (b"\n<!DOCTYPE html><html>", r"a web page, not an audio file\. Download"),
        (b"\0\0\0\x20ftypM4A " + bytes(40), r"is MP4 or M4A, which is not supported\. Convert it to FLAC or WAV"),
        (b"RIFF\0\0\0\0AVI " + bytes(40), "is AVI, which is not supported"),
        (b"\xff\xf1\x50\x80" + bytes(40), "is AAC, which is not supported"),
        (b"\xff\xfd\x90\x00" + bytes(40), "is MPEG audio of layer II, which is not supported"),
    ],
)
def test_what_is_not_supported_is_said(data: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(data, message, monkeypatch)


def test_floats_beyond_one_are_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(decoding, "_loud", [])
    values = np.array([0, 12_000, -30_000, np.nan], "<f4")
    data = wav(fmt(encoding=3, align=4, bits=32), chunk(b"data", values.tobytes()))
    quiet = wav(fmt(encoding=3, align=4, bits=32), chunk(b"data", (values / 30_000).tobytes()))
    with caplog.at_level(logging.WARNING, "vlpipe"):
        audio.decode(quiet, name="quiet")
        for name in ("first", "second"):
            np.testing.assert_array_equal(audio.decode(data, name=name)[0][:, 0], values)
    (record,) = caplog.records
    assert record.getMessage().startswith("first: samples reach 30000, expected floats in [-1, 1]: they are passed on unchanged")
