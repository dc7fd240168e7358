"""Ogg files: chained, multiplexed, with missing and corrupt pages; Vorbis and Opus decoded whole, or refused."""

from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
import soundfile

from tests.audio.test_mpeg import by_each_decoder, refuse, speech
from vlpipe import audio
from vlpipe.audio.containers import read_header
from vlpipe.errors import AudioError


def ogg(count: int = 30_000, rate: int = 16000, channels: int = 1, kind: str = "VORBIS") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speech(count, channels), rate, format="OGG", subtype=kind)
    return file.getvalue()


def crc(page: bytes) -> int:
    """The checksum of an Ogg page, bit by bit as in RFC 3533."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


def pages(data: bytes) -> list[bytes]:
    starts = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    return [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def changed(page: bytes, at: int, content: bytes) -> bytes:
    """A page with other bytes at a place, and its checksum computed again."""
    page = page[:at] + content + page[at + len(content) :]
    return page[:22] + struct.pack("<I", crc(page[:22] + bytes(4) + page[26:])) + page[26:]


def numbered(data: bytes, serial: int) -> bytes:
    return b"".join(changed(page, 14, struct.pack("<I", serial)) for page in pages(data))


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("channels", [1, 2])
def test_all_links_of_a_chain_are_decoded(kind: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = numbered(ogg(30_000, channels=channels, kind=kind), 1), numbered(ogg(12_345, channels=channels, kind=kind), 2)
    alone = [by_each_decoder(data, monkeypatch) for data in (first, second)]
    assert [len(samples) for samples in alone] == [30_000, 12_345]
    assert np.array_equal(by_each_decoder(first + second, monkeypatch), np.concatenate(alone))
    assert np.array_equal(by_each_decoder(first + first, monkeypatch), np.concatenate([alone[0], alone[0]]))


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
@pytest.mark.parametrize("count", [1, 4321])
def test_opus_has_the_rate_and_the_length_that_were_written(rate: int, count: int) -> None:
    data = ogg(count, rate, kind="OPUS")
    samples, decoded = audio.decode(data)
    assert (samples.shape, decoded, read_header(data, "song").samples) == ((count, 1), rate, count)


def test_opus_of_a_recording_with_another_rate() -> None:
    first, *others = pages(ogg(48_000, 48_000, kind="OPUS"))
    at = first.find(b"OpusHead") + 12
    samples, rate = audio.decode(changed(first, at, struct.pack("<I", 44_100)) + b"".join(others))
    assert (len(samples), rate) == (48_000, 48_000)


def test_links_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first = numbered(ogg(), 1)
    for second, text in (
        (ogg(rate=44100), "Ogg Vorbis with 1 at 44100 Hz"),
        (ogg(channels=2), "Ogg Vorbis with 2 at 16000 Hz"),
        (ogg(kind="OPUS"), "Ogg Opus with 1 at 16000 Hz"),
    ):
        message = rf"changes from Ogg Vorbis with 1 channels at 16000 Hz to {text}, at byte {len(first)}: several recordings"
        refuse(first + numbered(second, 2), message, monkeypatch)


def ogg_flac(serial: int) -> bytes:
    """A FLAC file in two Ogg pages."""
    file = io.BytesIO()
    soundfile.write(file, speech(300), 16000, format="FLAC")
    data = b"\x7fFLAC\1\0\0\0" + file.getvalue()
    split = []
    for sequence, (flags, content) in enumerate(((2, data[:51]), (4, data[51:]))):
        lacing = bytes([255] * (len(content) // 255) + [len(content) % 255])
        header = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 300 * sequence, serial, sequence, 0, len(lacing))
        split.append(changed(header + lacing + content, 0, b"OggS"))
    return b"".join(split)


def test_a_chain_of_flac_streams_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_header(ogg_flac(1), "song").samples == 300
    refuse(ogg_flac(1) + ogg_flac(2), r"the Ogg file is a chain of FLAC streams, which is not supported\. Decode and join", monkeypatch)


def test_missing_and_corrupt_pages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ogg(200_000)
    split = pages(data)
    assert len(split) > 5
    refuse(b"".join(split[:3] + split[4:]), r"an Ogg page is missing before byte \d+: page 4 follows page 2\. Copy", monkeypatch)
    refuse(b"".join(split[:-1]), r"the Ogg stream ends without a last page, after", monkeypatch)
    refuse(data[:-10], r"the Ogg stream ends without a last page, after", monkeypatch)
    refuse(b"".join(split[:-1]) + numbered(ogg(), 5), r"an Ogg stream begins at byte \d+, and the one in front of it has no", monkeypatch)
    refuse(b"".join([*split[:3], b"text", *split[3:]]), r"4 bytes between two Ogg pages, at byte", monkeypatch)
    refuse(data + b"text" + data, r"4 bytes between two Ogg pages, at byte \d+, belong to neither", monkeypatch)
    at = len(b"".join(split[:5])) - 9
    corrupt = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    refuse(corrupt, r"the checksum of Ogg page 4, at byte \d+, is wrong: the file is corrupt", monkeypatch)
    assert len(by_each_decoder(data + bytes(500), monkeypatch)) == 200_000
    assert len(by_each_decoder(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data, monkeypatch)) == 200_000


def test_several_streams_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pages(numbered(ogg(), 1)), pages(numbered(ogg(), 2))
    both = b"".join([first[0], second[0], *first[1:], *second[1:]])
    refuse(both, r"the Ogg file holds several streams at once, which is not supported\. Extract", monkeypatch)


def test_checking_takes_no_longer_than_the_size() -> None:
    page = changed(b"OggS" + bytes(23), 0, b"OggS")
    for data in (ogg() + page * 60_000, ogg() + b"OggS" * 400_000, pages(ogg())[0] * 30_000):
        begin = time.perf_counter()
        with pytest.raises(AudioError):
            read_header(data, "song")
        assert time.perf_counter() - begin < 10
