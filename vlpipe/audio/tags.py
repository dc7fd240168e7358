"""Tags around an audio stream: ID3v2 in front of it, and ID3v1, APEv2, Lyrics3 or ID3v2 behind it.

By the published descriptions: ID3v2.4 (id3.org, section 3), ID3v1, APEv2 (Hydrogenaudio), Lyrics3 v2.
"""

from __future__ import annotations

import struct

from vlpipe.errors import COPY_AGAIN, AudioError

_MAX_TAGS = 64  # in front of one file: two occur, where two programs each wrote one


def end_of_leading_tags(data: bytes, name: str) -> int:
    """Return the position behind all ID3v2 tags at the beginning of a file; 0 without any.

    Raises:
        AudioError: the file ends within a tag.
    """
    position = 0
    for _ in range(_MAX_TAGS):
        size = _id3v2_size(data, position)
        if not size:
            break
        position += size
        if position + 4 > len(data):
            raise AudioError(f"{name}: the file ends within its ID3 tag, after {len(data)} bytes: it is truncated. {COPY_AGAIN}")
    return position


def end_of_trailing_tags(data: bytes, position: int) -> int:
    """Return the position behind the tags and zeros that begin at `position`, behind an audio stream."""
    for _ in range(_MAX_TAGS):
        size = _id3v2_size(data, position)
        if data.startswith(b"APETAGEX", position) and position + 16 <= len(data):
            size = 32 + int(struct.unpack_from("<I", data, position + 12)[0])  # the size leaves out the header
        elif data.startswith(b"TAG+", position):
            size = 227
        elif data.startswith(b"TAG", position):
            size = 128
        elif data.startswith(b"LYRICSBEGIN", position):
            end = max(data.find(b"LYRICS200", position), data.find(b"LYRICSEND", position))
            size = end + 9 - position if end > 0 else 0
        elif data.startswith(b"\0", position):
            size = len(data) - position - len(data[position:].lstrip(b"\0"))
        if not size:
            break
        position = min(position + size, len(data))
    return position


def begin_of_trailing_tags(data: bytes) -> int:
    """Return where the tags begin that can be recognised from the end of a file: APEv2 with a footer, ID3v1."""
    end = len(data)
    if data[-128:-125] == b"TAG":
        end -= 128
    if end >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", data, end - 20)
        size += 32 * (flags >> 31)  # the size leaves out the header
        end = end - size if size <= end else end
    return end


def _id3v2_size(data: bytes, position: int) -> int:
    """The bytes of the ID3v2 tag at a position; 0 if there is none."""
    tag = data[position : position + 10]
    if len(tag) < 10 or tag[:3] != b"ID3" or tag[3] == 0xFF or max(tag[6:]) > 127:
        return 0
    size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]  # 7 bits in each of 4 bytes
    return 10 + size + (10 if tag[5] & 0x10 else 0)  # with a footer
