"""From audio files to a trained and scored model: what a new user does, in one command.

make demo                on sounds that it synthesises
make demo DATA=DIR       on a folder of one's own; label: the parent folder if there are several, else the name up to the first "_"
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
from benchmarks.synthesis import write_corpus

OUT = Path("demo-output")
SILENCE = float(np.log(vlpipe.audio.LogMel().floor))  # to pad log-mel features with 0 would be to pad them with loud noise


def build_model(d: int, classes: int, mean: np.ndarray, variance: np.ndarray) -> keras.Model:
    """A Conv1D classifier for sequences of any length: None in the time axis, and a global pooling instead of Flatten."""
    layers = keras.layers
    inputs = keras.Input((None, d))
    x = layers.Normalization(mean=mean, variance=np.maximum(variance, 1e-2))(inputs)
    x = layers.SpatialDropout1D(0.1)(x)
    for filters in (64, 96, 128):
        x = layers.Conv1D(filters, 5, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)  # 0.99 is for more steps than a small folder gives
        x = layers.Activation("relu")(x)
        x = layers.MaxPooling1D(2, padding="same")(x)
        x = layers.Dropout(0.2)(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])
    return keras.Model(inputs, layers.Dense(classes)(layers.Dropout(0.3)(x)))


def ingest(data: Path) -> None:
    """`vlpipe ingest` on a folder, into demo-output/data/train and /val."""
    files = [path for path in data.rglob("*") if path.suffix.lower() in (".wav", ".flac", ".ogg", ".oga", ".mp3")]
    if not files:
        sys.exit(f"demo: {data} holds no WAV, FLAC, Ogg or MP3 files. Pass another folder: make demo DATA=DIR")
    label = ["--label-from-parent"] if len({path.parent for path in files}) > 1 else ["--label-regex", "([^_/]+)_[^/]*$"]
    rate = vlpipe.audio.load(files[0])[1]
    command = ["ingest", str(data), str(OUT / "data"), *label, "--split", "train=0.8,val=0.2", "--overwrite"]
    command += ["--sample-rate", str(rate), "--mels", "40", "--num-shards", "4"]
    print("$ vlpipe", *command, flush=True)
    status = subprocess.run([sys.executable, "-m", "vlpipe.cli", *command]).returncode
    if status:
        sys.exit(status)


def report() -> None:
    """The plan, and what bucketing saves."""
    plan = vlpipe.plan(OUT / "data/train")
    plan.plot(OUT / "plan.png")
    padding = {way: 1 - vlpipe.plan(OUT / "data/train", batching=way).valid_ratio for way in ("bucket", "pad")}
    print(f"\n$ vlpipe plan {OUT / 'data/train'}\n{plan.report()}\n")
    print(f"padding: {padding['bucket']:.1%} of all frames bucketed, {padding['pad']:.1%} with plain padded batches")
    print(f"picture: {OUT / 'plan.png'}")


def train(epochs: int) -> float:
    """Accuracy on the held-out split after training on the other."""
    keras.utils.set_random_seed(0)
    train_set = vlpipe.make_dataset(OUT / "data/train", padding_value=SILENCE, seed=0)
    val_set = vlpipe.make_dataset(OUT / "data/val", padding_value=SILENCE, shuffle=False)
    started = time.perf_counter()
    records = sum(len(y) for _, y in train_set)
    print(f"reading: {records / (time.perf_counter() - started):,.0f} records/s\n", flush=True)
    metadata = json.loads((OUT / "data/train/vlpipe.json").read_text())
    model = build_model(train_set.element_spec[0].shape[-1], count_classes(metadata), **statistics(metadata))
    steps = epochs * len(train_set)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(train_set, epochs=epochs, shuffle=False, verbose=2)
    return float(model.evaluate(val_set, verbose=0)[1])


def count_classes(metadata: dict[str, Any]) -> int:
    """Named classes are listed in the metadata; labels that are numbers are not."""
    if "classes" in metadata["metadata"]:
        return len(metadata["metadata"]["classes"])
    return 1 + max(int(y.max()) for _, y in vlpipe.make_dataset([OUT / "data/train", OUT / "data/val"]).as_numpy_iterator())


def statistics(metadata: dict[str, Any]) -> dict[str, np.ndarray]:
    """Mean and variance of each mel band, which the writer took while writing."""
    return {name: np.array(metadata["statistics"]["features"][name], np.float32) for name in ("mean", "variance")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of recordings; without it, sounds are synthesised")
    parser.add_argument("--files", type=int, default=800, help="sounds to synthesise")
    parser.add_argument("--epochs", type=int, default=25)
    arguments = parser.parse_args()
    if arguments.data is None:
        arguments.data = OUT / "audio"
        shutil.rmtree(arguments.data, ignore_errors=True)  # of an earlier run, which may have made more files
        print(f"synthesising {arguments.files} sounds into {arguments.data}", flush=True)
        write_corpus(arguments.data, arguments.files)
    ingest(arguments.data)
    report()
    accuracy = train(arguments.epochs)
    print(f"held-out accuracy: {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
