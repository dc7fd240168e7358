"""The place in an endless run from which it goes on: a few scalars that any machine can continue from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c

from vlpipe.errors import ArgumentError
from vlpipe.planning.options import NORMALIZE, integer
from vlpipe.planning.schedule import ORDER

if TYPE_CHECKING:
    from vlpipe.planning.make_plan import Plan

FORMAT = "vlpipe-state"
VERSION = 1


def make_state(plan: Plan, epoch: int, batch: int) -> dict[str, Any]:
    """`Plan.state`.

    Raises:
        ArgumentError: see there.
    """
    if plan.engine == "stream":
        raise ArgumentError(
            f'state({epoch}, {batch}): the stream engine has no order to enter in the middle. Use engine="mapped" or "graph".'
        )
    if plan.options.is_random and plan.options.seed is None:
        raise ArgumentError(
            f"state({epoch}, {batch}): seed=None draws another order in every process. Pass seed=... here and to make_dataset."
        )
    epoch = integer("epoch", epoch, 0, 2**62 - 1)
    batch = integer("batch", batch, 0)
    if batch > plan.steps_per_epoch or not plan.steps_per_epoch:
        raise ArgumentError(f"batch: came as {batch}, expected at most {plan.steps_per_epoch}, the batches of an epoch.")
    if batch == plan.steps_per_epoch:
        epoch, batch = epoch + 1, 0
    return {"format": FORMAT, "version": VERSION, "epoch": epoch, "batch": batch, **_identity(plan)}


def check_state(plan: Plan, state: Any) -> tuple[int, int]:
    """The (epoch, batch) of a state that belongs to this plan.

    Raises:
        ArgumentError: it is no state, or belongs to other data or arguments; the message says where they differ.
    """
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ArgumentError(f"resume: came as {state!r:.200}, expected what vlpipe.plan(...).state(epoch, batch) returned.")
    if state.get("version") != VERSION:
        raise ArgumentError(
            f"resume: the state has version {state.get('version')!r}, this vlpipe knows version {VERSION}. "
            "Resume with the vlpipe that made it."
        )
    mine = _identity(plan)
    differences = [
        f"{name} is {state.get(name)!r} in the state, {value!r} here"
        for name, value in mine.items()
        if type(state.get(name)) is not type(value) or state.get(name) != value
    ]
    if differences:
        raise ArgumentError(
            f"resume: the state belongs to another run: {'; '.join(differences)}. Pass the data and arguments that it was made with."
        )
    epoch, batch = (integer(f"resume[{name!r}]", state.get(name), 0, 2**62 - 1) for name in ("epoch", "batch"))
    if batch >= plan.steps_per_epoch:
        raise ArgumentError(f"resume['batch']: came as {batch}, expected less than {plan.steps_per_epoch}, the batches of an epoch.")
    return epoch, batch


def _identity(plan: Plan) -> dict[str, Any]:
    """Everything that the order of the batches, and what becomes of their frames, depends on, as JSON scalars."""
    options = plan.options
    return {
        "order": ORDER,
        "data": plan.index.fingerprint,
        "records": plan.total,
        "key": plan.selection.key,
        "batching": options.batching,
        "batch_size": options.batch_cap,
        "frames_per_batch": options.frames_per_batch,
        "boundaries": ",".join(map(str, plan.boundaries)) if options.batching == "bucket" else None,
        "remainder": options.remainder,
        "shortest": options.length_range[0],
        "longest": options.length_range[1],
        "out_of_range": options.out_of_range,
        "shuffle": bool(options.shuffle),
        "seed": options.seed if options.is_random else None,
        "world": options.shard[1],
        "crop": options.crop and repr(options.crop),
        "transform": _transform(plan),
        "normalize": _normalize(plan),
        "augment": options.augment and repr(options.augment),
    }


def _transform(plan: Plan) -> str | None:
    """What can be known of a transform: the shape of its frames, and a digest of all lengths that it makes."""
    if plan.options.transform is None:
        return None
    shape = ", ".join(["T", *map(str, plan.changes.dimensions)])
    return f"[{shape}] of lengths crc32c:{google_crc32c.value(plan.frames.astype('<i8').tobytes()):08x}"


def _normalize(plan: Plan) -> str | None:
    """The way, or of statistics at a path a digest: they decide what is delivered, not where they are."""
    normalize = plan.options.normalize
    if normalize is None or normalize in NORMALIZE:
        return normalize
    crc = 0
    for name, of in plan.changes.moments.items():
        for part in (name.encode(), of.mean.astype("<f8").tobytes(), of.variance.astype("<f8").tobytes()):
            crc = google_crc32c.extend(crc, part)
    return f"statistics crc32c:{crc:08x}"
