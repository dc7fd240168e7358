"""What masks cost: a training step of each zoo model, mask-aware beside plain, on the same shapes.

    python -m benchmarks.layers [--batch 16] [--frames 400] [--width 64] [--rounds 15] [--models m5 unet] [--table]

Plain and masked steps take turns, so that a slow moment of the machine meets both; a model's figure is the median of the ratios
of neighbours. `--table` prints the README's table instead: the score of one recording in three batches. The backend is
KERAS_BACKEND's. The goal is a median of at most 1.25 over the zoo.
"""

from __future__ import annotations

import argparse
import statistics
import time

import keras
import numpy as np

from tests import zoo
from vlpipe import layers


def step_of(model, x, y):
    """A compiled training step as `fit` runs it, warmed up."""
    model.compile(optimizer=keras.optimizers.SGD(1e-4), loss="mse")

    def step():
        started = time.perf_counter()
        model.train_on_batch(x, y)
        return time.perf_counter() - started

    for _ in range(3):
        step()
    return step


def compare(name, batch, frames, width, rounds):
    """Median milliseconds of both steps, and the median of their ratio in turn."""
    draw = zoo.Draw(width=width)
    features = zoo.build(name, draw).inputs[0].shape[-1]
    frames *= 10 if features == 1 else 1  # raw waveform
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, frames, features)).astype("float32")
    lengths = rng.integers(frames // 2, frames + 1, batch).astype("int32")
    plain, aware = zoo.build(name, draw), layers.mask_aware(zoo.build(name, draw))
    y = np.zeros(tuple(plain(x).shape), "float32")
    steps = step_of(plain, x, y), step_of(aware, {"features": x, "lengths": lengths}, y)
    times = [(steps[0](), steps[1]()) if turn % 2 else tuple(step() for step in steps[::-1])[::-1] for turn in range(rounds)]
    before, after = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    return before, after, statistics.median(b / a for a, b in times)


def cost(arguments):
    print(f"keras {keras.__version__}, {keras.backend.backend()}: a training step, batch {arguments.batch}, {arguments.frames} frames,")
    print(f"{arguments.width} channels, {arguments.rounds} rounds in turn\n")
    print(f"{'model':16}{'plain, ms':>12}{'masked, ms':>12}{'ratio':>8}")
    ratios = []
    for name in arguments.models:
        before, after, ratio = compare(name, arguments.batch, arguments.frames, arguments.width, arguments.rounds)
        ratios.append(ratio)
        print(f"{name:16}{before:12.1f}{after:12.1f}{ratio:8.2f}", flush=True)
    print(f"\nmedian ratio over the zoo: {statistics.median(ratios):.2f} (goal: at most 1.25)")


def table():
    """One recording of 50 frames: alone, beside one of 64, beside one of 200."""
    rng = np.random.default_rng(0)
    print("| model | layers | alone | beside one of 64 frames | beside one of 200 frames |\n|---|---|---|---|---|")
    for name in ("speaker", "m5", "squeeze_excite"):
        model = zoo.build(name)
        recording = rng.normal(size=(50, model.inputs[0].shape[-1])).astype("float32")
        aware = layers.mask_aware(model)
        plain_scores, aware_scores = [], []
        for frames in (50, 64, 200):
            rows = [recording, rng.normal(size=(frames, recording.shape[1]))][: 1 if frames == 50 else 2]
            x = np.stack([np.pad(row, [(0, frames - len(row)), (0, 0)]) for row in rows]).astype("float32")
            plain_scores.append(model(x))
            aware_scores.append(aware({"features": x, "lengths": np.array([len(row) for row in rows], "int32")}))
        for kind, scores in (("plain Keras", plain_scores), ("`mask_aware`", aware_scores)):
            print(f"| {name} | {kind} | " + " | ".join(f"{float(keras.ops.convert_to_numpy(y)[0, 0]):.6f}" for y in scores) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=400, help="a multiple of 4, for the U-Net")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=list(zoo.ZOO), choices=list(zoo.ZOO))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        table()
    else:
        cost(arguments)


if __name__ == "__main__":
    main()
