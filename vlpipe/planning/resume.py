"""The place in an endless run from which it continues: a few scalars that any machine can continue from."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError
from vlpipe.planning.argument_checks import NORMALIZE
from vlpipe.planning.frame_plan import FramePlan
from vlpipe.planning.options import Options
from vlpipe.planning.schedule import ORDER
from vlpipe.transforms.augmentations import identity_of

FORMAT = "vlpipe-state"
VERSION = 1
ENDLESS = 1 << 62  # batches of an endless run: the engines number them with int64
MAX_EPOCH = 1 << 40  # no run has more; the arithmetic of mixes is tested up to here
# Entries of an identity that are left out where they are None, so that states stay those of earlier versions.
_OPTIONAL = ("aligned", "windows", "rates", "check_finite")

Identity = dict[str, Any]


def run_identity(
    frame_plan: FramePlan, *, is_cut: bool, boundaries: tuple[int, ...], frames: np.ndarray, rates: str | None = None
) -> Identity:
    """Everything that the order of the batches and the frames in them depend on, as JSON scalars.

    Args:
        is_cut: whether `crop` or `length_range` leaves out frames of a record.
        boundaries: inclusive upper lengths of the buckets.
        frames: int64 `[n]`, lengths of the delivered records.
        rates: what identifies how often each record of a mix comes; None for other sources.
    """
    options, selection, index = frame_plan.options, frame_plan.selection, frame_plan.index
    key = selection.key
    # The sequences of which other frames are delivered because they go with the key feature.
    aligned = selection.aligned if is_cut or options.windows or len(frame_plan.traced) > 1 else ()
    return {
        "order": ORDER,
        "data": index.fingerprint,
        "records": len(index),
        "key": key,
        "batching": options.batching,
        "batch_size": options.batch_cap,
        "frames_per_batch": options.frames_per_batch,
        "boundaries": ",".join(map(str, boundaries)) if options.batching == "bucket" else None,
        "remainder": options.remainder,
        "shortest": options.length_range[0],
        "longest": options.length_range[1],
        "out_of_range": options.out_of_range,
        "shuffle": bool(options.shuffle),
        "seed": options.seed if options.is_random else None,
        "world": options.shard[1],
        "crop": options.crop and repr(options.crop),
        "transform": options.transform and _transform(frame_plan, key, frames),
        "normalize": _normalize(options, frame_plan),
        "augment": identity_of(options.augment, options.batch_cap, options.shard[1]),
        # Only where they are used: states that were saved before there were such arguments have none of these.
        **({"aligned": ",".join(aligned)} if aligned else {}),
        **({} if options.multiple_of == 1 else {"multiple_of": options.multiple_of}),
        **({"windows": repr(options.windows)} if options.windows else {}),
        **({"check_finite": "zero"} if options.check_finite == "zero" else {}),
        **({"rates": rates} if rates is not None else {}),
    }


def _transform(frame_plan: FramePlan, key: str, frames: np.ndarray) -> str:
    """What can be known of a transform: the settings of an audio feature, the shape of its frames, and a digest of the lengths it makes."""
    shape = ", ".join(["T", *map(str, frame_plan.dimensions)])
    waveform = frame_plan.waveform(key)
    settings = "" if waveform is None else f"{waveform.identity} "
    return f"{settings}[{shape}] of lengths crc32c:{google_crc32c.value(frames.astype('<i8').tobytes()):08x}"


def _normalize(options: Options, frame_plan: FramePlan) -> str | None:
    """The method; for statistics read from a path, their digest: what they are decides what is delivered, not where they are."""
    if options.normalize is None or options.normalize in NORMALIZE:
        return options.normalize
    crc = 0
    for name, moments in frame_plan.moments.items():
        for part in (name.encode(), moments.mean.astype("<f8").tobytes(), moments.variance.astype("<f8").tobytes()):
            crc = google_crc32c.extend(crc, part)
    return f"statistics crc32c:{crc:08x}"


def last_epoch(steps_per_epoch: int) -> int:
    """The last epoch that a run can be set to: the engines can number all of its batches."""
    return min(MAX_EPOCH, ENDLESS // max(steps_per_epoch, 1) - 1)


def make_state(identity: Identity, steps_per_epoch: int, epoch: int, batch: int) -> dict[str, Any]:
    """The state of a run after `epoch` epochs and `batch` batches of the next.

    Raises:
        ArgumentError: the run has no such epoch or batch.
    """
    epoch, batch = integer("epoch", epoch, 0, last_epoch(steps_per_epoch)), integer("batch", batch, 0)
    if batch > steps_per_epoch or not steps_per_epoch:
        raise ArgumentError(f"batch: came as {batch}, expected at most {steps_per_epoch}, the batches of an epoch.")
    if batch == steps_per_epoch:
        epoch, batch = integer("epoch", epoch + 1, 0, last_epoch(steps_per_epoch)), 0
    return {"format": FORMAT, "version": VERSION, "epoch": epoch, "batch": batch, **identity}


_SIZES = ("batch_size", "world")
_FIRST = ("remainder", *_SIZES)  # of the differences: several ranks need another remainder than the default
_LAST = ("boundaries",)  # where they follow from other arguments, those are what to change


def _is_same_global_batch(identity: Identity, state: dict[str, Any]) -> bool:
    """Whether all ranks of a run together make the batches of the run of a saved state: they depend on batch_size * world alone.

    Not with a budget of frames, which limits the batch of each rank.
    """
    rows = []
    for run in (identity, state):
        batch_size, world, multiple = run.get("batch_size"), run.get("world"), run.get("multiple_of") or 1
        if not (isinstance(batch_size, int) and isinstance(world, int) and isinstance(multiple, int)):
            return False
        rows.append(max(batch_size // multiple, 1) * multiple * world)  # as `Options.batch_size_for` rounds it
    return identity["frames_per_batch"] is None and rows[0] == rows[1]


def check_state(identity: Identity, steps_per_epoch: int, state: Any) -> tuple[int, int]:
    """The (epoch, batch) of a state that belongs to the run with this identity, which may have another number of ranks.

    Raises:
        ArgumentError: it is not a state, or belongs to other data or arguments; the message lists the differences.
    """
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ArgumentError(f"resume: came as {state!r:.200}, expected what vlpipe.plan(...).state(epoch, batch) returned.")
    if state.get("version") != VERSION:
        raise ArgumentError(
            f"resume: the state has version {state.get('version')!r}, this vlpipe reads version {VERSION}. "
            "Resume with the vlpipe version that saved it."
        )
    different = [
        name
        for name, value in {**dict.fromkeys(_OPTIONAL), **identity}.items()
        if type(state.get(name)) is not type(value) or state.get(name) != value
    ]
    if _is_same_global_batch(identity, state):
        different = [name for name in different if name not in _SIZES]
    if different:
        different.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST) + (name in _LAST))
        differences = "; ".join(f"{name} is {state.get(name)!r} in the state, {identity.get(name)!r} here" for name in different)
        raise ArgumentError(
            f"resume: the state belongs to another run: {differences}. Pass the data and arguments that it was saved with (without "
            "frames_per_batch, any batch_size and world, the number of ranks, of the same product)."
        )
    last = {"epoch": last_epoch(steps_per_epoch), "batch": ENDLESS - 1}
    epoch, batch = (integer(f"resume[{name!r}]", state.get(name), 0, last[name]) for name in last)
    if batch >= steps_per_epoch:
        raise ArgumentError(f"resume['batch']: came as {batch}, expected less than {steps_per_epoch}, the batches of an epoch.")
    return epoch, batch
