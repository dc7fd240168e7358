"""What masks cost, and what they change.

    python -m benchmarks.layers [--batch 16] [--frames 400] [--width 64] [--rounds 15] [--models m5 unet] [--json PATH]

Cost: a training step of each model of the zoo, mask-aware and plain, on the same shapes. Plain and masked steps alternate, so that a slow
moment of the machine affects both; a model's figure is the median of the ratios of adjacent steps. The goal is a median of at most 1.25
over the zoo. Effect: the score of one recording in three batches. KERAS_BACKEND selects the backend.
"""

from __future__ import annotations

import statistics
import time

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import results
from tests.layers import zoo
from vlpipe import layers


def step_of(model, x, y):
    """Return a compiled training step as `fit` runs it, after a warm-up."""
    model.compile(optimizer=keras.optimizers.SGD(1e-4), loss="mse")

    def step():
        started = time.perf_counter()
        model.train_on_batch(x, y)
        return time.perf_counter() - started

    for _ in range(3):
        step()
    return step


def compare(name, batch, frames, width, rounds):
    """Measure a model: milliseconds of both steps in each round, their medians, and the median of their ratio."""
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
    plain_ms, masked_ms = ([1000 * seconds for seconds in column] for column in zip(*times, strict=True))
    return {
        "plain_ms": statistics.median(plain_ms),
        "masked_ms": statistics.median(masked_ms),
        "ratio": statistics.median(after / before for before, after in times),
        "rounds_ms": {"plain": plain_ms, "masked": masked_ms},
    }


def scores_of(name):
    """Scores of one recording of 50 frames: alone, next to one of 64 frames, next to one of 200."""
    rng = np.random.default_rng(0)
    model = zoo.build(name)
    recording = rng.normal(size=(50, model.inputs[0].shape[-1])).astype("float32")
    aware = layers.mask_aware(model)
    scores = {"plain": [], "mask_aware": []}
    for frames in (50, 64, 200):
        rows = [recording, rng.normal(size=(frames, recording.shape[1]))][: 1 if frames == 50 else 2]
        x = np.stack([np.pad(row, [(0, frames - len(row)), (0, 0)]) for row in rows]).astype("float32")
        outputs = model(x), aware({"features": x, "lengths": np.array([len(row) for row in rows], "int32")})
        for kind, output in zip(scores, outputs, strict=True):
            scores[kind].append(float(keras.ops.convert_to_numpy(output)[0, 0]))
    return scores


def make_table(figures, arguments):
    """Return the cost of each model's steps as a table."""
    sizes = f"batch {arguments.batch}, {arguments.frames} frames, {arguments.width} channels"
    table = Table(title=f"Keras {keras.__version__}, {keras.backend.backend()}: a training step, {sizes}")
    for heading in ("model", "plain, ms", "masked, ms", "ratio"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, model in figures["models"].items():
        table.add_row(name, f"{model['plain_ms']:.1f}", f"{model['masked_ms']:.1f}", f"{model['ratio']:.2f}")
    table.add_section()
    table.add_row("median of the ratios", "", "", f"{figures['median_ratio']:.2f}")
    return table


def main():
    parser = results.parser(__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=400, help="a multiple of 4, for the U-Net")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=list(zoo.ZOO), choices=list(zoo.ZOO))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batch, arguments.frames, arguments.width, arguments.rounds, arguments.models = 2, 40, 4, 2, ["m5"]
    sizes = arguments.batch, arguments.frames, arguments.width, arguments.rounds
    models = {name: compare(name, *sizes) for name in arguments.models}
    figures = {
        "backend": keras.backend.backend(),
        "models": models,
        "median_ratio": statistics.median(model["ratio"] for model in models.values()),
        "scores": {name: scores_of(name) for name in ("speaker", "m5", "squeeze_excite")},
    }
    Console(width=100).print(make_table(figures, arguments))
    results.save("layers", arguments, figures)


if __name__ == "__main__":
    main()
