"""Which published networks `mask_aware` makes exact, and why it refuses the others.

    python -m benchmarks.models [--models NAME ...] [--but NAME ...]     # writes benchmarks/MODELS.md; other rows stay

The networks are those of `benchmarks/networks`; rows of the packages classification-models-1D (with keras-applications) and keras-tcn are
made where these are installed, by pip install --no-deps. Each network gets random weights, biases and statistics. The figure is the
largest difference of a batch of sequences padded with NaN from the plain network on each sequence alone, relative to its largest output,
in float32; where that is large, the same weights are tried in float64, in which rounding errors vanish and those of padding do not.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from rich.console import Console

from benchmarks.networks import library, series, sound, speech  # noqa: F401 (they enter their networks)
from benchmarks.networks.parts import INPUTS, NETWORKS, TOKENS
from vlpipe import ArgumentError
from vlpipe.layers import check_model, mask_aware, output_lengths

LENGTHS = {"frames": (320, 200, 256), "spectrogram": (320, 200, 256), "tokens": (96, 40, 64), "waveform": (4096, 2048, 3072)}
LONGER = 8  # times as long, for the networks of the library, whose strides multiply to 1024
LIMIT, LIMIT_IN_FLOAT64 = 1e-5, 1e-10  # of the difference of an exact network
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
    """Return the largest relative difference of padded rows from the plain model on each alone, and how many were compared.

    A row of an output with frames counts as many of them as `output_lengths` says; another number than the plain model has is a
    difference without bounds. NumPy would spread an answer of one frame over all frames of a longer one, padding too.
    """
    aware = mask_aware(model, layers=replaced)
    lengths = np.array([len(row) for row in rows])
    longest = max(lengths) + 7
    x = np.stack([padded(row, longest) for row in rows])
    together = ops.convert_to_numpy(aware({"features": x, "lengths": lengths}))
    try:
        counts = output_lengths(aware, lengths)
    except ArgumentError:  # one vector a sequence
        counts = None
    worst, compared = 0.0, 0
    for number, (got, row) in enumerate(zip(together, rows, strict=True)):
        try:
            want = ops.convert_to_numpy(model(row[None]))[0]
        except Exception:  # branches of unequal lengths: the plain network has no answer for this number of frames
            continue
        worst, compared = max(worst, relative(got if counts is None else got[: counts[number]], want)), compared + 1
    return worst, compared


def padded(row, frames):
    """Return the row with frames of NaN behind it, or with token 0."""
    x = np.full((frames, *row.shape[1:]), np.nan if row.dtype.kind == "f" else 0, row.dtype)
    x[: len(row)] = row
    return x


def relative(got, want):
    """Return the largest difference relative to the largest value of `want`; infinity for another shape, and for NaN."""
    if got.shape != want.shape:
        return math.inf
    difference = float(np.abs(got - want).max() / np.abs(want).max())
    return math.inf if math.isnan(difference) else difference


@contextlib.contextmanager
def in_float64():
    """Let Keras build layers in float64. `set_floatx` alone changes no layer once a first one has been built: the policy is kept."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def outcome(name):
    """Return the verdict on a network and its detail."""
    _, takes, make = NETWORKS[name]
    lengths = [n * (LONGER if name in library.LIBRARY else 1) for n in LENGTHS[takes]]
    try:
        model = make()
        missing = max(check_model(model).shortest - min(lengths), 0)  # frames that some layer of the network would still need
        lengths = [n + missing for n in lengths]
        rows = sequences(takes, [answerable(model, n, takes) for n in lengths])
        worst, compared = difference(model, rows, library.replacements(name))
        verdict, detail = ("exact" if compared else "not run"), f"{worst:.1e}"
        if worst > LIMIT:  # a leak, or a network that amplifies rounding errors: these are a billion times smaller in float64
            verdict, detail = outcome_in_float64(name, model, rows)
            detail = f"{worst:.1e} in float32, {detail}"
    except ArgumentError as error:
        return "refused", str(error).removeprefix("mask_aware: ")
    rest = "" if compared == len(lengths) else f" (at {compared} of {len(lengths)} lengths; the plain network fails at the others)"
    return verdict, detail + rest


def outcome_in_float64(name, model, rows):
    """Return the verdict on a network with the weights of `model`, and its detail, in float64."""
    with in_float64():
        precise, rows = NETWORKS[name][2](), [row.astype("float64") if row.dtype.kind == "f" else row for row in rows]
        precise.set_weights(model.get_weights())
        worst, _ = difference(precise, rows, library.replacements(name))
        if worst <= LIMIT_IN_FLOAT64:
            return "exact", f"{worst:.1e} in float64"
        own = rounding(precise, rows)
    return "rounding" if worst <= 10 * own else "NOT EXACT", f"{worst:.1e} in float64; {own:.1e} of the plain network, without padding"


def rounding(model, rows):
    """Return how far the plain network's answer to a sequence alone is from that in a batch of three of it, which has no padding."""
    pairs = [(model(np.stack([row] * 3))[:1], model(row[None])) for row in rows]
    return max(relative(ops.convert_to_numpy(among), ops.convert_to_numpy(alone)) for among, alone in pairs)


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
{frames} frames ({LONGER} times as many for classification-models-1D, and more where the network has no answer
for these), {tokens} tokens or {samples} samples, in one batch that is padded with NaN to 7 more
than the longest, against the plain network on each sequence alone. The figure is the largest difference, relative to the largest
output; "exact" is at most {LIMIT}, or {LIMIT_IN_FLOAT64} in float64 with the same weights: some networks amplify the rounding errors of
float32, in batches without padding too. "rounding" is a network that does so in float64: the plain one differs as much from itself
in a batch of three equal sequences. The networks named by a paper are small ones of its architecture.

{len(rows)} networks: {total}.

| network | from | verdict | largest difference, or the reason |
|---|---|---|---|
"""
    FILE.write_text(text + "\n".join(rows.values()) + "\n")


if __name__ == "__main__":
    main()
