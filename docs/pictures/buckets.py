"""The same 64 recordings in batches of 8: in any order, and by buckets. The batches are those of `vlpipe.plan`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import vlpipe
from docs.pictures.palette import Palette

TITLES = {"pad": 'batching="pad": any order', "bucket": 'batching="bucket": similar lengths together'}


def batches(batching: str) -> tuple[list[np.ndarray], float]:
    """The lengths in each batch of the first epoch, and the share of valid frames."""
    lengths = np.random.default_rng(3).lognormal(4.2, 0.6, 64).clip(12, 250).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "d"
        vlpipe.write(source, ({"x": np.zeros((t, 1), np.uint8)} for t in lengths), num_shards=1)
        plan = vlpipe.plan(source, batching=batching, batch_size=8, buckets=8 if batching == "bucket" else None, seed=1)
        epoch = [plan.frames[plan.schedule.batch(0, step).pieces] for step in range(plan.steps_per_epoch)]
    return epoch, sum(map(np.sum, epoch)) / sum(len(batch) * batch.max() for batch in epoch)


def draw(palette: Palette) -> Figure:
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, batching in zip(figure.subplots(1, 2, sharex=True, sharey=True), TITLES, strict=True):
        epoch, valid = batches(batching)
        _panel(axes, epoch, palette)
        axes.set_title(f"{TITLES[batching]}\n{valid:.0%} of the frames are valid", fontsize=12)
        axes.set_xlabel("frames")
    figure.axes[0].set_ylabel("8 batches of 8 recordings")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _panel(axes: Axes, epoch: list[np.ndarray], palette: Palette) -> None:
    for number, batch in enumerate(epoch):
        rows = number * 10 + np.arange(len(batch))
        axes.barh(rows, np.full(len(batch), batch.max()), height=0.82, color=palette.padding, label="padding" if number == 0 else None)
        axes.barh(rows, batch, height=0.82, color=palette.frame, label="recorded frames" if number == 0 else None)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
