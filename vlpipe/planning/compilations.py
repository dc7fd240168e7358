"""How many shapes the batches of an epoch have, and what is logged where XLA compiles the model for each of them."""

from __future__ import annotations

import logging
import sys

from vlpipe.planning.plan import Plan

MANY_SHAPES = 16  # JAX takes about a second to compile a small model, and several for a large one
_log = logging.getLogger("vlpipe")


def log_compilations(plan: Plan) -> None:
    """Log once, before the first batch, that JAX compiles the model for many shapes.

    Nothing is counted on another backend of Keras, or where Keras is not loaded: no model can then be waiting for the batches.
    """
    if plan.options.batching == "ragged" or not _keras_runs_on_jax():
        return
    shapes = count_shapes(plan)
    if shapes > MANY_SHAPES:
        about = "about " if plan.engine == "stream" else ""
        _log.warning("%s%d shapes an epoch: JAX compiles the model for each; %s", about, shapes, _advice(plan))


def count_shapes(plan: Plan) -> int:
    """The number of different (rows, frames) of the batches of this rank in the first epoch.

    The stream engine shuffles in a buffer, so that its batches are others, of about as many shapes. Labels and features with lengths of
    their own, which make more shapes, are not counted.
    """
    options, schedule = plan.options, plan.schedule
    if options.pad_to == "boundary" or options.batching == "same_length":
        return len(plan.shapes)
    frames = plan.frames[schedule.pieces_of(0, schedule.slots_in_order(0))]
    rows = (schedule.rows_of(step, options.shard[0]) for step in range(schedule.steps))
    least = plan.frame_plan.least
    return len({(len(batch), max(least, int(frames[batch].max(initial=0)))) for batch in rows})


def _keras_runs_on_jax() -> bool:
    backend = getattr(sys.modules.get("keras"), "backend", None)
    return bool(backend is not None and hasattr(backend, "backend") and backend.backend() == "jax")


def _advice(plan: Plan) -> str:
    if plan.options.pad_to == "boundary":
        return "pass fewer buckets"
    if plan.options.batching == "same_length":
        return 'batching="bucket" with shapes="static" makes few, and pads'
    return 'pass shapes="static"'
