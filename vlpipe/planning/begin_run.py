"""What is done once before the first batch of a run: a seed is drawn, what is not delivered is logged, and a state is looked up."""

from __future__ import annotations

import dataclasses
import logging
import secrets

from vlpipe.errors import ArgumentError
from vlpipe.planning.damage import Skip, Skipped, name_of_run, skipped_in
from vlpipe.planning.options import Options
from vlpipe.planning.plan import Plan
from vlpipe.planning.resume import check_state

_log = logging.getLogger("vlpipe")


def begin_run(plan: Plan) -> tuple[tuple[int, int], Skipped | None]:
    """Where a run starts, as (epoch, batch), and what counts the damaged records that it leaves out; None: they are errors.

    Raises:
        ArgumentError: with repeat=True, no batch would ever come, or the state to resume belongs to another run.
    """
    _check_not_empty(plan)
    _log_aligned(plan)
    _log_refused(plan)
    _log_left_out(plan)
    resume = plan.options.resume
    start = (0, 0) if resume is None else check_state(plan.identity, plan.steps_per_epoch, resume)
    return start, _skipped(plan)


def _skipped(plan: Plan) -> Skipped | None:
    """What counts the damaged records that are left out, from those on that a resumed run had met; None: they are errors."""
    if not isinstance(plan.options.on_damage, Skip):
        return None
    run = name_of_run(plan.identity, plan.index, plan.options.shard)
    return Skipped(plan.index, plan.options.on_damage.most, run, skipped_in(plan.options.resume))


def with_seed(options: Options) -> Options:
    """The options with a seed: where something is random and the user passed none, one is drawn and logged."""
    if options.seed is not None or not options.is_random:
        return options
    seed = secrets.randbits(31)
    _log.info("seed=%d was drawn; pass it to get the same orders again", seed)
    return dataclasses.replace(options, seed=seed)


def _check_not_empty(plan: Plan) -> None:
    """Refuse an endless run of empty epochs, which would neither deliver a batch nor end."""
    if plan.options.repeat and not plan.steps_per_epoch:
        raise ArgumentError(
            f"repeat=True: an epoch has no batch: of {plan.total} {plan.unit}, these are not delivered: {plan.refused}. Use a smaller "
            'batch_size, remainder="keep" or another length_range.'
        )


def _log_aligned(plan: Plan) -> None:
    """Log once, before the first batch, which sequences are taken to be aligned by their lengths."""
    selection = plan.selection
    if selection.aligned and plan.options.aligned is None:
        names, ends = ", ".join(selection.aligned), "go" if len(selection.aligned) > 1 else "goes"
        _log.info('aligned=None: %s %s frame by frame with "%s", as long in every record; aligned=False if not', names, ends, selection.key)


def _log_refused(plan: Plan) -> None:
    """Log once, before the first batch, which records are not delivered or are truncated."""
    if plan.refused:
        reasons = ", ".join(f"{count} {reason}" for reason, count in plan.refused.items())
        _log.warning("%d of %d %s are not delivered in an epoch: %s", sum(plan.refused.values()), plan.total, plan.unit, reasons)
    if plan.truncated:
        _log.warning("%d of %d records are truncated to %s frames", plan.truncated, len(plan.index), plan.options.length_range[1])


def _log_left_out(plan: Plan) -> None:
    """Log once which keys of third-party records cannot be delivered."""
    left_out = {} if plan.index.foreign is None else plan.index.foreign.left_out
    if left_out:
        keys = "; ".join(f"{key!r}: {reason}" for key, reason in left_out.items())
        _log.warning("%s: these keys cannot be delivered: %s", plan.index.shards[0].path, keys)
