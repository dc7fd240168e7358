"""From audio files to a trained and evaluated model, in one command.

make demo                with synthesised sounds
make demo DATA=DIR       with your own recordings; label: the parent folder if there are several, else the file name up to the first "_"
make demo ON_THE_FLY=1   stores the waveforms instead of features, which are computed in every epoch, from waveforms with noise
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import vlpipe
from benchmarks.synthesis import write_corpus, write_noise

OUT = Path("demo-output")
SILENCE = float(np.log(vlpipe.audio.LogMel().floor))  # padding log-mel features with 0 would pad them with loud noise


def build_model(d: int, classes: int, mean: np.ndarray, variance: np.ndarray) -> keras.Model:
    """A Conv1D classifier for sequences of any length: the time axis is None, and global pooling replaces Flatten."""
    layers = keras.layers
    inputs = keras.Input((None, d))
    x = layers.Normalization(mean=mean, variance=np.maximum(variance, 1e-2))(inputs)
    x = layers.SpatialDropout1D(0.1)(x)
    for filters in (64, 96, 128):
        x = layers.Conv1D(filters, 5, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)  # 0.99 needs more steps than a small folder has
        x = layers.Activation("relu")(x)
        x = layers.MaxPooling1D(2, padding="same")(x)
        x = layers.Dropout(0.2)(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])
    return keras.Model(inputs, layers.Dense(classes)(layers.Dropout(0.3)(x)))


def ingest(data: Path, on_the_fly: bool) -> dict[str, Any]:
    """Run `vlpipe ingest` on a folder, into demo-output/data/train and /val; return what `make_dataset` then needs."""
    files = [path for path in data.rglob("*") if path.suffix.lower() in (".wav", ".flac", ".ogg", ".oga", ".mp3")]
    if not files:
        sys.exit(f"demo: {data} holds no WAV, FLAC, Ogg or MP3 files. Pass another folder: make demo DATA=DIR")
    label = ["--label-from-parent"] if len({path.parent for path in files}) > 1 else ["--label-regex", "([^_/]+)_[^/]*$"]
    rate = vlpipe.audio.load(files[0])[1]
    command = ["ingest", str(data), str(OUT / "data"), *label, "--split", "train=0.8,val=0.2", "--overwrite"]
    command += ["--sample-rate", str(rate), *(["--raw"] if on_the_fly else ["--mels", "40"]), "--num-shards", "4"]
    print("$ vlpipe", *command, flush=True)
    status = subprocess.run([sys.executable, "-m", "vlpipe.cli", *command]).returncode
    if status:
        sys.exit(status)
    if on_the_fly:
        write_noise(OUT / "noise", rate)
    return {"transform": vlpipe.audio.LogMel(sample_rate=rate, mels=40)} if on_the_fly else {}


def report(features: dict[str, Any]) -> None:
    """Print the plan, and how much padding bucketing saves."""
    plan = vlpipe.plan(OUT / "data/train", **features)
    plan.plot(OUT / "plan.png")
    padding = {batching: 1 - vlpipe.plan(OUT / "data/train", batching=batching, **features).valid_ratio for batching in ("bucket", "pad")}
    print(f"\n$ vlpipe plan {OUT / 'data/train'}\n{plan.report()}\n")
    print(f"padding: {padding['bucket']:.1%} of all frames with buckets, {padding['pad']:.1%} with plain padded batches")
    print(f"picture: {OUT / 'plan.png'}")


def train(epochs: int, features: dict[str, Any]) -> float:
    """Train on one split; return the accuracy on the held-out split."""
    keras.utils.set_random_seed(0)
    augment = None
    if features:
        noise = vlpipe.AddNoise(OUT / "noise", snr_db=(10, 30), probability=0.5)
        augment = [noise, vlpipe.SpecAugment(time_width=10, frequency_width=4)]
    train_set = vlpipe.make_dataset(OUT / "data/train", padding_value=SILENCE, seed=0, augment=augment, **features)
    val_set = vlpipe.make_dataset(OUT / "data/val", padding_value=SILENCE, shuffle=False, **features)
    started = time.perf_counter()
    records = sum(len(y) for _, y in train_set)
    print(f"reading: {records / (time.perf_counter() - started):,.0f} records/s\n", flush=True)
    metadata = json.loads((OUT / "data/train/vlpipe.json").read_text())
    model = build_model(train_set.element_spec[0].shape[-1], count_classes(metadata), **statistics(metadata, features))
    steps = epochs * len(train_set)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(train_set, epochs=epochs, shuffle=False, verbose=2)
    return float(model.evaluate(val_set, verbose=0)[1])


def count_classes(metadata: dict[str, Any]) -> int:
    """The number of classes: from the metadata, which list named classes, or from the largest label."""
    if "classes" in metadata["metadata"]:
        return len(metadata["metadata"]["classes"])
    return 1 + max(int(y.max()) for _, y in vlpipe.make_dataset([OUT / "data/train", OUT / "data/val"]).as_numpy_iterator())


def statistics(metadata: dict[str, Any], features: dict[str, Any]) -> dict[str, np.ndarray]:
    """Mean and variance of each mel band: the writer computed them, or they are computed of the features of all waveforms."""
    if features:
        ragged = vlpipe.make_dataset(OUT / "data/train", batching="ragged", label=False, shuffle=False, **features)
        frames = np.concatenate([x.values for (x,) in ragged])
        return {"mean": frames.mean(axis=0), "variance": frames.var(axis=0)}
    return {name: np.array(metadata["statistics"]["features"][name], np.float32) for name in ("mean", "variance")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of recordings; default: synthesise sounds")
    parser.add_argument("--files", type=int, default=800, help="number of sounds to synthesise")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--on-the-fly", action="store_true", help="store waveforms; add noise, compute and mask features in every epoch")
    arguments = parser.parse_args()
    if arguments.data is None:
        arguments.data = OUT / "audio"
        shutil.rmtree(arguments.data, ignore_errors=True)  # an earlier run may have made more files
        print(f"synthesising {arguments.files} sounds into {arguments.data}", flush=True)
        write_corpus(arguments.data, arguments.files)
    features = ingest(arguments.data, arguments.on_the_fly)
    report(features)
    accuracy = train(arguments.epochs, features)
    print(f"held-out accuracy: {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
