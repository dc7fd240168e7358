"""The channels of encoded audio, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import audio_file, ints, raw
from vlpipe import layouts
from vlpipe.errors import ArgumentError, SchemaError

STEREO = [np.random.default_rng(n).integers(-30_000, 30_000, (20 + n, 2)) for n in range(5)]
STEREO[3] = np.zeros((0, 2), int)


def write(path: Path, recordings: list[np.ndarray]) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, samples in enumerate(recordings):
            feature = {"x": raw(audio_file(samples, kind="FLAC" if number % 2 and len(samples) else "WAV")), "label": ints(number)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return path


def delivered(source: Any, **arguments: Any) -> dict[int, list[Any]]:
    result = {}
    for x, y in vlpipe.make_dataset(
        source, batch_size=2, shuffle=False, lengths=True, label="label", length_range=(0, None), **arguments
    ).as_numpy_iterator():
        for frames, length, label in zip(x["features"], x["lengths"], y, strict=True):
            result[int(label)] = frames[:length].tolist()
    return result


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_each_engine_keeps_the_channels(tmp_path: Path, engine: str) -> None:
    path = write(tmp_path / "a.tfrecord", STEREO)
    floats = [(samples / 32768).astype(np.float32) for samples in STEREO]
    expected = {
        "mix": [((x[:, :1] + x[:, 1:]) / np.float32(2)) for x in floats],
        "first": [x[:, :1] for x in floats],
        "all": floats,
    }
    for channels, frames in expected.items():
        layout = layouts.encoded_audio("x", label="label", channels=channels)  # type: ignore[arg-type]
        got = delivered(str(path), layout=layout, engine=engine)
        assert got == {number: value.tolist() for number, value in enumerate(frames)}
        source = vlpipe.open(str(path), layout=layout)
        assert [source[row]["x"].tolist() for row in range(5)] == [value.tolist() for value in frames]


def test_a_converted_source_keeps_its_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", STEREO)
    source = vlpipe.open(str(path), layout=layouts.encoded_audio("x", channels="first"))
    assert source.metadata["channels"] == "first"
    assert "channels" not in vlpipe.open(str(path), layout=layouts.encoded_audio("x")).metadata
    digests = {layouts.encoded_audio("x", channels=channels).digest for channels in ("mix", "first", "all")}  # type: ignore[arg-type]
    assert len(digests) == 3
    assert vlpipe.verify(str(path), layouts.encoded_audio("x", channels="all"))


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [*STEREO, STEREO[0][:, 0]])
    vlpipe.build_index(str(path), layouts.encoded_audio("x"))
    with pytest.raises(vlpipe.DatasetError, match=r'record 5 at byte .*: "x": the audio file has 1 channels, but the first record has 2'):
        vlpipe.build_index(str(path), layouts.encoded_audio("x", channels="all"))
    with pytest.raises(ArgumentError, match="channels: came as 'left'"):
        layouts.encoded_audio("x", channels="left")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="layout: channels applies to audio files only, but form came as 'floats'"):
        layouts.Frames("x", "floats", 1, channels="first")
    (tmp_path / "b.tfrecord").write_bytes(b"")
    with pytest.raises((SchemaError, vlpipe.DatasetError)):
        vlpipe.build_index(str(tmp_path / "b.tfrecord"), layouts.encoded_audio("x", channels="all"))
