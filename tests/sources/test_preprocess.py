"""`RecordSet.preprocess`: what a prediction needs is what training got."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.tones import RATE, work_in_threads, write_tones
from vlpipe import ingest
from vlpipe.audio import LogMel, load


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("normalize", [None, "utterance", "global"])
def test_it_makes_what_make_dataset_delivers(dtype: str, normalize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_threads(monkeypatch)
    audio = write_tones(tmp_path / "audio", ["a.wav", "b.wav", "c.wav"])
    features = LogMel(sample_rate=RATE, mels=8)
    ingest.ingest(ingest.find_recordings(audio)[0], tmp_path / "d", features, dtype=dtype, num_shards=1, workers=1)
    source = vlpipe.open(tmp_path / "d")
    dataset = vlpipe.make_dataset(source, batch_size=1, normalize=normalize, label="path", shuffle=False)
    for x, path in dataset:
        file = audio / path[0].numpy().decode()
        delivered = x[0].numpy()
        exact = np.testing.assert_array_equal if normalize != "utterance" else np.testing.assert_allclose
        options: dict[str, Any] = {} if normalize != "utterance" else {"atol": 1e-5}
        exact(source.preprocess(file, normalize=normalize), delivered, **options)
        exact(source.preprocess(load(file, sample_rate=RATE)[0], normalize=normalize), delivered, **options)
        exact(source.preprocess(features(load(file, sample_rate=RATE)[0]), normalize=normalize), delivered, **options)


def test_of_waveforms_it_computes_the_transform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_threads(monkeypatch)
    audio = write_tones(tmp_path / "audio", ["a.wav", "b.wav", "c.wav"])
    ingest.ingest(ingest.find_recordings(audio)[0], tmp_path / "d", ingest.Waveform(11025), num_shards=1, workers=1)
    source, features = vlpipe.open(tmp_path / "d"), LogMel(sample_rate=11025, mels=8)
    for normalize in (None, "utterance"):
        for x, path in vlpipe.make_dataset(source, batch_size=1, transform=features, normalize=normalize, label="path"):
            file = audio / path[0].numpy().decode()
            atol = 1e-5 if normalize is None else 1e-2  # of a band that hardly varies, normalisation makes the rounding large
            np.testing.assert_allclose(source.preprocess(file, transform=features, normalize=normalize), x[0], atol=atol)
    with pytest.raises(vlpipe.DatasetError, match="for a source of waveforms transform=vlpipe.audio.LogMel"):
        source.preprocess(file)
    with pytest.raises(vlpipe.ArgumentError, match="preprocess: transform came as <function"):
        source.preprocess(file, transform=lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(vlpipe.ArgumentError, match="normalize came as 'global', expected None or 'utterance', as for make_dataset"):
        source.preprocess(file, transform=features, normalize="global")


def test_samples_are_resampled(tmp_path: Path) -> None:
    with vlpipe.Writer(tmp_path / "d", vlpipe.Schema(features=vlpipe.Sequence(8))) as writer:
        writer.metadata = {"features": LogMel(sample_rate=8000, mels=8).settings()}
    preprocess = vlpipe.open(tmp_path / "d").preprocess
    samples = np.sin(np.arange(16000) / 20).astype(np.float32)
    assert preprocess(samples, sample_rate=16000).shape == preprocess(samples[:8000]).shape


@pytest.mark.parametrize(
    ("recording", "arguments", "error", "message"),
    [
        ("a.wav", {}, vlpipe.DatasetError, "preprocess: the metadata of the source have no settings of its features"),
        (np.ones(5), {}, vlpipe.DatasetError, "preprocess: the metadata of the source have no settings"),
        (["a"], {}, vlpipe.ArgumentError, r"preprocess: came as list, expected a path, samples \[N\] or features"),
        (np.ones((5, 3)), {}, vlpipe.ArgumentError, r'preprocess: came as frames \[3\], "x" of the source has \[2\]'),
        (np.ones((5, 2)), {"normalize": "rms"}, vlpipe.ArgumentError, "preprocess: normalize came as 'rms', expected None, 'utterance'"),
    ],
)
def test_refusals(recording: Any, arguments: Any, error: Any, message: str, tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "d", [{"x": np.ones((n, 2), np.float32)} for n in (1, 2)])
    with pytest.raises(error, match=message):
        vlpipe.open(tmp_path / "d").preprocess(recording, **arguments)


def test_what_is_unknown_is_refused(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "two", [{"x": np.ones((3, 2), np.float32), "z": np.ones((3, 2), np.float32)}])
    with pytest.raises(vlpipe.DatasetError, match=r"preprocess: the source has several sequences, \['x', 'z'\]; it is unclear which"):
        vlpipe.open(tmp_path / "two").preprocess(np.ones((3, 2)))
    with vlpipe.Writer(tmp_path / "d") as writer:
        writer.metadata = {"features": LogMel(sample_rate=8000, mels=8).settings()}
        for number in range(3):
            writer.write({"x": np.ones((3, 8), np.float32), "n": number})
    selection = vlpipe.open(tmp_path / "d").select({"n": 1})
    with pytest.raises(vlpipe.DatasetError, match=r'preprocess: normalize="global": the statistics of "x" of the source are not known'):
        selection.preprocess(np.ones((3, 8)), normalize="global")
    with pytest.raises(vlpipe.ArgumentError, match="preprocess: came as samples of int16, expected floats in"):
        selection.preprocess(np.ones(3, np.int16))
