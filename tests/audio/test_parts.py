"""Channels and parts of audio files, compared with slices of the whole decoded file, bit for bit."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from vlpipe import audio
from vlpipe.audio import span as span_module
from vlpipe.audio.channels import keep_channels
from vlpipe.audio.span import Span, read_span
from vlpipe.errors import ArgumentError, AudioError, MissingExtraError

RATE = 8000
KINDS: dict[str, dict[str, Any]] = {
    "a.wav": {"subtype": "PCM_16"},
    "24.wav": {"subtype": "PCM_24"},
    "float.wav": {"subtype": "FLOAT"},
    "law.wav": {"subtype": "ALAW"},
    "a.rf64": {"format": "RF64", "subtype": "PCM_16"},
    "a.rifx": {"format": "WAV", "endian": "BIG", "subtype": "PCM_16"},
    "a.flac": {},
    "a.aiff": {},
    "a.ogg": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    samples = np.random.default_rng(3).uniform(-0.5, 0.5, (20_011, 2))
    for name, options in KINDS.items():
        soundfile.write(folder / name, samples, RATE, **options)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_a_part_is_a_slice_of_the_decoded_file(files: Path, name: str) -> None:
    whole, rate = audio.load(files / name, channels="all")
    seconds = len(whole) / rate
    for start, end in ((0, 0.25), (0.1, 1.7001), (1.0, None), (0, seconds), (seconds - 1 / rate, None), (0.7, 0.7 + 1 / rate)):
        first = math.floor(Fraction(repr(start)) * rate + Fraction(1, 2))
        last = len(whole) if end is None else math.floor(Fraction(repr(end)) * rate + Fraction(1, 2))
        part, its = audio.load(files / name, channels="all", start=start, end=end)
        assert (its, part.dtype, part.tobytes()) == (rate, np.float32, whole[first:last].tobytes())
        assert len(part) == last - first > 0
    mixed, _ = audio.load(files / name, start=0.5, end=0.75)
    assert mixed.tobytes() == keep_channels(whole[rate // 2 : rate * 3 // 4], "mix").tobytes()
    resampled, _ = audio.load(files / name, start=0.5, end=0.75, sample_rate=2 * rate)
    assert resampled.tobytes() == audio.resample(mixed, rate, 2 * rate).tobytes()


@pytest.mark.parametrize("name", ["a.wav", "float.wav", "a.rf64", "a.rifx", "a.flac", "a.aiff"])
def test_only_the_part_is_decoded_where_the_decoder_can_seek(files: Path, name: str) -> None:
    part = read_span(files / name, Span.of(1, 1.5))
    assert part is not None
    samples, rate = audio.decode(part) if isinstance(part, bytes) else part
    assert samples.tobytes() == audio.load(files / name, channels="all")[0][rate : rate + rate // 2].tobytes()


def test_parts_that_are_none(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.wav", "a.flac", "a.mp3"):
        for start, end in ((2.6, None), (0, 2.6), (9, 10)):
            with pytest.raises(AudioError, match=rf"{name}: the part t=.* ends behind the recording, which has 20,011 samples at 8000"):
                audio.load(files / name, start=start, end=end)
        with pytest.raises(AudioError, match=r"the part t=0.5,0.50001 \(in seconds\) has no sample at 8000 Hz"):
            audio.load(files / name, start=0.5, end=0.50001)
    for start, end, message in (
        (1, 1, "start: came as 1 s and end as 1 s, expected start < end"),
        (2, 1.5, "start: came as 2 s and end as 1.5 s"),
        (-0.1, None, "start: came as -0.1, expected seconds, as a number >= 0"),
        (math.nan, None, "start: came as nan, expected seconds"),
        (0, math.inf, "end: came as inf, expected seconds"),
        ("1", None, "start: came as '1', expected seconds"),
    ):
        with pytest.raises(ArgumentError, match=message):
            audio.load(files / "a.wav", start=start, end=end)
    with pytest.raises(AudioError, match="cannot be read"):
        audio.load(tmp_path / "missing.wav", start=1)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="the file is empty"):
        audio.load(tmp_path / "empty.wav", start=1)
    cut = bytearray((files / "a.flac").read_bytes())
    cut[len(cut) // 2 :] = bytes(len(cut) - len(cut) // 2)  # the header still has its length
    (tmp_path / "cut.flac").write_bytes(cut)
    with pytest.raises(
        AudioError, match=r"cut.flac: (the decoder failed at a part of the FLAC file|decoded \d+ samples from sample 16000 on)"
    ):
        audio.load(tmp_path / "cut.flac", start=2)

    class Short(soundfile.SoundFile):
        def read(self, *_: Any, **__: Any) -> np.ndarray:
            return np.zeros((1, 2), np.float32)

    monkeypatch.setattr(soundfile, "SoundFile", Short)
    with pytest.raises(AudioError, match="a.flac: decoded 1 samples from sample 8000 on, the FLAC header announces 8000: the file is"):
        audio.load(files / "a.flac", start=1, end=2)

    def missing(*_: Any, **__: Any) -> None:
        raise MissingExtraError("no soundfile")

    monkeypatch.setattr(span_module, "import_extra", missing)
    assert read_span(files / "a.flac", Span.of(1, 2)) is None  # tensorflow-io decodes all of it


@given(st.decimals(0, 1000, allow_nan=False, places=6), st.integers(1, 192_000))
def test_times_are_rounded_to_the_nearest_sample(seconds: Decimal, rate: int) -> None:
    expected = int((seconds * rate).to_integral_value(ROUND_HALF_UP))
    for span in (Span.of_texts(str(seconds), ""), Span.of_texts(f"{seconds:.6f}", " "), Span.of(float(seconds), None)):
        assert span.samples(rate, 10**12, "x")[0] == expected
        assert Fraction(span.fragment.removeprefix("t=")) == Fraction(seconds)


def test_texts_of_times() -> None:
    assert Span.of_texts(" 1.50", "2.").fragment == "t=1.5,2"
    assert Span.of_texts("1e-05", ".25").fragment == "t=0.00001,0.25"
    assert Span.of_texts("", "") == Span()
    for text in ("nan", "inf", "-1", "1,5", "0x1", "1e999999999", "1e-999999999", "1_0", ".", "1s", "2e9"):
        with pytest.raises(ArgumentError, match=r"end: came as .*, expected a number of seconds from 0 on, such as 1.25"):
            Span.of_texts("", text)


@pytest.mark.parametrize("channels", [1, 2, 3, 9])
def test_channels(channels: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(channels).uniform(-1, 1, (500, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    total = np.zeros(500, np.float32)
    for channel in range(channels):
        total = (total + samples[:, channel]).astype(np.float32)
    assert audio.load(tmp_path / "a.wav")[0].tobytes() == (total / np.float32(channels)).astype(np.float32).tobytes()
    assert audio.load(tmp_path / "a.wav", channels="first")[0].tobytes() == samples[:, 0].tobytes()
    assert audio.load(tmp_path / "a.wav", channels="all")[0].tobytes() == samples.tobytes()
    wrong: Any
    for wrong in ("left", None, 1, ["mix"]):
        with pytest.raises(ArgumentError, match=r'channels: came as .*, expected "mix" \(their mean\), "first" or "all"'):
            audio.load(tmp_path / "a.wav", channels=wrong)
