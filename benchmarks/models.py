"""Which published networks `mask_aware` makes exact, and why it refuses the others.

    python -m benchmarks.models [--models NAME ...] [--but NAME ...]     # writes benchmarks/MODELS.md; other rows stay

The networks are those of `benchmarks/networks`; rows of the packages classification-models-1D (with keras-applications) and keras-tcn are
made where these are installed, by pip install --no-deps. Each network gets random weights, biases and statistics. The figure is the
largest difference of a batch of padded sequences from the plain network on each sequence alone, relative to its largest output (float32).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from rich.console import Console

from benchmarks.networks import library, series, sound, speech  # noqa: F401 (they enter their networks)
from benchmarks.networks.parts import INPUTS, NETWORKS, TOKENS
from vlpipe import ArgumentError
from vlpipe.layers import mask_aware

LENGTHS = {"frames": (320, 200, 256), "spectrogram": (320, 200, 256), "tokens": (96, 40, 64), "waveform": (4096, 2048, 3072)}
LONGER = 8  # times as long, for the networks of the library, whose strides multiply to 1024
FILE = Path(__file__).parent / "MODELS.md"


def sequences(takes, lengths):
    rng = np.random.default_rng(0)
    if takes == "tokens":
        return [rng.integers(1, TOKENS, n).astype("int32") for n in lengths]
    return [rng.normal(size=(n, *INPUTS[takes])).astype("float32") for n in lengths]


def answerable(model, length, takes):
    """Return the next length that the plain network has an answer for: branches may have equal lengths for some lengths only."""
    for n in range(length, length + 64):
        try:
            model.compute_output_shape((1, n, *INPUTS[takes]))
        except Exception:
            continue
        return n
    return length


def difference(model, rows, replaced):
    """Return the largest relative difference of padded rows from the plain model on each alone, and how many were compared."""
    aware = mask_aware(model, layers=replaced)
    longest = max(map(len, rows)) + 7
    x = np.stack([np.pad(row, [(0, longest - len(row)), *[(0, 0)] * (row.ndim - 1)]) for row in rows])
    together = ops.convert_to_numpy(aware({"features": x, "lengths": np.array([len(row) for row in rows])}))
    worst, compared = 0.0, 0
    for got, row in zip(together, rows, strict=True):
        try:
            want = ops.convert_to_numpy(model(row[None]))[0]
        except Exception:  # branches of unequal lengths: the plain network has no answer for this number of frames
            continue
        got = got[: len(want)] if got.shape != want.shape else got
        worst, compared = max(worst, float(np.abs(got - want).max() / np.abs(want).max())), compared + 1
    return worst, compared


def outcome(name):
    """Return the verdict on a network and its detail."""
    _, takes, make = NETWORKS[name]
    detail = ""
    lengths = [n * (LONGER if name in library.LIBRARY else 1) for n in LENGTHS[takes]]
    try:
        model = make()
        rows = sequences(takes, [answerable(model, n, takes) for n in lengths])
        worst, compared = difference(model, rows, library.replacements(name))
        if worst > 1e-5:  # a leak, or a network that amplifies rounding errors: these are a billion times smaller in float64
            keras.config.set_floatx("float64")
            precise, _ = difference(make(), [row.astype("float64") for row in rows], library.replacements(name))
            detail, worst = f"{worst:.1e} in float32, {precise:.1e} in float64", precise
    except ArgumentError as error:
        return "refused", str(error).removeprefix("mask_aware: ")
    finally:
        keras.config.set_floatx("float32")
    rest = "" if compared == len(lengths) else f" (at {compared} of {len(lengths)} lengths; the plain network fails at the others)"
    return ("not run" if not compared else "exact" if worst <= 1e-5 else "NOT EXACT"), f"{detail or f'{worst:.1e}'}{rest}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(NETWORKS), metavar="NAME")
    parser.add_argument("--but", nargs="+", choices=list(NETWORKS), metavar="NAME", default=[])
    arguments = parser.parse_args()
    rows = dict(read())
    for name in arguments.models or NETWORKS:
        if name in arguments.but:
            continue
        started = time.perf_counter()
        verdict, detail = outcome(name)
        rows[name] = f"| {name} | {NETWORKS[name][0]} | {verdict} | {detail} |"
        Console(width=200).print(rows[name], f"{time.perf_counter() - started:.0f} s", markup=False)
        keras.backend.clear_session()
        write({name: rows[name] for name in [*NETWORKS, *rows] if name in rows})


def read():
    """Yield the rows of the last run, by name."""
    for line in FILE.read_text().splitlines() if FILE.exists() else []:
        name, *rest = line.strip("| ").split(" | ")
        if len(rest) == 3 and name != "network":
            yield name, line


def write(rows):
    verdicts = [row.split(" | ")[2] for row in rows.values()]
    total = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
    frames, tokens, samples = (", ".join(map(str, LENGTHS[takes])) for takes in ("frames", "tokens", "waveform"))
    text = f"""# Published networks under `mask_aware`

Made by `python -m benchmarks.models` (Keras {keras.__version__}, {keras.backend.backend()}): random weights; sequences of about
{frames} frames ({LONGER} times as many for classification-models-1D), {tokens} tokens or {samples} samples, which
the plain network can answer, in one batch with 7 more, against the plain network on each sequence alone. The figure is the largest
difference, relative to the largest output; "exact" is at most 1e-5. The networks named by a paper are small ones of its architecture.

{len(rows)} networks: {total}.

| network | from | verdict | largest difference, or the reason |
|---|---|---|---|
"""
    FILE.write_text(text + "\n".join(rows.values()) + "\n")


if __name__ == "__main__":
    main()
