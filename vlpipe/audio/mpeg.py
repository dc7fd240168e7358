"""The frames of an MP3 file: where each begins, how many there are, and whether these are all that the file announces.

Decoders skip what they do not understand and estimate what they do not count, without a word: a corrupt or foreign byte loses the
frames around it, and a file without a Xing header whose bitrate varies ends early. This module therefore walks all frame headers
(ISO/IEC 11172-3 and 13818-3) without decoding, and reads the header of the whole file in the first frame (Xing or Info with the
extension of LAME, or VBRI of Fraunhofer).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from vlpipe.audio.header import Header
from vlpipe.audio.tags import begin_of_trailing_tags, end_of_trailing_tags
from vlpipe.errors import AudioError

_KILOBITS = {  # by whether the version is MPEG 1
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)
_DECODER_DELAY = 529  # samples by which every MP3 decoder is late, beside the delay of the encoder
_CORRUPT = "Copy it again, or leave it out."
_JOINED = "Decode and join the recordings as WAV, or leave it out."


@dataclass(frozen=True)
class FrameHeader:
    """The header of one frame.

    Attributes:
        version: 3 for MPEG 1, 2 for MPEG 2, 0 for MPEG 2.5.
        rate: sample rate in Hz.
        channels: 1 or 2.
        kilobits: 0 for a free bitrate, which the header does not contain.
        padding: 1 if the frame has one byte more.
        crc: whether a checksum follows the header.
    """

    version: int
    rate: int
    channels: int
    kilobits: int
    padding: int
    crc: bool

    @property
    def samples(self) -> int:
        """Samples per channel in a frame."""
        return 1152 if self.version == 3 else 576

    @property
    def size(self) -> int:
        """Bytes of the frame."""
        return self.samples // 8 * 1000 * self.kilobits // self.rate + self.padding

    @property
    def side(self) -> int:
        """Bytes of the header and of the side information; a Xing header follows them."""
        mpeg1 = self.version == 3
        return 4 + ((32 if mpeg1 else 17) if self.channels == 2 else (17 if mpeg1 else 9))

    def is_like(self, other: FrameHeader) -> bool:
        """Whether both can be frames of one stream."""
        return (self.version, self.rate, self.channels) == (other.version, other.rate, other.channels)


@dataclass(frozen=True)
class _Announced:
    """What the header of the whole file says: frames (0: unknown), bytes (0: unknown), samples to drop in front and behind."""

    frames: int = 0
    bytes: int = 0
    skip: int = 0
    drop: int = 0


def frame_header(data: bytes, position: int) -> FrameHeader | None:
    """Return the header of the Layer III frame at a position; None if there is none."""
    if position + 4 > len(data) or data[position] != 0xFF or data[position + 1] & 0xE6 != 0xE2:
        return None
    second, third, fourth = data[position + 1 : position + 4]
    version, bitrate, rate = second >> 3 & 3, third >> 4, third >> 2 & 3
    if version == 1 or bitrate == 15 or rate == 3:
        return None
    halved = {3: 0, 2: 1, 0: 2}[version]
    kilobits = _KILOBITS[version == 3][bitrate]
    return FrameHeader(version, _RATES[rate] >> halved, 1 if fourth >> 6 == 3 else 2, kilobits, third >> 1 & 1, not second & 1)


def read_mp3(data: bytes, begin: int, name: str) -> Header | None:
    """Read all frame headers of an MP3 file.

    Args:
        data: the whole file.
        begin: position of the first frame.
        name: name of the file in errors.

    Returns:
        The header, with the exact number of samples; None if the data are no MP3.

    Raises:
        AudioError: the file is truncated, has foreign bytes between frames, changes its rate or channels, consists of several joined files,
            or has a free bitrate.
    """
    first = frame_header(data, begin)
    if first is None:
        return None
    if not first.kilobits:
        raise AudioError(f"{name}: the MP3 file has a free bitrate, which is not supported. Convert the recording to FLAC or WAV.")
    announced = _announced(data, begin, first)
    audio = begin if announced is None or begin + first.size > len(data) else begin + first.size
    frames, end = _walk(data, audio, first, name)
    behind = end_of_trailing_tags(data, end)
    if frames + (announced is not None) < 2 and behind < len(data):  # text in another encoding can look like one frame
        return None
    _check_rest(data, behind, first, name)
    announced = announced or _Announced()
    _check_count(frames, end - begin, announced, name)
    total = frames * first.samples
    skip = min(announced.skip, total)
    drop = min(announced.drop, total - skip)
    return Header(
        "MP3",
        first.rate,
        first.channels,
        samples=total - skip - drop,
        parts=((audio, end),),
        prefix=_prefix(data[begin : begin + 4], first, frames),
        lead=(first.samples - _DECODER_DELAY, first.samples),
        trim=(skip, drop),
    )


def _walk(data: bytes, position: int, first: FrameHeader, name: str) -> tuple[int, int]:
    """Return the number of frames from a position on, and where the last one ends."""
    base = first.samples // 8 * 1000
    sizes = [base * kilobits // first.rate + padding for kilobits in (*_KILOBITS[first.version == 3], 0) for padding in (0, 1)]
    sizes[:2] = sizes[-2:] = [0, 0]  # a free bitrate, and none
    second, third = 0xE2 | first.version << 3, _rate_bits(first)
    mono, side, limit = first.channels == 1, first.side, begin_of_trailing_tags(data)
    frames, length = 0, len(data)
    while position + 4 <= length:
        size = sizes[data[position + 2] >> 1 & 1 | data[position + 2] >> 3 & 30]
        if (
            data[position] != 0xFF
            or data[position + 1] & 0xFE != second
            or data[position + 2] & 0x0C != third
            or (data[position + 3] >= 0xC0) != mono
            or not size
        ):
            break
        if position + size > limit:
            raise AudioError(
                f"{name}: the file ends within MP3 frame {frames}, at byte {position}, after {max(limit - position, 0)} of {size} bytes: "
                f"it is truncated. {_CORRUPT}"
            )
        if data.startswith((b"Xing", b"Info"), position + side) and not any(data[position + 4 : position + side]):
            raise AudioError(f"{name}: a second MP3 header is at byte {position}: recordings were joined. {_JOINED}")
        frames += 1
        position += size
    return frames, position


def _rate_bits(first: FrameHeader) -> int:
    return _RATES.index(first.rate << {3: 0, 2: 1, 0: 2}[first.version]) << 2


def _check_rest(data: bytes, position: int, first: FrameHeader, name: str) -> None:
    """Refuse frames behind bytes that are none: a decoder would lose some around them."""
    other = frame_header(data, position)
    if other is not None and _is_frame(data, position, other):
        if other.is_like(first):
            raise AudioError(f"{name}: a second MP3 file begins at byte {position}, behind a tag: recordings were joined. {_JOINED}")
        raise AudioError(
            f"{name}: the MP3 frames change from {first.channels} channels at {first.rate} Hz to {other.channels} at {other.rate} Hz, at "
            f"byte {position}: several recordings were joined. {_JOINED}"
        )
    for match in re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]").finditer(data, position):
        frame = frame_header(data, match.start())
        if frame is not None and _is_frame(data, match.start(), frame):
            raise AudioError(
                f"{name}: {match.start() - position} bytes at byte {position} are no MP3 frame ({data[position : position + 8]!r}), and "
                f"frames follow them: the file is corrupt, or several were joined. {_CORRUPT}"
            )


def _is_frame(data: bytes, position: int, frame: FrameHeader) -> bool:
    """Whether a frame is followed by another one, or by the end of the file."""
    end = position + frame.size
    following = frame_header(data, end)
    return frame.kilobits > 0 and (end == len(data) or (following is not None and following.is_like(frame)))


def _check_count(frames: int, size: int, announced: _Announced, name: str) -> None:
    # Some encoders count the frame of the Xing header too; the number of bytes then tells this from a file that lacks its last frame.
    counted = announced.frames - 1 if announced.frames == frames + 1 and announced.bytes == size else announced.frames
    if counted > frames:
        raise AudioError(f"{name}: the MP3 header announces {announced.frames} frames, the file has {frames}: it is truncated. {_CORRUPT}")
    if counted and counted < frames:
        raise AudioError(
            f"{name}: the MP3 header announces {announced.frames} frames, the file has {frames}: recordings were joined, or the header is "
            f"wrong. {_JOINED}"
        )


def _announced(data: bytes, begin: int, first: FrameHeader) -> _Announced | None:
    """Read the Xing, Info or VBRI header in the first frame; None if that frame holds audio."""
    frame = data[begin : begin + first.size]
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        count, total = struct.unpack_from(">I", frame, 50)[0], struct.unpack_from(">I", frame, 46)[0]
        return _Announced(count, total)
    at = next((side for side in (first.side, first.side + 2) if frame[side : side + 4] in (b"Xing", b"Info")), None)
    if at is None or len(frame) < at + 8:
        return None
    (flags,) = struct.unpack_from(">I", frame, at + 4)
    at, values = at + 8, [0, 0]  # frames, bytes
    for bit, size in enumerate((4, 4, 100, 4)):  # frames, bytes, table of positions, quality
        if flags >> bit & 1:
            if bit < 2 and len(frame) >= at + 4:
                (values[bit],) = struct.unpack_from(">I", frame, at)
            at += size
    if len(frame) < at + 24 or not frame[at]:
        return _Announced(values[0], values[1])
    delay, padding = frame[at + 21] << 4 | frame[at + 22] >> 4, (frame[at + 22] & 15) << 8 | frame[at + 23]
    return _Announced(values[0], values[1], skip=delay + _DECODER_DELAY, drop=max(padding - _DECODER_DELAY, 0))


def _prefix(header: bytes, first: FrameHeader, frames: int) -> bytes:
    """Two frames for libsndfile: a Xing header with the number of frames, without which it estimates their number; and one of silence.

    Behind a Xing header it drops the first 529 samples, even where no delay is announced: silence keeps the recording whole.
    """
    sizes = [first.samples // 8 * 1000 * kilobits // first.rate for kilobits in _KILOBITS[first.version == 3]]
    bitrate, size = next((number, size) for number, size in enumerate(sizes) if size >= first.side + 16)
    start = bytes([0xFF, header[1] | 1, bitrate << 4 | header[2] & 0x0C, header[3]])
    count = bytes(first.side - 4) + b"Xing" + struct.pack(">II", 1, frames + 1)
    return (start + count).ljust(size, b"\0") + start.ljust(size, b"\0")
