"""Third-party TFRecord files, written with TensorFlow's own protocol buffers and writer, from the published descriptions."""

from __future__ import annotations

import io
import json
import re
import wave
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tensorflow as tf

import vlpipe
from vlpipe import layouts
from vlpipe.errors import record_place
from vlpipe.files.tfrecord import read_frames
from vlpipe.storage.example import varint

Feature = tf.train.Feature


def floats(values: Any) -> Feature:
    return Feature(float_list=tf.train.FloatList(value=np.asarray(values).ravel()))


def ints(*values: int) -> Feature:
    return Feature(int64_list=tf.train.Int64List(value=values))


def raw(value: Any) -> Feature:
    return Feature(bytes_list=tf.train.BytesList(value=[value if isinstance(value, bytes) else value.tobytes()]))


def place(path: Path, record: int) -> str:
    """Return how errors name a record of an intact file, as a regular expression."""
    return re.escape(record_place(path.name, record, [frame.offset for frame in read_frames(path)][record]))


def loose_example(key: str, values: Any, label: int) -> bytes:
    """Return an Example with unpacked floats, encoded by hand."""

    def inside(tag: bytes, data: bytes) -> bytes:
        return tag + varint(len(data)) + data

    loose = b"".join(b"\x0d" + value.tobytes() for value in np.asarray(values, "<f4").ravel())
    entries = [(key.encode(), inside(b"\x12", loose)), (b"label", ints(label).SerializeToString())]
    return inside(b"\x0a", b"".join(inside(b"\x0a", inside(b"\x0a", name) + inside(b"\x12", value)) for name, value in entries))


def audio_file(samples: np.ndarray, rate: int = 8000, kind: str = "WAV") -> bytes:
    """Return 16-bit samples `[T]` or `[T, channels]` as a WAV or FLAC file."""
    file = io.BytesIO()
    if kind == "FLAC":
        soundfile.write(file, samples.astype("i2"), rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()
    with wave.open(file, "wb") as writer:
        writer.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate, 0, "NONE", ""))
        writer.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def example(features: Mapping[str, Feature]) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def sequence_example(context: Mapping[str, Feature], lists: Mapping[str, list[Feature]]) -> bytes:
    frames = {key: tf.train.FeatureList(feature=values) for key, values in lists.items()}
    return tf.train.SequenceExample(
        context=tf.train.Features(feature=context), feature_lists=tf.train.FeatureLists(feature_list=frames)
    ).SerializeToString()


def write(path: Path, records: Iterable[bytes], compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


@dataclass
class Case:
    """A file with a layout.

    Attributes:
        records: the serialized records.
        frames: the expected frames of each record.
        labels: the expected labels.
        layout: the layout.
        detected: whether the layout is unambiguous without `layout=`.
        key: the key of the frames.
    """

    records: list[bytes]
    frames: list[np.ndarray]
    labels: list[Any]
    layout: layouts.Layout
    detected: bool = True
    key: str = "x"


def cases(records: int = 23) -> dict[str, Case]:
    """Return one case per layout; the first record has no frames if the layout allows this."""
    random = np.random.default_rng(7)
    lengths = [0, *random.integers(1, 30, records - 1).tolist()]
    x = [random.normal(size=(t, 5)).astype("f4") for t in lengths]
    labels: list[Any] = [int(number) for number in random.integers(-3, 400, records)]
    lists = [random.integers(0, 527, count).tolist() for count in random.integers(0, 6, records)]
    quantised = [random.integers(0, 256, (t, 128)).astype("u1") for t in lengths]
    quantised[1][0, :3] = 127, 128, 255
    rgb = [random.integers(0, 256, (t, 1024)).astype("u1") for t in lengths]
    scaled = [(q.astype("f4") * np.float32(4 / 255)) + np.float32(4 / 512 - 2) for q in rgb]

    samples = [random.integers(-3000, 3000, 0 if not t else 290 + 31 * t).astype("i2") for t in lengths]
    waves = [(recording / np.float32(32768))[:, None].astype("f4") for recording in samples]
    stereo = np.stack([samples[1], samples[1] // 2 * 2], 1)

    def each(make: Any) -> list[bytes]:
        return [make(number) for number in range(records)]

    def labelled(number: int, **features: Feature) -> bytes:
        return example({"label": ints(labels[number]), "name": raw(b"r%d" % number), **features})

    half = [frames.astype("f2") for frames in x]
    short = [(frames * 100).astype("i2") for frames in x]
    recordings = {
        "integers": Case(
            each(lambda n: labelled(n, x=ints(*(short[n].astype("i8") * 70_000).ravel().tolist()), n=ints(len(short[n])))),
            [frames.astype("i4") * 70_000 for frames in short],
            labels,
            layouts.int_list("x", d=5, dtype="int32", length="n", label="label"),
        ),
        "int16 samples": Case(
            each(lambda n: labelled(n, x=ints(*samples[n].tolist()))),
            [recording[:, None] for recording in samples],
            labels,
            layouts.int_list("x", d=1, dtype="int16", label="label"),
        ),
        "float samples": Case(each(lambda n: labelled(n, x=floats(waves[n]))), waves, labels, layouts.float_list("x", d=1, label="label")),
        "wav": Case(
            each(lambda n: labelled(n, x=raw(audio_file(stereo if n == 1 else samples[n])))),
            [stereo.astype("f4").mean(1, keepdims=True) / 32768 if n == 1 else wave for n, wave in enumerate(waves)],
            labels,
            layouts.encoded_audio("x", label="label"),
        ),
        "flac": Case(
            each(lambda n: labelled(n, x=raw(audio_file(samples[n], kind="FLAC" if n % 3 else "WAV")))),
            waves,
            labels,
            layouts.encoded_audio("x", label="label"),
        ),
        "not packed": Case(
            each(lambda n: loose_example("x", x[n], labels[n]) if n % 3 else labelled(n, x=floats(x[n]))),
            x,
            labels,
            layouts.float_list("x", d=5, packed=False, label="label").only(),
            False,
        ),
    }
    return recordings | {
        "float_list": Case(each(lambda n: labelled(n, x=floats(x[n]))), x, labels, layouts.float_list("x", d=5, label="label"), False),
        "length": Case(
            each(lambda n: labelled(n, x=floats(x[n]), n=ints(len(x[n])))), x, labels, layouts.float_list("x", length="n", label="label")
        ),
        "shape": Case(
            each(lambda n: labelled(n, x=floats(x[n]), s=ints(*x[n].shape))), x, labels, layouts.float_list("x", shape="s", label="label")
        ),
        "raw": Case(
            each(lambda n: labelled(n, x=raw(half[n]))), half, labels, layouts.raw_bytes("x", dtype="float16", d=5, label="label"), False
        ),
        "raw big": Case(
            each(lambda n: labelled(n, x=raw(x[n].astype(">f4")), n=ints(len(x[n])))),
            x,
            labels,
            layouts.raw_bytes("x", dtype="float32", byteorder="big", length="n", label="label"),
        ),
        "raw shape": Case(
            each(lambda n: labelled(n, x=raw(short[n].astype(">i2")), s=ints(*x[n].shape))),
            short,
            labels,
            layouts.raw_bytes("x", dtype="int16", byteorder="big", shape="s", label="label"),
            False,
        ),
        "tensor": Case(
            each(lambda n: labelled(n, x=raw(tf.io.serialize_tensor(half[n]).numpy()))),
            half,
            labels,
            layouts.serialized_tensor("x", label="label"),
        ),
        "ragged rows": Case(
            each(lambda n: labelled(n, **{"x/ragged_flat_values": floats(x[n]), "x/ragged_row_lengths_0": ints(*[5] * len(x[n]))})),
            x,
            labels,
            layouts.ragged_rows("x", label="label"),
            key="x/ragged_flat_values",
        ),
        "float frames": Case(
            each(lambda n: sequence_example({"label": ints(labels[n])}, {"x": [floats(row) for row in x[n]]})),
            x,
            labels,
            layouts.float_frames("x", label="label"),
        ),
        "byte frames": Case(
            each(lambda n: sequence_example({"label": ints(labels[n])}, {"x": [raw(row) for row in short[n]]})),
            short,
            labels,
            layouts.byte_frames("x", dtype="int16", d=5, label="label"),
            False,
        ),
        "list": Case(
            each(lambda n: example({"x": floats(x[n]), "n": ints(len(x[n])), "labels": ints(*lists[n])})),
            x,
            lists,
            layouts.float_list("x", length="n", label="labels", lists=("labels",)),
        ),
        "vector": Case(
            each(lambda n: example({"x": floats(x[n]), "n": ints(len(x[n])), "y": floats(np.arange(50) + n)})),
            x,
            [(np.arange(50) + n).astype("f4") for n in range(records)],
            layouts.float_list("x", length="n", label="y"),
        ),
        "audioset": Case(
            each(
                lambda n: sequence_example(
                    {
                        "video_id": raw(b"v%d" % n),
                        "labels": ints(*lists[n]),
                        "start_time_seconds": floats([n]),
                        "end_time_seconds": floats([n]),
                    },
                    {"audio_embedding": [raw(row) for row in quantised[n]]},
                )
            ),
            quantised,
            lists,
            layouts.audioset(),
            key="audio_embedding",
        ),
        "youtube8m": Case(
            each(
                lambda n: sequence_example(
                    {"id": raw(b"v%d" % n), "labels": ints(*lists[n])},
                    {"rgb": [raw(row) for row in rgb[n]], "audio": [raw(row) for row in quantised[n]]},
                )
            ),
            scaled,
            lists,
            layouts.youtube8m(),
            key="rgb",
        ),
    }


def read(source: Any, engine: str, **arguments: Any) -> tuple[dict[int, np.ndarray], dict[int, Any], dict[int, int]]:
    """Return frames, labels and lengths of labels by id, and check that the rest is padding."""
    frames: dict[int, np.ndarray] = {}
    labels: dict[int, Any] = {}
    label_lengths: dict[int, int] = {}
    arguments = {"dtype": "float32", **arguments}  # integers, too
    dataset = vlpipe.make_dataset(
        source, engine=engine, ids=True, lengths=True, length_range=(0, None), batch_size=4, padding_value=-7.5, seed=1, **arguments
    )
    for x, y in dataset:
        for row, number in enumerate(x["id"].numpy().tolist()):
            length = int(x["lengths"][row])
            values = x["features"][row].numpy()
            assert (values[length:] == -7.5).all()
            assert number not in frames
            frames[number], labels[number] = values[:length], y[row].numpy()
            if "label_lengths" in x:
                label_lengths[number] = int(x["label_lengths"][row])
    return frames, labels, label_lengths


def prepared_directory(path: Path, records: list[bytes], features: dict[str, Any], splits: dict[str, list[int]] | None = None) -> Path:
    """Write a directory like TensorFlow Datasets: shards, features.json and dataset_info.json."""
    splits = splits or {"train": [len(records)]}
    document = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    info = {
        "name": "mine",
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": name,
                "numBytes": "1",
                "shardLengths": [str(count) for count in counts],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for name, counts in splits.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "speech"}, {"featureKey": "word"}]}},
    }
    first = 0
    for name, counts in splits.items():
        for number, count in enumerate(counts):
            write(path / f"mine-{name}.tfrecord-{number:05d}-of-{len(counts):05d}", records[first : first + count])
            first += count
    (path / "features.json").write_text(json.dumps(document))
    (path / "dataset_info.json").write_text(json.dumps(info))
    return path
